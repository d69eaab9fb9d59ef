"""One real Prefect server for all tests of a session, and a real tracking server."""

from importlib.util import find_spec

import pytest
from docker_world import closed_registry as closed_registry
from docker_world import shared_engine as shared_engine
from elsewhere_world import elsewhere as elsewhere
from missing import missing
from mlflow_world import mlflow_environment as mlflow_environment
from mlflow_world import mlflow_python as mlflow_python
from mlflow_world import mlflow_server as mlflow_server
from prefect_world import PrefectWorld
from steps import Steps


@pytest.fixture(scope="session")
def prefect_installed():
    """There is a Prefect in the environment that runs the tests."""
    if find_spec("prefect") is None:
        missing("there is no Prefect beside the tests: `nox -s prefect` makes an environment with it")


@pytest.fixture(scope="session")
def prefect(prefect_installed, tmp_path_factory):
    """A real Prefect; shared by all tests of the session, each of which has flows of its own."""
    world = PrefectWorld(tmp_path_factory.mktemp("prefect"))
    yield world
    world.close()


@pytest.fixture(scope="session")
def steps(prefect):
    """The project that most tests run, and what it did."""
    return Steps(prefect.directory / "steps", prefect.directory / "marks")


@pytest.fixture(scope="session")
def tracked(mlflow_server):
    """Variables for the programs whose runs a real tracking server records."""
    return {"MLFLOW_TRACKING_URI": mlflow_server}
