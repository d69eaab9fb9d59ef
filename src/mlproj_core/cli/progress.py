"""A spinner on the terminal's last line, for as long as there is nothing else to look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlproj_core.cli.printing import colour_of, remark, seconds

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["Progress"]

PATIENCE = 0.3
"""Seconds before it appears: what is quick needs no progress, nor the import of rich."""

INTERVAL = 0.1
"""Seconds between two pictures."""

SPINNER_WIDTH = 3
"""Columns that the spinner takes beside its text, and one to spare."""


class Progress:
    """Shows on standard error what is being done, and for how long; lines said meanwhile scroll above it.

    A thread draws it, which begins at once and ends with `stop`.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._phase: Callable[[], str | None] = lambda: ""
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def follow(self, phase: Callable[[], str | None]) -> None:
        """Begin each picture with a phase's name; it is asked for anew, and None ends the progress."""
        self._phase = phase

    def note(self, label: str) -> None:
        """Show another text."""
        self._label = label

    def say(self, line: str) -> None:
        """Print one of mlproj's own lines, to stay."""
        with self._lock:
            if self._live is None:
                remark(line)
                return
            from rich.text import Text

            text = f"[mlproj] {line}"
            self._live.console.print(Text(text, style=colour_of(text) or ""), soft_wrap=True)

    def stop(self) -> None:
        """Take it away; harmless when it has gone already."""
        self._stopped.set()
        self._thread.join()

    def _draw(self) -> None:
        if self._stopped.wait(PATIENCE):
            return
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        spinner = Spinner("dots")
        console = Console(stderr=True)
        live = Live(spinner, console=console, transient=True, auto_refresh=False, redirect_stdout=False)
        try:
            while not self._stopped.wait(INTERVAL) and (phase := self._phase()) is not None:
                words = ": ".join(filter(None, [phase, self._label]))
                elapsed = seconds(time.monotonic() - self._began)
                text = Text(f"{elapsed}  {words}")
                text.truncate(console.width - SPINNER_WIDTH, overflow="ellipsis")
                spinner.update(text=text)
                with self._lock:
                    if self._live is None:
                        live.start()
                        self._live = live
                    live.refresh()
        finally:
            with self._lock:
                self._live = None
                live.stop()
