"""Locks between the processes of a host: flock on a file, which the kernel frees however its holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["exclusive"]


@contextlib.contextmanager
def exclusive(path: Path, waiting: Callable[[], None] | None) -> Iterator[int | None]:
    """Hold the exclusive lock on a file, which is made if need be.

    Yields the lock's descriptor, or None if it was not to be had. A program that inherits the descriptor keeps the lock
    until it has ended too.

    Args:
        path: the file. Its holder may remove it.
        waiting: called once when another process holds the lock, before waiting for it; None not to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    yield None
                    return
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_same_file(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Whether a path still names the open file: a lock on one that was removed protects nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
