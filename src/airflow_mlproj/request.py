"""What a task asks for: the request that the core is given, and the backend's settings in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.log import mask_secret

from airflow_mlproj.connections import cluster_namespace, registry_login
from airflow_mlproj.origin import GIT_VARIABLES, bundle_root, project_uri
from airflow_mlproj.settings import max_local_runs
from mlproj_core.errors import UserError
from mlproj_core.request import RunRequest, read_backend_config

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlproj.operators import MLProjectOperator
    from mlproj_core.backends import Backend

__all__ = ["request_of", "settings_of"]

AIRFLOWS_OWN = ("AIRFLOW__*", "AIRFLOW_CONN_*", "AIRFLOW_VAR_*", "_AIRFLOW_*", "__AIRFLOW_*")
"""Patterns of variables that are Airflow's, with its secrets among them: no business of a project."""


def request_of(task: MLProjectOperator, backend: Backend, settings: Mapping[str, Any], context: Context) -> RunRequest:
    """What is to be run, all templates filled in. It holds secrets.

    Args:
        task: the task.
        backend: where it is to run.
        settings: the backend's; see `settings_of`.
        context: the task's.

    Raises:
        UserError: it cannot be.
    """
    return RunRequest(
        uri=project_uri(task.uri, bundle_root(context)),
        entry_point=task.entry_point,
        version=task.version,
        parameters=task.parameters,
        docker_args=task.docker_args,
        experiment_name=task.experiment_name,
        experiment_id=task.experiment_id,
        backend=backend,
        backend_config=settings,
        storage_dir=task.storage_dir,
        run_id=task.run_id,
        run_name=task.run_name,
        env_manager=task.env_manager,
        build_image=task.build_image,
        docker_auth=_docker_auth(task),
        env_vars=task.env_vars.values if task.env_vars else None,
        tags={**_tags(context["ti"]), **(task.tags or {})},
        parent_run_id=task.parent_run_id,
        tracking_uri=task.tracking_uri,
        timeout=_seconds(task.timeout),
        reuse_finished=task.reuse_finished,
        withhold=(*AIRFLOWS_OWN, *(GIT_VARIABLES if task.git_conn_id else ())),
    )


def settings_of(task: MLProjectOperator) -> dict[str, Any]:
    """The backend's settings: those that were given, and what Airflow's own settings and connections add."""
    config = read_backend_config(task.backend_config)
    if task.backend == "local" and (most := max_local_runs()) is not None:
        config.setdefault("max_runs", most)
    if task.kubernetes_conn_id and (namespace := cluster_namespace(task.kubernetes_conn_id)):
        config.setdefault("namespace", namespace)
    return config


def _docker_auth(task: MLProjectOperator) -> Mapping[str, str] | None:
    """The login of a registry. That of a connection stands in no field of the task."""
    if not task.docker_conn_id:
        return task.docker_auth.values if task.docker_auth else None
    if task.docker_auth:
        raise UserError("Give docker_auth or docker_conn_id, not both: each is a registry's login.")
    login = registry_login(task.docker_conn_id)
    mask_secret(login["password"])
    return login


def _tags(ti: Any) -> dict[str, str]:
    """Tags by which a run in MLflow leads back to its task."""
    tags = {
        "airflow.dag_id": ti.dag_id,
        "airflow.dag_run_id": ti.run_id,
        "airflow.task_id": ti.task_id,
        "airflow.try_number": str(ti.try_number),
        "airflow.log_url": ti.log_url,
    }
    if ti.map_index is not None and ti.map_index >= 0:
        tags["airflow.map_index"] = str(ti.map_index)
    return tags


def _seconds(timeout: Any) -> float | None:
    """A time limit in seconds: a number, the text of one (as a template gives it), or a timedelta."""
    if timeout is None or timeout == "":
        return None
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    try:
        return float(timeout)
    except (TypeError, ValueError):
        raise UserError(f"timeout must be a number of seconds or a timedelta; got {timeout!r}") from None
