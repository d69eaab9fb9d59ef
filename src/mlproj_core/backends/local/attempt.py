"""One attempt of the local backend, by its run directory: life is a lock, the work is a supervised process."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.local.contained import MADE, judged
from mlproj_core.backends.local.directory import TRIMMED, RunDirectory
from mlproj_core.backends.local.hold import LocalHold, cut_tether, tether_of
from mlproj_core.backends.local.output import OutputReader, tail
from mlproj_core.backends.local.processes import descendants, kill
from mlproj_core.backends.local.watch import LoopOutputWatch, OutputWatch, ProcessWatch
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import ContactLost, ExecutionException
from mlproj_core.handle import RunHandle
from mlproj_core.status import Outcome, Phase, Reason, ReasonCode, RunStatus

__all__ = ["GRACE", "LocalAttempt"]

GRACE = 10.0
"""Seconds between TERM and KILL: as long as `docker stop` gives."""

STARTING_INTERVAL = 0.01
"""Seconds between looks at a claim that its submitter is about to start: that lasts one tracking call."""

UNSTARTED_INTERVAL = 0.5
"""Seconds between looks at a claim that nobody is about to start."""

STARTING_PATIENCE = 120.0
"""Seconds to wait for a submitter that holds a claim and does not start it."""

FAREWELL = 1.0
"""Seconds to wait for a supervisor that has recorded the end and is about to go itself, a matter of milliseconds."""

CONTAINER_MARGIN = 60.0
"""Seconds for a supervisor to end a container, beyond twice the grace period: its engine may be slow, or away."""

BURIAL_GRACE = 2.0
"""Seconds between TERM and KILL for what outlived its supervisor."""


class LocalAttempt:
    """What is done with an attempt of this host; the verbs are those of `Backend`."""

    def __init__(self, handle: RunHandle, directory: RunDirectory) -> None:
        self.handle = handle
        self.directory = directory

    def adopt(self) -> LocalHold | None:
        """Take the lock of a half-made claim."""
        directory = self.directory
        if not directory.exists() or (lock := directory.lock()) is None:
            return None
        if directory.has("end.json") or directory.has("supervisor.json"):
            os.close(lock)
            return None
        return LocalHold(directory, lock, self.handle)

    def look(self) -> Sighting:
        """What the run directory and its lock say."""
        directory = self.directory
        if not directory.exists():
            return Sighting(State.GONE)
        try:
            held = directory.locked()
        except FileNotFoundError:  # pruned this moment
            return Sighting(State.GONE)
        # In this order: a run that ends between the two looks is seen as ended, never as lost.
        end = directory.read("end.json")
        claim, record = directory.read("claim.json"), directory.read("record.json")
        if end is not None:
            state = State.ENDED
        elif directory.has("supervisor.json"):
            state = State.LIVING if held else State.LOST
        else:
            state = State.STARTING if held else State.UNSTARTED
        return Sighting(
            state=state,
            claim=Claim.from_dict(claim) if claim else None,
            record=Record.from_dict(record) if record else None,
            phase=Phase.ENDED if end else Phase(directory.phase()),
            outcome=Outcome.from_dict(end) if end else None,
            cancel_requested=directory.has("cancel"),
            settled=directory.has("settled"),
            trimmed=directory.has(TRIMMED),
        )

    def wait(self, timeout: float | None) -> None:
        """Wait for the supervisor's end, by its pidfd."""
        until, ended = None if timeout is None else time.monotonic() + timeout, False
        while (state := self.look().state) in (State.LIVING, State.STARTING, State.UNSTARTED):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            if state is State.LIVING and not ended:
                with self._supervisor() as supervisor:
                    ended = supervisor.wait(left)
            else:
                time.sleep(_interval(state, left))
        with self._supervisor() as supervisor:
            supervisor.wait(FAREWELL)

    async def wait_async(self, timeout: float | None) -> None:
        """As `wait`, in an event loop."""
        import asyncio

        until, ended = None if timeout is None else time.monotonic() + timeout, False
        while (state := self.look().state) in (State.LIVING, State.STARTING, State.UNSTARTED):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            if state is State.LIVING and not ended:
                with self._supervisor() as supervisor:
                    ended = await supervisor.wait_async(left)
            else:
                await asyncio.sleep(_interval(state, left))
        with self._supervisor() as supervisor:
            await supervisor.wait_async(FAREWELL)

    def read_output(self, cursor: int) -> tuple[bytes, int]:
        """What the output's segments hold from `cursor` on."""
        reader = OutputReader(str(self.directory.path / "output"), cursor)
        return reader.read(), reader.cursor

    def follow_output(self, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Follow the output's segments by the supervisor's nudges, else by inotify."""
        directory = _output_directory(self.directory)
        if directory is None:
            return
        reader = OutputReader(directory, cursor)
        tether = tether_of(self.directory.path)
        watch = OutputWatch(directory, tether.take_nudges() if tether else None)
        supervisor: ProcessWatch | None = None
        try:
            while True:
                # The state is asked before the output is read: what was written before the end is not missed.
                state = self.look().state
                if supervisor is None and state is State.LIVING:
                    supervisor = self._supervisor()
                with _kept(self.directory, state):
                    while data := reader.read():
                        yield data, reader.cursor
                if state in (State.ENDED, State.LOST, State.GONE):
                    return
                watch.wait(supervisor)
        finally:
            watch.close()
            if supervisor is not None:
                supervisor.close()

    async def follow_output_async(self, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """Follow the output's segments by inotify, of which all that is followed in an event loop has one."""
        import asyncio

        directory = _output_directory(self.directory)
        if directory is None:
            return
        reader, state = OutputReader(directory, cursor), State.STARTING
        supervisor: ProcessWatch | None = None
        with LoopOutputWatch(directory) as watch:
            while True:
                # The state is asked before the output is read, as in `follow_output`. It is not asked at each piece of
                # output, since looking takes longer than reading: the end of a supervisor is not overlooked.
                if not watch.sighted:
                    state = self.look().state
                    if supervisor is None and state is State.LIVING:
                        supervisor = self._supervisor()
                        watch.attend(supervisor)
                with _kept(self.directory, state):
                    while data := reader.read():
                        yield data, reader.cursor
                        await asyncio.sleep(0)  # whoever prints without a pause does not keep the loop from others
                if state in (State.ENDED, State.LOST, State.GONE):
                    return
                await watch.wait(None if state is State.LIVING else _interval(state, None))

    def read_result(self) -> dict[str, Any] | None:
        """The JSON object that the project left at MLPROJ_RESULT."""
        path = self.directory.path / "result.json"
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ExecutionException(f"The project's result is not JSON ({error}): {path}") from error
        if not isinstance(value, dict):
            raise ExecutionException(f"The project's result is not a JSON object: {path}")
        return value

    # -- ending

    def mark_cancelled(self) -> None:
        """Write the cancel mark into the run directory."""
        directory = self.directory
        if directory.exists() and not directory.has("end.json"):
            directory.write("cancel", {"at": time.time(), "pid": os.getpid()})

    def stop(self) -> None:
        """Ask the supervisor; if it does not answer in time, end it and all that is the run's."""
        patience = time.monotonic() + STARTING_PATIENCE
        killing = False
        while True:
            sighting = self.look()
            if sighting.state is State.ENDED:
                with self._supervisor() as supervisor:
                    supervisor.wait(FAREWELL)
                return
            if sighting.state is State.GONE:
                return
            if sighting.state is State.LOST:
                self.bury()
            elif sighting.state is State.UNSTARTED:
                if (hold := self.adopt()) is not None:
                    hold.end(cancelled())
                    hold.release()
            elif sighting.state is State.STARTING:
                if time.monotonic() > patience:
                    raise ContactLost(
                        f"Run {self.handle.tag} is cancelled, but a process has held its claim for "
                        f"{STARTING_PATIENCE:g} s without starting it; the work will not begin once it goes on."
                    )
                time.sleep(STARTING_INTERVAL)
            else:
                grace = sighting.claim.request["grace"] if sighting.claim else GRACE
                margin = CONTAINER_MARGIN if sighting.claim and "container" in sighting.claim.request else 2
                with self._supervisor() as supervisor:
                    supervisor.send(signal.SIGKILL if killing else signal.SIGTERM)
                    supervisor.wait(2 * grace + margin)
                killing = killing or supervisor.alive()

    def bury(self) -> None:
        """End what outlived its supervisor, then record the end as lost, or as cancelled if that was asked."""
        directory = self.directory
        if (lock := directory.lock()) is None:
            time.sleep(STARTING_INTERVAL)  # somebody else is burying it
            return
        try:
            if directory.has("end.json") or not directory.has("supervisor.json"):
                return
            end_survivors(self.handle, directory)
            outcome = end_container(directory) or lost(directory)
            directory.write("end.json", (cancelled() if directory.has("cancel") else outcome).to_dict())
            forget_container(directory)
        finally:
            os.close(lock)

    def settled(self) -> None:
        """Write the mark `settled` into the run directory."""
        directory = self.directory
        if directory.exists():
            directory.write("settled", {"at": time.time()})
        cut_tether(directory.path)

    def _supervisor(self) -> ProcessWatch:
        identity = self.directory.read("supervisor.json") or {"pid": 0, "started": 0}
        return ProcessWatch(identity["pid"], identity["started"])


def _kept(directory: RunDirectory, state: State) -> AbstractContextManager[None]:
    """Keeps house-keeping from a run that is over while its output is read; what lives is kept anyway."""
    return directory.being_read() if state is State.ENDED else nullcontext()


def _output_directory(run: RunDirectory) -> str | None:
    """Where a run's output is, made if its supervisor has not begun yet, to be watched; None if the run is gone."""
    if run.has(TRIMMED):
        return None
    directory = run.path / "output"
    try:
        directory.mkdir(exist_ok=True)
    except FileNotFoundError:
        return None
    return str(directory)


def end_survivors(handle: RunHandle, run: RunDirectory) -> None:
    """End every process that carries the attempt's mark: TERM, a short grace, KILL, until none is left."""
    directory, told = str(run.path), set[int]()
    kill_at = time.monotonic() + BURIAL_GRACE
    number = signal.SIGTERM
    while left := descendants(0, handle.tag, directory):
        if time.monotonic() >= kill_at and number is signal.SIGTERM:
            number, told = signal.SIGKILL, set()
        for pid in sorted(left - told):
            kill(pid, number)
        told |= left
        time.sleep(0.02)


def end_container(run: RunDirectory) -> Outcome | None:
    """End the container of a run that has lost its supervisor; its outcome, if it had ended by itself.

    Raises:
        ContactLost: the engine cannot be reached, and so the container may live on.
    """
    if not run.has(MADE):
        return None
    from mlproj_core.backends.local.container import employ

    found = employ("end", run)
    if not found:
        return None
    if found["cancelled"]:
        return cancelled()
    if found["exit_code"] == 0:
        return Outcome(RunStatus.FINISHED, ended_at=time.time())
    judgement = judged(found)
    judgement.pop("status")
    reason = Reason.from_dict({**judgement, "output": tail(str(run.path / "output"))})
    return Outcome(RunStatus.FAILED, reason, ended_at=time.time())


def forget_container(run: RunDirectory) -> None:
    """Remove the container of a run that was buried; that of an untracked detached one stays as long as the run."""
    claim, record = run.read("claim.json"), run.read("record.json")
    if not run.has(MADE) or not claim or not record:
        return
    if claim["request"]["tethered"] or record["tracked"]:
        from mlproj_core.backends.local.container import remove

        remove(run)


def cancelled() -> Outcome:
    """The outcome of a run that was cancelled by somebody other than its supervisor."""
    reason = Reason(ReasonCode.CANCELLED, "the run was cancelled")
    return Outcome(RunStatus.KILLED, reason, ended_at=time.time())


def lost(directory: RunDirectory) -> Outcome:
    """The outcome of a run whose supervisor ended without recording one."""
    reason = Reason(
        ReasonCode.LOST,
        "the run's supervisor was killed, or its host went down, before the run was over",
        retryable=True,
        output=tuple(tail(str(directory.path / "output"))),
    )
    return Outcome(RunStatus.FAILED, reason, ended_at=time.time())


def _interval(state: State, left: float | None) -> float:
    # LIVING, though its supervisor has ended: somebody holds the lock for as long as it takes to bury the run.
    interval = UNSTARTED_INTERVAL if state is State.UNSTARTED else STARTING_INTERVAL
    return interval if left is None else min(interval, left)
