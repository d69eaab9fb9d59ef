"""A project's files as they go into a container: which ones, their digest, and a tar of them.

What `.dockerignore` names is left out by Docker's own rules, what `.gitignore` names by Git's own. Git's own directory
never goes along: it may hold a login, and a shallow checkout's is of no use.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from mlproj_core.containers.sdk import require_docker
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from docker.utils.build import PatternMatcher

__all__ = ["MTIME", "Entry", "add_entries", "content_digest", "context_entries"]

MTIME: Final = 315_619_200
"""Time of change of every file in an archive, 2 January 1980: a fixed one, and late enough for zip files."""

_GIT: Final = ".git"
_GITIGNORE: Final = ".gitignore"
_BITS: Final = 0o777


@dataclass(frozen=True)
class Entry:
    """A file, directory or symbolic link of a project.

    Attributes:
        name: its path relative to the project's directory, with slashes.
        path: where it is.
        mode: its permission bits.
        kind: "file", "directory" or "link".
        target: what a link points to, as written; empty for anything else.
    """

    name: str
    path: Path
    mode: int
    kind: str
    target: str = ""


def context_entries(directory: Path, *, gitignore: bool) -> tuple[Entry, ...]:
    """The files, directories and links of a project that go into a container, sorted by name.

    Links are kept as links, whatever they point to, and nothing behind them is read. Sockets, pipes and devices are
    left out.

    Args:
        directory: the project's directory.
        gitignore: whether what Git ignores is left out too: what the `.gitignore` files name and Git does not track.

    Raises:
        UserError: a file of rules or a directory cannot be read, or Docker's SDK, which knows the rules of
            `.dockerignore`, is not installed.
        SourceError: git cannot tell what it ignores.
    """
    matcher = _docker_rules(directory)
    ignored = _ignored_by_git(directory) if gitignore else frozenset[str]()
    return tuple(sorted(_walk(directory, "", ignored, matcher), key=lambda entry: entry.name))


def content_digest(entries: Iterable[Entry]) -> str:
    """SHA-256 over names, permissions and contents, in hexadecimal: times and order change nothing."""
    digest = hashlib.sha256()
    for entry in entries:
        content = entry.target
        if entry.kind == "file":
            content = _file_digest(entry)
        line = f"{entry.kind} {entry.mode & _BITS:o} {entry.name}\0{content}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def add_entries(tar: tarfile.TarFile, entries: Iterable[Entry], prefix: str = "") -> None:
    """Put entries into a tar: owned by root, with a fixed time, so that equal files make equal archives.

    Args:
        tar: the archive, open for writing.
        entries: what to put in.
        prefix: put before their names, as in "code/".
    """
    for entry in entries:
        info = tarfile.TarInfo(f"{prefix}{entry.name}")
        info.mode, info.mtime = entry.mode & _BITS, MTIME
        if entry.kind == "directory":
            info.type = tarfile.DIRTYPE
        elif entry.kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, entry.target
        if entry.kind != "file":
            tar.addfile(info)
            continue
        with _opened(entry) as file:
            info.size = os.fstat(file.fileno()).st_size
            try:
                tar.addfile(info, file)
            except OSError as error:
                raise UserError(f"{entry.path} cannot be read, or became shorter meanwhile: {error}.") from error


def _file_digest(entry: Entry) -> str:
    digest = hashlib.sha256()
    with _opened(entry) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _opened(entry: Entry) -> BinaryIO:
    try:
        return entry.path.open("rb")
    except OSError as error:
        raise UserError(
            f"{entry.path} cannot be read: {error.strerror}. Mend its permissions, or name it in .dockerignore."
        ) from error


def _walk(directory: Path, prefix: str, ignored: frozenset[str], matcher: PatternMatcher | None) -> Iterator[Entry]:
    try:
        with os.scandir(directory) as found:
            children = list(found)
    except OSError as error:
        raise UserError(f"The directory {directory} cannot be read: {error.strerror}.") from error
    for child in children:
        name = f"{prefix}{child.name}"
        if child.name == _GIT or name in ignored:
            continue
        excluded, path = matcher is not None and matcher.matches(name), Path(child.path)
        if child.is_dir(follow_symlinks=False):
            if excluded and not _may_hold_exceptions(name, matcher):
                continue
            below = list(_walk(path, f"{name}/", ignored, matcher))
            if below or not excluded:
                yield Entry(name, path, child.stat(follow_symlinks=False).st_mode, "directory")
            yield from below
        elif excluded:
            continue
        elif child.is_symlink():
            yield Entry(name, path, _BITS, "link", str(path.readlink()))
        elif child.is_file(follow_symlinks=False):
            yield Entry(name, path, child.stat(follow_symlinks=False).st_mode, "file")


def _docker_rules(directory: Path) -> PatternMatcher | None:
    """The rules of a project's `.dockerignore`; None if it has none."""
    file = directory / ".dockerignore"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    require_docker()
    from docker.utils.build import PatternMatcher

    lines = (line.strip() for line in text.splitlines())
    return PatternMatcher([line for line in lines if line and not line.startswith("#")])


def _may_hold_exceptions(name: str, matcher: PatternMatcher | None) -> bool:
    """Whether something below an excluded directory may be let in again; as Docker does, by how the `!` rules begin."""
    rules = matcher.patterns if matcher is not None else ()
    return any(rule.exclusion and f"{rule.cleaned_pattern}/".startswith(f"{name}/") for rule in rules)


def _ignored_by_git(directory: Path) -> frozenset[str]:
    """Names of the files and directories that Git ignores because of a `.gitignore`, and does not track.

    A project that is in no work tree is looked at as if none of it was tracked. Files of rules outside the project's
    repository do not count: what an image holds must not depend on who builds it.
    """
    from mlproj_core.sources.worktree import Repository

    directory = directory.absolute()
    repository = Repository.containing(directory)
    if repository is not None and repository.work_tree is not None and not repository.ignores(directory):
        return frozenset(_list_ignored(directory, {}))
    if not any(_GITIGNORE in files for _, _, files in os.walk(directory)):
        return frozenset()
    import tempfile

    from mlproj_core.sources.skeleton import SHA1_DIGITS, write_repository

    with tempfile.TemporaryDirectory() as empty:
        write_repository(Path(empty), digits=SHA1_DIGITS, bare=False, head="ref: refs/heads/none")
        return frozenset(_list_ignored(directory, {"GIT_DIR": empty, "GIT_WORK_TREE": str(directory)}))


def _list_ignored(directory: Path, environment: dict[str, str]) -> Iterator[str]:
    from mlproj_core.sources.git import failed, git

    command = ["ls-files", "-z", "--others", "--ignored", "--directory", f"--exclude-per-directory={_GITIGNORE}"]
    # core.fsmonitor is a program of the repository's choosing, and not needed for this question.
    answer = git(["-c", "core.fsmonitor=false", *command], cwd=directory, environment=environment)
    if answer.returncode != 0:
        raise failed(answer, f"Asking git what it ignores in {directory}")
    yield from (name.rstrip("/") for name in answer.stdout.split("\0") if name)
