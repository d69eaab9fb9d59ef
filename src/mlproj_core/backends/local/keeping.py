"""The run directories of this host, for house-keeping.

What a later try of a step asks for is never lost with them. Of an attempt that its tracking server knows, the tag
`mlproj.outcome` tells the end. Of one that nobody else knows (it is untracked, or its server takes no word of it) the
end stays here: its directory is trimmed to a few small files, and forgotten after a year.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.local.backend import LocalBackend
from mlproj_core.backends.local.contained import MADE, REMOVED
from mlproj_core.backends.local.directory import TRIMMED, RunDirectory, locate
from mlproj_core.claim import Claim
from mlproj_core.errors import ContactLost
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.housekeeping import Item, delete, disk_usage

__all__ = ["FORGET_AFTER", "logs", "prune", "runs", "trim"]

FORGET_AFTER = 365 * 86400.0
"""Seconds for which the end of an attempt that only this host knows is kept."""

FRESH = 3600.0
"""Seconds for which a half-made directory that nobody has locked is left: it may have been made this moment."""

OUTPUT = ("output", "supervisor.log")

ESSENTIALS = frozenset(
    {
        "claim.json",
        "record.json",
        "end.json",
        "result.json",
        "settled",
        "cancel",
        "lock",
        "supervisor.json",
        TRIMMED,
        MADE,
        REMOVED,
    }
)
"""The files of a run that is over by which it is judged, and what it left for those who come after it."""


def runs(undelivered: Collection[str] = ()) -> Iterator[Item]:
    """The run directories, and what was left half made or half removed beside them.

    Args:
        undelivered: tags of the attempts that stay since their tracking server has yet to hear of their end.
    """
    backend = LocalBackend()
    found = [(handle, backend.look(handle)) for handle in backend.handles()]
    lived_in = [Path(each) for each in _working_directories(found)]
    newest: dict[str, int] = {}
    for handle, _ in found:
        newest[handle.key] = max(handle.attempt, newest.get(handle.key, 0))
    for handle, sighting in found:
        path = _path(backend, handle)
        if sighting.state is State.GONE:
            continue
        why = _why_needed(handle, sighting, path, lived_in, undelivered)
        data = _data_of(handle, sighting.claim) if handle.attempt == newest[handle.key] else set[Path]()
        known_elsewhere = sighting.settled and sighting.record is not None and sighting.record.tracked
        if known_elsewhere or handle.attempt != newest[handle.key]:
            measure = partial(_bytes, path, None, data)
            yield Item("runs", handle.tag, _ended(sighting), measure, _removal(backend, handle), why)
        elif (surplus := _surplus(path)) or data:
            measure = partial(_bytes, path, surplus, data)
            yield Item("runs", handle.tag, _ended(sighting), measure, _trimming(backend, handle), why)
        elif why is None and time.time() - _ended(sighting) > FORGET_AFTER:
            measure = partial(disk_usage, path)
            yield Item("runs", handle.tag, _ended(sighting), measure, _removal(backend, handle), dead=True)
    yield from _leftovers(backend.state / "runs")


def logs(undelivered: Collection[str] = ()) -> Iterator[Item]:
    """The outputs of runs that are over, by themselves: the rest of the runs stays. See `runs` for the argument."""
    backend = LocalBackend()
    for handle in backend.handles():
        sighting = backend.look(handle)
        path = _path(backend, handle)
        if sighting.state is State.GONE or not (path / OUTPUT[0]).exists():
            continue
        why = _why_needed(handle, sighting, path, (), undelivered)
        measure = partial(disk_usage, path, only=OUTPUT)
        yield Item("logs", handle.tag, _ended(sighting), measure, _trimming(backend, handle, OUTPUT), why)


def prune(backend: LocalBackend, handle: RunHandle) -> bool:
    """Delete an attempt that is over and settled, the last of a key with its data; False if it may not be."""
    directory = locate(handle)
    try:
        with directory.alone() as alone:
            sighting = backend.look(handle)
            delivered = sighting.settled or sighting.record is None or not sighting.record.tracked
            if not alone or sighting.state is not State.ENDED or not delivered:
                return False
            _remove_container(directory)
            doomed = directory.path.parent / f".pruned-{os.urandom(8).hex()}"
            directory.path.rename(doomed)  # at once, so that no one finds half of it
    except FileNotFoundError:  # another pruning was first
        return True
    delete(doomed)
    try:
        directory.path.parent.rmdir()
    except OSError:
        return True  # other attempts of the key remain
    for place in _data_of(handle, sighting.claim):
        delete(place)
    return True


def trim(backend: LocalBackend, handle: RunHandle, only: Collection[str] | None = None) -> bool:
    """Delete what an attempt that is over takes room with; its end stays. False if it lives, or is being read.

    Args:
        backend: where it ran.
        handle: the attempt.
        only: names in its directory; None for all but `ESSENTIALS`, and the data of its key if it is the newest.
    """
    directory = locate(handle)
    try:
        with directory.alone() as alone:
            if not alone or not directory.has("end.json"):
                return False
            if only is None:
                _remove_container(directory)
            (directory.path / TRIMMED).touch()  # before anything is missed
            for path in directory.path.iterdir():
                if (path.name in only) if only is not None else (path.name not in ESSENTIALS):
                    delete(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            newest = backend.find(handle.key)
            if only is None and newest is not None and newest.attempt == handle.attempt:
                for place in _data_of(handle, backend.look(handle).claim):
                    delete(place)
    except FileNotFoundError:  # it was pruned meanwhile
        return True
    return True


def _remove_container(directory: RunDirectory) -> None:
    """Remove the container of a run that is over.

    Raises:
        ContactLost: its engine cannot be reached.
    """
    if directory.has(MADE) and not directory.has(REMOVED):
        from mlproj_core.backends.local.container import remove

        remove(directory)


def _data_of(handle: RunHandle, claim: Claim | None) -> set[Path]:
    """The directories of what was fetched for the attempts of a key, which share them; none where nothing was."""
    downloads = claim.request.get("downloads", ()) if claim is not None else ()
    places = {Path(download["path"]).parents[1] for download in downloads}
    return {place for place in places if place.name == key_digest(handle.key) and place.is_dir()}


def _why_needed(
    handle: RunHandle, sighting: Sighting, path: Path, lived_in: Collection[Path], undelivered: Collection[str]
) -> str | None:
    if sighting.state is not State.ENDED:
        return "it is not over"
    if handle.tag in undelivered:
        return "its tracking server has not heard of its end yet"
    if any(each.is_relative_to(path) for each in lived_in):
        return "a run that was started by it works in its files"
    return None


def _working_directories(found: Collection[tuple[RunHandle, Sighting]]) -> Iterator[str]:
    """Where the runs work that are not over: a run inside a run may do so in the files of the outer one."""
    for _, sighting in found:
        if sighting.state not in (State.ENDED, State.GONE) and sighting.claim is not None:
            yield str(sighting.claim.request.get("directory", "/"))


def _removal(backend: LocalBackend, handle: RunHandle) -> partial[str | None]:
    return partial(_remove, backend, handle)


def _remove(backend: LocalBackend, handle: RunHandle) -> str | None:
    # Else an earlier attempt, which did not settle the question, would be taken for the newest one.
    for path in _path(backend, handle).parent.glob("[0-9]*"):
        if path.name.isdigit() and int(path.name) < handle.attempt:
            return "an earlier attempt of its step is still here"
    return _done(partial(prune, backend, handle))


def _trimming(backend: LocalBackend, handle: RunHandle, only: Collection[str] | None = None) -> partial[str | None]:
    return partial(_done, partial(trim, backend, handle, only))


def _done(removal: partial[bool]) -> str | None:
    try:
        return None if removal() else "it is being read, or is not over"
    except ContactLost as error:
        return str(error)


def _surplus(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(each.name for each in path.iterdir() if each.name not in ESSENTIALS)
    return []


def _bytes(path: Path, only: Collection[str] | None, data: Collection[Path]) -> int:
    return disk_usage(path, only=only) + sum(disk_usage(place) for place in data)


def _ended(sighting: Sighting) -> float:
    if sighting.outcome is not None and sighting.outcome.ended_at:
        return sighting.outcome.ended_at
    return sighting.claim.created_at if sighting.claim is not None else 0.0


def _path(backend: LocalBackend, handle: RunHandle) -> Path:
    digits, _, attempt = handle.tag.partition("-")
    return backend.state / "runs" / digits / attempt


def _leftovers(runs_directory: Path) -> Iterator[Item]:
    """Claims that were never made, and removals that were never finished, since their process was killed."""
    for path in [*runs_directory.glob("*/.claim-*"), *runs_directory.glob("*/.pruned-*")]:
        with suppress(FileNotFoundError):
            used = path.stat().st_mtime
            if time.time() - used > FRESH:
                measure, remove = partial(disk_usage, path), partial(_clear, path)
                yield Item("runs", f"{path.parent.name}/{path.name}", used, measure, remove, dead=True)


def _clear(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        if path.name.startswith(".claim-") and RunDirectory(path).locked():
            return "it is being claimed"
    delete(path)
    with suppress(OSError):
        path.parent.rmdir()
    return None
