"""Is it over, and how: the one judgement that status, wait, sensor and trigger share, from what the cluster says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlproj_core.backends.backend import State
from mlproj_core.backends.kubernetes import ending
from mlproj_core.backends.kubernetes.objects import (
    CANCEL,
    CLAIM,
    HOLDER,
    OUTCOME,
    OVERDUE,
    STARTED,
    Object,
    annotation,
    condition,
    is_finished,
    living_pods,
    main_container,
    newest,
    seconds,
    status_of,
)
from mlproj_core.backends.kubernetes.trouble import find_trouble
from mlproj_core.status import Outcome, Phase, Reason, RunStatus

__all__ = ["Verdict", "judge", "needs_events", "needs_pods", "until_overdue"]

COMPLETION_PATIENCE = 2.0
"""Seconds in which a run is left to whoever claimed it, or set about completing its claim: it takes a call or two."""


CREATION_PATIENCE = 3.0
"""Seconds after its start in which a Job has its pod; then events are asked why it has none."""

MOUNT_PATIENCE = 30.0
"""Seconds on its node in which a pod has its volumes; then events are asked, since no status tells of them."""

EVENTS_INTERVAL = 30.0
"""Seconds between looks at the events of a pod that does not run."""


@dataclass(frozen=True)
class Verdict:
    """What is to be said of an attempt.

    Attributes:
        state: see `State`. LOST: it will not come to anything, and is to be ended.
        phase: where it is on its way.
        outcome: how it ended (ENDED), or what its end is to be (LOST).
        again: seconds after which it may be judged otherwise though nothing changed; None if it will not.
    """

    state: State
    phase: Phase
    outcome: Outcome | None = None
    again: float | None = None


def needs_pods(job: Object) -> bool:
    """Whether pods could tell more of a Job: it is not over, or it is not written down how it ended."""
    return annotation(job, OUTCOME) is None or not is_finished(job)


def needs_events(job: Object, pods: Sequence[Object], now: float) -> bool:
    """Whether events could tell more of a Job: it failed, or its pod should run by now."""
    if annotation(job, STARTED) is None or annotation(job, OUTCOME) is not None:
        return False
    if condition(job, "Complete", "SuccessCriteriaMet") is not None or job["spec"].get("suspend"):
        return False
    if condition(job, "Failed", "FailureTarget") is not None:
        return annotation(job, CANCEL) is None
    return _until_overlong(job, pods, now) == 0


def _until_overlong(job: Object, pods: Sequence[Object], now: float) -> float | None:
    """Seconds until a pod should run, if nothing is wrong with it; None if it does."""
    pod = newest(pods)
    if pod is None:
        begun = seconds(job["status"].get("startTime")) or now
        return max(0.0, begun + CREATION_PATIENCE - now)
    if pod["status"].get("phase", "Pending") != "Pending":
        return None
    statuses = [*(pod["status"].get("initContainerStatuses") or ()), *(pod["status"].get("containerStatuses") or ())]
    waiting = [(one["state"].get("waiting") or {}).get("reason") for one in statuses]
    if any(reason not in (None, "ContainerCreating", "PodInitializing") for reason in waiting):
        return 0.0
    if condition(pod, "PodScheduled") is None:
        return None
    placed = seconds(pod["status"].get("startTime")) or now
    return max(0.0, placed + MOUNT_PATIENCE - now)


def judge(
    job: Object | None,
    pods: Sequence[Object],
    events: Sequence[Object],
    now: float,
) -> Verdict:
    """The verdict on an attempt.

    Args:
        job: its Job; None if there is none.
        pods: the Job's pods.
        events: what happened to Job and pods, oldest first.
        now: seconds since the epoch.
    """
    if job is None:
        return Verdict(State.GONE, Phase.ENDED)
    living = living_pods(pods, now)
    decided = annotation(job, OUTCOME)
    if decided is not None:
        if living and not is_finished(job):
            return Verdict(State.LOST, Phase.RUNNING, Outcome.from_dict(decided))
        return Verdict(State.ENDED, Phase.ENDED, Outcome.from_dict(decided))
    if condition(job, "Complete", "SuccessCriteriaMet") is not None:
        return Verdict(State.ENDED, Phase.ENDED, _outcome(job, pods, RunStatus.FINISHED, None, now))
    failed = condition(job, "Failed", "FailureTarget")
    if failed is not None:
        if living:
            return Verdict(State.LIVING, Phase.RUNNING, again=until_overdue(living, now))
        return Verdict(State.ENDED, Phase.ENDED, _failed(job, pods, events, str(failed.get("reason", "")), now))
    if annotation(job, STARTED) is None:
        return _unstarted(job, now)
    if job["spec"].get("suspend"):
        return Verdict(State.LIVING, Phase.QUEUED)
    trouble = None if job["metadata"].get("deletionTimestamp") else find_trouble(job, pods, events, now)
    phase = _phase(pods)
    if trouble is None:
        left = _until_overlong(job, pods, now)
        return Verdict(State.LIVING, phase, again=left or (None if left is None else EVENTS_INTERVAL))
    left = trouble.left(now)
    if left is None or left > 0:
        return Verdict(State.LIVING, phase, again=left)
    if annotation(job, CANCEL) is not None:
        return Verdict(State.LIVING, phase)
    return Verdict(State.LOST, phase, _outcome(job, pods, RunStatus.FAILED, trouble.reason, now))


def _unstarted(job: Object, now: float) -> Verdict:
    age = now - max(float(annotation(job, CLAIM)["created_at"]), float(annotation(job, HOLDER) or 0))
    if 0 <= age < COMPLETION_PATIENCE:
        return Verdict(State.STARTING, Phase.QUEUED, again=COMPLETION_PATIENCE - age)
    return Verdict(State.UNSTARTED, Phase.QUEUED)


def _failed(job: Object, pods: Sequence[Object], events: Sequence[Object], said: str, now: float) -> Outcome:
    if annotation(job, CANCEL) is not None:
        return _outcome(job, pods, RunStatus.KILLED, ending.cancelled(), now)
    return _outcome(job, pods, RunStatus.FAILED, ending.failure(job, pods, events, said), now)


def _outcome(job: Object, pods: Sequence[Object], status: RunStatus, reason: Reason | None, now: float) -> Outcome:
    ended = condition(job, "Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")
    at = seconds(ended["lastTransitionTime"]) if ended else None
    return Outcome(status, reason, ended_at=at if at is not None else now, phases=ending.phases(job, pods))


def until_overdue(living: Sequence[Object], now: float) -> float | None:
    """Seconds until pods that are to be gone count as gone, whatever their nodes say."""
    gone = [seconds(pod["metadata"].get("deletionTimestamp")) for pod in living]
    return max((moment + OVERDUE - now for moment in gone if moment is not None), default=None)


def _phase(pods: Sequence[Object]) -> Phase:
    pod = newest(pods)
    if pod is None or condition(pod, "PodScheduled") is None:
        return Phase.QUEUED
    state = status_of(pod, main_container(pod)).get("state") or {}
    if state.get("running") or state.get("terminated") or pod["status"].get("phase") == "Running":
        return Phase.RUNNING
    if any((one.get("state") or {}).get("running") for one in pod["status"].get("initContainerStatuses") or ()):
        return Phase.ENVIRONMENT
    return Phase.IMAGE
