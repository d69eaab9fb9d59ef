import sys

import mlflow

alpha, l1_ratio = map(float, sys.argv[1:3])
with mlflow.start_run() as run:
    mlflow.log_param("solver", "sgd")
    for step in range(3):
        mlflow.log_metric("loss", alpha / (step + 1), step=step)
    mlflow.log_metric("penalty", l1_ratio)
    mlflow.log_dict({"alpha": alpha}, "model/weights.json")
    mlflow.set_tag("team", "wine")
