"""The sensor: waits for a run that another task, or somebody else, has started."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlproj_core.handle import RunHandle
    from mlproj_core.runs import SubmittedRun

__all__ = ["MLProjectRunSensor"]

SHORTEST_ABSENCE = 10.0
"""Seconds that a task which leaves its worker stays away at least.

The scheduler hears some 5 s late that it has left; one that is back by then can be failed falsely, for a state that
does not match.
"""


class MLProjectRunSensor(BaseSensorOperator):
    """Waits for the end of a run, and returns what `MLProjectOperator` returns for it.

    Give exactly one of `handle` and `run_id`.

    Args:
        handle: the run's handle: `submit.output["handle"]`, a mapping, or its JSON text.
        run_id: the id of any run in MLflow, whoever started it. Whether it is over is for the tracking server to say.
        mlflow_conn_id: a connection of the type `mlflow`; by default the worker's own variables say where MLflow is.
        kubernetes_conn_id: a connection of the type `kubernetes`, for a run on Kubernetes; by default the cluster
            of the worker's kubeconfig, or the one that the worker is in.
        deferrable: whether to wait in the triggerer.
        poke_interval: seconds between looks; at least 10 in the mode `reschedule`.
        kwargs: those of every sensor, such as `mode` and `timeout`.
    """

    template_fields: Sequence[str] = ("handle", "run_id", "mlflow_conn_id", "kubernetes_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"handle": "json"}
    ui_color = "#e5f4fb"

    def __init__(
        self,
        *,
        handle: Mapping[str, Any] | str | None = None,
        run_id: str | None = None,
        mlflow_conn_id: str | None = None,
        kubernetes_conn_id: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 30.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("multiple_outputs", True)
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.handle = handle
        self.run_id = run_id
        self.mlflow_conn_id = mlflow_conn_id
        self.kubernetes_conn_id = kubernetes_conn_id
        self.deferrable = deferrable
        if (handle is None) == (run_id is None):
            raise ValueError(f"{self.task_id}: give a handle or a run_id, and not both.")
        if self.mode == "reschedule" and self.poke_interval < SHORTEST_ABSENCE:
            raise ValueError(
                f"{self.task_id}: poke_interval must be {SHORTEST_ABSENCE:g} seconds or more in the mode 'reschedule'. "
                "Airflow can fail a task falsely that comes back sooner; to look more often use the mode 'poke', or "
                "deferrable=True."
            )

    def execute(self, context: Context) -> Any:
        """Wait, or leave it to the triggerer."""
        from airflow_mlproj.hooks import tracking_variables
        from airflow_mlproj.outcome import airflow_words

        with airflow_words(), tracking_variables(self.mlflow_conn_id):
            if not self.deferrable:
                return super().execute(context)
            run = self._run()
            if not _is_over(run):
                self._leave(run.handle, time.time() + self.timeout)
            return self._conclude(run)

    def poke(self, context: Context) -> PokeReturnValue | bool:
        """Look whether the run is over."""
        from mlproj_core.errors import ContactLost

        run = self._run()
        try:
            if not _is_over(run):
                return False
        except ContactLost as error:
            self.log.warning("[mlproj] contact lost, which says nothing of the run; looking again: %s", error)
            return False
        return PokeReturnValue(is_done=True, xcom_value=self._conclude(run))

    def execute_complete(self, context: Context, event: Mapping[str, Any], deadline: float) -> Any:
        """Go on where the trigger ended; away again, if it had lost contact to a run that is not over.

        Args:
            context: the task's.
            event: what `MLProjectRunTrigger` says.
            deadline: when the waiting ends, in seconds since the epoch.
        """
        from airflow.sdk.exceptions import AirflowSensorTimeout

        from airflow_mlproj.hooks import tracking_variables
        from airflow_mlproj.outcome import airflow_words

        with airflow_words(), tracking_variables(self.mlflow_conn_id):
            if event["timed_out"]:
                raise AirflowSensorTimeout(f"The run was not over after {self.timeout:g} seconds.")
            run = self._run()
            if not _is_over(run):
                self._leave(run.handle, deadline)
            return self._conclude(run)

    def _run(self) -> SubmittedRun:
        from airflow_mlproj.connections import backend_for
        from mlproj_core.backends.tracked import TrackedBackend
        from mlproj_core.errors import UserError
        from mlproj_core.runs import attach

        if not self.handle and not self.run_id:
            raise UserError(
                "There is no run to wait for: handle or run_id is empty. Was the task skipped that it is to come from?"
            )
        run = attach(self.handle or TrackedBackend.handle_of(str(self.run_id)), self._say)
        if not self.kubernetes_conn_id:
            return run
        return attach(run.handle, self._say, backend_for(run.handle.backend, self.kubernetes_conn_id))

    def _leave(self, handle: RunHandle, deadline: float) -> None:
        from airflow_mlproj.triggers import MLProjectRunTrigger

        self.defer(
            trigger=MLProjectRunTrigger(
                handle=handle.to_dict(),
                deadline=deadline,
                poll_interval=self.poke_interval,
                cancel_on_kill=False,  # it was another task that started the run
                not_before=time.time() + SHORTEST_ABSENCE,
                stream=False,
                mlflow_conn_id=self.mlflow_conn_id,
                kubernetes_conn_id=self.kubernetes_conn_id,
            ),
            method_name="execute_complete",
            kwargs={"deadline": deadline},
        )

    def _conclude(self, run: SubmittedRun) -> dict[str, Any]:
        from airflow_mlproj.outcome import conclude

        return conclude(run, ())

    def _say(self, line: str) -> None:
        (self.log.warning if line.startswith("warning") else self.log.info)(f"[mlproj] {line}")


def _is_over(run: SubmittedRun) -> bool:
    from mlproj_core.status import RunStatus

    return run.get_status() is not RunStatus.RUNNING
