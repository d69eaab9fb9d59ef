from pathlib import Path

import click

from scaling import scaled


@click.command()
@click.option("--scale", type=float)
def main(scale):
    Path("scaled.txt").write_text(str(scaled([1, 2, 3], scale)))
