"""What stores have in common: files that are listed, and read from any byte on."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from mlproj_core.errors import DataError
from mlproj_core.status import Reason, ReasonCode

__all__ = ["Body", "Item", "Known", "Outdated", "Passing", "Store", "checked_name", "failure"]


@dataclass(frozen=True)
class Item:
    """One file of what is fetched.

    Attributes:
        name: its path below what was asked for, with slashes; "" when it is just that.
        address: names the file among all that the cache holds: a URI, and the server where that says more.
        size: in bytes, as listed; None when the listing does not say.
        version: tells one content of the file from the next, as listed; None when only reading it tells.
        local: the file itself, where it is on this host.
    """

    name: str
    address: str
    size: int | None = None
    version: str | None = None
    local: Path | None = None


@dataclass(frozen=True)
class Known:
    """What is at hand of a file before it is read.

    Attributes:
        cached: the version of the whole file in the cache; None without one.
        part: the version of which the first bytes are there; None without any.
        length: how many.
    """

    cached: str | None = None
    part: str | None = None
    length: int = 0


@dataclass(frozen=True)
class Body:
    """A file as a store sends it.

    Attributes:
        chunks: its bytes from `start` on; closing it closes the connection.
        start: 0, or the length of the part that this goes on from.
        total: bytes of the whole file as it is sent; None when the store does not say.
        version: see `Item`; None when the store names none, so that the file cannot be cached.
        encoding: "gzip" when the server insists on sending it so, else "".
    """

    chunks: Generator[bytes, None, None]
    start: int
    total: int | None
    version: str | None
    encoding: str = ""


class Store(Protocol):
    """Where data comes from."""

    def items(self) -> Sequence[Item]:
        """The files of what is asked for: one without a name, or those of a directory.

        Raises:
            DataError: there is nothing, or it may not be read.
            Passing: not now.
        """

    def open(self, item: Item, known: Known) -> Body | None:
        """Read a file; None when the version in the cache is still the store's.

        Raises:
            DataError: it is not there, or may not be read.
            Passing: not now. So too while the chunks are read.
        """


class Passing(Exception):
    """A trouble that may be over at the next try.

    Attributes:
        pause: seconds after which the server wants to be asked again; None when it did not say.
    """

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class Outdated(Passing):
    """The part that is at hand belongs to another content, and is of no more use."""


def failure(message: str, *, retryable: bool = False) -> DataError:
    """The error that ends a run for want of its data."""
    return DataError(message, reason=Reason(ReasonCode.DATA, message, retryable=retryable))


def checked_name(name: str, of: str) -> str:
    """A file's path below what is asked for, as a store lists it.

    Raises:
        DataError: it would lead out of the directory it is put in.
    """
    if name.startswith("/") or "\0" in name or not name or any(part in ("", ".", "..") for part in name.split("/")):
        raise failure(f"{of} holds a file with the name {name!r}, which cannot be a file's path in a directory.")
    return str(PurePosixPath(name))
