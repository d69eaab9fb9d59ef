"""The state of a task that mirrors a run: what the run's end is in Prefect's words."""

from __future__ import annotations

import inspect
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import CancelledRun, CrashedRun, FailedRun
from prefect.results import ResultRecord, get_result_store, should_persist_result  # type: ignore[attr-defined]
from prefect.states import Cancelled, Completed, Crashed, Failed
from prefect.tasks import Task
from prefect.transactions import get_transaction

from mlproj_core.errors import MlprojError
from mlproj_core.retries import retry_can_help
from mlproj_core.runs import SubmittedRun
from mlproj_core.status import ReasonCode, RunStatus

__all__ = ["completed", "ended", "only_if_it_can_help", "refused", "value_of"]

_NOBODY_KNOWS = (ReasonCode.LOST, ReasonCode.FORGOTTEN)
"""Reasons of a run that was not ended by itself, nor by anybody's wish."""


def completed(value: Any, message: str) -> State[Any]:
    """The state of a task that did what it was for.

    Args:
        value: the task's result.
        message: what the state says.
    """
    store, transaction = get_result_store(), get_transaction()
    key = transaction.key if transaction is not None else None
    if key is not None or not should_persist_result():
        return Completed(message=message, data=value)  # Prefect stores it, under the cache's key
    # Of a task without a cache Prefect stores nothing, whatever `persist_result` says.
    record = store.create_result_record(value)
    store.persist_result_record(record)
    return Completed(message=message, data=record)


def ended(run: SubmittedRun, task: Task[..., Any], task_run: TaskRun) -> State[Any]:
    """The state of a task whose run is over and did not finish.

    Args:
        run: the run.
        task: the task.
        task_run: its task run.
    """
    failure, status = run.failure(), run.get_status()
    code = failure.reason.code if failure.reason is not None else None
    message = str(failure)
    if code in _NOBODY_KNOWS:
        again: State[Any] = Failed(message=message, data=failure)
        # Prefect does not retry what has crashed; so it is that only once there is no try left.
        return again if _is_retried(task, task_run, again) else Crashed(message=message)
    if status is RunStatus.KILLED:
        return Cancelled(message=message)
    if code is ReasonCode.TIMEOUT:
        return Failed(name="TimedOut", message=message, data=failure)
    return Failed(message=message, data=failure)


def refused(error: MlprojError) -> State[Any]:
    """The state of a task whose run could not be had; without the traceback that Prefect logs of an exception."""
    return Failed(message=str(error), data=error)


def only_if_it_can_help(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: no retry is spent where the next try would end in the same way."""
    data = state.data.result if isinstance(state.data, ResultRecord) else state.data
    return not isinstance(data, BaseException) or retry_can_help(data)


def value_of(state: State[Any]) -> Any:
    """The value of a state that a task returned.

    Raises:
        MlprojError: the run failed, or could not be had.
        CancelledRun: it was cancelled.
        CrashedRun: it was lost.
    """
    data = state.data.result if isinstance(state.data, ResultRecord) else state.data
    if state.is_completed():
        return data
    if isinstance(data, MlprojError):
        raise data
    kind = CancelledRun if state.is_cancelled() else CrashedRun if state.is_crashed() else FailedRun
    raise kind(state.message or str(state))


def _is_retried(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect will try again after this state, by its own rules."""
    if task_run.run_count > task.retries:
        return False
    condition: Any = task.retry_condition_fn
    return condition is None or inspect.iscoroutinefunction(condition) or bool(condition(task, task_run, state))
