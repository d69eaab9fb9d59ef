"""One real Airflow for all tests of a session, and a real tracking server."""

import json
import urllib.request
from pathlib import Path

import pytest
from airflow_steps import Steps
from airflow_world import PROGRAM, AirflowWorld
from docker_world import closed_registry as closed_registry
from docker_world import shared_engine as shared_engine
from elsewhere_world import elsewhere as elsewhere
from git_world import GitServer
from missing import missing
from mlflow_world import mlflow_environment as mlflow_environment
from mlflow_world import mlflow_python as mlflow_python
from mlflow_world import mlflow_server as mlflow_server


@pytest.fixture(scope="session")
def airflow_installed():
    """There is an Airflow beside the interpreter that runs the tests."""
    if not Path(PROGRAM).exists():
        missing(f"there is no {PROGRAM}: `nox -s airflow` makes an environment with it")


@pytest.fixture(scope="session")
def git_server(tmp_path_factory):
    """A web server with Git repositories, which lets in one user only."""
    root = tmp_path_factory.mktemp("git")
    with GitServer(root, login=("ci", "the-token-of-the-git-server")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_secret():
    """The password of the connection `mlflow_test`."""
    return "the-password-of-the-tracking-server"


@pytest.fixture(scope="session")
def airflow_variables(mlflow_server, mlflow_secret, git_server):
    """Environment variables for every process of the Airflow that the tests share."""
    connection = {"conn_type": "mlflow", "host": mlflow_server, "login": "trainer", "password": mlflow_secret}
    return {
        "AIRFLOW_CONN_MLFLOW_TEST": json.dumps(connection),
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": mlflow_server}),
        "AIRFLOW__MLPROJ__ALLOWED_URIS": f"https://git.example.com/acme/ {git_server.url('')}",
    }


@pytest.fixture(scope="session")
def mlflow_run(mlflow_server):
    """A run as the tracking server has it, by its id."""

    def get(run_id):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{mlflow_server}/api/2.0/mlflow/runs/get?run_id={run_id}") as answer:
            return json.load(answer)["run"]

    return get


@pytest.fixture(scope="session")
def airflow(airflow_installed, airflow_variables, tmp_path_factory):
    """A real Airflow, all of it; shared by all tests of the session, each of which has DAGs of its own."""
    world = AirflowWorld(tmp_path_factory.mktemp("airflow"), airflow_variables)
    yield world
    world.stop()


@pytest.fixture(scope="session")
def steps(airflow):
    """The project that most tests run, and what it did."""
    return Steps(airflow)
