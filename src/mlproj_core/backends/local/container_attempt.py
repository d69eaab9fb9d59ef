"""An attempt in a container whose run directory is out of reach: what its engine alone tells, and can do.

Its labels say what was claimed and recorded, its state and exit code how it ended. Whoever cancels it from here renames
it first: that is a mark which is set at once, outlives everybody, and is seen by the supervisor too.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.local.contained import judged
from mlproj_core.backends.local.container_end import CANCELLED, found
from mlproj_core.backends.local.container_files import begin_of_output, read_result
from mlproj_core.claim import Claim, Record
from mlproj_core.containers.engine import connect, in_contact
from mlproj_core.containers.wire import open_wire
from mlproj_core.errors import ContactLost, ExecutionException, TrackingError, UserError
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.status import Outcome, Phase, Reason, ReasonCode, RunStatus
from mlproj_core.tracking import ATTEMPT_TAG
from mlproj_core.tracking import connect as connect_tracking

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["ContainerAttempt", "find_container"]

LATENESS = 60.0
"""Seconds for which a run may be over its timeout before somebody without a part in it ends it: its supervisor does."""

CREATION_PATIENCE = 3600.0
"""Seconds for which a container may be made and not started: its files are being copied."""

INTERVAL = 1.0
"""Seconds between looks while waiting in an event loop."""

TAIL = 20
"""Lines of output in a reason."""


class ContainerAttempt:
    """What is done with an attempt by its engine alone; the verbs are those of `Backend`."""

    def __init__(self, handle: RunHandle) -> None:
        self.handle = handle
        self.engine = str(handle.ref["container"]["engine"])
        self.name = str(handle.ref["container"]["name"])
        self._begin: int | None = None

    # -- looking

    def look(self) -> Sighting:
        """What the engine says of the container.

        Raises:
            ContactLost: it cannot be reached; or it has no such container, and no tracking server knows the run's end.
                It may not be made yet, so that it is not taken for gone.
        """
        with self._client() as client:
            seen = self._find(client)
            if seen is not None:
                return self._sighting(client, seen)
        if self._known_to_tracking():
            return Sighting(State.GONE)
        raise ContactLost(
            f"The run {self.handle.tag} has no container on the engine {self.engine}: it was removed, or is not made "
            f"yet. Its own host, {self.handle.ref.get('host')!r}, knows."
        )

    def absent(self) -> bool:
        """Whether the engine has no such container."""
        with suppress(ContactLost, UserError), self._client() as client:
            return self._find(client) is None
        return False

    def _sighting(self, client: APIClient, seen: dict[str, Any]) -> Sighting:
        labels, state = seen["Config"]["Labels"] or {}, seen["State"]
        claim, record = (json.loads(labels[f"mlproj.{name}"]) for name in ("claim", "record"))
        over = state["Status"] in ("exited", "dead")
        phase = Phase.ENDED if over else Phase.IMAGE if state["Status"] == "created" else Phase.RUNNING
        return Sighting(
            State.ENDED if over else self._life(seen),
            claim=Claim.from_dict(claim),
            record=Record.from_dict(record),
            phase=phase,
            outcome=self._outcome(client, seen) if over else None,
            cancel_requested=seen["Name"].endswith(CANCELLED),
        )

    @staticmethod
    def _life(seen: dict[str, Any]) -> State:
        """LOST is what nobody will start any more, and what is far over its timeout: it is to be ended."""
        labels, state = seen["Config"]["Labels"] or {}, seen["State"]
        if state["Status"] == "created":
            return State.LIVING if time.time() - _seconds(seen["Created"]) < CREATION_PATIENCE else State.LOST
        timeout = labels.get("mlproj.timeout")
        late = timeout and time.time() - _seconds(state["StartedAt"]) > float(timeout) + LATENESS
        return State.LOST if late else State.LIVING

    def _outcome(self, client: APIClient, seen: dict[str, Any]) -> Outcome:
        """How a container ended, by what its engine knows of it."""
        state, result = seen["State"], found(seen)
        ended_at = _seconds(state["FinishedAt"])
        if result["cancelled"]:
            return Outcome(RunStatus.KILLED, Reason(ReasonCode.CANCELLED, "the run was cancelled"), ended_at)
        if result["exit_code"] == 0:
            return Outcome(RunStatus.FINISHED, ended_at=ended_at)
        timeout = (seen["Config"]["Labels"] or {}).get("mlproj.timeout")
        judgement = judged(result)
        if timeout and ended_at - _seconds(state["StartedAt"]) >= float(timeout):
            judgement |= {
                "code": "timeout",
                "message": f"the run took longer than its timeout of {float(timeout):g} seconds",
            }
            judgement |= {"retryable": True, "exit_code": None, "signal": None}
        judgement.pop("status")
        tail = client.logs(seen["Id"], tail=TAIL).decode(errors="replace").splitlines()
        return Outcome(RunStatus.FAILED, Reason.from_dict({**judgement, "output": tail}), ended_at)

    def _known_to_tracking(self) -> bool:
        try:
            tracking = connect_tracking(None)
            if tracking.name == "untracked" or not self.handle.run_id:
                return False
            run = tracking.get_run(self.handle.run_id)
        except (TrackingError, UserError):
            return False
        return run.outcome is not None and run.tags.get(ATTEMPT_TAG) == self.handle.tag

    # -- waiting

    def wait(self, timeout: float | None) -> None:
        """Wait for the container's end, by the engine's own word."""
        from requests.exceptions import ConnectionError as Cut
        from requests.exceptions import Timeout

        until = None if timeout is None else time.monotonic() + timeout
        while self.look().state is State.LIVING:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            with self._client() as client, suppress(Cut, Timeout):
                if (seen := self._find(client)) is not None:
                    client.wait(seen["Id"], timeout=LATENESS if left is None else min(left, LATENESS))

    async def wait_async(self, timeout: float | None) -> None:
        """As `wait`; each look is made in a thread."""
        import asyncio

        until = None if timeout is None else time.monotonic() + timeout
        while (await asyncio.to_thread(self.look)).state is State.LIVING:
            left = INTERVAL if until is None else min(INTERVAL, until - time.monotonic())
            if left <= 0:
                return
            await asyncio.sleep(left)

    # -- output

    def read_output(self, cursor: int) -> tuple[bytes, int]:
        """What the container has printed from `cursor` on; mlproj's own lines are not among it."""
        with self._client() as client:
            seen = self._find(client)
            if seen is None:
                return b"", cursor
            begin = self._begin_of(seen)
            data: bytes = client.logs(seen["Id"])[max(0, cursor - begin) :]
            return data, max(cursor, begin) + len(data)

    def follow_output(self, cursor: int) -> Iterator[tuple[bytes, int]]:
        """What the container prints, until it ends."""
        with self._client() as client:
            seen = self._find(client)
            if seen is None:
                return
            begin = self._begin_of(seen)
            skip, cursor = max(0, cursor - begin), max(cursor, begin)
            for data in client.logs(seen["Id"], stream=True, follow=True):
                if skip < len(data):
                    cursor += len(data) - skip
                    yield data[skip:], cursor
                skip = max(0, skip - len(data))

    async def follow_output_async(self, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """As `follow_output`, by looks in a thread."""
        import asyncio

        while True:
            state = (await asyncio.to_thread(self.look)).state
            data, cursor = await asyncio.to_thread(self.read_output, cursor)
            if data:
                yield data, cursor
            if state is not State.LIVING:
                return
            await asyncio.sleep(INTERVAL)

    def _begin_of(self, seen: dict[str, Any]) -> int:
        if self._begin is not None:
            return self._begin
        with open_wire(self.engine) as wire:
            begin = begin_of_output(wire, seen["Id"])
        if seen["State"]["Status"] != "created":  # else it may be noted down yet
            self._begin = begin
        return begin

    def read_result(self) -> dict[str, Any] | None:
        """The JSON object that the project left at MLPROJ_RESULT."""
        with self._client() as client:
            seen = self._find(client)
        if seen is None:
            return None
        with open_wire(self.engine) as wire:
            data = read_result(wire, seen["Id"])
        if data is None:
            return None
        try:
            value = json.loads(data)
        except ValueError as error:
            raise ExecutionException(f"The result of {self.handle.tag} is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise ExecutionException(f"The result of {self.handle.tag} is not a JSON object")
        return value

    # -- ending

    def mark_cancelled(self) -> None:
        """Rename the container, unless it is over."""
        with self._client() as client:
            seen = self._find(client)
            if seen is not None and seen["State"]["Status"] not in ("exited", "dead") and not _is_marked(seen):
                client.rename(seen["Id"], self.name + CANCELLED)

    def stop(self) -> None:
        """End the container: its stop signal, the grace period, KILL."""
        with self._client() as client:
            if (seen := self._find(client)) is None or seen["State"]["Status"] in ("exited", "dead"):
                return
            if seen["State"]["Status"] == "created":
                self._end(client, seen)
                return
            claim = json.loads((seen["Config"]["Labels"] or {})["mlproj.claim"])
            grace = float(claim["request"]["grace"])
            client.stop(seen["Id"], timeout=round(grace))

    def bury(self) -> None:
        """End what nobody else will."""
        with self._client() as client:
            if (seen := self._find(client)) is not None:
                self._end(client, seen)

    @staticmethod
    def _end(client: APIClient, seen: dict[str, Any]) -> None:
        from docker.errors import APIError

        if seen["State"]["Status"] == "created":
            client.remove_container(seen["Id"], v=True, force=True)
            return
        with suppress(APIError):  # it has ended this moment
            client.kill(seen["Id"])
        client.wait(seen["Id"])

    def settled(self) -> None:
        """Nothing: who has the run directory removes the container."""

    # -- the engine

    @contextmanager
    def _client(self) -> Iterator[APIClient]:
        with connect(self.engine) as client, in_contact(self.engine):
            yield client

    def _find(self, client: APIClient) -> dict[str, Any] | None:
        """What the engine says of the container, which may have been marked as cancelled."""
        from docker.errors import NotFound

        for name in (self.name, self.name + CANCELLED):
            with suppress(NotFound):
                seen: dict[str, Any] = client.inspect_container(name)
                return seen
        return None


def find_container(key: str, engine: str) -> RunHandle | None:
    """The newest attempt of a key among the containers of an engine; None if there is none.

    Raises:
        ContactLost: the engine cannot be reached.
    """
    found: list[RunHandle] = []
    with open_wire(engine) as wire:
        for labels in wire.labels(f"mlproj.key={key_digest(key)}"):
            claim, record = (json.loads(labels[f"mlproj.{name}"]) for name in ("claim", "record"))
            container = claim["request"]["container"]
            ref = {
                "host": container["host"],
                "tethered": claim["request"]["tethered"],
                "turn": claim["turn"],
                "container": {"engine": engine, "name": container["name"]},
            }
            found.append(RunHandle("local", claim["key"], claim["attempt"], record["run_id"], ref))
    return max(found, key=lambda handle: handle.attempt, default=None)


def _is_marked(seen: dict[str, Any]) -> bool:
    return str(seen["Name"]).endswith(CANCELLED)


def _seconds(text: str) -> float:
    """Seconds since the epoch of one of the engine's times, which have nine digits after the dot."""
    head, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{(rest + '000000')[:6]}+00:00").timestamp()
