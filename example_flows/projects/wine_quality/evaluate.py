"""Measure a logged model on the test table, which training never saw."""

from __future__ import annotations

import argparse

import mlflow
import mlflow.sklearn
import pandas as pd
from results import leave_result
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss


def measure(model_uri: str, data_uri: str) -> float:
    """Log a model's metrics on the test table to the present run.

    Returns:
        Its accuracy.
    """
    table = pd.read_csv(mlflow.artifacts.download_artifacts(f"{data_uri}/test.csv"))
    features, target = table.drop(columns="target"), table["target"]
    model = mlflow.sklearn.load_model(model_uri)
    predicted = model.predict(features)
    accuracy = float(accuracy_score(target, predicted))
    mlflow.log_metrics(
        {
            "accuracy": accuracy,
            "f1_macro": f1_score(target, predicted, average="macro"),
            "log_loss": log_loss(target, model.predict_proba(features)),
        }
    )
    matrix = confusion_matrix(target, predicted).tolist()
    mlflow.log_dict({"rows": "true class", "columns": "predicted class", "counts": matrix}, "confusion_matrix.json")
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-uri", required=True, help="artifact directory that the step `prepare` logged")
    parser.add_argument("--model-uri", required=True, help="model that the step `train` logged")
    arguments = parser.parse_args()

    with mlflow.start_run() as run:
        leave_result(run_id=run.info.run_id, accuracy=measure(arguments.model_uri, arguments.data_uri))


if __name__ == "__main__":
    main()
