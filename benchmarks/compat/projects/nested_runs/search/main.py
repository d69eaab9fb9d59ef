import argparse

import mlflow

parser = argparse.ArgumentParser()
parser.add_argument("--trials", type=int)
with mlflow.start_run(run_name="search"):
    scores = []
    for trial in range(parser.parse_args().trials):
        with mlflow.start_run(run_name=f"trial {trial}", nested=True):
            mlflow.log_param("depth", trial + 1)
            scores.append(1 / (trial + 1))
            mlflow.log_metric("score", scores[-1])
    mlflow.log_metric("best", max(scores))
