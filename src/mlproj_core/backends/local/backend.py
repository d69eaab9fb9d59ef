"""The local backend's verbs: claims are directories, life is a lock, the work is a supervised process."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.backend import Sighting
from mlproj_core.backends.local.attempt import GRACE, LocalAttempt
from mlproj_core.backends.local.directory import RunDirectory, locate, reference
from mlproj_core.backends.local.hold import LocalHold
from mlproj_core.claim import Claim
from mlproj_core.errors import ContactLost, UserError
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.launch import Launch
from mlproj_core.locations import state_dir

if TYPE_CHECKING:
    from mlproj_core.backends.local.container_attempt import ContainerAttempt

__all__ = ["LocalBackend"]

LOG_LIMIT = 64 * 1024 * 1024
"""Bytes of output that are kept of a run; more drops the middle."""


class LocalBackend:
    """Runs on this host; the state is in files below `state_dir()`, or where a handle says."""

    name = "local"
    exclusive_claims = True
    runs_here = True

    def __init__(self, state: Path | None = None, *, find_containers: bool = False) -> None:
        """Use a state directory, and look for the runs of a key among the containers of the engine too, if wished."""
        self.state = state or state_dir()
        self.find_containers = find_containers

    @classmethod
    def of(cls, directory: str) -> LocalBackend:
        """The backend whose state directory holds this run directory."""
        return cls(Path(directory).parents[2])

    def handle_of(self, directory: str) -> RunHandle:
        """The handle of the attempt that this run directory belongs to."""
        path = Path(directory)
        claim = Claim.from_dict(json.loads((path / "claim.json").read_bytes()))
        return self._handle(claim.key, claim.attempt, claim)

    def configure(self, config: Mapping[str, Any]) -> LocalBackend:
        """`detach` and `find_containers` are true or false, `grace` seconds, `max_runs` a number; no more is taken."""
        for name, value in config.items():
            if name in ("detach", "find_containers"):
                if not isinstance(value, bool):
                    raise UserError(f"backend_config[{name!r}] must be true or false; got {value!r}")
            elif name == "grace":
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                    raise UserError(f"backend_config['grace'] must be a number of seconds, 0 or more; got {value!r}")
            elif name == "max_runs":
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise UserError(f"backend_config['max_runs'] must be a whole number, 1 or more; got {value!r}")
            else:
                from difflib import get_close_matches

                close = get_close_matches(str(name), ("detach", "find_containers", "grace", "max_runs"), n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise UserError(
                    f"backend_config: the local backend knows no {name!r}.{hint} It takes detach (true: the run "
                    "outlives this process), grace (seconds between TERM and KILL when the run is ended), max_runs "
                    "(how many of the runs that give it work on this host at once; the others wait) and "
                    "find_containers (true: runs in containers that other hosts have started are found by key too)."
                )
        log_limit()
        host_max_runs(os.environ)
        return LocalBackend(self.state, find_containers=True) if config.get("find_containers") else self

    # -- claims

    def find(self, key: str) -> RunHandle | None:
        """The newest attempt of a key on this host; with `find_containers`, or of another host that has the engine.

        Raises:
            ContactLost: the engine is to be asked, and cannot be reached.
        """
        attempts = self._attempts(key)
        here = self._handle(key, max(attempts)) if attempts else None
        if not self.find_containers:
            return here
        from mlproj_core.backends.local.container_attempt import find_container
        from mlproj_core.containers.engine import engine_host

        there = find_container(key, engine_host(os.environ))
        return there if there is not None and (here is None or there.attempt > here.attempt) else here

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
        if launch is not None and launch.container is not None:
            from mlproj_core.backends.local import container

            container.check(launch, os.environ)
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
                if launch.container is not None:
                    moved = (launch.checkout.owned, place / "code") if launch.checkout.owned is not None else None
                    request["container"] = container.claimed(launch, claim.name, os.environ, moved)
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
        how = launch.environment["request"]
        return {
            "directory": str(checkout.directory),
            "environment": {
                "ready": launch.environment["ready"],
                "request": {**how, "directory": str(checkout.directory)} if how is not None else None,
            },
            "downloads": [download.to_dict() for download in launch.downloads],
            "tethered": launch.tethered,
            "grace": float(launch.backend_config.get("grace", GRACE)),
            "max_runs": launch.backend_config.get("max_runs"),
            "host_max_runs": host_max_runs(os.environ),
            "log_limit": log_limit(),
            "import_root": str(Path(__file__).parents[3]),
        }

    def adopt(self, handle: RunHandle) -> LocalHold | None:
        """Take the lock of a half-made claim; what only its container's engine knows of is never half made."""
        attempt = self._attempt(handle)
        return attempt.adopt() if isinstance(attempt, LocalAttempt) else None

    # -- an attempt

    def look(self, handle: RunHandle) -> Sighting:
        """What there is to see of it."""
        return self._attempt(handle).look()

    def ended_with_asker(self, handle: RunHandle) -> bool:
        """A tethered run ended with its asker, wherever that was; but for its container, if the engine still has it."""
        return bool(handle.ref.get("tethered")) and ("container" not in handle.ref or _container(handle).absent())

    def wait(self, handle: RunHandle, timeout: float | None) -> None:
        """Wait for its end."""
        self._attempt(handle).wait(timeout)

    async def wait_async(self, handle: RunHandle, timeout: float | None) -> None:
        """As `wait`, in an event loop."""
        await self._attempt(handle).wait_async(timeout)

    def read_output(self, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
        """What there is of its output from `cursor` on."""
        return self._attempt(handle).read_output(cursor)

    def follow_output(self, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Follow its output."""
        yield from self._attempt(handle).follow_output(cursor)

    async def follow_output_async(self, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """As `follow_output`, in an event loop."""
        async with aclosing(self._attempt(handle).follow_output_async(cursor)) as chunks:
            async for chunk in chunks:
                yield chunk

    def page(self, handle: RunHandle) -> str | None:
        """None: a process of this host has no page."""
        return None

    def read_result(self, handle: RunHandle) -> dict[str, Any] | None:
        """The JSON object that the project left at MLPROJ_RESULT."""
        return self._attempt(handle).read_result()

    def mark_cancelled(self, handle: RunHandle) -> None:
        """Write its cancel mark."""
        self._attempt(handle).mark_cancelled()

    def stop(self, handle: RunHandle) -> None:
        """Bring it to its end."""
        self._attempt(handle).stop()

    def bury(self, handle: RunHandle) -> None:
        """End what outlived its supervisor, then record the end."""
        self._attempt(handle).bury()

    def settled(self, handle: RunHandle) -> None:
        """Write down that its outcome was delivered."""
        self._attempt(handle).settled()

    # -- inside

    @staticmethod
    def _attempt(handle: RunHandle) -> LocalAttempt | ContainerAttempt:
        """An attempt by its run directory; where that is out of reach, by its container's engine.

        Raises:
            ContactLost: neither can be reached.
        """
        try:
            return LocalAttempt(handle, locate(handle))
        except ContactLost:
            if "container" not in handle.ref:
                raise
            return _container(handle)

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
        if claim is not None and (container := claim.request.get("container")):
            # By it the run is found from where its directory cannot be seen.
            ref["container"] = {"engine": container["engine"], "name": container["name"]}
        return RunHandle(
            backend=self.name, key=key, attempt=attempt, run_id=record["run_id"] if record else "", ref=ref
        )


def _container(handle: RunHandle) -> ContainerAttempt:
    from mlproj_core.backends.local.container_attempt import ContainerAttempt

    return ContainerAttempt(handle)


def _delete(directory: Path) -> None:
    import shutil  # costs more than a whole claim

    shutil.rmtree(directory, ignore_errors=True)


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
