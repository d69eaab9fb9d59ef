"""Finding and looking at attempts: what a workspace and the marks in MLflow say, put together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.databricks.hold import claim_and_record, handle_of, turn_of
from mlproj_core.backends.databricks.marks import Marked, marked
from mlproj_core.backends.databricks.names import attempt_in
from mlproj_core.backends.databricks.states import is_over, judge, task_of
from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import MlprojError
from mlproj_core.handle import RunHandle
from mlproj_core.status import Outcome, Phase

__all__ = ["Found", "find_listed", "locate", "see"]

COMPLETION_PATIENCE = 2.0
"""Seconds in which a half-made claim is left to whoever made it."""

PAGES = 8
"""Pages of runs that are over in which a run is looked for. One that is missed is met again when its idempotency token
is used: how many are read is a matter of economy."""

SKEW = 3600.0
"""Seconds by which the clocks of a workspace and of whoever made a claim may differ."""


@dataclass(frozen=True)
class Found:
    """What there is of an attempt.

    Attributes:
        run: its run in Databricks, as `runs/get` gives it; None if there is none.
        marked: its MLflow run; None if there is none, it is not tracked, or nobody can tell.
        number: the number of its run, also of one that is not there any more; None if it never had one.
    """

    run: Mapping[str, Any] | None
    marked: Marked | None
    number: int | None = None


def find_listed(workspace: Workspace, key_or_name: str, *, since: float | None = None) -> dict[str, Any] | None:
    """The run of the newest attempt of a key's digest K, or of the attempt `K-n`, by the suffix of its name.

    Args:
        workspace: where to look.
        key_or_name: `K` or `K-n`.
        since: seconds since the epoch before which it cannot have been submitted.
    """
    bound: dict[str, Any] = {} if since is None else {"start_time_from": int((since - SKEW) * 1000)}
    # In this order, so that a run which ends in between is in one of the lists.
    for filters, most in (({"active_only": True}, None), ({"completed_only": True}, PAGES)):
        for number, page in enumerate(workspace.runs(**filters, **bound), start=1):
            named = [(attempt, run) for run in page if (attempt := attempt_in(str(run.get("run_name")), key_or_name))]
            for _, run in sorted(named, key=lambda pair: -pair[0]):
                full = workspace.get(int(run["run_id"]))
                if full is not None and claim_and_record(full) is not None:
                    return full
            if number == most:
                break
    return None


def locate(workspace: Workspace, handle: RunHandle) -> Found:
    """What there is of an attempt.

    Raises:
        ContactLost: the workspace is out of reach, or the tracking server where nothing else tells.
    """
    number = handle.ref.get("run")
    if number is not None:
        run = workspace.get(int(number))
        try:
            return Found(run, marked(handle), int(number))
        except MlprojError:
            if run is None:
                raise
            return Found(run, None, int(number))
    found = marked(handle)
    if found is None:  # without MLflow there is nothing before a run is submitted, and its number is known then
        return Found(None, None)
    if found.where is not None:
        return Found(workspace.get(found.where.run), found, found.where.run)
    if found.outcome is not None:
        return Found(None, found)
    listed = find_listed(workspace, handle.tag, since=found.claim.created_at if found.claim else None)
    return Found(listed, found, int(listed["run_id"]) if listed else None)


def see(workspace: Workspace, handle: RunHandle, found: Found) -> Sighting:
    """What is to be said of an attempt."""
    if found.run is not None:
        return _of_run(workspace, handle, found, found.run)
    mark = found.marked
    if mark is None or (found.number is not None and mark.outcome is None):
        return Sighting(State.GONE)
    if mark.outcome is not None:
        return _of_mark(mark, State.ENDED, mark.outcome)
    age = time.time() - (mark.claim.created_at if mark.claim is not None else 0.0)
    return _of_mark(mark, State.STARTING if 0 <= age < COMPLETION_PATIENCE else State.UNSTARTED)


def _of_mark(mark: Marked, state: State, outcome: Outcome | None = None) -> Sighting:
    return Sighting(
        state,
        claim=mark.claim,
        record=mark.record,
        phase=Phase.QUEUED if outcome is None else Phase.ENDED,
        outcome=outcome,
        cancel_requested=mark.cancelled,
        settled=outcome is not None,
    )


def _of_run(workspace: Workspace, handle: RunHandle, found: Found, run: Mapping[str, Any]) -> Sighting:
    claim, record = claim_and_record(run) or (None, None)
    mark = found.marked
    task, output = task_of(run), None
    if is_over(run) and task:
        output = workspace.output(int(task["run_id"]))
    verdict = judge(run, output)
    return Sighting(
        verdict.state,
        claim=claim or (mark.claim if mark is not None else None),
        record=record or (mark.record if mark is not None else None),
        phase=verdict.phase,
        outcome=verdict.outcome,
        cancel_requested=verdict.cancelled or (mark is not None and mark.cancelled),
        settled=record is not None and (not record.tracked or (mark is not None and mark.outcome is not None)),
        ref=_new_ref(workspace, handle, claim, record, run),
    )


def _new_ref(
    workspace: Workspace, handle: RunHandle, claim: Claim | None, record: Record | None, run: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    if "run" in handle.ref or claim is None or record is None:
        return None
    return handle_of(workspace, claim, record, run).ref


def half_made(mark: Marked, key: str, attempt: int, ref: Mapping[str, Any]) -> RunHandle:
    """The handle of an attempt by its MLflow run.

    Args:
        mark: what is written on that.
        key: of the attempt.
        attempt: its number.
        ref: what the handle holds but for the run and the turn.
    """
    more: dict[str, Any] = {"turn": turn_of(mark.claim) if mark.claim is not None else None}
    if mark.where is not None:
        more |= {"host": mark.where.host, "run": mark.where.run}
        more |= {"page": mark.where.page} if mark.where.page else {}
    return RunHandle("databricks", key, attempt, mark.record.run_id, {**ref, **more})
