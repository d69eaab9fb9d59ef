"""Running an installer, uv or pip: its output passed on as it comes, its end certain."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from mlproj_core.environments.redaction import redact

if TYPE_CHECKING:
    import subprocess

__all__ = ["Failure", "run_program"]

_LINES_KEPT: Final = 40
_GRACE_SECONDS: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Failure(Exception):
    """The program ended without success.

    Attributes:
        lines: the last lines it printed, without credentials.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def run_program(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    secrets: Sequence[str],
    report: Callable[[str], None],
    given: str = "",
    keep_open: Sequence[int] = (),
    answers: bool = True,
) -> list[str]:
    """Run a program to its end and pass on what it prints, without credentials.

    Whatever ends this call early, a signal turned into an exception included, ends it and its children first.

    Args:
        command: the program and its arguments; free of credentials, since every user of the host can read them.
        environment: every variable it gets.
        directory: where it runs.
        secrets: what to mask in its output, besides credentials in URLs.
        report: is given each line of its standard error, and of its standard output where that is no answer.
        given: text for its standard input.
        keep_open: descriptors that it inherits.
        answers: whether its standard output is an answer to the caller (uv), or is for people too (pip).

    Returns:
        The lines of its standard output, if it answers.

    Raises:
        Failure: it ended with another status than 0.
    """
    import threading

    # A signal that becomes an exception must not do so between the program's start and the place that sees to its end.
    # The readers go without signals for good: they are for the main thread.
    unmasked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        process = _start(command, environment, directory, keep_open, answers=answers, mask=unmasked)
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
        raise
    given_to, printed = process.stdin, process.stdout
    assert given_to is not None and printed is not None  # noqa: S101, PT018
    last: deque[str] = deque(maxlen=_LINES_KEPT)
    answer: list[str] = []

    def follow(told: TextIO) -> None:
        with told:
            for line in told:
                text = redact(line.rstrip(), secrets)
                if text:
                    last.append(text)
                    # Nobody listens any more: the program must be read from all the same, or it would block for ever.
                    with contextlib.suppress(OSError):
                        report(text)

    def collect(printed: TextIO) -> None:
        with printed:
            answer.extend(line.rstrip("\n") for line in printed)

    listening = [(follow, process.stderr), (collect, printed)] if process.stderr else [(follow, printed)]
    readers = [threading.Thread(target=listen, args=(stream,), daemon=True) for listen, stream in listening]
    reading = []
    try:
        for reader in readers:
            reader.start()
            reading.append(reader)
        signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
        with contextlib.suppress(BrokenPipeError), given_to:
            given_to.write(given)
        status = process.wait()
    finally:
        _end(process.pid, process.poll)
        for reader in reading:  # a process that escaped from it may hold the pipes open for ever
            reader.join(timeout=_GRACE_SECONDS)
        signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
    if status < 0:
        last.append(f"it was ended by {signal.Signals(-status).name}")
    if status != 0:
        raise Failure(last)
    return answer


def _start(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    keep_open: Sequence[int],
    *,
    answers: bool,
    mask: set[int] | set[signal.Signals],
) -> subprocess.Popen[str]:
    import subprocess

    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if answers else subprocess.STDOUT,
        pass_fds=tuple(keep_open),
        start_new_session=True,
        preexec_fn=_before_program(mask),
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _end(group: int, poll: Callable[[], int | None]) -> None:
    """End what is left of a process group: politely while its leader lives, then for certain."""
    import time

    if poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
        until = time.monotonic() + _GRACE_SECONDS
        while poll() is None and time.monotonic() < until:
            time.sleep(0.01)
    until = time.monotonic() + _GRACE_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # Until nobody is left: of what it started we cannot wait for the end, and a kill takes effect a moment later.
        while True:
            os.killpg(group, signal.SIGKILL)
            if poll() is not None and time.monotonic() > until:
                break  # dead all the same, but nobody has asked for their end: a host without an init
            time.sleep(0.005)
    while poll() is None:
        time.sleep(0.01)


def _before_program(mask: set[int] | set[signal.Signals]) -> Callable[[], None]:
    """What the process does before it becomes the program: hear signals, and ask the kernel to die with its parent."""
    parent = os.getpid()
    prctl = None
    if sys.platform == "linux":
        import ctypes

        prctl = ctypes.CDLL(None).prctl

    def before_program() -> None:
        for number in _ENDING:  # one that comes before the program is there is no exception here
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return before_program
