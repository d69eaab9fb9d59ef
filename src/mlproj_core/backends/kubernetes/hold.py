"""The right to complete a claim: anybody's, since each step is a change of the Job that only one can make."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.kubernetes.client import Cluster, Conflict
from mlproj_core.backends.kubernetes.ending import cancelled
from mlproj_core.backends.kubernetes.labels import RUN_ID
from mlproj_core.backends.kubernetes.objects import CANCEL, CLAIM, OUTCOME, QUEUE, RECORD, STARTED, Object, annotation
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import ContactLost
from mlproj_core.handle import RunHandle
from mlproj_core.launch import Launch
from mlproj_core.status import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlproj_core.backends.kubernetes.config import KubernetesConfig
    from mlproj_core.backends.kubernetes.work import Work

__all__ = ["OVER", "KubernetesHold", "Vanished", "change", "end", "over"]

OVER: Object = {"suspend": False, "parallelism": 0, "activeDeadlineSeconds": 0}
"""What of a Job's spec brings it to its end: the Job controller ends its pods, or makes none, and says that it failed.

It is then finished, so that its time to live counts, which it does not while a Job is suspended; and it is still there
for whoever asks how it ended, which it would not be if it were deleted. Each of the three may be changed at any time
(`ValidateJobUpdate` of kubernetes/pkg/apis/batch/validation), and a deadline of 0 has passed when the Job begins
(`pastActiveDeadline` of kubernetes/pkg/controller/job).
"""


SECRET_PATIENCE = 10.0
"""Seconds until a Secret that is there already is taken to be the claim's own: what is left of a Job goes sooner."""


class Vanished(ContactLost):
    """A Job is not there any more."""

    def __init__(self, cluster: Cluster, handle: RunHandle) -> None:
        super().__init__(f"The Job {handle.name} was deleted from {cluster.where}.")


class KubernetesHold:
    """What may be done to complete one claim; others may do the same at the same time."""

    def __init__(self, cluster: Cluster, handle: RunHandle, config: KubernetesConfig, work: Work | None = None) -> None:
        self._cluster, self._config, self._work = cluster, config, work
        self.handle = handle

    def record(self, record: Record) -> None:
        """Write the record on the Job; if somebody else has written one, that one holds."""
        text = json.dumps(record.to_dict())

        def write(job: Object) -> Object | None:
            if annotation(job, RECORD) is not None:
                return None
            return {"metadata": {"annotations": {RECORD: text}, "labels": {RUN_ID: record.run_id}}}

        job = change(self._cluster, self.handle, write)
        self.handle = replace(self.handle, run_id=str(annotation(job, RECORD)["run_id"]))

    def start(self, launch: Launch) -> None:
        """Make the Secret, then let the Job go, in one change with the mark that it was started."""
        from mlproj_core.backends.kubernetes.work import prepare

        job = self._cluster.get("jobs", self.handle.name)
        if job is None:
            raise Vanished(self._cluster, self.handle)
        claim = Claim.from_dict(annotation(job, CLAIM))
        work = self._work or prepare(claim, launch, self._config, self._cluster)
        self._make_secret(work.secret(Record.from_dict(annotation(job, RECORD)), job["metadata"]["uid"]))

        def go(job: Object) -> Object | None:
            if annotation(job, STARTED) is not None or annotation(job, OUTCOME) is not None:
                return None
            if annotation(job, CANCEL) is not None:  # since it was last looked at
                return end(job, Outcome(RunStatus.KILLED, cancelled(), ended_at=time.time()))
            started = {"metadata": {"annotations": {STARTED: json.dumps(time.time())}}}
            return started if _is_queued(job) else {**started, "spec": {"suspend": False}}

        change(self._cluster, self.handle, go)

    def _make_secret(self, secret: Object) -> None:
        """Create the Secret, or find that somebody else has, who is completing the same claim with the same record."""
        until = time.monotonic() + SECRET_PATIENCE
        while True:
            try:
                self._cluster.create("secrets", secret)
            except Conflict:
                # Or it is that of a Job of the same name that was deleted, and is about to go: we may not look into it.
                job = self._cluster.get("jobs", self.handle.name)
                if job is None or annotation(job, STARTED) is not None or time.monotonic() > until:
                    return
                time.sleep(0.2)
            else:
                return

    def end(self, outcome: Outcome) -> None:
        """Write down the outcome; the Job ends without a pod."""
        change(self._cluster, self.handle, lambda job: None if annotation(job, OUTCOME) else end(job, outcome))

    def release(self) -> None:
        """Nothing is held."""


def change(cluster: Cluster, handle: RunHandle, edit: Callable[[Object], Object | None]) -> Object:
    """Change a Job by what it is, so that of two who want different things only one has its way.

    Args:
        cluster: where it is.
        handle: of its attempt.
        edit: from the Job to what is merged into it; None if nothing is to be changed.

    Returns:
        The Job as it is then.

    Raises:
        ContactLost: there is no such Job.
    """
    while True:
        job = cluster.get("jobs", handle.name)
        if job is None:
            raise Vanished(cluster, handle)
        body = edit(job)
        if body is None:
            return job
        version = job["metadata"]["resourceVersion"]
        body = {**body, "metadata": {**body.get("metadata", {}), "resourceVersion": version}}
        try:
            changed = cluster.patch("jobs", handle.name, body)
        except Conflict:
            continue
        if changed is not None:
            return changed


def over(job: Object) -> dict[str, Any]:
    """The spec that ends a Job."""
    # What Kueue has queued it starts itself, when its turn comes, and it takes another size for another Job.
    return {"activeDeadlineSeconds": OVER["activeDeadlineSeconds"]} if _is_queued(job) else dict(OVER)


def end(job: Object, outcome: Outcome) -> Object:
    """What makes an outcome the Job's, and ends it without a pod."""
    return {"metadata": {"annotations": {OUTCOME: json.dumps(outcome.to_dict())}}, "spec": over(job)}


def _is_queued(job: Object) -> bool:
    return QUEUE in job["metadata"].get("labels", {})
