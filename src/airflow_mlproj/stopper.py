"""Ending a run when Airflow ends its task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Stopper"]


class Stopper:
    """Waits in a thread of its own to be asked, once, to end a run.

    Airflow's way to end a task is `on_kill` inside a signal handler, in the middle of anything that the main thread
    does, and KILL five seconds later. Whatever takes a lock can wait there for itself forever. So `ask` does nothing
    but put a value into a queue that is made to be used in signal handlers (`queue.SimpleQueue`).

    Args:
        stop: what to do when asked.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.asked = False
        self._stop = stop
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._done = threading.Event()
        threading.Thread(target=self._wait, name="mlproj-stopper", daemon=True).start()

    def ask(self) -> None:
        """Have the run ended; may be called in a signal handler, and again."""
        if not self.asked:
            self.asked = True
            self._calls.put(True)

    def wait(self, seconds: float) -> bool:
        """Wait until what `ask` asked for is done; whether it is. Not for signal handlers."""
        return self._done.wait(seconds)

    def dismiss(self) -> None:
        """The run is over, or no longer this task's: end the thread."""
        self._calls.put(False)

    def _wait(self) -> None:
        if self._calls.get():
            try:
                self._stop()
            finally:
                self._done.set()
