"""What a task has printed, and what of that is the launcher's word: its last line, `{"mlproj": {…}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["TAIL_LINES", "last_lines", "plain", "printed", "word"]

TAIL_LINES = 20
"""Lines of output in the reason of a failure."""

_WORD = '{"mlproj": {'
"""How the launcher's word begins. It is ASCII, on a line of its own."""

_AFTER = 200
"""Lines that Databricks may print after it: the trace of the exception by which a task fails."""

_COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def word(logs: str) -> dict[str, Any] | None:
    """The launcher's word: `exit` (a code), and `error` or `result`; None if it has said nothing.

    A project may print what looks like it: what is printed last counts, and that is after the project's end.
    """
    for line in reversed(logs.splitlines()[-_AFTER:]):
        found = _read(line)
        if found is not None:
            return found
    return None


def printed(logs: str) -> str:
    """What was printed without the launcher's word."""
    lines = logs.splitlines(keepends=True)
    for index in range(len(lines) - 1, max(-1, len(lines) - 1 - _AFTER), -1):
        if _read(lines[index]) is not None:
            return "".join(lines[:index] + lines[index + 1 :])
    return logs


def last_lines(logs: str, trace: str | None = None) -> tuple[str, ...]:
    """The last lines that the project printed, and those of a trace that is not among them.

    Args:
        logs: what was printed.
        trace: where the task's exception was raised, if that is worth telling.
    """
    lines = [line.rstrip().rpartition("\r")[2] for line in printed(logs).splitlines()[-10 * TAIL_LINES :]]
    shown = [line for line in lines if line and not line.startswith("[mlproj] ")]
    added = [line.rstrip() for line in plain(trace or "").splitlines() if line.strip()]
    if added and added[-1] not in shown:
        shown += added[-TAIL_LINES:]
    return tuple(shown[-TAIL_LINES:])


def plain(text: str) -> str:
    """A text without the colours that IPython puts in traces."""
    return _COLORS.sub("", text)


def _read(line: str) -> dict[str, Any] | None:
    if not line.startswith(_WORD):
        return None
    try:
        value = json.loads(line)["mlproj"]
    except ValueError:
        return None
    return dict(value) if isinstance(value, Mapping) else None
