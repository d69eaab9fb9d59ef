"""One file into the cache: gone on with where it was cut off, checked, and whole or not there."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from mlproj_core.data.cache import Slot
from mlproj_core.data.content import Body, Item, Known, Outdated, Passing, Store, failure
from mlproj_core.data.progress import Progress, amount
from mlproj_core.data.remote import without_query
from mlproj_core.errors import DataError
from mlproj_core.tracking.credentials import integer

__all__ = ["check_room", "fetched", "patiently"]

_T = TypeVar("_T")

WORTH_A_TRY = 1 << 20
"""Bytes that a try must have brought to count as none: a bad line that moves on is never given up."""

LONGEST_PAUSE = 30.0
"""Seconds between two tries at most."""

FULL = (errno.ENOSPC, errno.EDQUOT)


def patiently(action: Callable[[], _T], progress: Progress, reached: Callable[[], int] = lambda: 0) -> _T:
    """Try until it works or patience is over: that of MLflow's client, MLFLOW_HTTP_REQUEST_MAX_RETRIES more tries.

    Args:
        action: what to try.
        progress: is told of each try that fails.
        reached: how many bytes there are by now.

    Raises:
        DataError: it did not work.
    """
    retries = integer("MLFLOW_HTTP_REQUEST_MAX_RETRIES", os.environ, 7)
    backoff = min(0.5, integer("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", os.environ, 2))
    failures, farthest = 0, reached()
    while True:
        try:
            return action()
        except Passing as trouble:
            now = reached()
            if now >= farthest + WORTH_A_TRY:
                failures, farthest = 0, now
            failures += 1
            if failures > retries:
                raise failure(f"{trouble} ({failures} tries).", retryable=True) from None
            pause = min(backoff * 2 ** (failures - 1), LONGEST_PAUSE) if trouble.pause is None else trouble.pause
            progress.say(f"{trouble}; try {failures + 1} of {retries + 1} in {pause:g} s")
            progress.rest(pause)


def fetched(item: Item, store: Store, progress: Progress) -> tuple[BinaryIO, bool]:
    """A file of a store, open to be read, and whether it came from the store just now.

    Of any number of processes that want it at once, one fetches it.

    Raises:
        DataError: it cannot be had.
    """
    slot = Slot.of(item.address)
    shown = without_query(item.address)
    with slot.held(lambda: progress.say(f"waiting for {shown}: another process is fetching it")):
        try:
            is_new = patiently(lambda: _fetch(slot, item, store, progress), progress, slot.part_length)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in FULL:  # what is there of it would keep the disk full
                slot.drop_part()
                raise _full(slot.directory, shown) from None
            if slot.part_facts().get("version") is None:  # nobody could go on with it
                slot.drop_part()
            raise
        file = slot.content.open("rb")
        if slot.version() is None:  # nothing tells whether it will be the same next time
            slot.drop()
        else:
            slot.touch()
    return file, is_new


def check_room(directory: Path, size: int, shown: str) -> None:
    """See to it that a file system has room.

    Args:
        directory: of which file system.
        size: bytes that are to be written.
        shown: what it is, for messages.

    Raises:
        DataError: it has not.
    """
    state = os.statvfs(directory)
    if size > state.f_bavail * state.f_frsize:
        raise _full(directory, f"{shown} ({amount(size)}, with {amount(state.f_bavail * state.f_frsize)} left)")


def _full(directory: Path, shown: str) -> DataError:
    return failure(
        f"The disk of {directory} has no room for {shown}. Free some, or set MLPROJ_CACHE_DIR or storage_dir to a "
        "larger one.",
        retryable=True,
    )


def _fetch(slot: Slot, item: Item, store: Store, progress: Progress) -> bool:
    facts, length = slot.part_facts(), slot.part_length()
    is_whole = bool(facts) and facts["total"] == length and facts["version"] is not None
    # A part to which nothing is missing, since whoever fetched it died at the very end, is asked after like a file.
    known = Known(cached=facts["version"]) if is_whole else Known(slot.version(), facts.get("version"), length)
    try:
        body = store.open(item, known)
    except Outdated:
        slot.drop_part()
        raise
    if body is None:
        if is_whole:
            _complete(slot, item, facts["encoding"], facts["version"])
        else:
            slot.drop_part()
        return False
    with contextlib.closing(body.chunks):
        _read(slot, item, body, progress)
    return True


def _read(slot: Slot, item: Item, body: Body, progress: Progress) -> None:
    shown = without_query(item.address)
    facts = slot.part_facts()
    if body.start == 0:
        slot.begin_part(body.version, body.total, body.encoding)
        facts = slot.part_facts()
    elif body.version not in (None, facts["version"]) or body.total not in (None, facts["total"]):
        slot.drop_part()
        raise Outdated(f"{shown} was changed while it was read")
    total, have = facts["total"], body.start
    if total is not None:
        check_room(slot.directory, total - have, shown)
    if item.size is None:
        progress.expect(total)
    progress.advance(have, fetched=False)
    try:
        with slot.append() as part:
            for chunk in body.chunks:
                part.write(chunk)
                have += len(chunk)
                progress.advance(len(chunk))
        if total is not None and have < total:
            raise Passing(f"{shown} was cut after {have} of {total} bytes")
    except BaseException as error:
        progress.take_back(have, (total or 0) if item.size is None else 0)
        if isinstance(error, Outdated):
            slot.drop_part()
        raise
    if (total is not None and have > total) or (item.size is not None and not facts["encoding"] and have != item.size):
        slot.drop_part()
        announced = total if total is not None and have > total else item.size
        raise failure(f"{shown} has {have} bytes, but its server announced {announced}.", retryable=True)
    _complete(slot, item, facts["encoding"], facts["version"])


def _complete(slot: Slot, item: Item, encoding: str, version: str | None) -> None:
    draft = slot.part
    if encoding == "gzip":
        draft = slot.directory / "decoded"
        try:
            with gzip.open(slot.part) as packed, draft.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            draft.unlink(missing_ok=True)
            slot.drop_part()
            shown = without_query(item.address)
            raise failure(f"{shown} was sent as gzip, and cannot be unpacked: {error}.", retryable=True) from None
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    slot.complete(draft, version)
