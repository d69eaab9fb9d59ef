"""Which run is meant: a handle, or a name under which this host knows it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mlproj_core.cli.printing import remark

if TYPE_CHECKING:
    from mlproj_core.handle import RunHandle
    from mlproj_core.runs import SubmittedRun

__all__ = ["find_handle", "find_run", "run_argument", "short_tag"]

SHOWN = 5
"""How many of the runs that could be meant a message names."""


def run_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """The argument RUN of a command."""
    return click.argument("run", metavar="RUN", required=required, shell_complete=_complete)


def find_run(text: str) -> SubmittedRun:
    """The run that RUN means; see `find_handle`."""
    from mlproj_core.runs import attach

    return attach(find_handle(text), report=remark)


def find_handle(text: str) -> RunHandle:
    """The handle of the run that RUN means.

    Args:
        text: a handle's JSON, `-` to read it from standard input, `@FILE` to read it from a file; or of a run of this
            host the attempt's tag `K-n`, the first characters of `K` (the newest attempt) or of it with `-n`,
            the name `mlproj-K-n`, the key, or the MLflow run's id.

    Raises:
        UserError: no run is meant by it, or several could be.
    """
    from mlproj_core.errors import UserError
    from mlproj_core.handle import RunHandle

    if text == "-":
        return RunHandle.from_json(sys.stdin.read())
    if text.startswith("@"):
        from pathlib import Path

        try:
            return RunHandle.from_json(Path(text[1:]).read_text())
        except OSError as error:
            raise UserError(f"Cannot read a run handle from {text[1:]!r}: {error.strerror}") from error
    if text.lstrip().startswith("{"):
        return RunHandle.from_json(text)
    from mlproj_core.backends.local import LocalBackend

    backend = LocalBackend()
    handles = backend.handles()
    found = _matching(handles, text)
    keys = {handle.key for handle in found}
    if len(keys) == 1:
        return max(found, key=lambda handle: handle.attempt)
    if not found:
        raise UserError(
            f"No run on this host matches {text!r}; `mlproj runs list` shows those in {backend.state}. RUN is an "
            "attempt K-n or its first characters, a key, an MLflow run id, a handle (JSON), @FILE, or - for one on "
            "standard input."
        )
    candidates = ", ".join(short_tag(handle) for handle in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise UserError(f"{text!r} could mean several runs: {candidates}{more}. Give more of the attempt's characters.")


def _matching(handles: list[RunHandle], text: str) -> list[RunHandle]:
    """The runs that a text could mean: by the first of the ways in which it means any."""
    name = text.removeprefix("mlproj-")
    for exact in (
        [handle for handle in handles if handle.tag == name],
        [handle for handle in handles if handle.key == text],
        [handle for handle in handles if handle.run_id == text and text],
    ):
        if exact:
            return exact
    match = re.fullmatch(r"([0-9a-f]{1,32})(?:-(\d+))?", name)
    if match is None:
        return []
    beginning, attempt = match.groups()
    return [
        handle
        for handle in handles
        if handle.tag.startswith(beginning) and (attempt is None or handle.attempt == int(attempt))
    ]


def short_tag(handle: RunHandle) -> str:
    """An attempt's tag as people read and type it: twelve digits of K, and n."""
    digits, _, attempt = handle.tag.partition("-")
    return f"{digits[:12]}-{attempt}"


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from mlproj_core.backends.local import LocalBackend

    return [tag for handle in LocalBackend().handles() if (tag := short_tag(handle)).startswith(incomplete)]
