"""The workspace: a directory in which one submitter checks a project out, gone when it is done or dead."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlproj_core.locations import state_dir

if TYPE_CHECKING:
    from mlproj_core.housekeeping import Item

__all__ = ["leftovers", "workspace"]

FRESH = 3600.0
"""Seconds for which a workspace that nobody has locked is left: it may have been made this moment."""


@contextmanager
def workspace() -> Iterator[Path]:
    """A new directory next to the runs, so that a checkout becomes a run's own by a rename.

    It is locked for as long as it is used, and removed with all that is still in it.
    """
    directory = _root() / f"work-{os.urandom(8).hex()}"
    directory.mkdir(parents=True, mode=0o700)
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory
    finally:
        try:
            directory.rmdir()
        except OSError:  # a checkout that became no run's
            import shutil  # takes longer than all the rest here

            shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def leftovers() -> Iterator[Item]:
    """The workspaces on this host, for house-keeping; those whose submitter has died are of no use to anybody."""
    from mlproj_core.housekeeping import Item, disk_usage

    with suppress(FileNotFoundError):
        for path in sorted(_root().iterdir()):
            with suppress(FileNotFoundError):
                used = path.stat().st_mtime
                is_dead = time.time() - used > FRESH and not _is_locked(path)
                yield Item(
                    kind="checkouts",
                    name=path.name,
                    last_used=used,
                    measure=partial(disk_usage, path),
                    remove=partial(_remove, path),
                    in_use=None if is_dead else "a project is being checked out there",
                    dead=is_dead,
                )


def _remove(path: Path) -> str | None:
    from mlproj_core.housekeeping import delete

    if _is_locked(path):
        return "a project is being checked out there"
    delete(path)
    return None


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _root() -> Path:
    return state_dir() / "checkouts"
