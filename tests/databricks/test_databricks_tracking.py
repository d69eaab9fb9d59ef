"""Runs that are recorded in the workspace they are in, whose address and token whoever asks for them has."""

import json

import pytest
import rest
from databricks_scripted import ScriptedRuntime
from databricks_server import Workspace
from databricks_steps import steps as steps

from mlproj_core.backends.databricks.task import unpack
from mlproj_core.errors import UserError


@pytest.fixture
def workspace(databricks_host, mlflow_server, tmp_path, monkeypatch):
    """A workspace with an MLflow, which is known here by its address."""
    with Workspace(tmp_path / "workspace", ScriptedRuntime(), mlflow_server) as workspace:
        variables = {**workspace.variables(), "MLFLOW_TRACKING_URI": workspace.host}
        for name, value in {**variables, "MLFLOW_TRACKING_TOKEN": workspace.token}.items():
            monkeypatch.setenv(name, value)
        yield workspace


@pytest.fixture
def tracked(steps, monkeypatch):
    monkeypatch.delenv("MLPROJ_TRACKING")
    return steps


def plan(run):
    """The plan in a run's arguments."""
    return unpack(run.task.submission["spark_python_task"]["parameters"][-1])


class TestAServerThatIsTheWorkspace:
    # As an engine's adapter hands the variables of a connection, or of a block, to the project.
    OF_THE_SERVER = {"MLFLOW_TRACKING_TOKEN": "geheim", "MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_WORKSPACE": "ml"}

    def test_is_the_sessions_own_for_the_project(self, tracked, workspace):
        given = {**self.OF_THE_SERVER, "PLAIN": "x"}
        run = tracked.submit(backend_config={"tracking_uri": "databricks"}, env_vars=given)
        assert run.wait()
        submitted = tracked.run(run)
        variables = plan(submitted)["variables"]
        assert (variables["MLFLOW_TRACKING_URI"], variables["MLFLOW_RUN_ID"]) == ("databricks", run.run_id)
        assert variables["PLAIN"] == "x"
        assert not variables.keys() & self.OF_THE_SERVER.keys()
        assert workspace.token not in json.dumps([submitted.body, plan(submitted)])

    def test_has_the_run(self, tracked, workspace, mlflow_server):
        run = tracked.submit(backend_config={"tracking_uri": "databricks"}, env_vars=self.OF_THE_SERVER)
        assert run.wait()
        address = rest.address(mlflow_server, "api", "2.0", "mlflow", "runs", "get", run_id=run.run_id)
        found = rest.request("GET", address)["run"]
        assert found["info"]["status"] == "FINISHED"
        tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
        assert tags["mlflow.databricks.runURL"] == run.page
        assert workspace.token not in json.dumps(tags)

    def test_is_refused_its_token_where_it_goes_by_its_address(self, tracked, workspace):
        settings = {"tracking_uri": "https://dbc-1.cloud.databricks.com"}
        with pytest.raises(UserError, match=r"MLFLOW_TRACKING_TOKEN is a secret.*secrets/mlproj"):
            tracked.submit(backend_config=settings, env_vars=self.OF_THE_SERVER)
        assert workspace.runs.submissions == 0
