"""Where files can be put in a workspace: Unity Catalog volumes, workspace files, and DBFS."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import BinaryIO, Protocol, TypeVar

from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.errors import ContactLost

__all__ = ["Dbfs", "NotAllowed", "Place", "Stored", "Volume", "WorkspaceFiles", "place_of"]

_T = TypeVar("_T")

_TRIES = 5

_PATIENCE, _LONGEST_PAUSE = 90.0, 10.0
"""Seconds for which a file is sent again where the client does not say, and between two tries at most."""


class NotAllowed(Exception):
    """The workspace does not let files be put there; why, as half a sentence."""


@dataclass(frozen=True)
class Stored:
    """A file that is there.

    Attributes:
        name: its name in its directory.
        size: its bytes; None where that is not told.
        changed: when it was put there, in seconds since the epoch.
    """

    name: str
    size: int | None
    changed: float


class Place(Protocol):
    """A kind of storage in a workspace. Paths are as it names them itself."""

    longest: int | None
    """Bytes that a file may have there; None: as many as you like."""

    def stat(self, path: str) -> Stored | None:
        """The file; None if there is none."""

    def put(self, path: str, file: BinaryIO) -> None:
        """Write a file as a whole, with its directories; one that is there is replaced.

        Raises:
            NotAllowed: the workspace does not let it.
        """

    def files(self, directory: str) -> list[Stored]:
        """The files in a directory; none if it is not there."""

    def delete(self, path: str) -> None:
        """Delete a file; harmless if it is not there."""


class Volume:
    """A volume of Unity Catalog, by the Files API."""

    longest: int | None = None

    def __init__(self, workspace: Workspace) -> None:
        self._workspace, self._files = workspace, workspace.client.files

    def stat(self, path: str) -> Stored | None:
        """See `Place`."""
        found = _ask(self._workspace, f"look for {path}", lambda: self._files.get_metadata(path))
        if found is None:
            return None
        changed = parsedate_to_datetime(found.last_modified).timestamp() if found.last_modified else 0.0
        return Stored(_name(path), found.content_length, changed)

    def put(self, path: str, file: BinaryIO) -> None:
        """See `Place`."""

        def put() -> None:
            self._files.create_directory(_directory(path))
            self._files.upload(path, file, overwrite=True)

        _put(self._workspace, path, file, put)

    def files(self, directory: str) -> list[Stored]:
        """See `Place`."""
        found = _ask(self._workspace, f"list {directory}", lambda: list(self._files.list_directory_contents(directory)))
        return [
            Stored(_name(one.path), one.file_size, (one.last_modified or 0) / 1000)
            for one in found or ()
            if not one.is_directory
        ]

    def delete(self, path: str) -> None:
        """See `Place`."""
        _ask(self._workspace, f"delete {path}", lambda: self._files.delete(path))


class WorkspaceFiles:
    """Files in the tree of the workspace, by the Workspace API."""

    longest: int | None = 500_000_000
    """Of a file that comes as a form; as JSON the API takes 10 MB."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace, self._files = workspace, workspace.client.workspace

    def stat(self, path: str) -> Stored | None:
        """See `Place`."""
        found = _ask(self._workspace, f"look for {path}", lambda: self._files.get_status(path))
        return Stored(_name(path), found.size, (found.modified_at or 0) / 1000) if found is not None else None

    def put(self, path: str, file: BinaryIO) -> None:
        """See `Place`."""
        from databricks.sdk.service.workspace import ImportFormat

        def put() -> None:
            self._files.mkdirs(_directory(path))
            self._files.upload(path, file, format=ImportFormat.AUTO, overwrite=True)

        _put(self._workspace, path, file, put)

    def files(self, directory: str) -> list[Stored]:
        """See `Place`."""
        found = _ask(self._workspace, f"list {directory}", lambda: list(self._files.list(directory)))
        return [
            Stored(_name(one.path), one.size, (one.modified_at or 0) / 1000)
            for one in found or ()
            if one.object_type is not None and one.object_type.value == "FILE"
        ]

    def delete(self, path: str) -> None:
        """See `Place`."""
        _ask(self._workspace, f"delete {path}", lambda: self._files.delete(path))


class Dbfs:
    """The Databricks File System, by the DBFS API. Whoever is in the workspace can write there."""

    longest: int | None = None

    def __init__(self, workspace: Workspace) -> None:
        self._workspace, self._files = workspace, workspace.client.dbfs

    def stat(self, path: str) -> Stored | None:
        """See `Place`."""
        found = _ask(self._workspace, f"look for {path}", lambda: self._files.get_status(_bare(path)))
        if found is None:
            return None
        return Stored(_name(path), found.file_size, (found.modification_time or 0) / 1000)

    def put(self, path: str, file: BinaryIO) -> None:
        """See `Place`. It is written in blocks, and gets its name when it is whole."""
        final = _bare(path)
        draft = f"{final}.{uuid.uuid4().hex[:12]}.part"

        def put() -> None:
            from databricks.sdk.errors import NotFound
            from databricks.sdk.errors.base import DatabricksError

            self._files.mkdirs(_directory(final))
            try:
                self._upload(draft, file)
                with suppress(NotFound):
                    self._files.delete(final)
                self._files.move(draft, final)
            except BaseException as error:
                with suppress(DatabricksError):
                    self._files.delete(draft)
                # Somebody else has put the same there at this moment.
                if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                    raise

        _put(self._workspace, path, file, put)

    def _upload(self, path: str, file: BinaryIO) -> None:
        """Write a file until it is whole: a block whose answer is lost is sent again by the SDK, and is there twice."""
        size = file.seek(0, io.SEEK_END)
        for _ in range(_TRIES):
            file.seek(0)
            self._files.upload(path, file, overwrite=True)
            if self._files.get_status(path).file_size == size:
                return
        raise ContactLost(f"{path} did not arrive as it was sent, though it was sent {_TRIES} times.")

    def files(self, directory: str) -> list[Stored]:
        """See `Place`."""
        found = _ask(self._workspace, f"list {directory}", lambda: list(self._files.list(_bare(directory))))
        return [
            Stored(_name(one.path), one.file_size, (one.modification_time or 0) / 1000)
            for one in found or ()
            if not one.is_dir
        ]

    def delete(self, path: str) -> None:
        """See `Place`."""
        _ask(self._workspace, f"delete {path}", lambda: self._files.delete(_bare(path)))


def place_of(root: str, workspace: Workspace) -> Place:
    """What a root is in."""
    if root.startswith("/Volumes/"):
        return Volume(workspace)
    return Dbfs(workspace) if root.startswith("dbfs:") else WorkspaceFiles(workspace)


def _ask(workspace: Workspace, doing: str, ask: Callable[[], _T]) -> _T | None:
    """An answer; None where there is nothing of what is asked about, or nothing for who asks."""
    from databricks.sdk import errors

    with workspace.contact(doing):
        try:
            return ask()
        except (errors.NotFound, errors.PermissionDenied):
            return None
        except errors.BadRequest as error:
            if "disabled" in str(error).lower():  # as all of DBFS can be
                return None
            raise


def _put(workspace: Workspace, path: str, file: BinaryIO, put: Callable[[], None]) -> None:
    """Write a file, and try again where the SDK does not: of a form it sends the same stream no second time."""
    from databricks.sdk import errors
    from databricks.sdk.errors.base import DatabricksError
    from requests.exceptions import ConnectionError as Broken

    passing = (errors.TooManyRequests, errors.TemporarilyUnavailable)
    lasting = (errors.Unauthenticated, errors.InternalError, errors.DeadlineExceeded)
    end = time.monotonic() + (workspace.client.config.retry_timeout_seconds or _PATIENCE)
    pause = 1.0
    with workspace.contact(f"write {path}"):
        while True:
            file.seek(0)
            try:
                put()
                return
            except (*passing, Broken) as error:
                wait = float(getattr(error, "retry_after_secs", None) or pause)
                if time.monotonic() + wait > end:
                    raise
                time.sleep(wait)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except lasting:
                raise
            except DatabricksError as error:
                raise NotAllowed(" ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__) from error


def _name(path: str | None) -> str:
    return (path or "").rstrip("/").rpartition("/")[2]


def _directory(path: str) -> str:
    return path.rpartition("/")[0]


def _bare(path: str) -> str:
    return path.removeprefix("dbfs:")
