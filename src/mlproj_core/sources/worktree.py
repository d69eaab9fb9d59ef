"""A Git repository on this host, read without starting git: its commit, its remote, its work tree.

Every run of a local directory passes here, so the few facts needed are read from the files themselves, in the
layout that gitrepository-layout(5) fixes. That also works for a repository that belongs to another user, which git
refuses to touch (`safe.directory`), and is safe there: nothing that such a repository configures is executed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Repository", "is_git_directory"]

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SECTION = re.compile(r'\s*\[\s*([\w.-]+)\s*("(?:[^"\\]|\\.)*")?\s*\](.*)', re.ASCII)
_URL = re.compile(r"\s*url\s*=(.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Repository:
    """A repository and the work tree it was found through.

    Attributes:
        git_dir: the directory with `HEAD`: of this work tree alone when it is a linked one.
        common_dir: the directory with objects, branches and configuration.
        work_tree: root of the work tree; None for a bare repository.
    """

    git_dir: Path
    common_dir: Path
    work_tree: Path | None

    @classmethod
    def at(cls, directory: Path) -> Repository | None:
        """The repository whose work tree has this very directory as its root, or that lies in it bare."""
        dot_git = directory / ".git"
        git_dir = dot_git
        try:
            if dot_git.is_file():
                text = _read(dot_git)
                if not text.startswith("gitdir: "):
                    return None
                # Relative to the work tree for submodules, and for linked work trees since Git 2.48.
                git_dir = Path(os.path.normpath(directory / text[len("gitdir: ") :].strip()))
            if is_git_directory(git_dir):
                return cls(git_dir, _common_dir(git_dir), directory)
            if is_git_directory(directory):
                return cls(directory, _common_dir(directory), None)
        except OSError:
            return None
        return None

    @classmethod
    def containing(cls, directory: Path) -> Repository | None:
        """The repository that the directory lies in, found as git finds it: upwards, the nearest first."""
        for candidate in (directory, *directory.parents):
            if (found := cls.at(candidate)) is not None:
                return found
        return None

    def head(self) -> str | None:
        """Full name of the commit that HEAD is at; None for a repository without a commit."""
        try:
            name = _read(self.git_dir / "HEAD").strip()
            for _ in range(5):  # git follows a symbolic reference no deeper
                if _COMMIT.fullmatch(name):
                    return name
                if not name.startswith("ref:"):
                    return None
                reference = name[len("ref:") :].strip()
                if reference == "refs/heads/.invalid":
                    return self._head_by_git()
                name = self._reference(reference)
        except OSError:
            return None
        return None

    def remote_url(self) -> str | None:
        """URL of the first remote in the repository's configuration, as written there; None without one."""
        try:
            lines = _read(self.common_dir / "config").splitlines()
        except OSError:
            return None
        in_remote = False
        found: str | None = None
        for line in lines:
            content = line
            if section := _SECTION.match(line):
                if found is not None:
                    return found
                in_remote = section[1].lower() == "remote" and section[2] is not None
                content = section[3]
            if in_remote and (url := _URL.match(content)):
                found = _config_value(url[1])
        return found

    def ignores(self, directory: Path) -> bool:
        """Whether the directory, one within the work tree, is ignored by Git; False where git cannot tell."""
        if self.work_tree is None or directory == self.work_tree:
            return False
        from mlproj_core.sources.git import git

        # core.fsmonitor is a program of the repository's choosing, and not needed for this question.
        answer = git(["-c", "core.fsmonitor=false", "check-ignore", "-q", "--", str(directory)], cwd=self.work_tree)
        return answer.returncode == 0

    def changed(self) -> str | None:
        """What of the work tree is not as HEAD has it, in one line; None when nothing is.

        As for `git describe --dirty`, files that Git does not track are no change.
        """
        from mlproj_core.sources.git import git

        arguments = ["-c", "core.fsmonitor=false", "--no-optional-locks", "status", "--porcelain", "-uno"]
        answer = git(arguments, cwd=self.work_tree or self.git_dir)
        if answer.returncode != 0:
            return f"git cannot tell whether the work tree is clean: {answer.stderr.strip()}"
        changes = answer.stdout.splitlines()
        if not changes:
            return None
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        return f"the work tree has changes that are in no commit ({changes[0][3:]}{more})"

    def _reference(self, name: str) -> str:
        """Content of the reference; empty when it does not exist."""
        for directory in (self.git_dir, self.common_dir):
            try:
                return _read(directory / name).strip()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
        try:
            packed = _read(self.common_dir / "packed-refs")
        except FileNotFoundError:
            return ""
        entry = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", packed, re.MULTILINE)
        return entry[1] if entry else ""

    def _head_by_git(self) -> str | None:
        """The commit of HEAD where references are kept in tables (`reftable`), which only git reads."""
        from mlproj_core.sources.git import git

        answer = git(["rev-parse", "--verify", "-q", "HEAD^{commit}"], cwd=self.work_tree or self.git_dir)
        commit = answer.stdout.strip()
        return commit if _COMMIT.fullmatch(commit) else None


def is_git_directory(directory: Path) -> bool:
    """Whether the directory is a Git repository itself: a bare one, or the `.git` of a work tree."""
    try:
        return (
            (directory / "HEAD").is_file()
            and ((common := _common_dir(directory)) / "objects").is_dir()
            and (common / "refs").is_dir()
        )
    except OSError:
        return False


def _common_dir(git_dir: Path) -> Path:
    try:
        return Path(os.path.normpath(git_dir / _read(git_dir / "commondir").strip()))
    except FileNotFoundError:
        return git_dir


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _config_value(text: str) -> str:
    """A value of git-config(1): quotes and escapes undone, a comment cut off."""
    value = ""
    quoted = False
    characters = iter(text.strip())
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            value += {"n": "\n", "t": "\t", "b": "\b"}.get(escaped, escaped)
        elif character == '"':
            quoted = not quoted
        elif character in "#;" and not quoted:
            return value.rstrip()
        else:
            value += character
    return value
