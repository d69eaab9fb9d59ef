"""What a backend is: a few verbs on names. The protocol is written once over them, in `mlproj_core.protocol`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from mlproj_core.claim import Claim, Record
from mlproj_core.errors import UserError
from mlproj_core.handle import RunHandle
from mlproj_core.status import Outcome, Phase

if TYPE_CHECKING:
    from mlproj_core.launch import Launch

__all__ = ["Backend", "Hold", "Sighting", "State", "choose_backend", "load_backend"]


class State(Enum):
    """What a backend sees of an attempt."""

    UNSTARTED = "claimed, not started, and nobody is at it: whoever finds it may complete it"
    STARTING = "somebody is completing the claim at this moment"
    LIVING = "started and not over"
    LOST = "started and gone without a recorded end: what survives must be ended, then the end recorded"
    ENDED = "over, with its outcome on record"
    GONE = "nothing is left of it here"


@dataclass(frozen=True)
class Sighting:
    """What a backend sees of an attempt at one moment.

    Attributes:
        state: see `State`.
        claim: what was claimed; None when the attempt is gone.
        record: its MLflow run; None until it is recorded.
        phase: where it is on its way.
        outcome: how it ended; given exactly when the state is ENDED.
        cancel_requested: whether the durable cancel mark is there.
        settled: whether the outcome was delivered to the tracking server.
        trimmed: whether its output and its files were deleted to make room.
    """

    state: State
    claim: Claim | None = None
    record: Record | None = None
    phase: Phase = Phase.QUEUED
    outcome: Outcome | None = None
    cancel_requested: bool = False
    settled: bool = False
    trimmed: bool = False


class Hold(Protocol):
    """The right to complete one claim. It ends with `release`, or with the process that has it."""

    @property
    def handle(self) -> RunHandle:
        """The attempt it is about; its run_id is that of the record, once there is one."""

    def record(self, record: Record) -> None:
        """Write down the attempt's MLflow run, durably."""

    def start(self, launch: Launch) -> None:
        """Start the work; it goes on whatever becomes of this process (a tethered run: as long as it lives)."""

    def end(self, outcome: Outcome) -> None:
        """Write down that the attempt is over without ever having started."""

    def release(self) -> None:
        """Give up the hold; harmless when it was given up before."""


class Backend(Protocol):
    """Where attempts are claimed, started, looked at and stopped.

    Every verb works in any process that can reach the backend, and raises `ContactLost` where it cannot.
    A third party's backend is a class with these methods, without arguments to construct, named by an entry
    point in the group `mlproj.backends`.
    """

    name: str
    exclusive_claims: bool
    """Whether a hold shuts out every other; if not, two may create an MLflow run, and the one on record stays."""
    runs_here: bool
    """Whether runs are on the host of their asker: in an environment that is made there, with files of it."""

    def configure(self, config: Mapping[str, Any]) -> Backend:
        """This backend by the caller's `backend_config`, which says where `find` and `claim` look.

        Raises:
            UserError: what is wrong with the configuration, before any work is done.
        """

    def find(self, key: str) -> RunHandle | None:
        """The newest attempt of a key; None if there is none."""

    def claim(self, claim: Claim, launch: Launch | None) -> Hold | None:
        """Claim an attempt's name atomically; None if somebody else has it. Without launch: a tombstone.

        Raises:
            UserError: such a launch cannot be run here; nothing was claimed.
        """

    def adopt(self, handle: RunHandle) -> Hold | None:
        """Take over a half-made claim; None if somebody else is at it, or it needs no completion any more."""

    def look(self, handle: RunHandle) -> Sighting:
        """What there is to see of an attempt, without changing anything."""

    def ended_with_asker(self, handle: RunHandle) -> bool:
        """Of an attempt out of contact: whether it cannot have outlived the process that asked for it."""

    def mark_cancelled(self, handle: RunHandle) -> None:
        """Write the durable cancel mark."""

    def stop(self, handle: RunHandle) -> None:
        """Bring a marked attempt to its end, and return when nothing is left of it and its end is on record."""

    def bury(self, handle: RunHandle) -> None:
        """Of a lost attempt: end whatever survives, then record its end."""

    def settled(self, handle: RunHandle) -> None:
        """Write down that the outcome was delivered to the tracking server."""

    def wait(self, handle: RunHandle, timeout: float | None) -> None:
        """Return when the attempt is no longer living (or starting), or after `timeout` seconds."""

    async def wait_async(self, handle: RunHandle, timeout: float | None) -> None:
        """As `wait`, without a thread."""

    def read_output(self, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
        """Output from byte offset `cursor` on, as far as one look brings it; and the cursor after it."""

    def follow_output(self, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Output from `cursor` on, as it comes, until the attempt is over."""

    def follow_output_async(self, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """As `follow_output`, in an event loop, without a thread for each."""

    def page(self, handle: RunHandle) -> str | None:
        """The address of the attempt's page where it runs; None if there is none."""

    def read_result(self, handle: RunHandle) -> dict[str, Any] | None:
        """The JSON object that the project left at MLPROJ_RESULT; None if it left none."""


def choose_backend(backend: str | Backend, config: Mapping[str, Any]) -> Backend:
    """The backend that is asked for, by its name or itself, with the caller's configuration.

    Raises:
        UserError: there is none of this name, or the configuration is wrong.
    """
    return (load_backend(backend) if isinstance(backend, str) else backend).configure(config)


def load_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UserError: there is none; the message names those that are installed.
    """
    if name == "local":  # looking through the metadata of all that is installed costs more than a whole submit
        from mlproj_core.backends.local import LocalBackend

        return LocalBackend()
    from importlib.metadata import entry_points

    found = entry_points(group="mlproj.backends")
    for entry_point in found:
        if entry_point.name == name:
            backend: Backend = entry_point.load()()
            return backend
    raise UserError(
        f"There is no backend {name!r}. Installed: {', '.join(sorted({one.name for one in found}))}. "
        "A backend of your own is registered by an entry point in the group mlproj.backends."
    )
