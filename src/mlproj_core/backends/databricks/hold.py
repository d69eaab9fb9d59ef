"""The right to complete a claim: anybody's, since an idempotency token stands for one run, whoever submits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.backend import AlreadyClaimed
from mlproj_core.backends.databricks.marks import Marked, claim_tags, marked, run_tags
from mlproj_core.backends.databricks.states import cancelled, is_over
from mlproj_core.backends.databricks.workspace import DeletedToken, Workspace
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import MlprojError, TrackingError
from mlproj_core.handle import RunHandle
from mlproj_core.launch import Launch
from mlproj_core.report import log
from mlproj_core.status import Outcome, Reason, ReasonCode, RunStatus
from mlproj_core.tracking import Tracking

if TYPE_CHECKING:
    from mlproj_core.backends.databricks.work import Work

__all__ = ["DatabricksHold", "claim_and_record", "handle_of"]


class DatabricksHold:
    """What may be done to complete one claim; others may do the same at the same time.

    Args:
        workspace: where it will run.
        handle: of the attempt, as far as it is known.
        claim: what is claimed.
        tracking: where its MLflow run is, or will be.
        prepare: makes what is to be submitted, from the launch.
        tags: what else its MLflow run is tagged with.
    """

    def __init__(
        self,
        workspace: Workspace,
        handle: RunHandle,
        claim: Claim,
        tracking: Tracking,
        prepare: Callable[[Launch], Work],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._workspace, self._claim, self._tracking = workspace, claim, tracking
        self._prepare, self._tags = prepare, tags or {}
        self._record: Record | None = None
        self.handle = handle

    @property
    def tags(self) -> Mapping[str, str]:
        """The claim, so that whoever creates the MLflow run has claimed the attempt."""
        return {**self._tags, **claim_tags(self._claim)}

    def record(self, record: Record) -> None:
        """Keep the record, and the claim of whoever created the MLflow run."""
        self._record = record
        ref = dict(self.handle.ref)
        if record.tracked:
            ref["experiment_id"] = record.experiment_id  # another one than asked for, if the MLflow run was there
        self.handle = replace(self.handle, run_id=record.run_id, ref=ref)
        found = marked(self.handle)
        if found is not None and found.record.run_id == record.run_id and found.claim is not None:
            self._claim = found.claim
            self.handle = replace(self.handle, ref={**ref, "turn": turn_of(found.claim)})

    def start(self, launch: Launch) -> None:
        """Upload the code and submit the run.

        Raises:
            AlreadyClaimed: the token stands for a run that is over, or was deleted.
        """
        if self._record is None:
            raise AssertionError("a run is recorded before it is started")
        body = self._prepare(launch).body(self._claim, self._record)
        found = self._marks()
        if found is not None and found.cancelled:  # while the code was on its way
            self._settle(Outcome(RunStatus.KILLED, cancelled("before it began"), ended_at=time.time()))
            return
        try:
            number = self._workspace.submit(body)
        except DeletedToken:
            self._settle(_forgotten(self.handle))
            raise AlreadyClaimed(replace(self.handle, run_id="", ref=without_run(self.handle.ref))) from None
        run = self._workspace.get(number)
        if run is None:  # deleted since
            raise AlreadyClaimed(replace(self.handle, run_id="", ref=without_run(self.handle.ref)))
        claim, record = claim_and_record(run) or (self._claim, self._record)
        ours, self._claim = self._claim, claim
        self.handle = handle_of(self._workspace, claim, record, run)
        if claim.created_at != ours.created_at and is_over(run):
            raise AlreadyClaimed(self.handle)
        if record.tracked:
            # Whoever cancels writes the mark and then looks for the run: one of the two sees what the other has done.
            found = self._marks()
            if found is None or found.where is None:
                self._tell_where(run)
            if found is not None and found.cancelled:
                self._workspace.cancel(number)

    def _tell_where(self, run: Mapping[str, Any]) -> None:
        try:
            self._tracking.set_tags(self.handle.run_id, run_tags(self._workspace.host, run))
        except TrackingError as error:  # it is found by its name then
            log(f"warning: where {self.handle.tag} runs is not written on its MLflow run: {error}")

    def _marks(self) -> Marked | None:
        try:
            # On another MLflow run of the attempt as well: whoever cancels may have found that one.
            return marked(replace(self.handle, run_id=""))
        except MlprojError:  # who cannot read the mark now could not write it either, and the run is in Databricks
            return None

    def end(self, outcome: Outcome) -> None:
        """Write down the outcome on the MLflow run; without one there is nothing of the attempt that could end."""
        if self._record is None:
            found = marked(self.handle)
            if found is None or found.outcome is not None:
                return
            self._record = found.record
            self.handle = replace(self.handle, run_id=found.record.run_id)
        self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        if self._record is not None and self._record.tracked:
            self._tracking.settle(self._record.run_id, outcome)

    def release(self) -> None:
        """Nothing is held."""


def handle_of(workspace: Workspace, claim: Claim, record: Record, run: Mapping[str, Any]) -> RunHandle:
    """The handle of a run in Databricks: the same one, whoever makes it.

    Args:
        workspace: where it runs.
        claim: what was claimed.
        record: its MLflow run.
        run: as `runs/get` or `runs/list` gives it.
    """
    ref = reference(workspace, claim, record.tracking_uri, record.experiment_id)
    page = run.get("run_page_url")
    ref |= {"run": int(run["run_id"]), **({"page": page} if page else {})}
    return RunHandle("databricks", claim.key, claim.attempt, record.run_id, ref)


def reference(
    workspace: Workspace, claim: Claim, tracking_uri: str | None, experiment_id: str | None
) -> dict[str, Any]:
    """What a handle holds of an attempt that may not run yet."""
    ref: dict[str, Any] = {"host": workspace.host, "turn": turn_of(claim)}
    if workspace.profile is not None:
        ref["profile"] = workspace.profile
    if tracking_uri is not None:
        ref |= {"tracking_uri": tracking_uri, "experiment_id": experiment_id}
    return ref


def turn_of(claim: Claim) -> list[int] | None:
    """The turn as a handle holds it."""
    return list(claim.turn) if claim.turn is not None else None


def without_run(ref: Mapping[str, Any]) -> dict[str, Any]:
    """What a handle holds of an attempt whose run is not there any more; nobody knows at which turn it was claimed."""
    return {name: value for name, value in ref.items() if name not in ("run", "page", "turn")}


def claim_and_record(run: Mapping[str, Any]) -> tuple[Claim, Record] | None:
    """What the arguments of a run's task say of it; None if the run is not one of ours."""
    from mlproj_core.backends.databricks.states import task_of
    from mlproj_core.backends.databricks.task import read_task

    return read_task(task_of(run))


def _forgotten(handle: RunHandle) -> Outcome:
    message = f"attempt {handle.tag} was submitted before, and its run in Databricks was deleted"
    return Outcome(RunStatus.FAILED, Reason(ReasonCode.FORGOTTEN, message, retryable=True), ended_at=time.time())
