"""The variables by which a tracking server is found: this process's, or those that were lent for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

__all__ = ["OF_A_SERVER", "are_lent", "lend", "surroundings"]

OF_A_SERVER = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_WORKSPACE",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
"""Variables that say how to speak to one server, and must not be mixed with those of another."""

_lent: ContextVar[Mapping[str, str] | None] = ContextVar("mlproj_lent_variables", default=None)


def surroundings() -> Mapping[str, str]:
    """The variables that hold here: those that were lent, else this process's."""
    lent = _lent.get()
    return os.environ if lent is None else lent


def are_lent() -> bool:
    """Whether the variables that hold here were lent."""
    return _lent.get() is not None


@contextlib.contextmanager
def lend(variables: Mapping[str, str]) -> Iterator[None]:
    """Let these variables name the tracking server in this context, and nowhere else in the process.

    So several steps of one process speak to several servers at once. A thread sees it that runs in a copy of this
    context (`contextvars.copy_context`).

    Args:
        variables: those of `OF_A_SERVER` that hold; the process's own others stay, of these none does.
    """
    others = {name: value for name, value in os.environ.items() if name not in (*OF_A_SERVER, "MLPROJ_TRACKING")}
    token = _lent.set({**others, **variables})
    try:
        yield
    finally:
        _lent.reset(token)
