"""The connection to an MLflow tracking server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook

from airflow_mlproj.variables import changed_environment
from mlproj_core.errors import MlprojError, UserError
from mlproj_core.tracking.surroundings import OF_A_SERVER

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from mlproj_core.tracking import Tracking

__all__ = ["MLflowHook", "tracking_variables"]

_FROM_EXTRA = {
    "token": "MLFLOW_TRACKING_TOKEN",
    "workspace": "MLFLOW_WORKSPACE",
    "server_cert_path": "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "client_cert_path": "MLFLOW_TRACKING_CLIENT_CERT_PATH",
}


class MLflowHook(BaseHook):
    """Speaks to the tracking server of a connection of the type `mlflow`.

    The connection's host is the tracking URI (as in `https://mlflow.example.com`); with login and password, or with a
    token in its extra.

    Args:
        mlflow_conn_id: id of the connection.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow tracking server"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    @property
    def tracking_uri(self) -> str:
        """The server's address, without credentials."""
        return self.variables()["MLFLOW_TRACKING_URI"]

    def variables(self) -> dict[str, str]:
        """The variables by which MLflow's client, and so a project, finds the server. They hold its secrets.

        Raises:
            UserError: the connection names no server.
        """
        return _variables(self.get_connection(self.mlflow_conn_id))

    def get_conn(self) -> Tracking:
        """The server, to be asked by mlproj's own small client; it closes with `close()`."""
        from mlproj_core.tracking import connect

        environ = self.environment()
        return connect(environ["MLFLOW_TRACKING_URI"], environ=environ)

    def environment(self) -> dict[str, str]:
        """This process's environment as it would be with the connection's variables."""
        others = {name: value for name, value in os.environ.items() if name not in OF_A_SERVER}
        return {**others, **self.variables()}

    def test_connection(self) -> tuple[bool, str]:
        """Ask the server for its first experiment, with the connection's credentials."""
        try:
            tracking = self.get_conn()
            with contextlib.closing(tracking):
                tracking.find_run("none", "0")
        except MlprojError as error:
            return False, str(error)
        return True, f"{tracking.uri} answers"


@contextlib.contextmanager
def tracking_variables(mlflow_conn_id: str | None) -> Iterator[None]:
    """This process's environment with the variables of a connection, for mlproj and for the project it starts.

    Without a connection it stays as it is.
    """
    if mlflow_conn_id is None:
        yield
        return
    with changed_environment(MLflowHook(mlflow_conn_id).variables(), (*OF_A_SERVER, "MLPROJ_TRACKING")):
        yield


def _variables(connection: Connection) -> dict[str, str]:
    uri = _uri_of(connection)
    extra: dict[str, Any] = connection.extra_dejson
    variables = {name: str(extra[key]) for key, name in _FROM_EXTRA.items() if extra.get(key)}
    if connection.login:
        variables["MLFLOW_TRACKING_USERNAME"] = connection.login
    if connection.password:
        variables["MLFLOW_TRACKING_PASSWORD"] = connection.password
    if str(extra.get("insecure_tls") or "false").lower() in ("true", "1"):
        variables["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
    return {"MLFLOW_TRACKING_URI": uri, **variables}


def _uri_of(connection: Connection) -> str:
    """The tracking URI: the host alone, or built of the parts into which a connection given as a URI is taken apart."""
    host = (connection.host or "").strip()
    if host == "databricks":
        return host
    if not host:
        raise UserError(
            f"The connection {connection.conn_id!r} names no tracking server: set its host to the tracking URI, "
            "such as https://mlflow.example.com"
        )
    if "://" in host:
        if urlsplit(host).username is not None:
            raise UserError(
                f"The connection {connection.conn_id!r} has credentials in its host. Move them to login and password."
            )
        return host
    scheme = connection.schema or "https"
    return f"{scheme}://{host}" + (f":{connection.port}" if connection.port else "")
