"""The kernel's file events, inotify(7), by the C library's own calls.

Standard library only, and light: a supervisor holds this module in memory when its run has had to wait for a slot.
"""

from __future__ import annotations

import os
import struct
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from ctypes import CDLL

__all__ = ["add_watch", "events", "instance", "remove_watch", "watched"]

IN_MODIFY, IN_CLOSE_WRITE, IN_CREATE = 0x2, 0x8, 0x100
IN_NONBLOCK, IN_CLOEXEC = 0o4000, 0o2000000

EVENT = struct.Struct("iIII")
"""An event before its name: number of the watch, mask, cookie, and the bytes of the name."""


@cache
def _libc() -> CDLL:
    from ctypes import CDLL  # not at the top: it takes 2 ms, and a submit needs no events

    return CDLL(None, use_errno=True)


def instance() -> int | None:
    """A new, non-blocking inotify instance; None where there is none to be had: a user has 128 of them by default."""
    descriptor: int = _libc().inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
    return descriptor if descriptor >= 0 else None


def add_watch(descriptor: int, directory: str, mask: int) -> int | None:
    """Watch a directory: the number in its events, each time the same one; None where there is no watch to be had."""
    watch: int = _libc().inotify_add_watch(descriptor, os.fsencode(directory), mask)
    return watch if watch >= 0 else None


def remove_watch(descriptor: int, watch: int) -> None:
    """End a watch; harmless when the kernel has done so, since the directory is gone."""
    _libc().inotify_rm_watch(descriptor, watch)


def watched(directory: str, mask: int) -> int | None:
    """A new instance that watches this one directory; None where there is none to be had."""
    descriptor = instance()
    if descriptor is not None and add_watch(descriptor, directory, mask) is None:
        os.close(descriptor)
        return None
    return descriptor


def events(descriptor: int) -> Iterator[tuple[int, int]]:
    """What one read brings: of each event the watch's number and the mask. Number -1: events were lost."""
    try:
        data = os.read(descriptor, 65536)
    except BlockingIOError:
        return
    start = 0
    while start < len(data):
        watch, mask, _cookie, length = EVENT.unpack_from(data, start)
        yield watch, mask
        start += EVENT.size + length
