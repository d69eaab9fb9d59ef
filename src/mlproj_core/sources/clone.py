"""The clone: a commit of a Git repository, checked out into a directory with a `.git` of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources.checkout import Checkout
from mlproj_core.sources.fetching import project_directory, source_name
from mlproj_core.sources.git import Remote, failed, git
from mlproj_core.sources.lfs import AS_POINTERS, fetch_lfs
from mlproj_core.sources.location import Location, bare_url, login, redact
from mlproj_core.sources.mirror import Mirror
from mlproj_core.sources.revision import (
    Revision,
    checked_version,
    is_abbreviated_commit,
    is_commit,
    local_revision,
    no_such_version,
    remote_revision,
    several_commits,
)
from mlproj_core.sources.skeleton import SHA1_DIGITS, write_repository
from mlproj_core.sources.work_area import work_area
from mlproj_core.sources.worktree import Repository
from mlproj_core.status import Reason, ReasonCode

__all__ = ["check_out"]

_SAFE_ABBREVIATION = 7
"""Digits from which an abbreviation found in the mirror is taken without asking for branches and tags of that name."""


@dataclass(frozen=True)
class _Origin:
    """Where a clone comes from.

    Attributes:
        remote: the repository to fetch from.
        url: what the clone calls its origin; holds no secret.
        inside: the project's place in the repository, when the URI names a directory of a work tree.
        repository: the repository, when it is on this host.
        as_remote: whether it is meant as something to fetch from, not as the user's own work tree.
    """

    remote: Remote
    url: str
    inside: Path
    repository: Repository | None = None
    as_remote: bool = True


def check_out(
    location: Location,
    repository: Repository | None,
    version: str | None,
    *,
    into: Path,
    token: str | None,
    report: Callable[[str], None],
) -> Checkout:
    """Check a version of a Git repository out below `into`. See `fetch` for the arguments and errors."""
    version = checked_version(version) if version is not None else None
    origin = _origin(location, repository, token, report)
    try:
        with work_area(into) as (root, scratch):
            origin = replace(origin, remote=replace(origin.remote, scratch=scratch))
            revision = _resolve(origin, version, scratch, report)
            revision = _populate(root, origin, revision, report)
            work_trees = [root, *_submodules(root, origin.remote, report)]
            storage = Mirror.of(origin.remote.url, len(revision.commit)).directory / "lfs"
            nearby = origin.repository.common_dir / "objects" if origin.repository is not None else None
            for work_tree in work_trees:
                fetch_lfs(work_tree, origin.remote, storage=storage, nearby=nearby, report=report)
            inside = (origin.inside / location.subdirectory).as_posix()
            directory = project_directory(root, replace(location, subdirectory="" if inside == "." else inside))
    except OSError as error:
        message = f"Checking {location.uri} out into {into} failed: {error}"
        raise SourceError(message, reason=Reason(ReasonCode.SOURCE, message, retryable=True)) from error
    return Checkout(
        directory=directory,
        uri=location.uri,
        source_name=source_name(location, repository),
        commit=revision.commit,
        # MLflow tags the branch only when the version given names one.
        branch=revision.branch if version is not None and revision.branch == version else None,
        repo_url=bare_url(origin.url),
        version=version,
        subdirectory="" if directory == root else directory.relative_to(root).as_posix(),
        owned=root,
    )


def _origin(
    location: Location, repository: Repository | None, token: str | None, report: Callable[[str], None]
) -> _Origin:
    if location.path is None:
        credentials = login(location, token)
        if credentials.password is not None and location.url.startswith("http://"):
            report(f"{location.uri}: http:// carries the login unencrypted")
        shown, _, _ = location.uri.strip("'\"").partition("#")
        return _Origin(Remote(shown, location.url, credentials), redact(location.url), Path())
    if repository is None:
        raise UserError(
            f"{location.uri}: a version can be chosen only in a Git repository, and {location.path} is in none. "
            "Leave the version out to run the directory as it is."
        )
    where = repository.work_tree or repository.git_dir
    url = repository.remote_url() if repository.work_tree is not None else None
    remote = Remote(str(where), str(where))
    as_remote = repository.work_tree is None or location.forced_git
    return _Origin(remote, redact(url or str(where)), location.path.relative_to(where), repository, as_remote)


def _resolve(origin: _Origin, version: str | None, scratch: Path, report: Callable[[str], None]) -> Revision:
    remote = origin.remote
    if version is not None:
        if is_commit(version) and (origin.repository is None or Mirror.of(remote.url, len(version)).has(version)):
            return Revision(version)
        if origin.repository is not None and version != "HEAD":
            as_remote = origin.as_remote
            return local_revision(origin.repository, remote, version, as_remote=as_remote, report=report)
        if len(version) >= _SAFE_ABBREVIATION and is_abbreviated_commit(version):
            known = Mirror.of(remote.url).find(version)
            if known is not None:
                return Revision(known)
    revision = remote_revision(remote, version, cwd=scratch, report=report)
    if revision is None and version is not None:
        revision = _from_history(remote, version, scratch, report) if is_abbreviated_commit(version) else None
        if revision is None:
            raise no_such_version(remote, version, cwd=scratch)
    assert revision is not None  # noqa: S101 -- HEAD is found, or an error
    report(f"{remote.uri}: {version or revision.branch or 'HEAD'} is commit {revision.commit[:12]}")
    return revision


def _from_history(remote: Remote, version: str, scratch: Path, report: Callable[[str], None]) -> Revision | None:
    """The commit that an abbreviation stands for; only the history of all branches and tags can tell.

    The files in it are left out where the server can do that, so it is kept no longer than this question.
    """
    report(f"Fetching the history of {remote.uri} to find commit {version}")
    history = scratch / "history"
    write_repository(history, digits=SHA1_DIGITS, bare=True, head="ref: refs/heads/none", remote=remote.url)
    names = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
    answer = remote.git(["fetch", "-q", "--no-tags", "--filter=tree:0", "origin", *names], cwd=history)
    if answer.returncode != 0:
        raise remote.failure(answer, "Fetching the history of")
    found = git(["rev-parse", "--verify", f"{version}^{{commit}}"], cwd=history)
    if found.returncode == 0:
        return Revision(found.stdout.strip())
    if "ambiguous" in found.stderr:
        raise several_commits(remote, version)
    return None


def _populate(root: Path, origin: _Origin, revision: Revision, report: Callable[[str], None]) -> Revision:
    """Write the commit's files and their `.git`, from a mirror that is mended once when it turns out damaged."""
    mirror = Mirror.of(origin.remote.url, len(revision.commit))
    revision = replace(revision, commit=mirror.require(revision, origin.remote, report))
    failure = _write_tree(root, mirror, origin, revision)
    if failure is not None:
        for left in root.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        mirror.mend(origin.remote, report)
        mirror.require(revision, origin.remote, report)
        if (failure := _write_tree(root, mirror, origin, revision)) is not None:
            raise failure
    mirror.used()
    return revision


def _write_tree(root: Path, mirror: Mirror, origin: _Origin, revision: Revision) -> SourceError | None:
    """Check the commit out of the mirror; the error if that cannot be done."""
    dot_git = root / ".git"
    references = {}
    if revision.branch is not None:
        references[f"refs/heads/{revision.branch}"] = revision.commit
        references[f"refs/remotes/origin/{revision.branch}"] = revision.commit
    if revision.tag is not None:
        references[f"refs/tags/{revision.tag}"] = revision.commit
    (dot_git / "objects/pack").mkdir(parents=True)
    try:
        shallow = mirror.lend(dot_git / "objects")
    except FileNotFoundError as error:
        message = f"The mirror of {origin.remote.uri} in {mirror.directory} cannot be read: {error}"
        return SourceError(message, reason=Reason(ReasonCode.SOURCE, message, retryable=True))
    write_repository(
        dot_git,
        digits=len(revision.commit),
        bare=False,
        head=f"ref: refs/heads/{revision.branch}" if revision.branch is not None else revision.commit,
        references=references,
        shallow=shallow,
        remote=origin.url,
        tracked=revision.branch,
    )
    answer = git(["read-tree", "--reset", "-u", "HEAD"], cwd=root, configuration=AS_POINTERS)
    if answer.returncode == 0:
        return None
    return failed(answer, f"Checking out commit {revision.commit} of {origin.remote.uri}")


def _submodules(root: Path, remote: Remote, report: Callable[[str], None]) -> list[Path]:
    """Check the submodules out, if there are any, and theirs; their work trees."""
    if not (root / ".gitmodules").is_file():
        return []
    report(f"Fetching the submodules of {remote.uri}")
    answer = remote.git(["submodule", "update", "-q", "--init", "--recursive"], cwd=root, configuration=AS_POINTERS)
    if answer.returncode != 0:
        raise remote.failure(answer, "Fetching the submodules of")
    answer = git(["submodule", "foreach", "-q", "--recursive", "pwd"], cwd=root)
    if answer.returncode != 0:
        raise failed(answer, f"Listing the submodules of {remote.uri}")
    return [Path(line) for line in answer.stdout.split("\n") if line]
