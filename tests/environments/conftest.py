"""A real tracking server for what projects bring with them, and a real channel of conda packages."""

from importlib.util import find_spec

import pytest
from conda_world import make_channel
from filelock import FileLock
from missing import missing
from mlflow_world import mlflow_environment as mlflow_environment
from mlflow_world import mlflow_python as mlflow_python
from mlflow_world import mlflow_server as mlflow_server


@pytest.fixture(scope="session")
def conda_channel(tmp_path_factory, worker_id):
    """The directory of a channel, made once for all workers of the session; not to be changed."""
    if find_spec("rattler") is None:
        missing("py-rattler is not installed beside the tests: `nox -s environments` has it")
    base = tmp_path_factory.getbasetemp()
    place = (base if worker_id == "master" else base.parent) / "conda-channel"
    with FileLock(f"{place}.lock"):
        if not (place / "noarch" / "repodata.json").exists():
            make_channel(place)
    return place
