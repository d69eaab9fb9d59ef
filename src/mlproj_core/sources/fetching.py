"""Fetching: from a project's URI to its files at a known commit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources.checkout import Checkout
from mlproj_core.sources.location import Location, bare_url
from mlproj_core.sources.worktree import Repository
from mlproj_core.status import Reason, ReasonCode

__all__ = ["cleanliness", "fetch"]


def _silent(line: str) -> None:
    """The report of a caller that wants none."""


def fetch(
    uri: str,
    version: str | None = None,
    *,
    into: Path,
    token: str | None = None,
    report: Callable[[str], None] = _silent,
) -> Checkout:
    """Get the project that a URI names, at the version asked for.

    A local directory without a version runs in place, as in MLflow. An archive is unpacked into a new directory below
    `into`. Everything else is a Git repository, whose commit is checked out into such a directory. After an error
    nothing of it is left there.

    Args:
        uri: a local directory, a `file://` URI, an archive or a Git repository, each with an optional
            `#subdirectory`.
        version: a branch, a tag or a commit (full, or its first 4 or more digits); None for the repository's
            HEAD, for an archive, or for a local directory as it is.
        into: directory for checkouts; it is made when needed.
        token: password or access token for an http(s) repository; before one in the URI, and before the variable
            MLPROJ_GIT_TOKEN. It is not sent to the server of an archive.
        report: called with one line of text for each step that takes time.

    Raises:
        UserError: the URI, the version or the subdirectory cannot be meant.
        SourceError: there is no such repository, archive, version or subdirectory, or it cannot be reached or read;
            its `reason.retryable` says whether a later try can help.
    """
    location = Location.parse(uri)
    if location.revision is not None:
        if version is not None and version != location.revision:
            raise UserError(f"{location.uri} names the version {location.revision}, but {version} was asked for.")
        version = location.revision
    repository = Repository.containing(location.path) if location.path is not None else None
    if location.is_archive:
        from mlproj_core.sources.archive import unpack

        return unpack(location, repository, version, into=into.absolute(), report=report)
    if (
        location.path is not None
        and version is None
        and not location.forced_git
        and not _is_bare(location.path, repository)
    ):
        return _in_place(location, location.path, repository)
    from mlproj_core.sources.clone import check_out

    return check_out(location, repository, version, into=into.absolute(), token=token, report=report)


def cleanliness(checkout: Checkout) -> str | None:
    """Why a checkout's files may not be those of its commit, in a few words; None when they are.

    Starts git, unless the files were checked out by `fetch` itself.
    """
    if checkout.commit is None:
        return "the project is in no Git repository, or at no commit"
    if checkout.owned is not None:
        return None
    repository = Repository.containing(checkout.directory)
    return repository.changed() if repository is not None else "its Git repository is gone"


def _is_bare(path: Path, repository: Repository | None) -> bool:
    return repository is not None and repository.work_tree is None and repository.git_dir == path


def _in_place(location: Location, path: Path, repository: Repository | None) -> Checkout:
    directory = project_directory(path, location)
    commit = None
    if repository is not None and (commit := repository.head()) is not None and repository.ignores(directory):
        commit = None
    url = repository.remote_url() if repository is not None else None
    return Checkout(
        directory=directory,
        uri=location.uri,
        source_name=source_name(location, repository),
        commit=commit,
        repo_url=bare_url(url) if url is not None else None,
        subdirectory=_below(directory, repository),
    )


def _below(directory: Path, repository: Repository | None) -> str:
    """A directory's place in the work tree that it lies in; "" for its root."""
    if repository is None or repository.work_tree is None or directory == repository.work_tree:
        return ""
    return directory.relative_to(repository.work_tree).as_posix()


def source_name(location: Location, repository: Repository | None) -> str:
    """Value of the tag `mlflow.source.name`, as MLflow's `_get_git_url_if_present` makes it.

    For a `file://` URI MLflow makes it of the working directory and the URI joined, which names nothing; there it is
    made as for the path.
    """
    path = location.path
    is_path = "://" not in location.uri
    if path is None or location.forced_git or (is_path and location.has_fragment):
        return location.uri
    if repository is not None and repository.work_tree is None:
        return str(path) if is_path else location.uri
    path = path / location.subdirectory
    if repository is None:
        return str(path)
    below = path.relative_to(str(repository.work_tree)).as_posix()
    return f"file://{repository.work_tree}" + (f"#{below}" if below != "." else "")


def project_directory(root: Path, location: Location) -> Path:
    """The project's directory below the root, after a look at where symbolic links lead.

    Raises:
        SourceError: there is no such directory.
        UserError: a symbolic link leads out of the root.
    """
    if not location.subdirectory:
        return root
    directory = root / location.subdirectory
    real_root = os.path.realpath(root)
    if os.path.commonpath([real_root, os.path.realpath(directory)]) != real_root:
        raise UserError(
            f"{location.uri}: the subdirectory {location.subdirectory} is a symbolic link that leads out of the "
            "project's root. Name the directory itself."
        )
    if not directory.is_dir():
        message = f"{location.uri}: there is no subdirectory {location.subdirectory}."
        raise SourceError(message, reason=Reason(ReasonCode.SOURCE, message))
    return directory
