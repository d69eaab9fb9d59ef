"""The two processes of a launcher.

The first one stays what a container's init must be: it passes signals on, asks for the end of every orphan, and exits
with the code of the second. The second one does all the rest, and becomes the project. What the launcher itself cannot
do ends it with the code `FAILED`, and the reason in the termination log. Of the project's process nothing is written
there but what it writes itself.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import sys
import time

from mlproj_core.launcher.program.programs import GRACE
from mlproj_core.launcher.program.project import launch
from mlproj_core.launcher.program.words import Failure, Stopped, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


FAILED = 70
"""Exit code of a failure that is the launcher's own (EX_SOFTWARE of sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

LONGEST_REASON = 4000
"""Bytes: Kubernetes keeps the first 4096 of a termination log."""


def main(arguments: list[str]) -> int:
    """Run the plan; the exit code of the entry point, 128 + n if the signal n ended it, or `FAILED`."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to this process, also where it is not the init
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    worker = os.fork()
    if worker == 0:
        work(arguments[0])
    return attend(worker)


def attend(worker: int) -> int:
    """See the worker, and all that comes of it, to the end."""
    status: int | None = None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if status is None:  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                try:
                    os.killpg(worker, number)
                except ProcessLookupError:  # it has no group of its own yet
                    os.kill(worker, number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while status is None:
        pid, ended = os.waitpid(-1, 0)
        if pid == worker:
            status = ended
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        until = time.monotonic() + seconds
        told: set[int] = set()
        while left := set(descendants()):
            for pid in sorted(left - told):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= left
            if time.monotonic() > until:
                break
            time.sleep(0.02)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def descendants() -> list[int]:
    """The processes that come of this one. Those that somebody executes in the container do not."""
    children: dict[int, list[int]] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(path, "rb") as file:
                text = file.read()
            # The name in the second field may hold anything.
            children.setdefault(int(text.rpartition(b")")[2].split()[1]), []).append(int(text.split()[0]))
    found, new = [], [os.getpid()]
    while new:
        new = [child for pid in new for child in children.get(pid, ())]
        found += new
    return found


def prctl(option: int, value: int) -> None:
    """Ask the kernel; a Python without ctypes does without."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def work(plan_path: str) -> NoReturn:
    """Do all that comes before the project, and become it."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    os.setsid()
    for number in SIGNALS:
        signal.signal(number, stop)
    log = "/dev/termination-log"
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            with open(plan_path, encoding="utf-8") as file:
                plan = json.load(file)
            log = plan["termination_log"]
        except (OSError, KeyError, ValueError) as error:
            raise Failure("lost", f"{plan_path} is no plan that can be read: {error!r}") from None
        launch(plan)
    except Stopped as stopped:
        number = stopped.args[0]
        say(f"ended by {signal.Signals(number).name} before the project was started")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    except Failure as failure:
        report(failure, log)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        report(Failure("lost", f"the launcher failed: {error!r}", retryable=True), log)
    sys.stdout.flush()
    os._exit(FAILED)


def stop(number: int, _frame: FrameType | None) -> None:
    """Turn the first signal into an exception; further ones must not cut the clearing up short."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def report(failure: Failure, log: str) -> None:
    """Say why there is no run, to people and in the termination log."""
    say(f"FAILED: {failure} ({failure.code})")
    message = str(failure)
    while True:
        error = {"code": failure.code, "message": message, "retryable": failure.retryable}
        text = json.dumps({"mlproj": {"error": error}})
        if len(text) <= LONGEST_REASON:
            break
        half = len(message) * 2 // 5
        message = f"{message[:half]} … {message[-half:]}"
    with contextlib.suppress(OSError), open(log, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(exit_code)
