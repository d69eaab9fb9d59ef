"""The archive: a zip or tar file, here or on a web server, unpacked into a directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources.checkout import Checkout
from mlproj_core.sources.entries import CHUNK, Damaged, entries
from mlproj_core.sources.fetching import project_directory, source_name
from mlproj_core.sources.limits import Limits
from mlproj_core.sources.location import Location
from mlproj_core.sources.unpacking import Unpacking
from mlproj_core.sources.work_area import work_area
from mlproj_core.sources.worktree import Repository
from mlproj_core.status import Reason, ReasonCode

__all__ = ["unpack"]

_LITTER = frozenset({"__MACOSX", ".DS_Store"})
"""What macOS puts beside the files that somebody packed."""


def unpack(
    location: Location,
    repository: Repository | None,
    version: str | None,
    *,
    into: Path,
    report: Callable[[str], None],
) -> Checkout:
    """Unpack an archive below `into`. See `fetch` for the arguments and errors."""
    if version is not None:
        raise UserError(
            f"{location.uri}: a version can be chosen only in a Git repository, and this is an archive. Leave the "
            "version out. (To run no other archive than this one, put #sha256=… behind its name.)"
        )
    limits = Limits.from_environment()
    try:
        with work_area(into) as (root, scratch):
            if (file := location.path) is None:
                from mlproj_core.sources.download import download

                file = scratch / "archive"
                download(location, file, limits, report)
            digest = _unpack(file, root, location, limits, report)
            directory = project_directory(_project_root(root, location.subdirectory), location)
    except OSError as error:
        message = f"Unpacking {location.uri} into {into} failed: {error}"
        raise SourceError(message, reason=Reason(ReasonCode.SOURCE, message, retryable=True)) from error
    return Checkout(
        directory=directory,
        uri=location.uri,
        source_name=location.uri if location.has_fragment else source_name(location, repository),
        owned=root,
        digest=digest,
    )


def _unpack(file: Path, root: Path, location: Location, limits: Limits, report: Callable[[str], None]) -> str:
    """Unpack the file, which is opened once, so that what is checked is what is unpacked; its SHA-256."""
    import hashlib

    shown = location.uri
    with file.open("rb") as archive:
        digest = hashlib.sha256()
        size = 0
        while chunk := archive.read(CHUNK):
            if (size := size + len(chunk)) > limits.size:
                raise limits.excess(shown, "size")
            digest.update(chunk)
        if location.sha256 not in (None, digest.hexdigest()):
            raise _unusable(
                f"{shown} is not the archive that was meant: its SHA-256 is {digest.hexdigest()}. If it was changed on "
                "purpose, put that behind sha256= in the URI."
            )
        archive.seek(0)
        report(f"Unpacking {shown}")
        unpacking = Unpacking(root, shown, size, limits)
        try:
            for entry in entries(archive, size, shown, limits):
                unpacking.add(entry)
        except Damaged as damage:
            raise _unusable(f"{shown} cannot be unpacked: {damage}. Check the file, or get it anew.") from damage
        unpacking.finish()
    if not any(root.iterdir()):
        raise _unusable(f"{shown} is an empty archive. Pack the project's files into it.")
    return digest.hexdigest()


def _unusable(message: str) -> SourceError:
    return SourceError(message, reason=Reason(ReasonCode.SOURCE, message))


def _project_root(root: Path, subdirectory: str) -> Path:
    """The root, or the one directory that everything lies in, as in sdists and in what Git's hosts pack.

    A subdirectory may be written with that directory, as MLflow wants it, or below it.
    """
    if subdirectory and (root / subdirectory).is_dir():
        return root
    there = [path for path in root.iterdir() if path.name not in _LITTER]
    return there[0] if len(there) == 1 and there[0].is_dir() and not there[0].is_symlink() else root
