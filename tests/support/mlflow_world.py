"""Real MLflow tracking servers for tests, and the environment in which a process uses mlflow."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from missing import missing


@pytest.fixture(scope="session")
def mlflow_python():
    """The interpreter of an environment with mlflow and flask-wtf (what `mlflow[auth]` adds)."""
    python = os.environ.get("MLPROJ_TEST_MLFLOW_PYTHON")
    if python and Path(python).exists():
        return python
    return missing("MLPROJ_TEST_MLFLOW_PYTHON does not name the Python of an environment with mlflow[auth]")


@pytest.fixture(scope="session")
def mlflow_environment(tmp_path_factory):
    """Variables for a process that uses mlflow: none of the caller's tracking, no telemetry, an empty home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "MLPROJ"))}
    return {
        **kept,
        "HOME": str(tmp_path_factory.mktemp("home")),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def free_port():
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class MlflowServer:
    """One `mlflow server` with a database of its own, ended with everything it starts."""

    def __init__(self, python, directory, environment, *options):
        self.uri = f"http://127.0.0.1:{(port := free_port())}"
        self.log = directory / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{directory}/mlflow.db",
                 "--artifacts-destination", str(directory / "artifacts"), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, env=environment,
                start_new_session=True,
            )  # fmt: skip
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 120
        while True:
            try:
                with opener.open(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    pytest.fail(f"mlflow server did not start:\n{self.log.read_text()[-4000:]}", pytrace=False)
                time.sleep(0.1)

    def stop(self):
        """End the server and its workers; its data is thrown away anyway."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture(scope="session")
def mlflow_server(mlflow_python, mlflow_environment, tmp_path_factory):
    """The URI of a real tracking server that serves artifacts; shared by all tests of the session."""
    server = MlflowServer(mlflow_python, tmp_path_factory.mktemp("mlflow-server"), mlflow_environment)
    yield server.uri
    server.stop()
