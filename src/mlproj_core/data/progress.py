"""How far a download is, in a line every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Progress", "amount"]

INTERVAL = 5.0
"""Seconds between two lines."""


class Progress:
    """Counts the bytes of one download, from any number of threads.

    Args:
        label: of its lines.
        report: is given each line.
    """

    def __init__(self, label: str, report: Callable[[str], None]) -> None:
        self._label = label
        self._report = report
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done = 0
        self._total = 0
        self._began = self._last = time.monotonic()
        self._fetched = 0

    def expect(self, size: int | None) -> None:
        """Add a file's bytes, where they are known, to what is to come."""
        with self._lock:
            self._total += size or 0

    def take_back(self, size: int, total: int) -> None:
        """Take back bytes that `advance` and `expect` were told of, since a try has failed."""
        with self._lock:
            self._done -= size
            self._total -= total

    def advance(self, size: int, *, fetched: bool = True) -> None:
        """Add bytes that are there.

        Args:
            size: how many.
            fetched: whether they came just now: they count for the rate.

        Raises:
            InterruptedError: the download is to end.
        """
        if self._stopped.is_set():
            raise InterruptedError("the download was stopped")
        with self._lock:
            self._done += size
            self._fetched += size if fetched else 0
            now = time.monotonic()
            if now - self._last < INTERVAL:
                return
            self._last = now
            rate = f"{amount(self._fetched / (now - self._began))}/s"
            if self._total >= self._done > 0:
                share = f"{100 * self._done // self._total} %, {amount(self._done)} of {amount(self._total)}"
            else:
                share = amount(self._done)
        self.say(f"{share}, {rate}")

    def say(self, text: str) -> None:
        """Report a line about this download."""
        self._report(f"{self._label}: {text}")

    def stop(self) -> None:
        """End whatever still advances."""
        self._stopped.set()

    def rest(self, seconds: float) -> None:
        """Sleep, unless the download is stopped.

        Raises:
            InterruptedError: it is.
        """
        if self._stopped.wait(seconds):
            raise InterruptedError("the download was stopped")

    def summary(self) -> str:
        """What was fetched, and how long it took."""
        seconds = time.monotonic() - self._began
        return f"{amount(self._fetched)} fetched in {seconds:.1f} s"


def amount(size: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
