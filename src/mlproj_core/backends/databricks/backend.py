"""The Databricks backend's verbs: a claim is an idempotency token, its marks are tags in MLflow, the work is a run."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.backend import Sighting, State
from mlproj_core.backends.databricks import logs, marks
from mlproj_core.backends.databricks.config import DatabricksConfig
from mlproj_core.backends.databricks.connect import Workspaces
from mlproj_core.backends.databricks.hold import DatabricksHold, claim_and_record, handle_of, reference
from mlproj_core.backends.databricks.poll import loop_waiting, waiting
from mlproj_core.backends.databricks.sight import find_listed, half_made, locate, see
from mlproj_core.backends.databricks.states import cancelled, is_over, judge
from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.claim import Claim
from mlproj_core.errors import ContactLost, ExecutionException, TrackingError, UserError
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.launch import Launch
from mlproj_core.status import Outcome, RunStatus
from mlproj_core.tracking import Ledger, Tracking, connect

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

    from mlproj_core.backends.databricks.work import Work

__all__ = ["DatabricksBackend"]

SHORT = 2.0
"""Seconds: whoever waits for no longer than this asks for the run itself, instead of having it asked for."""

LOOK_INTERVAL = 0.25
"""Seconds between looks while something is about to happen: a start, or an end."""

SHOWING_PATIENCE = 30.0
"""Seconds to wait until a run that was cancelled says so."""

STOP_PATIENCE = 600.0
"""Seconds to wait for the end of a run that was cancelled: a cluster is taken down first."""

FOLLOWING = (1.0, 20.0)
"""Seconds between looks for new output: at first, and at most, while nothing comes."""

_WAITED_FOR = (State.LIVING, State.STARTING, State.UNSTARTED)


class DatabricksBackend:
    """Runs are one-time runs of Databricks' Jobs.

    Args:
        client: a client of the workspace, from whoever has its credentials; None makes one by the SDK's own
            configuration.
    """

    name = "databricks"
    exclusive_claims = False
    runs_here = False

    def __init__(self, client: WorkspaceClient | None = None) -> None:
        self._workspaces = Workspaces(client)
        self._config = DatabricksConfig()
        self._ledger = Ledger()

    def configure(self, config: Mapping[str, Any], ledger: Ledger | None = None) -> DatabricksBackend:
        """This backend with a caller's settings; see docs/databricks.md."""
        configured = DatabricksBackend.__new__(type(self))
        configured._workspaces = self._workspaces
        configured._config = DatabricksConfig.read(config)
        configured._ledger = ledger or self._ledger
        configured._workspace()
        return configured

    # -- claims

    def find(self, key: str) -> RunHandle | None:
        """The newest attempt of a key: by the tag of its MLflow run, else by the name of its run in Databricks."""
        workspace = self._workspace()
        with closing(connect(self._ledger.tracking_uri)) as tracking:
            experiment_id = self._experiment(tracking)
            mark = marks.find_newest(tracking, experiment_id, key) if tracking.name != "untracked" else None
            if mark is not None:
                attempt = int(mark.attempt.rpartition("-")[2])
                claim = mark.claim or Claim(key, attempt, None, "")
                return half_made(mark, key, attempt, reference(workspace, claim, tracking.uri, experiment_id))
        run = find_listed(workspace, key_digest(key))
        claimed = claim_and_record(run) if run is not None else None
        return handle_of(workspace, *claimed, run) if run is not None and claimed is not None else None

    def claim(self, claim: Claim, launch: Launch | None) -> DatabricksHold | None:
        """See that it can be submitted; a tombstone is an MLflow run that ends at once."""
        workspace = self._workspace()
        if launch is None:
            return self._tombstone(workspace, claim)
        tracking, new_run = launch.tracking, launch.new_run
        work = self._prepare(workspace, claim, launch)
        experiment_id = tracking.resolve_experiment(new_run.experiment_name, new_run.experiment_id)
        ref = reference(workspace, claim, *_tracked(tracking, experiment_id))
        handle = RunHandle(self.name, claim.key, claim.attempt, "", ref)
        return DatabricksHold(workspace, handle, claim, tracking, lambda _: work, self._config.tags)

    def _tombstone(self, workspace: Workspace, claim: Claim) -> DatabricksHold | None:
        tracking = connect(self._ledger.tracking_uri)
        if tracking.name == "untracked":
            raise UserError(
                f"There is no attempt of the key {claim.key!r} in {workspace.host} to cancel, and nothing can be left "
                "there that keeps one from being started: that takes a tracking server (MLFLOW_TRACKING_URI)."
            )
        mark = marks.bury_in_mlflow(tracking, self._experiment(tracking), claim)
        if mark is None:
            return None
        ref = reference(workspace, claim, *_tracked(tracking, mark.record.experiment_id))
        handle = RunHandle(self.name, claim.key, claim.attempt, mark.record.run_id, ref)
        hold = DatabricksHold(workspace, handle, claim, tracking, _nothing)
        hold.record(mark.record)
        return hold

    def adopt(self, handle: RunHandle) -> DatabricksHold | None:
        """A hold on a claim that was not submitted."""
        workspace = self._workspace_of(handle)
        found = locate(workspace, handle)
        mark = found.marked
        if see(workspace, handle, found).state is not State.UNSTARTED or mark is None:
            return None
        claim = mark.claim or Claim(handle.key, handle.attempt, None, "", created_at=time.time())
        handle = replace(handle, run_id=mark.record.run_id)
        prepare = lambda launch: self._prepare(workspace, claim, launch)  # noqa: E731
        return DatabricksHold(workspace, handle, claim, connect(handle.ref["tracking_uri"]), prepare, self._config.tags)

    def _prepare(self, workspace: Workspace, claim: Claim, launch: Launch) -> Work:
        from mlproj_core.backends.databricks.work import prepare

        return prepare(claim, launch, self._config, workspace)

    # -- looking

    def look(self, handle: RunHandle) -> Sighting:
        """What the workspace and the marks in MLflow say."""
        workspace = self._workspace_of(handle)
        return see(workspace, handle, locate(workspace, handle))

    def ended_with_asker(self, handle: RunHandle) -> bool:
        """A run outlives whoever asked for it."""
        return False

    def wait(self, handle: RunHandle, timeout: float | None) -> None:
        """Wait by the thread that asks for all that this process waits for."""
        until = None if timeout is None else time.monotonic() + timeout
        number = self._submitted(handle, until)
        if number is None:
            return
        workspace = self._workspace_of(handle)
        if timeout is not None and timeout < SHORT:
            while not _is_over(workspace, number) and (left := _left(until)) > 0:
                time.sleep(min(left, LOOK_INTERVAL))
            return
        woken = threading.Event()
        with waiting(workspace, number, woken.set) as waiter:
            while not waiter.check() and _left(until) > 0:
                woken.wait(None if until is None else _left(until))

    async def wait_async(self, handle: RunHandle, timeout: float | None) -> None:
        """As `wait`: the thread wakes the event loop."""
        import asyncio
        from contextlib import suppress

        until = None if timeout is None else time.monotonic() + timeout
        number = await asyncio.to_thread(self._submitted, handle, until)
        if number is None:
            return
        workspace = await asyncio.to_thread(self._workspace_of, handle)
        with loop_waiting(workspace, number) as (waiter, woken):
            while not waiter.check() and _left(until) > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(woken.wait(), None if until is None else _left(until))

    def _submitted(self, handle: RunHandle, until: float | None) -> int | None:
        """The number of an attempt's run, once it has one; None if it comes to nothing, or the time is over."""
        number = handle.ref.get("run")
        while number is None:
            sighting = self.look(handle)
            if sighting.ref is not None:
                number = sighting.ref.get("run")
            elif sighting.state not in _WAITED_FOR:
                return None
            else:
                # At least once: who asks with no time at all asks again and again.
                time.sleep(LOOK_INTERVAL)
                if _left(until) <= 0:
                    return None
        return int(number)

    # -- output

    def read_output(self, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
        """What Databricks gives of the output, from byte `cursor` on."""
        data, _ = self._read(handle, cursor)
        return data, cursor + len(data)

    def follow_output(self, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
        """Ask again and again for what is new."""
        pause = FOLLOWING[0]
        while True:
            data, over = self._read(handle, cursor)
            if data:
                cursor += len(data)
                yield data, cursor
            if over:
                return
            pause = FOLLOWING[0] if data else min(1.5 * pause, FOLLOWING[1])
            self.wait(handle, pause)

    async def follow_output_async(self, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """As `follow_output`, without a thread for each."""
        import asyncio

        pause = FOLLOWING[0]
        while True:
            data, over = await asyncio.to_thread(self._read, handle, cursor)
            if data:
                cursor += len(data)
                yield data, cursor
            if over:
                return
            pause = FOLLOWING[0] if data else min(1.5 * pause, FOLLOWING[1])
            await self.wait_async(handle, pause)

    def _read(self, handle: RunHandle, cursor: int) -> tuple[bytes, bool]:
        """The output from a byte on, and whether that is all that there will be."""
        workspace = self._workspace_of(handle)
        found = locate(workspace, handle)
        if found.run is None:
            return b"", see(workspace, handle, found).state not in _WAITED_FOR
        over = is_over(found.run)
        return logs.printed_by(workspace, found.run).encode()[cursor:], over

    def page(self, handle: RunHandle) -> str | None:
        """The run's page in the workspace."""
        page = handle.ref.get("page")
        return str(page) if page else None

    def read_result(self, handle: RunHandle) -> dict[str, Any] | None:
        """The JSON object at MLPROJ_RESULT, which the launcher has printed with its last word."""
        workspace = self._workspace_of(handle)
        run = locate(workspace, handle).run
        value = logs.word_of(workspace, run).get("result") if run is not None else None
        if value is not None and not isinstance(value, dict):
            raise ExecutionException("The project's result, at MLPROJ_RESULT, is not a JSON object.")
        return value

    # -- ending

    def mark_cancelled(self, handle: RunHandle) -> None:
        """Write the cancel mark on the MLflow run; without one, ask Databricks for the end, which keeps that."""
        workspace = self._workspace_of(handle)
        found = locate(workspace, handle)
        over = is_over(found.run) if found.run is not None else False
        if found.marked is not None and not over and found.marked.outcome is None:
            if found.marked.cancelled:
                return
            try:
                marks.mark(handle, found.marked)
            except TrackingError as error:
                if found.run is None:
                    raise ContactLost(str(error)) from error
            else:
                return
        if found.number is not None and found.run is not None and not over:
            workspace.cancel(found.number)
            # The service answers before the run shows it, and there is no other mark for whoever looks next.
            until = time.monotonic() + SHOWING_PATIENCE
            while (run := workspace.get(found.number)) is not None and not (is_over(run) or judge(run).cancelled):
                if _left(until) <= 0:
                    break
                time.sleep(LOOK_INTERVAL)

    def stop(self, handle: RunHandle) -> None:
        """Cancel the run, and wait until Databricks says that it is over."""
        workspace, asked = self._workspace_of(handle), False
        until = time.monotonic() + STOP_PATIENCE
        while True:
            found = locate(workspace, handle)
            if found.run is None or found.number is None:
                break
            if is_over(found.run):
                return
            if not asked:
                workspace.cancel(found.number)
                asked = True
            if _left(until) <= 0:
                raise ContactLost(
                    f"Run {handle.tag} was cancelled, and the workspace {workspace.host} has not ended it "
                    f"{STOP_PATIENCE:g} s later: {self.page(handle) or found.number}."
                )
            self.wait(replace(handle, ref={**handle.ref, "run": found.number}), min(_left(until), SHORT / 2))
        if found.marked is not None and found.marked.outcome is None and found.number is None:
            outcome = Outcome(RunStatus.KILLED, cancelled("before it began"), ended_at=time.time())
            with closing(connect(handle.ref["tracking_uri"])) as tracking:
                tracking.settle(found.marked.record.run_id, outcome)

    def bury(self, handle: RunHandle) -> None:
        """Nothing is ever lost: Databricks writes down how a run ended."""

    def settled(self, handle: RunHandle) -> None:
        """Nothing more: the outcome on the MLflow run says that it was delivered."""

    # -- inside

    def _workspace(self) -> Workspace:
        return self._workspaces.configured(self._config.profile, self._config.host)

    def _workspace_of(self, handle: RunHandle) -> Workspace:
        return self._workspaces.of_handle(handle.ref, self._config.profile, self._config.host)

    def _experiment(self, tracking: Tracking) -> str:
        return tracking.resolve_experiment(self._ledger.experiment_name, self._ledger.experiment_id)


def _tracked(tracking: Tracking, experiment_id: str | None) -> tuple[str | None, str | None]:
    return (tracking.uri, experiment_id) if tracking.name != "untracked" else (None, None)


def _nothing(launch: Launch) -> Work:
    raise AssertionError("a tombstone is never started")


def _is_over(workspace: Workspace, number: int) -> bool:
    run = workspace.get(number)
    return run is None or is_over(run)


def _left(until: float | None) -> float:
    return float("inf") if until is None else max(0.0, until - time.monotonic())
