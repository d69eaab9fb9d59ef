"""The local backend's verbs: claims are directories, life is a lock, the work is a supervised process."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.local.directory import TRIMMED, RunDirectory, locate, reference
from mlproj_core.backends.local.hold import LocalHold, cut_tether, tether_of
from mlproj_core.backends.local.output import OutputReader, tail
from mlproj_core.backends.local.processes import descendants, kill
from mlproj_core.backends.local.watch import LoopOutputWatch, OutputWatch, ProcessWatch
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import ContactLost, ExecutionException, UserError
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.launch import Launch
from mlproj_core.locations import state_dir
from mlproj_core.status import Outcome, Phase, Reason, ReasonCode, RunStatus

__all__ = ["LocalBackend"]

GRACE = 10.0
"""Seconds between TERM and KILL: as long as `docker stop` gives."""

LOG_LIMIT = 64 * 1024 * 1024
"""Bytes of output that are kept of a run; more drops the middle."""

STARTING_INTERVAL = 0.01
"""Seconds between looks at a claim that its submitter is about to start: that lasts one tracking call."""

UNSTARTED_INTERVAL = 0.5
"""Seconds between looks at a claim that nobody is about to start."""

STARTING_PATIENCE = 120.0
"""Seconds to wait for a submitter that holds a claim and does not start it."""

FAREWELL = 1.0
"""Seconds to wait for a supervisor that has recorded the end and is about to go itself, a matter of milliseconds."""

BURIAL_GRACE = 2.0
"""Seconds between TERM and KILL for what outlived its supervisor."""


class LocalBackend:
    """Runs on this host; the state is in files below `state_dir()`, or where a handle says."""

    name = "local"
    exclusive_claims = True

    def __init__(self, state: Path | None = None) -> None:
        self.state = state or state_dir()

    @classmethod
    def of(cls, directory: str) -> LocalBackend:
        """The backend whose state directory holds this run directory."""
        return cls(Path(directory).parents[2])

    def handle_of(self, directory: str) -> RunHandle:
        """The handle of the attempt that this run directory belongs to."""
        path = Path(directory)
        claim = Claim.from_dict(json.loads((path / "claim.json").read_bytes()))
        return self._handle(claim.key, claim.attempt, claim)

    def check_config(self, config: Mapping[str, Any]) -> None:
        """`detach` is true or false, `grace` a number of seconds, `max_runs` a number of runs; no more is taken."""
        for name, value in config.items():
            if name == "detach":
                if not isinstance(value, bool):
                    raise UserError(f"backend_config['detach'] must be true or false; got {value!r}")
            elif name == "grace":
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                    raise UserError(f"backend_config['grace'] must be a number of seconds, 0 or more; got {value!r}")
            elif name == "max_runs":
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise UserError(f"backend_config['max_runs'] must be a whole number, 1 or more; got {value!r}")
            else:
                from difflib import get_close_matches

                close = get_close_matches(str(name), ("detach", "grace", "max_runs"), n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise UserError(
                    f"backend_config: the local backend knows no {name!r}.{hint} It takes detach (true: the run "
                    "outlives this process), grace (seconds between TERM and KILL when the run is ended) and max_runs "
                    "(how many of the runs that give it work on this host at once; the others wait)."
                )
        log_limit()
        host_max_runs(os.environ)

    # -- claims

    def find(self, key: str) -> RunHandle | None:
        """The newest attempt of a key on this host."""
        attempts = self._attempts(key)
        return self._handle(key, max(attempts)) if attempts else None

    def by_tag(self, tag: str) -> RunHandle | None:
        """The attempt of this host whose tag is `K-n`; None if there is none."""
        import re

        if re.fullmatch(r"[0-9a-f]{32}-[1-9][0-9]*", tag) is None:  # it may come from a server, and names a path
            return None
        digits, _, attempt = tag.partition("-")
        claim = RunDirectory(self.state / "runs" / digits / attempt).read("claim.json")
        return self._handle(claim["key"], claim["attempt"]) if claim is not None else None

    def handles(self) -> list[RunHandle]:
        """Every attempt on this host, the newest first."""
        found = []
        for claim_file in (self.state / "runs").glob("[0-9a-f]*/[0-9]*/claim.json"):
            claim = RunDirectory(claim_file.parent).read("claim.json")
            if claim is not None:
                found.append((claim["created_at"], claim["key"], claim["attempt"]))
        return [self._handle(key, attempt) for _, key, attempt in sorted(found, reverse=True)]

    def claim(self, claim: Claim, launch: Launch | None) -> LocalHold | None:
        """Prepare the attempt's directory, take its lock, and rename it into place."""
        parent = self.state / "runs" / key_digest(claim.key)
        draft = RunDirectory(parent / f".claim-{os.urandom(8).hex()}")
        while not draft.exists():
            with suppress(FileNotFoundError):  # house-keeping has just removed the parent, which was empty
                draft.path.mkdir(parents=True, mode=0o700)
        lock = draft.lock()
        assert lock is not None  # noqa: S101  # nobody else knows the directory
        place = parent / str(claim.attempt)
        try:
            if launch is not None:
                request = {**claim.request, **self._local_request(launch, draft.path, place)}
                claim = replace(claim, request=request)
            draft.write("claim.json", claim.to_dict())
            draft.path.rename(place)
        except BaseException as error:
            os.close(lock)
            _delete(draft.path)
            if isinstance(error, OSError) and place.exists():
                return None
            raise
        return LocalHold(RunDirectory(place), lock, self._handle(claim.key, claim.attempt, claim))

    def _local_request(self, launch: Launch, draft: Path, place: Path) -> dict[str, Any]:
        checkout = launch.checkout
        if checkout.owned is not None:
            # The checkout becomes the run's own: several runs of one commit do not write into each other's files.
            checkout.owned.rename(draft / "code")
            checkout = checkout.moved_to(place / "code")
        request = {**launch.environment["request"], "directory": str(checkout.directory)}
        return {
            "directory": str(checkout.directory),
            "environment": {"ready": launch.environment["ready"], "request": request},
            "downloads": [download.to_dict() for download in launch.downloads],
            "tethered": launch.tethered,
            "grace": float(launch.backend_config.get("grace", GRACE)),
            "max_runs": launch.backend_config.get("max_runs"),
            "host_max_runs": host_max_runs(os.environ),
            "log_limit": log_limit(),
            "import_root": str(Path(__file__).parents[3]),
        }

    def adopt(self, handle: RunHandle) -> LocalHold | None:
        """Take the lock of a half-made claim."""
        directory = locate(handle)
        if not directory.exists() or (lock := directory.lock()) is None:
            return None
        if directory.has("end.json") or directory.has("supervisor.json"):
            os.close(lock)
            return None
        return LocalHold(directory, lock, self._handle(handle.key, handle.attempt))

    # -- looking

    def look(self, handle: RunHandle) -> Sighting:
        """What the run directory and its lock say."""
        directory = locate(handle)
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

    def ended_with_asker(self, handle: RunHandle) -> bool:
        """A tethered run ended with its asker, wherever that was."""
        return bool(handle.ref.get("tethered"))

    def wait(self, handle: RunHandle, timeout: float | None) -> None:
        """Wait for the supervisor's end, by its pidfd."""
        until, ended = None if timeout is None else time.monotonic() + timeout, False
        while (state := self.look(handle).state) in (State.LIVING, State.STARTING, State.UNSTARTED):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            if state is State.LIVING and not ended:
                with self._supervisor(handle) as supervisor:
                    ended = supervisor.wait(left)
            else:
                time.sleep(_interval(state, left))
        with self._supervisor(handle) as supervisor:
            supervisor.wait(FAREWELL)

    async def wait_async(self, handle: RunHandle, timeout: float | None) -> None:
        """As `wait`, in an event loop."""
        import asyncio

        until, ended = None if timeout is None else time.monotonic() + timeout, False
        while (state := self.look(handle).state) in (State.LIVING, State.STARTING, State.UNSTARTED):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            if state is State.LIVING and not ended:
                with self._supervisor(handle) as supervisor:
                    ended = await supervisor.wait_async(left)
            else:
                await asyncio.sleep(_interval(state, left))
        with self._supervisor(handle) as supervisor:
            await supervisor.wait_async(FAREWELL)

    def read_output(self, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
        """What the output's segments hold from `cursor` on."""
        reader = OutputReader(str(locate(handle).path / "output"), cursor)
        return reader.read(), reader.cursor

    def follow_output(self, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Follow the output's segments by the supervisor's nudges, else by inotify."""
        directory = _output_directory(handle)
        if directory is None:
            return
        reader = OutputReader(directory, cursor)
        tether = tether_of(locate(handle).path)
        watch = OutputWatch(directory, tether.take_nudges() if tether else None)
        supervisor: ProcessWatch | None = None
        try:
            while True:
                # The state is asked before the output is read: what was written before the end is not missed.
                state = self.look(handle).state
                if supervisor is None and state is State.LIVING:
                    supervisor = self._supervisor(handle)
                with _kept(handle, state):
                    while data := reader.read():
                        yield data, reader.cursor
                if state in (State.ENDED, State.LOST, State.GONE):
                    return
                watch.wait(supervisor)
        finally:
            watch.close()
            if supervisor is not None:
                supervisor.close()

    async def follow_output_async(self, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """Follow the output's segments by inotify, of which all that is followed in an event loop has one."""
        import asyncio

        directory = _output_directory(handle)
        if directory is None:
            return
        reader, state = OutputReader(directory, cursor), State.STARTING
        supervisor: ProcessWatch | None = None
        with LoopOutputWatch(directory) as watch:
            while True:
                # The state is asked before the output is read, as in `follow_output`. It is not asked at each piece of
                # output, since looking takes longer than reading: the end of a supervisor is not overlooked.
                if not watch.sighted:
                    state = self.look(handle).state
                    if supervisor is None and state is State.LIVING:
                        supervisor = self._supervisor(handle)
                        watch.attend(supervisor)
                with _kept(handle, state):
                    while data := reader.read():
                        yield data, reader.cursor
                        await asyncio.sleep(0)  # whoever prints without a pause does not keep the loop from others
                if state in (State.ENDED, State.LOST, State.GONE):
                    return
                await watch.wait(None if state is State.LIVING else _interval(state, None))

    def page(self, handle: RunHandle) -> str | None:
        """None: a process of this host has no page."""
        return None

    def read_result(self, handle: RunHandle) -> dict[str, Any] | None:
        """The JSON object that the project left at MLPROJ_RESULT."""
        path = locate(handle).path / "result.json"
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

    def mark_cancelled(self, handle: RunHandle) -> None:
        """Write the cancel mark into the run directory."""
        directory = locate(handle)
        if directory.exists() and not directory.has("end.json"):
            directory.write("cancel", {"at": time.time(), "pid": os.getpid()})

    def stop(self, handle: RunHandle) -> None:
        """Ask the supervisor; if it does not answer in time, end it and all that is the run's."""
        patience = time.monotonic() + STARTING_PATIENCE
        killing = False
        while True:
            sighting = self.look(handle)
            if sighting.state is State.ENDED:
                with self._supervisor(handle) as supervisor:
                    supervisor.wait(FAREWELL)
                return
            if sighting.state is State.GONE:
                return
            if sighting.state is State.LOST:
                self.bury(handle)
            elif sighting.state is State.UNSTARTED:
                if (hold := self.adopt(handle)) is not None:
                    hold.end(cancelled())
                    hold.release()
            elif sighting.state is State.STARTING:
                if time.monotonic() > patience:
                    raise ContactLost(
                        f"Run {handle.tag} is cancelled, but a process has held its claim for "
                        f"{STARTING_PATIENCE:g} s without starting it; the work will not begin once it goes on."
                    )
                time.sleep(STARTING_INTERVAL)
            else:
                grace = sighting.claim.request["grace"] if sighting.claim else GRACE
                with self._supervisor(handle) as supervisor:
                    supervisor.send(signal.SIGKILL if killing else signal.SIGTERM)
                    supervisor.wait(2 * grace + 2)
                killing = killing or supervisor.alive()

    def bury(self, handle: RunHandle) -> None:
        """End what outlived its supervisor, then record the end as lost, or as cancelled if that was asked."""
        directory = locate(handle)
        if (lock := directory.lock()) is None:
            time.sleep(STARTING_INTERVAL)  # somebody else is burying it
            return
        try:
            if directory.has("end.json") or not directory.has("supervisor.json"):
                return
            end_survivors(handle)
            directory.write("end.json", (cancelled() if directory.has("cancel") else lost(directory)).to_dict())
        finally:
            os.close(lock)

    def settled(self, handle: RunHandle) -> None:
        """Write the mark `settled` into the run directory."""
        directory = locate(handle)
        if directory.exists():
            directory.write("settled", {"at": time.time()})
        cut_tether(directory.path)

    # -- inside

    def _attempts(self, key: str) -> list[int]:
        try:
            return [int(path.name) for path in (self.state / "runs" / key_digest(key)).iterdir() if path.name.isdigit()]
        except FileNotFoundError:
            return []

    def _handle(self, key: str, attempt: int, claim: Claim | None = None) -> RunHandle:
        directory = RunDirectory(self.state / "runs" / key_digest(key) / str(attempt))
        if claim is None and (value := directory.read("claim.json")) is not None:
            claim = Claim.from_dict(value)
        record = directory.read("record.json")
        ref = reference(
            self.state,
            tethered=bool(claim and claim.request.get("tethered")),
            turn=claim.turn if claim else None,
        )
        return RunHandle(
            backend=self.name, key=key, attempt=attempt, run_id=record["run_id"] if record else "", ref=ref
        )

    def _supervisor(self, handle: RunHandle) -> ProcessWatch:
        identity = locate(handle).read("supervisor.json") or {"pid": 0, "started": 0}
        return ProcessWatch(identity["pid"], identity["started"])


def _kept(handle: RunHandle, state: State) -> AbstractContextManager[None]:
    """Keeps house-keeping from a run that is over while its output is read; what lives is kept anyway."""
    return locate(handle).being_read() if state is State.ENDED else nullcontext()


def _output_directory(handle: RunHandle) -> str | None:
    """Where a run's output is, made if its supervisor has not begun yet, to be watched; None if the run is gone."""
    run = locate(handle)
    if run.has(TRIMMED):
        return None
    directory = run.path / "output"
    try:
        directory.mkdir(exist_ok=True)
    except FileNotFoundError:
        return None
    return str(directory)


def end_survivors(handle: RunHandle) -> None:
    """End every process that carries the attempt's mark: TERM, a short grace, KILL, until none is left."""
    directory, told = str(locate(handle).path), set[int]()
    kill_at = time.monotonic() + BURIAL_GRACE
    number = signal.SIGTERM
    while left := descendants(0, handle.tag, directory):
        if time.monotonic() >= kill_at and number is signal.SIGTERM:
            number, told = signal.SIGKILL, set()
        for pid in sorted(left - told):
            kill(pid, number)
        told |= left
        time.sleep(0.02)


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


def _delete(directory: Path) -> None:
    import shutil  # costs more than a whole claim

    shutil.rmtree(directory, ignore_errors=True)


def _interval(state: State, left: float | None) -> float:
    # LIVING, though its supervisor has ended: somebody holds the lock for as long as it takes to bury the run.
    interval = UNSTARTED_INTERVAL if state is State.UNSTARTED else STARTING_INTERVAL
    return interval if left is None else min(interval, left)


def log_limit() -> int:
    """Bytes of output to keep of a run: MLPROJ_LOG_LIMIT, or 64 MiB."""
    text = os.environ.get("MLPROJ_LOG_LIMIT", str(LOG_LIMIT))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"MLPROJ_LOG_LIMIT must be a number of bytes above 0; it is {text!r}")
    return int(text)


def host_max_runs(environ: Mapping[str, str]) -> int | None:
    """How many runs may be at work on this host at once: MLPROJ_MAX_RUNS; None for any number.

    None also inside a run: what it starts is part of its own work, and to wait for it would be to wait for oneself.

    Raises:
        UserError: the variable holds no such number.
    """
    text = environ.get("MLPROJ_MAX_RUNS", "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"MLPROJ_MAX_RUNS must be a whole number, 1 or more: how many runs may be at work on this host at once. It "
            f"is {text!r}; unset it for no limit."
        )
    return None if "MLPROJ_ATTEMPT" in environ else int(text)
