"""The Kubernetes backend's verbs: a claim is a suspended Job, what is known of it stands on it, the work is its pod."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.kubernetes import ending, logs
from mlproj_core.backends.kubernetes.client import AccessRefused, Cluster, Conflict
from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.connect import Clusters
from mlproj_core.backends.kubernetes.hold import OVER, KubernetesHold, change, end
from mlproj_core.backends.kubernetes.labels import KEY
from mlproj_core.backends.kubernetes.objects import (
    CANCEL,
    CLAIM,
    MANAGED,
    OUTCOME,
    RECORD,
    SETTLED,
    STARTED,
    annotation,
    is_finished,
    living_pods,
)
from mlproj_core.backends.kubernetes.verdict import Verdict, judge, needs_events
from mlproj_core.backends.kubernetes.watch import Waiter, pods_of, waiting
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import ContactLost, ExecutionException
from mlproj_core.handle import RunHandle, attempt_name, key_digest
from mlproj_core.launch import Launch
from mlproj_core.status import Outcome, Phase, RunStatus

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

__all__ = ["KubernetesBackend"]

SHORT = 2.0
"""Seconds: whoever waits for no longer than this looks again then, instead of watching."""

LOOK_INTERVAL = 0.2
"""Seconds between looks while something is about to happen: a start, or the end of a pod."""

STOP_PATIENCE = 60.0
"""Seconds to wait for a pod that was ended, after its grace period."""

_WAITED_FOR = (State.LIVING, State.STARTING, State.UNSTARTED)


class KubernetesBackend:
    """Runs are Jobs of a cluster.

    Args:
        api_client: a client of the cluster, from whoever has its credentials; None finds the cluster by the kubeconfig,
            or by the pod that this runs in.
    """

    name = "kubernetes"
    exclusive_claims = False
    runs_here = False

    def __init__(self, api_client: ApiClient | None = None) -> None:
        self._clusters = Clusters(api_client)
        self._config = KubernetesConfig()

    def configure(self, config: Mapping[str, Any]) -> KubernetesBackend:
        """This backend with a caller's settings; see docs/kubernetes.md."""
        configured = KubernetesBackend.__new__(type(self))
        configured._clusters = self._clusters
        configured._config = KubernetesConfig.read(config)
        configured._cluster()
        return configured

    # -- claims

    def find(self, key: str) -> RunHandle | None:
        """The newest attempt of a key, by the label of its Job."""
        cluster = self._cluster()
        jobs, _ = cluster.list("jobs", labels=f"{MANAGED},{KEY}={key_digest(key)}")
        claims = [Claim.from_dict(value) for job in jobs if (value := annotation(job, CLAIM)) is not None]
        newest = max(claims, key=lambda claim: claim.attempt, default=None)
        if newest is None:
            return None
        job = next(job for job in jobs if job["metadata"]["name"] == newest.name)
        return _handle(cluster, newest, job)

    def claim(self, claim: Claim, launch: Launch | None) -> KubernetesHold | None:
        """Create the attempt's Job, suspended; a tombstone is one that ends without a pod."""
        from mlproj_core.backends.kubernetes.work import prepare, tombstone

        cluster = self._cluster()
        work = prepare(claim, launch, self._config, cluster) if launch is not None else None
        body = work.job() if work is not None else tombstone(claim, self._config, cluster.namespace)
        if work is not None:
            work.rehearse(cluster)
        while True:
            try:
                job = cluster.create("jobs", body)
                break
            except Conflict:
                job = cluster.get("jobs", claim.name)
                if job is None:
                    continue
                if body["metadata"]["annotations"][CLAIM] == job["metadata"].get("annotations", {}).get(CLAIM):
                    break  # it is ours: the answer to the first request was lost on its way
                if not job["metadata"].get("deletionTimestamp"):
                    return None
            time.sleep(LOOK_INTERVAL)  # it is being deleted; once it is gone the name is free
        return KubernetesHold(cluster, _handle(cluster, claim, job), work)

    def adopt(self, handle: RunHandle) -> KubernetesHold | None:
        """A hold on a claim that was not started; there may be several."""
        cluster = self._cluster_of(handle)
        with _contact():
            job = cluster.get("jobs", handle.name)
        if job is None or job["metadata"].get("deletionTimestamp"):
            return None
        if annotation(job, STARTED) is not None or annotation(job, OUTCOME) is not None:
            return None
        return KubernetesHold(cluster, _handle(cluster, Claim.from_dict(annotation(job, CLAIM)), job))

    # -- looking

    def look(self, handle: RunHandle) -> Sighting:
        """What Job, pods and events say."""
        cluster = self._cluster_of(handle)
        with _contact():
            job, verdict = _judged(cluster, handle)
            if verdict.outcome is not None and job is not None and annotation(job, OUTCOME) is None:
                verdict = replace(verdict, outcome=logs.with_last_lines(cluster, handle, verdict.outcome))
        if job is None:
            return Sighting(State.GONE)
        record = annotation(job, RECORD)
        deleted = bool(job["metadata"].get("deletionTimestamp"))
        return Sighting(
            state=verdict.state,
            claim=Claim.from_dict(annotation(job, CLAIM)),
            record=Record.from_dict(record) if record else None,
            phase=verdict.phase,
            outcome=verdict.outcome if verdict.state is State.ENDED else None,
            # Whoever deletes a Job wants an end of it, and it comes to one whatever we do.
            cancel_requested=annotation(job, CANCEL) is not None or deleted,
            settled=annotation(job, SETTLED) is not None,
        )

    def ended_with_asker(self, handle: RunHandle) -> bool:
        """A Job outlives whoever asked for it."""
        return False

    def wait(self, handle: RunHandle, timeout: float | None) -> None:
        """Wait by the watch that all waits of this process share."""
        until = None if timeout is None else time.monotonic() + timeout
        cluster = self._cluster_of(handle)
        if timeout is not None and timeout < SHORT:
            self._wait_shortly(handle, time.monotonic() + timeout)
            return
        woken = threading.Event()
        with waiting(cluster, handle, woken.set) as waiter, _contact():
            while True:
                woken.clear()
                pause = _pause(cluster, waiter, until)
                if pause is not None and pause <= 0:
                    return
                woken.wait(pause)

    async def wait_async(self, handle: RunHandle, timeout: float | None) -> None:
        """As `wait`; the watch wakes the event loop."""
        import asyncio

        until = None if timeout is None else time.monotonic() + timeout
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        cluster = await asyncio.to_thread(self._cluster_of, handle)

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(woken.set)

        with waiting(cluster, handle, wake) as waiter, _contact():
            while True:
                woken.clear()
                pause = await asyncio.to_thread(_pause, cluster, waiter, until)
                if pause is not None and pause <= 0:
                    return
                try:
                    await asyncio.wait_for(woken.wait(), pause)
                except asyncio.TimeoutError:
                    continue

    def _wait_shortly(self, handle: RunHandle, until: float) -> None:
        while self.look(handle).state in _WAITED_FOR:
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, LOOK_INTERVAL))

    # -- output

    def read_output(self, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
        """What the pod's containers have printed since `cursor`."""
        with _contact():
            return logs.read(self._cluster_of(handle), handle, cursor)

    def follow_output(self, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Follow the pod's containers, one after the other."""
        with _contact():
            yield from logs.follow(self._cluster_of(handle), handle, cursor)

    async def follow_output_async(self, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """As `follow_output`, by looking again and again for what is new."""
        from contextlib import aclosing

        with _contact():
            async with aclosing(logs.follow_async(self._cluster_of(handle), handle, cursor)) as pieces:
                async for piece in pieces:
                    yield piece

    def page(self, handle: RunHandle) -> str | None:
        """None: a cluster has no page of its own."""
        return None

    def read_result(self, handle: RunHandle) -> dict[str, Any] | None:
        """The JSON object at MLPROJ_RESULT: the termination message of the project's container."""
        with _contact():
            text = logs.termination_message(self._cluster_of(handle), handle)
        if not text.strip():
            return None
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ExecutionException(
                f"The project's result is not JSON ({error}): of what it wrote to MLPROJ_RESULT, Kubernetes keeps the "
                f"first 4096 bytes, and these are {len(text.encode())}."
            ) from error
        if not isinstance(value, dict):
            raise ExecutionException("The project's result, at MLPROJ_RESULT, is not a JSON object.")
        return value

    # -- ending

    def mark_cancelled(self, handle: RunHandle) -> None:
        """Write the cancel mark on the Job, if it is not over."""
        mark = {"metadata": {"annotations": {CANCEL: json.dumps({"at": time.time()})}}}

        def edit(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
            over = annotation(job, OUTCOME) is not None or annotation(job, CANCEL) is not None or is_finished(job)
            return None if over else mark

        with _contact():
            change(self._cluster_of(handle), handle, edit)

    def stop(self, handle: RunHandle) -> None:
        """Bring the Job to its end, and wait until its pods are gone."""
        killed = Outcome(RunStatus.KILLED, ending.cancelled(), ended_at=time.time())
        with _contact():
            self._end(handle, killed)

    def bury(self, handle: RunHandle) -> None:
        """End a Job that will come to nothing, with the reason for that as its outcome."""
        cluster = self._cluster_of(handle)
        with _contact():
            _, verdict = _judged(cluster, handle)
            if verdict.state is State.LOST and verdict.outcome is not None:
                self._end(handle, verdict.outcome)

    def _end(self, handle: RunHandle, outcome: Outcome) -> None:
        """Write down an outcome, unless the Job came to an end of its own, and return when no pod is left."""
        cluster = self._cluster_of(handle)

        def edit(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if is_finished(job) or annotation(job, OUTCOME) is not None:
                return None
            started = annotation(job, STARTED) is not None
            return {"spec": dict(OVER)} if started and outcome.status is RunStatus.KILLED else end(job, outcome)

        patience = None
        while True:
            job = cluster.get("jobs", handle.name)
            if job is None:
                return
            pods = pods_of(cluster, handle)
            if not job["metadata"].get("deletionTimestamp"):
                ...
            return

    def settled(self, handle: RunHandle) -> None:
        """Write on the Job that the outcome was delivered, and the outcome: pods may be gone before it is."""
        cluster = self._cluster_of(handle)

    # -- inside

    def _cluster(self) -> Cluster:
        return self._clusters.configured(self._config.context, self._config.namespace)

    def _cluster_of(self, handle: RunHandle) -> Cluster:
        return self._clusters.of_handle(handle.ref)
