"""The revision: which commit a version names, found as Git and MLflow find it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources.git import Remote, failed, git
from mlproj_core.sources.worktree import Repository
from mlproj_core.status import Reason, ReasonCode

__all__ = [
    "Revision",
    "checked_version",
    "is_abbreviated_commit",
    "is_commit",
    "local_revision",
    "no_such_version",
    "remote_revision",
    "several_commits",
]

_INVALID_NAME = re.compile(
    # git-check-ref-format(1); a dash at the start would read as an option.
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(^|/)\.|\.(/|$)|\.lock(/|$)|^[-/]|/$|^@$|^$"
)


@dataclass(frozen=True)
class Revision:
    """A commit and the name it was found by.

    Attributes:
        commit: full name of the commit, or of a tag object that leads to it.
        branch: the branch to be on in the checkout; None for a commit or a tag.
        tag: the tag to have in the checkout; None for a commit or a branch.
        reference: full name of the reference in the repository; None for a commit.
    """

    commit: str
    branch: str | None = None
    tag: str | None = None
    reference: str | None = None


def checked_version(version: str) -> str:
    """The version, when it can be one.

    Raises:
        UserError: it is neither a name that Git allows for a branch or tag, nor a commit.
    """
    if _INVALID_NAME.search(version):
        raise UserError(
            f"The version {version!r} cannot be a branch, a tag or a commit. "
            "Expressions such as HEAD~1 or v1..v2 are not read: give the commit they stand for."
        )
    lowered = version.lower()
    return lowered if is_commit(lowered) else version


def is_commit(version: str) -> bool:
    """Whether the version is a commit's full name, which stands for itself."""
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", version) is not None


def is_abbreviated_commit(version: str) -> bool:
    """Whether the version may be the first digits of a commit's name; it may be a branch or a tag as well."""
    return re.fullmatch(r"[0-9a-fA-F]{4,63}", version) is not None and not is_commit(version)


def remote_revision(
    remote: Remote, version: str | None, *, cwd: Path, report: Callable[[str], None]
) -> Revision | None:
    """Ask the repository what a branch, a tag or HEAD stands for now: one call of `git ls-remote`.

    A name that is both a tag and a branch is the tag, as `git fetch` reads it.

    Returns:
        The revision; None when the repository has no such name.

    Raises:
        SourceError: it cannot be reached, refuses, or its HEAD leads nowhere.
    """
    candidates = ["HEAD"] if version in (None, "HEAD") else _candidates(str(version))
    # An annotated tag is listed a second time with `^{}`, as the commit it leads to.
    peeled = [f"{name}^{{}}" for name in candidates]
    answer = remote.git(["ls-remote", "--symref", "--", remote.url, *candidates, *peeled], cwd=cwd)
    if answer.returncode != 0:
        raise remote.failure(answer, "Asking")
    found: dict[str, str] = {}
    head_branch = None
    for line in answer.stdout.splitlines():
        value, _, name = line.partition("\t")
        if value.startswith("ref: "):
            head_branch = value.removeprefix("ref: refs/heads/") if name == "HEAD" else head_branch
        else:
            found[name] = value
    if version is None or version == "HEAD":
        if "HEAD" not in found:
            raise _no_commit(
                f"{remote.uri} has no commit at its HEAD: it is empty, or HEAD names a branch that does not exist. "
                "Give a version."
            )
        if version is not None or (head_branch is not None and _INVALID_NAME.search(head_branch)):
            head_branch = None
        return Revision(found["HEAD"], branch=head_branch, reference="HEAD")
    names = [name for name in candidates if name in found]
    if not names:
        return None
    if len(names) > 1:
        report(f"{version} is both a tag and a branch of {remote.uri}: the tag is taken, as git fetch does")
    reference = names[0]
    return Revision(
        found.get(f"{reference}^{{}}", found[reference]),
        branch=reference.removeprefix("refs/heads/") if reference.startswith("refs/heads/") else None,
        tag=reference.removeprefix("refs/tags/") if reference.startswith("refs/tags/") else None,
        reference=reference,
    )


def _candidates(version: str) -> list[str]:
    """Full names the version may stand for, in the order of gitrevisions(7)."""
    names = [f"refs/{version}", f"refs/tags/{version}", f"refs/heads/{version}"]
    return [version, *names] if version.startswith("refs/") else names


def no_such_version(remote: Remote, version: str, *, cwd: Path, advice: str = "") -> SourceError:
    """The error for a version the repository does not have, with the nearest names it has."""
    from difflib import get_close_matches

    answer = remote.git(["ls-remote", "--refs", "--heads", "--tags", "--", remote.url], cwd=cwd)
    names = [re.sub(r"^refs/(heads|tags)/", "", line.partition("\t")[2]) for line in answer.stdout.splitlines()]
    near = get_close_matches(version, sorted(set(names)), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else advice
    return _no_commit(f"{remote.uri} has no branch, tag or commit {version!r}.{hint}")


def several_commits(remote: Remote, version: str) -> SourceError:
    """The error for an abbreviation that more than one commit begins with."""
    return _no_commit(f"Several commits of {remote.uri} begin with {version}. Give more digits.")


def _no_commit(message: str) -> SourceError:
    return SourceError(message, reason=Reason(ReasonCode.SOURCE, message))


def local_revision(
    repository: Repository, remote: Remote, version: str, *, as_remote: bool, report: Callable[[str], None]
) -> Revision:
    """What a version stands for in a repository on this host; one that is no name there may be a remote's branch.

    Args:
        repository: the repository.
        remote: the same, as something to fetch from.
        version: a branch, a tag, or the first digits of a commit or all.
        as_remote: whether the tag is taken where a branch has the same name, as `git fetch` does; else the branch
            is, as `git checkout` does and MLflow in a work tree.
        report: told about such a name.

    Raises:
        SourceError: it has no such version, several commits go by it, or git refuses to read the repository.
    """
    where = repository.work_tree or repository.git_dir
    if not is_commit(version):
        named = _local_names(where, version)
        heads, tags = (f"refs/{kind}/{version}" for kind in ("heads", "tags"))
        if heads in named and tags in named:
            taken = "tag is taken, as git fetch does" if as_remote else "branch is taken, as git checkout does"
            report(f"{version} is both a tag and a branch of {remote.uri}: the {taken}")
        order = (tags, heads) if as_remote else (heads, tags)
        reference = next((name for name in order if name in named), None)
        if reference is None and len({named[name] for name in named if name.startswith("refs/remotes/")}) == 1:
            reference = next(iter(named))
        if reference is not None:
            is_tag = reference == tags
            return Revision(
                named[reference],
                branch=None if is_tag else version,
                tag=version if is_tag else None,
                reference=reference,
            )
    answer = git(["rev-parse", "--verify", f"{version}^{{commit}}"], cwd=where)
    if answer.returncode == 0:
        return Revision(answer.stdout.strip())
    if "ambiguous" in answer.stderr:
        raise several_commits(remote, version)
    advice = f" If a remote repository has it, run `git -C {where} fetch` first, or give that repository's URL."
    raise no_such_version(remote, version, cwd=where, advice=advice)


def _local_names(where: Path, version: str) -> dict[str, str]:
    """The commit of each branch, tag and remote's branch that has the version as its name."""
    patterns = [f"refs/heads/{version}", f"refs/tags/{version}", f"refs/remotes/*/{version}"]
    answer = git(["for-each-ref", "--format=%(refname) %(objectname) %(*objectname)", *patterns], cwd=where)
    if answer.returncode != 0:
        raise failed(answer, f"Reading {where}")
    found = {}
    for line in answer.stdout.splitlines():
        name, commit, peeled = line.split(" ")
        # A pattern also matches the names below it, as refs/heads/release matches refs/heads/release/1.
        if name in patterns or re.fullmatch(rf"refs/remotes/[^/]+/{re.escape(version)}", name):
            found[name] = peeled or commit
    return found
