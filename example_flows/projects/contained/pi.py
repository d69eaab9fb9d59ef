"""Estimates pi, in whatever Python there is: the image needs nothing of mlflow, nor of mlproj."""

import argparse
import json
import os
import random
import time
import urllib.request
from pathlib import Path


def log_metric(name, value):
    """Log a metric of this run by MLflow's REST API, if the run is tracked by a server."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server.startswith("http"):
        metric = {
            "run_id": os.environ["MLFLOW_RUN_ID"], "key": name, "value": value, "timestamp": int(time.time() * 1000)
        }  # fmt: skip
        request = urllib.request.Request(
            f"{server.rstrip('/')}/api/2.0/mlflow/runs/log-metric",
            data=json.dumps(metric).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()


parser = argparse.ArgumentParser()
parser.add_argument("--points", type=float, required=True)
points = int(parser.parse_args().points)

chance = random.Random(1)
inside = sum(chance.random() ** 2 + chance.random() ** 2 < 1 for _ in range(points))
estimate = 4 * inside / points
log_metric("pi", estimate)
print(f"pi is about {estimate:.3f}")
Path(os.environ["MLPROJ_RESULT"]).write_text(json.dumps({"pi": estimate}))
