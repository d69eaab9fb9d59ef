"""House-keeping: what mlproj keeps on a host, bounded by age and by size.

Each room that keeps something says what there is: a function that yields an `Item` for each thing, and knows how to
remove it unless it is in use. `collect` decides which of them go, and knows nothing of what they are. The table of the
kinds is in `mlproj_core.cli.gc`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mlproj_core.report import Report

__all__ = ["Item", "Tally", "collect", "delete", "disk_usage"]

RECENT = 3600.0
"""Seconds for which nothing is removed for its size alone: somebody may still be about to ask for it."""


@dataclass(frozen=True)
class Item:
    """One thing that is kept, and can be removed.

    Attributes:
        kind: which kind of thing, such as "runs".
        name: what people know it by.
        last_used: when it was last of use, in seconds since the epoch.
        measure: gives the bytes that it takes on the disk.
        remove: removes it, unless that cannot be done now: then it says why, in a few words. It looks again, under the
            locks of those who use the thing, and may raise `OSError`.
        in_use: why it has to stay, as far as could be seen without a lock; None if nothing speaks for it.
        dead: whether it is of no use to anybody, as what a killed process left: it goes whatever its age.
    """

    kind: str
    name: str
    last_used: float
    measure: Callable[[], int]
    remove: Callable[[], str | None]
    in_use: str | None = None
    dead: bool = False


@dataclass
class Tally:
    """What became of the things of one kind.

    Attributes:
        removed: name and bytes of each that was removed.
        left: how many are still there.
        problems: of each that could not be removed, its name and the error.
    """

    removed: list[tuple[str, int]] = field(default_factory=list)
    left: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes of all that was removed."""
        return sum(size for _, size in self.removed)


def collect(
    items: Iterable[Item],
    *,
    older_than: float | None = None,
    max_size: int | None = None,
    dry_run: bool = False,
    report: Report,
) -> dict[str, Tally]:
    """Remove what is too old, and then what has not been used for the longest time, until the rest is small enough.

    Args:
        items: all that there is; its size counts together, whatever the kind.
        older_than: seconds since the last use after which a thing goes; None for no limit.
        max_size: bytes that all things together may take; None for no limit. What was used within the last hour stays
            all the same.
        dry_run: whether to remove nothing, and say what would be removed.
        report: is told of each thing that is removed, or that had to stay though its time had come.

    Returns:
        What became of the things, by their kind.
    """
    tallies: dict[str, Tally] = {}
    ordered = sorted(items, key=lambda item: (not item.dead, item.last_used))
    sizes = {id(item): item.measure() for item in ordered} if max_size is not None else {}
    total, now = sum(sizes.values()), time.time()
    for item in ordered:
        tally = tallies.setdefault(item.kind, Tally())
        idle = now - item.last_used
        too_old = older_than is not None and idle >= older_than
        too_much = max_size is not None and total > max_size and idle >= RECENT
        if not (item.dead or too_old or too_much):
            tally.left += 1
            continue
        try:
            size = sizes[id(item)] if id(item) in sizes else item.measure()
            why = item.in_use or (None if dry_run else item.remove())
        except OSError as error:
            tally.left += 1
            tally.problems.append((item.name, str(error)))
            report(f"warning: {item.kind}: {item.name} could not be removed: {error}")
            continue
        if why is not None:
            tally.left += 1
            report(f"{item.kind}: left {item.name}: {why}")
            continue
        total -= size
        tally.removed.append((item.name, size))
        report(f"{item.kind}: {'would remove' if dry_run else 'removed'} {item.name}")
    return tallies


def delete(directory: Path) -> None:
    """Delete a directory as far as that can be done; nothing happens where there is none.

    Raises:
        OSError: something of it is left.
    """
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        shutil.rmtree(directory)


def disk_usage(path: Path, *, only: Iterable[str] | None = None) -> int:
    """Bytes that a directory takes on the disk, as du(1) counts them: of several links to one file, one.

    Args:
        path: the directory. What cannot be looked at counts for nothing.
        only: names of the entries to count; None for all, and the directory itself.
    """
    seen = set[tuple[int, int]]()
    roots = [path] if only is None else [path / name for name in only]
    total = 0

    def count(file: str | Path) -> None:
        nonlocal total
        try:
            status = os.lstat(file)
        except OSError:
            return
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            total += 512 * status.st_blocks

    for root in roots:
        count(root)
        for directory, directories, files in os.walk(root):
            for name in (*directories, *files):
                count(f"{directory}/{name}")
    return total
