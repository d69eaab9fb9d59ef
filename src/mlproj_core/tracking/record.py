"""The values that pass between a run and its tracking store, and the store's interface."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from mlproj_core.status import Outcome
from mlproj_core.tracking.surroundings import surroundings

if TYPE_CHECKING:
    from mlproj_core.tracking.models import ModelReference

__all__ = ["ATTEMPT_TAG", "OUTCOME_TAG", "REUSE_TAG", "NewRun", "RunRecord", "Tracking", "run_page"]

ATTEMPT_TAG = "mlproj.attempt"
"""Tag that names the attempt `K-n` a run belongs to."""

OUTCOME_TAG = "mlproj.outcome"
"""Tag that holds the outcome of a run as JSON; it decides when the backend has forgotten the run."""


REUSE_TAG = "mlproj.reuse"
"""Tag that holds a digest of the commit, entry point and parameters of a run whose files were those of the commit."""


@dataclass(frozen=True)
class NewRun:
    """What a run is created with.

    Attributes:
        experiment_id: the experiment's id; None to use the name, or else the default experiment.
        experiment_name: the experiment's name; it is created if there is none of that name.
        run_name: None lets the store make one up, as MLflow does.
        tags: set at creation; `mlproj.attempt` among them makes the creation safe to repeat.
        parameters: logged right after creation.
        parent_run_id: id of the run this one is nested in.
        start_time: seconds since the epoch.
    """

    start_time: float
    experiment_id: str | None = None
    experiment_name: str | None = None
    run_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    parent_run_id: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run as its tracking store holds it.

    Attributes:
        run_id: 32 hex digits on MLflow's own stores.
        experiment_id: the experiment it belongs to; "" when untracked.
        status: the store's word: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
        artifact_uri: root of its artifacts; None when untracked.
        tags: all of its tags.
        parameters: all of its parameters.
        metrics: the latest value of each metric.
        url: its page in MLflow's UI; None for a store without one.
        warnings: what could not be recorded as asked, one sentence each.
    """

    run_id: str
    experiment_id: str
    status: str = "RUNNING"
    artifact_uri: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    url: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended, by its tag `mlproj.outcome`; None without a (readable) one."""
        try:
            return Outcome.from_dict(json.loads(self.tags[OUTCOME_TAG]))
        except (KeyError, TypeError, ValueError):
            return None


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """The address of a run's page in the UI of a tracking server, in the workspace of the environment."""
    page = f"{server}/#/experiments/{experiment_id}/runs/{run_id}"
    workspace = surroundings().get("MLFLOW_WORKSPACE", "").strip()
    return f"{page}?workspace={quote(workspace, safe='')}" if workspace not in ("", "default") else page


class Tracking(Protocol):
    """A place where runs are recorded. Every call may raise `TrackingError` or `TrackingRefused`.

    An object serves one process: after a fork the child connects anew.
    """

    @property
    def name(self) -> str:
        """How it is spoken to: "http", "mlflow" or "untracked"."""

    @property
    def uri(self) -> str:
        """Where it is: absolute, without credentials; `connect` takes it again in a later process."""

    @property
    def notice(self) -> str | None:
        """One line the user should see once, or None."""

    @property
    def child_secrets(self) -> Mapping[str, str]:
        """Variables with credentials that a child needs beside `child_variables`.

        They may only be passed on in a process's environment, never be written to a file or a log.
        """

    @property
    def child_unset(self) -> tuple[str, ...]:
        """Variables that must not be passed on to a child, since they contradict those it is given."""

    def child_variables(self, run_id: str, experiment_id: str) -> Mapping[str, str]:
        """Variables by which MLflow in a child process finds the store and the run. They hold no secret."""

    def resolve_experiment(self, experiment_name: str | None = None, experiment_id: str | None = None) -> str:
        """The id of the experiment to use, by the rules of `mlflow.run`; "" when untracked.

        A named one that does not exist is created. With neither given: the experiment set in this process
        by `mlflow.set_experiment`, MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID, then "0".

        Raises:
            UserError: both are given, or they contradict each other.
        """

    def create_run(self, new: NewRun) -> RunRecord:
        """Create a run with its tags and parameters.

        With the tag `mlproj.attempt` a creation whose answer was lost is looked up before it is repeated.
        """

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
        """Log a run's parameters, as `create_run` does; to repeat it is harmless.

        A value that is too long is cut, as MLflow's server does, and a parameter that the store does not take is
        left out: neither is worth a run.

        Returns:
            A warning for each parameter that was cut or left out.
        """

    def find_run(self, attempt: str, experiment_id: str) -> RunRecord | None:
        """The run with the tag `mlproj.attempt` = `attempt`; of several the oldest."""

    def keep_one(self, attempt: str, experiment_id: str, run_id: str) -> None:
        """Delete all runs with the tag `mlproj.attempt` = `attempt` but one, once nobody can take another for it.

        Which of two was created first, no server tells: whoever found one alone may go on with it while the other
        comes in. So they are only deleted when it is decided elsewhere which of them counts.
        """

    def search_runs(self, experiment_id: str, condition: str) -> Iterator[RunRecord]:
        """The runs of an experiment for which a condition holds, in MLflow's filter syntax; the newest first.

        They come in pages, each asked for when it is needed. Deleted runs are left out.
        """

    def get_run(self, run_id: str) -> RunRecord:
        """A run by its id.

        Raises:
            UserError: there is no such run.
        """

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags on a run that exists."""

    def settle(self, run_id: str, outcome: Outcome) -> None:
        """Write how a run ended: its tag `mlproj.outcome`, its status and its end time.

        It overrules what is there, and may be repeated. An outcome without a time is said to have ended now.

        Raises:
            TrackingRefused: it can never be written: the run was deleted, or there is no permission.
            TrackingError: not now; try again later.
        """

    def metrics(self, run_id: str) -> Mapping[str, float]:
        """The latest value of each of a run's metrics."""

    def upload(
        self, run_id: str, path: Path, artifact_dir: str = "logs", artifact_uri: str | None = None
    ) -> str | None:
        """Store the file as an artifact of the run; never raises for a store that cannot take it.

        Returns:
            None when it is stored, else why it is not, in one sentence.
        """

    def model_location(self, model: ModelReference) -> str:
        """The URI of a model's files, as its registry holds it.

        Raises:
            UserError: there is no such model, or no registry.
        """

    def run_url(self, experiment_id: str, run_id: str) -> str | None:
        """A run's page in the store's UI; None without one."""

    def close(self) -> None:
        """Close the connection, if one is open; the next call opens another."""
