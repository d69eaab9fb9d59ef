"""Waiting for a process or for output on this host, by the kernel's own events."""

from __future__ import annotations

import os
import select
from types import TracebackType

from mlproj_core.backends.local.processes import start_time

__all__ = ["OutputWatch", "ProcessWatch"]

IN_MODIFY, IN_CREATE = 0x2, 0x100
IN_NONBLOCK, IN_CLOEXEC = 0o4000, 0o2000000

BLIND_INTERVAL = 0.1
"""Seconds between looks where the kernel gives no event: pidfds need Linux 5.3, inotify has a quota per user."""


class ProcessWatch:
    """Waits for the end of a process that need not be a child of this one."""

    def __init__(self, pid: int, started: int) -> None:
        """Watch the process with this pid that began at `started` (clock ticks since boot)."""
        self.pid, self.started = pid, started
        self.descriptor: int | None = None
        try:
            self.descriptor = os.pidfd_open(pid)
        except (OSError, AttributeError):
            self.descriptor = None
        if not self.alive():  # the pid may have become another's before it was opened
            self.close()

    def alive(self) -> bool:
        """Whether it still runs."""
        try:
            return start_time(self.pid) == self.started
        except OSError:
            return False

    def send(self, number: int) -> None:
        """Send it a signal, never to another process that got its pid."""
        import signal

        try:
            if self.descriptor is not None:
                signal.pidfd_send_signal(self.descriptor, number)
            elif self.alive():
                os.kill(self.pid, number)
        except ProcessLookupError:
            return

    def wait(self, timeout: float | None) -> None:
        """Return at its end or after `timeout` seconds."""
        if self.descriptor is not None:
            poll = select.poll()
            poll.register(self.descriptor, select.POLLIN)
            poll.poll(None if timeout is None else timeout * 1000)
        elif self.alive():
            import time

            time.sleep(BLIND_INTERVAL if timeout is None else min(timeout, BLIND_INTERVAL))

    async def wait_async(self, timeout: float | None) -> None:
        """As `wait`, in an event loop."""
        import asyncio

        if self.descriptor is None:
            if self.alive():
                await asyncio.sleep(BLIND_INTERVAL if timeout is None else min(timeout, BLIND_INTERVAL))
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self.descriptor, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), timeout)
        except asyncio.TimeoutError:
            return
        finally:
            loop.remove_reader(self.descriptor)

    def close(self) -> None:
        """Stop watching."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> ProcessWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OutputWatch:
    """Wakes up when there is more of a run's output: by its supervisor's nudges, else by inotify."""

    def __init__(self, directory: str, nudges: int | None) -> None:
        """Watch a directory that output is written to, or the pipe in which nudges come."""
        self.descriptor = _inotify(directory) if nudges is None else nudges

    def wait(self, process: ProcessWatch | None) -> None:
        """Return when something was written, or when `process` has ended."""
        poll = select.poll()
        if self.descriptor is not None:
            poll.register(self.descriptor, select.POLLIN)
        if process is not None and process.descriptor is not None:
            poll.register(process.descriptor, select.POLLIN)
        blind = self.descriptor is None or process is None or process.descriptor is None
        poll.poll(BLIND_INTERVAL * 1000 if blind else None)
        if self.descriptor is not None:
            try:
                while os.read(self.descriptor, 65536):
                    pass
            except BlockingIOError:
                return

    def close(self) -> None:
        """Stop watching."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _inotify(directory: str) -> int | None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(directory), IN_MODIFY | IN_CREATE) < 0:
        os.close(descriptor)
        return None
    return descriptor
