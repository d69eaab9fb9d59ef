"""Processes of this host, by /proc; and a guard that ends those of a world when the tests cannot.

As a program, `python processes.py MARK` is that guard: it reads the ids of the sessions that a world begins, and ends
them, and whatever else carries the mark, when the tests end, however they do.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def pids():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def living():
    """The pid, the parent's and the session's of every process that has not ended."""
    for pid in pids():
        with contextlib.suppress(OSError):
            state, parent, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
            if state not in "ZX":
                yield pid, int(parent), int(session)


def lives(pid):
    """Whether a process has not ended; one that nobody has waited for yet has."""
    return any(pid == each for each, _, _ in living())


def command(pid):
    """The command line of a process, or what it calls itself; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def supervisor_of(pid):
    """The process that watches over the run in which a process works."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    parent = int(stat.rpartition(")")[2].split()[1])
    return parent if "backends.local.supervisor" in command(parent) else supervisor_of(parent)


def in_session(session):
    """Pids of the processes that live in a session."""
    return [pid for pid, _, each in living() if each == session]


def belonging(mark, sessions):
    """Pids of the processes that live in one of these sessions, or whose environment has this `NAME=VALUE`.

    Either alone misses some: a process that gives itself a title loses the environment that /proc shows of it, and
    what a world starts may start what begins a session of its own.
    """
    assert all(mark.partition("=")), "an empty mark would stand in every environment"
    found = []
    for pid, _, session in living():
        with contextlib.suppress(OSError):
            if session in sessions or mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def end_all(mark, sessions):
    """Kill what belongs to a world, until nothing does."""
    kill_until_none(lambda: belonging(mark, sessions))


def kill_until_none(find):
    """Kill the processes whose pids a function finds, until it finds none."""
    end = time.monotonic() + 20
    while left := find():
        assert time.monotonic() < end, f"cannot be killed: {[(pid, command(pid)) for pid in left]}"
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


class Guard:
    """A process that outlives the tests, to end what is left of a world.

    Args:
        mark: what stands in the environment of the world's processes, as `NAME=VALUE`.
        environment: the guard's own, without the mark.
    """

    def __init__(self, mark, environment):
        self._process = subprocess.Popen(
            [sys.executable, __file__, mark],
            stdin=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip

    def watch(self, session):
        """Let it end this session too."""
        self._process.stdin.write(f"{session}\n")
        self._process.stdin.flush()

    def close(self):
        """Let it do its work now, and wait until it has."""
        self._process.stdin.close()
        self._process.wait(30)


if __name__ == "__main__":
    end_all(sys.argv[1], {int(line) for line in sys.stdin})
