"""The labels by which an attempt's Job and pods are found, and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlproj_core.backends.kubernetes.names import label_value
from mlproj_core.handle import key_digest

if TYPE_CHECKING:
    from mlproj_core.claim import Claim

__all__ = ["ATTEMPT", "KEY", "MANAGED_BY", "RUN_ID", "Labels", "labels_of", "selector_of"]

MANAGED_BY = "app.kubernetes.io/managed-by"
KEY = "mlproj/key"
"""K: the same for all attempts of a key."""
ATTEMPT = "mlproj/attempt"
"""K-n: one attempt."""
RUN_ID = "mlproj/run-id"
"""The MLflow run's id; on the Job once it is recorded."""

OF_TAGS = {
    "airflow.dag_id": "mlproj/airflow-dag",
    "airflow.dag_run_id": "mlproj/airflow-run",
    "airflow.task_id": "mlproj/airflow-task",
    "airflow.map_index": "mlproj/airflow-map-index",
    "prefect.flow_name": "mlproj/prefect-flow",
    "prefect.flow_run_id": "mlproj/prefect-flow-run",
    "prefect.task_run_id": "mlproj/prefect-task-run",
}
"""Labels made of tags of the MLflow run.

They are mlproj's own, not those that the engines give their pods (`dag_id`, `prefect.io/flow-run-id`): by these the
engines take a pod for theirs, and act on its end.
"""


@dataclass(frozen=True)
class Labels:
    """Labels, and in full the values that cannot be labels.

    Attributes:
        labels: always valid.
        annotations: under a label's name, the value that it was made of; only where it is another.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def labels_of(
    claim: Claim,
    *,
    project: str | None = None,
    entry_point: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Labels:
    """The labels of an attempt's Job and pods.

    Args:
        claim: the attempt's.
        project: the project's name, if it has one.
        entry_point: the entry point's name.
        tags: the tags of the MLflow run, of which some are labels too.
    """
    values = {MANAGED_BY: "mlproj", KEY: key_digest(claim.key), ATTEMPT: claim.tag}
    values |= {name: text for name, text in (("mlproj/project", project), ("mlproj/entry-point", entry_point)) if text}
    values |= {OF_TAGS[tag]: str(text) for tag, text in (tags or {}).items() if tag in OF_TAGS and text}
    labels = {name: label_value(text) for name, text in values.items()}
    return Labels(labels, {name: text for name, text in values.items() if labels[name] != text})


def selector_of(key: str) -> str:
    """The label selector for all attempts of a key."""
    return f"{KEY}={key_digest(key)}"
