"""What Prefect's UI shows of a run: a link to it, its parameters and metrics, how its environment is made."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from mlproj_core.handle import RunHandle

if TYPE_CHECKING:
    from mlproj_core.runs import SubmittedRun
    from prefect_mlproj.results import ProjectResult

__all__ = ["EnvironmentProgress", "handle_in", "show_link", "show_table"]

_HANDLE = re.compile(r"```json\n(.*?)\n```", re.DOTALL)

PROGRESS_INTERVAL = 1.0
"""Seconds between two updates of a progress artifact at least."""

_MILESTONES = (("Resolved", 25.0), ("Downloading", 35.0), ("Prepared", 65.0), ("Installed", 95.0))
"""First words of uv's messages, with the percentage that stands for them."""


def show_link(run: SubmittedRun, name: str) -> None:
    """Show a link to the run in MLflow, with the run's handle, which `handle_in` finds again.

    Args:
        run: the run.
        name: what the task is called, such as `wine_quality/train`.
    """
    record = run.record
    url = record.url if record is not None else None
    description = (
        f"Run `{run.run_id}` of {name}. Its handle, for `mlproj status`, `mlproj logs` and `mlproj cancel`:\n\n"
        f"```json\n{run.handle.to_json()}\n```\n"
    )
    key = _key(name, "run")
    if url is not None:
        create_link_artifact(url, link_text=f"{name} in MLflow", key=key, description=description, _sync=True)  # type: ignore[call-arg]
    else:
        create_markdown_artifact(description, key=key, description=f"{name}, untracked", _sync=True)  # type: ignore[call-arg]


def handle_in(text: str) -> RunHandle | None:
    """The handle in an artifact's text that `show_link` wrote; None if there is none."""
    found = _HANDLE.search(text)
    return RunHandle.from_json(found.group(1)) if found is not None else None


def show_table(name: str, parameters: Mapping[str, Any], result: ProjectResult) -> None:
    """Show the parameters and metrics of a finished run.

    Args:
        name: what the task is called.
        parameters: the values it was run with, by name.
        result: what it left.
    """
    rows = [{"kind": "parameter", "name": key, "value": str(value)} for key, value in parameters.items()]
    rows += [{"kind": "metric", "name": key, "value": f"{value:g}"} for key, value in sorted(result.metrics.items())]
    if rows:
        create_table_artifact(rows, key=_key(name, "values"), description=f"{name}: {result.run_id}", _sync=True)  # type: ignore[call-arg]


class EnvironmentProgress:
    """A progress artifact, made once there is an environment to be built.

    Args:
        name: what the task is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._id: UUID | None = None
        self._shown = 0.0
        self._percent = 5.0

    def hear(self, line: str) -> None:
        """Take notice of what the builder says."""
        for word, percent in _MILESTONES:
            if line.lstrip().startswith(word):
                self._percent = max(self._percent, percent)
        now = time.monotonic()
        if self._id is None:
            key = _key(self._name, "environment")
            made = create_progress_artifact(self._percent, key=key, description=line, _sync=True)  # type: ignore[call-arg]
            self._id = cast(UUID, made)
        elif now - self._shown >= PROGRESS_INTERVAL:
            self._show(line)
        else:
            return
        self._shown = now

    def finish(self, line: str) -> None:
        """The environment is there; nothing is shown if none had to be built."""
        if self._id is not None:
            self._percent = 100.0
            self._show(line)

    def _show(self, line: str) -> None:
        update_progress_artifact(self._id, self._percent, description=line, _sync=True)  # type: ignore[arg-type, call-arg]


def _key(name: str, what: str) -> str:
    """A key as Prefect admits it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{name}-{what}".lower()).strip("-")
