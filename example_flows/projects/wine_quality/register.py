"""Register a model that is good enough, and make it the champion if it beats the present one."""

from __future__ import annotations

import argparse

import mlflow
from mlflow import MlflowClient
from results import leave_result

CHAMPION = "champion"


def champion_accuracy(client: MlflowClient, model_name: str, run_id: str | None) -> float | None:
    """Test accuracy of the present champion, by a run that measured it or else as it was when it was registered.

    None when there is no champion.
    """
    if run_id is not None:
        return client.get_run(run_id).data.metrics.get("accuracy")
    version = client.get_registered_model(model_name).aliases.get(CHAMPION)
    return None if version is None else float(client.get_model_version(model_name, version).tags["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-uri", required=True, help="model that the step `train` logged")
    parser.add_argument("--evaluation-run-id", required=True, help="run of the step `evaluate` for this model")
    parser.add_argument("--champion-run-id", required=True, help="run of the step `champion` on the same data; or none")
    parser.add_argument("--model-name", required=True, help="name in the model registry")
    parser.add_argument("--min-accuracy", type=float, required=True, help="a worse model is refused")
    arguments = parser.parse_args()

    client = MlflowClient()
    with mlflow.start_run() as run:
        accuracy = client.get_run(arguments.evaluation_run_id).data.metrics["accuracy"]
        if accuracy < arguments.min_accuracy:
            raise SystemExit(f"Not registered: accuracy {accuracy:.3f} is below {arguments.min_accuracy}")
        tags = {"accuracy": str(accuracy), "evaluation_run_id": arguments.evaluation_run_id}
        version = mlflow.register_model(arguments.model_uri, arguments.model_name, tags=tags).version
        measured = None if arguments.champion_run_id == "none" else arguments.champion_run_id
        best = champion_accuracy(client, arguments.model_name, measured)
        promoted = best is None or accuracy > best
        if promoted:
            client.set_registered_model_alias(arguments.model_name, CHAMPION, version)
        mlflow.log_metrics({"accuracy": accuracy, "promoted": float(promoted)})
        leave_result(run_id=run.info.run_id, model=arguments.model_name, version=str(version), champion=promoted)


if __name__ == "__main__":
    main()
