"""The Git mirrors in the cache, for house-keeping."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from mlproj_core.housekeeping import Item, delete, disk_usage
from mlproj_core.locations import cache_dir
from mlproj_core.sources.worktree import Repository

__all__ = ["stored"]

_MIRROR = re.compile(r"[0-9a-f]{32}")
_LEFTOVER = re.compile(r"([0-9a-f]{32})\.(incoming|doomed)-.+")


def stored() -> Iterator[Item]:
    """Each mirror, and what fetches and removals left that were killed.

    A mirror can go while a commit is checked out of it: what is there by then stays, as hard links, and the checkout
    fetches the rest again.
    """
    root = cache_dir() / "git"
    with suppress(FileNotFoundError):
        for path in sorted(root.iterdir()):
            if _MIRROR.fullmatch(path.name):
                repository = Repository.at(path)
                url = repository.remote_url() if repository is not None else None
                used = _used(path)
                yield Item(
                    kind="mirrors",
                    name=url or path.name,
                    last_used=used,
                    measure=partial(disk_usage, path),
                    remove=partial(_remove, path, path, used),
                )
            elif found := _LEFTOVER.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    yield Item(
                        kind="mirrors",
                        name=path.name,
                        last_used=path.stat().st_mtime,
                        measure=partial(disk_usage, path),
                        remove=partial(_remove, path, root / found[1]),
                        dead=True,
                    )


def _used(mirror: Path) -> float:
    for path in (mirror / "last-used", mirror):
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _remove(path: Path, mirror: Path, used: float | None = None) -> str | None:
    """Remove a mirror, or what was left beside it, unless somebody fetches into the mirror."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{mirror}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return "a fetch is under way"
    try:
        if used is not None and _used(mirror) > used:
            return "it was used a moment ago"
        # Aside first, by a rename: half of a mirror never stands under its own name.
        doomed = Path(mkdtemp(prefix=f"{mirror.name}.doomed-", dir=mirror.parent))
        with suppress(FileNotFoundError):  # somebody else was first
            path.rename(doomed / "it")
        delete(doomed)
    finally:
        lock.release()
    return None
