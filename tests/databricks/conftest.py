"""A Databricks workspace of the tests' own, an engine on which its clusters run, and a real tracking server."""

import os

import pytest
from databricks_docker import DockerRuntime
from databricks_server import Workspace
from docker_world import shared_engine as shared_engine
from mlflow_world import mlflow_environment as mlflow_environment
from mlflow_world import mlflow_python as mlflow_python
from mlflow_world import mlflow_server as mlflow_server


@pytest.fixture
def databricks_host(tmp_path, monkeypatch):
    """A host on which no workspace is configured: a home of its own, and no variables. Returns: the home."""
    for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "ARM_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def workspace(databricks_host, tmp_path, monkeypatch):
    """A workspace that is configured here, whose tasks follow scripts (`workspace.runtime.script`)."""
    with Workspace(tmp_path / "workspace") as workspace:
        for name, value in workspace.variables().items():
            monkeypatch.setenv(name, value)
        yield workspace


@pytest.fixture
def engine(shared_engine):
    """An engine without containers before and after."""
    yield shared_engine
    shared_engine.remove_containers()


@pytest.fixture
def live_workspace(databricks_host, engine, mlflow_server, tmp_path, monkeypatch):
    """A workspace that is configured here, whose tasks really run, on the engine; with an MLflow."""
    runtime = DockerRuntime(engine, tmp_path / "clusters")
    with Workspace(tmp_path / "workspace", runtime, mlflow_server) as workspace:
        for name, value in workspace.variables().items():
            monkeypatch.setenv(name, value)
        yield workspace
