"""The directory of one local attempt, `runs/K/n`: its files, its lock, and where it is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mlproj_core.errors import ContactLost
from mlproj_core.handle import RunHandle, key_digest

__all__ = ["TRIMMED", "RunDirectory", "boot_id", "host_name", "locate", "reference", "state_id"]

TRIMMED = "trimmed"
"""Name of the file in a run directory that says that something of it was deleted to make room."""


@cache
def host_name() -> str:
    """This host's name."""
    return os.uname().nodename


@cache
def boot_id() -> str:
    """Names the life of this host in which its processes live: the kernel's boot and the space of its pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def state_id(state: Path) -> str:
    """The name of a state directory, made at its first use: tells two directories at one path apart."""
    path = state / "id"
    try:
        return path.read_text()
    except FileNotFoundError:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = state / f".id-{os.urandom(16).hex()}"
        draft.write_text(os.urandom(16).hex())
        try:
            os.link(draft, path)
        except FileExistsError:  # another process was first
            pass
        finally:
            draft.unlink()
        return path.read_text()


def reference(state: Path, *, tethered: bool, turn: tuple[int, ...] | None) -> dict[str, Any]:
    """What a handle needs to say where a local run is."""
    return {
        "host": host_name(),
        "boot": boot_id(),
        "state": str(state),
        "state_id": state_id(state),
        "tethered": tethered,
        "turn": list(turn) if turn is not None else None,
    }


def locate(handle: RunHandle) -> RunDirectory:
    """The directory of a handle's attempt.

    Raises:
        ContactLost: it is on another host, or behind another mount, so that nothing is known of it here.
    """
    ref = handle.ref
    state = Path(str(ref.get("state", "")))
    if ref.get("host") != host_name():
        raise ContactLost(
            f"The local run {handle.tag} lives on host {ref.get('host')!r}, this is {host_name()!r}. "
            "A local run can be reached on its own host only."
        )
    try:
        found = (state / "id").read_text()
    except OSError:
        found = None
    if found != ref.get("state_id"):
        raise ContactLost(
            f"The local run {handle.tag} keeps its state in {state}, and that directory is not to be found from "
            "this process: another machine or container of the same name, or another mount."
        )
    return RunDirectory(state / "runs" / key_digest(handle.key) / str(handle.attempt))


class RunDirectory:
    """The files of one attempt; see `supervisor` for what each of them says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether the attempt was claimed here, and not pruned since."""
        return self.path.is_dir()

    def has(self, name: str) -> bool:
        """Whether this file is there."""
        return (self.path / name).exists()

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file's value; None if it is not there, or was cut short by a crash of the whole host."""
        try:
            value = json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file atomically."""
        draft = self.path / f".{name}-{os.urandom(8).hex()}"
        draft.write_text(json.dumps(value))
        draft.replace(self.path / name)

    def phase(self) -> str:
        """The phase's name as the supervisor wrote it."""
        try:
            return (self.path / "phase").read_text()
        except FileNotFoundError:
            return "queued"

    def lock(self) -> int | None:
        """Take the attempt's lock; its descriptor, or None if somebody has it."""
        return self._flock(fcntl.LOCK_EX)

    def locked(self) -> bool:
        """Whether somebody has the lock: the supervisor, or who is about to start it."""
        # A shared lock, so that two who ask at once do not take each other for a supervisor.
        descriptor = self._flock(fcntl.LOCK_SH)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    @contextmanager
    def being_read(self) -> Iterator[None]:
        """While this lasts, house-keeping leaves the directory alone; nothing happens where there is none."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody reads the directory, completes it or lives in it; while this lasts, nobody else can begin."""
        descriptor, lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            lock = self.lock()
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)
            os.close(descriptor)

    def _flock(self, kind: int) -> int | None:
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor
