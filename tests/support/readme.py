"""The code blocks of the README."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(?P<kind>console|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """The kind, `console` or `python`, and the text of each."""
    return [(found["kind"], found["text"]) for found in _BLOCK.finditer((ROOT / "README.md").read_text())]
