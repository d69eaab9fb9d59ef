"""No tracking store at all: runs have an id and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlproj_core.errors import UserError
from mlproj_core.status import Outcome
from mlproj_core.tracking.record import NewRun, RunRecord

if TYPE_CHECKING:
    from mlproj_core.tracking.models import ModelReference

__all__ = ["UNTRACKED_URI", "Untracked"]

UNTRACKED_URI = "untracked:"
"""Stands for "no store" where a tracking URI is stored or given."""


class Untracked:
    """Keeps no record. A child that uses MLflow by itself goes where its own environment sends it."""

    name = "untracked"
    uri = UNTRACKED_URI

    def __init__(self, notice: str | None = None) -> None:
        self.notice = notice

    @property
    def child_secrets(self) -> Mapping[str, str]:
        """None."""
        return {}

    @property
    def child_unset(self) -> tuple[str, ...]:
        """The run of an outer project must not be taken by the child for its own."""
        return ("MLFLOW_RUN_ID",)

    def child_variables(self, run_id: str, experiment_id: str) -> Mapping[str, str]:
        """Runs that the child starts through mlproj are untracked too."""
        return {"MLPROJ_TRACKING": "off"}

    def resolve_experiment(self, experiment_name: str | None = None, experiment_id: str | None = None) -> str:
        """There are no experiments."""
        return ""

    def create_run(self, new: NewRun) -> RunRecord:
        """A run with a fresh id."""
        return RunRecord(run_id=_uuid4_hex(), experiment_id="", tags=dict(new.tags), parameters=dict(new.parameters))

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
        """Nowhere to log them."""
        return ()

    def find_run(self, attempt: str, experiment_id: str) -> RunRecord | None:
        """Nothing was recorded."""
        return None

    def keep_one(self, attempt: str, experiment_id: str, run_id: str) -> None:
        """There are no others."""

    def search_runs(self, experiment_id: str, condition: str) -> Iterator[RunRecord]:
        """Nothing was recorded."""
        return iter(())

    def get_run(self, run_id: str) -> RunRecord:
        """A bare record of that id."""
        return RunRecord(run_id=run_id, experiment_id="")

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Nowhere to set them."""

    def settle(self, run_id: str, outcome: Outcome) -> None:
        """Nowhere to write it: the run's claim holds it."""

    def metrics(self, run_id: str) -> Mapping[str, float]:
        """None."""
        return {}

    def upload(
        self, run_id: str, path: Path, artifact_dir: str = "logs", artifact_uri: str | None = None
    ) -> str | None:
        """There is no artifact store, and none was asked for: nothing to report."""
        return None

    def model_location(self, model: ModelReference) -> str:
        """There is no registry.

        Raises:
            UserError: always.
        """
        raise UserError(f"Without a tracking server {model} cannot be found. Set MLFLOW_TRACKING_URI.")

    def run_url(self, experiment_id: str, run_id: str) -> str | None:
        """None."""
        return None

    def close(self) -> None:
        """Nothing is open."""


def _uuid4_hex() -> str:
    """What `uuid.uuid4().hex` gives (RFC 9562), without the 3 ms of importing uuid."""
    octets = bytearray(os.urandom(16))
    octets[6] = octets[6] & 0x0F | 0x40
    octets[8] = octets[8] & 0x3F | 0x80
    return octets.hex()
