"""A project for tests of the engines' tasks: it marks each start, prints, logs a metric, and ends as asked."""

import json
from pathlib import Path

from processes import lives

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
if os.path.exists(mark + ".fails"):
    os.remove(mark + ".fails")
    sys.exit(1)
sys.exit(code)
"""


class Steps:
    """The project, and the marks of its starts.

    Args:
        project: directory to write it to.
        marks: directory for the marks.
    """

    def __init__(self, project, marks):
        self.project = project
        self.project.mkdir(parents=True)
        (self.project / "MLproject").write_text(MLPROJECT)
        (self.project / "step.py").write_text(STEP)
        self.marks = marks
        self.marks.mkdir()

    def mark(self, name):
        """Where the step of this name leaves its marks."""
        return str(self.marks / name)

    def fails_once(self, name):
        """Let the next start of the step of this name fail."""
        Path(self.mark(name) + ".fails").touch()

    def pids(self, name):
        """Pids of all processes that the step of this name was started in."""
        path = Path(self.mark(name))
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def environ(self, name):
        """The environment that the step of this name saw last."""
        return json.loads(Path(self.mark(name) + ".environ").read_text())

    def living(self, name):
        """Pids of the step's processes that run now."""
        return [pid for pid in self.pids(name) if lives(pid)]
