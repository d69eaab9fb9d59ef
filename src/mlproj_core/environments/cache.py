"""The cache of environments: one directory for each, found by its key, made once, pruned when unused.

    envs/<key>/                       the environment; complete once its marker is there
    envs/.locks/<key>.build           held exclusively by whoever builds or removes it
    envs/.locks/<key>.use             held shared by whoever uses it; its time of change is the last use

A virtual environment cannot be moved, so it is built where it will stay, and the marker is written last. Whatever
stands there without a marker was cut off, and the next builder removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlproj_core.environments.environment import MARKER_NAME, EnvironmentInfo
from mlproj_core.locations import cache_dir
from mlproj_core.locks import exclusive

if TYPE_CHECKING:
    from mlproj_core.housekeeping import Item

__all__ = ["Slot", "list_environments", "network_file_system", "prune_environments", "stored"]

_REMOVED: Final = ".removed-"
_STALE_LOCK_SECONDS: Final = 86_400.0
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.cephfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """The place of one environment in the cache, whether it is there or not.

    Attributes:
        key: digest of everything that decides the environment's content.
    """

    key: str

    @property
    def prefix(self) -> Path:
        """The environment's directory."""
        return _root() / self.key

    @property
    def marker(self) -> Path:
        """The file that is written last."""
        return self.prefix / MARKER_NAME

    @property
    def build_lock(self) -> Path:
        """Locked exclusively by whoever builds or removes the environment."""
        return _root() / ".locks" / f"{self.key}.build"

    @property
    def in_use_lock(self) -> Path:
        """Locked shared by whoever uses the environment."""
        return _root() / ".locks" / f"{self.key}.use"

    def complete(self) -> bool:
        """Whether the environment is there, and whole."""
        return self.marker.is_file()

    def touch(self) -> None:
        """Note that the environment was asked for now."""
        try:
            os.utime(self.in_use_lock)
        except FileNotFoundError:
            self.in_use_lock.parent.mkdir(parents=True, exist_ok=True)
            self.in_use_lock.touch()
        except PermissionError:
            pass  # a cache made ready by another user, and shared with this one: only its last use goes unnoted

    def fill(self, build: Callable[[int], None], report: Callable[[str], None]) -> bool:
        """Make the environment unless it is there; of any number of processes that ask at once, one makes it.

        Args:
            build: makes it in its place and marks it complete; given the descriptor of the lock, which programs that it
                starts should inherit. What it leaves half made after an error is removed.
            report: is told of what delays it.

        Returns:
            Whether it was made by this call.
        """
        if self.complete():
            return False
        if kind := network_file_system(cache_dir()):
            report(
                f"warning: the cache {cache_dir()} is on a network file system ({kind}), where locks may not hold "
                "between hosts; set MLPROJ_CACHE_DIR to a local directory"
            )

        def waiting() -> None:
            report(f"waiting for environment {self.key[:12]}: another process is building it")

        # What a killed builder leaves running has inherited the lock: it never meets the next builder in one directory.
        with exclusive(self.build_lock, waiting) as lock:
            assert lock is not None  # noqa: S101 - it was waited for
            if self.complete():
                return False
            try:
                self.remove()
                self.touch()
                build(lock)
            except BaseException:
                if not self.complete():  # else somebody may be using it by now
                    with contextlib.suppress(OSError):
                        self.remove()
                raise
            return True

    def mark_complete(self, facts: Mapping[str, Any]) -> None:
        """Write the marker: from now on the environment counts as there."""
        draft = self.marker.with_suffix(".draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"version": 1, "key": self.key, **facts}, file, indent=1)
        draft.replace(self.marker)

    def remove(self) -> None:
        """Remove what is there, whole or half made. The caller holds the exclusive right to build."""
        import shutil

        self.marker.unlink(missing_ok=True)
        shutil.rmtree(self.prefix, ignore_errors=True)
        if self.prefix.exists():  # files of another user, or still being written
            shutil.rmtree(self.prefix)

    def info(self) -> EnvironmentInfo:
        """What is known of the environment."""
        facts = _facts(self.marker)
        return EnvironmentInfo(
            key=self.key,
            manager=str(facts.get("manager", "")),
            prefix=self.prefix,
            python=str(facts.get("python", "")),
            purpose=str(facts.get("purpose", "")),
            created=_changed(self.marker),
            last_used=_changed(self.in_use_lock),
            in_use=_is_locked(self.in_use_lock),
            complete=self.complete(),
            editable=tuple(facts.get("editable", ())),
        )


def list_environments() -> list[EnvironmentInfo]:
    """The environments in the cache, the one used last first."""
    return sorted((slot.info() for slot in _slots()), key=lambda info: info.last_used, reverse=True)


def prune_environments(
    older_than: float | None = None, *, report: Callable[[str], None] = lambda line: None
) -> list[EnvironmentInfo]:
    """Remove environments that nobody uses now.

    Removed whatever their age: those cut off while they were built, and those that point at a directory which is gone.

    Args:
        older_than: seconds since the last use that an environment must have been idle for; None for any.
        report: is told of each environment that is removed, or left because it is in use.

    Returns:
        What was known of each environment that was removed.
    """
    removed = []
    for slot in _slots():
        info = slot.info()
        if older_than is not None and not _is_dead(info) and time.time() - info.last_used < older_than:
            continue
        if _remove_unused(slot):
            removed.append(info)
            report(f"removed environment {slot.key[:12]} ({info.purpose or 'never completed'})")
        else:
            report(f"left environment {slot.key[:12]}: it is in use or being built")
    _sweep()
    return removed


def stored() -> Iterator[Item]:
    """The environments in the cache, and what removals left that were cut off, for house-keeping."""
    from mlproj_core.housekeeping import Item, delete, disk_usage

    for slot in _slots():
        info = slot.info()
        yield Item(
            kind="environments",
            name=f"{slot.key[:12]} ({info.purpose or 'never completed'})",
            last_used=info.last_used,
            measure=functools.partial(disk_usage, slot.prefix),
            remove=functools.partial(_remove, slot),
            in_use="a run uses it" if info.in_use else "it is being built" if _is_locked(slot.build_lock) else None,
            dead=_is_dead(info),
        )
    with contextlib.suppress(FileNotFoundError):
        for path in _root().glob(f"{_REMOVED}*"):
            yield Item(
                kind="environments",
                name=path.name,
                last_used=_changed(path),
                measure=functools.partial(disk_usage, path),
                remove=functools.partial(delete, path),
                dead=True,
            )


def _remove(slot: Slot) -> str | None:
    from mlproj_core.housekeeping import delete

    if not _remove_unused(slot):
        return "it is in use or being built"
    for path in _root().glob(f"{_REMOVED}{slot.key}-*"):  # what could not be deleted is told
        delete(path)
    _sweep()
    return None


def _is_dead(info: EnvironmentInfo) -> bool:
    """Whether nobody can use an environment: it was never completed, or points at a directory which is gone."""
    return not info.complete or any(not Path(place).is_dir() for place in info.editable)


def network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of network file system that a path lies on, as in "nfs4"; None for a local one.

    There flock may hold on one host only, so that two hosts could build one environment at once.

    Args:
        path: where; it need not exist yet.
        mounts: the kernel's table of mounts (proc(5)).
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    where, best, kind = path.resolve(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind if kind in _NETWORK_FILE_SYSTEMS else None


def _root() -> Path:
    return cache_dir() / "envs"


def _slots() -> list[Slot]:
    try:
        names = sorted(path.name for path in _root().iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    return [Slot(name) for name in names if not name.startswith(".")]


def _remove_unused(slot: Slot) -> bool:
    """Remove an environment unless somebody uses or builds it; whether it was removed."""
    import shutil

    with contextlib.ExitStack() as stack:
        for lock in (slot.build_lock, slot.in_use_lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, descriptor)
            if not _try_exclusive(descriptor):
                return False
        # Aside first, by a rename: an environment that is half removed never stands under its own name.
        aside = slot.prefix.with_name(f"{_REMOVED}{slot.key}-{os.getpid()}")
        slot.marker.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another pruning was first
            slot.prefix.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _sweep() -> None:
    """Finish removals that were cut off, and drop the locks of environments long gone."""
    import shutil

    with contextlib.suppress(FileNotFoundError):
        for path in _root().iterdir():
            if path.name.startswith(_REMOVED):
                shutil.rmtree(path, ignore_errors=True)
        for lock in (_root() / ".locks").iterdir():
            idle = time.time() - lock.stat().st_mtime
            if idle > _STALE_LOCK_SECONDS and not (_root() / lock.stem).exists() and not _is_locked(lock):
                lock.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """When a file was last written, by the clock of its file system: times of one clock can be compared."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _facts(marker: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(marker.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_exclusive(descriptor)
    finally:
        os.close(descriptor)
