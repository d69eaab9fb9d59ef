"""Train a classifier on the prepared table, cross-validate it, and log the model."""

from __future__ import annotations

import argparse

import mlflow
import mlflow.sklearn
import pandas as pd
from mlflow.models import infer_signature
from results import leave_result
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-uri", required=True, help="artifact directory that the step `prepare` logged")
    parser.add_argument("--penalty", type=float, required=True, help="strength of the L2 penalty, above 0")
    parser.add_argument("--max-iterations", type=int, required=True)
    parser.add_argument("--class-weight", choices=["none", "balanced"], required=True)
    arguments = parser.parse_args()

    table = pd.read_csv(mlflow.artifacts.download_artifacts(f"{arguments.data_uri}/train.csv"))
    features, target = table.drop(columns="target"), table["target"]
    weight = None if arguments.class_weight == "none" else arguments.class_weight
    classifier = LogisticRegression(C=1 / arguments.penalty, max_iter=arguments.max_iterations, class_weight=weight)
    model = make_pipeline(StandardScaler(), classifier)
    with mlflow.start_run() as run:
        scores = cross_val_score(model, features, target, cv=5)
        mlflow.log_metrics({"cv_accuracy": scores.mean(), "cv_accuracy_std": scores.std()})
        model.fit(features, target)
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            serialization_format="skops",
            signature=infer_signature(features, model.predict(features)),
            pip_requirements=mlflow.sklearn.get_default_pip_requirements(include_skops=True),
        )
        leave_result(run_id=run.info.run_id, model_uri=logged.model_uri, cv_accuracy=scores.mean())


if __name__ == "__main__":
    main()
