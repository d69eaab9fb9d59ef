import argparse
from pathlib import Path

from slugify import slugify

parser = argparse.ArgumentParser(description="Greet somebody")
parser.add_argument("--name", required=True)
Path("greeting.txt").write_text(slugify(f"Hello {parser.parse_args().name}!"))
