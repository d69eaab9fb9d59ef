"""What a run leaves on a real tracking server."""

import json
import math
import os
import subprocess
import textwrap
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from relay import Relay

from mlproj_core.errors import TrackingError, TrackingRefused, UserError
from mlproj_core.status import Outcome, Reason, ReasonCode, RunStatus
from mlproj_core.tracking import ATTEMPT_TAG, NewRun, connect, system_tags

pytestmark = pytest.mark.usefixtures("no_tracking")

SOURCE = Path(__file__).resolve().parents[2] / "src"

FAILED = Outcome(
    RunStatus.FAILED,
    Reason(ReasonCode.PROJECT_CODE, "the entry point exited with 1", exit_code=1, output=("last words",)),
    ended_at=1_700_000_100.5,
)


@pytest.fixture
def tracking(mlflow_server):
    tracking = connect(mlflow_server, patience=2)
    yield tracking
    tracking.close()


def new_run(attempt, **rest):
    return NewRun(start_time=1_700_000_000.25, tags={ATTEMPT_TAG: attempt, "mlflow.user": "ada"}, **rest)


def api(server, path, body=None, method=None):
    """Ask the server without mlproj."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{server}/api/2.0/{path}", data, {"Content-Type": "application/json"}, method=method
    )
    with opener.open(request, timeout=20) as answer:
        text = answer.read()
    return json.loads(text) if text else {}


def stored_run(server, run_id):
    return api(server, f"mlflow/runs/get?run_id={run_id}")["run"]


def stored_tags(server, run_id):
    return {tag["key"]: tag["value"] for tag in stored_run(server, run_id)["data"]["tags"]}


def stored_parameters(server, run_id):
    return {pair["key"]: pair["value"] for pair in stored_run(server, run_id)["data"].get("params", [])}


def test_a_run_is_created_in_the_default_experiment_with_tags_and_parameters(tracking, mlflow_server):
    record = tracking.create_run(new_run("aa-1", run_name="first", parameters={"alpha": "0.5", "empty": ""}))

    run = stored_run(mlflow_server, record.run_id)
    assert run["info"]["experiment_id"] == record.experiment_id == "0"
    assert run["info"]["status"] == record.status == "RUNNING"
    assert run["info"]["start_time"] == 1_700_000_000_250
    assert run["info"]["run_name"] == "first"
    assert run["info"]["user_id"] == "ada"
    assert stored_parameters(mlflow_server, record.run_id) == {"alpha": "0.5", "empty": ""}
    assert stored_tags(mlflow_server, record.run_id) == record.tags
    assert record.tags[ATTEMPT_TAG] == "aa-1"
    assert record.warnings == ()
    assert tracking.get_run(record.run_id) == record


def test_a_nested_run_names_its_parent(tracking, mlflow_server):
    parent = tracking.create_run(new_run("parent-1"))
    child = tracking.create_run(new_run("child-1", parent_run_id=parent.run_id))
    assert stored_tags(mlflow_server, child.run_id)["mlflow.parentRunId"] == parent.run_id


def test_the_tags_and_parameters_are_those_that_mlflow_run_leaves(
    tracking, mlflow_server, mlflow_python, mlflow_environment, tmp_path
):
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").write_text(
        "entry_points:\n  main:\n    parameters:\n      alpha: {type: float, default: 0.5}\n    command: 'true'\n"
    )
    origin = "https://example.invalid/team/project.git"
    for command in (["init", "-q", "-b", "topic"], ["remote", "add", "origin", origin], ["add", "-A"],
                    ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-q", "-m", "x"]):  # fmt: skip
        subprocess.run(["git", "-C", str(project), *command], check=True)
    commit = subprocess.run(
        ["git", "-C", str(project), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    done = subprocess.run(
        [mlflow_python, "-m", "mlflow", "run", str(project), "--env-manager", "local",
         "--experiment-name", "as mlflow does", "--run-name", "same", "-P", "extra=3"],
        env={**mlflow_environment, "MLFLOW_TRACKING_URI": mlflow_server}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    ours = tracking.create_run(
        NewRun(
            start_time=time.time(),
            experiment_name="as mlflow does",
            run_name="same",
            parameters={"alpha": "0.5", "extra": "3"},
            tags=system_tags(
                source_name=project.as_uri(),
                entry_point="main",
                backend="local",
                env_manager="local",
                commit=commit,
                repo_url=origin,
            ),
        )
    )

    body = {"experiment_ids": [ours.experiment_id], "order_by": ["attributes.start_time ASC"]}
    theirs = api(mlflow_server, "mlflow/runs/search", body)["runs"][0]["info"]["run_id"]
    assert theirs != ours.run_id
    assert stored_tags(mlflow_server, ours.run_id) == stored_tags(mlflow_server, theirs)
    assert stored_parameters(mlflow_server, ours.run_id) == stored_parameters(mlflow_server, theirs)
    assert (
        stored_run(mlflow_server, ours.run_id)["info"]["user_id"]
        == (stored_run(mlflow_server, theirs)["info"]["user_id"])
    )


def test_a_named_experiment_is_created_once_by_eight_who_want_it_at_a_time(mlflow_server):
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: connect(mlflow_server).resolve_experiment("wanted by many"), range(8)))
    assert len(set(ids)) == 1
    assert (
        api(mlflow_server, "mlflow/experiments/get-by-name?experiment_name=wanted%20by%20many")["experiment"][
            "experiment_id"
        ]
        in ids
    )


def test_an_experiment_is_named_by_the_environment_as_for_mlflow(tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment / ünïcode & more")
    by_name = tracking.resolve_experiment()
    assert by_name == tracking.resolve_experiment("from the environment / ünïcode & more")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", by_name)
    assert tracking.resolve_experiment() == by_name
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with pytest.raises(UserError, match=r"MLFLOW_EXPERIMENT_NAME is .* but MLFLOW_EXPERIMENT_ID is 0"):
        tracking.resolve_experiment()
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert tracking.resolve_experiment() == "0"


def test_an_experiments_name_and_id_together_are_refused(tracking):
    with pytest.raises(UserError, match=r"name \('a'\) or its id \('1'\), not both"):
        tracking.resolve_experiment("a", "1")


def test_an_experiment_that_does_not_exist_is_the_users_mistake(tracking):
    with pytest.raises(UserError, match=r"create a run in the experiment 424242.*424242 exists"):
        tracking.create_run(new_run("nowhere-1", experiment_id="424242"))


def test_a_deleted_experiment_is_named_with_the_remedy(tracking, mlflow_server):
    experiment_id = tracking.resolve_experiment("deleted")
    api(mlflow_server, "mlflow/experiments/delete", {"experiment_id": experiment_id})
    with pytest.raises(UserError, match=f"'deleted' .id {experiment_id}.*has been deleted. Restore it"):
        tracking.resolve_experiment("deleted")
    with pytest.raises(UserError, match=f"create a run in the experiment {experiment_id}"):
        tracking.create_run(new_run("deleted-1", experiment_id=experiment_id))


def test_hundreds_of_parameters_and_long_values_are_recorded(tracking, mlflow_server):
    parameters = {f"p{number}": "é" * 5999 for number in range(240)} | {"long": "x" * 7000}
    record = tracking.create_run(new_run("many-1", parameters=parameters))
    stored = stored_parameters(mlflow_server, record.run_id)
    assert stored == {**parameters, "long": "x" * 6000}
    assert record.warnings == ("The parameter 'long' has 7000 characters; the first 6000 of them are recorded.",)


def test_a_parameter_that_the_server_does_not_take_is_left_out_with_a_warning(tracking, mlflow_server):
    record = tracking.create_run(new_run("odd-1", parameters={"good": "1", "a,b": "2", "fine": "3"}))
    assert stored_parameters(mlflow_server, record.run_id) == {"good": "1", "fine": "3"}
    (warning,) = record.warnings
    assert "'a,b' was not recorded" in warning
    assert "alphanumerics" in warning


def test_parameters_may_be_logged_again_for_a_run_whose_creator_died(tracking, mlflow_server):
    record = tracking.create_run(new_run("half-1"))
    for _ in range(2):
        assert tracking.log_parameters(record.run_id, {"alpha": "1"}) == ()
    assert stored_parameters(mlflow_server, record.run_id) == {"alpha": "1"}


def test_settling_overrules_what_the_childs_own_client_wrote(tracking, mlflow_server):
    record = tracking.create_run(new_run("wrong-1"))
    api(mlflow_server, "mlflow/runs/update", {"run_id": record.run_id, "status": "FINISHED", "end_time": 5})

    for _ in range(2):
        tracking.settle(record.run_id, FAILED)

    info = stored_run(mlflow_server, record.run_id)["info"]
    assert (info["status"], info["end_time"]) == ("FAILED", 1_700_000_100_500)
    assert tracking.get_run(record.run_id).outcome == FAILED


def test_an_end_of_unknown_time_is_now(tracking, mlflow_server):
    record = tracking.create_run(new_run("forgotten-1"))
    tracking.settle(record.run_id, Outcome(RunStatus.FAILED, Reason(ReasonCode.FORGOTTEN, "nothing is left")))
    assert abs(stored_run(mlflow_server, record.run_id)["info"]["end_time"] / 1000 - time.time()) < 60


def test_an_outcome_too_long_for_a_tag_keeps_the_last_lines(tracking):
    record = tracking.create_run(new_run("verbose-1"))
    lines = tuple(f"line {number} " + "é" * 200 for number in range(200))
    tracking.settle(record.run_id, Outcome(RunStatus.FAILED, Reason(ReasonCode.OOM, "m" * 9000, output=lines)))
    outcome = tracking.get_run(record.run_id).outcome
    assert outcome.reason.code is ReasonCode.OOM
    assert outcome.reason.message.startswith("mmm")
    few = Outcome(RunStatus.FAILED, Reason(ReasonCode.OOM, "short", output=lines))
    tracking.settle(record.run_id, few)
    kept = tracking.get_run(record.run_id).outcome.reason.output
    assert 5 < len(kept) < 30
    assert kept == lines[-len(kept) :]


def test_the_run_of_an_attempt_is_found_by_its_tag(tracking):
    record = tracking.create_run(new_run("findme-1"))
    assert tracking.find_run("findme-1", "0").run_id == record.run_id
    assert tracking.find_run("findme-2", "0") is None


def test_of_two_runs_of_one_attempt_the_oldest_is_found_and_the_one_that_counts_is_kept(tracking, mlflow_server):
    tags = {ATTEMPT_TAG: "twice-1"}
    younger = tracking.create_run(NewRun(start_time=2000.0, tags=tags))
    older = tracking.create_run(NewRun(start_time=1000.0, tags=tags))
    assert tracking.find_run("twice-1", "0").run_id == older.run_id
    for _ in range(2):
        tracking.keep_one("twice-1", "0", younger.run_id)
        assert stored_run(mlflow_server, younger.run_id)["info"]["lifecycle_stage"] == "active"
        assert stored_run(mlflow_server, older.run_id)["info"]["lifecycle_stage"] == "deleted"


def test_runs_are_searched_page_by_page_the_newest_first(tracking, monkeypatch):
    monkeypatch.setattr("mlproj_core.tracking.server._PAGE", 2)
    made = [
        tracking.create_run(
            NewRun(start_time=1000.0 + number, tags={"kind": "searched"}, parameters={"n": str(number)})
        )
        for number in range(5)
    ]
    found = list(tracking.search_runs("0", "tags.`kind` = 'searched'"))
    assert [run.run_id for run in found] == [run.run_id for run in reversed(made)]
    assert [run.parameters["n"] for run in found] == list("43210")
    assert [run.run_id for run in tracking.search_runs("0", "tags.`kind` = 'searched' and params.`n` = '3'")] == [
        made[3].run_id
    ]
    assert list(tracking.search_runs("0", "tags.`kind` = 'nothing'")) == []


def test_tags_can_be_set_on_a_run_that_exists(tracking, mlflow_server):
    record = tracking.create_run(new_run("given-1"))
    tags = {f"tag{number}": str(number) for number in range(150)}
    tracking.set_tags(record.run_id, tags)
    assert stored_tags(mlflow_server, record.run_id).items() >= tags.items()


def test_a_run_that_does_not_exist_is_the_users_mistake(tracking):
    with pytest.raises(UserError, match=r"read the run 0123456789abcdef0123456789abcdef.*not found"):
        tracking.get_run("0123456789abcdef0123456789abcdef")


def test_settling_a_run_that_was_deleted_is_refused_for_good(tracking, mlflow_server):
    record = tracking.create_run(new_run("gone-1"))
    api(mlflow_server, "mlflow/runs/delete", {"run_id": record.run_id})
    with pytest.raises(TrackingRefused, match=f"write the end of the run {record.run_id}"):
        tracking.settle(record.run_id, FAILED)


def test_the_metrics_are_the_latest_values(tracking, mlflow_server):
    record = tracking.create_run(new_run("metrics-1"))
    metrics = [{"key": "loss", "value": value, "timestamp": 1, "step": step} for step, value in enumerate((3, 2, 1.5))]
    metrics += [{"key": "odd", "value": "NaN", "timestamp": 1, "step": 0}]
    api(mlflow_server, "mlflow/runs/log-batch", {"run_id": record.run_id, "metrics": metrics})
    latest = tracking.metrics(record.run_id)
    assert latest["loss"] == 1.5
    assert math.isnan(latest["odd"])


def test_the_log_is_stored_as_an_artifact_through_the_server(tracking, mlflow_server, tmp_path):
    record = tracking.create_run(new_run("log-1"))
    log = tmp_path / "run of ünït 100%.log"
    content = os.urandom(300_000)
    log.write_bytes(content)
    for _ in range(2):
        assert tracking.upload(record.run_id, log, "logs", record.artifact_uri) is None
    assert tracking.upload(record.run_id, log, "again") is None
    listed = api(mlflow_server, f"mlflow/artifacts/list?run_id={record.run_id}&path=logs")["files"]
    assert [(file["path"], file["file_size"]) for file in listed] == [(f"logs/{log.name}", len(content))]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    page = f"{mlflow_server}/get-artifact?run_id={record.run_id}&path=logs/{urllib.request.pathname2url(log.name)}"
    with opener.open(page, timeout=20) as answer:
        assert answer.read() == content


def test_an_artifact_directory_that_cannot_be_written_is_a_reason_not_an_error(tracking, tmp_path):
    log = tmp_path / "output.log"
    log.write_text("x")
    (tmp_path / "file").write_text("in the way")
    record = tracking.create_run(new_run("log-2"))
    reason = tracking.upload(record.run_id, log, "logs", f"{tmp_path}/file/artifacts")
    assert "cannot be written from this machine" in reason
    assert tracking.upload(record.run_id, log, "logs", (tmp_path / "artifacts").as_uri()) is None
    assert (tmp_path / "artifacts/logs/output.log").read_text() == "x"


def test_an_artifact_store_that_needs_mlflow_is_a_reason_not_an_error(tracking, tmp_path, without_mlflow):
    log = tmp_path / "output.log"
    log.write_text("x")
    reason = tracking.upload("0" * 32, log, "logs", "s3://key:secret@bucket/1/artifacts?token=hidden")
    assert "s3://bucket/1/artifacts" in reason
    assert "pip install 'mlproj[mlflow]'" in reason
    assert "secret" not in reason
    assert "hidden" not in reason


def test_the_page_of_a_run_is_where_mlflows_ui_shows_it(tracking, mlflow_server, monkeypatch):
    assert tracking.run_url("7", "abc") == f"{mlflow_server}/#/experiments/7/runs/abc"
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team a")
    assert tracking.run_url("7", "abc").endswith("/#/experiments/7/runs/abc?workspace=team%20a")


def test_a_childs_mlflow_continues_the_run(tracking, mlflow_server, mlflow_python, mlflow_environment):
    record = tracking.create_run(new_run("child-of-1", experiment_name="for a child"))
    environment = {**mlflow_environment, "MLFLOW_EXPERIMENT_NAME": "another"}
    for name in tracking.child_unset:
        environment.pop(name, None)
    environment |= tracking.child_variables(record.run_id, record.experiment_id)
    script = "import mlflow\nwith mlflow.start_run():\n    mlflow.log_metric('m', 1)\n    mlflow.start_run(nested=True)"
    done = subprocess.run([mlflow_python, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tracking.metrics(record.run_id) == {"m": 1.0}


THROUGH_MLFLOW = """
import json, time
import company_auth
from mlproj_core.errors import TrackingError
from mlproj_core.status import Outcome, RunStatus
from mlproj_core.tracking import ATTEMPT_TAG, NewRun, connect

new = NewRun(start_time=1000.0, tags={ATTEMPT_TAG: "company-1"})
tracking = connect()
results = {"named": [tracking.name, tracking.notice, tracking.uri]}
run = tracking.create_run(new)
tracking.settle(run.run_id, Outcome(RunStatus.FINISHED, ended_at=2000.0))
results["url"] = run.url
results["status"] = tracking.get_run(run.run_id).status
results["signed"] = len(company_auth.asked)
with __import__("socket").socket() as listener:
    listener.bind(("127.0.0.1", 0))
    dead = f"http://127.0.0.1:{listener.getsockname()[1]}"
started = time.monotonic()
try:
    connect(dead, patience=1).create_run(new)
except TrackingError as error:
    results["dead"] = [str(error), time.monotonic() - started]
print(json.dumps(results))
"""


def test_a_server_whose_authentication_needs_mlflow_is_spoken_to_through_it(
    mlflow_server, mlflow_python, mlflow_environment, tmp_path
):
    # A plugin as companies write them: an entry point that gives an auth object of requests.
    plugin = tmp_path / "plugins"
    metadata = plugin / "company_auth-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: company-auth\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[mlflow.request_auth_provider]\ncompany = company_auth:Provider\n")
    (plugin / "company_auth.py").write_text(
        textwrap.dedent(
            """
            asked = []

            class Provider:
                def get_name(self):
                    return "company"

                def get_auth(self):
                    def sign(request):
                        asked.append(request.url)
                        return request
                    return sign
            """
        )
    )
    variables = {
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(plugin)]),
        "MLFLOW_TRACKING_URI": mlflow_server,
        "MLFLOW_TRACKING_AUTH": "company",
    }
    done = subprocess.run(
        [mlflow_python, "-c", THROUGH_MLFLOW],
        env={**mlflow_environment, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # Nothing else is printed.
    results = json.loads(done.stdout)
    name, notice, uri = results["named"]
    assert (name, uri) == ("mlflow", mlflow_server)
    assert notice == "The tracking server is spoken to through mlflow: MLFLOW_TRACKING_AUTH is set."
    assert results["signed"] >= 4
    assert results["status"] == "FINISHED"
    assert results["url"].startswith(f"{mlflow_server}/#/experiments/0/runs/")
    text, seconds = results["dead"]
    assert "cannot be reached to create a run" in text
    assert seconds < 10


def test_a_server_behind_another_prefix_says_that_the_uri_is_wrong(mlflow_server):
    with pytest.raises(TrackingError, match=r"has no MLflow API: HTTP 404 for /prefix/api/2\.0/mlflow/runs/get"):
        connect(f"{mlflow_server}/prefix").get_run("0" * 32)


@pytest.fixture
def relay(mlflow_server):
    relay = Relay(mlflow_server)
    yield relay
    relay.shut()


def test_a_server_that_goes_away_is_an_error_at_once_and_takes_the_outcome_when_it_is_back(relay, mlflow_server):
    tracking = connect(relay.uri, patience=1)
    record = tracking.create_run(new_run("away-1"))
    relay.shut()
    started = time.monotonic()
    with pytest.raises(TrackingError, match=f"{relay.uri} cannot be reached to write the end"):
        tracking.settle(record.run_id, FAILED)
    assert time.monotonic() - started < 2
    relay.open()
    tracking.settle(record.run_id, FAILED)
    assert stored_run(mlflow_server, record.run_id)["info"]["status"] == "FAILED"


def test_a_connection_that_the_server_dropped_meanwhile_is_opened_again(relay):
    tracking = connect(relay.uri)
    record = tracking.create_run(new_run("dropped-1"))
    relay.shut()
    relay.open()
    assert tracking.create_run(new_run("dropped-2")).run_id != record.run_id
    assert tracking.find_run("dropped-2", "0") is not None
