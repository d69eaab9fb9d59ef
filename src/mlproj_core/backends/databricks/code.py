"""A run's files in the workspace: the code's archive, the task's Python file, and a plan where it is a long one.

Each is named by the SHA-256 of its content, so it is uploaded once, whoever runs the same, and the cluster can tell
that it got what was uploaded. What is used again after a day is uploaded again, so that its age says when it was last
of use.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from mlproj_core.backends.databricks.places import NotAllowed, Place, place_of
from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.errors import MlprojError, UserError
from mlproj_core.report import Report, log

__all__ = [
    "ARCHIVES",
    "KEPT",
    "OLDEST",
    "Removed",
    "Upload",
    "archive_of",
    "clean",
    "default_roots",
    "text_file",
    "upload",
]

ARCHIVES, TASKS, PLANS = "code", "tasks", "plans"
"""Directories below a root."""

OLDEST: Final = 3 * 86_400.0
"""Seconds that a file is kept at least: a run may wait in a queue for two days before it reads it."""

KEPT: Final = 30 * 86_400.0
"""Seconds for which a file is kept that no run uses."""

_REFRESH: Final = 86_400.0


@dataclass(frozen=True)
class Upload:
    """A file that is to be in the workspace.

    Attributes:
        name: its path below a root.
        size: its bytes.
        open: opens its content.
    """

    name: str
    size: int
    open: Callable[[], AbstractContextManager[BinaryIO]] = field(repr=False)


@dataclass(frozen=True)
class Removed:
    """A file that was removed.

    Attributes:
        path: where it was.
        size: its bytes; None where that is not told.
    """

    path: str
    size: int | None


def archive_of(directory: Path, report: Report = log) -> Upload:
    """A project's code as a gzipped tar: equal files make equal archives.

    What `.dockerignore` names is left out, and what Git ignores. It is packed once to know its digest, and a second
    time only if it is to be uploaded.

    Args:
        directory: the project's directory.
        report: is told of links that are left out.

    Raises:
        UserError: a file cannot be read.
    """
    from mlproj_core.containers.code import write_code_archive

    measured = _Measured()
    write_code_archive(directory, measured, compress=True, gitignore=True, report=report)

    @contextmanager
    def packed() -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:
            again = _Measured(file)
            write_code_archive(directory, again, compress=True, gitignore=True, report=lambda _: None)
            if again.digest.digest() != measured.digest.digest():
                raise UserError(f"The files in {directory} have changed while they were packed. Run it again.")
            file.seek(0)
            yield cast("BinaryIO", file)

    digest = measured.digest.hexdigest()
    return Upload(f"{ARCHIVES}/{digest}.tar.gz", measured.size, packed)


def text_file(folder: str, text: str, extension: str) -> Upload:
    """A text as a file."""
    content = text.encode()
    name = f"{folder}/{hashlib.sha256(content).hexdigest()}.{extension}"
    return Upload(name, len(content), lambda: io.BytesIO(content))


def default_roots(workspace: Workspace) -> tuple[str, ...]:
    """Where files are put if the caller does not say: in the home of whoever asks, else on DBFS."""
    with workspace.contact("ask who I am"):
        me = workspace.client.current_user.me().user_name
    return (f"/Workspace/Users/{me}/.mlproj", f"dbfs:/mlproj/{me}")


def upload(
    workspace: Workspace, roots: Sequence[str], files: Sequence[Upload], report: Report = log
) -> tuple[str, ...]:
    """Put files in the first root that takes all of them; their paths there.

    What is there already is not sent again. Where code is sent, what no run has used for `KEPT` is removed.

    Args:
        workspace: where the run is to be.
        roots: see `DatabricksConfig`.
        files: what is to be there.
        report: is told of an upload, and of roots that are left aside.

    Raises:
        UserError: no root takes them; the message has every reason.
        ContactLost: the workspace is out of reach.
    """
    refusals: list[str] = []
    for root in roots:
        place = place_of(root, workspace)
        try:
            sent = [file for file in files if _bring(place, root, file, report)]
        except NotAllowed as error:
            refusals.append(f"{root}: {error}")
            if len(refusals) < len(roots):
                report(f"{root} takes no files ({error}): trying {roots[len(refusals)]}")
            continue
        if any(file.name.startswith(f"{ARCHIVES}/") for file in sent):
            with suppress(MlprojError):  # another run will do it
                deque(clean(workspace, [root], KEPT), maxlen=0)
        return tuple(f"{root}/{file.name}" for file in files)
    reasons = "".join(f"\n  {refusal}" for refusal in refusals)
    raise UserError(
        f"The workspace {workspace.host} lets the run's files be put nowhere:{reasons}\nName a directory of a Unity "
        "Catalog volume that you can write: backend_config={'root': '/Volumes/CATALOG/SCHEMA/VOLUME/mlproj'}."
    )


def _bring(place: Place, root: str, file: Upload, report: Report) -> bool:
    """Put a file there; whether it had to be sent."""
    path = f"{root}/{file.name}"
    if place.longest is not None and file.size > place.longest:
        raise NotAllowed(
            f"{_megabytes(file.size)} are more than the {_megabytes(place.longest)} that a file may have there"
        )
    stored = place.stat(path)
    if stored is not None and stored.size in (None, file.size) and time.time() - stored.changed < _REFRESH:
        return False
    if file.name.startswith(f"{ARCHIVES}/"):
        report(f"uploading the project's code to {path} ({_megabytes(file.size)})")
    with file.open() as content:
        place.put(path, content)
    return True


def clean(workspace: Workspace, roots: Sequence[str], older_than: float, *, dry_run: bool = False) -> Iterator[Removed]:
    """Remove the files that no run has used for some time.

    Args:
        workspace: where they are.
        roots: see `DatabricksConfig`.
        older_than: seconds since the last use, a day more or less; `OLDEST` at least.
        dry_run: whether to say only what would be removed.

    Raises:
        UserError: the time is too short.
        ContactLost: the workspace is out of reach.
    """
    if older_than < OLDEST:
        raise UserError(
            f"Files in the workspace are kept for {OLDEST / 86_400:g} days at least: a run that waits in a queue reads "
            "them when it begins."
        )
    now = time.time()
    for root in roots:
        place = place_of(root, workspace)
        for folder in (ARCHIVES, TASKS, PLANS):
            for stored in place.files(f"{root}/{folder}"):
                if now - stored.changed < older_than:
                    continue
                path = f"{root}/{folder}/{stored.name}"
                if not dry_run:
                    place.delete(path)
                yield Removed(path, stored.size)


class _Measured(io.RawIOBase, BinaryIO):
    """A file that is measured while it is written, to another one or to nowhere."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self.digest, self.size, self._file = hashlib.sha256(), 0, file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data) if self._file is not None else len(data)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
