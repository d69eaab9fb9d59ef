"""What keeps a pod from starting: which of it waiting can help, and for how long that is believed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlproj_core.backends.kubernetes.objects import Object, condition, newest, seconds
from mlproj_core.status import Reason, ReasonCode

__all__ = ["Trouble", "find_trouble"]

IMAGE_PATIENCE = 60.0
"""Seconds for an image that its registry does not have, or does not give: the kubelet has asked three times by then."""

REGISTRY_PATIENCE = 300.0
"""Seconds for a registry that cannot be reached, is unwell or limits pulls: as long as the kubelet's longest pause."""

OBJECT_PATIENCE = 60.0
"""Seconds for a Secret or ConfigMap that is not there: what makes them, external-secrets for one, is seldom slower."""

NODE_PATIENCE = 900.0
"""Seconds for a node that the pod may be on at all: the cluster autoscaler gives up on one after 15 minutes
(its --max-node-provision-time)."""

_NOT_IN_REGISTRY = re.compile(
    r"not found|manifest unknown|does not exist|pull access denied|unauthorized|authentication required|"
    r"authorization failed|no basic auth|403 forbidden|invalid username|insufficient_scope|denied:|"
    r"no match for platform",
    re.IGNORECASE,
)

_ROOM = re.compile(r"Insufficient |Too many pods|free ports|Preempt\w+ pods|no available", re.IGNORECASE)
"""In a scheduler's message: a node would do if there were room on it, so that the pod stands in a queue."""

_QUOTA = re.compile(r"exceeded quota: \S+, requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>[^\s]+)")


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start.

    Attributes:
        reason: what the run's reason will be if it stays so.
        since: when it began, in seconds since the epoch.
        patience: seconds for which it is waited for; None for any time: the run is in a queue.
    """

    reason: Reason
    since: float
    patience: float | None

    def left(self, now: float) -> float | None:
        """Seconds until waiting makes no sense any more, 0 if it makes none; None if there is no such time."""
        if not self.patience:  # times of events are rounded to seconds, and may be those of another clock
            return self.patience
        return max(0.0, self.since + self.patience - now)


def find_trouble(job: Object, pods: Sequence[Object], events: Sequence[Object], now: float) -> Trouble | None:
    """What keeps a started Job's pod from running; None if nothing does.

    Args:
        job: the Job.
        pods: its pods.
        events: what happened to Job and pods.
        now: seconds since the epoch.
    """
    pod = newest(pods)
    if pod is None:
        return _not_created(job, events, now)
    if pod["status"].get("phase", "Pending") != "Pending":
        return None
    scheduled = _condition_of(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _unschedulable(scheduled, now)
    for status in [
        *(pod["status"].get("initContainerStatuses") or ()),
        *(pod["status"].get("containerStatuses") or ()),
    ]:
        waiting = status["state"].get("waiting")
        if waiting and (trouble := _waiting(pod, status, waiting, events, now)) is not None:
            return trouble
    return _volume(pod, events, now)


def _not_created(job: Object, events: Sequence[Object], now: float) -> Trouble | None:
    event = _last(events, "FailedCreate")
    if event is None:
        return None
    said, since = str(event["message"]), _began(event, now)
    if (quota := _QUOTA.search(said)) is not None:
        fits = not _exceeds(quota["requested"], quota["limited"])
        reason = Reason(
            ReasonCode.CAPACITY, f"the namespace's quota leaves no room for the pod: {said}", retryable=fits
        )
        return Trouble(reason, since, None if fits else 0.0)
    if "violates PodSecurity" in said or "is forbidden" in said or "is invalid" in said or "denied the request" in said:
        reason = Reason(ReasonCode.USER_INPUT, f"the cluster does not admit the pod: {said}")
        return Trouble(reason, since, 0.0)
    reason = Reason(ReasonCode.CAPACITY, f"the cluster cannot make the pod: {said}", retryable=True)
    return Trouble(reason, since, NODE_PATIENCE)


def _unschedulable(scheduled: Object, now: float) -> Trouble:
    said = str(scheduled.get("message", scheduled.get("reason", "")))
    gated = scheduled.get("reason") == "SchedulingGated"
    reason = Reason(ReasonCode.CAPACITY, f"no node can take the pod: {said}", retryable=True)
    since = seconds(scheduled.get("lastTransitionTime")) or now
    return Trouble(reason, since, None if gated or _ROOM.search(said) else NODE_PATIENCE)


def _waiting(
    pod: Object,
    status: Object,
    waiting: Object,
    events: Sequence[Object],
    now: float,
) -> Trouble | None:
    kind, name = waiting.get("reason", ""), status["name"]
    said = str(waiting.get("message", "") or kind)
    image = next(
        (
            one["image"]
            for one in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
            if one["name"] == name
        ),
        "",
    )
    began = _began(_first(events, "Failed", "InspectFailed"), now, pod)
    if kind in ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"):
        said = said.removeprefix(f'Back-off pulling image "{image}": ').removeprefix("ErrImagePull: ")
        if said.startswith("Back-off") or said == kind:
            failed = [str(event["message"]) for event in events if "Failed to pull image" in str(event["message"])]
            said = failed[-1] if failed else said
        absent = _NOT_IN_REGISTRY.search(said) is not None and "no such host" not in said
        reason = Reason(ReasonCode.IMAGE, f"the image {image} cannot be pulled: {said}", retryable=not absent)
        return Trouble(reason, began, IMAGE_PATIENCE if absent else REGISTRY_PATIENCE)
    if kind in ("InvalidImageName", "ErrImageNeverPull"):
        return Trouble(Reason(ReasonCode.IMAGE, f"the image {image} cannot be had: {said}"), began, 0.0)
    if kind in ("CreateContainerConfigError", "CreateContainerError"):
        reason = Reason(ReasonCode.USER_INPUT, f"the container {name} cannot be set up: {said}")
        return Trouble(reason, began, OBJECT_PATIENCE)
    return None


def _volume(pod: Object, events: Sequence[Object], now: float) -> Trouble | None:
    """A volume that cannot be mounted, as when it is of a Secret that is not there: no status tells of it."""
    event = _last(events, "FailedMount", "FailedAttachVolume")
    if event is None or condition(pod, "PodReadyToStartContainers") is not None:
        return None
    said = str(event["message"])
    absent = re.search(r'(secret|configmap) "[^"]+" not found|references non-existent', said) is not None
    reason = Reason(
        ReasonCode.USER_INPUT if absent else ReasonCode.CAPACITY,
        f"a volume of the pod cannot be mounted: {said}",
        retryable=not absent,
    )
    return Trouble(
        reason, _began(_first(events, event["reason"]), now, pod), OBJECT_PATIENCE if absent else NODE_PATIENCE
    )


def _condition_of(pod: Object, kind: str) -> Object:
    return next((one for one in pod["status"].get("conditions") or () if one["type"] == kind), {})


def _first(events: Sequence[Object], *reasons: str) -> Object | None:
    return next((event for event in events if event.get("reason") in reasons), None)


def _last(events: Sequence[Object], *reasons: str) -> Object | None:
    return _first(list(reversed(events)), *reasons)


def _began(event: Object | None, now: float, pod: Object | None = None) -> float:
    """When an event happened first; else when the pod came to its node."""
    times = [event.get(name) for name in ("firstTimestamp", "eventTime", "lastTimestamp")] if event else []
    times += [pod["status"].get("startTime"), pod["metadata"]["creationTimestamp"]] if pod else []
    return next((moment for time in times if (moment := seconds(time)) is not None), now)


def _exceeds(requested: str, limited: str) -> bool:
    """Whether one of the amounts that are asked for is more than all that the quota ever gives."""
    limits = dict(part.split("=", 1) for part in limited.rstrip(",").split(",") if "=" in part)
    wants = dict(part.split("=", 1) for part in requested.rstrip(",").split(",") if "=" in part)
    return any(name in limits and quantity(amount) > quantity(limits[name]) for name, amount in wants.items())


_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}


def quantity(text: str) -> float:
    """An amount as the API writes it: `500m`, `2Gi`, `1e3`."""
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)", text)
    return float(found[1]) * _UNITS.get(found[2], 1.0) if found else 0.0
