"""The cache of fetched files: one place for each file, found by the digest of its address.

    data/<key>/content                the file, as it was at one version; counts once `facts.json` is there
    data/<key>/facts.json             its version and size; the time of change is the last use
    data/<key>/part                   the first bytes of what is being fetched, to go on from
    data/<key>/part.json              of which version they are
    data/.locks/<key>                 held exclusively by whoever fetches, uses or removes it

A new version takes the place of the one before. Whoever reads a file has it open: it may be replaced meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mlproj_core.data.remote import without_query
from mlproj_core.locations import cache_dir
from mlproj_core.locks import exclusive

if TYPE_CHECKING:
    from mlproj_core.housekeeping import Item

__all__ = ["Slot", "stored"]


class Slot:
    """The place of one file in the cache, whether it is there or not. All but `held` is for who holds it.

    Args:
        directory: where it is.
        address: what it is for, without what must not be written down; by default what it says itself.
    """

    def __init__(self, directory: Path, address: str | None = None) -> None:
        self.directory = directory
        self.content = directory / "content"
        self.part = directory / "part"
        self._facts = directory / "facts.json"
        self._part_facts = directory / "part.json"
        self._lock = directory.parent / ".locks" / directory.name
        if address is None:
            address = str((_read(self._facts) or _read(self._part_facts) or {}).get("address", ""))
        self.address = address

    @classmethod
    def of(cls, address: str) -> Slot:
        """The slot of a file, by its address; see `Item`."""
        key = hashlib.sha256(address.encode()).hexdigest()[:32]
        return cls(_root() / key, without_query(address))

    @contextlib.contextmanager
    def held(self, waiting: Callable[[], None] | None) -> Iterator[bool]:
        """Hold the exclusive right to this slot; yields whether it was had.

        Args:
            waiting: called once when another process holds it, before waiting for it; None not to wait.
        """
        _root().mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(self._lock, waiting) as lock:
            yield lock is not None

    # -- the whole file

    def version(self) -> str | None:
        """The version of the file that is there; None without one."""
        facts = _read(self._facts)
        if facts is None or not self.content.is_file() or self.content.stat().st_size != facts.get("size"):
            return None
        version = facts.get("version")
        return str(version) if version is not None else None

    def touch(self) -> None:
        """Note that the file was asked for now."""
        os.utime(self._facts)

    def complete(self, draft: Path, version: str | None) -> None:
        """Let a file that is whole take the slot."""
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        self._facts.unlink(missing_ok=True)
        draft.replace(self.content)
        self.drop_part()
        _write(self._facts, {"address": self.address, "version": version, "size": self.content.stat().st_size})

    def drop(self) -> None:
        """Remove what is there, whole or in part."""
        import shutil

        self._facts.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- the part that is there while it is fetched

    def part_facts(self) -> dict[str, Any]:
        """Of the part that is there: `version`, `total` (bytes, or None), `encoding`; empty without one."""
        facts = _read(self._part_facts)
        return facts if facts is not None and self.part.is_file() else {}

    def part_length(self) -> int:
        """Bytes of the part that are there."""
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def begin_part(self, version: str | None, total: int | None, encoding: str) -> None:
        """Begin a new part, without a byte yet."""
        self.drop_part()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self._part_facts, {"address": self.address, "version": version, "total": total, "encoding": encoding})
        self.part.touch()

    def append(self) -> BinaryIO:
        """The part, open to be gone on with."""
        return self.part.open("ab", buffering=0)

    def drop_part(self) -> None:
        """Remove the part."""
        self._part_facts.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def last_used(self) -> float:
        """When the file, or the part of it, was last asked for, in seconds since the epoch."""
        times = [file.stat().st_mtime for file in (self._facts, self.part) if file.is_file()]
        return max(times, default=0.0)

    def remove(self) -> bool:
        """Remove what is there and its lock, unless it is in use; whether it was removed."""
        with self.held(None) as had:
            if had:
                self.drop()
                self._lock.unlink(missing_ok=True)
            return had


def stored() -> Iterator[Item]:
    """The files in the cache, for house-keeping. Runs have copies of their own."""
    from mlproj_core.housekeeping import Item, disk_usage

    for slot in _slots():
        yield Item(
            kind="data",
            name=slot.address or slot.directory.name,
            last_used=slot.last_used(),
            measure=partial(disk_usage, slot.directory),
            remove=partial(_remove, slot),
            dead=not slot.directory.exists(),  # only its lock is left
        )


def _remove(slot: Slot) -> str | None:
    return None if slot.remove() else "it is being fetched"


def _slots() -> list[Slot]:
    names: set[str] = set()
    for directory in (_root(), _root() / ".locks"):
        with contextlib.suppress(FileNotFoundError):
            names.update(path.name for path in directory.iterdir() if not path.name.startswith("."))
    return [Slot(_root() / name) for name in sorted(names)]


def _root() -> Path:
    return cache_dir() / "data"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write(path: Path, value: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value))
    draft.replace(path)
