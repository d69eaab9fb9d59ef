"""Is it over, and how: the one table from what Databricks says of a run to what mlproj says.

A run that was submitted has a state, and so has its one task; where they differ, the task's is the closer one: of a
task that failed, the run itself says INTERNAL_ERROR, and while a task waits for its cluster, the run says RUNNING.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlproj_core.backends.backend import State
from mlproj_core.backends.databricks.output import last_lines, plain, word
from mlproj_core.status import Outcome, Phase, Reason, ReasonCode, RunStatus

__all__ = ["CODES", "PHASES", "RESULTS", "Ending", "Verdict", "cancelled", "is_over", "judge", "task_of"]

Json = Mapping[str, Any]

_WORKLOAD: Final = "Workload failed"
"""What is said of a task whose own code failed, whatever its state is called."""

_LONGEST = 2000
"""Characters of what Databricks says that go into a message."""


@dataclass(frozen=True)
class Ending:
    """What an end comes to.

    Attributes:
        code: of the reason; None: the run has finished.
        words: half a sentence, which Databricks' own words follow.
        retryable: whether running it again can help.
        vague: whether it says so little that Databricks' own words may tell more.
    """

    code: ReasonCode | None
    words: str = ""
    retryable: bool = False
    vague: bool = False


_C = ReasonCode
_PROJECT = Ending(_C.PROJECT_CODE, "the project failed", vague=True)
_TIMEOUT = Ending(_C.TIMEOUT, "the run took longer than its timeout", retryable=True)
_CANCELLED = Ending(_C.CANCELLED, "the run was cancelled")
_FULL = "the workspace has no room for the run"
_NEVER = "the run was never executed"

PHASES: Final[Mapping[str, Phase]] = {
    "QUEUED": Phase.QUEUED,
    "BLOCKED": Phase.QUEUED,
    "WAITING": Phase.QUEUED,
    "WAITING_FOR_RETRY": Phase.QUEUED,
    "PENDING": Phase.ENVIRONMENT,
    "RUNNING": Phase.RUNNING,
    "TERMINATING": Phase.RUNNING,
    "TERMINATED": Phase.ENDED,
    "SKIPPED": Phase.ENDED,
    "INTERNAL_ERROR": Phase.ENDED,
}
"""Where a run is, by `life_cycle_state`, or by `status.state`. What is not there lives: it is of a later release."""

CODES: Final[Mapping[str, Ending]] = {
    "SUCCESS": Ending(None),
    "SUCCESS_WITH_FAILURES": _PROJECT,
    "USER_CANCELED": _CANCELLED,
    "CANCELED": _CANCELLED,
    "RUN_EXECUTION_ERROR": _PROJECT,
    # of the cloud, or of what others do in the workspace
    "CLOUD_FAILURE": Ending(_C.CAPACITY, "the cloud provider failed", True, True),
    "CLUSTER_ERROR": Ending(_C.CAPACITY, "the cluster failed", True, True),
    "CLUSTER_REQUEST_LIMIT_EXCEEDED": Ending(_C.CAPACITY, "too many clusters were asked for at once", True),
    "WORKSPACE_RUN_LIMIT_EXCEEDED": Ending(_C.CAPACITY, _FULL, True),
    "MAX_CONCURRENT_RUNS_EXCEEDED": Ending(_C.CAPACITY, _FULL, True),
    "MAX_JOB_QUEUE_SIZE_EXCEEDED": Ending(_C.CAPACITY, _FULL, True),
    "MAX_SPARK_CONTEXTS_EXCEEDED": Ending(_C.CAPACITY, "the cluster has no room for another context", True),
    "BUDGET_POLICY_LIMIT_EXCEEDED": Ending(_C.CAPACITY, "the budget policy's limit is reached"),
    "SKIPPED": Ending(_C.CAPACITY, _NEVER, True),
    "CLUSTER_TERMINATED_BY_USER": Ending(_C.LOST, "the cluster was ended under the run", True),
    "DRIVER_ERROR": Ending(_C.LOST, "the Spark driver is gone", True, True),
    "INTERNAL_ERROR": Ending(_C.LOST, "Databricks failed", True, True),
    "BREAKING_CHANGE": Ending(_C.LOST, "the run met a change in Spark, which Databricks mitigates", True),
    # of what was asked for
    "DISABLED": Ending(_C.USER_INPUT, f"{_NEVER}: it was disabled"),
    "FEATURE_DISABLED": Ending(_C.USER_INPUT, "the workspace does not have a feature that was asked for"),
    "INVALID_CLUSTER_REQUEST": Ending(_C.USER_INPUT, "there can be no such cluster", vague=True),
    "INVALID_RUN_CONFIGURATION": Ending(_C.USER_INPUT, "there can be no such run"),
    "RESOURCE_NOT_FOUND": Ending(_C.USER_INPUT, "something that the run needs is not there"),
    "UNAUTHORIZED_ERROR": Ending(_C.USER_INPUT, "the run lacks a permission"),
    # of what was to be brought in
    "LIBRARY_INSTALLATION_ERROR": Ending(_C.ENVIRONMENT, "a library could not be installed"),
    "REPOSITORY_CHECKOUT_FAILED": Ending(_C.SOURCE, "the repository could not be checked out", True),
    "STORAGE_ACCESS_ERROR": Ending(_C.DATA, "the workspace's storage could not be read", True),
}
"""What each `status.termination_details.code` comes to."""

RESULTS: Final[Mapping[str, Ending]] = {
    "SUCCESS": Ending(None),
    "SUCCESS_WITH_FAILURES": _PROJECT,
    "FAILED": _PROJECT,
    "TIMEDOUT": _TIMEOUT,
    "CANCELED": _CANCELLED,
    "MAXIMUM_CONCURRENT_RUNS_REACHED": Ending(_C.CAPACITY, _FULL, True),
    "EXCLUDED": Ending(_C.USER_INPUT, _NEVER),
    "DISABLED": CODES["DISABLED"],
    "UPSTREAM_FAILED": Ending(_C.USER_INPUT, _NEVER),
    "UPSTREAM_CANCELED": _CANCELLED,
}
"""What each `state.result_state` comes to, where no code tells more."""

_TYPES: Final[Mapping[str, Ending]] = {
    "CLIENT_ERROR": Ending(_C.USER_INPUT, "the run could not be executed as asked", vague=True),
    "CLOUD_FAILURE": CODES["CLOUD_FAILURE"],
    "INTERNAL_ERROR": CODES["INTERNAL_ERROR"],
}
"""What a code that is not known here comes to, by its type."""

_TOLD: Final = (
    # Clusters end with a reason of their own: `TerminationReasonCode` of the Clusters API.
    (
        re.compile(
            r"INSUFFICIENT|STOCKOUT|QUOTA|SPOT_INSTANCE|PREEMPT|(?<!_IN)CAPACITY|CLOUD_PROVIDER|INSTANCE_UNREACHABLE"
            r"|(?i:cloud provider|spot instance|insufficient .*capacity|became unreachable)"
        ),
        Ending(_C.CAPACITY, "the cloud had no room for the run, or took back what it had given", True),
    ),
    (re.compile(r"(?i)init.script"), Ending(_C.ENVIRONMENT, "an init script of the cluster failed")),
    (re.compile(r"(?i)out ?of ?memory|\boom\b"), Ending(_C.OOM, "the driver ran out of memory")),
    (
        re.compile(r"(?i)driver .*(stopped unexpectedly|not responsive|unavailable)|was terminated during the run"),
        Ending(_C.LOST, "the run lost its driver", True),
    ),
)
"""What Databricks' own words tell of an end that the codes are vague about. They are never the project's words."""


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a run.

    Attributes:
        state: LIVING or ENDED.
        phase: where it is on its way.
        outcome: how it ended; None while it lives.
        cancelled: whether somebody has asked for its end.
    """

    state: State
    phase: Phase
    outcome: Outcome | None = None
    cancelled: bool = False


def task_of(run: Json) -> Json:
    """The run's task, in its latest try if somebody repaired the run; nothing in it if there is none."""
    tasks: list[Json] = list(run.get("tasks") or ())
    return max(tasks, key=lambda task: int(task.get("attempt_number") or 0), default={})


def is_over(run: Json) -> bool:
    """Whether a run has come to its end."""
    return PHASES.get(_life(run)) is Phase.ENDED


def judge(run: Json, output: Json | None = None) -> Verdict:
    """The verdict on a run.

    Args:
        run: as `runs/get` gives it.
        output: as `runs/get-output` gives it for the run's task; None while the run lives, and where it is gone.
    """
    task, state = task_of(run), run.get("state") or {}
    wanted = bool(state.get("user_cancelled_or_timedout"))
    if not is_over(run):
        life = _life(task) if task and _life(run) == "RUNNING" else _life(run)
        phase = PHASES.get(life, Phase.RUNNING)
        return Verdict(State.LIVING, Phase.RUNNING if phase is Phase.ENDED else phase, cancelled=wanted)
    return Verdict(State.ENDED, Phase.ENDED, _outcome(run, task, output or {}), cancelled=wanted)


def cancelled(when: str = "") -> Reason:
    """Of a run that was cancelled."""
    return Reason(ReasonCode.CANCELLED, f"the run was cancelled {when}".rstrip())


def _outcome(run: Json, task: Json, output: Json) -> Outcome:
    ended_at = float(run.get("end_time") or task.get("end_time") or 0) / 1000
    phases = _phases(run, task)
    logs = str(output.get("logs") or "")
    said = word(logs) or {}
    ending = _ending(run, task)
    code = int(said.get("exit") or 0)
    if ending.code is None and code == 0:
        return Outcome(RunStatus.FINISHED, ended_at=ended_at, phases=phases)
    if ending.code is ReasonCode.CANCELLED:
        return Outcome(RunStatus.KILLED, cancelled(), ended_at=ended_at, phases=phases)
    if said and ending in (_PROJECT, Ending(None)):
        reason = _of_launcher(said, code)
    else:
        words = _words(run, task, output)
        reason = Reason(
            ending.code or ReasonCode.PROJECT_CODE, f"{ending.words}{f': {words}' if words else ''}", ending.retryable
        )
    trace = None if said else output.get("error_trace")
    reason = Reason(
        reason.code, reason.message, reason.retryable, reason.exit_code, reason.signal, last_lines(logs, trace)
    )
    return Outcome(RunStatus.FAILED, reason, ended_at=ended_at, phases=phases)


def _ending(run: Json, task: Json) -> Ending:
    results = [str((one.get("state") or {}).get("result_state") or "") for one in (task, run)]
    details = [(one.get("status") or {}).get("termination_details") or {} for one in (task, run)]
    codes = [str(one.get("code") or "") for one in details]
    if "TIMEDOUT" in results:  # its code is CANCELED, as that of any run that Databricks ends
        return _TIMEOUT
    if "CANCELED" in results or "USER_CANCELED" in codes:
        return _CANCELLED
    found = [CODES[code] for code in codes if code in CODES]
    found += [_TYPES[kind] for one in details if one.get("code") and (kind := str(one.get("type"))) in _TYPES]
    if not found and (results == ["", ""] or (_life(task or run) == "INTERNAL_ERROR" and _WORKLOAD not in _said(task))):
        found = [CODES[life] for one in (task, run) if (life := _life(one)) in CODES]
    found += [RESULTS[result] for result in results if result in RESULTS]
    # A task that has not failed says nothing of why its run did.
    ending = next((one for one in found if one.code is not None), found[0] if found else CODES["INTERNAL_ERROR"])
    if ending.vague:
        told = " ".join(_said(one) for one in (task, run))
        return next((better for pattern, better in _TOLD if pattern.search(told)), ending)
    return ending


def _of_launcher(said: Json, code: int) -> Reason:
    """What the launcher says of an end: its own failure, or the exit code of the project's process."""
    error = said.get("error")
    if isinstance(error, Mapping):
        kind = str(error.get("code"))
        known = kind in {str(one) for one in ReasonCode}
        return Reason(
            ReasonCode(kind) if known else ReasonCode.LOST,
            str(error.get("message")),
            retryable=bool(error.get("retryable")),
        )
    number = code - 128 if code - 128 in {one.value for one in signal.Signals} else None
    if number is not None:
        # A process that exits with 128 + n tells the same: nobody can see from outside which it was.
        message = f"the project's process was ended by {signal.Signals(number).name}"
    else:
        message = f"the project's process exited with status {code}"
    return Reason(ReasonCode.PROJECT_CODE, message, number == signal.SIGKILL, code, number)


def _words(run: Json, task: Json, output: Json) -> str:
    """What Databricks says of a failure: the exception of the task, else what it says of the task's or run's state."""
    for text in (str(output.get("error") or ""), _said(task), _said(run)):
        if text.strip():
            return plain(text).strip()[:_LONGEST]
    return ""


def _said(one: Json) -> str:
    details = (one.get("status") or {}).get("termination_details") or {}
    return str((one.get("state") or {}).get("state_message") or details.get("message") or "")


def _life(one: Json) -> str:
    return str((one.get("state") or {}).get("life_cycle_state") or (one.get("status") or {}).get("state") or "")


def _phases(run: Json, task: Json) -> dict[str, float]:
    """Seconds spent in each phase."""
    spans = {
        "queued": run.get("queue_duration"),
        "environment": task.get("setup_duration") or run.get("setup_duration"),
        "running": task.get("execution_duration") or run.get("execution_duration"),
    }
    return {name: float(span) / 1000 for name, span in spans.items() if span}
