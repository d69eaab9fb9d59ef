"""What `mlproj run` leaves on a tracking server is what `mlflow run` leaves, but for a documented list."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "tracking.md"

OURS_ALONE = {"tags": {"mlproj.attempt", "mlproj.outcome"}, "artifacts": {"logs"}}
"""What our run has and MLflow's has not; each is named in docs/tracking.md."""

DIFFERENT_BY_NATURE = {"run_id", "run_uuid", "run_name", "start_time", "end_time", "artifact_uri"}

TRAIN = """
import sys, mlflow
with mlflow.start_run():
    mlflow.log_param("inside", "yes")
    mlflow.log_metric("rmse", 0.25)
    mlflow.set_tag("stage", "trained")
    mlflow.log_text("weights", "model/weights.txt")
    mlflow.end_run(sys.argv[2])
sys.exit(int(sys.argv[1]))
"""

MLPROJECT = """
name: parity
entry_points:
  main:
    parameters:
      code: {type: int, default: 0}
      word: {type: string, default: "two words"}
    command: "python train.py {code} FINISHED && echo {word}"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in a subdirectory of a Git repository that has a remote, as most projects are."""
    root = tmp_path_factory.mktemp("repository")
    directory = root / "projects" / "parity"
    directory.mkdir(parents=True)
    (directory / "MLproject").write_text(MLPROJECT)
    (directory / "train.py").write_text(TRAIN)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (
        ["init", "-q", "-b", "trunk"],
        ["remote", "add", "origin", "https://example.org/team/repository.git"],
        ["add", "."],
        [*identity, "commit", "-q", "-m", "one"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return directory


class Server:
    def __init__(self, uri, python, environment, scratch):
        self.uri, self.scratch = uri, scratch
        self.experiments = 0
        self.environment = {
            **environment,
            "MLFLOW_TRACKING_URI": uri,
            "MLPROJ_STATE_DIR": str(scratch / "state"),
            "MLPROJ_CACHE_DIR": str(scratch / "cache"),
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.mlflow = str(Path(python).with_name("mlflow"))
        self.mlproj = str(Path(sys.executable).with_name("mlproj"))

    def call(self, path, body):
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def run_left_by(self, program, project, *options):
        """The run that a program leaves: its info, tags, params, metrics and artifacts, and its exit code."""
        self.experiments += 1
        name = f"parity-{self.experiments}"
        command = [getattr(self, program), "run", str(project), "--env-manager", "local", "--experiment-name", name]
        done = subprocess.run(
            [*command, *options], env=self.environment, cwd=self.scratch, capture_output=True, text=True, timeout=120
        )
        request = urllib.request.Request(f"{self.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}")
        with urllib.request.urlopen(request) as answer:
            experiment = json.load(answer)["experiment"]["experiment_id"]
        (run,) = self.call("runs/search", {"experiment_ids": [experiment]})["runs"]
        with urllib.request.urlopen(
            f"{self.uri}/api/2.0/mlflow/artifacts/list?run_id={run['info']['run_id']}"
        ) as answer:
            artifacts = {file["path"] for file in json.load(answer).get("files", [])}
        return {
            "info": {k: v for k, v in run["info"].items() if k not in {*DIFFERENT_BY_NATURE, "experiment_id"}},
            "named": run["info"]["run_name"],
            "tags": {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])},
            "params": {param["key"]: param["value"] for param in run["data"].get("params", [])},
            "metrics": {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])},
            "artifacts": artifacts,
            "exit": done.returncode,
            "output": done.stdout + done.stderr,
        }


@pytest.fixture(scope="module")
def server(mlflow_server, mlflow_python, mlflow_environment, tmp_path_factory):
    return Server(mlflow_server, mlflow_python, mlflow_environment, tmp_path_factory.mktemp("parity"))


def assert_equal_but_for_the_documented(ours, theirs, named):
    document = DOCUMENT.read_text()
    for names in OURS_ALONE.values():
        assert all(name in document for name in names)
    assert ours["info"] == theirs["info"]
    assert ours["params"] == theirs["params"]
    assert ours["metrics"] == theirs["metrics"]
    assert ours["artifacts"] - OURS_ALONE["artifacts"] == theirs["artifacts"]
    our_tags = {key: value for key, value in ours["tags"].items() if key not in OURS_ALONE["tags"]}
    their_tags = dict(theirs["tags"])
    if not named:  # a name that the server makes up
        our_tags.pop("mlflow.runName")
        their_tags.pop("mlflow.runName")
    assert our_tags == their_tags
    assert OURS_ALONE["tags"] <= ours["tags"].keys()
    assert ours["artifacts"] >= OURS_ALONE["artifacts"]


@pytest.mark.parametrize(
    "options",
    [(), ("-P", "word=it's $HOME", "-P", "extra=1 2", "-P", "code=0", "--run-name", "nightly", "-e", "main")],
    ids=["defaults", "every option"],
)
def test_a_finished_run_is_the_same(server, project, options):
    theirs = server.run_left_by("mlflow", project, *options)
    ours = server.run_left_by("mlproj", project, *options)
    assert (theirs["exit"], ours["exit"]) == (0, 0), ours["output"]
    assert_equal_but_for_the_documented(ours, theirs, "--run-name" in options)
    assert ours["info"]["status"] == "FINISHED"


def test_a_script_that_ends_its_run_and_then_fails_has_failed(server, project):
    theirs = server.run_left_by("mlflow", project, "-P", "code=1")
    ours = server.run_left_by("mlproj", project, "-P", "code=1")
    assert ours["info"]["status"] == "FAILED"
    assert json.loads(ours["tags"]["mlproj.outcome"])["reason"]["code"] == "project_code"
    assert theirs["exit"] == 1
    assert ours["exit"] != 0
    assert_equal_but_for_the_documented(ours, theirs, named=False)
