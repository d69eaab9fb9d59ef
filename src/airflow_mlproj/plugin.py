"""Opt-in: the API server ends the run of a task that is marked by hand.

Airflow tells nobody but the task's worker or triggerer that a task was marked. Where no triggerer is at work on a
deferred task, nobody hears of it. With `[mlproj] end_runs_of_marked_tasks = True` the API server, where the mark is
made, ends the run itself; it must be able to reach the backend (for local runs: be on the same host).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from airflow_mlproj.settings import ends_runs_of_marked_tasks

if TYPE_CHECKING:
    from mlproj_core.handle import RunHandle

__all__ = ["MLProjectPlugin"]

log = logging.getLogger(__name__)


class _MarkListener:
    """Hears of tasks that were marked in the API server, as well as of those that end by themselves in a worker."""

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
        """Called when a task was marked failed."""
        _end_run_of(task_instance)

    @hookimpl
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
        """Called when a task was marked a success."""
        _end_run_of(task_instance)


def _end_run_of(ti: Any) -> None:
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.models.taskinstance import TaskInstance

    # In a worker it is of another class: there the operator does what is to be done.
    if not isinstance(ti, TaskInstance):
        return
    from mlproj_core.handle import RunHandle

    value = ti.xcom_pull(task_ids=ti.task_id, key="handle", map_indexes=ti.map_index)
    submits_only = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index) is not None
    if isinstance(value, dict) and "backend" in value and not submits_only:
        fields = RenderedTaskInstanceFields.get_templated_fields(ti) or {}
        arguments = (RunHandle.from_dict(value), fields.get("kubernetes_conn_id"), fields.get("mlflow_conn_id"))
        # The request that marks the task does not wait for the run's grace period.
        threading.Thread(target=_end, args=arguments, name="mlproj-mark", daemon=True).start()


def _end(handle: RunHandle, kubernetes_conn_id: str | None, mlflow_conn_id: str | None) -> None:
    """In a thread of its own: end a run, by the connections that its task had."""
    from airflow_mlproj.connections import backend_for
    from airflow_mlproj.hooks import MLflowHook
    from mlproj_core.runs import attach
    from mlproj_core.tracking.surroundings import lend

    try:
        backend = backend_for(handle.backend, kubernetes_conn_id)
        variables = MLflowHook(mlflow_conn_id).variables() if mlflow_conn_id else None
        with lend(variables) if variables is not None else contextlib.nullcontext():
            attach(handle, backend=backend).cancel()
    except Exception as error:  # nobody else would hear of it
        log.warning("run %s of a task that was marked could not be ended: %s", handle.tag, error)
    else:
        log.info("the task of run %s was marked: the run was ended", handle.tag)


class MLProjectPlugin(AirflowPlugin):
    """Registered by the entry point `airflow.plugins`; does nothing unless it is asked to."""

    name = "mlproj"
    listeners = [_MarkListener()] if ends_runs_of_marked_tasks() else []
