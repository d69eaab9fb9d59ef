"""The cache that conda environments share: packages, and what channels hold.

    conda/pkgs/                       packages, from which environments are linked
    conda/repodata/                   what the channels said last
    conda/.lock                       held shared by whoever installs; its time of change is the last use

Environments keep what they have: a package that is removed here lives on in them by its hard links.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlproj_core.locations import cache_dir

if TYPE_CHECKING:
    from mlproj_core.housekeeping import Item

__all__ = ["in_use", "stored"]


@contextlib.contextmanager
def in_use() -> Iterator[tuple[Path, int]]:
    """The cache's directory and the descriptor of a lock, which a program that uses it inherits: it stays till then."""
    root = cache_dir() / "conda"
    root.mkdir(parents=True, exist_ok=True)
    descriptor = _open(root)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)
        yield root, descriptor
    finally:
        os.close(descriptor)


def stored() -> Iterator[Item]:
    """The cache as a whole, for house-keeping: which of its packages is needed next nobody knows."""
    from mlproj_core.housekeeping import Item, disk_usage

    root = cache_dir() / "conda"
    if any((root / name).exists() for name in ("pkgs", "repodata")):
        yield Item(
            kind="packages",
            name=str(root),
            last_used=_lock(root).stat().st_mtime if _lock(root).exists() else 0.0,
            measure=partial(disk_usage, root),
            remove=partial(_remove, root),
        )


def _remove(root: Path) -> str | None:
    from mlproj_core.housekeeping import delete

    descriptor = _open(root)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in ("pkgs", "repodata"):
            delete(root / name)
    except BlockingIOError:
        return "packages of it are being installed"
    finally:
        os.close(descriptor)
    return None


def _open(root: Path) -> int:
    return os.open(_lock(root), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _lock(root: Path) -> Path:
    return root / ".lock"
