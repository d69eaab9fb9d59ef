"""What a task makes of a run's end: its return value, or the exception that tells Airflow how to go on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from mlproj_core.errors import ExecutionException, MlprojError, TrackingError
from mlproj_core.retries import retry_can_help
from mlproj_core.status import RunStatus

if TYPE_CHECKING:
    from mlproj_core.handle import RunHandle
    from mlproj_core.runs import RunResult, SubmittedRun
    from mlproj_core.status import Reason

__all__ = ["VALUE_KEYS", "MLProjectFailed", "MLProjectRefused", "airflow_words", "conclude", "underway"]

VALUE_KEYS = ("run_id", "status", "experiment_id", "artifact_uri", "tracking_url", "metrics", "result", "handle")
"""Keys of the return value, each of which is also an XCom key of its own."""

_TRACKING_PATIENCE = 60.0
"""Seconds for which the metrics of a finished run are asked for again and again."""


class _Ended(AirflowException):
    """What both exceptions tell beside their text.

    Attributes:
        reason: why the run ended; None when none was started.
        handle: the run; None when none was started.
    """

    def __init__(self, message: str, *, reason: Reason | None = None, handle: RunHandle | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.handle = handle


class MLProjectFailed(_Ended):
    """The run failed, or could not be started, and another try may do better: Airflow's retries apply."""


class MLProjectRefused(_Ended, AirflowFailException):
    """Another try would end in the same way: the task fails at once, whatever retries it has left."""


def conclude(run: SubmittedRun, skip_on_exit_code: Collection[int]) -> dict[str, Any]:
    """The return value of a run that is over.

    Args:
        run: the run.
        skip_on_exit_code: exit codes of the project that skip the task.

    Raises:
        MLProjectFailed: it did not finish.
        MLProjectRefused: it did not finish, and would not if it were tried again.
        AirflowSkipException: the project exited with one of these codes.
    """
    try:
        result = _result(run)
    except ExecutionException as failure:
        reason = failure.reason
        if reason is not None and reason.exit_code in skip_on_exit_code:
            raise AirflowSkipException(
                f"The project exited with code {reason.exit_code}, which means that the task is skipped."
            ) from None
        raise _in_airflow_words(failure) from None
    return {
        "run_id": result.run_id,
        "status": str(result.status),
        "experiment_id": result.experiment_id,
        "artifact_uri": result.artifact_uri,
        "tracking_url": result.tracking_url,
        "metrics": {name: _json_number(value) for name, value in result.metrics.items()},
        "result": result.result,
        "handle": run.handle.to_dict(),
    }


def underway(run: SubmittedRun) -> dict[str, Any]:
    """The return value of a run that was submitted and is not waited for."""
    record = run.record
    return {
        "run_id": run.run_id,
        "status": str(RunStatus.RUNNING),
        "experiment_id": record.experiment_id if record else None,
        "artifact_uri": record.artifact_uri if record else None,
        "tracking_url": record.url if record else None,
        "metrics": {},
        "result": None,
        "handle": run.handle.to_dict(),
    }


@contextlib.contextmanager
def airflow_words() -> Iterator[None]:
    """Raise the core's errors as the exceptions that make Airflow retry a task, or not."""
    try:
        yield
    except MlprojError as error:
        raise _in_airflow_words(error) from None


def _in_airflow_words(error: MlprojError) -> AirflowException:
    kind = MLProjectFailed if retry_can_help(error) else MLProjectRefused
    return kind(str(error), reason=getattr(error, "reason", None), handle=getattr(error, "handle", None))


def _result(run: SubmittedRun) -> RunResult:
    """The run's result, with patience for a tracking server that is away just now."""
    try:
        return run.result(patience=_TRACKING_PATIENCE)
    except TrackingError as error:
        raise MLProjectFailed(
            f"Run {run.handle.tag} finished, but its metrics could not be had: {error} "
            "Another try does not run the project again, it only asks for them again.",
            handle=run.handle,
        ) from None


def _json_number(value: float) -> float | str:
    """A metric as JSON has it: NaN and the infinities are text, as in protobuf's JSON and MLflow's REST API."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
