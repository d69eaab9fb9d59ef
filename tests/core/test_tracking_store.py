"""Stores that are opened through mlflow: real ones, in a process that has mlflow."""

import json
import subprocess
import textwrap
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"

PRELUDE = """
import json, os, sys, time
from pathlib import Path
from mlproj_core.errors import MlprojError
from mlproj_core.status import Outcome, Reason, ReasonCode, RunStatus
from mlproj_core.tracking import ATTEMPT_TAG, NewRun, connect
results = {}

def error(action):
    started = time.monotonic()
    try:
        action()
    except MlprojError as raised:
        return [type(raised).__name__, str(raised), time.monotonic() - started]

def new_run(attempt, **rest):
    return NewRun(start_time=1000.0, tags={ATTEMPT_TAG: attempt}, **rest)
"""


# Importing mlflow takes seconds: one process does it, and every script runs in a fork of its own.
FORKS = """
import json, os, sys, traceback
import mlflow.store.tracking.sqlalchemy_store

for line in sys.stdin:
    script, directory, environment = json.loads(line)
    if (child := os.fork()) == 0:
        failed = 1
        try:
            os.chdir(directory)
            os.environ.clear()
            os.environ.update(environment)
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), number)
            exec(script, {"__name__": "__main__"})
            failed = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failed)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def forks(mlflow_python, mlflow_environment):
    """A process that has imported mlflow and runs scripts in forks of itself."""
    process = subprocess.Popen(
        [mlflow_python, "-c", FORKS],
        env={**mlflow_environment, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate(timeout=10)


@pytest.fixture
def with_mlflow(forks, mlflow_environment, tmp_path):
    """Runs a script where mlflow is imported and gives its `results`; what it wrote is shown if it fails."""

    def run(script):
        directory = tmp_path / "here"
        directory.mkdir()
        whole = PRELUDE + textwrap.dedent(script) + "\nprint('RESULTS', json.dumps(results))"
        print(json.dumps([whole, str(directory), mlflow_environment]), file=forks.stdin, flush=True)
        assert forks.stdout.readline() == "0\n", (directory / "stderr").read_text()
        head, _, tail = (directory / "stdout").read_text().partition("RESULTS ")
        return {**json.loads(tail), "printed": head}

    return run


def test_mlflow_is_not_imported_before_a_store_is_used(mlflow_python, mlflow_environment):
    script = (
        "import sys\nfrom mlproj_core.tracking import connect\n"
        "print(connect('sqlite:///runs.db').name, 'mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [mlflow_python, "-c", script],
        env={**mlflow_environment, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "mlflow False\n"


def test_a_run_in_a_relative_database_is_recorded_as_on_a_server(with_mlflow, tmp_path):
    results = with_mlflow(
        """
        tracking = connect("sqlite:///runs.db")
        run = tracking.create_run(new_run(
            "k-1", experiment_name="named", run_name="first", parameters={"a": "1", "long": "x" * 7000, "b,c": "2"}
        ))
        os.chdir("/")
        results["again"] = tracking.resolve_experiment("named") == run.experiment_id
        results["found"] = tracking.find_run("k-1", run.experiment_id).run_id == run.run_id
        results["not found"] = tracking.find_run("k-2", run.experiment_id)
        older = tracking.create_run(NewRun(start_time=1.0, tags=dict(run.tags), experiment_id=run.experiment_id))
        results["oldest"] = tracking.find_run("k-1", run.experiment_id).run_id == older.run_id
        tracking.keep_one("k-1", run.experiment_id, older.run_id)
        remaining = tracking.search_runs(run.experiment_id, "tags.`mlproj.attempt` = 'k-1'")
        results["kept"] = [one.run_id for one in remaining] == [older.run_id]
        run = older
        tracking.set_tags(run.run_id, {"t": "1"})
        outcome = Outcome(RunStatus.FAILED, Reason(ReasonCode.OOM, "too big"), ended_at=2000.0)
        for _ in range(2):
            tracking.settle(run.run_id, outcome)
        Path(os.environ["HOME"], "output.log").write_text("the log")
        results["upload"] = tracking.upload(run.run_id, Path(os.environ["HOME"], "output.log"))
        stored = tracking.get_run(run.run_id)
        results["outcome"] = stored.outcome == outcome
        results["stored"] = [stored.status, stored.url, stored.tags["t"], stored.artifact_uri]
        results["warnings"] = tracking.log_parameters(run.run_id, {"a": "1", "long": "x" * 7000, "b,c": "2"})
        results["parameters"] = {k: len(v) for k, v in tracking.get_run(run.run_id).parameters.items()}
        results["variables"] = tracking.child_variables(run.run_id, run.experiment_id)
        results["secrets"] = dict(tracking.child_secrets)
        results["unknown experiment"] = error(lambda: tracking.create_run(new_run("k-3", experiment_id="4242")))
        from mlproj_core.tracking import store
        store._PAGE = 2
        made = [
            tracking.create_run(NewRun(start_time=1.0 + number, tags={"kind": "s"}, experiment_id=run.experiment_id))
            for number in range(5)
        ]
        found = [one.run_id for one in tracking.search_runs(run.experiment_id, "tags.`kind` = 's'")]
        results["searched"] = found == [one.run_id for one in reversed(made)]
        results["unknown run"] = error(lambda: tracking.get_run("0" * 32))
        results["unknown end"] = error(lambda: tracking.settle("0" * 32, outcome))
        """
    )
    assert results["again"]
    assert results["found"]
    assert results["not found"] is None
    assert results["oldest"]
    assert results["kept"]
    assert results["searched"]
    assert results["outcome"]
    status, url, tag, artifact_uri = results["stored"]
    assert (status, url, tag) == ("FAILED", None, "1")
    assert results["upload"] is None
    assert (Path(artifact_uri) / "logs/output.log").read_text() == "the log"
    assert Path(artifact_uri).is_relative_to(tmp_path)
    assert results["parameters"] == {"a": 1, "long": 6000}
    cut, left_out = results["warnings"]
    assert "'long' has 7000 characters" in cut
    assert "'b,c' was not recorded" in left_out
    assert results["variables"]["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/here/runs.db"
    assert results["secrets"] == {}
    kind, text, _ = results["unknown experiment"]
    assert kind == "UserError"
    assert "4242" in text
    assert results["unknown run"][0] == "UserError"
    assert results["unknown end"][0] == "TrackingRefused"
    assert results["printed"] == ""


def test_what_mlflow_was_told_in_this_process_is_heeded(with_mlflow, tmp_path):
    results = with_mlflow(
        """
        import mlflow
        mlflow.set_tracking_uri("sqlite:///told.db")
        os.environ["MLFLOW_TRACKING_URI"] = "http://localhost:1"
        tracking = connect()
        results["uri"] = tracking.uri
        results["experiment"] = mlflow.set_experiment("set by mlflow").experiment_id == tracking.resolve_experiment()
        results["named"] = tracking.resolve_experiment("another") != tracking.resolve_experiment()
        """
    )
    assert results["uri"] == f"sqlite:///{tmp_path}/here/told.db"
    assert results["experiment"]
    assert results["named"]


def test_with_nothing_configured_mlflows_own_default_store_is_used(with_mlflow, tmp_path):
    results = with_mlflow(
        """
        import mlflow
        theirs = mlflow.get_tracking_uri()
        tracking = connect()
        results["same"] = tracking.uri == theirs
        results["named"] = [tracking.name, tracking.notice]
        """
    )
    assert results["same"]
    assert results["named"] == ["mlflow", None]


def test_a_directory_is_a_store_only_where_mlflow_allows_it(with_mlflow, tmp_path):
    results = with_mlflow(
        """
        results["refused"] = error(lambda: connect("./mlruns").create_run(new_run("k-1")))
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        run = connect("./mlruns").create_run(new_run("k-1", parameters={"a": "1"}))
        results["stored"] = [run.experiment_id, dict(connect("./mlruns").get_run(run.run_id).parameters)]
        """
    )
    kind, text, _ = results["refused"]
    assert kind == "UserError"
    assert f"file://{tmp_path}/here/mlruns" in text
    assert "MLFLOW_TRACKING_URI=sqlite:///mlflow.db" in text
    assert "MLFLOW_ALLOW_FILE_STORE=true" in text
    assert results["stored"] == ["0", {"a": "1"}]


def test_a_password_of_a_database_is_never_shown(with_mlflow):
    results = with_mlflow(
        """
        uri = "postgresql+nodriver://ada:se%2Fcret@127.0.0.1:1/runs"
        tracking = connect(uri)
        results["error"] = error(lambda: tracking.create_run(new_run("k-1")))
        results["shown"] = [tracking.uri, repr(tracking)]
        results["variables"] = dict(tracking.child_variables("r", "e"))
        results["secrets"] = tracking.child_secrets == {"MLFLOW_TRACKING_URI": uri}
        os.environ["MLFLOW_TRACKING_URI"] = uri
        results["known"] = connect(tracking.uri).child_secrets == {"MLFLOW_TRACKING_URI": uri}
        """
    )
    assert results["shown"][0] == "postgresql+nodriver://127.0.0.1:1/runs"
    assert results["secrets"]
    assert results["known"]
    assert results["variables"] == {"MLFLOW_RUN_ID": "r", "MLFLOW_EXPERIMENT_ID": "e"}
    assert "postgresql+nodriver://127.0.0.1:1/runs" in results["error"][1]
    assert "cret" not in json.dumps([results["error"], results["shown"]])
