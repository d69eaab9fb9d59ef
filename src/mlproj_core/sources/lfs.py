"""Git LFS: large files that a repository holds pointers to, fetched from the server that has them.

A checkout is written with the pointers, whatever filters the user's Git has. What they stand for is fetched
afterwards by git-lfs in one go, with the login for the repository, and kept beside the mirror's commits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mlproj_core.errors import SourceError
from mlproj_core.sources.git import Remote, git
from mlproj_core.status import Reason, ReasonCode

__all__ = ["AS_POINTERS", "fetch_lfs"]

AS_POINTERS = ("filter.lfs.process=", "filter.lfs.smudge=", "filter.lfs.required=false")
"""Settings of Git under which a checkout leaves pointers as they are."""

_FILTERS = (
    # What `git lfs install` writes into a user's settings, where it may never have been run.
    "filter.lfs.clean=git-lfs clean -- %f",
    "filter.lfs.smudge=git-lfs smudge -- %f",
    "filter.lfs.process=git-lfs filter-process",
    "filter.lfs.required=true",
)

_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
"""How a pointer begins (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""


def fetch_lfs(
    work_tree: Path, remote: Remote, *, storage: Path, nearby: Path | None, report: Callable[[str], None]
) -> None:
    """Replace the pointers in a work tree by the files that they stand for.

    Args:
        work_tree: of the repository, or of a submodule.
        remote: the repository that the checkout is of.
        storage: directory where the files are kept for the next checkout.
        nearby: directory of objects of a repository on this host, which may have the files already.
        report: see `fetch`.

    Raises:
        SourceError: git-lfs is not installed, or a file cannot be had.
    """
    pointers = _pointers(work_tree)
    if not pointers:
        return
    what = f"{len(pointers)} {'file' if len(pointers) == 1 else 'files'} of {remote.uri}"
    # As git-lfs reads it.
    if os.environ.get("GIT_LFS_SKIP_SMUDGE", "").lower() in ("1", "true", "yes", "on", "t"):
        report(f"GIT_LFS_SKIP_SMUDGE is set: {what} stay pointers of Git LFS")
        return
    report(f"Fetching {what} from Git LFS")
    answer = remote.git(
        ["lfs", "pull"],
        cwd=work_tree,
        configuration=(*_FILTERS, f"lfs.storage={storage}"),
        environment={"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(nearby)} if nearby is not None else {},
    )
    if "'lfs' is not a git command" in answer.stderr:
        message = (
            f"{what} ({_listed(pointers)}) must come from Git LFS, and the program git-lfs is not on PATH. Install it "
            "(the package git-lfs), or set GIT_LFS_SKIP_SMUDGE=1 to run with the pointers in the files' place."
        )
        raise SourceError(message, reason=Reason(ReasonCode.SOURCE, message))
    if answer.returncode != 0:
        raise remote.failure(answer, f"Fetching from Git LFS {_listed(pointers)} of")
    if left := _pointers(work_tree):
        report(f"Of {remote.uri}, {_listed(left)} stay pointers, as Git's settings for LFS say (lfs.fetchexclude)")


def _pointers(work_tree: Path) -> list[str]:
    """The files that are pointers, as .gitattributes says that they may be."""
    names = git(["ls-files", "-z", "--", ":(top,attr:filter=lfs)"], cwd=work_tree).stdout.split("\0")
    return [name for name in names if name and _is_pointer(work_tree / name)]


def _is_pointer(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
