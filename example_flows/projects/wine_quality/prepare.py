"""Split the wine data into a training and a test table, and log both as artifacts."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import mlflow
from results import leave_result
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test-fraction", type=float, required=True, help="share of the rows kept for the test")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()

    table = load_wine(as_frame=True).frame
    train, test = train_test_split(
        table, test_size=arguments.test_fraction, random_state=arguments.seed, stratify=table["target"]
    )
    with mlflow.start_run() as run, tempfile.TemporaryDirectory() as directory:
        train.to_csv(Path(directory, "train.csv"), index=False)
        test.to_csv(Path(directory, "test.csv"), index=False)
        mlflow.log_artifacts(directory, "data")
        mlflow.log_metrics({"train_rows": len(train), "test_rows": len(test)})
        leave_result(run_id=run.info.run_id, data_uri=f"runs:/{run.info.run_id}/data")


if __name__ == "__main__":
    main()
