"""The Kubernetes backend's verbs: a claim is a suspended Job, what is known of it stands on it, the work is its pod."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.kubernetes import ending, logs
from mlproj_core.backends.kubernetes.client import AccessRefused, Cluster, Conflict, Throttled
from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.connect import Clusters
from mlproj_core.backends.kubernetes.hold import KubernetesHold, Vanished, change, end, over
from mlproj_core.backends.kubernetes.labels import KEY
from mlproj_core.backends.kubernetes.objects import (
    CANCEL,
    CLAIM,
    HOLDER,
    MANAGED,
    OUTCOME,
    RECORD,
    RESULT,
    SETTLED,
    STARTED,
    Object,
    annotation,
    is_finished,
    leaving_pods,
)
from mlproj_core.backends.kubernetes.sight import judged, pods_of, verdict_on
from mlproj_core.backends.kubernetes.verdict import until_overdue
from mlproj_core.backends.kubernetes.watch import Waiter, loop_waiting, wait_in_loop, waiting
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import ContactLost, ExecutionException
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.launch import Launch
from mlproj_core.status import Outcome, RunStatus

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

    def configure(self, config: Object) -> KubernetesBackend:
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
                there = cluster.get("jobs", claim.name)
            if there is None:
                time.sleep(LOOK_INTERVAL)
                continue
            if there["metadata"].get("annotations", {}).get(CLAIM) == body["metadata"]["annotations"][CLAIM]:
                job = there  # it is ours: the answer to the first request was lost on its way
                break
            if not there["metadata"].get("deletionTimestamp"):
                return None
            time.sleep(LOOK_INTERVAL)  # it is being deleted; once it is gone the name is free
        return KubernetesHold(cluster, _handle(cluster, claim, job), self._config, work)

    def adopt(self, handle: RunHandle) -> KubernetesHold | None:
        """A hold on a claim that was not started, and that nobody has just set about completing."""
        cluster = self._cluster_of(handle)
        with _contact():
            job, verdict = judged(cluster, handle)
            if job is None or verdict.state is not State.UNSTARTED or job["metadata"].get("deletionTimestamp"):
                return None
            mark = {"resourceVersion": job["metadata"]["resourceVersion"], "annotations": {HOLDER: str(time.time())}}
            try:
                job = cluster.patch("jobs", handle.name, {"metadata": mark})
            except Conflict:  # somebody else was faster
                return None
        if job is None:
            return None
        return KubernetesHold(cluster, _handle(cluster, Claim.from_dict(annotation(job, CLAIM)), job), self._config)

    # -- looking

    def look(self, handle: RunHandle) -> Sighting:
        """What Job, pods and events say."""
        cluster = self._cluster_of(handle)
        with _contact():
            job, verdict = judged(cluster, handle)
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
        """Wait by the watch that all who wait in this process share."""
        until = None if timeout is None else time.monotonic() + timeout
        if timeout is not None and timeout < SHORT:
            while self.look(handle).state in _WAITED_FOR and (left := until - time.monotonic()) > 0:  # type: ignore[operator]
                time.sleep(min(left, LOOK_INTERVAL))
            return
        with _contact():
            _wait_until(self._cluster_of(handle), handle, _is_over, until)

    async def wait_async(self, handle: RunHandle, timeout: float | None) -> None:
        """As `wait`: the thread of the watch wakes the event loop."""
        import asyncio

        until = None if timeout is None else time.monotonic() + timeout
        with _contact():
            cluster = await asyncio.to_thread(self._cluster_of, handle)
            with loop_waiting(cluster, handle) as (waiter, woken):
                while (pause := await asyncio.to_thread(_pause, cluster, waiter, _is_over, until)) != 0:
                    await wait_in_loop(woken, pause)

    # -- output

    def read_output(self, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
        """What the pod's containers have printed since `cursor`."""
        with _contact():
            return logs.read(self._cluster_of(handle), handle, cursor)

    def follow_output(self, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Follow the pod's containers, one after the other."""
        with _contact():
            yield from logs.follow(self._cluster_of(handle), handle, cursor)
        self.wait(handle, None)  # the last line comes a moment before the Job is over

    async def follow_output_async(self, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """As `follow_output`, by looking again and again for what is new."""
        from contextlib import aclosing

        with _contact():
            async with aclosing(logs.follow_async(self._cluster_of(handle), handle, cursor)) as pieces:
                async for piece in pieces:
                    yield piece
        await self.wait_async(handle, None)

    def page(self, handle: RunHandle) -> str | None:
        """None: a cluster has no page of its own."""
        return None

    def read_result(self, handle: RunHandle) -> dict[str, Any] | None:
        """The JSON object at MLPROJ_RESULT: the termination message of the project's container."""
        with _contact():
            cluster = self._cluster_of(handle)
            job = cluster.get("jobs", handle.name)
            kept = annotation(job, RESULT) if job is not None else None
            text = str(kept) if kept is not None else logs.termination_message(cluster, handle)
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

        def edit(job: Object) -> Object | None:
            over = annotation(job, OUTCOME) is not None or annotation(job, CANCEL) is not None or is_finished(job)
            return None if over else mark

        with _contact(), suppress(Vanished):
            change(self._cluster_of(handle), handle, edit)

    def stop(self, handle: RunHandle) -> None:
        """Bring the Job to its end, and wait until its pods are gone."""
        self._end(handle, lambda: Outcome(RunStatus.KILLED, ending.cancelled(), ended_at=time.time()))

    def bury(self, handle: RunHandle) -> None:
        """End a Job that comes to nothing, with the reason for that as its outcome."""
        cluster = self._cluster_of(handle)
        with _contact():
            _, verdict = judged(cluster, handle)
        if verdict.state is State.LOST and verdict.outcome is not None:
            outcome = verdict.outcome
            self._end(handle, lambda: outcome, at_once=True)

    def _end(self, handle: RunHandle, outcome: Callable[[], Outcome], *, at_once: bool = False) -> None:
        """End a Job and return when none of its pods is left.

        Args:
            handle: of its attempt.
            outcome: what it comes to if it never started.
            at_once: whether it comes to that in any case; else to what the Job controller makes of it.
        """
        cluster, grace = self._cluster_of(handle), 0.0

        def edit(job: Object) -> Object | None:
            nonlocal grace
            grace = float(job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30))
            if is_finished(job) or job["metadata"].get("deletionTimestamp"):
                return None
            if annotation(job, OUTCOME) is not None:
                return None if job["spec"].get("activeDeadlineSeconds") == 0 else {"spec": over(job)}
            started = annotation(job, STARTED) is not None and not job["spec"].get("suspend")
            return {"spec": over(job)} if started and not at_once else end(job, outcome())

        with _contact():
            try:
                change(cluster, handle, edit)
            except Vanished:
                return
            _wait_until(cluster, handle, _is_gone, time.monotonic() + grace + STOP_PATIENCE)
            job, pods = cluster.get("jobs", handle.name), pods_of(cluster, handle)
            if not _is_gone(cluster, job, pods):
                names = ", ".join(pod["metadata"]["name"] for pod in leaving_pods(pods, time.time()))
                raise ContactLost(
                    f"Run {handle.tag} is to end, and {names or 'its Job'} in {cluster.where} has not done so "
                    f"{grace + STOP_PATIENCE:g} s later. The Job controller or the pod's node may be down."
                )

    def settled(self, handle: RunHandle) -> None:
        """Write on the Job that its outcome was delivered, with outcome and result: pods go before their Job does."""
        cluster = self._cluster_of(handle)
        with _contact():
            job, verdict = judged(cluster, handle)
            if job is None or annotation(job, SETTLED) is not None:
                return
            texts = {SETTLED: json.dumps({"at": time.time()})}
            if annotation(job, OUTCOME) is None and verdict.outcome is not None:
                outcome = logs.with_last_lines(cluster, handle, verdict.outcome)
                texts[OUTCOME] = json.dumps(outcome.to_dict())
                if outcome.status is RunStatus.FINISHED:
                    texts[RESULT] = json.dumps(logs.termination_message(cluster, handle))
            cluster.patch("jobs", handle.name, {"metadata": {"annotations": texts}})

    # -- inside

    def _cluster(self) -> Cluster:
        from mlproj_core.backends.kubernetes.template import read_template

        config = self._config
        namespace = config.namespace or read_template(config).namespace
        return self._clusters.configured(config.context, namespace, config.kubeconfig)

    def _cluster_of(self, handle: RunHandle) -> Cluster:
        return self._clusters.of_handle(handle.ref)


@contextmanager
def _contact() -> Iterator[None]:
    """What goes wrong here is about a run that is there: nothing is known of it, and it may well go on."""
    try:
        yield
    except (AccessRefused, Throttled) as error:
        raise ContactLost(str(error)) from error


def _handle(cluster: Cluster, claim: Claim, job: Object) -> RunHandle:
    record = annotation(job, RECORD)
    ref: dict[str, Any] = {
        "namespace": cluster.namespace,
        "job": claim.name,
        "server": cluster.server,
        "turn": list(claim.turn) if claim.turn is not None else None,
    }
    if cluster.context is not None:
        ref["context"] = cluster.context
    if cluster.kubeconfig is not None:
        ref["kubeconfig"] = cluster.kubeconfig
    run_id = record["run_id"] if record else ""
    return RunHandle(KubernetesBackend.name, claim.key, claim.attempt, run_id, ref)


Predicate = Callable[[Cluster, Object | None, Sequence[Object]], "bool | float"]
"""Whether something has come about: True, False, or seconds until it may have done so without anything happening."""


def _is_over(cluster: Cluster, job: Object | None, pods: Sequence[Object]) -> bool | float:
    verdict = verdict_on(cluster, job, pods)
    if verdict.state not in _WAITED_FOR:
        return True
    return verdict.again if verdict.again is not None else False


def _is_gone(cluster: Cluster, job: Object | None, pods: Sequence[Object]) -> bool | float:
    now = time.time()
    if job is None:
        return True
    if job["metadata"].get("deletionTimestamp"):
        return False
    if leaving := leaving_pods(pods, now):
        return until_overdue(leaving, now) or False
    return is_finished(job) or annotation(job, OUTCOME) is not None


def _wait_until(cluster: Cluster, handle: RunHandle, predicate: Predicate, until: float | None) -> None:
    """Return when something has come about, or the time has."""
    woken = threading.Event()
    with waiting(cluster, handle, woken.set) as waiter:
        while (pause := _pause(cluster, waiter, predicate, until)) != 0:
            woken.wait(pause)
            woken.clear()


def _pause(cluster: Cluster, waiter: Waiter, predicate: Predicate, until: float | None) -> float | None:
    """Seconds for which to wait for something to happen, None for any time; 0: there is nothing to wait for."""
    answer = predicate(cluster, *waiter.seen())
    if answer is True:
        return 0
    left = None if until is None else max(0.0, until - time.monotonic())
    pauses = [pause for pause in (left, answer or None) if pause is not None]
    return max(min(pauses), 0.0 if left == 0 else 0.01) if pauses else None
