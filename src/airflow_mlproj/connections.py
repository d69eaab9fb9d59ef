"""What connections give a task: the cluster or workspace that its runs are in, and the login of a registry."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from airflow.sdk import Connection

    from mlproj_core.backends import Backend
    from mlproj_core.backends.databricks.credentials import Credentials

__all__ = ["backend_for", "cluster_namespace", "registry_login", "workspace_credentials"]

KUBERNETES = "kubernetes"
"""The backend that `kubernetes_conn_id` is for."""

DATABRICKS = "databricks"
"""The backend that `databricks_conn_id` is for."""

_OTHER_WAYS = (
    "use_azure_managed_identity",
    "use_default_azure_credential",
    "federated_token_provider",
    "federated_aws",
    "federated_k8s",
)
"""Fields of a Databricks connection's extra by which the Databricks provider authenticates with code of its own."""

_clients: dict[str, tuple[str | None, Any]] = {}
"""Of each connection its extra and the client that was made of it."""

_lock = threading.Lock()


def backend_for(name: str, kubernetes_conn_id: str | None = None, databricks_conn_id: str | None = None) -> Backend:
    """A backend, with the client of a connection if there is one. It may block: not for an event loop.

    The processes of a connection share one client, and so do all runs of a process: what watches a cluster is shared by
    those who have the same client.

    Args:
        name: the backend's name.
        kubernetes_conn_id: a connection of the type `kubernetes`; None leaves it to the backend where the cluster is.
        databricks_conn_id: a connection of the type `databricks`; None leaves it to the backend where the workspace is.

    Raises:
        UserError: there is no such backend, it has no use for the connection, or that cannot be used.
        ContactLost: the workspace is out of reach.
        AirflowNotFoundException: there is no such connection.
    """
    from mlproj_core.backends import load_backend

    for conn_id, wanted in ((kubernetes_conn_id, KUBERNETES), (databricks_conn_id, DATABRICKS)):
        if conn_id and name != wanted:
            raise UserError(
                f"{wanted}_conn_id={conn_id!r} is for runs on {wanted.capitalize()}, and this one is to be on the "
                f"backend {name!r}: add backend={wanted!r}, or leave the connection out."
            )
    if kubernetes_conn_id:
        from mlproj_core.backends.kubernetes import KubernetesBackend

        return KubernetesBackend(api_client=_client_of(kubernetes_conn_id))
    if databricks_conn_id:
        from mlproj_core.backends.databricks import DatabricksBackend

        credentials = workspace_credentials(databricks_conn_id)
        return DatabricksBackend(client=credentials.client(f"The connection {databricks_conn_id!r}"))
    return load_backend(name)


def cluster_namespace(kubernetes_conn_id: str) -> str | None:
    """The namespace that a connection of the type `kubernetes` names; None if it names none."""
    namespace = _hook(kubernetes_conn_id).get_namespace()
    return str(namespace) if namespace else None


def registry_login(docker_conn_id: str) -> dict[str, str]:
    """The login of a connection of the type `docker`, as `docker_auth` takes it. It is secret.

    The fields are those that the Docker provider's `DockerHook` reads.

    Raises:
        UserError: the connection has no registry, or no login.
        AirflowNotFoundException: there is no such connection.
    """
    connection = BaseHook.get_connection(docker_conn_id)
    wanted = {"host (the registry)": connection.host, "login": connection.login, "password": connection.password}
    if lacking := [name for name, value in wanted.items() if not value]:
        raise UserError(
            f"The connection {docker_conn_id!r} lacks {' and '.join(lacking)}: a registry's login needs all three."
        )
    host = str(connection.host)
    login = {
        "username": str(connection.login),
        "password": str(connection.password),
        "registry": f"{host}:{connection.port}" if connection.port else host,
    }
    if email := connection.extra_dejson.get("email"):
        login["email"] = str(email)
    return login


def workspace_credentials(databricks_conn_id: str) -> Credentials:
    """The workspace of a connection of the type `databricks`, and what lets us in. They are secret.

    The fields are those that the Databricks provider's `DatabricksHook` reads: the token in the password (or, in the
    extra, as `token`), or a service principal's id and secret in login and password, with `service_principal_oauth` or
    `azure_tenant_id` in the extra.

    Raises:
        UserError: the connection names no workspace, or no way into it that can be had here.
        AirflowNotFoundException: there is no such connection.
    """
    from mlproj_core.backends.databricks.credentials import Credentials

    connection = BaseHook.get_connection(databricks_conn_id)
    extra, host = connection.extra_dejson, _host_of(connection)
    if extra.get("proxies"):
        raise UserError(
            f"The connection {databricks_conn_id!r} names proxies, which the Databricks SDK takes from variables only: "
            "set HTTPS_PROXY for workers and triggerers, and leave `proxies` out."
        )
    if token := extra.get("token") or (not connection.login and connection.password):
        return Credentials(host, token=str(token))
    tenant = extra.get("azure_tenant_id")
    if tenant or _is_set(extra.get("service_principal_oauth")):
        if not (connection.login and connection.password):
            raise UserError(
                f"The connection {databricks_conn_id!r} is of a service principal: its id belongs in the login, its "
                "secret in the password."
            )
        return Credentials(
            host,
            client_id=connection.login,
            client_secret=connection.password,
            tenant_id=str(tenant) if tenant else None,
            resource_id=extra.get("azure_resource_id"),
        )
    known = "a token in the password, or a service principal in login and password"
    for name in _OTHER_WAYS:
        if _is_set(extra.get(name)) or connection.login == name:
            raise UserError(
                f"The connection {databricks_conn_id!r} asks for {name}, by which mlproj cannot authenticate: give "
                f"{known}; or leave the connection out, and configure the Databricks SDK by the variables of workers "
                "and triggerers (DATABRICKS_HOST, DATABRICKS_AUTH_TYPE, …)."
            )
    if connection.login:
        raise UserError(
            f"The connection {databricks_conn_id!r} has login and password, with which Databricks lets nobody in any "
            'more. For a service principal add {"service_principal_oauth": true} to its extra, or azure_tenant_id; for '
            "a token leave the login empty."
        )
    raise UserError(f"The connection {databricks_conn_id!r} has no credentials: give {known}.")


def _host_of(connection: Connection) -> str:
    """The address of a workspace, as the Databricks provider understands the connection."""
    given = str(connection.extra_dejson.get("host") or connection.host or "").strip().rstrip("/")
    host = urlsplit(given).hostname or given
    scheme = connection.schema or "https"
    if not host or scheme not in ("http", "https"):
        wrong = f"the schema {scheme!r}, which is no scheme of a URL" if host else "no host"
        raise UserError(
            f"The connection {connection.conn_id!r} has {wrong}: give the workspace's address as the host, such as "
            "dbc-0123.cloud.databricks.com, and nothing as the schema."
        )
    return f"{scheme}://{host}" + (f":{connection.port}" if connection.port else "")


def _is_set(value: Any) -> bool:
    """Whether a field of an extra is: a form, or a URI, gives texts."""
    return bool(value) and str(value).strip().lower() not in ("false", "0", "no")


def _client_of(conn_id: str) -> Any:
    """The client that is made of a connection; the one that there is, as long as the connection stays the same."""
    from kubernetes.config import ConfigException

    # One at a time: the Kubernetes client has defaults for the whole process, which the hook sets before it reads them.
    with _lock:
        hook = _hook(conn_id)
        extra = hook.get_connection(conn_id).extra
        known = _clients.get(conn_id)
        if known is not None and known[0] == extra:
            return known[1]
        try:
            client = hook.get_conn()
        except AirflowNotFoundException:
            raise
        except (AirflowException, ConfigException) as error:
            raise UserError(f"The connection {conn_id!r} leads to no cluster: {error}") from error
        _clients[conn_id] = (extra, client)
        return client


def _hook(conn_id: str) -> KubernetesHook:
    try:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    except ImportError as error:
        raise UserError(
            "kubernetes_conn_id needs the Kubernetes provider, which is not installed: "
            "pip install apache-airflow-providers-cncf-kubernetes"
        ) from error
    return KubernetesHook(conn_id)
