"""A run's output, as far as Databricks gives it: what its task has printed, at most the last 5 MB of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlproj_core.backends.databricks.output import printed, word
from mlproj_core.backends.databricks.states import task_of
from mlproj_core.backends.databricks.workspace import Workspace

__all__ = ["printed_by", "word_of"]

CUT = "[mlproj] Databricks keeps the last 5 MB of the output: the beginning is missing\n"


def printed_by(workspace: Workspace, run: Mapping[str, Any]) -> str:
    """What a run has printed, without the launcher's word."""
    output = _output(workspace, run)
    text = printed(str(output.get("logs") or ""))
    return f"{CUT}{text}" if output.get("logs_truncated") else text


def word_of(workspace: Workspace, run: Mapping[str, Any]) -> dict[str, Any]:
    """The launcher's word on a run; nothing in it if there is none."""
    return word(str(_output(workspace, run).get("logs") or "")) or {}


def _output(workspace: Workspace, run: Mapping[str, Any]) -> dict[str, Any]:
    task = task_of(run)
    number = task.get("run_id")
    return (workspace.output(int(number)) or {}) if number is not None else {}
