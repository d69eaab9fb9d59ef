"""The right to complete a local claim: the lock of its directory, handed on to the supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlproj_core.backends.local.directory import RunDirectory
from mlproj_core.claim import Record
from mlproj_core.handle import RunHandle
from mlproj_core.launch import Launch
from mlproj_core.status import Outcome

__all__ = ["LocalHold", "cut_tether", "tether_of"]

_supervisors: list[subprocess.Popen[bytes]] = []
"""Supervisors that this process started: its children, to be reaped when they have ended."""

_reaping = threading.Lock()


class Tether:
    """This process's side of a tethered run: two pipes.

    By the end of the one, the supervisor knows that this process has ended. In the other it leaves a byte whenever
    there is new output, so that following it needs no file events.

    Attributes:
        given: the supervisor's ends: what it reads the end of this process from, what it nudges by.
    """

    def __init__(self) -> None:
        reader, self._lifeline = os.pipe2(os.O_CLOEXEC)
        nudges, nudge = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._nudges: int | None = nudges
        self.given = (reader, nudge)

    def take_nudges(self) -> int | None:
        """The descriptor to read nudges from, now the caller's own; None if somebody has it already."""
        nudges, self._nudges = self._nudges, None
        return nudges

    def close(self) -> None:
        """Give up this side: to the supervisor, this process has ended."""
        os.close(self._lifeline)
        if self._nudges is not None:
            os.close(self._nudges)


_tethers: dict[Path, Tether] = {}
"""The tethers of the runs that end with this process."""


class LocalHold:
    """The lock on one attempt, and what may be done under it."""

    def __init__(self, directory: RunDirectory, lock: int, handle: RunHandle) -> None:
        self.directory = directory
        self.lock: int | None = lock
        self.handle = handle

    def record(self, record: Record) -> None:
        """Write record.json, with what the supervisor says first in the run's output."""
        claim = self.directory.read("claim.json") or {}
        banner = first_lines(claim, record, self.handle)
        self.directory.write("record.json", {**record.to_dict(), "tag": self.handle.tag, "banner": banner})
        self.handle = replace(self.handle, run_id=record.run_id)

    def start(self, launch: Launch) -> None:
        """Start the supervisor, which inherits the lock."""
        with _reaping:
            _supervisors[:] = [process for process in _supervisors if process.poll() is None]
        claim = self.directory.read("claim.json")
        assert claim is not None  # noqa: S101  # the hold is on a claim
        assert self.lock is not None  # noqa: S101  # and was not released
        tether = Tether() if claim["request"]["tethered"] else None
        inherited = [self.lock, *tether.given] if tether else [self.lock, -1, -1]
        root = claim["request"]["import_root"]
        code = (
            f"import sys; sys.path.insert(0, {root!r}); "
            "from mlproj_core.backends.local.supervisor import main; main(sys.argv[1:])"
        )
        command = [sys.executable, "-I", "-S", "-c", code, str(self.directory.path), str(os.getpid())]
        log = os.open(self.directory.path / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = subprocess.Popen(
                [*command, *map(str, inherited)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[descriptor for descriptor in inherited if descriptor >= 0],
                start_new_session=True,
                env=self._variables(launch),
            )
        except BaseException:
            if tether:
                tether.close()
            raise
        finally:
            os.close(log)
            if tether:
                for descriptor in tether.given:
                    os.close(descriptor)
        with _reaping:
            _supervisors.append(process)
        if tether:
            _tethers[self.directory.path] = tether
        self.release()

    def _variables(self, launch: Launch) -> dict[str, str]:
        record = self.directory.read("record.json")
        assert record is not None  # noqa: S101  # a hold is recorded before it is started
        if launch.container is not None:
            from mlproj_core.backends.local import container

            variables = launch.surroundings(os.environ)
            variables |= container.supply(
                launch, self.directory, Record.from_dict(record), self.handle.tag, {**os.environ, **launch.variables}
            )
        else:
            variables = launch.environment_of(os.environ, Record.from_dict(record))
        variables.pop("MLPROJ_RUN_ID", None)  # an outer run's
        if record["tracked"]:
            variables["MLPROJ_RUN_ID"] = record["run_id"]
        variables.update(
            MLPROJ_ATTEMPT=self.handle.tag,
            MLPROJ_RESULT=str(self.directory.path / "result.json"),
            PYTHONUNBUFFERED="1",
        )
        return variables

    def end(self, outcome: Outcome) -> None:
        """Write end.json: the work was never started."""
        self.directory.write("end.json", outcome.to_dict())

    def release(self) -> None:
        """Let go of the lock; a supervisor that was started keeps it."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def tether_of(directory: Path) -> Tether | None:
    """This process's side of a run's tether, if it has one."""
    return _tethers.get(directory)


def cut_tether(directory: Path) -> None:
    """Give up this process's side of a run's tether, if it has one: the run is over, and so is its delivery."""
    tether = _tethers.pop(directory, None)
    if tether is not None:
        tether.close()


def first_lines(claim: Mapping[str, Any], record: Record, handle: RunHandle) -> list[str]:
    """What on-call needs to know of a run, at the head of its output."""
    request = claim["request"]
    source = request["uri"]
    if request["commit"]:
        source += f" at commit {request['commit']}"
    run = f"MLflow run {record.run_id}" if record.tracked else f"untracked run {record.run_id}"
    where = f", {record.url}" if record.url else f" in {record.tracking_uri}" if record.tracking_uri else ""
    return [
        f"attempt {handle.tag} of key {handle.key!r}, submitted by process {os.getpid()} on {handle.ref['host']}",
        f"{source}, entry point {request['entry_point']}",
        f"{run}{where}",
        f"command: {request['command']}",
    ]
