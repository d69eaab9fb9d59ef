"""Files that are copied into a run's container before it starts, and out of it when it has ended."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from mlproj_core.backends.local.contained import RESULT
from mlproj_core.containers.container import CODE, OWN
from mlproj_core.errors import ExecutionException

if TYPE_CHECKING:
    from mlproj_core.containers.wire import Wire
    from mlproj_core.report import Report

__all__ = ["begin_of_output", "bring_result", "put_data", "put_files", "read_result"]

LARGEST_RESULT = 16 * 1024 * 1024
"""Bytes of a result: it is a small JSON object."""

CHUNK = 1024 * 1024

BEGIN = f"{OWN}/begin"
"""A file in a container that says how many bytes of its run's output stand before its own."""


def put_files(
    wire: Wire,
    container: str,
    root: str,
    files: Iterable[tuple[str, str]],
    *,
    code: Path | None,
    report: Report,
    begin: Callable[[], int],
) -> None:
    """Make the directory for mlproj's own files in a container, and copy what tracking needs and the code into it.

    Args:
        wire: the engine.
        container: its id.
        root: the directory of the container that the archive is unpacked in.
        files: of this host, and where they go.
        code: the project's directory, if its files are to be copied.
        report: is told what is left out.
        begin: says where the container's output begins in that of its run; asked last. See `begin_of_output`.
    """

    def within(path: str) -> str:
        return str(PurePosixPath(path).relative_to(root))

    def add(archive: tarfile.TarFile, target: str, data: bytes) -> None:
        entry = tarfile.TarInfo(within(target))
        entry.size, entry.mode = len(data), 0o444
        archive.addfile(entry, io.BytesIO(data))

    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            # Whoever the image's USER is: he leaves the result there.
            directories = [(OWN, 0o1777), *([(str(PurePosixPath(CODE).parent), 0o755), (CODE, 0o755)] if code else [])]
            for directory, mode in directories:
                entry = tarfile.TarInfo(within(directory))
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                archive.addfile(entry)
            for source, target in files:
                add(archive, target, Path(source).read_bytes())
            if code is not None:
                from mlproj_core.containers.code import add_code

                add_code(archive, code, below=f"{within(CODE)}/", report=report)
            add(archive, BEGIN, str(begin()).encode())

    wire.put(container, root, _piped(write))


def put_data(wire: Wire, container: str, path: Path, root: str) -> None:
    """Copy a file or a directory of this host to the same path in a container.

    Args:
        wire: the engine.
        container: its id.
        path: absolute.
        root: a directory above it that is there in the container.
    """

    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w|", dereference=True) as archive:
            archive.add(path, str(path.relative_to(root)), filter=_as_root)

    wire.put(container, root, _piped(write))


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _piped(write: Callable[[IO[bytes]], None]) -> Iterator[bytes]:
    """What is written by a thread, in pieces as they come, so that nothing large stands on the disk twice."""
    reader, writer = os.pipe()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(writer, "wb") as file:
                write(file)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with os.fdopen(reader, "rb") as file:
        while data := file.read(CHUNK):
            yield data
    thread.join()
    if failed:
        raise failed[0]


def bring_result(wire: Wire, container: str, target: Path) -> None:
    """Copy what the project left at MLPROJ_RESULT out of its container, if it left anything.

    Raises:
        ExecutionException: it is no file, or far too large.
    """
    data = read_result(wire, container)
    if data is not None:
        draft = target.with_name(f".{target.name}-{os.urandom(8).hex()}")
        draft.write_bytes(data)
        draft.replace(target)


def begin_of_output(wire: Wire, container: str) -> int:
    """How many bytes of its run's output stand before a container's own; 0 if nobody has left word.

    By it a cursor means the same to whoever reads the run directory and to whoever has the engine alone.
    """
    from mlproj_core.containers.wire import EngineRefusal

    try:
        packed = wire.get(container, BEGIN, CHUNK)
    except EngineRefusal as refusal:
        if refusal.is_missing:
            return 0
        raise
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        member: Any = archive.next()
        file = archive.extractfile(member) if member is not None and member.isfile() else None
        text = file.read() if file is not None else b""
    return int(text) if text.isdigit() else 0


def read_result(wire: Wire, container: str) -> bytes | None:
    """What the project left at MLPROJ_RESULT in its container; None if it left nothing.

    Raises:
        ExecutionException: it is no file, or far too large.
    """
    from mlproj_core.containers.wire import EngineRefusal

    try:
        packed = wire.get(container, RESULT, LARGEST_RESULT)
    except EngineRefusal as refusal:
        if refusal.is_missing:
            return None
        raise ExecutionException(
            f"what the project left at MLPROJ_RESULT cannot be had: {refusal.said}. A result is a small JSON object."
        ) from refusal
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        member: Any = archive.next()
        file = archive.extractfile(member) if member is not None and member.isfile() else None
        if file is None:
            raise ExecutionException("what the project left at MLPROJ_RESULT is no file")
        return file.read()
