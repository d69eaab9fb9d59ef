"""Choosing the tracking store."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mlproj_core.errors import UserError
from mlproj_core.tracking.record import Tracking
from mlproj_core.tracking.surroundings import are_lent, surroundings
from mlproj_core.tracking.untracked import UNTRACKED_URI, Untracked
from mlproj_core.tracking.uris import absolute, is_database, is_http, without_credentials

__all__ = ["PATIENCE", "connect"]

PATIENCE = 5.0
"""Seconds a call may spend on a server that is down, before it raises."""


def connect(
    tracking_uri: str | None = None, *, patience: float = PATIENCE, environ: Mapping[str, str] | None = None
) -> Tracking:
    """The place where runs are recorded. Asks nothing of it yet.

    The first of these that is given: the argument, MLPROJ_TRACKING=off (untracked), the URI set in this
    process by `mlflow.set_tracking_uri`, MLFLOW_TRACKING_URI, and the default store of an installed mlflow.
    With none of them, runs are untracked.

    Args:
        tracking_uri: any tracking URI that MLflow takes, or "untracked:". One without credentials takes
            those of MLFLOW_TRACKING_URI, if that is the same place with credentials.
        patience: seconds a call may spend on a server that is down, before it raises.
        environ: where the credentials of a tracking server are looked up; by default the variables that were lent
            in this context, else this process's.

    Raises:
        UserError: the URI, or a variable beside it, cannot be used.
    """
    around = surroundings()
    setting = around.get("MLPROJ_TRACKING", "").strip().lower()
    if setting not in ("", "on", "off", "mlflow"):
        raise UserError(
            f"MLPROJ_TRACKING must be on, off or mlflow, but it is {setting!r}. off: runs are untracked; "
            "mlflow: a tracking server is spoken to through mlflow itself."
        )
    if tracking_uri is None and setting == "off":
        return Untracked("Runs are not tracked: MLPROJ_TRACKING=off.")
    if tracking_uri == UNTRACKED_URI:
        return Untracked()
    uri = tracking_uri or _configured(around)
    if uri is None:
        return _default(patience)
    uri = _with_known_credentials(absolute(uri), around)
    if not is_http(uri):
        from mlproj_core.tracking.store import MlflowStore

        return MlflowStore(uri, patience=patience)
    reason = "MLPROJ_TRACKING=mlflow" if setting == "mlflow" else _needs_mlflow(around)
    if reason is not None:
        from mlproj_core.tracking.store import MlflowStore

        return MlflowStore(uri, patience=patience, wanted_by=reason)
    from mlproj_core.tracking.server import TrackingServer
    from mlproj_core.tracking.session import Session

    return TrackingServer(
        Session(uri, patience=patience, environ=around if environ is None else environ), mlflow_uri=uri
    )


def _configured(around: Mapping[str, str]) -> str | None:
    mlflow = sys.modules.get("mlflow")
    if not are_lent() and mlflow is not None and getattr(mlflow, "is_tracking_uri_set", bool)():
        return str(mlflow.get_tracking_uri())
    return around.get("MLFLOW_TRACKING_URI") or None


def _default(patience: float) -> Tracking:
    """The store that MLflow uses when it is told nothing; which one that is depends on its version."""
    from mlproj_core.tracking.store import MlflowStore, default_uri, is_installed

    if not is_installed():
        return Untracked(
            "Runs are not tracked: MLFLOW_TRACKING_URI is not set, and mlflow is not installed to keep a local store."
        )
    uri = absolute(default_uri())
    if is_database(uri) and not is_installed("sqlalchemy"):
        return Untracked(
            "Runs are not tracked: MLFLOW_TRACKING_URI is not set, and the installed mlflow cannot keep a "
            "local store without sqlalchemy (pip install 'mlproj[mlflow]')."
        )
    return MlflowStore(uri, patience=patience)


def _with_known_credentials(uri: str, around: Mapping[str, str]) -> str:
    known = around.get("MLFLOW_TRACKING_URI")
    if not known or without_credentials(uri) != (uri, None):
        return uri
    known = absolute(known)
    return known if without_credentials(known)[0] == uri else uri


def _needs_mlflow(around: Mapping[str, str]) -> str | None:
    """The variable that asks for a way of authenticating that plain REST cannot do."""
    from mlproj_core.tracking.credentials import flag

    if around.get("MLFLOW_TRACKING_AUTH"):
        return "MLFLOW_TRACKING_AUTH"
    if flag("MLFLOW_TRACKING_AWS_SIGV4", around):
        return "MLFLOW_TRACKING_AWS_SIGV4"
    return None
