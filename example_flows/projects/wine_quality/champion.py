"""Measure the present champion on the test table, by which a new model has to beat it."""

from __future__ import annotations

import argparse

import mlflow
from evaluate import measure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from register import CHAMPION
from results import leave_result


def has_champion(client: MlflowClient, model_name: str) -> bool:
    """Whether the registry has a champion of this name."""
    try:
        return CHAMPION in client.get_registered_model(model_name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-uri", required=True, help="artifact directory that the step `prepare` logged")
    parser.add_argument("--model-name", required=True, help="name in the model registry")
    arguments = parser.parse_args()

    with mlflow.start_run() as run:
        accuracy = None
        if has_champion(MlflowClient(), arguments.model_name):
            accuracy = measure(f"models:/{arguments.model_name}@{CHAMPION}", arguments.data_uri)
        leave_result(run_id=run.info.run_id, accuracy=accuracy)


if __name__ == "__main__":
    main()
