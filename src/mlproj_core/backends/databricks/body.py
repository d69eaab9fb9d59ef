"""The request that submits a run: one task, and the name and the idempotency token by which the run is one and found.

It is checked against the SDK's dataclasses in the tests, and not made by them: those of an older version lack fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlproj_core.backends.databricks.names import run_name

__all__ = ["TASK", "submit_body"]

TASK = "main"
"""The key of the one task."""


def submit_body(
    attempt: str,
    *,
    title: str,
    python_file: str,
    parameters: Sequence[str],
    compute: Mapping[str, Any],
    settings: Mapping[str, Any],
    timeout: float | None = None,
    git_source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of `POST /api/2.2/jobs/runs/submit`.

    Args:
        attempt: the attempt's native name, `mlproj-K-n`: the idempotency token, which has at most 64 characters.
        title: what people call the run.
        python_file: the file that the task runs: a path in the workspace, a volume or DBFS, or, with a `git_source`, in
            the repository.
        parameters: its arguments.
        compute: what of the task says where it runs: `new_cluster`, `existing_cluster_id` or `environment_key`, and
            `libraries`.
        settings: what else is said of the run, by the API's own names; its `timeout_seconds` is kept if it is shorter.
        timeout: seconds after which Databricks ends the run; None: no limit.
        git_source: the repository that `python_file` is in; None if it is in none.
    """
    task = {
        "task_key": TASK,
        **compute,
        "spark_python_task": {
            "python_file": python_file,
            "parameters": list(parameters),
            "source": "WORKSPACE" if git_source is None else "GIT",
        },
        # A try of Databricks' own would be a second run under one MLflow run.
        "max_retries": 0,
    }
    limits = [limit for limit in (settings.get("timeout_seconds"), timeout) if limit]
    return {
        **settings,
        "run_name": run_name(title, attempt),
        "idempotency_token": attempt,
        **({"timeout_seconds": math.ceil(min(limits))} if limits else {}),
        **({"git_source": dict(git_source)} if git_source is not None else {}),
        "tasks": [task],
    }
