import argparse
from pathlib import Path

import mlflow

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int)
rows = parser.parse_args().rows
with mlflow.start_run():
    Path("data.csv").write_text("".join(f"{i},{2 * i}\n" for i in range(rows)))
    mlflow.log_artifact("data.csv")
