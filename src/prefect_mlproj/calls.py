"""Which call of a flow run a task belongs to: the name under which a later execution of the flow run finds its run."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import PrefectFuture

__all__ = ["Place", "call_of", "called_by", "flow_run_here", "key_of", "path_of", "place_of", "tries_of"]

_FLOW_RUNS = 64
"""Executions of flow runs whose calls are counted; the oldest is forgotten first. A process has few at a time."""

_lock = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where in a flow run something is: in the flow itself, or in a flow that it calls.

    A flow within a flow gets another flow run when the outer one is retried, so that its id names nothing that lasts.
    The place does: the outermost flow run, and which call of a flow in it, at each level.

    Attributes:
        path: the id of the outermost flow run, then `name:count` for each flow that is called within.
        run_counts: how often the flow run of each level has been executed.
    """

    path: tuple[str, ...]
    run_counts: tuple[int, ...]


@dataclass
class _Execution:
    """One execution of a flow run: the calls made in it so far.

    Attributes:
        calls: how many there were of each kind, in the flow and in each execution of each of its tasks.
        tasks: of the tasks that made calls, the how-manieth of equal ones each is, by the id of its task run.
    """

    calls: Counter[tuple[Any, str]] = field(default_factory=Counter)
    tasks: dict[UUID, int] = field(default_factory=dict)

    def count(self, where: Any, kind: str) -> int:
        """One more call of this kind; how many there are now."""
        self.calls[where, kind] += 1
        return self.calls[where, kind]


_places: dict[tuple[UUID, int], Place] = {}
_executions: dict[tuple[UUID, int], _Execution] = {}


def flow_run_here() -> FlowRun | None:
    """The flow run in whose flow, or in whose task, this is called."""
    context = FlowRunContext.get()
    found = context.flow_run if context is not None else None
    return found if isinstance(found, FlowRun) else None


def place_of(flow_run: FlowRun) -> Place:
    """Where a flow run is; for a flow within a flow Prefect's server is asked."""
    if flow_run.parent_task_run_id is None:
        return Place((str(flow_run.id),), (flow_run.run_count,))
    with _lock:
        known = _places.get((flow_run.id, flow_run.run_count))
    if known is not None:
        return known
    with get_client(sync_client=True) as client:
        task_run = client.read_task_run(flow_run.parent_task_run_id)
        around = client.read_flow_run(task_run.flow_run_id) if task_run.flow_run_id is not None else None
    if around is None:  # the flow was called in a task outside any flow
        return Place((str(flow_run.id),), (flow_run.run_count,))
    outer = place_of(around)
    name = task_run.task_key.rpartition("-")[0]  # without the digest of the flow's source
    place = Place((*outer.path, f"{name}:{task_run.dynamic_key}"), (*outer.run_counts, flow_run.run_count))
    with _lock:
        _places[flow_run.id, flow_run.run_count] = place
        while len(_places) > _FLOW_RUNS:
            del _places[next(iter(_places))]
    return place


def path_of(key: str) -> tuple[str, ...] | None:
    """The path of the place that a key was made at; None if it is none of Prefect's, or was made outside a flow."""
    try:
        engine, path, *_ = json.loads(key)
    except (ValueError, TypeError):
        return None
    return tuple(path) if engine == "prefect" and path else None


def call_of(arguments: Mapping[str, Any]) -> str | None:
    """Name a call, where it is made: it is the n-th of its kind in this execution of the flow run.

    Prefect's own names will not do: the ids and the dynamic keys of task runs are new at every execution. Here an equal
    call of the flow gets an equal name whenever the flow run is executed. The count is taken where the call stands in
    the flow, since the tasks themselves may begin in any order.

    Args:
        arguments: those of the call. What another task is yet to give counts as just that.

    Returns:
        A JSON text; None outside a flow.
    """
    flow_run = flow_run_here()
    if flow_run is None:
        return None
    task = _task_here()
    with _lock:
        execution = _executions.setdefault((flow_run.id, flow_run.run_count), _Execution())
        while len(_executions) > _FLOW_RUNS:
            del _executions[next(iter(_executions))]
        around, where, tries = None, None, []
        if task is not None:
            around, where, tries = _name_of(task, execution), _execution_of(task), [task.task_run.run_count]
        kind = _digest([around, arguments.get("uri"), arguments.get("entry_point"), arguments.get("parameters")])
        return json.dumps([kind, execution.count(where, kind), tries])


def tries_of(call: str | None) -> tuple[int, ...]:
    """How often the task was executed that a call was made in; nothing if it was made in the flow itself."""
    return tuple(json.loads(call)[2]) if call is not None else ()


def key_of(call: str | None, arguments: Mapping[str, Any], place: Place | None) -> str:
    """The key that a task's run is submitted under: one step of one flow run.

    Args:
        call: the call's name.
        arguments: those of the call, with what other tasks gave.
        place: where the task is; None outside a flow.
    """
    if place is None or call is None:
        context = TaskRunContext.get()
        task_run_id = str(context.task_run.id) if context is not None else None
        return json.dumps(["prefect", None, task_run_id])
    kind, count, _ = json.loads(call)
    uri, entry_point = str(arguments["uri"]), str(arguments["entry_point"])
    digest = _digest([kind, arguments.get("parameters")])
    return json.dumps(["prefect", list(place.path), uri, entry_point, digest, count])


def called_by(key: str) -> tuple[str, str] | None:
    """The URI and the entry point that a key was made for; None if it is none of Prefect's, or made outside a flow."""
    return None if path_of(key) is None else (str(json.loads(key)[2]), str(json.loads(key)[3]))


def _task_here() -> TaskRunContext | None:
    """The task that this is called in, if not in the flow itself."""
    context, flow_context = TaskRunContext.get(), FlowRunContext.get()
    if context is None or (flow_context is not None and context.task_run.flow_run_id != _id_of(flow_context)):
        return None
    return context


def _execution_of(task: TaskRunContext) -> tuple[UUID, int]:
    return task.task_run.id, task.task_run.run_count


def _name_of(task: TaskRunContext, execution: _Execution) -> list[Any]:
    """A name for a task in which calls are made, equal in each of its tries."""
    flow_context = FlowRunContext.get()
    if flow_context is not None and flow_context.detached:
        # In a process of a task runner, which counts for itself: the task run's own id is all that tells it apart
        # from an equal one in another process.
        return [str(task.task_run.id)]
    name = [task.task.task_key, task.parameters]
    if task.task_run.id not in execution.tasks:
        execution.tasks[task.task_run.id] = execution.count("task", _digest(name))
    return [*name, execution.tasks[task.task_run.id]]


def _id_of(context: FlowRunContext) -> UUID | None:
    return getattr(context.flow_run, "id", None)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_word).encode()).hexdigest()[:32]


def _word(value: Any) -> Any:
    if isinstance(value, (PrefectFuture, State)):
        return {"yet to come": True}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
