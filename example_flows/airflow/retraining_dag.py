"""Retrain the wine model every week: a sweep, whose best model becomes the champion if it beats the present one.

The DAG's bundle has its root at `example_flows/`. Each step of the project is a run in MLflow, and works in the
environment that the project asks for: Airflow itself needs neither mlflow nor scikit-learn.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, Context, Param, dag, task

from airflow_mlproj import MLProjectOperator, mlproject_params
from airflow_mlproj.links import MLflowRunLink

log = logging.getLogger(__name__)


def log_reason(context: Context) -> None:
    """Say why a task failed for good, and where to look; instead of to a log this could go to people."""
    ti, error = context["ti"], context.get("exception")
    reason = getattr(error, "reason", None)  # of a run that ended badly; any other error has its text alone
    page = ti.xcom_pull(key=MLflowRunLink.xcom_key, task_ids=ti.task_id, map_indexes=ti.map_index)
    why = f"{reason.code}: {reason.message}" if reason else error
    log.error("%s failed: %s. In MLflow: %s. In Airflow: %s", ti.task_id, why, page or "no run", ti.log_url)


@dag(
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    max_active_runs=1,  # two at once would be compared with the same champion
    doc_md=__doc__,
    # Who triggers it by hand is asked for these, in a form with the types and defaults that the project declares.
    params={
        **mlproject_params(Path(__file__).parents[1] / "projects" / "wine_quality", "prepare"),
        "penalties": Param(
            [0.1, 1.0, 10.0],
            type="array",
            items={"type": "number", "exclusiveMinimum": 0},
            minItems=1,
            description="strengths of the L2 penalty to try",
        ),
        "min_accuracy": Param(0.9, type="number", minimum=0, maximum=1, description="no worse model is registered"),
    },
    default_args={
        "retries": 1,  # goes on with the run of the try before it, and starts another only if that has failed
        "retry_delay": timedelta(minutes=1),
        "on_failure_callback": log_reason,
        # Of all tasks that run the project:
        "uri": "projects/wine_quality",
        "mlflow_conn_id": "mlflow_default",
        "experiment_name": "wine_quality",
        "run_name": "{{ task.task_id }}",
    },
)
def wine_quality_retraining() -> None:
    prepare = MLProjectOperator(
        task_id="prepare",
        entry_point="prepare",
        parameters={"test_fraction": "{{ params.test_fraction }}", "seed": "{{ params.seed }}"},
    )
    prepared = prepare.output["result"]  # what the project left; its fields are known only when it has run

    @task
    def sweep(prepared: dict[str, Any], **context: Any) -> list[dict[str, Any]]:
        """The parameters of each training."""
        return [{"data_uri": prepared["data_uri"], "penalty": penalty} for penalty in context["params"]["penalties"]]

    candidates = sweep(prepared)
    train = MLProjectOperator.partial(
        task_id="train",
        entry_point="train",
        run_name="train, penalty {{ task.parameters['penalty'] }}",
        map_index_template="penalty {{ task.parameters['penalty'] }}",
    ).expand(parameters=candidates)

    def evaluation(pair: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
        """How to evaluate a candidate, from its parameters and what its training returned."""
        candidate, trained = pair
        return {
            "parameters": {"data_uri": candidate["data_uri"], "model_uri": trained["result"]["model_uri"]},
            "tags": {"penalty": str(candidate["penalty"])},
        }

    evaluate = MLProjectOperator.partial(
        task_id="evaluate",
        entry_point="evaluate",
        run_name="evaluate, penalty {{ task.tags['penalty'] }}",
        map_index_template="penalty {{ task.tags['penalty'] }}",
    ).expand_kwargs(candidates.zip(train.output).map(evaluation))

    # Measured anew: what it reached when it was registered may have been for another test table.
    @task.mlproject(entry_point="champion")
    def champion(prepared: dict[str, Any]) -> dict[str, Any]:
        return {"data_uri": prepared["data_uri"]}

    present = champion(prepared)

    @task
    def best(models: Any, evaluations: Any) -> dict[str, Any]:
        """What to register: the model with the best accuracy, of several the one with the smallest loss."""
        # These sequences are lazy: `[:]` fetches all of one at once.
        model, found = max(
            zip(models[:], evaluations[:], strict=True),
            key=lambda pair: (pair[1]["metrics"]["accuracy"], -pair[1]["metrics"]["log_loss"]),
        )
        return {
            "model_uri": model["model_uri"],
            "evaluation_run_id": found["run_id"],
            "accuracy": found["metrics"]["accuracy"],
        }

    chosen = best(train.output["result"], evaluate.output)

    @task.branch
    def is_better(chosen: dict[str, Any], present: dict[str, Any], **context: Any) -> str | None:
        """The task to go on with; None skips what follows."""
        accuracy, rival, least = chosen["accuracy"], present["accuracy"], context["params"]["min_accuracy"]
        log.info("The best model's accuracy is %s, the champion's %s (None: there is none yet)", accuracy, rival)
        return "register" if accuracy >= least and (rival is None or accuracy > rival) else None

    register = MLProjectOperator(
        task_id="register",
        entry_point="register",
        parameters={
            "model_uri": chosen["model_uri"],
            "evaluation_run_id": chosen["evaluation_run_id"],
            "champion_run_id": present["run_id"],
            "min_accuracy": "{{ params.min_accuracy }}",
        },
        # Starts the DAGs that are scheduled on it, with this run's id and metrics in the event's `extra`.
        outlets=[Asset("wine_quality_champion", uri="models:/wine_quality@champion")],
    )
    is_better(chosen, present["result"]) >> register


retraining = wine_quality_retraining()

if __name__ == "__main__":
    # All of it in this process, with no scheduler. AIRFLOW__CORE__DAGS_FOLDER must name `example_flows/`.
    retraining.test()
