"""A project's output in a task's log: complete, once only, from wherever the log stands."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from mlproj_core.errors import ContactLost, MlprojError

if TYPE_CHECKING:
    from mlproj_core.runs import SubmittedRun

__all__ = ["SAVE_INTERVAL", "Follower", "Interrupted", "Saved", "lost_contact_pause"]

SAVE_INTERVAL: Final = 5.0
"""Seconds between two notes of how far the log is: what a `kill -9` may repeat."""

CONTACT_PATIENCE: Final = 600.0
"""Seconds for which a run that is out of reach is looked for before the try ends."""

_AHEAD: Final = 1000
"""Lines that may be read before they are logged."""


class Interrupted(Exception):
    """Somebody wants the waiting to end, though the run goes on."""


class Saved:
    """How far the log stands, noted down every few seconds."""

    def __init__(self, cursor: int, save: Callable[[int], None]) -> None:
        self.cursor = self._noted = cursor
        self._save = save
        self._next = time.monotonic() + SAVE_INTERVAL

    def move_to(self, cursor: int) -> None:
        """Everything before `cursor` is in the log."""
        self.cursor = cursor
        if time.monotonic() >= self._next:
            self.note()

    def note(self) -> None:
        """Note it down now."""
        if self.cursor != self._noted:
            self._save(self.cursor)
            self._noted = self.cursor
        self._next = time.monotonic() + SAVE_INTERVAL


def lost_contact_pause(tries: int) -> float:
    """Seconds until a run that is out of reach is looked for again: longer each time, and never all at once."""
    return min(60.0, 2.0**tries) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret


class Follower:
    """Brings a run's output from a thread of its own, so that the task's own thread can be spoken to meanwhile.

    Airflow stops a task by a signal, whose handler runs in the main thread: there may be no lock in it that the main
    thread already holds. `interrupt` puts one value into a queue whose `put` is made for that (`queue.SimpleQueue`).

    Args:
        run: the run.
        cursor: where to begin, in bytes.
        say: is given one line of text for each thing worth telling.
    """

    def __init__(self, run: SubmittedRun, cursor: int, say: Callable[[str], None]) -> None:
        self._run = run
        self._cursor = cursor
        self._say = say
        self._items: SimpleQueue[tuple[str, int] | BaseException | None] = SimpleQueue()
        self._ahead = threading.BoundedSemaphore(_AHEAD)
        self._thread = threading.Thread(target=self._follow, name="mlproj-output", daemon=True)
        self._thread.start()

    def interrupt(self) -> None:
        """Make `lines` raise `Interrupted`; may be called anywhere, also in a signal handler."""
        self._items.put(Interrupted())

    def each(self, log: Callable[[str], None], saved: Saved, until: float | None = None) -> bool:
        """Log every line until the run is over.

        Args:
            log: is given each line.
            saved: is told how far the log is.
            until: a time of `time.monotonic()` after which to return; None for no such time.

        Returns:
            Whether the run is over.

        Raises:
            Interrupted: `interrupt` was called.
            ContactLost: the run has been out of reach for long.
        """
        while True:
            left = None if until is None else until - time.monotonic()
            # Woken now and then, so that what was logged last is noted down too.
            wait = SAVE_INTERVAL if left is None else min(SAVE_INTERVAL, left)
            try:
                item = self._items.get(timeout=max(0.0, wait))
            except Empty:
                saved.note()
                if left is not None and left <= wait:
                    return False
                continue
            if item is None:
                saved.note()
                return True
            if isinstance(item, BaseException):
                raise item
            self._ahead.release()
            line, cursor = item
            log(line)
            saved.move_to(cursor)

    def _follow(self) -> None:
        tries, lost_at = 0, 0.0
        while True:
            try:
                for line, cursor in self._run.read_lines(follow=True, cursor=self._cursor):
                    self._ahead.acquire()
                    self._items.put((line, cursor))
                    self._cursor, tries = cursor, 0
            except ContactLost as error:
                lost_at = time.monotonic() if tries == 0 else lost_at
                if time.monotonic() - lost_at > CONTACT_PATIENCE:
                    self._items.put(error)
                    return
                pause = lost_contact_pause(tries)
                tries += 1
                self._say(f"contact lost, looking again in {pause:.0f} s; the run is not over: {error}")
                time.sleep(pause)
            except (MlprojError, OSError) as error:
                self._items.put(error)
                return
            else:
                self._items.put(None)
                return
