"""Processes of this host, by `/proc`: which belong to a run, since when, and how they end.

Standard library only, and light: the supervisor holds this module in memory for as long as its run lasts.
"""

from __future__ import annotations

import os
import signal

__all__ = ["descendants", "kill", "oom_kills", "reap", "signal_name", "start_time"]


def descendants(ancestor: int, tag: str, directory: str) -> set[int]:
    """Pids of every process of a run: below its supervisor in the tree of processes, or carrying its marks.

    The marks are MLPROJ_ATTEMPT and the place of the result, since one key may be in use in two state directories of
    this host. A process that carries another run's marks belongs to that run, which has a supervisor of its own.

    Args:
        ancestor: pid of the supervisor, which is not among them; 0 when it is dead.
        tag: the attempt, `K-n`.
        directory: its run directory.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    foreign: set[int] = set()
    marks = {f"MLPROJ_ATTEMPT={tag}".encode(), os.fsencode(f"MLPROJ_RESULT={directory}/result.json")}
    own = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        if pid in (ancestor, own):
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] in (b"Z", b"X"):
            continue
        parents[pid] = int(fields[1])
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environ = file.read()
        except OSError:
            continue
        carried = {mark for mark in environ.split(b"\0") if mark.startswith((b"MLPROJ_ATTEMPT=", b"MLPROJ_RESULT="))}
        if carried:
            (found if carried == marks else foreign).add(pid)
    if ancestor:
        for pid in parents:
            chain = pid
            while chain in parents and chain not in foreign:
                chain = parents[chain]
            if chain == ancestor:
                found.add(pid)
    return found


def start_time(pid: int) -> int:
    """When a process began, in clock ticks since the boot: with its pid it names the process for good."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def reap(child: int) -> int | None:
    """The wait status of `child` if it has ended, else None; other children that have ended are reaped too."""
    status = None
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == child:
            status = code


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone already, or be another user's."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory: in this control group, else on this host."""
    for path, name in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    key, _, value = line.partition(" ")
                    if key == name:
                        return int(value)
        except OSError:
            continue
    return 0


def signal_name(number: int) -> str:
    """A signal's name, as in SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
