"""Waiting for a process or for output on this host, by the kernel's own events."""

from __future__ import annotations

import os
import select
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from mlproj_core.backends.local import inotify
from mlproj_core.backends.local.processes import start_time

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["LoopOutputWatch", "OutputWatch", "ProcessWatch"]

MORE_OUTPUT = inotify.IN_MODIFY | inotify.IN_CREATE
"""The events of a directory of output when a segment grows, and when the next one begins."""

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

    def wait(self, timeout: float | None) -> bool:
        """Return at its end or after `timeout` seconds, or sooner where the kernel tells nothing: whether it ended."""
        if self.descriptor is not None:
            poll = select.poll()
            poll.register(self.descriptor, select.POLLIN)
            return bool(poll.poll(None if timeout is None else timeout * 1000))
        if self.alive():
            import time

            time.sleep(BLIND_INTERVAL if timeout is None else min(timeout, BLIND_INTERVAL))
            return False
        return True

    async def wait_async(self, timeout: float | None) -> bool:
        """As `wait`, in an event loop."""
        import asyncio

        if self.descriptor is None:
            if self.alive():
                await asyncio.sleep(BLIND_INTERVAL if timeout is None else min(timeout, BLIND_INTERVAL))
                return False
            return True
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self.descriptor, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), timeout)
        except asyncio.TimeoutError:
            return False
        finally:
            loop.remove_reader(self.descriptor)
        return True

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
        self.descriptor = inotify.watched(directory, MORE_OUTPUT) if nudges is None else nudges

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


class LoopInotify:
    """The inotify instance of an event loop, for all that is followed there: users have 128 of them, runs are more."""

    def __init__(self, loop: AbstractEventLoop, descriptor: int) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._followers: dict[int, set[LoopOutputWatch]] = {}
        loop.add_reader(descriptor, self._deliver)

    @classmethod
    def of(cls, loop: AbstractEventLoop) -> LoopInotify | None:
        """The one of this loop, opened by its first follower; None where there is none to be had."""
        found = _instances.get(loop)
        if found is None and (descriptor := inotify.instance()) is not None:
            found = _instances[loop] = cls(loop, descriptor)
        return found

    def add(self, directory: str, follower: LoopOutputWatch) -> int | None:
        """Wake a follower when there is more in a directory: the watch's number; None where there is none to be had."""
        watch = inotify.add_watch(self._descriptor, directory, MORE_OUTPUT)
        if watch is not None:  # that of other followers too, if the directory has any
            self._followers.setdefault(watch, set()).add(follower)
        self._close_if_idle()
        return watch

    def remove(self, watch: int, follower: LoopOutputWatch) -> None:
        """Wake it no more."""
        self._followers[watch].remove(follower)
        if not self._followers[watch]:
            del self._followers[watch]
            inotify.remove_watch(self._descriptor, watch)
        self._close_if_idle()

    def _deliver(self) -> None:
        for watch, _mask in inotify.events(self._descriptor):
            # Number -1: there were too many events, and any of the followers may have missed one.
            for followers in [self._followers.get(watch, ())] if watch >= 0 else self._followers.values():
                for follower in followers:
                    follower.wake()

    def _close_if_idle(self) -> None:
        if not self._followers:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            _instances.pop(self._loop, None)


_instances: WeakValueDictionary[AbstractEventLoop, LoopInotify] = WeakValueDictionary()
"""Weak, so that a loop that was closed with follows under way can be collected together with them."""


class LoopOutputWatch:
    """As `OutputWatch`, in an event loop: costs nothing while nothing happens, and a descriptor for the process."""

    def __init__(self, directory: str) -> None:
        """Watch a directory that output is written to, in the running event loop."""
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._process: ProcessWatch | None = None
        self._instance = LoopInotify.of(self._loop)
        self._watch = self._instance.add(directory, self) if self._instance is not None else None

    def attend(self, process: ProcessWatch) -> None:
        """Wake up at the end of this process too; closes it then, or when this watch is closed."""
        if process.descriptor is not None:
            self._process = process
            self._loop.add_reader(process.descriptor, self._process_ended)

    @property
    def sighted(self) -> bool:
        """Whether it wakes up at whatever happens: the kernel gives events, and the process has not ended."""
        return self._watch is not None and self._process is not None

    async def wait(self, interval: float | None) -> None:
        """Return when something was written or the process has ended, or after so many seconds.

        Args:
            interval: None relies on the kernel's events, as far as it gives them.
        """
        if interval is None and not self.sighted:
            interval = BLIND_INTERVAL
        alarm = self._loop.call_later(interval, self._awake.set) if interval is not None else None
        try:
            await self._awake.wait()
        finally:
            if alarm is not None:
                alarm.cancel()
        self._awake.clear()

    def wake(self) -> None:
        """Something was written."""
        self._awake.set()

    def _process_ended(self) -> None:
        self._forget_process()
        self._awake.set()

    def _forget_process(self) -> None:
        if self._process is not None:
            # At once: the descriptor stays readable, and would wake the loop again and again.
            if self._process.descriptor is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._process.descriptor)
            self._process.close()
            self._process = None

    def close(self) -> None:
        """Stop watching; the last watch of a loop closes its inotify instance."""
        self._forget_process()
        if self._instance is not None and self._watch is not None:
            self._instance.remove(self._watch, self)
        self._watch = self._instance = None

    def __enter__(self) -> LoopOutputWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A loop that is closed without `shutdown_asyncgens` leaves generators that never come to their end.
        self.close()
