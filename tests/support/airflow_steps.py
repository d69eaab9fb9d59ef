"""A project for tests of the Airflow tasks: it marks each start, prints, logs a metric, and ends as asked."""

import json
import textwrap
from pathlib import Path

MLPROJECT = """
name: steps
entry_points:
  main:
    parameters:
      mark: string
      seconds: {type: float, default: 0}
      code: {type: int, default: 0}
      alpha: {type: float, default: 0.5}
    command: "python step.py {mark} {seconds} {code} {alpha}"
"""

STEP = """
import json, os, sys, time, urllib.request

mark, seconds, code, alpha = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with open(mark, "a") as file:
    file.write(f"{os.getpid()}\\n")
with open(mark + ".environ", "w") as file:
    json.dump(dict(os.environ), file)
print("the first line", flush=True)
end, number = time.monotonic() + seconds, 0
while time.monotonic() < end:
    number += 1
    print(f"line {number} of {mark}", flush=True)
    time.sleep(min(0.25, max(0.0, end - time.monotonic())))
uri = os.environ.get("MLFLOW_TRACKING_URI")
if uri:
    body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "score", "value": alpha, "timestamp": int(time.time() * 1000)}
    request = urllib.request.Request(
        uri + "/api/2.0/mlflow/runs/log-metric",
        data=json.dumps(body).encode(), headers={"Content-Type": "application/json"},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()
with open(os.environ["MLPROJ_RESULT"], "w") as file:
    json.dump({"alpha": alpha, "lines": number}, file)
print(f"the last line, of {number + 2}", flush=True)
sys.exit(code)
"""


class Steps:
    """The project in the DAG bundle of a world, and the marks of its starts."""

    def __init__(self, airflow):
        self.airflow = airflow
        self.project = airflow.dags / "projects" / "steps"
        self.project.mkdir(parents=True)
        (self.project / "MLproject").write_text(MLPROJECT)
        (self.project / "step.py").write_text(STEP)
        self.marks = airflow.directory / "marks"
        self.marks.mkdir()

    def mark(self, name):
        """Where the step of this name leaves its marks."""
        return str(self.marks / name)

    def pids(self, name):
        """Pids of all processes that the step of this name was started in."""
        path = Path(self.mark(name))
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def environ(self, name):
        """The environment that the step of this name saw last."""
        return json.loads(Path(self.mark(name) + ".environ").read_text())

    def living(self, name):
        """Pids of the step's processes that run now."""
        return [pid for pid in self.pids(name) if _lives(pid)]

    def dag(self, dag_id, *tasks, arguments="", imports=""):
        """Write a DAG of these lines of Python, in which `mark(NAME)` is a step's mark; its id."""
        body = "\n".join(textwrap.indent(textwrap.dedent(task).strip(), "    ") for task in tasks)
        self.airflow.write_dag(
            dag_id,
            f"""
from datetime import timedelta
from airflow.sdk import DAG, Asset, task
from airflow_mlproj import MLProjectOperator, MLProjectRunSensor, mlproject_params
{imports}

def mark(name):
    return {str(self.marks)!r} + "/" + name

STEP = dict(uri="projects/steps", env_manager="local", retry_delay=timedelta(seconds=1))

with DAG({dag_id!r}, {arguments}):
{body}
""",
        )
        return dag_id


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
