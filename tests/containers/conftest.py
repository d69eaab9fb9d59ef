"""A real Docker engine for the tests of each worker, Kubernetes clusters, and a real tracking server."""

import pytest
from container_world import ContainerWorld
from docker_world import Registry
from docker_world import closed_registry as closed_registry
from docker_world import shared_engine as shared_engine
from kubernetes_cluster import Cluster
from kubernetes_docker import DockerRuntime
from mlflow_world import mlflow_environment as mlflow_environment
from mlflow_world import mlflow_python as mlflow_python
from mlflow_world import mlflow_server as mlflow_server


@pytest.fixture
def engine(shared_engine, monkeypatch):
    """The worker's engine as DOCKER_HOST, without containers before and after; logins are in no file of the user's."""
    monkeypatch.setenv("DOCKER_HOST", shared_engine.host)
    monkeypatch.setenv("DOCKER_CONFIG", str(shared_engine.directory / "config"))
    yield shared_engine
    shared_engine.remove_containers()


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """A registry that asks for no login."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.close()


@pytest.fixture
def container_world(tmp_path, monkeypatch, engine):
    """A state directory, and a project with a docker_env that counts its starts."""
    monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLPROJ_TRACKING", "off")
    world = ContainerWorld(tmp_path, engine)
    yield world
    world.close()


@pytest.fixture
def cluster():
    """A Kubernetes cluster whose pods follow scripts."""
    with Cluster(pace=0.05) as cluster:
        yield cluster


@pytest.fixture
def live_cluster(engine, tmp_path):
    """A Kubernetes cluster whose pods really run, on the engine."""
    with Cluster(DockerRuntime(engine, tmp_path / "node"), pace=0.05) as cluster:
        yield cluster
