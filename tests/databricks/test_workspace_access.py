"""The tests' own Databricks workspace, as the real SDK sees it: who is let in, what goes wrong, and its MLflow."""

import time

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InternalError, NotFound, PermissionDenied, TooManyRequests, Unauthenticated
from databricks_client import client_of, close, submit
from databricks_server import USER, WORKSPACE_ID, Workspace


@pytest.fixture
def client(workspace):
    with client_of(workspace) as client:
        yield client


class TestWho:
    def test_has_a_token_is_its_user(self, client):
        assert client.current_user.me().user_name == USER

    def test_has_credentials_of_a_client_is_that(self, workspace):
        workspace.add_client("robot", "geheim")
        with client_of(workspace, client_id="robot", client_secret="geheim", auth_type="oauth-m2m") as client:
            assert client.current_user.me().user_name == "robot"
            assert client.current_user.me().user_name == "robot"
        assert workspace.access.issued == 1

    def test_has_the_wrong_secret_is_refused(self, workspace):
        workspace.add_client("robot", "geheim")
        credentials = {"client_id": "robot", "client_secret": "falsch", "auth_type": "oauth-m2m"}
        with client_of(workspace, **credentials) as client, pytest.raises(ValueError, match="invalid_client"):
            client.current_user.me()

    def test_has_the_wrong_token_is_refused(self, workspace):
        with client_of(workspace, token="dapi-none") as client, pytest.raises(PermissionDenied, match="Invalid access"):
            client.current_user.me()

    def test_has_none_is_refused(self, workspace):
        answer = requests.get(f"{workspace.host}/api/2.0/preview/scim/v2/Me", timeout=10)
        assert answer.status_code == 401
        assert answer.json()["error_code"] == "UNAUTHENTICATED"

    def test_has_a_profile_is_found(self, workspace, tmp_path, monkeypatch):
        for name in workspace.variables():
            monkeypatch.delenv(name)
        workspace.write_profile(tmp_path / "home/.databrickscfg", "ml")
        client = WorkspaceClient(profile="ml")
        assert client.current_user.me().user_name == USER
        close(client)

    def test_is_a_client_by_the_environment_is_found(self, workspace, monkeypatch):
        monkeypatch.delenv("DATABRICKS_TOKEN")
        for name, value in workspace.add_client("robot", "geheim").items():
            monkeypatch.setenv(name, value)
        client = WorkspaceClient()
        assert client.config.auth_type == "oauth-m2m"
        assert client.current_user.me().user_name == "robot"
        close(client)

    def test_asks_by_the_environment_is_found(self, workspace):
        client = WorkspaceClient()
        assert client.config.host == workspace.host
        assert client.config.workspace_id == WORKSPACE_ID
        close(client)

    def test_asks_for_what_is_not_served_is_told(self, client):
        with pytest.raises(NotFound, match=r"No API found for 'GET /api/2\.0/none'"):
            client.api_client.do("GET", "/api/2.0/none")


class TestAFault:
    def test_that_throttles_says_when_to_come_back(self, workspace, client):
        workspace.faults.throttle(retry_after=1, on="jobs/runs/list", times=2)
        begun = time.monotonic()
        assert list(client.jobs.list_runs()) == []
        assert time.monotonic() - begun >= 2
        assert workspace.counted("runs/list") == 1  # the others were not looked at

    def test_that_throttles_for_longer_is_an_error(self, workspace):
        workspace.faults.throttle(on="jobs/runs", during=60)
        with client_of(workspace, patience=1) as client, pytest.raises(TimeoutError) as caught:
            list(client.jobs.list_runs())
        assert isinstance(caught.value.__cause__, TooManyRequests)

    def test_of_the_server_is_an_error(self, workspace, client):
        workspace.faults.fail(500, on="jobs/runs/submit")
        with pytest.raises(InternalError):
            submit(client)
        assert not workspace.runs.by_id
        workspace.faults.fail(401, times=1)
        with pytest.raises(Unauthenticated):
            client.current_user.me()

    def test_of_a_server_that_is_away_passes(self, workspace, client):
        workspace.faults.fail(503, headers={"Retry-After": "0"}, on="jobs/runs/submit")
        assert submit(client)

    def test_that_cuts_the_connection_leaves_nothing_done(self, workspace, client):
        workspace.faults.cut(on="jobs/runs/submit")
        submit(client, idempotency_token="mlproj-1")
        assert workspace.runs.submissions == 1

    def test_that_loses_an_answer_leaves_it_done(self, workspace, client):
        workspace.faults.lose(on="jobs/runs/submit")
        run_id = submit(client, idempotency_token="mlproj-1")
        assert workspace.runs.submissions == 2
        assert list(workspace.runs.by_id) == [run_id]

    def test_that_loses_an_answer_makes_two_runs_where_there_is_no_token(self, workspace, client):
        workspace.faults.lose(on="jobs/runs/submit")
        submit(client)
        assert len(workspace.runs.by_id) == 2

    def test_is_only_where_it_was_asked_for(self, workspace, client):
        workspace.faults.fail(500, on="jobs/runs/submit", method="GET", times=9)
        workspace.faults.fail(500, on="none", times=9)
        assert submit(client)
        workspace.faults.fail(500, times=9)
        workspace.faults.clear()
        assert submit(client)


class TestMlflow:
    @pytest.fixture
    def tracked(self, databricks_host, tmp_path, mlflow_server):
        with Workspace(tmp_path / "tracked", mlflow=mlflow_server) as workspace, client_of(workspace) as client:
            yield lambda method, path, **more: client.api_client.do(method, f"/api/2.0/mlflow/{path}", **more)

    def test_is_a_real_one(self, tracked):
        made = tracked("POST", "experiments/create", body={"name": f"/Users/{USER}/{time.time_ns()}"})
        run = tracked("POST", "runs/create", body={"experiment_id": made["experiment_id"], "start_time": 1})
        run_id = run["run"]["info"]["run_id"]
        tracked("POST", "runs/log-metric", body={"run_id": run_id, "key": "score", "value": 0.5, "timestamp": 1})
        found = tracked("GET", "runs/get", query={"run_id": run_id})
        assert found["run"]["data"]["metrics"][0]["value"] == 0.5

    def test_refuses_as_it_does(self, tracked):
        with pytest.raises(NotFound, match="not found"):
            tracked("GET", "runs/get", query={"run_id": "0" * 32})

    def test_has_experiments_at_absolute_paths_only(self, tracked):
        with pytest.raises(Exception, match="must be an absolute path"):
            tracked("POST", "experiments/create", body={"name": "ml"})

    def test_lets_nobody_in_without_a_token(self, tmp_path, mlflow_server):
        with Workspace(tmp_path / "tracked", mlflow=mlflow_server) as workspace:
            answer = requests.get(f"{workspace.host}/api/2.0/mlflow/runs/get", timeout=10)
            assert answer.status_code == 401

    def test_is_not_where_there_is_none(self, client):
        with pytest.raises(NotFound, match="no MLflow"):
            client.api_client.do("GET", "/api/2.0/mlflow/runs/get")
