"""A task's watch over its run, in the worker: its output in the log, and its end when Airflow ends the task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_mlproj.outcome import MLProjectFailed
from airflow_mlproj.output import SAVE_INTERVAL, Follower, Interrupted, Saved
from airflow_mlproj.step import StoreUnreachable
from airflow_mlproj.stopper import Stopper
from mlproj_core.errors import MlprojError, Superseded

if TYPE_CHECKING:
    from airflow_mlproj.placement import Placement
    from airflow_mlproj.step import Step
    from mlproj_core.backends import Backend
    from mlproj_core.runs import SubmittedRun

__all__ = ["Vigil"]

ASK_PATIENCE = 2.0
"""Seconds to wait for Airflow's word on the task's state: KILL comes 5 s after TERM."""

STOP_PATIENCE = 60.0
"""Seconds to wait for a run to be ended that took too long: its processes have a grace period."""


class Vigil:
    """Entered before a run is submitted, left when the task has nothing more to do with it.

    What comes meanwhile, TERM by way of `on_kill` or Airflow's time limit, ends the run by its key and turn, whether it
    was submitted already or not.

    Args:
        ti: the task instance.
        step: what the run is submitted under.
        backend: the backend, by the task's configuration.
        ends_run: whether the run is ended with its task.
        say: is given one line of text for each thing worth telling.
        cursor: how far the output stands in the log already; by default what the step's earlier tries noted.

    Attributes:
        cursor: how far the output stands in the log now, in bytes.
        placement: whether the run can outlive the task; None until that is decided.
    """

    def __init__(
        self,
        ti: Any,
        step: Step,
        backend: Backend,
        say: Callable[[str], None],
        *,
        ends_run: bool,
        cursor: int | None = None,
    ) -> None:
        self._ti = ti
        self._step = step
        self._backend = backend
        self._say = say
        self._ends_run = ends_run
        self._begin = cursor
        self.cursor = cursor or 0
        self.placement: Placement | None = None
        self._timed_out = False
        self._leaving = False
        self._follower: Follower | None = None
        self._stopper = Stopper(self._end)

    def __enter__(self) -> Vigil:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, AirflowTaskTimeout) and self._ends_run:
            self._timed_out = True
            self._stopper.ask()
            self._stopper.wait(STOP_PATIENCE)
        self._stopper.dismiss()

    @property
    def is_ending(self) -> bool:
        """Whether Airflow wants the task to end."""
        return self._stopper.asked

    def end_soon(self) -> None:
        """Have the run ended by another thread; may be called in a signal handler."""
        if self._ends_run:
            self._stopper.ask()

    def keep(self, run: SubmittedRun, log: Callable[[str], None], until: float | None = None) -> bool:
        """Log the run's output until it is over.

        Args:
            run: the run.
            log: is given each line.
            until: a time of `time.monotonic()` after which to return; None for no such time.

        Returns:
            Whether the run is over.

        Raises:
            MLProjectFailed: the worker shuts down, and the run is left to the next try.
            ContactLost: the run has been out of reach for long.
        """
        noted = self._step.store.cursor(run.handle)
        if self._begin is None and noted:
            self._say(
                "the output goes on from where an earlier try left it; "
                f"some seconds of it ({SAVE_INTERVAL:g} at most) may be here again"
            )
        elif self._begin is not None and self._begin > noted:
            self._note(run, self._begin)  # how far the triggerer came
        saved = Saved(noted if self._begin is None else self._begin, lambda cursor: self._note(run, cursor))
        self._follower = Follower(run, saved.cursor, self._say)
        if self._leaving:
            self._follower.interrupt()
        try:
            return self._follower.each(log, saved, until)
        except Interrupted:
            raise MLProjectFailed(
                f"The worker shuts down. Run {run.handle.tag} goes on, and the next try finds it.", handle=run.handle
            ) from None
        finally:
            saved.note()
            self.cursor = self._begin = saved.cursor

    def _note(self, run: SubmittedRun, cursor: int) -> None:
        try:
            self._step.store.set_cursor(run.handle, cursor)
        except StoreUnreachable as error:  # worth a repetition of some output, not the run
            self._say(f"warning: {error}")

    def _end(self) -> None:
        """In the stopper's thread: end the run, or leave it to the retry that is to come."""
        from mlproj_core.protocol import cancel_key

        outlives = self.placement is not None and not self.placement.tethered
        if outlives and self._step.retry_remains and not self._timed_out and self._state() == "running":
            self._leaving = True
            self._say("the worker shuts down; the run goes on, and the next try finds it")
            if self._follower is not None:
                self._follower.interrupt()
            return
        self._say("the task was ended: ending its run")
        try:
            cancel_key(self._backend, self._step.key, (self._step.turn,), self._say)
        except Superseded as error:
            self._say(str(error))
        except MlprojError as error:
            self._say(f"warning: the run could not be ended from here: {error}")

    def _state(self) -> str | None:
        """The task's state by Airflow's word: "running" still, if nobody but the worker's own end ends it."""
        ti = self._ti
        answers: SimpleQueue[str | None] = SimpleQueue()

        def ask() -> None:
            try:
                states = ti.get_task_states(
                    dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
                )
                answers.put(next(iter(states[ti.run_id].values()), None))
            except Exception as error:  # whatever it is, it is no answer
                self._say(f"Airflow could not be asked for the task's state: {error}")
                answers.put(None)

        threading.Thread(target=ask, name="mlproj-state", daemon=True).start()
        try:
            return answers.get(timeout=ASK_PATIENCE)
        except Empty:
            return None
