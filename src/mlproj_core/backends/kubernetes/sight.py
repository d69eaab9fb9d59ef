"""What the cluster says of an attempt at this moment, and the verdict on that."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from mlproj_core.backends.kubernetes.client import Cluster
from mlproj_core.backends.kubernetes.labels import ATTEMPT
from mlproj_core.backends.kubernetes.objects import MANAGED, Object
from mlproj_core.backends.kubernetes.verdict import Verdict, judge, needs_events, needs_pods
from mlproj_core.handle import RunHandle

__all__ = ["events_of", "judged", "pods_of", "verdict_on"]


def judged(cluster: Cluster, handle: RunHandle) -> tuple[Object | None, Verdict]:
    """An attempt's Job as it is now, None if there is none, and the verdict on it."""
    job = cluster.get("jobs", handle.name)
    pods = pods_of(cluster, handle) if job is not None and needs_pods(job) else []
    return job, verdict_on(cluster, job, pods)


def verdict_on(cluster: Cluster, job: Object | None, pods: Sequence[Object]) -> Verdict:
    """The verdict on a Job and its pods; events are asked for where they can tell more."""
    now = time.time()
    events = events_of(cluster, job, pods) if job is not None and needs_events(job, pods, now) else []
    return judge(job, pods, events, now)


def pods_of(cluster: Cluster, handle: RunHandle) -> list[Object]:
    """The pods of an attempt."""
    return [*cluster.list("pods", labels=f"{MANAGED},{ATTEMPT}={handle.tag}")[0]]


def events_of(cluster: Cluster, job: Object, pods: Sequence[Object]) -> list[Object]:
    """What happened to a Job and to its pods, oldest first; of pods that are gone too, which the Job's events name."""
    fields = f"involvedObject.kind=Job,involvedObject.name={job['metadata']['name']}"
    events, _ = cluster.list("events", fields=fields)
    events = [event for event in events if event["involvedObject"].get("uid") == job["metadata"]["uid"]]
    names = {pod["metadata"]["name"] for pod in pods}
    names |= {found[1] for event in events if (found := _CREATED.search(str(event.get("message", ""))))}
    for name in sorted(names):
        events += cluster.list("events", fields=f"involvedObject.kind=Pod,involvedObject.name={name}")[0]
    return sorted(events, key=_when)


_CREATED = re.compile(r"Created pod: (\S+)")


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])
