"""The mirror: a bare repository in the cache that keeps the commits fetched from one repository.

A fetch never writes to the mirror itself. It runs in a repository of its own beside it, which borrows the mirror's
objects; when it is complete, its packs are renamed into the mirror, and last of all a reference `refs/mlproj/COMMIT`
says that this commit is there with all its files. So whoever is killed at whatever instant leaves a mirror that
works, and a commit with that reference can be read without a lock and without asking git.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from mlproj_core.errors import SourceError, UserError
from mlproj_core.locations import cache_dir
from mlproj_core.sources.git import Answer, Remote, end_abandoned, git
from mlproj_core.sources.revision import Revision
from mlproj_core.sources.skeleton import SHA1_DIGITS, write_repository
from mlproj_core.status import Reason, ReasonCode

__all__ = ["Mirror"]

_NO_SUCH_WANT = re.compile(
    # git's client, git's server, a server of plain files, JGit: this commit cannot be asked for by itself.
    r"unadvertised object|not our ref|does not support shallow|dumb http|want [0-9a-f]+ not valid"
    r"|couldn't find remote ref"
)
_DAMAGE = re.compile(
    r"corrupt|bad object|bad (pack|ref)|missing|unable to read|inflate|index-pack|packfile|broken|necessary objects"
    r"|not a git repository|mismatch|shallow|could not parse"
)
_EMPTY = "ref: refs/heads/none"


@dataclass(frozen=True)
class Mirror:
    """The commits kept of one repository.

    Attributes:
        directory: the bare repository. Its file `last-used` has the time of the last use as its own.
        url: the repository's URL or path, without credentials.
        digits: length of its objects' names: 40, or 64 where it uses SHA-256.
    """

    directory: Path
    url: str
    digits: int = SHA1_DIGITS

    @classmethod
    def of(cls, url: str, digits: int = SHA1_DIGITS) -> Mirror:
        """The mirror of a repository, whether it exists yet or not."""
        digest = hashlib.sha256(f"{_normalized(url)}\n{digits}".encode(errors="surrogateescape")).hexdigest()[:32]
        return cls(cache_dir() / "git" / digest, url, digits)

    def has(self, commit: str) -> bool:
        """Whether the commit is there with all its files. Starts no process."""
        return self._marker(commit).is_file()

    def find(self, version: str) -> str | None:
        """Full name of the one commit here that the abbreviation stands for; None when there is not exactly one."""
        if not self.directory.is_dir():
            return None
        answer = self._git("rev-parse", "--verify", "-q", f"{version}^{{commit}}")
        return answer.stdout.strip() if answer.returncode == 0 else None

    def used(self) -> None:
        """Note that the mirror was used now."""
        try:
            os.utime(self.directory / "last-used")
        except OSError:
            # Of another user, or being renewed: that it was used matters only to whoever clears the cache.
            return

    def require(self, revision: Revision, remote: Remote, report: Callable[[str], None]) -> str:
        """Have the commit here, fetching what is missing of it.

        Returns:
            The commit's full name; that of the tagged commit when the revision is a tag object.

        Raises:
            SourceError: the repository cannot be reached or has no such commit.
        """
        if self.has(revision.commit):
            report(f"Commit {revision.commit[:12]} of {remote.uri} is in the mirror")
            return revision.commit
        with self._locked(report):
            if (commit := self._present(revision.commit)) is not None:
                report(f"Commit {commit[:12]} of {remote.uri} is in the mirror")
                return commit
            report(f"Fetching commit {revision.commit[:12]} of {remote.uri}")
            try:
                return self._fetch(revision, remote)
            except _Refused as refused:
                if not (self.directory.is_dir() and _DAMAGE.search(refused.answer.stderr) and self._is_damaged()):
                    raise remote.failure(refused.answer, "Fetching") from None
            self._discard(report, remote)
            try:
                return self._fetch(revision, remote)
            except _Refused as refused:
                raise remote.failure(refused.answer, "Fetching") from None

    def mend(self, remote: Remote, report: Callable[[str], None]) -> None:
        """Delete the mirror if git finds it damaged, so that it is fetched anew."""
        with self._locked(report):
            if self.directory.is_dir() and self._is_damaged():
                self._discard(report, remote)

    def lend(self, objects: Path) -> str:
        """Put all objects of the mirror into another repository's directory of objects, as hard links.

        They stay there whatever becomes of the mirror. On another file system they are copied.

        Returns:
            The content for that repository's file `shallow`.

        Raises:
            FileNotFoundError: the mirror is being renewed, or damaged.
        """
        # First, so that nothing is taken for complete whose rest arrives while the packs are listed.
        shallow = _text(self.directory / "shallow")
        packs = self.directory / "objects/pack"
        for index in [path for path in packs.iterdir() if path.suffix == ".idx"]:
            # git sees a pack when it sees its index, so that comes last.
            for file in (index.with_suffix(".pack"), index.with_suffix(".rev"), index):
                if file.suffix != ".rev" or file.exists():
                    _link(file, objects / "pack" / file.name)
        return shallow

    def _marker(self, commit: str) -> Path:
        return self.directory / "refs/mlproj" / commit

    @contextmanager
    def _locked(self, report: Callable[[str], None]) -> Iterator[None]:
        """Alone among all that would change the mirror, in any process."""
        from filelock import FileLock, Timeout

        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{self.directory}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                report(f"Waiting for another fetch of {self.url}")
                lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise UserError(
                f"The cache of Git mirrors cannot be used: {error}. Set MLPROJ_CACHE_DIR to a directory that "
                "can be written and whose file system has locks."
            ) from error
        try:
            self._clear_abandoned()
            yield
        finally:
            lock.release()

    def _clear_abandoned(self) -> None:
        """Remove what fetches left that were killed; whoever has the lock knows that none of them is at work."""
        for left in self.directory.parent.glob(f"{self.directory.name}.*-*"):
            end_abandoned(left / "git.pid", left)
            shutil.rmtree(left, ignore_errors=True)

    def _present(self, name: str) -> str | None:
        """The commit, if it is here; it may have come as the ancestor of another."""
        if self.has(name):
            return name
        commit = self.find(name)
        if commit is not None:
            self._mark([commit])
        return commit

    def _is_damaged(self) -> bool:
        return self._git("fsck", "--no-dangling", "--no-progress").returncode != 0

    def _git(self, *arguments: str) -> Answer:
        # A cache may be shared on purpose; another owner of it must not look like damage.
        return git(arguments, cwd=self.directory, configuration=("safe.directory=*",))

    def _discard(self, report: Callable[[str], None], remote: Remote) -> None:
        report(f"The mirror of {remote.uri} is damaged: it is deleted and fetched anew")
        doomed = Path(mkdtemp(prefix=f"{self.directory.name}.doomed-", dir=self.directory.parent))
        self.directory.rename(doomed / "mirror")
        shutil.rmtree(doomed, ignore_errors=True)

    def _fetch(self, revision: Revision, remote: Remote) -> str:
        incoming = Path(mkdtemp(prefix=f"{self.directory.name}.incoming-", dir=self.directory.parent))
        try:
            # Git tells the server of the commits in an alternate, so that it sends only what is new.
            objects = self.directory / "objects"
            write_repository(
                incoming,
                digits=self.digits,
                bare=True,
                head=_EMPTY,
                shallow=_text(self.directory / "shallow"),
                alternate=objects if objects.is_dir() else None,
            )
            commit = self._download(incoming, revision, remote)
            if any(len(path.name) == 2 for path in (incoming / "objects").iterdir()):
                # A server of plain files hands out single objects as well.
                git(["repack", "-a", "-d", "-l", "-q"], cwd=incoming)
            tips: list[str] = []
            if (incoming / "refs/fetched").is_dir():
                tips = git(
                    ["for-each-ref", "--format=%(objectname)", "refs/fetched/heads"], cwd=incoming
                ).stdout.split()
            self._absorb(incoming, [*tips, commit])
            return commit
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _download(self, incoming: Path, revision: Revision, remote: Remote) -> str:
        """Fetch the commit by the narrowest way that the server allows: alone, by its reference, with all others."""
        ways = [["--depth=1", remote.url, revision.commit]]
        if revision.reference is not None and not revision.reference.startswith("refs/remotes/"):
            ways.append(["--depth=1", remote.url, revision.reference])
        everything = [remote.url, "+refs/heads/*:refs/fetched/heads/*", "+refs/tags/*:refs/fetched/tags/*"]
        ways.append(everything)
        for way in ways:
            unshallow = ["--unshallow"] if way is everything and (incoming / "shallow").exists() else []
            arguments = ["fetch", "-q", "--no-tags", *unshallow, *way]
            answer = remote.git(arguments, cwd=incoming, pid_file=incoming / "git.pid")
            if answer.returncode != 0 and not _NO_SUCH_WANT.search(answer.stderr):
                raise _Refused(answer)
            if answer.returncode == 0:
                name = f"{revision.commit}^{{commit}}"
                peeled = git(["rev-parse", "--verify", "-q", name], cwd=incoming)
                if peeled.returncode == 0:
                    return peeled.stdout.strip()
            elif "not our ref" in answer.stderr:
                # The server has looked for it among all its objects.
                break
        message = f"{remote.uri} has no commit {revision.commit}."
        raise SourceError(message, reason=Reason(ReasonCode.SOURCE, message))

    def _absorb(self, repository: Path, commits: Sequence[str]) -> None:
        """Move the packs of a complete bare repository beside the mirror into it, and mark the commits as present."""
        if not (self.directory / "HEAD").is_file():
            write_repository(self.directory, digits=self.digits, bare=True, head=_EMPTY, remote=self.url)
        (self.directory / "last-used").touch()
        packs = repository / "objects/pack"
        for suffix in (".pack", ".rev", ".idx"):
            for file in packs.glob(f"*{suffix}"):
                file.replace(self.directory / "objects/pack" / file.name)
        # Before the commits are marked: until then nobody reads what it cuts off.
        if (repository / "shallow").exists():
            (repository / "shallow").replace(self.directory / "shallow")
        else:
            (self.directory / "shallow").unlink(missing_ok=True)
        self._mark(commits)

    def _mark(self, commits: Sequence[str]) -> None:
        for commit in commits:
            self._marker(commit).parent.mkdir(parents=True, exist_ok=True)
            self._marker(commit).write_text(f"{commit}\n")


class _Refused(Exception):
    """A git command failed; whether that is the repository's fault or the mirror's is still to be told."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.stderr)
        self.answer = answer


def _normalized(url: str) -> str:
    """The URL with what does not tell repositories apart taken away."""
    found = re.match(r"([A-Za-z+]+)://([^/]*)(.*)", url)
    if found is None:
        return url.rstrip("/")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    user, at, host = authority.rpartition("@")
    port = {"https": ":443", "http": ":80", "ssh": ":22", "git": ":9418"}.get(scheme, "\0")
    return f"{scheme}://{user}{at}{host.lower().removesuffix(port)}{path.rstrip('/')}"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        # Another file system, one without hard links, or a file of another user.
        shutil.copyfile(source, target)
