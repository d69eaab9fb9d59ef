"""What a run leaves, as the value of a Prefect task."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mlproj_core.runs import SubmittedRun

__all__ = ["METRICS_PATIENCE", "ProjectResult"]

METRICS_PATIENCE = 60.0
"""Seconds for which the metrics of a finished run are asked for again and again."""


class ProjectResult(BaseModel):
    """What a finished run left; small, and the same in JSON.

    Attributes:
        run_id: the MLflow run's id.
        status: "FINISHED".
        experiment_id: the experiment's id; None when untracked.
        artifact_uri: root of the run's artifacts; None when untracked.
        tracking_url: the run's page; None if there is none.
        metrics: the latest value of each metric; empty when untracked.
        result: the JSON object that the project left at `MLPROJ_RESULT`; None if it left none.
        handle: the run's handle, by which any process finds it again.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    run_id: str
    status: str
    experiment_id: str | None = None
    artifact_uri: str | None = None
    tracking_url: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    result: dict[str, Any] | None = None
    handle: dict[str, Any]

    @classmethod
    def of(cls, run: SubmittedRun) -> ProjectResult:
        """The result of a run that finished.

        Raises:
            ExecutionException: it is not over, or did not finish.
            TrackingError: the tracking server does not give its metrics.
        """
        left = run.result(patience=METRICS_PATIENCE)
        return cls(
            run_id=left.run_id,
            status=str(left.status),
            experiment_id=left.experiment_id,
            artifact_uri=left.artifact_uri,
            tracking_url=left.tracking_url,
            metrics=dict(left.metrics),
            result=dict(left.result) if left.result is not None else None,
            handle=run.handle.to_dict(),
        )
