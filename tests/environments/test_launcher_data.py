"""Data that a launcher fetches by what the project's environment has: from an object store, and from MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launcher_world import archive
from missing import missing

from mlproj_core.launcher import Plan, source


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Runs a launcher without an environment of its own: the Python on PATH is the project's."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("MLFLOW_", "AWS_")):
            monkeypatch.delenv(name)
    (tmp_path / "launcher.py").write_text(source())
    (tmp_path / "code.tar.gz").write_bytes(archive({"empty": ""}))

    def launch(uri, python, **variables):
        data = {"parameter": "data", "uri": uri, "path": str(tmp_path / "work" / "data" / "it")}
        plan = Plan(
            "find . -type f | sort | xargs cat", directory=str(tmp_path / "work" / "data"), work=str(tmp_path / "work"),
            downloads=[data], termination_log=str(tmp_path / "termination-log"),
        )  # fmt: skip
        (tmp_path / "work" / "data").mkdir(parents=True, exist_ok=True)
        (tmp_path / "plan.json").write_text(plan.to_json())
        path = f"{Path(python).parent}:{os.environ['PATH']}"
        ended = subprocess.run(
            [sys.executable, "-I", tmp_path / "launcher.py", tmp_path / "plan.json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PATH": path, **variables},
        )  # fmt: skip
        return ended.stdout, ended.returncode

    return launch


@pytest.fixture(scope="module")
def moto():
    """The address of an S3 API."""
    try:
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError:
        missing("moto[server] or s3fs is not installed: mlproj[s3]")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestALauncher:
    @pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"])
    def test_fetches_objects(self, launch, moto, variable, monkeypatch):
        import boto3

        variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "geheim", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
        client.create_bucket(Bucket="data")
        for key in ("one [1].txt", "folder/a.txt", "folder/b/c.txt"):
            client.put_object(Bucket="data", Key=key, Body=f"{key}\n".encode())
        output, code = launch("s3://data/one [1].txt", sys.executable, **{variable: moto})
        assert code == 0, output
        assert output.splitlines()[-1] == "one [1].txt"
        output, code = launch("s3a://data/folder", sys.executable, **{variable: moto})
        assert code == 0, output
        assert output.splitlines()[-2:] == ["folder/a.txt", "folder/b/c.txt"]
        output, code = launch("s3://data/nothing", sys.executable, **{variable: moto})
        assert code == 70

    def test_fetches_artifacts_of_runs(self, launch, mlflow_server, mlflow_python, tmp_path):
        (tmp_path / "made" / "b").mkdir(parents=True)
        (tmp_path / "made" / "a.txt").write_text("a\n")
        (tmp_path / "made" / "b" / "c.txt").write_text("c\n")
        script = (
            "import mlflow, sys\nwith mlflow.start_run() as run:\n"
            "    mlflow.log_artifacts(sys.argv[1], 'folder')\nprint(run.info.run_id)"
        )
        tracking = {"MLFLOW_TRACKING_URI": mlflow_server}
        logged = subprocess.run(
            [mlflow_python, "-c", script, tmp_path / "made"], env={**os.environ, **tracking}, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        run = next(line for line in logged.stdout.splitlines() if len(line) == 32)
        output, code = launch(f"runs:/{run}/folder", mlflow_python, **tracking)
        assert code == 0, output
        assert output.splitlines()[-2:] == ["a", "c"]
        output, code = launch(f"runs:/{run}/folder/a.txt", mlflow_python, **tracking)
        assert (code, output.splitlines()[-1]) == (0, "a"), output
        output, code = launch(f"runs:/{run}/nothing", mlflow_python, **tracking)
        reason = json.loads((tmp_path / "termination-log").read_text())["mlproj"]["error"]
        assert (code, reason["code"]) == (70, "data"), output
