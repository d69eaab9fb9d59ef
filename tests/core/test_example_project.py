"""The example project: under mlproj in its own environment, and unchanged under mlflow."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from mlproj_core import ExecutionException, ReasonCode, RunStatus, load_project, run

PROJECT = Path(__file__).parents[2] / "example_flows" / "projects" / "wine_quality"


def ask(server, path, **query):
    """The JSON answer of the tracking server's REST API to a GET."""
    url = f"{server}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        return json.load(answer)


def champion(server, name):
    """Version number of the model's champion."""
    return ask(server, "registered-models/alias", name=name, alias="champion")["model_version"]["version"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A copy of the project, outside any Git repository."""
    return shutil.copytree(PROJECT, tmp_path_factory.mktemp("example") / "wine_quality")


@pytest.fixture(scope="module")
def step(directory, mlflow_server, tmp_path_factory):
    """Run an entry point in the project's own environment, against a real server: `step(name, **parameters)`."""
    home = tmp_path_factory.mktemp("mlproj")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPROJ_STATE_DIR", str(home / "state"))
        patch.setenv("MLPROJ_CACHE_DIR", str(home / "cache"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        # Its environment is new: without compiled modules every step would take seconds longer.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield lambda name, **parameters: run(
            directory,
            name,
            parameters=parameters,
            experiment_name="example under mlproj",
            run_name=name,
            tracking_uri=mlflow_server,
        ).result()


@pytest.fixture(scope="module")
def pipeline(step):
    """What each of the four steps left, in the order in which they ran."""
    data = step("prepare", test_fraction=0.3)
    data_uri = data.result["data_uri"]
    model = step("train", data_uri=data_uri, penalty=0.5)
    evaluation = step("evaluate", data_uri=data_uri, model_uri=model.result["model_uri"])
    asked = {"model_uri": model.result["model_uri"], "evaluation_run_id": evaluation.result["run_id"]}
    registration = step("register", model_name="under mlproj", **asked)
    return {"prepare": data, "train": model, "evaluate": evaluation, "register": registration}


def test_it_has_five_entry_points_and_no_odd_line():
    project = load_project(PROJECT)
    assert list(project.entry_points) == ["prepare", "train", "evaluate", "champion", "register"]
    assert project.warnings == ()


def test_each_step_is_a_run_of_its_own_on_the_server(pipeline, mlflow_server):
    assert len({result.run_id for result in pipeline.values()}) == 4
    for name, result in pipeline.items():
        assert result.status is RunStatus.FINISHED
        assert result.result["run_id"] == result.run_id
        told = ask(mlflow_server, "runs/get", run_id=result.run_id)["run"]
        assert told["info"]["status"] == "FINISHED"
        assert told["info"]["run_name"] == name
        assert {metric["key"]: metric["value"] for metric in told["data"]["metrics"]} == result.metrics


def test_the_split_is_the_one_asked_for(pipeline):
    assert pipeline["prepare"].metrics == {"train_rows": 124, "test_rows": 54}


def test_training_is_real(pipeline):
    assert 0.9 < pipeline["train"].metrics["cv_accuracy"] < 1
    assert 0.9 < pipeline["evaluate"].metrics["accuracy"] <= 1
    assert 0 < pipeline["evaluate"].metrics["log_loss"] < 0.5


def test_the_first_model_that_is_registered_becomes_the_champion_and_an_equal_one_does_not(
    pipeline, step, mlflow_server
):
    assert pipeline["register"].result["champion"] is True
    again = step(
        "register",
        model_uri=pipeline["train"].result["model_uri"],
        evaluation_run_id=pipeline["evaluate"].run_id,
        model_name="under mlproj",
    )
    assert (again.result["version"], again.result["champion"]) == ("2", False)
    assert champion(mlflow_server, "under mlproj") == "1"


def test_the_champion_is_measured_on_the_same_table(pipeline, step):
    data_uri = pipeline["prepare"].result["data_uri"]
    measured = step("champion", data_uri=data_uri, model_name="under mlproj")
    assert measured.result["accuracy"] == pipeline["evaluate"].result["accuracy"]
    assert measured.metrics == pipeline["evaluate"].metrics


def test_there_need_not_be_a_champion(pipeline, step):
    data_uri = pipeline["prepare"].result["data_uri"]
    assert step("champion", data_uri=data_uri, model_name="never registered").result["accuracy"] is None


def test_a_model_that_is_not_good_enough_fails_its_step(pipeline, step):
    with pytest.raises(ExecutionException, match=r"Not registered: accuracy .* is below 1\.1") as failure:
        step(
            "register",
            model_uri=pipeline["train"].result["model_uri"],
            evaluation_run_id=pipeline["evaluate"].run_id,
            min_accuracy=1.1,
        )
    assert failure.value.reason.code is ReasonCode.PROJECT_CODE
    assert failure.value.reason.exit_code == 1


UNDER_MLFLOW = """
import sys
from mlflow import MlflowClient, projects

directory = sys.argv[1]

def step(name, **parameters):
    run_id = projects.run(
        directory, name, parameters=parameters, env_manager="local", experiment_name="example under mlflow"
    ).run_id
    outputs = MlflowClient().get_run(run_id).outputs
    return run_id, [f"models:/{output.model_id}" for output in outputs.model_outputs] if outputs else []

prepared, _ = step("prepare")
data_uri = f"runs:/{prepared}/data"
_, (model_uri,) = step("train", data_uri=data_uri)
evaluated, _ = step("evaluate", data_uri=data_uri, model_uri=model_uri)
step("register", model_uri=model_uri, evaluation_run_id=evaluated, model_name="under mlflow")
"""


def test_it_runs_unchanged_under_mlflow(directory, mlflow_python, mlflow_environment, mlflow_server):
    environment = {
        **mlflow_environment,
        "MLFLOW_TRACKING_URI": mlflow_server,
        "PATH": f"{Path(mlflow_python).parent}:{mlflow_environment['PATH']}",
    }
    process = subprocess.run(
        [mlflow_python, "-c", UNDER_MLFLOW, directory], env=environment, capture_output=True, text=True, timeout=280
    )
    assert process.returncode == 0, process.stderr[-4000:]
    assert champion(mlflow_server, "under mlflow") == "1"
