"""What connections give a task: the cluster that its runs are on, and the login of a registry."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from mlproj_core.backends import Backend

__all__ = ["KUBERNETES", "backend_for", "cluster_namespace", "registry_login"]

KUBERNETES = "kubernetes"
"""The backend that `kubernetes_conn_id` is for."""

_clients: dict[str, tuple[str | None, Any]] = {}
"""Of each connection its extra and the client that was made of it."""

_lock = threading.Lock()


def backend_for(name: str, kubernetes_conn_id: str | None) -> Backend:
    """A backend, with the client of a connection if there is one. It may block: not for an event loop.

    The processes of a connection share one client, and so do all runs of a process: what watches a cluster is shared by
    those who have the same client.

    Args:
        name: the backend's name.
        kubernetes_conn_id: a connection of the type `kubernetes`; None leaves it to the backend where the cluster is.

    Raises:
        UserError: there is no such backend, or it has no use for the connection.
        AirflowNotFoundException: there is no such connection.
    """
    from mlproj_core.backends import load_backend

    if not kubernetes_conn_id:
        return load_backend(name)
    if name != KUBERNETES:
        raise UserError(
            f"kubernetes_conn_id={kubernetes_conn_id!r} is for runs on Kubernetes, and this one is to be on the "
            f"backend {name!r}: add backend={KUBERNETES!r}, or leave the connection out."
        )
    from mlproj_core.backends.kubernetes import KubernetesBackend

    return KubernetesBackend(api_client=_client_of(kubernetes_conn_id))


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
