"""Unpacking: an archive's entries made files below a new directory, and never anywhere else.

What `tarfile.data_filter` refuses is refused here too, for zip and tar alike, on every Python (3.10.12 and 3.11.4
were the first to have it), and by a simpler rule: each directory on the way to a file is one that was made here, so no
name leads through a link; links are made last, and each is followed to its end before the directory is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlproj_core.errors import UserError
from mlproj_core.sources.entries import CHUNK, Entry, Kind
from mlproj_core.sources.limits import Limits

__all__ = ["Unpacking"]

_LONGEST_NAME = 1000
"""Bytes of an entry's name or a link's target. Linux takes 4096 for a path, and the directory's own comes before."""

_LONGEST_PART = 255

Parts = tuple[str, ...]
"""A name, taken apart at its slashes."""


@dataclass
class Unpacking:
    """The files made so far of one archive.

    Attributes:
        root: a new, empty directory.
        shown: the archive's URI, without secrets.
        size: bytes of the archive.
        limits: what it may measure.
    """

    root: Path
    shown: str
    size: int
    limits: Limits
    _made: dict[Parts, Kind] = field(default_factory=dict)
    _links: dict[Parts, str] = field(default_factory=dict)
    _unpacked: int = 0
    _entries: int = 0

    def add(self, entry: Entry) -> None:
        """Make what one entry says.

        Raises:
            UserError: it is refused, or the archive is over a limit.
            Damaged: its content cannot be read.
            OSError: it cannot be written.
        """
        self._entries += 1
        if self._entries > self.limits.entries:
            raise self.limits.excess(self.shown, "entries")
        parts = self._parts(entry.name)
        if entry.kind is Kind.DIRECTORY:
            self._make_directory(parts, entry.name)
            return
        if not parts:
            raise self._refusal(entry, "has no name of its own")
        self._make_directory(parts[:-1], entry.name)
        if parts in self._made:
            raise self._refusal(entry, "is there twice, or is both a file and a directory")
        self._made[parts] = entry.kind
        if entry.kind is Kind.LINK:
            self._links[parts] = self._target(entry, parts)
        elif entry.kind is Kind.HARD_LINK:
            source = self._parts(entry.target)
            if self._made.get(source) not in (Kind.FILE, Kind.HARD_LINK) or source == parts:
                raise self._refusal(entry, f"is a hard link to {entry.target!r}, which is no file before it")
            # As a copy: whoever writes to one of the two files does not write to the other.
            self._write(parts, entry, _content(self._path(source)))
        else:
            self.limits.check_unpacked(self.shown, self._unpacked + entry.size, self.size)
            self._write(parts, entry, entry.content())

    def finish(self) -> None:
        """Make the links, and look where each of them leads.

        Raises:
            UserError: one of them leads out of the root.
            OSError: one cannot be made.
        """
        for parts, target in self._links.items():
            with self._told_apart("/".join(parts)):
                self._path(parts).symlink_to(target)
        real = os.path.realpath(self.root)
        for parts, target in self._links.items():
            end = os.path.realpath(self._path(parts))
            if os.path.commonpath([real, end]) != real:
                raise self._leads_out("/".join(parts), target)

    def _path(self, parts: Parts) -> Path:
        return self.root.joinpath(*parts)

    def _parts(self, name: str) -> Parts:
        """The name, taken apart and found to stay below the root."""
        if "\0" in name:
            raise UserError(f"{self.shown}: the archive has an entry with a NUL in its name: {name!r}.")
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise UserError(
                f"{self.shown}: the archive has an entry whose name is longer than {_LONGEST_NAME} bytes: "
                f"{name[:60]!r}… Make the archive anew with shorter names."
            )
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            raise UserError(
                f"{self.shown}: the archive's entry {name!r} has an absolute name, which would lead out of the "
                "project's root. Make the archive anew, from within the project's directory."
            )
        if "\\" in name:
            raise UserError(
                f"{self.shown}: the archive's entry {name!r} has a backslash in its name. Make the archive anew "
                "with a program that separates directories by slashes, as the format wants it."
            )
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise UserError(
                f"{self.shown}: the archive's entry {name!r} has a .. in its name, which would lead out of the "
                "project's root. Make the archive anew, from within the project's directory."
            )
        for part in parts:
            if len(os.fsencode(part)) > _LONGEST_PART:
                raise UserError(
                    f"{self.shown}: the archive has an entry with a name that no file system takes, of more than "
                    f"{_LONGEST_PART} bytes: {part[:60]!r}… Make the archive anew with shorter names."
                )
        return parts

    def _make_directory(self, parts: Parts, name: str) -> None:
        """Make the directory and those above it."""
        for depth in range(1, len(parts) + 1):
            above = parts[:depth]
            kind = self._made.get(above)
            if kind is None:
                # Every long name could make hundreds of them.
                if len(self._made) >= self.limits.entries:
                    raise self.limits.excess(self.shown, "entries")
                self._made[above] = Kind.DIRECTORY
                with self._told_apart(name):
                    self._path(above).mkdir()
            elif kind is not Kind.DIRECTORY:
                what = "a link" if kind is Kind.LINK else "a file"
                raise UserError(
                    f"{self.shown}: the archive's entry {name!r} lies below {'/'.join(above)!r}, which is {what} in "
                    "the same archive. Make the archive anew."
                )

    def _target(self, entry: Entry, parts: Parts) -> str:
        target = entry.target
        if not target or "\0" in target or len(os.fsencode(target)) > _LONGEST_NAME:
            raise self._refusal(entry, f"is a link to a name that cannot be one: {target[:60]!r}")
        lexical = os.path.normpath("/".join((*parts[:-1], target)))
        if target.startswith("/") or lexical == ".." or lexical.startswith("../"):
            raise self._leads_out(entry.name, target)
        return target

    def _write(self, parts: Parts, entry: Entry, content: Iterator[bytes]) -> None:
        # As git does it: whoever may read a file may execute it, or nobody; a setuid bit is never kept.
        mode = 0o777 if entry.executable else 0o666
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._told_apart(entry.name):
            descriptor = os.open(self._path(parts), flags, mode)
        with open(descriptor, "wb") as file:  # noqa: PTH123 -- a descriptor has no path
            for chunk in content:
                self._unpacked += len(chunk)
                self.limits.check_unpacked(self.shown, self._unpacked, self.size)
                file.write(chunk)

    @contextmanager
    def _told_apart(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise UserError(
                f"{self.shown}: the archive's entry {name!r} and another one have the same name for the file system of "
                f"{self.root}, as on one that does not tell upper from lower case. Use another one: MLPROJ_STATE_DIR."
            ) from None

    def _refusal(self, entry: Entry, why: str) -> UserError:
        return UserError(f"{self.shown}: the archive's entry {entry.name!r} {why}. Make the archive anew.")

    def _leads_out(self, name: str, target: str) -> UserError:
        return UserError(
            f"{self.shown}: the archive's entry {name!r} is a link to {target!r}, out of the project's root. Make the "
            "archive anew with the file itself in the link's place."
        )


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
