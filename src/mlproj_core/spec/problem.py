"""Problems: what is wrong in a project's file, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlproj_core.errors import InvalidProject

__all__ = ["Problem", "Snippet", "closest", "invalid", "shown"]

LONGEST_SHOWN = 80
"""Characters of a value that a message repeats."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file. As text: `file:line:column: what is wrong — how to mend it`.

    Attributes:
        message: what is wrong.
        remedy: how to mend it; may be empty.
        file: the file, as the caller named its directory.
        line: from 1; None when the whole file is meant.
        column: from 1; None when the whole line or file is meant.
        severity: "error": the project, or one entry point of it, cannot run; "warning": it runs, perhaps not as meant.
    """

    message: str
    remedy: str = ""
    file: str = ""
    line: int | None = None
    column: int | None = None
    severity: str = "error"

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        what = f"{self.message} — {self.remedy}" if self.remedy else self.message
        return f"{where}: {what}" if where else what

    def to_dict(self) -> dict[str, Any]:
        """This problem as a JSON value."""
        return {
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class Snippet:
    """A value as it is written in its file, so that a part of it can be pointed at.

    Attributes:
        text: the source text of the value.
        file: the file.
        line: the line of its first character, from 1.
        column: the column of its first character, from 1.
    """

    text: str
    file: str
    line: int
    column: int

    def locate(self, part: str, occurrence: int = 0) -> tuple[int, int]:
        """Line and column of an occurrence (from 0) of a part; the value's own if it is written otherwise."""
        at = self.text.find(part)
        for _ in range(occurrence):
            at = self.text.find(part, at + 1) if at >= 0 else at
        if at < 0:
            return self.line, self.column
        before = self.text[:at]
        newlines = before.count("\n")
        if not newlines:
            return self.line, self.column + at
        return self.line + newlines, at - before.rfind("\n")


def invalid(what: str, problems: Sequence[Problem]) -> InvalidProject:
    """The error that lists problems, one on each line under a headline."""
    texts = [str(problem) for problem in problems]
    if len(texts) == 1:
        return InvalidProject(f"{what}: {texts[0]}", texts)
    return InvalidProject("\n".join([f"{what}, {len(texts)} problems:", *(f"  {text}" for text in texts)]), texts)


def closest(word: str, words: Iterable[str]) -> str | None:
    """The word that was probably meant, or None."""
    from difflib import get_close_matches

    lowered = {other.lower().replace("-", "_"): other for other in words}
    match = get_close_matches(word.lower().replace("-", "_"), lowered, n=1, cutoff=0.7)
    return lowered[match[0]] if match else None


def shown(value: object) -> str:
    """A value as a message repeats it: quoted, not too long, without user and password of a URL."""
    text = repr(value)
    if "://" in text:
        import re

        text = re.sub(r"(?<=://)[^/\s]*@", "***@", text)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
