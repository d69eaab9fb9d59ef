"""What is read out of a cluster's objects: times, conditions, containers, and what mlproj wrote on a Job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = [
    "CANCEL",
    "CLAIM",
    "CONTAINER",
    "HOLDER",
    "MANAGED",
    "OUTCOME",
    "OVERDUE",
    "QUEUE",
    "RECORD",
    "RESULT",
    "SETTLED",
    "STARTED",
    "Object",
    "annotation",
    "condition",
    "is_finished",
    "leaving_pods",
    "living_pods",
    "main_container",
    "newest",
    "seconds",
    "status_of",
]

MANAGED = "app.kubernetes.io/managed-by=mlproj"
"""The selector of all that is mlproj's."""

QUEUE = "kueue.x-k8s.io/queue-name"
"""The label of a Job that Kueue starts (https://kueue.sigs.k8s.io/docs/tasks/run/jobs/)."""

CLAIM, RECORD, STARTED = "mlproj/claim", "mlproj/record", "mlproj/started"
CANCEL, OUTCOME, RESULT, SETTLED = "mlproj/cancel", "mlproj/outcome", "mlproj/result", "mlproj/settled"
"""Annotations of the Job: JSON values, and times in seconds since the epoch."""

HOLDER = "mlproj/holder"
"""The annotation of when somebody last set about completing the claim of another."""

CONTAINER = "mlproj/container"
"""The annotation of Job and pod that names the container that the project runs in."""

OVERDUE = 120.0
"""Seconds after which a pod that was to be gone counts as gone: its node does not answer."""

Object = Mapping[str, Any]
"""Anything of the API, as the JSON value that it is."""


def seconds(time: str | None) -> float | None:
    """A time of the API (RFC 3339) in seconds since the epoch."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() if time else None


def annotation(job: Object, name: str) -> Any:
    """What mlproj wrote on a Job, read as JSON; None if it did not."""
    text = job["metadata"].get("annotations", {}).get(name)
    return None if text is None else json.loads(text)


def condition(item: Object, *kinds: str) -> Object | None:
    """The first of these conditions that holds for a Job or a pod."""
    conditions = item.get("status", {}).get("conditions") or ()
    return next((one for kind in kinds for one in conditions if one["type"] == kind and one["status"] == "True"), None)


def is_finished(job: Object) -> bool:
    """Whether the Job controller is done with a Job."""
    return condition(job, "Complete", "Failed") is not None


def newest(pods: Iterable[Object]) -> Object | None:
    """The pod that was made last: where one was evicted from its queue, another one takes its place."""
    return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def living_pods(pods: Iterable[Object], now: float) -> list[Object]:
    """Those in which something may still run."""
    return [pod for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed") and not _overdue(pod, now)]


def leaving_pods(pods: Sequence[Object], now: float) -> list[Object]:
    """Those in which something may still run, and those that have ended and are about to go."""
    living = living_pods(pods, now)
    return [
        pod for pod in pods if pod in living or (pod["metadata"].get("deletionTimestamp") and not _overdue(pod, now))
    ]


def _overdue(pod: Object, now: float) -> bool:
    gone = seconds(pod["metadata"].get("deletionTimestamp"))
    return gone is not None and now > gone + OVERDUE


def main_container(item: Object) -> str:
    """The name of the container that the project runs in, of a Job or a pod."""
    spec = item["spec"].get("template", item)["spec"] if "template" in item["spec"] else item["spec"]
    named = item["metadata"].get("annotations", {}).get(CONTAINER)
    return str(named or spec["containers"][0]["name"])


def status_of(pod: Object, container: str) -> Object:
    """The status of a container; empty while the node has said nothing of it."""
    statuses: Sequence[Object] = [
        *(pod["status"].get("initContainerStatuses") or ()),
        *(pod["status"].get("containerStatuses") or ()),
    ]
    return next((one for one in statuses if one["name"] == container), {})
