"""A flow's hook that ends what its flow run has started, from whatever process Prefect calls it in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger

from mlproj_core.errors import MlprojError
from mlproj_core.handle import RunHandle
from mlproj_core.report import Report
from mlproj_core.runs import attach
from mlproj_core.status import RunStatus
from prefect_mlproj.access import Access
from prefect_mlproj.artifacts import handle_in, intent_in, names_in
from prefect_mlproj.calls import path_of, place_of

__all__ = ["cancel_runs"]

_PAGE = 200
"""Rows that Prefect's API gives at once (its setting `PREFECT_SERVER_API_DEFAULT_LIMIT`)."""


def cancel_runs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """End every run of a flow run, and of the flow runs that it has started.

    Give it to a flow: `@flow(on_cancellation=[cancel_runs])`, and `on_crashed=[cancel_runs]` where a crashed flow run
    is not to find its runs again. Prefect calls it in the process of the runner or worker, after it has ended the
    flow's own; for a program that calls its flow itself, in that one. It does not go by the states of task runs, which
    say nothing of what lives: it looks for the handles that the flow run shows, for the keys of what it was about to
    submit elsewhere, and for those of this host's runs. Blocks with credentials are loaded again, by their names.

    Args:
        flow: the flow.
        flow_run: its run.
        state: the state that it has entered.
    """
    logger = flow_run_logger(flow_run, flow)

    def say(line: str) -> None:
        (logger.warning if line.startswith("warning") else logger.info)(f"[mlproj] {line}")

    path: tuple[str, ...] = (str(flow_run.id),)
    found: dict[str, _Found] = {}
    try:
        path = place_of(flow_run).path
        with get_client(sync_client=True) as client:
            flow_run_ids = {flow_run.id, *_descendants(client, flow_run.id)}
            texts = list(_shown(client, flow_run_ids))
        found.update({one.handle.tag: one for one in (*_intended(texts, say), *_submitted(texts, say))})
    except Exception as error:  # what this host knows is ended all the same
        say(f"warning: Prefect's server does not say what the flow run has started: {error}")
    # What was claimed on this host and was not shown in Prefect any more, since its process died.
    for handle in _local(path):
        found.setdefault(handle.tag, _Found(handle, Access()))
    ended = 0
    for handle, access in found.values():
        try:
            with access.lent():
                run = attach(handle, say, access.backend(handle.backend))
                if run.get_status() is RunStatus.RUNNING:
                    say(f"ending run {handle.tag}, since the flow run is {state.name}")
                    run.cancel()
                    ended += 1
        except MlprojError as error:
            say(f"warning: run {handle.tag} could not be ended from here: {error}")
    say(f"{ended} of {len(found)} runs were still at work, and were ended")


class _Found(NamedTuple):
    handle: RunHandle
    access: Access


def _descendants(client: SyncPrefectClient, flow_run_id: UUID) -> Iterator[UUID]:
    """The flow runs that a flow run has started, and those that they have."""
    parents = {flow_run_id}
    seen: set[UUID] = set()
    while parents:
        filter_ = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=list(parents)))
        children: set[UUID] = set()
        offset = 0
        while page := client.read_flow_runs(
            flow_run_filter=filter_, sort=FlowRunSort.ID_DESC, limit=_PAGE, offset=offset
        ):
            children.update(found.id for found in page)
            offset += len(page)
        parents = children - seen
        seen |= children
        yield from parents


def _submitted(texts: list[str], say: Report) -> Iterator[_Found]:
    """The runs of which a handle was shown in Prefect, at their submission."""
    accesses: dict[str, Access] = {}
    for text in texts:
        if (handle := handle_in(text)) is not None:
            names = names_in(text)
            key = json.dumps(names)
            if key not in accesses:
                accesses[key] = Access.named(names, say)
            yield _Found(handle, accesses[key])


def _intended(texts: list[str], say: Report) -> Iterator[_Found]:
    """The runs that were about to be submitted when their process died, as far as they were."""
    for text in texts:
        if (intent := intent_in(text)) is None:
            continue
        access = Access.named(intent.names, say)
        try:
            handle = access.backend(intent.backend).configure(intent.settings).find(intent.key)
        except MlprojError as error:
            say(f"warning: whether a run was submitted to the backend {intent.backend!r} is not known: {error}")
            continue
        if handle is not None:
            yield _Found(handle, access)


def _shown(client: SyncPrefectClient, flow_run_ids: set[UUID]) -> Iterator[str]:
    """The texts of the artifacts of these flow runs."""
    filters: dict[str, Any] = {
        "artifact_filter": ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=list(flow_run_ids))),
        # The server refuses the nothing that the client sends by default.
        "flow_run_filter": FlowRunFilter(),
        "task_run_filter": TaskRunFilter(),
    }
    offset = 0
    while page := client.read_artifacts(**filters, sort=ArtifactSort.ID_DESC, limit=_PAGE, offset=offset):
        offset += len(page)
        for artifact in page:
            for text in (artifact.description, artifact.data):
                if isinstance(text, str):
                    yield text


def _local(path: tuple[str, ...]) -> Iterator[RunHandle]:
    """The runs that this host knows of, of the flow run at this place and of those within it."""
    from mlproj_core.backends.local import LocalBackend

    for handle in LocalBackend().handles():
        found = path_of(handle.key)
        if found is not None and found[: len(path)] == path:
            yield handle
