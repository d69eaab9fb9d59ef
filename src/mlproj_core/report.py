"""Telling people what happens, one line at a time."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Report", "log"]

Report = Callable[[str], None]
"""Is given one line of text for each thing worth telling; a warning begins with the word "warning"."""


def log(line: str) -> None:
    """Report to the logger `mlproj`: what a program that has not chosen otherwise expects of a library."""
    import logging

    level = logging.WARNING if line.startswith("warning") else logging.INFO
    logging.getLogger("mlproj").log(level, "%s", line)
