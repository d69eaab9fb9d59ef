"""Choosing the tracking store, what stands in its URI, and the tags of a run."""

import os
import re
import subprocess
import sys

import pytest

from mlproj_core.errors import UserError
from mlproj_core.status import Outcome, RunStatus
from mlproj_core.tracking import UNTRACKED_URI, NewRun, connect, local_user, system_tags
from mlproj_core.tracking.uris import absolute, without_credentials

pytestmark = pytest.mark.usefixtures("no_tracking")


# Untracked


def test_with_nothing_configured_and_no_mlflow_runs_are_untracked_and_one_line_says_so(without_mlflow):
    tracking = connect()
    assert (tracking.name, tracking.uri) == ("untracked", UNTRACKED_URI)
    assert tracking.notice.startswith("Runs are not tracked: MLFLOW_TRACKING_URI is not set")
    assert "\n" not in tracking.notice


def test_tracking_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setenv("MLPROJ_TRACKING", "OFF")
    assert connect().notice == "Runs are not tracked: MLPROJ_TRACKING=off."


def test_a_uri_given_in_the_call_is_used_though_tracking_is_switched_off(monkeypatch):
    monkeypatch.setenv("MLPROJ_TRACKING", "off")
    assert connect("http://localhost:1").name == "http"


def test_another_word_for_the_switch_is_refused(monkeypatch):
    monkeypatch.setenv("MLPROJ_TRACKING", "false")
    with pytest.raises(UserError, match="MLPROJ_TRACKING must be on, off or mlflow, but it is 'false'"):
        connect()


def test_an_untracked_run_has_an_id_all_the_same(tmp_path):
    tracking = connect(UNTRACKED_URI)
    assert tracking.notice is None
    runs = [tracking.create_run(NewRun(start_time=1.0, tags={"a": "b"})) for _ in range(50)]
    assert len({run.run_id for run in runs}) == 50
    assert all(re.fullmatch("[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", run.run_id) for run in runs)
    (run_id, *_) = (run.run_id for run in runs)
    tracking.settle(run_id, Outcome(RunStatus.FINISHED))
    assert tracking.find_run("k-1", "") is None
    assert tracking.upload(run_id, tmp_path / "log") is None
    assert tracking.metrics(run_id) == {}
    assert tracking.run_url("", run_id) is None


def test_an_untracked_child_takes_no_outer_run_for_its_own_and_starts_untracked_runs():
    tracking = connect(UNTRACKED_URI)
    assert tracking.child_variables("a" * 32, "") == {"MLPROJ_TRACKING": "off"}
    assert "MLFLOW_RUN_ID" in tracking.child_unset


# Stores that need what is not installed


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "./mlruns", "databricks", "postgresql://u:hidden@db/mlflow"])
def test_a_store_that_needs_mlflow_names_the_extra(uri, without_mlflow):
    with pytest.raises(
        UserError, match=r"mlflow is needed for the tracking store .*pip install 'mlproj\[mlflow\]'"
    ) as raised:
        connect(uri)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4"])
def test_a_way_of_authenticating_that_needs_mlflow_names_the_extra(variable, monkeypatch, without_mlflow):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UserError, match=f"http://localhost with {variable}, .*pip install 'mlproj"):
        connect("http://localhost")


def test_a_bare_directory_named_mlflow_is_not_an_installed_mlflow(tmp_path, without_mlflow):
    (tmp_path / "mlflow").mkdir()
    script = "from mlproj_core.tracking import connect\nprint(connect().name)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "untracked\n"


# URIs


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///../x/mlflow.db?timeout=5", "sqlite:///{parent}/x/mlflow.db?timeout=5"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("./mlruns", "file://{here}/mlruns"),
        ("ml runs", "file://{here}/ml%20runs"),
        ("/srv/mlruns", "file:///srv/mlruns"),
        ("file:mlruns", "file://{here}/mlruns"),
        ("file:///srv/mlruns", "file:///srv/mlruns"),
        ("http://localhost:5000/", "http://localhost:5000"),
        ("https://host/prefix/", "https://host/prefix"),
        ("mysql+pymysql://u:p@db/mlflow", "mysql+pymysql://u:p@db/mlflow"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_a_relative_store_is_made_absolute_once(uri, expected, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    result = absolute(uri)
    assert result == expected.format(here=here, parent=tmp_path)
    monkeypatch.chdir("/")
    assert absolute(result) == result


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_a_database_in_memory_is_refused(uri):
    with pytest.raises(UserError, match=r"could not see\. Name a file"):
        connect(uri)


@pytest.mark.parametrize(
    ("uri", "shown", "credentials"),
    [
        ("http://host:5000/p", "http://host:5000/p", None),
        ("https://ada:p%40ss%2F@host/p", "https://host/p", ("ada", "p@ss/")),
        ("https://token@host", "https://host", ("token", "")),
        ("postgresql://ada:p/w?@db:5432/mlflow?sslmode=on", "postgresql://db:5432/mlflow", ("ada", "p/w?")),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dsecret", "mssql+pyodbc:///", None),
        ("sqlite:////srv/a@b.db?timeout=5", "sqlite:////srv/a@b.db?timeout=5", None),
        ("file:///srv/a@b", "file:///srv/a@b", None),
    ],
)
def test_credentials_are_taken_out_of_a_uri_that_is_shown(uri, shown, credentials):
    assert without_credentials(uri) == (shown, credentials)


@pytest.mark.parametrize(
    "uri", ["http://", "http://host:port", "http://ada:p/ss@host", "https://:443", "http://host:0"]
)
def test_a_server_uri_that_names_no_server_is_refused_without_showing_a_password(uri):
    with pytest.raises(UserError, match="names no server") as raised:
        connect(uri)
    assert "p/ss" not in str(raised.value)


def test_the_address_of_a_page_is_refused_with_the_one_of_its_server():
    with pytest.raises(UserError, match=r"Set MLFLOW_TRACKING_URI=http://localhost:5000$"):
        connect("http://ada:hidden@localhost:5000/#/experiments/1")


# Tags


def test_the_tags_are_named_as_mlflow_names_them():
    tags = system_tags(
        source_name="git@example.invalid:p.git", entry_point="main", backend="kubernetes", env_manager="docker",
        commit="c0ffee", branch="topic", repo_url="git@example.invalid:p.git", parent_run_id="b" * 32, user="ada",
    )  # fmt: skip
    assert tags == {
        "mlflow.user": "ada",
        "mlflow.source.name": "git@example.invalid:p.git",
        "mlflow.source.type": "PROJECT",
        "mlflow.project.entryPoint": "main",
        "mlflow.project.backend": "kubernetes",
        "mlflow.project.env": "docker",
        "mlflow.source.git.commit": "c0ffee",
        "mlflow.source.git.branch": "topic",
        "mlflow.source.git.repoURL": "git@example.invalid:p.git",
        "mlflow.parentRunId": "b" * 32,
    }


def test_the_hosts_own_environment_is_not_tagged_as_with_mlflow():
    tags = system_tags(source_name=".", entry_point="main", backend="local", env_manager="local", user="ada")
    assert "mlflow.project.env" not in tags


def test_the_user_is_found_as_getpass_finds_it(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    import getpass

    assert local_user() == getpass.getuser()
    monkeypatch.setenv("USERNAME", "fourth")
    assert local_user() == getpass.getuser() == "fourth"
    monkeypatch.setenv("LOGNAME", "first")
    assert local_user() == getpass.getuser() == "first"


def test_a_user_without_a_name_is_unknown(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_123)
    assert local_user() == "unknown"
