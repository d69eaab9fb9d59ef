import os
from pathlib import Path

wanted = ["MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "PIPELINE_OWNER", "STAGE"]
Path("variables.txt").write_text("\n".join(f"{name} {os.environ.get(name, 'is not set')}" for name in wanted))
