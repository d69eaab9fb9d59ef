"""Whether a run outlives its task, and whether the task may leave its worker meanwhile.

A remote run always outlives its task. A local one lives on the worker's host: where every task runs on one host, it
can be found again by a retry or by the triggerer there; elsewhere it must end with its task, so that a retry on
another host may start anew without a twin.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlproj_core.errors import UserError

__all__ = ["Placement", "place"]


@dataclass(frozen=True)
class Placement:
    """Where a run and its task wait.

    Attributes:
        tethered: whether the run ends with the task's process.
        defers: whether the task waits in the triggerer.
    """

    tethered: bool
    defers: bool


def place(
    *,
    backend: str,
    one_host: bool,
    retry_remains: bool,
    durable: bool,
    waits: bool,
    deferrable: bool | None,
    defers_by_default: bool,
    detach: bool | None,
) -> Placement:
    """Decide.

    Args:
        backend: where the project runs.
        one_host: whether all tasks run on one host.
        retry_remains: whether another try comes if this one dies.
        durable: whether tries share a run.
        waits: whether the task waits for the run's end.
        deferrable: what the operator was told; None if nothing.
        defers_by_default: Airflow's setting `operators.default_deferrable`.
        detach: what `backend_config` says; None if nothing.

    Raises:
        UserError: the operator was told what cannot be had here.
    """
    if backend != "local":
        return Placement(tethered=False, defers=waits and (defers_by_default if deferrable is None else deferrable))
    # Airflow's default for all operators is no reason to give up a local run's tether.
    defers = waits and deferrable is True
    leaves = defers or not waits
    if leaves and not one_host:
        wish = "deferrable=True" if defers else "wait_for_completion=False"
        raise UserError(
            f"{wish} cannot be had for the backend 'local' here: a local run lives on its worker's host, and this "
            "Airflow runs tasks on more than one (its executor is not the LocalExecutor alone). Leave the task in its "
            "worker, or choose a backend that is not bound to a host."
        )
    if leaves and detach is False:
        wish = "deferrable=True" if defers else "wait_for_completion=False"
        raise UserError(
            f"backend_config={{'detach': False}} and {wish} contradict each other: the run would end when its task "
            "leaves the worker. Leave one of them out."
        )
    if leaves:
        return Placement(tethered=False, defers=defers)
    comes_back = one_host and durable and retry_remains
    return Placement(tethered=not (comes_back if detach is None else detach), defers=False)
