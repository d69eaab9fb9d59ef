"""Key, attempt, turn: how a step of a pipeline starts exactly one run, whoever dies, and how its end is settled.

Written once over the verbs of `mlproj_core.backends.Backend`. One key is one step of one pipeline run. It may need
several attempts n = 1, 2, ..., each with a native name `mlproj-K-n` that is claimed atomically where the work
lives. `submit` decides by the newest attempt; the table is in `docs/protocol.md`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlproj_core.backends.backend import Backend, Hold, Sighting, State
from mlproj_core.claim import Claim, Record, Turn, fingerprint
from mlproj_core.errors import ContactLost, MlprojError, Superseded, TrackingError, UserError
from mlproj_core.handle import RunHandle
from mlproj_core.launch import Launch
from mlproj_core.report import Report
from mlproj_core.status import Outcome, Phase, Reason, ReasonCode, RunStatus
from mlproj_core.tracking import ATTEMPT_TAG, connect

if TYPE_CHECKING:
    from mlproj_core.tracking import Tracking

__all__ = ["Asker", "cancel", "cancel_key", "deliver", "observe", "settle", "submit"]


DELIVERY_PATIENCE = 6 * 3600.0
"""Seconds for which a run's end is offered to a tracking server that cannot be reached."""


@dataclass(frozen=True)
class Asker:
    """Who submits, and what is known of earlier tries.

    Attributes:
        key: one step of one pipeline run.
        turn: which try of the caller this is; None if it does not count them.
        fresh_after: what was claimed at this turn or before has been disowned, since the step was cleared.
        stored: the handle that the caller stored at an earlier try, if any.
        unique: whether the key is random, so that no earlier attempt can exist anywhere.
    """

    key: str
    turn: Turn | None = None
    fresh_after: Turn | None = None
    stored: RunHandle | None = None
    unique: bool = False


def checkpoint(_name: str) -> None:
    """Called between the steps of `submit`; tests put a pause or a death here."""


def submit(backend: Backend, launch: Launch, asker: Asker, report: Report) -> RunHandle:
    """Start the work of a key, or find the run that is already at it.

    Returns:
        The handle of the attempt that counts: a new one, a living one, or one that is over and settles the question.

    Raises:
        ContactLost: the newest attempt cannot be reached, so that starting another could make a twin.
        Superseded: the newest attempt was claimed at a later turn.
        TrackingError: the MLflow run could not be created; nothing was started.
    """
    while True:
        newest = _newest(backend, asker)
        if newest is None:
            return _claim(backend, launch, asker, 1, report)
        sighting = _look(backend, launch, newest)
        claimed_at = _turn_of(sighting, newest)
        if asker.turn is not None and claimed_at is not None and claimed_at > asker.turn:
            raise Superseded(
                f"Attempt {newest.tag} was claimed at turn {_words(claimed_at)}, later than this try's "
                f"{_words(asker.turn)}: another try of the step has taken over, and this one leaves everything alone."
            )
        if asker.fresh_after is not None and (claimed_at is None or claimed_at <= asker.fresh_after):
            if sighting.state is not State.ENDED:
                report(f"the step was cleared: ending its earlier attempt {newest.tag}")
                cancel(backend, newest, report)
            return _claim(backend, launch, asker, newest.attempt + 1, report)
        if sighting.state in (State.STARTING, State.UNSTARTED, State.LIVING, State.LOST):
            if sighting.cancel_requested:
                report(f"attempt {newest.tag} was cancelled: waiting for its end")
                backend.stop(newest)
                continue
            if sighting.state is State.LOST:
                backend.bury(newest)
                continue
            return _attach(backend, launch, asker, newest, report)
        outcome = sighting.outcome
        same_turn = asker.turn is None or claimed_at == asker.turn
        if outcome is None or outcome.status is RunStatus.FINISHED or same_turn:
            return _attach(backend, launch, asker, newest, report)
        return _claim(backend, launch, asker, newest.attempt + 1, report)


def _newest(backend: Backend, asker: Asker) -> RunHandle | None:
    found, stored = backend.find(asker.key), asker.stored
    if stored is not None and stored.key != asker.key:  # a run of another key, which stood in for one of this
        return found
    if found is None or (stored is not None and stored.attempt > found.attempt):
        return stored
    return found


def _look(backend: Backend, launch: Launch, handle: RunHandle) -> Sighting:
    """As `backend.look`, but what is gone or out of reach is judged by what the tracking server knows."""
    try:
        sighting = backend.look(handle)
    except ContactLost:
        outcome = tracked_outcome(launch.tracking, handle)
        if outcome is None and backend.ended_with_asker(handle):
            reason = Reason(
                ReasonCode.LOST, "a tethered run of another host, which ended with its asker", retryable=True
            )
            outcome = Outcome(RunStatus.KILLED, reason)
        if outcome is None:
            raise
        return Sighting(State.ENDED, outcome=outcome, phase=Phase.ENDED, settled=True)
    if sighting.state is State.GONE:
        outcome = tracked_outcome(launch.tracking, handle) or forgotten(handle)
        return replace(sighting, state=State.ENDED, outcome=outcome, phase=Phase.ENDED, settled=True)
    return sighting


def _turn_of(sighting: Sighting, handle: RunHandle) -> Turn | None:
    if sighting.claim is not None:
        return sighting.claim.turn
    turn = handle.ref.get("turn")  # out of reach: what the handle says of it
    return tuple(turn) if turn is not None else None


def _claim(backend: Backend, launch: Launch, asker: Asker, attempt: int, report: Report) -> RunHandle:
    request = launch.request()
    claim = Claim(asker.key, attempt, asker.turn, fingerprint(request), request, created_at=time.time())
    checkpoint("before the claim")
    hold = backend.claim(claim, launch)
    checkpoint("after the claim")
    if hold is None:
        winner = backend.find(asker.key)
        if winner is None:  # pruned this very moment
            return _claim(backend, launch, asker, attempt, report)
        return _attach(backend, launch, asker, winner, report)
    remembered = _complete(backend, hold, launch, report, fresh=asker.unique)
    if remembered is not None and (remembered.status is not RunStatus.FINISHED or asker.fresh_after is not None):
        # It is over, was deleted here, and does not settle the question.
        return _claim(backend, launch, asker, attempt + 1, report)
    report(f"submitted as attempt {claim.tag}" if remembered is None else f"attempt {claim.tag} is over already")
    return hold.handle


def _attach(backend: Backend, launch: Launch, asker: Asker, handle: RunHandle, report: Report) -> RunHandle:
    """Whatever the attempt's status: see that it is started, and hand out its handle."""
    while (sighting := _look(backend, launch, handle)).state in (State.STARTING, State.UNSTARTED):
        if sighting.state is State.UNSTARTED and (hold := backend.adopt(handle)) is not None:
            report(f"completing the half-made claim of attempt {handle.tag}")
            _complete(backend, hold, launch, report, fresh=False)
            return hold.handle
        backend.wait(handle, 0.01)
    claim = sighting.claim
    if claim is not None and not claim.tombstone and claim.fingerprint != fingerprint(launch.request()):
        report(
            f"warning: attempt {handle.tag} was submitted under this key with a different request "
            f"({_difference(claim, launch)}); that one counts, this one is not started"
        )
    report(f"attached to attempt {handle.tag}")
    return replace(handle, run_id=sighting.record.run_id) if sighting.record else handle


def _complete(backend: Backend, hold: Hold, launch: Launch, report: Report, *, fresh: bool) -> Outcome | None:
    """Record and start what a hold is about; nothing but a death leaves it half made.

    Returns:
        None; or, of an attempt that is over and was deleted here, the outcome that the tracking server remembers.
    """
    starting = False
    try:
        if backend.look(hold.handle).cancel_requested:
            hold.end(_cancelled("before it began"))
            return None
        record, outcome = _record(backend, launch, hold.handle, report, fresh=fresh)
        hold.record(record)
        checkpoint("after the record")
        if outcome is not None:
            hold.end(outcome)
            backend.settled(hold.handle)
        elif backend.look(hold.handle).cancel_requested:
            _end_unstarted(backend, hold, _cancelled("before it began"), report)
        else:
            starting = True
            hold.start(launch)
            checkpoint("after the start")
            _keep_one(backend, launch, hold.handle, record, report, fresh=fresh)
        return outcome
    except Exception as error:
        # The caller hears the error itself; whoever asks later finds an end, not a claim without a run.
        if not starting:
            _end_unstarted(backend, hold, _not_submitted(error), report)
        raise
    except BaseException:  # Ctrl-C, or the end of the asker's own patience
        if not starting:
            _end_unstarted(backend, hold, _cancelled("while it was being submitted"), report)
        raise
    finally:
        hold.release()


def _end_unstarted(backend: Backend, hold: Hold, outcome: Outcome, report: Report) -> None:
    hold.end(outcome)
    settle(backend, hold.handle, backend.look(hold.handle), report)


def _record(
    backend: Backend, launch: Launch, handle: RunHandle, report: Report, *, fresh: bool
) -> tuple[Record, Outcome | None]:
    """The attempt's MLflow run, looked up or created; and its outcome if it is known to be over."""
    tracking, new_run = launch.tracking, launch.new_run
    if launch.run_id:
        tracking.set_tags(launch.run_id, {**new_run.tags, ATTEMPT_TAG: handle.tag})
        run = tracking.get_run(launch.run_id)
    else:
        experiment_id = tracking.resolve_experiment(new_run.experiment_name, new_run.experiment_id)
        new_run = replace(
            new_run,
            experiment_id=experiment_id,
            experiment_name=None,
            tags={**new_run.tags, ATTEMPT_TAG: handle.tag},
        )
        found = None if fresh else tracking.find_run(handle.tag, experiment_id)
        run = found or tracking.create_run(new_run)
        if found is not None:  # whoever created it may have died before the parameters were logged
            tracking.log_parameters(run.run_id, new_run.parameters)
            if backend.exclusive_claims:  # a store whose answer was lost may have created it twice
                tracking.keep_one(handle.tag, experiment_id, run.run_id)
        if found is None and not fresh and not backend.exclusive_claims:
            run = tracking.find_run(handle.tag, experiment_id) or run
    for warning in run.warnings:
        report(f"warning: {warning}")
    tracked = tracking.name != "untracked"
    record = Record(
        run_id=run.run_id,
        tracked=tracked,
        tracking_uri=tracking.uri if tracked else None,
        experiment_id=run.experiment_id if tracked else None,
        artifact_uri=run.artifact_uri,
        url=run.url,
    )
    return record, run.outcome


def _keep_one(
    backend: Backend, launch: Launch, handle: RunHandle, record: Record, report: Report, *, fresh: bool
) -> None:
    """Delete the MLflow runs that others created for the same attempt, now that it is decided which one counts."""
    if fresh or backend.exclusive_claims or not record.tracked or launch.run_id or not handle.run_id:
        return
    try:
        launch.tracking.keep_one(handle.tag, record.experiment_id or "", handle.run_id)
    except TrackingError as error:
        report(f"warning: there may be a second MLflow run of attempt {handle.tag}: {error}")


def observe(backend: Backend, handle: RunHandle, report: Report) -> Sighting:
    """The one look that status, wait, sensor and trigger share: is it over, and how.

    What is lost is buried, what is gone is judged by the tracking server's tag `mlproj.outcome` (never by MLflow's
    status, never success by guess), and an end that is first seen here is settled.
    """
    sighting = backend.look(handle)
    while sighting.state is State.LOST:
        backend.bury(handle)
        sighting = backend.look(handle)
    if sighting.state is State.GONE:
        outcome = tracked_outcome(connect(None), handle) or forgotten(handle)
        return replace(sighting, state=State.ENDED, outcome=outcome, phase=Phase.ENDED, settled=True)
    if sighting.state is State.ENDED and not sighting.settled:
        settle(backend, handle, sighting, report)
    return sighting


def settle(backend: Backend, handle: RunHandle, sighting: Sighting, report: Report) -> bool:
    """Deliver an outcome to the tracking server if that can be done now; False if it is left to the next who looks."""
    try:
        deliver(backend, handle, sighting, report)
    except MlprojError as error:
        report(f"warning: the outcome of {handle.tag} is not delivered yet, and will be later: {error}")
        return False
    return True


def deliver(backend: Backend, handle: RunHandle, sighting: Sighting, report: Report) -> None:
    """Deliver an outcome to the tracking server; twice is harmless.

    Raises:
        TrackingRefused: the server will not have it from this process: no permission, or the run was deleted.
        TrackingError: the server cannot be reached.
    """
    record, outcome = sighting.record, sighting.outcome
    if outcome is not None and record is not None and record.tracked:
        tracking = connect(record.tracking_uri)
        tracking.settle(record.run_id, outcome)
        _upload_output(backend, handle, record, tracking, report)
    backend.settled(handle)


def _upload_output(backend: Backend, handle: RunHandle, record: Record, tracking: Tracking, report: Report) -> None:
    """The run's output as an artifact in `logs/`; whatever is wrong with the artifact store fails nothing."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="mlproj-") as scratch:
        path = Path(scratch) / f"attempt-{handle.attempt}.log"
        cursor = 0
        with path.open("wb") as file:
            while (chunk := backend.read_output(handle, cursor))[0]:
                file.write(chunk[0])
                cursor = chunk[1]
        problem = tracking.upload(record.run_id, path, "logs", record.artifact_uri)
    if problem:
        report(f"the output of {handle.tag} was not stored as an artifact: {problem}")


def cancel(backend: Backend, handle: RunHandle, report: Report) -> Sighting:
    """End a run: a durable mark first, then the work, then the record of its end. Over already: nothing happens."""
    backend.mark_cancelled(handle)
    backend.stop(handle)
    return observe(backend, handle, report)


def cancel_key(backend: Backend, key: str, turn: Turn | None, report: Report) -> RunHandle:
    """End the newest attempt of a key, and see to it that none is started at this turn.

    Where there is nothing that `submit` would return at this turn, a tombstone is claimed, which it then returns.

    Raises:
        Superseded: the newest attempt was claimed at a later turn, and is left alone.
    """
    while True:
        handle = backend.find(key)
        if handle is not None:
            claimed_at = _turn_of(backend.look(handle), handle)
            if turn is not None and claimed_at is not None and claimed_at > turn:
                raise Superseded(
                    f"Attempt {handle.tag} was claimed at turn {_words(claimed_at)}, later than the cancelled "
                    f"{_words(turn)}: it is left alone."
                )
            cancel(backend, handle, report)
            if turn is None or claimed_at == turn:
                return handle
        claim = Claim(key, handle.attempt + 1 if handle else 1, turn, "", {}, created_at=time.time(), tombstone=True)
        hold = backend.claim(claim, None)
        if hold is not None:
            backend.mark_cancelled(hold.handle)
            hold.end(_cancelled("before it was submitted"))
            hold.release()
            return hold.handle


def tracked_outcome(tracking: Tracking, handle: RunHandle) -> Outcome | None:
    """What the tag `mlproj.outcome` of an attempt's MLflow run says; None if there is no such run or tag."""
    if tracking.name == "untracked" or not handle.run_id:
        return None
    try:
        run = tracking.get_run(handle.run_id)
    except UserError:  # no such run: deleted, or of another store
        return None
    return run.outcome if run.tags.get(ATTEMPT_TAG) == handle.tag else None


def forgotten(handle: RunHandle) -> Outcome:
    """The outcome of an attempt of which nothing is left, neither where it lived nor on the tracking server."""
    reason = Reason(
        ReasonCode.FORGOTTEN,
        f"nothing is left of attempt {handle.tag}: it was deleted where it lived, and no outcome was recorded",
        retryable=True,
    )
    return Outcome(RunStatus.FAILED, reason)


def _not_submitted(error: Exception) -> Outcome:
    code = ReasonCode.USER_INPUT if isinstance(error, UserError) else ReasonCode.TRACKING
    reason = Reason(code, str(error) or repr(error), retryable=code is ReasonCode.TRACKING)
    return Outcome(RunStatus.FAILED, reason, ended_at=time.time())


def _cancelled(when: str) -> Outcome:
    return Outcome(
        RunStatus.KILLED, Reason(ReasonCode.CANCELLED, f"the run was cancelled {when}"), ended_at=time.time()
    )


def _difference(claim: Claim, launch: Launch) -> str:
    """The names of what two requests differ in, not the values: enough to look at, and no secret."""
    asked, claimed = launch.request(), claim.request
    return ", ".join(name for name in asked if asked[name] != claimed.get(name)) or "its form"


def _words(turn: Turn) -> str:
    return ".".join(map(str, turn))
