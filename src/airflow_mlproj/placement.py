"""Whether a run outlives its task, and whether the task may leave its worker meanwhile.

A remote run always outlives its task. A local one lives on the worker's host: where every task runs on one host, it
can be found again by a retry or by the triggerer there; elsewhere it must end with its task, so that a retry on
another host may start anew without a twin. A container on an engine that every host reaches is found again from each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlproj_core.errors import UserError
from mlproj_core.status import Phase

if TYPE_CHECKING:
    from mlproj_core.runs import SubmittedRun

__all__ = ["Placement", "engine_is_remote", "is_found_from_elsewhere", "place"]


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
    runs_here: bool,
    findable: bool,
    retry_remains: bool,
    durable: bool,
    waits: bool,
    deferrable: bool | None,
    defers_by_default: bool,
    detach: bool | None,
) -> Placement:
    """Decide.

    Args:
        runs_here: whether the run is on the worker's host, or is looked after from there.
        findable: whether such a run is found again wherever the next try, or the triggerer, may be.
        retry_remains: whether another try comes if this one dies.
        durable: whether tries share a run.
        waits: whether the task waits for the run's end.
        deferrable: what the operator was told; None if nothing.
        defers_by_default: Airflow's setting `operators.default_deferrable`.
        detach: what `backend_config` says; None if nothing.

    Raises:
        UserError: the operator was told what cannot be had here.
    """
    if not runs_here:
        return Placement(tethered=False, defers=waits and (defers_by_default if deferrable is None else deferrable))
    # Airflow's default for all operators is no reason to give up a local run's tether.
    defers = waits and deferrable is True
    leaves = defers or not waits
    if leaves and not findable:
        wish = "deferrable=True" if defers else "wait_for_completion=False"
        raise UserError(
            f"{wish} cannot be had for the backend 'local' here: a local run lives on its worker's host, and this "
            "Airflow runs tasks on more than one (its executor is not the LocalExecutor alone). Leave the task in its "
            "worker, choose a backend that is not bound to a host, or run the project in a container on a Docker "
            "engine that every host reaches by the same DOCKER_HOST."
        )
    if leaves and detach is False:
        wish = "deferrable=True" if defers else "wait_for_completion=False"
        raise UserError(
            f"backend_config={{'detach': False}} and {wish} contradict each other: the run would end when its task "
            "leaves the worker. Leave one of them out."
        )
    if leaves:
        return Placement(tethered=False, defers=defers)
    comes_back = findable and durable and retry_remains
    return Placement(tethered=not (comes_back if detach is None else detach), defers=False)


def engine_is_remote(environ: Mapping[str, str]) -> bool:
    """Whether the Docker engine of this process is reached over a network, and so by other hosts too.

    Args:
        environ: the variables that say which engine it is.
    """
    from mlproj_core.containers.engine import engine_host, is_local

    try:
        return not is_local(engine_host(environ))
    except UserError:  # Docker's configuration names none; a project that needs one will be told
        return False


def is_found_from_elsewhere(run: SubmittedRun) -> bool:
    """Whether a run that is to be found from other hosts can be by now.

    Until its container is at work, whoever fetches the image is on the worker's host, and may end with the task's.
    """
    from airflow_mlproj.settings import runs_on_one_host

    return "container" not in run.handle.ref or runs_on_one_host() or run.phase in (Phase.RUNNING, Phase.ENDED)
