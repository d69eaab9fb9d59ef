"""A Git repository's directory, written by hand: faster than `git init`, and nothing of a user's template in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["SHA1_DIGITS", "write_repository"]

SHA1_DIGITS = 40
"""Hexadecimal digits of an object's name in a repository of the usual format; 64 in one that uses SHA-256."""


def write_repository(
    directory: Path,
    *,
    digits: int,
    bare: bool,
    head: str,
    references: Mapping[str, str] | None = None,
    shallow: str = "",
    remote: str | None = None,
    tracked: str | None = None,
    alternate: Path | None = None,
) -> None:
    """Write an empty repository, by gitrepository-layout(5).

    Args:
        directory: its `.git`, or itself when bare; made with its parents.
        digits: length of the names of its objects, which tells their format.
        bare: whether it has no work tree.
        head: content of HEAD: a commit, or `ref: ` and the name of a branch.
        references: the object that each full reference name stands for; names must be valid.
        shallow: content of the file that says where history is cut off; empty for nowhere.
        remote: URL of the remote `origin`; None for no remote.
        tracked: the branch that follows the same one of `origin`; None for no such branch.
        alternate: directory of objects to read besides its own.
    """
    for name in ("objects/pack", "objects/info", "refs/heads", "refs/tags"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    sha256 = digits != SHA1_DIGITS
    lines = ["[core]", f"repositoryformatversion = {int(sha256)}", "filemode = true", f"bare = {str(bare).lower()}"]
    if sha256:
        lines += ["[extensions]", "objectformat = sha256"]
    if remote is not None:
        lines += ['[remote "origin"]', f"url = {_quoted(remote)}", "fetch = +refs/heads/*:refs/remotes/origin/*"]
    if tracked is not None:
        lines += [f"[branch {_quoted(tracked)}]", "remote = origin", f"merge = {_quoted('refs/heads/' + tracked)}"]
    _write(directory / "config", "\n".join(lines) + "\n")
    if references:
        packed = "".join(f"{commit} {name}\n" for name, commit in sorted(references.items()))
        # All of them name commits, so that none has a line with what it is peeled to. mlflow looks a run's commit up by
        # GitPython, which reads no file that does not say "peeled".
        _write(directory / "packed-refs", f"# pack-refs with: peeled fully-peeled sorted \n{packed}")
    if shallow:
        _write(directory / "shallow", shallow)
    if alternate is not None:
        _write(directory / "objects/info/alternates", f"{alternate}\n")
    _write(directory / "HEAD", head + "\n")


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
