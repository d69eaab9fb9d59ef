"""Retrain the wine model every week: a sweep, whose best model becomes the champion if it beats the present one.

Run as a program this serves the flow: it is run every Monday, and whenever somebody asks for it in Prefect's UI.
PREFECT_API_URL names Prefect's server, MLFLOW_TRACKING_URI the tracking server. Each step of the project is a run in
MLflow, and works in the environment that the project asks for: Prefect's own needs neither mlflow nor scikit-learn.
"""

from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger, task
from prefect.assets import Asset, AssetProperties
from pydantic import Field

from prefect_mlproj import ProjectResult, cancel_runs, run_project

PROJECT = str(Path(__file__).parents[1] / "projects" / "wine_quality")  # a Git URL would do as well
EXPERIMENT = "wine_quality"
PENALTIES = [0.1, 1.0, 10.0]

# Of all tasks that run the project. A retry goes on with the run of the try before it, and starts another only if that
# has failed. `run_name` names the run in MLflow; here it names the task run as well.
step = run_project.with_options(task_run_name="{run_name}", retries=1, retry_delay_seconds=10)

# Prefect shows when the champion was replaced, by which flow run, with the run's id and its metrics.
CHAMPION = Asset(key="mlflow://models/wine_quality/champion", properties=AssetProperties(name="wine_quality champion"))
register = step.with_options(assets=[CHAMPION])


@task(task_run_name="best")
def best(models: list[ProjectResult], evaluations: list[ProjectResult]) -> int:
    """Which model to register: that with the best accuracy, of several the one with the smallest loss."""
    if not len(models) == len(evaluations):
        raise ValueError("There has to be one evaluation for each model.")
    metrics = [evaluation.metrics for evaluation in evaluations]
    return max(range(len(models)), key=lambda index: (metrics[index]["accuracy"], -metrics[index]["log_loss"]))


# Cancelling a run of the flow ends all that it has started, also when its process was killed.
@flow(name="wine_quality_retraining", on_cancellation=[cancel_runs])
def retraining(
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25,
    seed: int = 42,
    penalties: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = PENALTIES,
    min_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.9,
) -> ProjectResult | None:
    """Train, evaluate and compare; register what beats the champion.

    Args:
        test_fraction: share of the rows kept for the test.
        seed: of the split into training and test rows.
        penalties: strengths of the L2 penalty to try.
        min_accuracy: no worse model is registered.

    Returns:
        What the registration left; None if no model was registered.
    """
    log = get_run_logger()
    prepared = step(
        PROJECT,
        "prepare",
        parameters={"test_fraction": test_fraction, "seed": seed},
        experiment_name=EXPERIMENT,
        run_name="prepare",
    )
    data_uri = prepared.result["data_uri"]

    # Measured anew: what it reached when it was registered may have been for another test table.
    measured = step.submit(
        PROJECT, "champion", parameters={"data_uri": data_uri}, experiment_name=EXPERIMENT, run_name="champion"
    )
    models = step.map(
        PROJECT,
        "train",
        parameters=[{"data_uri": data_uri, "penalty": penalty} for penalty in penalties],
        experiment_name=EXPERIMENT,
        run_name=[f"train, penalty {penalty}" for penalty in penalties],
    ).result()
    evaluations = step.map(
        PROJECT,
        "evaluate",
        parameters=[{"data_uri": data_uri, "model_uri": model.result["model_uri"]} for model in models],
        experiment_name=EXPERIMENT,
        run_name=[f"evaluate, penalty {penalty}" for penalty in penalties],
        tags=[{"penalty": str(penalty)} for penalty in penalties],
    ).result()

    chosen, champion = best(models, evaluations), measured.result()
    accuracy, rival = evaluations[chosen].metrics["accuracy"], champion.result["accuracy"]
    log.info("The best model's accuracy is %s, the champion's %s (None: there is none yet)", accuracy, rival)
    if accuracy < min_accuracy or (rival is not None and accuracy <= rival):
        log.info("The champion stays.")
        return None
    return register(
        PROJECT,
        "register",
        parameters={
            "model_uri": models[chosen].result["model_uri"],
            "evaluation_run_id": evaluations[chosen].run_id,
            "champion_run_id": champion.run_id,
            "min_accuracy": min_accuracy,
        },
        experiment_name=EXPERIMENT,
        run_name="register",
    )


if __name__ == "__main__":
    # One run at a time: two at once would be compared with the same champion.
    retraining.serve(name="weekly", cron="0 6 * * 1", limit=1)
