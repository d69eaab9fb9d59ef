"""Waiting for a run in Airflow's triggerer, by its handle alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_mlproj.output import CONTACT_PATIENCE, SAVE_INTERVAL, lost_contact_pause
from mlproj_core.errors import ContactLost, MlprojError
from mlproj_core.handle import RunHandle
from mlproj_core.status import RunStatus
from mlproj_core.tracking.surroundings import lend

if TYPE_CHECKING:
    from mlproj_core.backends import Backend
    from mlproj_core.runs import SubmittedRun

__all__ = ["CURSOR_KEY", "MLProjectRunTrigger", "cursor_note"]

CURSOR_KEY = "mlproj_cursor"
"""XCom key under which a trigger notes how far the log is, for one that goes on after it."""


_DEADLINE = "mlproj: the task's deadline"
"""The message with which a trigger ends its own waiting, where the run goes on."""


def cursor_note(handle: RunHandle, cursor: int) -> dict[str, Any]:
    """What is noted there. The task writes the first note: a look for one that is not there is an error in logs."""
    return {"attempt": handle.tag, "cursor": cursor}


class MLProjectRunTrigger(BaseTrigger):
    """Fires when a run is over; meanwhile its output goes to the task's log.

    The event's payload: `cursor` (how far the log is) and `timed_out` (whether the run was ended here,
    because the task's time was over). Whether and how the run ended is for the task to ask: what a trigger says could
    be old when it is heard.

    Args:
        handle: the run's.
        cursor: where the log stands: a cursor of the run's output.
        deadline: when to end the run, in seconds since the epoch; None for no limit.
        poll_interval: seconds between looks at a run of which no news comes by itself.
        cancel_on_kill: whether the run is ended when the task is marked, cleared or timed out.
        not_before: when to fire at the earliest, in seconds since the epoch.
        stream: whether the run's output goes to the log.
        mlflow_conn_id: a connection of the type `mlflow`: whom to ask of a run that a handle names by its MLflow id
            alone, and whom to tell of an end that is seen here first.
        kubernetes_conn_id: a connection of the type `kubernetes`, for a run on Kubernetes.
    """

    def __init__(
        self,
        handle: Mapping[str, Any],
        cursor: int = 0,
        deadline: float | None = None,
        poll_interval: float = 30.0,
        cancel_on_kill: bool = True,
        not_before: float = 0.0,
        stream: bool = True,
        mlflow_conn_id: str | None = None,
        kubernetes_conn_id: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.handle = RunHandle.from_dict(handle)
        self.cursor = cursor
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.cancel_on_kill = cancel_on_kill
        self.not_before = not_before
        self.stream = stream
        self.mlflow_conn_id = mlflow_conn_id
        self.kubernetes_conn_id = kubernetes_conn_id
        self._variables: Mapping[str, str] | None = None
        self._timed_out = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See `BaseTrigger.serialize`. A handle holds no secret, nor does a connection's id."""
        return (
            "airflow_mlproj.triggers.MLProjectRunTrigger",
            {
                "handle": self.handle.to_dict(),
                "cursor": self.cursor,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "cancel_on_kill": self.cancel_on_kill,
                "not_before": self.not_before,
                "stream": self.stream,
                "mlflow_conn_id": self.mlflow_conn_id,
                "kubernetes_conn_id": self.kubernetes_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the run to its end, or to the deadline."""
        run, waiting = await self._attach(), asyncio.current_task()
        assert waiting is not None  # noqa: S101 - a coroutine runs in a task
        with self._server_known():
            deadline = asyncio.create_task(self._end_at_deadline(run, waiting))
            try:
                await self._go_on_where_another_ended()
                await self._follow(run)
            except asyncio.CancelledError as error:
                if error.args != (_DEADLINE,):
                    raise
            finally:
                deadline.cancel()
        await asyncio.sleep(max(0.0, self.not_before - time.time()))
        payload = {"cursor": self.cursor, "timed_out": self._timed_out}
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """End the run, since somebody marked or cleared the task.

        Also called on a triggerer that was thought dead, whose triggers another one has taken over: then the task is
        deferred still, and its run is left alone.
        """
        if not self.cancel_on_kill:
            return
        if await self._task_state() == "deferred":
            self.log.info("[mlproj] another triggerer has taken over; the run goes on")
            return
        self.log.info("[mlproj] the task was ended: ending its run")
        run = await self._attach()
        with self._server_known():
            await run.cancel_async()

    async def _attach(self) -> SubmittedRun:
        from mlproj_core.backends.tracked import TrackedBackend
        from mlproj_core.runs import attach

        # What a connection holds is asked for outside the event loop.
        if self.mlflow_conn_id is not None:
            from airflow_mlproj.hooks import MLflowHook

            self._variables = await asyncio.to_thread(MLflowHook(self.mlflow_conn_id).variables)
        backend: Backend | None = None
        if self.handle.backend == TrackedBackend.name:
            backend = TrackedBackend(self.poll_interval)
        elif self.kubernetes_conn_id:
            from airflow_mlproj.connections import backend_for

            backend = await asyncio.to_thread(backend_for, self.handle.backend, self.kubernetes_conn_id)
        return attach(self.handle, self._say, backend)

    def _server_known(self) -> AbstractContextManager[None]:
        """While this lasts, the connection names the tracking server, to this trigger only."""
        return lend(self._variables) if self._variables is not None else contextlib.nullcontext()

    # -- following

    async def _follow(self, run: SubmittedRun) -> None:
        """Until the run is over, or has been out of reach for long."""
        tries, lost_at = 0, 0.0
        while True:
            try:
                if self.stream:
                    await self._log_output(run)
                else:
                    await run.wait_async()
                return
            except ContactLost as error:
                lost_at = time.monotonic() if tries == 0 else lost_at
                overdue = self.deadline is not None and time.time() > self.deadline
                if overdue or time.monotonic() - lost_at > CONTACT_PATIENCE:
                    self.log.warning("[mlproj] contact lost for long; the task looks from its worker: %s", error)
                    return
                pause = lost_contact_pause(tries)
                tries += 1
                self.log.warning("[mlproj] contact lost, looking again in %.0f s: %s", pause, error)
                await asyncio.sleep(pause)

    async def _log_output(self, run: SubmittedRun) -> None:
        noted, next_note = self.cursor, time.monotonic() + SAVE_INTERVAL
        async with contextlib.aclosing(run.read_lines_async(self.cursor)) as lines:
            async for line, cursor in lines:
                # From this task alone: by its context the triggerer knows whose log a line belongs to.
                self.log.info(line)
                self.cursor = cursor
                if time.monotonic() >= next_note and cursor != noted:
                    await self._note()
                    noted, next_note = cursor, time.monotonic() + SAVE_INTERVAL

    async def _end_at_deadline(self, run: SubmittedRun, waiting: asyncio.Task[Any]) -> None:
        """End the run, and with it the waiting; or only the waiting, if the run is to go on or is out of reach."""
        if self.deadline is None:
            return
        await asyncio.sleep(max(0.0, self.deadline - time.time()))
        try:
            if await run.get_status_async() is not RunStatus.RUNNING:
                return
            self._timed_out = True
            if self.cancel_on_kill:
                self._say("the task's time is over: ending its run")
                await run.cancel_async()
                return
        except MlprojError as error:
            self._timed_out = True
            self._say(f"warning: the run could not be ended at the task's deadline: {error}")
        waiting.cancel(_DEADLINE)

    # -- what survives a triggerer

    async def _go_on_where_another_ended(self) -> None:
        from airflow.sdk.bases.xcom import BaseXCom

        if not self.stream or self.task_instance is None:
            return
        noted = await BaseXCom.aget_one(key=CURSOR_KEY, **self._whose())
        if noted and noted["attempt"] == self.handle.tag and noted["cursor"] > self.cursor:
            self.cursor = noted["cursor"]
            self._say(
                "the output goes on from where another triggerer left it; "
                f"some seconds of it ({SAVE_INTERVAL:g} at most) may be here again"
            )

    async def _note(self) -> None:
        from airflow.sdk.bases.xcom import BaseXCom

        if self.task_instance is not None:
            await BaseXCom.aset(key=CURSOR_KEY, value=cursor_note(self.handle, self.cursor), **self._whose())

    async def _task_state(self) -> str | None:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ti = self.task_instance
        if ti is None:
            return None
        states = await asyncio.to_thread(
            RuntimeTaskInstance.get_task_states,
            dag_id=ti.dag_id,
            task_ids=[ti.task_id],
            run_ids=[ti.run_id],
            map_index=ti.map_index,
        )
        return next(iter(states.get(ti.run_id, {}).values()), None)

    def _whose(self) -> dict[str, Any]:
        ti: Any = self.task_instance
        return {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}

    def _say(self, line: str) -> None:
        (self.log.warning if line.startswith("warning") else self.log.info)(f"[mlproj] {line}")
