"""Files that are copied into a run's container before it starts, and out of it when it has ended."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from mlproj_core.backends.local.contained import RESULT
from mlproj_core.containers.container import CODE, OWN
from mlproj_core.errors import ExecutionException

if TYPE_CHECKING:
    from docker import APIClient

    from mlproj_core.report import Report

__all__ = ["begin_of_output", "bring_result", "note_begin", "put_code", "put_data", "put_own"]

LARGEST_RESULT = 16 * 1024 * 1024
"""Bytes of a result: it is a small JSON object."""

CHUNK = 1024 * 1024

BEGIN = f"{OWN}/begin"
"""A file in a container that says how many bytes of its run's output stand before its own."""


def put_own(client: APIClient, container: str, root: str, files: Iterable[tuple[str, str]], *, code: bool) -> None:
    """Make the directory for mlproj's own files in a container, and copy what tracking needs into it.

    Args:
        client: the engine.
        container: its id.
        root: the directory of the container that the archive is unpacked in.
        files: of this host, and where they go.
        code: whether a directory for the project's files is made too.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        # Whoever the image's USER is: he leaves the result there.
        directories = [(OWN, 0o1777), *([(str(PurePosixPath(CODE).parent), 0o755), (CODE, 0o755)] if code else [])]
        for directory, mode in directories:
            entry = tarfile.TarInfo(str(PurePosixPath(directory).relative_to(root)))
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for source, target in files:
            data = Path(source).read_bytes()
            entry = tarfile.TarInfo(str(PurePosixPath(target).relative_to(root)))
            entry.size, entry.mode = len(data), 0o444
            archive.addfile(entry, io.BytesIO(data))
    client.put_archive(container, root, buffer.getvalue())


def note_begin(client: APIClient, container: str, root: str, offset: int) -> None:
    """Leave word in a container of where its output begins in that of its run: see `begin_of_output`."""
    data = str(offset).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(str(PurePosixPath(BEGIN).relative_to(root)))
        entry.size, entry.mode = len(data), 0o444
        archive.addfile(entry, io.BytesIO(data))
    client.put_archive(container, root, buffer.getvalue())


def begin_of_output(client: APIClient, container: str) -> int:
    """How many bytes of its run's output stand before a container's own; 0 if nobody has left word.

    By it a cursor means the same to whoever reads the run directory and to whoever has the engine alone.
    """
    from docker.errors import NotFound

    try:
        chunks, _ = client.get_archive(container, BEGIN)
    except NotFound:
        return 0
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member: Any = archive.next()
        file = archive.extractfile(member) if member is not None and member.isfile() else None
        text = file.read(20) if file is not None else b""
    return int(text) if text.isdigit() else 0


def put_code(client: APIClient, container: str, directory: Path, report: Report) -> None:
    """Copy a project's files to where a container has its code; `report` is told what is left out."""
    from mlproj_core.containers.code import write_code_archive

    with tempfile.TemporaryFile() as file:
        write_code_archive(directory, file, report=report)
        file.seek(0)
        client.put_archive(container, CODE, file)


def put_data(client: APIClient, container: str, path: Path, root: str) -> None:
    """Copy a file or a directory of this host to the same path in a container.

    Args:
        client: the engine.
        container: its id.
        path: absolute.
        root: a directory above it that is there in the container.
    """

    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w|", dereference=True) as archive:
            archive.add(path, str(path.relative_to(root)), filter=_as_root)

    client.put_archive(container, root, _piped(write))


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


def bring_result(client: APIClient, container: str, target: Path) -> None:
    """Copy what the project left at MLPROJ_RESULT out of its container, if it left anything.

    Raises:
        ExecutionException: it is no file, or far too large.
    """
    from docker.errors import NotFound

    try:
        chunks, stat = client.get_archive(container, RESULT)
    except NotFound:
        return
    if stat["size"] > LARGEST_RESULT:
        raise ExecutionException(
            f"the project left {stat['size'] / 1e6:.0f} MB at MLPROJ_RESULT, and a result is a small JSON object"
        )
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member: Any = archive.next()
        data = archive.extractfile(member) if member is not None and member.isfile() else None
        if data is None:
            raise ExecutionException("what the project left at MLPROJ_RESULT is no file")
        draft = target.with_name(f".{target.name}-{os.urandom(8).hex()}")
        draft.write_bytes(data.read())
    draft.replace(target)
