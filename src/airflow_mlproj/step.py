"""Which step of which pipeline run a task instance is, and what its earlier tries left behind.

The words are those of the core's protocol: *key*, *turn*, *fresh_after* (`docs/protocol.md`).
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from airflow_mlproj.settings import SECTION, deployment_id
from mlproj_core.errors import MlprojError
from mlproj_core.handle import RunHandle

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["Step", "Store", "StoreUnreachable"]

_NONCE, _HANDLE, _CURSOR = "mlproj_nonce", "mlproj_handle", "mlproj_cursor"


class StoreUnreachable(MlprojError):
    """Airflow's task state store did not answer: whether an earlier try has started a run is not known."""


class Store:
    """What the tries of one task instance leave for each other, in Airflow's task state store.

    Its rows vanish with the DAG run, so that one which is deleted and created anew begins afresh.

    Raises:
        StoreUnreachable: from every method, if Airflow's API does not answer.
    """

    def __init__(self, accessor: Any) -> None:
        self._accessor = accessor

    def nonce(self) -> str:
        """What tells this task instance from all others that ever had or will have its ids."""
        if found := self._get(_NONCE):
            return str(found)
        self._set(_NONCE, uuid.uuid4().hex)
        return str(self._get(_NONCE))  # of two that were written at once, the one that stands

    @property
    def handle(self) -> RunHandle | None:
        """The run that the last try submitted or found."""
        value = self._get(_HANDLE)
        return None if value is None else RunHandle.from_dict(value)

    @handle.setter
    def handle(self, handle: RunHandle) -> None:
        self._set(_HANDLE, handle.to_dict())

    def cursor(self, handle: RunHandle) -> int:
        """How far this run's output stands in the logs of this task instance: an offset in bytes."""
        value = self._get(_CURSOR)
        return int(value["cursor"]) if value and value["attempt"] == handle.tag else 0

    def set_cursor(self, handle: RunHandle, cursor: int) -> None:
        """See `cursor`."""
        self._set(_CURSOR, {"attempt": handle.tag, "cursor": cursor})

    def _get(self, key: str) -> Any:
        try:
            return self._accessor.get(key)
        except Exception as error:
            raise _unreachable(error) from error

    def _set(self, key: str, value: Any) -> None:
        try:
            self._accessor.set(key, value, retention=NEVER_EXPIRE)
        except Exception as error:
            raise _unreachable(error) from error


@dataclass
class _Forgetful:
    """Stands in for the task state store where nothing is to be kept beyond this try."""

    values: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        self.values[key] = value


@dataclass(frozen=True)
class Step:
    """One task instance, as the core's `submit` wants to know it.

    Attributes:
        key: names the task instance, whichever try asks.
        turn: the number of this try.
        fresh_after: the number of the last try before the task was cleared; 0 if it never was.
        store: what earlier tries left, and where this one leaves it.
        retry_remains: whether another try comes if this one dies.
    """

    key: str
    turn: int
    fresh_after: int
    store: Store
    retry_remains: bool

    @classmethod
    def of(cls, context: Context, *, durable: bool) -> Step:
        """The step that runs in a context.

        Args:
            context: the task's.
            durable: whether tries share a run. If not, every try has a key of its own, and nothing is kept.

        Raises:
            StoreUnreachable: what earlier tries left cannot be read.
        """
        ti: Any = context["ti"]
        # Clearing sets max_tries to try_number + retries, and nothing else changes it.
        fresh_after = max(0, ti.max_tries - (ti.task.retries or 0))
        retry_remains = ti.try_number <= ti.max_tries
        store = Store(context["task_state_store"] if durable else _Forgetful())
        if not durable:
            origin = f"{store.nonce()} {ti.try_number}"
        elif deployment := deployment_id():
            # Never as a substitute in a bad moment: two names for one step would allow two runs.
            store, origin = Store(_Forgetful()), deployment
        else:
            origin = store.nonce()
        map_index = ti.map_index if ti.map_index is not None else -1
        key = json.dumps(["airflow", origin, ti.dag_id, ti.run_id, ti.task_id, map_index])
        return cls(key, ti.try_number, fresh_after, store, retry_remains)


def _unreachable(error: Exception) -> StoreUnreachable:
    return StoreUnreachable(
        f"Airflow's task state store could not be reached, so that it is not known whether an earlier try has started "
        f"a run: {error}. Nothing was started. If this Airflow has no such store, name it by [{SECTION}] deployment_id."
    )
