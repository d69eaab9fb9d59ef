"""What is written of an attempt on its MLflow run: the claim, the cancel mark, and where in Databricks it runs.

An MLflow run with the tag `mlproj.attempt` and no Databricks run is a claim half made; it is what is durable of a claim
before there is a Databricks run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from mlproj_core.claim import Claim, Record
from mlproj_core.errors import ContactLost, TrackingError, TrackingRefused, UserError
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.status import Outcome
from mlproj_core.tracking import ATTEMPT_TAG, NewRun, RunRecord, Tracking, connect

__all__ = ["Marked", "Where", "bury_in_mlflow", "claim_tags", "find_newest", "mark", "marked", "record_of", "run_tags"]

CLAIM_TAG = "mlproj.claim"
CANCEL_TAG = "mlproj.cancel"
WHERE_TAG = "mlproj.databricks"

_LENGTH = 5000
"""Characters that a tag may hold on every server (`tracking.limits`)."""


@dataclass(frozen=True)
class Where:
    """A run in Databricks.

    Attributes:
        host: address of the workspace.
        run: its number.
        page: address of its page; None if it has none.
    """

    host: str
    run: int
    page: str | None = None


@dataclass(frozen=True)
class Marked:
    """An attempt's MLflow run, and what is written on it.

    Attributes:
        record: the run.
        claim: what was claimed; None if that was not written down.
        where: the Databricks run; None before it is known.
        outcome: how the attempt ended; None before it has.
        cancelled: whether its end was asked for.
        attempt: its `K-n`.
    """

    record: Record
    claim: Claim | None
    where: Where | None
    outcome: Outcome | None
    cancelled: bool
    attempt: str


def claim_tags(claim: Claim) -> dict[str, str]:
    """The tags that the MLflow run of a claim is created with."""
    value = claim.to_dict()
    for dropped in ("request", "key"):
        if len(text := json.dumps(value, separators=(",", ":"))) <= _LENGTH:
            break
        value[dropped] = {} if dropped == "request" else None
    else:
        text = json.dumps(value, separators=(",", ":"))
    return {CLAIM_TAG: text}


def run_tags(host: str, run: Mapping[str, Any]) -> dict[str, str]:
    """The tags that say where an attempt runs: ours, and those of MLflow's own backend.

    Args:
        host: address of the workspace.
        run: as `runs/get` gives it.
    """
    # `_before_run_start` of mlflow/projects/databricks.py, the names of mlflow/utils/mlflow_tags.py.
    page = run.get("run_page_url")
    where = {"host": host, "run": run["run_id"], "page": page}
    tags = {
        WHERE_TAG: json.dumps(where, separators=(",", ":")),
        "mlflow.databricks.webappURL": host,
        "mlflow.databricks.shellJobRunID": str(run["run_id"]),
        "mlflow.databricks.runURL": page,
        "mlflow.databricks.shellJobID": str(run["job_id"]) if run.get("job_id") else None,
    }
    return {name: value for name, value in tags.items() if value}


def record_of(tracking: Tracking, run: RunRecord) -> Record:
    """The record of an MLflow run."""
    return Record(run.run_id, True, tracking.uri, run.experiment_id, run.artifact_uri, run.url)


def find_newest(tracking: Tracking, experiment_id: str, key: str) -> Marked | None:
    """The newest attempt of a key that has an MLflow run in an experiment; None if there is none."""
    attempts: dict[int, list[Marked]] = {}
    for run in tracking.search_runs(experiment_id, f"tags.`{ATTEMPT_TAG}` LIKE '{key_digest(key)}-%'"):
        attempts.setdefault(int(run.tags[ATTEMPT_TAG].rpartition("-")[2]), []).append(_read(tracking, run, key))
    return _merged(attempts[max(attempts)]) if attempts else None


def marked(handle: RunHandle) -> Marked | None:
    """What is written on an attempt's MLflow run; None if there is no such run, or it is not tracked.

    Of an attempt that was not submitted, as far as the handle knows, there may be several: then, what is on any of
    them.

    Raises:
        ContactLost: the tracking server cannot be asked.
    """
    uri = handle.ref.get("tracking_uri")
    if uri is None:
        return None
    try:
        with closing(connect(uri)) as tracking:
            if "run" not in handle.ref or not handle.run_id:
                runs = tracking.search_runs(str(handle.ref["experiment_id"]), f"tags.`{ATTEMPT_TAG}` = '{handle.tag}'")
                return _merged([_read(tracking, run, handle.key) for run in runs])
            try:
                run = tracking.get_run(handle.run_id)
            except UserError:  # it was deleted
                return None
            return _read(tracking, run, handle.key) if run.tags.get(ATTEMPT_TAG) == handle.tag else None
    except TrackingRefused:
        raise
    except TrackingError as error:
        raise ContactLost(str(error)) from error


def mark(handle: RunHandle, found: Marked) -> None:
    """Write the cancel mark on an attempt's MLflow run.

    Raises:
        TrackingError: the tracking server does not take it.
    """
    with closing(connect(handle.ref["tracking_uri"])) as tracking:
        tracking.set_tags(found.record.run_id, {CANCEL_TAG: json.dumps({"at": time.time()})})


def bury_in_mlflow(tracking: Tracking, experiment_id: str, claim: Claim) -> Marked | None:
    """Claim an attempt as a tombstone: an MLflow run with the cancel mark from the beginning.

    Returns:
        It; None if the attempt has been claimed by somebody else.
    """
    tags = {
        **claim_tags(claim),
        ATTEMPT_TAG: claim.tag,
        CANCEL_TAG: json.dumps({"at": claim.created_at}),
        "mlflow.runName": f"cancelled {claim.name}",
    }
    created = tracking.create_run(NewRun(start_time=claim.created_at, experiment_id=experiment_id, tags=tags))
    winner = tracking.find_run(claim.tag, experiment_id) or created
    return _read(tracking, winner, claim.key) if winner.run_id == created.run_id else None


def _merged(runs: Sequence[Marked]) -> Marked | None:
    """What is written on the MLflow runs of one attempt; they come the newest first.

    The one that was submitted with counts; before that the oldest, which everybody takes who sees it.
    """
    if not runs:
        return None
    counts = next((one for one in runs if one.where is not None), runs[-1])
    outcome = counts.outcome
    if counts.where is None:
        outcome = next((one.outcome for one in runs if one.outcome is not None), None)
    return replace(counts, outcome=outcome, cancelled=any(one.cancelled for one in runs))


def _read(tracking: Tracking, run: RunRecord, key: str) -> Marked:
    claim, where = None, None
    if (text := run.tags.get(CLAIM_TAG)) is not None:
        value = json.loads(text)
        claim = Claim.from_dict({**value, "key": key})
    if (text := run.tags.get(WHERE_TAG)) is not None:
        value = json.loads(text)
        where = Where(str(value["host"]), int(value["run"]), value.get("page"))
    return Marked(
        record=record_of(tracking, run),
        claim=claim,
        where=where,
        outcome=run.outcome,
        cancelled=CANCEL_TAG in run.tags,
        attempt=run.tags[ATTEMPT_TAG],
    )
