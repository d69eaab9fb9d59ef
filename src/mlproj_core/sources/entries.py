"""The entries of an archive, one after the other, whatever wrote it: zip, or tar under one of its compressions.

The parsers are Python's own. They are given no more of a file than an honest archive needs: what a header announces
is not read into memory beyond a bound, and what they raise over bytes that make no sense is `Damaged`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import IO, TYPE_CHECKING

from mlproj_core.errors import MlprojError, UserError
from mlproj_core.sources.limits import Limits

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo
    from zipfile import ZipFile, ZipInfo

__all__ = ["CHUNK", "Damaged", "Entry", "Kind", "entries"]

CHUNK = 1 << 16
"""Bytes that are read at once of a file in an archive."""

_TAR_HEADER = 1 << 20
"""Bytes of the longest header of a tar entry that is read: a long name, or a table of attributes."""

_ZIP_ENTRY = 256
"""Bytes that an entry takes in a zip's table of contents, on an average that no honest archive exceeds."""

_LOCAL_HEADER = 30
"""Bytes of a zip entry's own header without the name (APPNOTE.TXT, 4.3.7)."""


class Damaged(Exception):
    """The bytes are no archive, or one that is cut off or broken. Its text says what the parser found."""


class Kind(Enum):
    """What an entry is. There is nothing else that a project could need."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "symbolic link"
    HARD_LINK = "hard link"


@dataclass(frozen=True)
class Entry:
    """One entry of an archive, before anything of it is believed.

    Attributes:
        name: as it is written there.
        kind: what it is.
        size: bytes that its header announces.
        executable: whether its owner may execute it.
        target: where a link leads to, as it is written there; else empty.
        content: reads a file, in pieces.
    """

    name: str
    kind: Kind
    size: int = 0
    executable: bool = False
    target: str = ""
    content: Callable[[], Iterator[bytes]] = lambda: iter(())


def entries(file: IO[bytes], size: int, shown: str, limits: Limits) -> Iterator[Entry]:
    """The entries of the archive in a file, in their order.

    Args:
        file: the archive, at its beginning. Its first bytes, not its name, say of what kind it is.
        size: bytes in it.
        shown: the archive's URI, without secrets.
        limits: what it may measure.

    Raises:
        Damaged: it is no archive of a known kind, or damaged.
        UserError: it is over a limit, or uses what is refused.
    """
    magic = file.read(512)
    file.seek(0)
    if magic.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_entries(file, shown, limits)
    if (opened := _decompressed(file, magic, shown)) is not None:
        return _tar_entries(opened, size, shown, limits)
    if magic[257:262] == b"ustar" or shown.partition("#")[0].lower().endswith(".tar"):
        return _tar_entries(file, size, shown, limits)
    with _parsing():
        from zipfile import is_zipfile

        # It may stand behind something else, such as the program that unpacks it on Windows.
        if is_zipfile(file):
            return _zip_entries(file, shown, limits)
    page = magic.lstrip()[:64].decode("ascii", "replace").lower()
    if page.startswith(("<!doctype", "<html", "<?xml")):
        raise Damaged("it is a web page: perhaps the address wants a login, or names the page of a download")
    raise Damaged("it is empty" if not magic else "it is no zip and no tar archive")


def _decompressed(file: IO[bytes], magic: bytes, shown: str) -> IO[bytes] | None:
    """The file's content if it is compressed as a whole, else None."""
    try:
        if magic.startswith(b"\x1f\x8b"):
            from gzip import GzipFile

            return GzipFile(fileobj=file)  # type: ignore[return-value] # it is one but for `mode`
        if magic.startswith(b"BZh"):
            from bz2 import BZ2File

            return BZ2File(file)
        if magic.startswith(b"\xfd7zXZ\0"):
            from lzma import LZMAFile

            return LZMAFile(file)
        if magic.startswith(b"\x28\xb5\x2f\xfd"):
            from importlib import import_module

            return import_module("compression.zstd").ZstdFile(file)  # type: ignore[no-any-return]
    except ImportError as error:
        raise UserError(
            f"{shown}: this Python cannot read the archive's compression: {error}. (zstd needs Python 3.14.) "
            "Give a .tar.gz or a .zip."
        ) from None
    return None


@contextmanager
def _parsing() -> Iterator[None]:
    """Makes whatever a parser raises over bytes that make no sense a `Damaged`."""
    try:
        yield
    except (MlprojError, Damaged):
        raise
    except OSError as error:
        # The system's own errors have a number; those of the compressions do not.
        if error.errno is not None:
            raise
        raise Damaged(str(error)) from error
    except Exception as error:
        raise Damaged(str(error) or type(error).__name__) from error


class _Bounded:
    """A file as the parsers may read it: never much at once, and never beyond what may be unpacked.

    Attributes:
        last: what the last call of `read` gave.
    """

    def __init__(
        self, file: IO[bytes], most: int, too_long: Callable[[], Exception], reached: Callable[[int], None]
    ) -> None:
        self._file = file
        self._most = most
        self._too_long = too_long
        self._reached = reached
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise self._too_long()
        with _parsing():
            self.last = self._file.read(size if size >= 0 else self._most)
            self._reached(self._file.tell())
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0:
            if offset < 0:
                raise Damaged("something should stand before its beginning")
            self._reached(offset)
        with _parsing():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _tar_entries(file: IO[bytes], size: int, shown: str, limits: Limits) -> Iterator[Entry]:
    import tarfile

    bounded = _Bounded(
        file,
        _TAR_HEADER,
        lambda: Damaged("an entry's header is longer than any should be"),
        lambda position: limits.check_unpacked(shown, position, size),
    )
    with _parsing():
        tar = tarfile.open(fileobj=bounded, mode="r:")  # type: ignore[call-overload] # noqa: SIM115 -- it holds no file
    # Asked for the next of none, the tarfile of Python 3.10 looks before the file's beginning.
    while tar.members:
        with _parsing():
            member = tar.next()
        if member is None:
            break
        yield _tar_entry(tar, member, shown)
    # tarfile takes whatever is no header for the end. The end is a block of zeros.
    if len(bounded.last) < tarfile.BLOCKSIZE or bounded.last.strip(b"\0"):
        raise Damaged("it is cut off, or broken in the middle")
    while bounded.read(CHUNK):  # to the checksum at the end of the compression
        pass


def _tar_entry(tar: TarFile, member: TarInfo, shown: str) -> Entry:
    executable = bool(member.mode & stat.S_IXUSR)
    if member.size < 0:
        raise Damaged(f"{member.name!r} has a size below 0")
    if member.isdir():
        return Entry(member.name, Kind.DIRECTORY)
    if member.issym():
        return Entry(member.name, Kind.LINK, target=member.linkname)
    if member.islnk():
        return Entry(member.name, Kind.HARD_LINK, executable=executable, target=member.linkname)
    if not member.isreg():
        raise _no_file(shown, member.name)

    def content() -> Iterator[bytes]:
        with _parsing():
            file = tar.extractfile(member)
        while file is not None:
            with _parsing():
                chunk = file.read(CHUNK)
            if not chunk:
                return
            yield chunk

    return Entry(member.name, Kind.FILE, member.size, executable, content=content)


def _zip_entries(file: IO[bytes], shown: str, limits: Limits) -> Iterator[Entry]:
    from zipfile import ZipFile

    most = max(limits.entries * _ZIP_ENTRY, 1 << 20)
    bounded = _Bounded(file, most, lambda: limits.excess(shown, "entries"), lambda position: None)
    with _parsing():
        archive = ZipFile(bounded)
        _check_apart(archive, shown)
    for member in archive.infolist():
        with _parsing():
            entry = _zip_entry(archive, member, shown)
        yield entry


def _check_apart(archive: ZipFile, shown: str) -> None:
    """Refuse entries that lie over each other, so that the same bytes are unpacked many times.

    That is the better zip bomb of https://www.bamsoftware.com/hacks/zipbomb/; not every Python looks for it.
    """
    end = archive.start_dir
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset, reverse=True):
        if member.header_offset + _LOCAL_HEADER + len(member.orig_filename) + member.compress_size > end:
            raise UserError(
                f"{shown}: the archive's entry {member.filename!r} overlaps with the one behind it, as in archives "
                "that are made to fill a disk. Make the archive anew."
            )
        end = member.header_offset


def _zip_entry(archive: ZipFile, member: ZipInfo, shown: str) -> Entry:
    from zipfile import ZIP_DEFLATED, ZIP_STORED

    name = member.orig_filename
    if member.flag_bits & 0x1:
        raise UserError(f"{shown}: the archive's entry {name!r} is encrypted. Give an archive without a password.")
    if member.volume:
        raise UserError(f"{shown}: the archive is one part of several. Give it in one piece.")
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        # Python's own reader decompresses the others without a bound.
        raise UserError(
            f"{shown}: the archive's entry {name!r} is compressed by method {member.compress_type}. Make the zip "
            "anew with deflate, as zip programs do unless told otherwise."
        )
    # Programs of Windows write no mode.
    mode = member.external_attr >> 16
    kind = stat.S_IFMT(mode)

    def content() -> Iterator[bytes]:
        with _parsing():
            file = archive.open(member)
        while True:
            with _parsing():
                chunk = file.read(CHUNK)
            if not chunk:
                return
            yield chunk

    if name.endswith("/"):
        return Entry(name, Kind.DIRECTORY)
    if kind == stat.S_IFLNK:
        if member.file_size > CHUNK:
            raise Damaged(f"{name!r} is a link to a name of {member.file_size} bytes")
        target = b"".join(content()).decode("utf-8", "surrogateescape")
        return Entry(name, Kind.LINK, target=target)
    if kind not in (0, stat.S_IFREG):
        raise _no_file(shown, name)
    return Entry(name, Kind.FILE, member.file_size, bool(mode & stat.S_IXUSR), content=content)


def _no_file(shown: str, name: str) -> UserError:
    return UserError(
        f"{shown}: the archive's entry {name!r} is a device, a pipe or a socket. A project has files, directories "
        "and links only: make the archive anew without it."
    )
