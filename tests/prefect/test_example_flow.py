"""The example flow on a real Prefect: it retrains the wine model, and registers what beats the champion."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from rest import ApiError, address, request

# The first run builds the project's own environment, with scikit-learn and mlflow.
pytestmark = pytest.mark.timeout(900)

EXAMPLES = Path(__file__).parents[2] / "example_flows"
PENALTIES = ["0.1", "1.0", "10.0"]


@pytest.fixture(scope="module")
def weekly(prefect, tracked):
    """The example, served by the program that it is."""
    shutil.copytree(EXAMPLES, prefect.files / "example_flows", dirs_exist_ok=True)
    served = prefect.serve_file("weekly", "example_flows/prefect/retraining_flow.py", tracked)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def first(prefect, weekly):
    """A run of it, asked for in the UI; before it there is no champion."""
    return ended(prefect, weekly)


@pytest.fixture(scope="module")
def second(prefect, weekly, first):
    """The same again."""
    return ended(prefect, weekly)


def ended(prefect, weekly):
    flow_run_id = weekly.run()
    prefect.wait_for_flow_run(flow_run_id, timeout=600)
    # Prefect tells of the end of a task after the fact.
    prefect.wait_for(
        lambda: all(run["state_type"] == "COMPLETED" for run in prefect.task_runs(flow_run_id)), "tasks that do not end"
    )
    return flow_run_id


@pytest.fixture(scope="module")
def mlflow(mlflow_server):
    """Asks MLflow's API."""
    return lambda *path, **query: request("GET", address(f"{mlflow_server}/api/2.0/mlflow", *path, **query))


@pytest.fixture(scope="module")
def link(prefect):
    """Gives the artifact that leads from a task run to its run in MLflow."""

    def found(flow_run_id, name):
        [task] = [run for run in prefect.task_runs(flow_run_id) if run["name"] == name]
        [artifact] = [
            artifact
            for artifact in prefect.artifacts(flow_run_id)
            if artifact["task_run_id"] == task["id"] and artifact["key"].endswith("-run")
        ]
        return artifact

    return found


@pytest.fixture(scope="module")
def run_of(mlflow, link):
    """Gives what MLflow knows of a task run's run."""

    def found(flow_run_id, name):
        handle = json.loads(link(flow_run_id, name)["description"].split("```json\n")[1].split("\n```")[0])
        return mlflow("runs", "get", run_id=handle["run_id"])["run"]

    return found


@pytest.fixture(scope="module")
def metrics(run_of):
    """Gives the metrics of all evaluations of a flow run."""

    def found(flow_run_id):
        runs = [run_of(flow_run_id, f"evaluate, penalty {penalty}") for penalty in PENALTIES]
        return [{metric["key"]: metric["value"] for metric in run["data"]["metrics"]} for run in runs]

    return found


def test_it_is_run_every_monday_one_run_at_a_time(weekly):
    deployment = weekly.deployment
    [schedule] = deployment["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 6 * * 1", True)
    assert deployment["entrypoint"] == "example_flows/prefect/retraining_flow.py:retraining"


def test_the_form_asks_for_parameters_with_their_types_and_limits(weekly):
    schema = weekly.deployment["parameter_openapi_schema"]["properties"]
    assert {name: field["default"] for name, field in schema.items()} == {
        "test_fraction": 0.25,
        "seed": 42,
        "penalties": [0.1, 1.0, 10.0],
        "min_accuracy": 0.9,
    }
    assert (schema["test_fraction"]["type"], schema["test_fraction"]["exclusiveMaximum"]) == ("number", 1)
    assert (schema["penalties"]["items"]["exclusiveMinimum"], schema["penalties"]["minItems"]) == (0, 1)
    assert "strengths" in schema["penalties"]["description"]


def test_a_value_that_does_not_fit_the_form_starts_no_run(weekly):
    with pytest.raises(ApiError, match="'many' is not of type 'integer'"):
        weekly.run({"seed": "many"})


def test_every_step_is_a_task_run_under_a_name_that_can_be_read(prefect, first):
    tasks = prefect.task_runs(first)
    sweep = [f"{what}, penalty {penalty}" for what in ("train", "evaluate") for penalty in PENALTIES]
    names = Counter(run["name"] for run in tasks if run["name"] != "best")
    assert names == Counter(["prepare", "champion", "register", *sweep])
    assert {run["state_name"] for run in tasks} == {"Completed"}


def test_a_task_run_says_which_run_finished_and_while_it_ran_what_that_did(prefect, first, run_of):
    [task] = [run for run in prefect.task_runs(first) if run["name"] == "prepare"]
    states = prefect.states_of_task_run(task["id"])
    states = [(state["name"], (state["message"] or "").partition(" (")[0]) for state in states]
    assert states[0][0] == "Pending"
    assert ("Running", "the project runs") in states
    assert states[-1] == ("Completed", f"FINISHED: run {run_of(first, 'prepare')['info']['run_id']}")


def test_a_training_leads_to_its_run_in_mlflow_and_that_leads_back(prefect, first, link, run_of, mlflow_server):
    run = run_of(first, "train, penalty 10.0")
    artifact = link(first, "train, penalty 10.0")
    page = f"{mlflow_server}/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}"
    assert artifact["type"] == "markdown"
    assert f"({page})" in artifact["data"]
    assert run["info"]["run_name"] == "train, penalty 10.0"
    assert {"key": "penalty", "value": "10.0"} in run["data"]["params"]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["prefect.flow_name"] == "wine_quality_retraining"
    assert (tags["prefect.flow_run_id"], tags["prefect.task_run_id"]) == (first, artifact["task_run_id"])


def test_parameters_and_metrics_are_a_table(prefect, first, link):
    task_run_id = link(first, "train, penalty 10.0")["task_run_id"]
    [table] = [
        artifact
        for artifact in prefect.artifacts(first)
        if (artifact["task_run_id"], artifact["type"]) == (task_run_id, "table")
    ]
    rows = {(row["kind"], row["name"]): row["value"] for row in json.loads(table["data"])}
    assert rows["parameter", "penalty"] == "10.0"
    assert 0.9 < float(rows["metric", "cv_accuracy"]) < 1


def test_the_best_model_becomes_the_champion(first, metrics, mlflow, run_of):
    found = metrics(first)
    best = max(range(3), key=lambda index: (found[index]["accuracy"], -found[index]["log_loss"]))
    assert found[best]["accuracy"] > 0.9
    champion = mlflow("registered-models", "alias", name="wine_quality", alias="champion")["model_version"]
    tags = {tag["key"]: tag["value"] for tag in champion["tags"]}
    assert tags["evaluation_run_id"] == run_of(first, f"evaluate, penalty {PENALTIES[best]}")["info"]["run_id"]


def test_the_registration_is_an_event_of_the_asset(prefect, first, run_of):
    name = "prefect.asset.materialization.succeeded"
    champion = "mlflow://models/wine_quality/champion"
    body = {"filter": {"event": {"name": [name]}, "resource": {"id": [champion]}, "order": "ASC"}}
    [event] = prefect.wait_for(lambda: prefect.ask("POST", "events", "filter", body=body)["events"], "no event")
    assert event["resource"]["prefect.resource.id"] == champion
    assert first in {each["prefect.resource.id"].removeprefix("prefect.flow-run.") for each in event["related"]}
    assert event["payload"]["mlflow.run_id"] == run_of(first, "register")["info"]["run_id"]
    assert event["payload"]["promoted"] == 1


def test_a_model_that_is_no_better_is_not_registered(prefect, second, run_of, metrics, mlflow):
    assert "register" not in {run["name"] for run in prefect.task_runs(second)}
    champion = {metric["key"]: metric["value"] for metric in run_of(second, "champion")["data"]["metrics"]}
    assert champion["accuracy"] == max(evaluation["accuracy"] for evaluation in metrics(second))
    versions = mlflow("model-versions", "search", filter="name='wine_quality'")["model_versions"]
    assert [version["version"] for version in versions] == ["1"]
