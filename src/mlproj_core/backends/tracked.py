"""Any run in MLflow, whoever started it, seen by the tracking server's word: it can be waited for, and nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final, NoReturn

from mlproj_core.backends.backend import Hold, Sighting, State
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import ContactLost, TrackingError, TrackingRefused, UserError
from mlproj_core.handle import RunHandle
from mlproj_core.launch import Launch
from mlproj_core.status import Outcome, Phase, Reason, ReasonCode, RunStatus
from mlproj_core.tracking import RunRecord, connect

__all__ = ["POLL_INTERVAL", "TrackedBackend"]

POLL_INTERVAL: Final = 30.0
"""Seconds between looks: a tracking server has no way of telling by itself."""

_MEANINGS: Final = {
    "FINISHED": Outcome(RunStatus.FINISHED),
    "FAILED": Outcome(
        RunStatus.FAILED, Reason(ReasonCode.PROJECT_CODE, "the run has failed, by the tracking server's word")
    ),
    "KILLED": Outcome(
        RunStatus.KILLED, Reason(ReasonCode.CANCELLED, "the run was killed, by the tracking server's word")
    ),
}
"""How a run ended, by MLflow's status; any other status means that it did not."""


class TrackedBackend:
    """Looks at runs by their MLflow id; `handle_of` makes the handle.

    Args:
        poll_interval: seconds between looks while waiting.
        environ: where the credentials of the tracking server are looked up; see `connect`.
    """

    name = "tracking"
    exclusive_claims = True
    runs_here = False

    def __init__(self, poll_interval: float = POLL_INTERVAL, environ: Mapping[str, str] | None = None) -> None:
        self._interval = poll_interval
        self._environ = environ

    @classmethod
    def handle_of(cls, run_id: str, tracking_uri: str | None = None) -> RunHandle:
        """The handle of a run.

        Args:
            run_id: its id in MLflow.
            tracking_uri: the tracking server or store; None for the one that is configured here.

        Raises:
            UserError: no tracking server or store is configured.
        """
        tracking = connect(tracking_uri)
        if tracking.name == "untracked":
            raise UserError(
                f"The run {run_id} is to be looked up in MLflow, but no tracking server is configured: set "
                "MLFLOW_TRACKING_URI."
            )
        return RunHandle(cls.name, key=run_id, attempt=1, run_id=run_id, ref={"tracking_uri": tracking.uri})

    def look(self, handle: RunHandle) -> Sighting:
        """What the tracking server says of the run.

        Raises:
            UserError: there is no such run.
            TrackingRefused: it may not be seen.
            ContactLost: the server does not answer.
        """
        tracking = connect(handle.ref["tracking_uri"], environ=self._environ)
        try:
            run = tracking.get_run(handle.run_id)
        except TrackingRefused:
            raise
        except TrackingError as error:
            raise ContactLost(str(error)) from error
        finally:
            tracking.close()
        outcome = run.outcome or _MEANINGS.get(run.status)
        return Sighting(
            State.LIVING if outcome is None else State.ENDED,
            record=_record(run, tracking.uri),
            phase=Phase.RUNNING if outcome is None else Phase.ENDED,
            outcome=outcome,
            settled=True,
        )

    def wait(self, handle: RunHandle, timeout: float | None) -> None:
        """Look again and again."""
        until = None if timeout is None else time.monotonic() + timeout
        while (pause := self._pause(handle, until)) is not None:
            time.sleep(pause)

    async def wait_async(self, handle: RunHandle, timeout: float | None) -> None:
        """As `wait`; each look is made in a thread."""
        import asyncio

        until = None if timeout is None else time.monotonic() + timeout
        while (pause := await asyncio.to_thread(self._pause, handle, until)) is not None:
            await asyncio.sleep(pause)

    def _pause(self, handle: RunHandle, until: float | None) -> float | None:
        """Seconds until the next look; None when there is nothing more to wait for."""
        if self.look(handle).state is not State.LIVING:
            return None
        if until is None:
            return self._interval
        left = until - time.monotonic()
        return min(left, self._interval) if left > 0 else None

    # -- what the tracking server does not know

    def page(self, handle: RunHandle) -> str | None:
        """None but the run's page in MLflow is known."""
        return None

    def read_output(self, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
        """Nothing: the output is where the run is."""
        return b"", cursor

    def follow_output(self, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Nothing, until the run is over."""
        self.wait(handle, None)
        return iter(())

    async def follow_output_async(self, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """Nothing, until the run is over."""
        await self.wait_async(handle, None)
        nothing: list[tuple[bytes, int]] = []
        for chunk in nothing:  # so that this is a generator
            yield chunk

    def read_result(self, handle: RunHandle) -> dict[str, Any] | None:
        """Not known."""
        return None

    # -- what cannot be done with somebody else's run

    def configure(self, config: Mapping[str, Any]) -> TrackedBackend:
        """Nothing is started here, whatever the configuration."""
        self._refuse("start a run")

    def find(self, key: str) -> RunHandle | None:
        """Runs are not found by keys."""
        self._refuse("find a run by its key")

    def claim(self, claim: Claim, launch: Launch | None) -> Hold | None:
        """Nothing is started here."""
        self._refuse("start a run")

    def adopt(self, handle: RunHandle) -> Hold | None:
        """Nothing is started here."""
        self._refuse("start a run")

    def ended_with_asker(self, handle: RunHandle) -> bool:
        """Nothing is known of who started it."""
        return False

    def mark_cancelled(self, handle: RunHandle) -> None:
        """MLflow knows runs, not what runs: one that lives cannot be ended."""
        if self.look(handle).state is State.LIVING:
            self._refuse("end a run")

    def stop(self, handle: RunHandle) -> None:
        """See `mark_cancelled`."""
        self.mark_cancelled(handle)

    def bury(self, handle: RunHandle) -> None:
        """A run is never lost here: what MLflow says holds."""

    def settled(self, handle: RunHandle) -> None:
        """There is nothing to settle."""

    def _refuse(self, doing: str) -> NoReturn:
        raise UserError(f"The backend 'tracking' can only wait for runs, by MLflow's word; it cannot {doing}.")


def _record(run: RunRecord, uri: str) -> Record:
    return Record(
        run_id=run.run_id,
        tracked=True,
        tracking_uri=uri,
        experiment_id=run.experiment_id,
        artifact_uri=run.artifact_uri,
        url=run.url,
    )
