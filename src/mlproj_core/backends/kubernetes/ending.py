"""Why a Job failed: from its conditions, its pods, and what happened to them."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence

from mlproj_core.backends.kubernetes.objects import Object, condition, main_container, newest, seconds, status_of
from mlproj_core.status import Reason, ReasonCode

__all__ = ["cancelled", "failure", "phases", "terminated"]

CODE_CONTAINER = "mlproj-code"
"""The init container that brings the code in; see `code.code_container`."""

_PREEMPTED = ("PreemptionByScheduler", "DeletionByTaintManager", "EvictionByEvictionAPI", "DeletionByPodGC")
_NO_ROOM = ("Evicted", "OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage", "UnexpectedAdmissionError")


def cancelled(when: str = "") -> Reason:
    """Of a run that was cancelled."""
    return Reason(ReasonCode.CANCELLED, f"the run was cancelled {when}".rstrip())


def failure(job: Object, pods: Sequence[Object], events: Sequence[Object], said: str) -> Reason:
    """The reason for the end of a Job that failed.

    Args:
        job: the Job.
        pods: what is left of its pods.
        events: what happened to Job and pods.
        said: the reason of the Job's own condition.
    """
    pod = newest(pods)
    if said == "DeadlineExceeded":
        return _late(job, pod, events)
    if pod is None:
        words = _warnings(events)
        return Reason(ReasonCode.LOST, f"the run's pod was deleted{words}", retryable=True)
    return _of_node(pod) or _of_containers(pod) or _unknown(pod, events, said)


def terminated(pod: Object, container: str) -> Object | None:
    """How a container ended; None if it did not."""
    status = status_of(pod, container)
    for name in ("state", "lastState"):
        ended: Object | None = (status.get(name) or {}).get("terminated")
        if ended is not None:
            return ended
    return None


def phases(job: Object, pods: Sequence[Object]) -> dict[str, float]:
    """Seconds spent in each phase, as far as the objects tell: they give whole seconds."""
    pod = newest(pods)
    ended = terminated(pod, main_container(pod)) if pod is not None else None
    begun = seconds(job["status"].get("startTime"))
    if pod is None or ended is None or begun is None:
        return {}
    scheduled = condition(pod, "PodScheduled")
    placed = seconds(scheduled["lastTransitionTime"]) if scheduled else None
    started, finished = seconds(ended.get("startedAt")), seconds(ended.get("finishedAt"))
    if placed is None or not started or not finished:  # 0 stands for a container that never started
        return {}
    spans = {"queued": placed - begun, "image": started - placed, "running": finished - started}
    return {name: span for name, span in spans.items() if span >= 0}


def _late(job: Object, pod: Object | None, events: Sequence[Object]) -> Reason:
    limit = job["spec"].get("activeDeadlineSeconds")
    message = f"the run took longer than its timeout of {limit} seconds"
    started = any(event.get("reason") == "Started" for event in events) or (
        pod is not None and terminated(pod, main_container(pod)) is not None
    )
    if not started and (words := _warnings(events)):
        message += f", before it had begun{words}"
    return Reason(ReasonCode.TIMEOUT, message, retryable=True)


def _of_node(pod: Object) -> Reason | None:
    """What the node or the scheduler did to a pod, whatever its containers say then."""
    status = pod["status"]
    kind, said = str(status.get("reason", "")), str(status.get("message", ""))
    target = condition(pod, "DisruptionTarget")
    if kind in _NO_ROOM:
        return Reason(ReasonCode.CAPACITY, f"the pod was put off its node ({kind}): {said}", retryable=True)
    if target is not None and target.get("reason") in _PREEMPTED:
        code = ReasonCode.CAPACITY if target["reason"] == "PreemptionByScheduler" else ReasonCode.LOST
        return Reason(code, f"the pod was ended by the cluster: {target.get('message')}", retryable=True)
    if kind in ("NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "Preempted"):
        return Reason(ReasonCode.LOST, f"the pod went down with its node ({kind}): {said}", retryable=True)
    return None


def _of_containers(pod: Object) -> Reason | None:
    main = main_container(pod)
    names = [*(one["name"] for one in pod["spec"].get("initContainers", ())), main]
    names += [one["name"] for one in pod["spec"]["containers"] if one["name"] != main]
    for name in names:
        ended = terminated(pod, name)
        if ended is not None and ended["exitCode"] != 0:
            return _of_container(pod, name, ended, main)
    return None


def _of_container(pod: Object, name: str, ended: Object, main: str) -> Reason:
    code, kind, said = int(ended["exitCode"]), str(ended.get("reason", "")), str(ended.get("message", "") or "")
    its = "" if name == main else f" of the container {name}"
    if (told := _told(said)) is not None:
        return told
    if kind == "OOMKilled":
        limit = _limit(pod, name)
        bound = f"its memory limit of {limit}" if limit else "the memory of its node"
        message = f"the kernel ended a process{its} because it used more than {bound}"
        return Reason(ReasonCode.OOM, message, exit_code=code, signal=_signal(code))
    if kind == "ContainerStatusUnknown":
        return Reason(ReasonCode.LOST, f"the node lost the container {name}: {said}", retryable=True)
    if name == CODE_CONTAINER:
        lines = tuple(said.splitlines())
        message = f"the code could not be brought into the pod: {lines[-1] if lines else f'exit status {code}'}"
        return Reason(ReasonCode.SOURCE, message, retryable=True, exit_code=code, output=lines)
    if kind in ("StartError", "ContainerCannotRun"):
        return Reason(ReasonCode.PROJECT_CODE, f"the command{its} could not be started: {said}", exit_code=code)
    number = _signal(code)
    if number is not None:
        # A process that exits with 128 + n tells the same: nobody can see from outside which it was.
        message = f"the project's process{its} was ended by {signal.Signals(number).name}"
    else:
        message = f"the project's process{its} exited with status {code}"
    if name != main:
        message = message.replace("the project's process of", "the process of")
    return Reason(ReasonCode.PROJECT_CODE, message, exit_code=code, signal=number, retryable=number == signal.SIGKILL)


def _told(message: str) -> Reason | None:
    """What the launcher left: `{"mlproj": {"error": {"code", "message", "retryable"}}}`."""
    try:
        error = json.loads(message)["mlproj"]["error"]
        return Reason(ReasonCode(error["code"]), str(error["message"]), retryable=bool(error.get("retryable")))
    except (ValueError, KeyError, TypeError):
        return None


def _unknown(pod: Object, events: Sequence[Object], said: str) -> Reason:
    kind = pod["status"].get("reason") or said
    message = f"the pod failed ({kind}): {pod['status'].get('message', 'the cluster does not say why')}"
    return Reason(ReasonCode.LOST, message + _warnings(events), retryable=True)


def _limit(pod: Object, container: str) -> str | None:
    for one in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
        if one["name"] == container:
            limit = one.get("resources", {}).get("limits", {}).get("memory")
            return None if limit is None else str(limit)
    return None


def _signal(code: int) -> int | None:
    number = code - 128
    return number if number in {one.value for one in signal.Signals} else None


def _warnings(events: Sequence[Object]) -> str:
    """The last warning among events, as the end of a sentence."""
    said = [str(e["message"]) for e in events if e.get("type") == "Warning" and e.get("reason") not in _NOISE]
    return f": {said[-1]}" if said else ""


_NOISE = ("MissingClusterDNS", "BackoffLimitExceeded", "DeadlineExceeded", "DNSConfigForming", "BackOff")
