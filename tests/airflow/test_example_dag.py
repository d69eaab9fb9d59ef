"""The example DAG on a real Airflow: it retrains the wine model, and registers what beats the champion."""

import json
import shutil
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from airflow_world import Run
from rest import ApiError

# The first run builds the project's own environment, with scikit-learn and mlflow.
pytestmark = pytest.mark.timeout(900)

EXAMPLES = Path(__file__).parents[2] / "example_flows"
DAG_ID = "wine_quality_retraining"


@pytest.fixture(scope="module")
def details(airflow):
    """What the API tells of the DAG, once Airflow knows it."""
    for part in ("projects", "airflow"):
        shutil.copytree(EXAMPLES / part, airflow.dags / part, dirs_exist_ok=True)

    def known():
        try:
            return airflow.ask("GET", "dags", DAG_ID, "details")
        except ApiError:
            return None

    return airflow.wait_for(known, lambda: f"no DAG: {airflow.ask('GET', 'importErrors')['import_errors']}", 120)


@pytest.fixture(scope="module")
def first(airflow, details):
    """The run that was due last Sunday, which Airflow starts by itself; before it there is no champion."""
    [due] = airflow.wait_for(
        lambda: airflow.ask("GET", "dags", DAG_ID, "dagRuns")["dag_runs"], "nothing was started by schedule", 120
    )
    run = Run(DAG_ID, due["dag_run_id"])
    airflow.wait_for_run(run, timeout=600)
    return run


@pytest.fixture(scope="module")
def second(airflow, first):
    """The same again, by hand."""
    run = airflow.trigger(DAG_ID)
    airflow.wait_for_run(run, timeout=600)
    return run


@pytest.fixture(scope="module")
def metrics(airflow):
    """Gives the metrics of all evaluations of a run."""
    return lambda run: [airflow.xcom(run, "evaluate", "metrics", map_index=index) for index in range(3)]


@pytest.fixture(scope="module")
def registry(mlflow_server):
    """Asks MLflow's model registry."""

    def ask(path, **query):
        url = f"{mlflow_server}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            return json.load(answer)

    return ask


def test_the_form_asks_for_what_the_project_declares_and_for_the_sweep(details):
    schemas = {name: param["schema"] for name, param in details["params"].items()}
    assert list(schemas) == ["test_fraction", "seed", "penalties", "min_accuracy"]
    assert schemas["test_fraction"]["type"] == "number"
    assert schemas["seed"]["type"] == "integer"
    assert schemas["penalties"]["type"] == "array"
    assert schemas["penalties"]["items"]["type"] == "number"
    assert {name: param["value"] for name, param in details["params"].items()} == {
        "test_fraction": 0.25,
        "seed": 42,
        "penalties": [0.1, 1.0, 10.0],
        "min_accuracy": 0.9,
    }


def test_a_value_that_does_not_fit_the_form_starts_no_run(airflow, details):
    with pytest.raises(ApiError, match="'many' is not of type 'integer'"):
        airflow.trigger(DAG_ID, conf={"seed": "many"})


def test_every_candidate_is_trained_and_evaluated_under_a_name_that_can_be_read(airflow, first, mlflow_run):
    labels = [
        (task["task_id"], task["map_index"], task["rendered_map_index"])
        for task in airflow.tasks(first)
        if task["map_index"] >= 0
    ]
    names = enumerate(["penalty 0.1", "penalty 1.0", "penalty 10.0"])
    assert sorted(labels) == sorted((task_id, *name) for name in names for task_id in ("train", "evaluate"))
    trained = mlflow_run(airflow.xcom(first, "train", "run_id", map_index=2))
    assert trained["info"]["run_name"] == "train, penalty 10.0"
    assert {"key": "penalty", "value": "10.0"} in trained["data"]["params"]


def test_a_training_leads_to_its_run_in_mlflow(airflow, first, mlflow_server):
    run_id = airflow.xcom(first, "train", "run_id", map_index=1)
    page = airflow.extra_links(first, "train", map_index=1)["MLflow run"]
    assert page.startswith(mlflow_server)
    assert page.endswith(run_id)


def test_the_best_model_becomes_the_champion(airflow, first, metrics, registry):
    best = max(range(3), key=lambda index: (metrics(first)[index]["accuracy"], -metrics(first)[index]["log_loss"]))
    assert metrics(first)[best]["accuracy"] > 0.9
    assert airflow.xcom(first, "champion", "result")["accuracy"] is None
    champion = registry("registered-models/alias", name="wine_quality", alias="champion")["model_version"]
    assert champion["source"] == airflow.xcom(first, "train", "result", map_index=best)["model_uri"]


def test_the_registration_is_an_event_of_the_asset(airflow, first):
    events = airflow.ask("GET", "assets", "events", source_dag_id=DAG_ID)["asset_events"]
    assert [(event["source_run_id"], event["extra"]["result"]["version"]) for event in events] == [(first.run_id, "1")]


def test_a_model_that_is_no_better_is_not_registered(airflow, second, metrics, registry):
    assert airflow.task(second, "register")["state"] == "skipped"
    assert airflow.xcom(second, "champion", "result")["accuracy"] == max(e["accuracy"] for e in metrics(second))
    versions = registry("model-versions/search", filter="name='wine_quality'")["model_versions"]
    assert [version["version"] for version in versions] == ["1"]
