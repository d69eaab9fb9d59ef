"""What the README shows of containers and of Kubernetes is what happens."""

import doctest
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import readme
from docker_world import PYTHON

SHOWN = [
    line.removeprefix("$ ") + "\n" + shown
    for kind, text in readme.blocks()
    if kind == "console" and ("contained" in text or "kubernetes" in text)
    for line, _, shown in [text.partition("\n")]
]


@pytest.fixture
def execute(tmp_path, mlflow_server, engine):
    """Run a command line beside a copy of the examples, with the image that stands for Python's own."""
    shutil.copytree(readme.ROOT / "example_flows", tmp_path / "example_flows")
    with engine.client() as client:
        client.tag(PYTHON, "python", "3.11-slim")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": mlflow_server,
        "MLPROJ_STATE_DIR": str(tmp_path / "state"),
        "MLPROJ_CACHE_DIR": str(tmp_path / "cache"),
    }

    def execute(command, **more):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env={**environment, **more}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return execute


def check(shown, printed):
    leeway = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(shown, printed, leeway), printed


def test_it_shows_both():
    assert ["kubernetes" in text for text in SHOWN] == [False, True]


def test_a_project_in_a_container(execute):
    command, _, shown = SHOWN[0].partition("\n")
    check(shown, execute(command))


def test_a_job_of_a_cluster(execute, live_cluster, mlflow_server, tmp_path):
    command, _, shown = SHOWN[1].partition("\n")
    command = command.replace("http://mlflow.tracking:5000", mlflow_server)
    check(shown, execute(command, KUBECONFIG=str(live_cluster.write_kubeconfig(tmp_path / "kubeconfig"))))
