"""A tracking server that asks who is there: a real one, with MLflow's basic-auth app."""

import base64
import json
import subprocess
import urllib.request

import pytest

from mlproj_core.errors import TrackingRefused
from mlproj_core.tracking import ATTEMPT_TAG, NewRun, connect

pytestmark = pytest.mark.usefixtures("no_tracking")

USER, PASSWORD = "grace", "correct horse %"
USERINFO = "grace:correct%20horse%20%25@"


def new_run(attempt, **rest):
    return NewRun(start_time=1_700_000_000.0, tags={ATTEMPT_TAG: attempt}, **rest)


@pytest.fixture(scope="module")
def admins_experiment(mlflow_auth_server):
    """Id of the experiment `admin's`, which the user `grace` may read and nothing more."""
    pair = base64.b64encode(b"admin:administrator's secret").decode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(path, body):
        request = urllib.request.Request(
            f"{mlflow_auth_server}/api/2.0/mlflow/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Basic {pair}"},
        )
        with opener.open(request, timeout=20) as answer:
            return json.load(answer)

    experiment_id = post("experiments/create", {"name": "admin's"})["experiment_id"]
    post("users/create", {"username": USER, "password": PASSWORD})
    return experiment_id


def test_without_credentials_the_error_says_so_and_how_to_give_them(mlflow_auth_server):
    with pytest.raises(TrackingRefused) as raised:
        connect(mlflow_auth_server).create_run(new_run("anonymous-1"))
    text = str(raised.value)
    assert "an anonymous user (no credentials are set)" in text
    assert "create a run in the experiment 0" in text
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in text


def test_wrong_credentials_name_the_user_but_not_the_password(mlflow_auth_server, admins_experiment, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "grace")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-but-secret")
    tracking = connect(mlflow_auth_server)
    with pytest.raises(TrackingRefused) as raised:
        tracking.resolve_experiment("x")
    assert "does not accept the user 'grace' (from MLFLOW_TRACKING_USERNAME)" in str(raised.value)
    assert "wrong-but-secret" not in str(raised.value) + repr(tracking) + repr(vars(tracking))


def test_a_permission_that_is_lacking_names_user_experiment_and_deed(
    mlflow_auth_server, admins_experiment, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with pytest.raises(TrackingRefused) as raised:
        connect(mlflow_auth_server).create_run(new_run("forbidden-1", experiment_name="admin's"))
    text = str(raised.value)
    assert "the user 'grace'" in text
    assert f'create a run in the experiment "admin\'s" (id {admins_experiment})' in text
    assert "HTTP 403" in text
    assert "Ask for the permission" in text


@pytest.mark.parametrize("where", ["environment", "uri", "file", "environment and file", "netrc"])
def test_user_and_password_are_taken_from(where, mlflow_auth_server, admins_experiment, monkeypatch, no_tracking):
    uri = mlflow_auth_server
    (no_tracking / ".mlflow").mkdir()
    credentials = no_tracking / ".mlflow/credentials"
    if where == "uri":
        uri = uri.replace("//", f"//{USERINFO}")
    if where == "netrc":
        (no_tracking / ".netrc").write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n')
        (no_tracking / ".netrc").chmod(0o600)
    if where == "file":
        credentials.write_text(
            "[mlflow]\nmlflow_tracking_username = grace\nmlflow_tracking_password = correct horse %%\n"
        )
    if where == "environment and file":
        credentials.write_text("[mlflow]\nmlflow_tracking_password = correct horse %%\n")
    if where.startswith("environment"):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    if where == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    tracking = connect(uri)
    assert tracking.uri == mlflow_auth_server
    assert tracking.create_run(new_run(f"{where}-1", experiment_name="grace's")).run_id


def test_a_childs_mlflow_is_let_in_with_the_credentials_of_the_uri(
    mlflow_auth_server, admins_experiment, mlflow_python, mlflow_environment, monkeypatch
):
    full = mlflow_auth_server.replace("//", f"//{USERINFO}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", full)
    tracking = connect()
    record = tracking.create_run(new_run("secret-child-1", experiment_name="grace's child"))
    variables = tracking.child_variables(record.run_id, record.experiment_id)
    assert "horse" not in str(variables)
    script = "import mlflow\nwith mlflow.start_run():\n    mlflow.log_metric('m', 1)"
    done = subprocess.run(
        [mlflow_python, "-c", script],
        env={**mlflow_environment, **variables, **tracking.child_secrets},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # A later process knows only the address without credentials, and the environment.
    assert connect(tracking.uri).metrics(record.run_id) == {"m": 1.0}
