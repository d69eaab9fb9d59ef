"""Seeing a run through to its end from a terminal, with Ctrl-C and TERM as ways to cancel it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from mlproj_core.errors import MlprojError

if TYPE_CHECKING:
    from mlproj_core.cli.screen import Screen
    from mlproj_core.runs import SubmittedRun

__all__ = ["Ending", "see_through"]


@dataclass(frozen=True)
class Ending:
    """How it came that the run is no longer watched.

    Attributes:
        run: the run; None when it was not submitted.
        signal: the signal by which the user cancelled it; None if it was not cancelled from here.
        left: whether the user went away before its end.
    """

    run: SubmittedRun | None
    signal: int | None = None
    left: bool = False

    @property
    def exit_status(self) -> int | None:
        """The exit status that tells of the signal, as shells have it; None without one."""
        return 128 + self.signal if self.signal is not None else None


class _Left(BaseException):
    """The user will not wait any longer."""


class _Interrupts:
    """SIGINT and SIGTERM: the first one cancels the run, whose output is still shown; the next one leaves."""

    def __init__(self, screen: Screen) -> None:
        self.signal: int | None = None
        self._screen = screen
        self._run: SubmittedRun | None = None
        self._canceller: threading.Thread | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """While this lasts. A signal that is ignored, as by a shell for its background jobs, stays so."""
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def concern(self, run: SubmittedRun) -> None:
        """From now on this run is what they cancel."""
        self._run = run

    def wait(self) -> None:
        """Wait until a cancellation that was begun is over."""
        if self._canceller is not None:
            self._canceller.join()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._run is None or self.signal is not None:
            self.signal = number if self.signal is None else self.signal
            raise _Left
        self.signal = number
        # In a thread, so that what the project prints while it is being ended is shown as it comes.
        self._canceller = threading.Thread(target=self._cancel, args=(self._run,), daemon=True)
        self._canceller.start()

    def _cancel(self, run: SubmittedRun) -> None:
        self._screen.say(f"{signal.Signals(self.signal or 0).name}: cancelling run {run.handle.tag}")
        try:
            run.cancel()
        except MlprojError as error:
            self._screen.say(f"warning: run {run.handle.tag} could not be cancelled: {error}")


def see_through(submit: Callable[[], SubmittedRun], screen: Screen) -> Ending:
    """Submit a run and show its output to its end.

    Args:
        submit: submits the run.
        screen: where its output is shown.
    """
    interrupts = _Interrupts(screen)
    run: SubmittedRun | None = None
    with interrupts.handled(), screen:
        try:
            run = submit()
            interrupts.concern(run)
            from mlproj_core.backends import load_backend

            backend = load_backend(run.handle.backend)
            screen.follow(backend, run.handle)
            for data, _ in backend.follow_output(run.handle, 0):
                screen.write(data)
            screen.close()
            backend.wait(run.handle, None)
            interrupts.wait()
        except _Left:
            if run is not None:
                _end_without_us(run)
            what = f"leaving while run {run.handle.tag} is being ended" if run else "interrupted: no run was waited for"
            screen.say(what)
            return Ending(run, interrupts.signal, left=True)
    return Ending(run, interrupts.signal)


def _end_without_us(run: SubmittedRun) -> None:
    """See the cancellation through in a process of its own: the thread that began it may not have come to the mark."""
    cancel = "import sys; from mlproj_core import attach; attach(sys.argv[1]).cancel()"
    subprocess.Popen(
        [sys.executable, "-c", cancel, run.handle.to_json()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
