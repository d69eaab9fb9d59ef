"""Which experiment a run belongs to, by MLflow's rules."""

from __future__ import annotations

import os
import sys
from typing import Protocol

from mlproj_core.errors import UserError

__all__ = ["Experiments", "experiment_id_of"]

_DEFAULT_ID = "0"


class Experiments(Protocol):
    """A store's experiments by name."""

    def experiment_by_name(self, name: str) -> str | None:
        """The id of the active experiment of that name."""

    def create_experiment(self, name: str) -> str:
        """Create one and give its id."""


def experiment_id_of(experiments: Experiments, name: str | None, experiment_id: str | None) -> str:
    """See `Tracking.resolve_experiment`; `mlflow.projects._resolve_experiment_id` sets the rules.

    An id is not looked up: the creation of the run says whether it exists.
    """
    if name and experiment_id:
        raise UserError(f"Give the experiment's name ({name!r}) or its id ({experiment_id!r}), not both.")
    if experiment_id:
        return str(experiment_id)
    if name:
        return experiments.experiment_by_name(name) or experiments.create_experiment(name)
    if active := _set_in_this_process():
        return active
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if not name:
        return experiment_id or _DEFAULT_ID
    found = experiments.experiment_by_name(name)
    if found and experiment_id and found != experiment_id:
        raise UserError(
            f"MLFLOW_EXPERIMENT_NAME is {name!r}, whose id is {found}, but MLFLOW_EXPERIMENT_ID is "
            f"{experiment_id}. Unset one of them."
        )
    return found or experiments.create_experiment(name)


def _set_in_this_process() -> str | None:
    # What mlflow.set_experiment set; mlflow has no public way to ask without creating something.
    fluent = sys.modules.get("mlflow.tracking.fluent")
    active = getattr(fluent, "_active_experiment_id", None)
    return None if active is None else str(active)
