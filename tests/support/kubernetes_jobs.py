"""The Job controller and the TTL controller of the tests' cluster.

The order of what they write is that of kube-controller-manager 1.36: pods are counted by way of
`uncountedTerminatedPods` and a finalizer, conditions come in two steps, and updates are batched by a second.
"""

import contextlib
import copy
import heapq
import threading
import time
from datetime import datetime, timezone

import kubernetes_refusals as refusals
from kubernetes_garbage import TRACKING, Garbage, pods_of, without_finalizer
from kubernetes_schema import JOBS, PODS
from kubernetes_store import is_finished, owners, timestamp

BATCH = 1.0
"""Seconds by which a Job is looked at again after one of its pods changed."""
BACKOFF = 10.0
"""Seconds before the first pod that has failed is replaced; they double."""
REACHED = ("CompletionsReached", "Reached expected number of succeeded pods")
EXCEEDED = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
LATE = ("DeadlineExceeded", "Job was active longer than specified deadline")


class Controllers:
    """One thread that keeps Jobs and owners in order.

    Args:
        api: the API.
        pace: by what the seconds of a real cluster are multiplied (deadlines and time to live are not).
    """

    def __init__(self, api, pace):
        self._api, self._store, self.pace = api, api.store, pace
        self._due, self._queue = {}, []
        self._seen = self._store.version
        self._retries = {}
        self._garbage = Garbage(self._store)
        self._stop = False
        self.paused = False
        """Whether Jobs are left as they are, as when the controller manager is down."""
        self._thread = threading.Thread(target=self._run, name="kubernetes-controllers")
        self._thread.start()

    def stop(self):
        with self._store.changed:
            self._stop = True
            self._store.changed.notify_all()
        self._thread.join()

    # -- the queue

    def _enqueue(self, key, delay=0.0):
        """Look at a Job soon; the earliest of several times holds."""
        due = time.monotonic() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._queue, (due, key))

    def _run(self):
        while not self._stop:
            with self._store.changed:
                changes = self._store.since(self._seen)
                self._seen = self._store.version
                wait = self._queue[0][0] - time.monotonic() if self._queue else 1.0
                if not changes and wait > 0:
                    self._store.changed.wait(min(wait, 1.0))
                    continue
            for change in changes:
                self._notice(*change[1:])
            while self._queue and self._queue[0][0] <= time.monotonic():
                due, key = heapq.heappop(self._queue)
                if self._due.get(key) == due:
                    del self._due[key]
                    self._sync(key)

    def _notice(self, resource, kind, item, before):
        metadata = item["metadata"]
        if resource is JOBS:
            key = (metadata["namespace"], metadata["name"])
            if kind != "DELETED":
                same = before and before["metadata"].get("generation") == metadata["generation"]
                self._enqueue(key, BATCH * self.pace if same else 0.0)
        elif resource is PODS:
            for owner in owners(item):
                if owner["kind"] == "Job":
                    self._enqueue((metadata["namespace"], owner["name"]), BATCH * self.pace)
        self._garbage.notice(resource, kind, item)

    # -- Jobs

    def _sync(self, key):
        job = self._store.find(JOBS, *key)
        if job is None or self.paused:
            return
        if is_finished(job):
            self._expire(key, job)
            return
        try:
            _Sync(self._api, self._store, job, pods_of(self._store, job), self.pace).run(self._enqueue, self._retries)
        except refusals.Refusal:  # somebody else was faster: once more, with what is there now
            self._enqueue(key, 0.01)

    def _expire(self, key, job):
        lifetime = job["spec"].get("ttlSecondsAfterFinished")
        if lifetime is None or "deletionTimestamp" in job["metadata"]:
            return
        ended = max(c["lastTransitionTime"] for c in job["status"]["conditions"] if c["type"] in ("Complete", "Failed"))
        left = seconds_since(ended, negative=True) + lifetime
        if left > 0:
            self._enqueue(key, left)
        else:
            self._store.delete(JOBS, *key, policy="Foreground")


def seconds_since(text, negative=False):
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    seconds = (datetime.now(timezone.utc) - moment).total_seconds()
    return -seconds if negative else seconds


class _Sync:
    """One look at one Job: what `syncJob` of the controller does."""

    def __init__(self, api, store, job, pods, pace):
        self.api, self.store, self.job, self.pods, self.pace = api, store, job, pods, pace
        self.key = (job["metadata"]["namespace"], job["metadata"]["name"])
        self.spec = job["spec"]
        self.status = copy.deepcopy(job.get("status") or {})
        self.deleting = "deletionTimestamp" in job["metadata"]
        self.deleted = set()

    def run(self, enqueue, retries):
        uncounted = self.status.get("uncountedTerminatedPods", {})
        known = {*uncounted.get("succeeded", ()), *uncounted.get("failed", ())}
        tracked = [p for p in self.pods if TRACKING in p["metadata"].get("finalizers", ()) and _uid(p) not in known]
        succeeded = [p for p in tracked if p["status"]["phase"] == "Succeeded"]
        failed = [p for p in tracked if _failed(p)] if not self.deleting else []
        active = [p for p in self.pods if _active(p)]
        total_failed = self.status.get("failed", 0) + len(uncounted.get("failed", ())) + len(failed)
        total_succeeded = self.status.get("succeeded", 0) + len(uncounted.get("succeeded", ())) + len(succeeded)
        if "startTime" not in self.status and not self.spec["suspend"]:
            self.status["startTime"] = timestamp()
        target = self._target(active, total_succeeded, total_failed, enqueue)
        error = None
        if target and target[0] == "FailureTarget":
            for pod in active:
                self._delete(pod)
            failed += [pod for pod in tracked if pod in active]
            active = []
        elif not target and not self.deleting:
            active, error = self._manage(active, total_succeeded, failed, enqueue, retries)
        self._count(active)
        if self.deleting:
            self._release(tracked)
            self._flush()
            return
        self._finish(target, succeeded, failed)
        if error:
            raise error

    def _target(self, active, succeeded, failed, enqueue):
        """The condition that says how the Job will end, if that is certain."""
        for condition in self.status.get("conditions", ()):
            if condition["type"] in ("FailureTarget", "SuccessCriteriaMet") and condition["status"] == "True":
                return condition["type"], condition["reason"], condition["message"]
        deadline, limit = self.spec.get("activeDeadlineSeconds"), self.spec["backoffLimit"]
        restarts = sum(map(_restarts, active)) if self.spec["template"]["spec"]["restartPolicy"] == "OnFailure" else 0
        if failed > limit or (restarts and restarts >= limit):
            return "FailureTarget", *EXCEEDED
        if deadline is not None and "startTime" in self.status and not self.spec["suspend"]:
            left = deadline - seconds_since(self.status["startTime"])
            if left <= 0:
                return "FailureTarget", *LATE
            enqueue(self.key, left)
        wanted = self.spec.get("completions")
        if wanted is not None and succeeded >= wanted and not active and not self.spec["suspend"]:
            return "SuccessCriteriaMet", *REACHED
        return None

    def _manage(self, active, succeeded, failed, enqueue, retries):
        """Make and delete pods. Returns those that are active then, and what kept one from being made."""
        if self.spec["suspend"]:
            for pod in active:
                self._untrack(pod)
                self._delete(pod)
            self._suspended(True)
            return [], None
        self._suspended(False)
        wanted = min(self.spec["parallelism"], self.spec.get("completions", 1) - succeeded)
        missing = max(0, wanted - len(active))
        if missing and (left := self._backoff(failed)) > 0:
            enqueue(self.key, left)
            return active, None
        for _ in range(missing):
            try:
                pod = self.api.create_pod(self.key[0], self._pod())
            except refusals.Refusal as refusal:
                self._event("Warning", "FailedCreate", f"Error creating: {refusal}")
                retries[self.key] = retries.get(self.key, 0) + 1
                enqueue(self.key, min(2 ** retries[self.key], 600) * self.pace)
                return active, None
            retries.pop(self.key, None)
            active = [*active, pod]
            self._event("Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")
        return active, None

    def _backoff(self, failed):
        """Seconds until a failed pod may be replaced."""
        count = self.status.get("failed", 0) + len(failed)
        if not count:
            return 0
        ended = max((_ended(pod) for pod in self.pods if _failed(pod)), default=0)
        return ended + min(BACKOFF * 2 ** (count - 1), 600) * self.pace - time.time()

    def _pod(self):
        metadata, template = self.job["metadata"], copy.deepcopy(self.spec["template"])
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        own = template.get("metadata", {})
        pod = {"metadata": {
            "generateName": f"{metadata['name'][:57]}-", "labels": own.get("labels", {}),
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            "finalizers": [TRACKING],
        }, "spec": template["spec"]}  # fmt: skip
        if own.get("annotations"):
            pod["metadata"]["annotations"] = own["annotations"]
        return pod

    def _suspended(self, suspended):
        conditions = self.status.setdefault("conditions", [])
        old = next((c for c in conditions if c["type"] == "Suspended"), None)
        status = "True" if suspended else "False"
        if (old is None and suspended) or (old is not None and old["status"] != status):
            if old is not None:
                conditions.remove(old)
            reason = ("JobSuspended", "Job suspended") if suspended else ("JobResumed", "Job resumed")
            conditions.append(_condition("Suspended", *reason, status))
            self._event("Normal", "Suspended" if suspended else "Resumed", reason[1])
            if not suspended:
                self.status["startTime"] = timestamp()
        if not conditions:
            del self.status["conditions"]

    def _count(self, active):
        ready = sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
            for pod in (active if not self.deleting else [p for p in self.pods if _active(p)])
        )
        terminating = [
            pod for pod in self.pods
            if ("deletionTimestamp" in pod["metadata"] or _uid(pod) in self.deleted) and not _ended_phase(pod)
        ]  # fmt: skip
        self.status.pop("active", None)
        if active:
            self.status["active"] = len(active)
        self.status["ready"] = ready
        self.status["terminating"] = len(terminating)
        self.status.setdefault("uncountedTerminatedPods", {})

    def _finish(self, target, succeeded, failed):
        """Count pods by way of the finalizer, then say how the Job ended."""
        uncounted = self.status["uncountedTerminatedPods"]
        for kind, pods in (("succeeded", succeeded), ("failed", failed)):
            if pods:
                uncounted[kind] = [*uncounted.get(kind, ()), *dict.fromkeys(map(_uid, pods))]
        if target and all(c["type"] != target[0] for c in self.status.get("conditions", ())):
            self.status.setdefault("conditions", []).append(_condition(*target))
        if uncounted:
            self._flush()
            for uid in [uid for uids in uncounted.values() for uid in uids]:
                for pod in self.pods:
                    if _uid(pod) == uid:
                        self._untrack(pod)
            for kind, uids in uncounted.items():
                self.status[kind] = self.status.get(kind, 0) + len(uids)
            self.status["uncountedTerminatedPods"] = {}
        else:
            self._flush()  # the count first, then the end: two updates, as a real controller writes them
        if target and self.status["terminating"] == 0:
            self._end(target)
        self._flush()

    def _end(self, target):
        kind = "Complete" if target[0] == "SuccessCriteriaMet" else "Failed"
        self.status["conditions"].append(_condition(kind, *target[1:]))
        if kind == "Complete":
            self.status["completionTime"] = timestamp()
        self._flush()
        if kind == "Complete":
            self._event("Normal", "Completed", "Job completed")
        else:
            self._event("Warning", target[1], target[2])

    # -- writing

    def _flush(self):
        """Write the status if it is another one. Returns whether it was."""
        status = copy.deepcopy(self.status)

        def edit(job):
            if job["metadata"]["uid"] != self.job["metadata"]["uid"] or job.get("status") == status:
                return False
            job["status"] = status
            return True

        before = self.store.version
        with self.store.lock:
            self.job = self.store.change(JOBS, *self.key, edit)
            return self.store.version != before

    def _event(self, kind, reason, message):
        self.store.event(JOBS, self.job, kind, reason, message, "job-controller")

    def _untrack(self, pod):
        without_finalizer(self.store, PODS, pod, TRACKING)

    def _release(self, pods):
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"] or _ended_phase(pod):
                self._untrack(pod)

    def _delete(self, pod):
        with contextlib.suppress(refusals.Refusal):
            self.store.delete(PODS, self.key[0], pod["metadata"]["name"])
            self.deleted.add(_uid(pod))
            self._event("Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")


def _condition(kind, reason, message, status="True"):
    now = timestamp()
    return {"type": kind, "status": status, "lastProbeTime": now, "lastTransitionTime": now, "reason": reason,
            "message": message}  # fmt: skip


def _uid(pod):
    return pod["metadata"]["uid"]


def _ended_phase(pod):
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def _active(pod):
    return not _ended_phase(pod) and "deletionTimestamp" not in pod["metadata"]


def _failed(pod):
    """A pod that is deleted counts as failed, since it may never come to a phase."""
    phase = pod["status"]["phase"]
    return phase == "Failed" or ("deletionTimestamp" in pod["metadata"] and phase != "Succeeded")


def _restarts(pod):
    status = pod["status"]
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return sum(container["restartCount"] for container in containers)


def _ended(pod):
    """When its last container ended, in seconds of the epoch."""
    states = [status["state"].get("terminated", {}) for status in pod["status"].get("containerStatuses", ())]
    times = [state.get("finishedAt") for state in states if state.get("finishedAt")]
    newest = max(times, default=pod["metadata"].get("deletionTimestamp", timestamp()))
    return datetime.strptime(newest, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
