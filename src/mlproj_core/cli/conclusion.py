"""How a run ended: as an exit status, as a line for people, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlproj_core.cli.printing import remark
from mlproj_core.errors import TrackingError, UserError
from mlproj_core.status import ReasonCode, RunStatus

if TYPE_CHECKING:
    from mlproj_core.backends.backend import Sighting
    from mlproj_core.cli.screen import Screen
    from mlproj_core.runs import SubmittedRun
    from mlproj_core.status import Outcome

__all__ = ["conclude", "exit_status", "run_document", "sight"]

FAILURE = 1
"""Exit status for a failure that has none of its own."""


def sight(run: SubmittedRun) -> Sighting:
    """What there is to see of a run; an end that is first seen here is settled."""
    from mlproj_core import protocol
    from mlproj_core.backends import load_backend

    return protocol.observe(load_backend(run.handle.backend), run.handle, remark)


def exit_status(outcome: Outcome) -> int:
    """The exit status of a command that saw a run through: 0, the project's own, or 1.

    A project's 2 becomes 1, since 2 says that the caller made a mistake; a signal becomes 128 + its number.
    """
    reason = outcome.reason
    if outcome.status is RunStatus.FINISHED or reason is None:
        return 0 if outcome.status is RunStatus.FINISHED else FAILURE
    if reason.code is ReasonCode.USER_INPUT:
        return UserError.exit_code
    if reason.exit_code is not None:
        return FAILURE if reason.exit_code == UserError.exit_code else reason.exit_code
    return 128 + reason.signal if reason.signal is not None else FAILURE


def conclude(run: SubmittedRun, sighting: Sighting, screen: Screen | None = None) -> int:
    """Say how a run ended, and where to look.

    Args:
        run: a run that is over.
        sighting: what there is to see of it.
        screen: where its output was shown; what its last lines said already is not said again.

    Returns:
        The exit status.
    """
    outcome = sighting.outcome
    assert outcome is not None  # noqa: S101  # it is over
    if screen is None or not screen.said_end:
        remark(str(run.failure(sighting)) if outcome.reason else f"{outcome.status}: run {run.handle.tag}")
    if sighting.record is not None and sighting.record.url:
        remark(f"run page: {sighting.record.url}")
    return exit_status(outcome)


def run_document(run: SubmittedRun, sighting: Sighting, *, results: bool = False) -> dict[str, Any]:
    """All that is known of a run, as a JSON value.

    Args:
        run: the run.
        sighting: what there is to see of it.
        results: whether to ask for its metrics and read its result too, if it finished.
    """
    claim, record, outcome = sighting.claim, sighting.record, sighting.outcome
    request = claim.request if claim is not None else {}
    document: dict[str, Any] = {
        "tag": run.handle.tag,
        "status": str(outcome.status if outcome else RunStatus.RUNNING),
        "phase": str(sighting.phase),
        "reason": outcome.reason.to_dict() if outcome and outcome.reason else None,
        "run_id": record.run_id if record else run.run_id,
        "experiment_id": record.experiment_id if record else None,
        "artifact_uri": record.artifact_uri if record else None,
        "tracking_uri": record.tracking_uri if record else None,
        "tracking_url": record.url if record else None,
        "key": run.handle.key,
        "attempt": run.handle.attempt,
        "turn": list(claim.turn) if claim and claim.turn else None,
        **{name: request.get(name) for name in ("project", "uri", "version", "commit", "entry_point", "parameters")},
        "created_at": claim.created_at if claim else None,
        "ended_at": outcome.ended_at if outcome else None,
        "phases": dict(outcome.phases) if outcome else {},
        "handle": run.handle.to_dict(),
    }
    if results and outcome is not None and outcome.status is RunStatus.FINISHED:
        document.update(_results(run, sighting))
    return document


def _results(run: SubmittedRun, sighting: Sighting) -> dict[str, Any]:
    from mlproj_core.backends import load_backend

    metrics = None
    if sighting.record is not None and sighting.record.tracked:
        from mlproj_core.tracking import connect

        try:
            metrics = dict(connect(sighting.record.tracking_uri).metrics(sighting.record.run_id))
        except TrackingError as error:  # the run has finished all the same
            remark(f"warning: the run's metrics are not to be had: {error}")
    return {"metrics": metrics, "result": load_backend(run.handle.backend).read_result(run.handle)}
