"""What can be said of a run: its status, the phase it is in, and the reason for its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Outcome", "Phase", "Reason", "ReasonCode", "RunStatus"]


class _Word(str, Enum):
    """A string with a fixed set of values: prints and serializes as the bare word."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, format_spec: str) -> str:
        return format(str(self.value), format_spec)


class RunStatus(_Word):
    """Status of a run, by the names of `mlflow.entities.RunStatus`.

    A run that is queued or still building its environment is RUNNING; its phase says which.
    """

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @staticmethod
    def is_terminated(status: RunStatus | str) -> bool:
        """Whether a run of this status is over."""
        return RunStatus(status) is not RunStatus.RUNNING


class Phase(_Word):
    """Where a run is on its way. Only `ENDED` is final."""

    QUEUED = "queued"
    ENVIRONMENT = "environment"
    IMAGE = "image"
    DATA = "data"
    RUNNING = "running"
    ENDED = "ended"


class ReasonCode(_Word):
    """Why a run ended as it did, or was never started."""

    USER_INPUT = "user_input"
    PROJECT_CODE = "project_code"
    SOURCE = "source"
    ENVIRONMENT = "environment"
    DATA = "data"
    IMAGE = "image"
    CAPACITY = "capacity"
    OOM = "oom"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    TRACKING = "tracking"
    LOST = "lost"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class Reason:
    """Why a run ended.

    Attributes:
        code: what kind of end it was.
        message: one sentence for people.
        retryable: whether running it again without a change can help.
        exit_code: exit status of the entry point's process (0 to 255), None if it did not exit by itself.
        signal: number of the signal that ended it, None if none did.
        output: the last lines the project printed, oldest first.
    """

    code: ReasonCode
    message: str
    retryable: bool = False
    exit_code: int | None = None
    signal: int | None = None
    output: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """This reason as a JSON value."""
        return {**asdict(self), "code": str(self.code), "output": list(self.output)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Reason:
        """The reason that `to_dict` wrote, or a release before this one; unknown keys are ignored."""
        return cls(
            code=ReasonCode(value["code"]),
            message=str(value["message"]),
            retryable=bool(value.get("retryable", False)),
            exit_code=value.get("exit_code"),
            signal=value.get("signal"),
            output=tuple(value.get("output", ())),
        )


@dataclass(frozen=True)
class Outcome:
    """How a run ended: written once to its claim, to MLflow's status and to the tag `mlproj.outcome`.

    Attributes:
        status: FINISHED, FAILED or KILLED.
        reason: why; None exactly when the status is FINISHED.
        ended_at: when, in seconds since the epoch.
        phases: seconds spent in each phase, by its name.
    """

    status: RunStatus
    reason: Reason | None = None
    ended_at: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """This outcome as a JSON value."""
        return {
            "status": str(self.status),
            "reason": self.reason.to_dict() if self.reason else None,
            "ended_at": self.ended_at,
            "phases": dict(self.phases),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_dict` wrote; unknown keys are ignored."""
        reason = value.get("reason")
        return cls(
            status=RunStatus(value["status"]),
            reason=Reason.from_dict(reason) if reason else None,
            ended_at=float(value.get("ended_at", 0.0)),
            phases=dict(value.get("phases", {})),
        )
