"""Every error that mlproj raises on purpose, in one tree under `MlprojError`.

A user's mistake (`UserError`) is told apart from a failure of the world (`ContactLost`, `TrackingError`)
and from a run that was started and did not succeed (`ExecutionException`), because a pipeline treats
them differently: the first is never worth a retry, the second often is, the third depends on its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlproj_core.handle import RunHandle
    from mlproj_core.status import Reason

__all__ = [
    "ContactLost",
    "DataError",
    "EnvironmentBuildError",
    "ExecutionException",
    "ImageError",
    "InvalidParameters",
    "InvalidProject",
    "MlprojError",
    "SourceError",
    "Superseded",
    "TrackingError",
    "TrackingRefused",
    "UserError",
]


class MlprojError(Exception):
    """Base of every error raised on purpose by mlproj. Its text says what, where, and how to mend it."""

    exit_code = 1
    """Exit status of the command line when this error ends it (the `mlproj` program's contract)."""


class ExecutionException(MlprojError):
    """A project could not be run, or ran and did not finish; the name is MLflow's.

    Attributes:
        reason: why the run ended as it did; None when no run was started.
        handle: the run's handle; None when no run was started.
    """

    def __init__(self, message: str, *, reason: Reason | None = None, handle: RunHandle | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.handle = handle


class UserError(ExecutionException):
    """What the caller gave cannot be run: a retry cannot help, the caller must mend it.

    It is an `ExecutionException` because MLflow raises that for such mistakes, and callers catch it.
    """

    exit_code = 2


class InvalidProject(UserError):
    """An MLproject, python_env.yaml or conda.yaml file cannot be used.

    Attributes:
        problems: one text for each problem found in the file, each with file, line and remedy.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class InvalidParameters(UserError):
    """Parameters were refused; the message lists every one of them.

    Attributes:
        problems: one text for each refused parameter.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class SourceError(ExecutionException):
    """A project's source could not be fetched: no such repository, version or subdirectory, or no access."""


class DataError(ExecutionException):
    """Data for a parameter could not be fetched: it is not there, may not be read, or its store is out of reach."""


class EnvironmentBuildError(ExecutionException):
    """An environment could not be made; the message carries the installer's own words."""


class ImageError(ExecutionException):
    """A container's image could not be had: there is none, its registry refused or is out of reach, a build failed."""


class TrackingError(MlprojError):
    """The tracking server or store could not be reached or answered with a fault of its own."""


class TrackingRefused(TrackingError):
    """The tracking server refused: bad credentials or no permission. A retry cannot help."""


class ContactLost(MlprojError):
    """A run's backend cannot be reached, so nothing is known of the run. Not a status: ask again."""


class Superseded(MlprojError):
    """A later try of the same step has already claimed the work; this caller must touch nothing."""
