"""Reuse: an earlier run that has finished stands in for one that would do the same.

What MLflow's multistep example does by hand (`_already_ran`), by a key that is exact: the commit, the project's
directory in it, the entry point and the parameters, with a work tree that is as the commit says. What is not in a
commit (data above all, the environment of the host, secrets) is not part of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mlproj_core.errors import UserError
from mlproj_core.handle import RunHandle
from mlproj_core.sources import Checkout, cleanliness
from mlproj_core.status import RunStatus
from mlproj_core.tracking import ATTEMPT_TAG, REUSE_TAG, RunRecord, Tracking

if TYPE_CHECKING:
    from mlproj_core.backends import Backend
    from mlproj_core.launch import Launch
    from mlproj_core.protocol import Asker
    from mlproj_core.report import Report

__all__ = ["find", "reuse_tags"]

_SAFE_VALUE = re.compile(r"[\w./:@=+-]{1,250}", re.ASCII)
"""Values that stand in a search as they are, on every server."""

_SEARCHED = 10
"""Parameters that a search names; the answer is compared with all of them. A database joins a table for each."""


def reuse_tags(checkout: Checkout, entry_point: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """The tag by which a run is found again: a digest of all that decides what it does, as far as the project says it.

    Args:
        checkout: the project's files.
        entry_point: the entry point's name.
        parameters: as they are recorded: with defaults, and with those that the entry point does not declare.

    Returns:
        `mlproj.reuse`; nothing if the files may not be those of a commit.
    """
    if cleanliness(checkout) is not None:
        return {}
    what = {
        "commit": checkout.commit,
        "subdirectory": checkout.subdirectory,
        "entry_point": entry_point,
        "parameters": dict(parameters),
    }
    return {REUSE_TAG: hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()}


def find(backend: Backend, launch: Launch, asker: Asker, report: Report) -> RunHandle | None:
    """The handle of a finished run that may stand in for this launch; None, with the reason told, if there is none.

    A key that has an attempt keeps to it, and a step that was cleared is run.

    Raises:
        UserError: runs are not tracked, so that no earlier one can be found.
        TrackingError: the tracking server cannot be asked.
    """
    tracking, checkout = launch.tracking, launch.checkout
    if tracking.name == "untracked":
        raise UserError(
            "reuse_finished looks for earlier runs on a tracking server, and runs are not tracked here: set "
            "MLFLOW_TRACKING_URI (or give tracking_uri), or leave reuse_finished out."
        )
    if asker.fresh_after is not None or (asker.stored is not None and asker.stored.key == asker.key):
        return None
    if not asker.unique and backend.find(asker.key) is not None:
        return None
    if REUSE_TAG not in launch.new_run.tags:
        report(f"no finished run is reused: {cleanliness(checkout) or 'the work tree was not clean a moment ago'}")
        return None
    if asker.stored is not None and _still_finished(tracking, asker.stored.run_id):
        run_id = asker.stored.run_id
        report(f"reusing run {run_id}, as the try before this one did")
        return asker.stored
    new = launch.new_run
    experiment_id = tracking.resolve_experiment(new.experiment_name, new.experiment_id)
    for run in _candidates(tracking, experiment_id, launch):
        report(
            f"reusing run {run.run_id}, which finished with the same commit, entry point and parameters (data is not "
            f"compared){f': {run.url}' if run.url else ''}"
        )
        return _handle(backend, tracking, run)
    report("no finished run with the same commit, entry point and parameters is known: this one is run")
    return None


def _still_finished(tracking: Tracking, run_id: str) -> bool:
    try:
        return _has_finished(tracking.get_run(run_id))
    except UserError:  # it was deleted
        return False


def _has_finished(run: RunRecord) -> bool:
    """Whether a run has finished, by mlproj's word where it is mlproj's run, else by MLflow's.

    A script that ends its MLflow run and goes on, or then fails, leaves one that MLflow shows as FINISHED.
    """
    if run.outcome is not None or ATTEMPT_TAG in run.tags:
        return run.outcome is not None and run.outcome.status is RunStatus.FINISHED
    return run.status == "FINISHED"


def _candidates(tracking: Tracking, experiment_id: str, launch: Launch) -> Iterator[RunRecord]:
    """Finished runs that did the same: mlproj's own first, then those of `mlflow run`, the newest first."""
    checkout, new = launch.checkout, launch.new_run
    for run in tracking.search_runs(experiment_id, f"tags.`{REUSE_TAG}` = '{new.tags[REUSE_TAG]}'"):
        if _has_finished(run):
            yield run
    conditions = ["attributes.status = 'FINISHED'", f"tags.`mlflow.source.git.commit` = '{checkout.commit}'"]
    if _SAFE_VALUE.fullmatch(launch.entry_point):
        conditions.append(f"tags.`mlflow.project.entryPoint` = '{launch.entry_point}'")
    safe = [
        f"params.`{name}` = '{value}'"
        for name, value in new.parameters.items()
        if _SAFE_VALUE.fullmatch(name) and _SAFE_VALUE.fullmatch(value)
    ]
    for run in tracking.search_runs(experiment_id, " and ".join([*conditions, *safe[:_SEARCHED]])):
        if _is_same_by_mlflow(run, launch):
            yield run


def _is_same_by_mlflow(run: RunRecord, launch: Launch) -> bool:
    """Whether a run that `mlflow run` recorded did the same, as far as its tags can tell.

    One that was run in place may have had any changes, so only those count for which MLflow cloned the repository.
    And since MLflow keeps what a script logs beside what it was given, the parameters have to be the same ones.
    """
    source, _, subdirectory = run.tags.get("mlflow.source.name", "").partition("#")
    return (
        ATTEMPT_TAG not in run.tags
        and not source.startswith(("/", "file:"))
        and subdirectory.strip("/") == launch.checkout.subdirectory
        and run.tags.get("mlflow.project.entryPoint") == launch.entry_point
        and run.parameters == launch.new_run.parameters
        and _has_finished(run)
    )


def _handle(backend: Backend, tracking: Tracking, run: RunRecord) -> RunHandle:
    """The run's own handle, if it is one of this host that is still there; else one by which MLflow is asked."""
    from mlproj_core.backends.backend import State
    from mlproj_core.backends.local import LocalBackend
    from mlproj_core.backends.tracked import TrackedBackend

    if isinstance(backend, LocalBackend) and (tag := run.tags.get(ATTEMPT_TAG)):
        handle = backend.by_tag(tag)
        if handle is not None and handle.run_id == run.run_id and backend.look(handle).state is State.ENDED:
            return handle
    return TrackedBackend.handle_of(run.run_id, tracking.uri)
