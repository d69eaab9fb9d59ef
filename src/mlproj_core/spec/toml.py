"""TOML as Python's own parser reads it, with the line of what is wrong."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import Any

from mlproj_core.spec.document import UnreadableDocument
from mlproj_core.spec.problem import Problem

__all__ = ["line_of", "parse_toml"]

_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse_toml(text: str, file: str, above: int = 0, left: int = 0) -> dict[str, Any]:
    """The tables of a TOML document.

    Args:
        text: the document.
        file: the file that holds it, as messages name it.
        above: lines of the file above the document.
        left: columns of the file to its left.

    Raises:
        UnreadableDocument: it is no TOML.
    """
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return dict(toml.loads(text))
    except toml.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        line = column = None
        if place is not None:
            message = message[: place.start()]
            line = int(place[1]) if place[1] else len(text.splitlines())
            column = int(place[2]) + left if place[2] else None
        problem = Problem(f"this is no TOML: {message[:1].lower()}{message[1:]}", "see https://toml.io", file,
                          line + above if line is not None else above or None, column)  # fmt: skip
        raise UnreadableDocument(problem) from None


def line_of(text: str, key: str, above: int = 0) -> int | None:
    """The line of a key or of a table's header, from 1; None where it is not written plainly."""
    match = re.search(rf"^[ \t]*(?:\[\s*{re.escape(key)}\s*\]|[\"']?{re.escape(key)}[\"']?\s*=)", text, re.MULTILINE)
    return text.count("\n", 0, match.start()) + 1 + above if match else None
