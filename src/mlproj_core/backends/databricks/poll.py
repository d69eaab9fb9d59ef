"""Waiting for runs: one thread for each workspace asks for all that this process waits for.

Databricks has no way of telling by itself. Each run is asked for after a second, then less and less often. Where many
are due at once, the list of the active ones answers for all of them.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mlproj_core.backends.databricks.states import is_over
from mlproj_core.backends.databricks.workspace import PAGE, Workspace
from mlproj_core.errors import ContactLost, MlprojError

if TYPE_CHECKING:
    import asyncio

    from databricks.sdk import WorkspaceClient

__all__ = ["Waiter", "loop_waiting", "stop_polling", "waiting"]

SHORTEST, LONGEST = 1.0, 30.0
"""Seconds between two looks at a run: at first, and at most."""

FACTOR = 1.3
"""By how much the pause grows from look to look."""

LINGER = 5.0
"""Seconds for which a thread stays when nobody waits any more: whoever waited for a while often does so again."""

OUTAGE = 60.0
"""Seconds that a workspace may be out of reach until those who wait are told."""

TOGETHER = 0.5
"""Seconds that a look may be early, so that one request does for more than one run."""

FEW = 4
"""Runs that are asked for one by one in any case."""

RUNS_TO_A_PAGE = 4
"""A page of the list is asked for at most for as many runs that are waited for: else it costs more than it saves."""

VAIN = 300.0
"""Seconds for which the list is not asked for after it was too long."""


class Waiter:
    """One who waits for the end of a run.

    Attributes:
        run: the run's number.
        over: whether it is over, or was deleted.
    """

    def __init__(self, run: int, wake: Callable[[], None]) -> None:
        self.run = run
        self.over = False
        self._wake = wake
        self._problem: MlprojError | None = None
        self.pause = SHORTEST
        self.due = 0.0

    def check(self) -> bool:
        """Whether the run is over.

        Raises:
            ContactLost: the workspace is out of reach.
            UserError: it does not let us look.
        """
        if self._problem is not None:
            raise type(self._problem)(*self._problem.args) from self._problem
        return self.over

    def end(self, problem: MlprojError | None = None) -> None:
        """Say that the run is over, or that nobody can tell."""
        self.over, self._problem = problem is None, problem
        self._wake()

    def put_off(self, now: float) -> None:
        """Be looked at again later, and not at the same moment as all others."""
        self.due = now + self.pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        self.pause = min(self.pause * FACTOR, LONGEST)


@contextmanager
def waiting(workspace: Workspace, run: int, wake: Callable[[], None]) -> Iterator[Waiter]:
    """Be woken, in another thread, when a run is over, as long as this lasts."""
    poller, waiter = _poller_of(workspace), Waiter(run, wake)
    poller.add(waiter)
    try:
        yield waiter
    finally:
        poller.remove(waiter)


@contextmanager
def loop_waiting(workspace: Workspace, run: int) -> Iterator[tuple[Waiter, asyncio.Event]]:
    """As `waiting`, in the running event loop: the event is set when the run is over."""
    import asyncio

    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed, and whoever waited with it
            loop.call_soon_threadsafe(woken.set)

    with waiting(workspace, run, wake) as waiter:
        yield waiter, woken


def stop_polling() -> None:
    """End the threads of this process that wait, whoever waits for them."""
    with _lock:
        pollers = list(_pollers.values())
        _pollers.clear()
    for poller in pollers:
        poller.stop()


_pollers: dict[tuple[int, WorkspaceClient], Poller] = {}
_lock = threading.Lock()


def _poller_of(workspace: Workspace) -> Poller:
    # By process: threads do not survive a fork. By client: another one may be let in where this one is no more.
    key = (os.getpid(), workspace.client)
    with _lock:
        if key not in _pollers:
            _pollers[key] = Poller(workspace)
        return _pollers[key]


class Poller:
    """Asks a workspace for all runs that somebody waits for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._changed = threading.Condition()
        self._waiters: list[Waiter] = []
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._failing_since: float | None = None
        self._no_list_until = 0.0

    def add(self, waiter: Waiter) -> None:
        with self._changed:
            self._waiters.append(waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mlproj-databricks-poll", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, waiter: Waiter) -> None:
        with self._changed:
            self._waiters.remove(waiter)
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (due := self._due()) is not None:
            try:
                over = self._ended(sorted({waiter.run for waiter in due}))
            except MlprojError as error:
                self._fail(error, due)
                continue
            self._failing_since = None
            now = time.monotonic()
            for waiter in due:
                if waiter.run in over:
                    waiter.end()
                    waiter.due = float("inf")
                else:
                    waiter.put_off(now)

    def _due(self) -> list[Waiter] | None:
        """Those whose runs are to be asked for, once there are any; None: nobody has waited for a while."""
        idle_since = time.monotonic()
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if self._waiters:
                    idle_since = now
                elif now - idle_since > LINGER:
                    break
                if any(waiter.due <= now for waiter in self._waiters):
                    return [waiter for waiter in self._waiters if waiter.due <= now + TOGETHER]
                next_due = min((waiter.due for waiter in self._waiters), default=now + LINGER)
                self._changed.wait(min(next_due - now, LINGER) + 0.001)
            self._thread = None
            return None

    def _ended(self, runs: Sequence[int]) -> set[int]:
        """Those of some runs that are over, or are not there."""
        suspects = set(runs) - self._active(len(runs)) if len(runs) > FEW else set(runs)
        ended: set[int] = set()
        for run in sorted(suspects):  # what is not in the list may not be in it yet
            found = self._workspace.get(run)
            if found is None or is_over(found):
                ended.add(run)
        return ended

    def _active(self, waited_for: int) -> set[int]:
        """Runs that are known to be active: all of them, if the list is not too long."""
        active: set[int] = set()
        if time.monotonic() < self._no_list_until:
            return active
        most = max(1, waited_for // RUNS_TO_A_PAGE)
        for number, page in enumerate(self._workspace.runs(active_only=True), start=1):
            active |= {int(run["run_id"]) for run in page if not is_over(run)}
            if number == most:
                if len(page) == PAGE:
                    self._no_list_until = time.monotonic() + VAIN
                break
        return active

    def _fail(self, error: MlprojError, due: Sequence[Waiter]) -> None:
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if isinstance(error, ContactLost) and now - self._failing_since <= OUTAGE:
            for waiter in due:
                waiter.put_off(now)
            return
        for waiter in due:
            waiter.end(error)
            waiter.due = float("inf")
