import argparse

import mlflow

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int)
parser.add_argument("--alpha", type=float)
arguments = parser.parse_args()

with mlflow.start_run() as parent:
    mlflow.set_tag("kind", "pipeline")
    mlflow.projects.run(".", "prepare", parameters={"rows": arguments.rows}, env_manager="local")
    train = mlflow.projects.run(
        ".", "train", parameters={"data": "data.csv", "alpha": arguments.alpha}, env_manager="local"
    )
    rmse = mlflow.get_run(train.run_id).data.metrics["rmse"]
    mlflow.log_metric("best_rmse", rmse)
