"""Projects as tasks of a real Airflow: every way to wait for one, and what a task shows and leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from git_world import git, published, repository

SECRET = "s3cr3t-value-of-a-token"


@pytest.fixture(scope="module")
def runs(airflow, steps):
    """All of this module's DAG runs, started at once: each test looks at one."""
    dags = [
        steps.dag(
            "synchronous",
            """
            train = MLProjectOperator(
                task_id="train", **STEP,
                parameters={"mark": mark("synchronous"), "alpha": 0.25, "note": "{{ params.note }}"},
                env_vars={"SOME_TOKEN": "{{ var.value.some_token }}"}, mlflow_conn_id="mlflow_test", run_name="first",
                tags={"team": "wine"}, experiment_name="airflow tests",
            )
            """,
            """
            @task
            def read(identity, ti=None):
                score = ti.xcom_pull("train")["metrics"]["score"]
                print("READ", identity, score)
                assert score == 0.25
            read(train.output["run_id"])
            """,
            arguments="params={'note': 'a b'}",
        ),
        steps.dag(
            "deferred",
            """
            MLProjectOperator(
                task_id="train", **STEP, deferrable=True, mlflow_conn_id="mlflow_test",
                parameters={"mark": mark("deferred"), "seconds": 20},
            )
            """,
        ),
        steps.dag(
            "pair",
            """
            submitted = MLProjectOperator(
                task_id="submit", **STEP, wait_for_completion=False, parameters={"mark": mark("pair"), "seconds": 12},
                mlflow_conn_id="mlflow_test",
            )
            handle = submitted.output["handle"]
            MLProjectRunSensor(task_id="poke", handle=handle, poke_interval=1)
            MLProjectRunSensor(task_id="reschedule", handle=handle, mode="reschedule", poke_interval=10)
            MLProjectRunSensor(task_id="deferred", handle=handle, deferrable=True)
            MLProjectRunSensor(
                task_id="by_run_id", run_id=submitted.output["run_id"], mlflow_conn_id="mlflow_test", poke_interval=2,
            )
            MLProjectRunSensor(
                task_id="by_run_id_deferred", run_id=submitted.output["run_id"], mlflow_conn_id="mlflow_test",
                poke_interval=2, deferrable=True,
            )
            """,
        ),
        steps.dag(
            "decorated",
            """
            @task.mlproject(**STEP)
            def train(dag_run=None):
                return {"mark": mark("decorated"), "alpha": "{{ 0.75 }}", "run": dag_run.run_id}
            train()
            """,
        ),
        steps.dag(
            "sweep",
            """
            MLProjectOperator.partial(task_id="train", **STEP).expand(
                parameters=[{"mark": mark("sweep"), "alpha": alpha} for alpha in (0.1, 0.2)]
            )
            """,
            """
            MLProjectOperator.partial(
                task_id="named", **STEP, map_index_template="alpha is {{ task.parameters['alpha'] }}"
            ).expand(parameters=[{"mark": mark("sweep_named"), "alpha": alpha} for alpha in (0.1, 0.2)])
            """,
        ),
        steps.dag(
            "producer",
            """
            MLProjectOperator(
                task_id="train", **STEP, outlets=[Asset("model")], mlflow_conn_id="mlflow_test",
                parameters={"mark": mark("producer"), "alpha": 0.125},
            )
            """,
        ),
        steps.dag(
            "skipped",
            """
            MLProjectOperator(
                task_id="train", **STEP, skip_on_exit_code=[99, 7], parameters={"mark": mark("skipped"), "code": 7}
            )
            """,
        ),
        steps.dag(
            "failing",
            """
            MLProjectOperator(task_id="train", **STEP, retries=1, parameters={"mark": mark("failing"), "code": 3})
            """,
        ),
        steps.dag(
            "mistaken",
            """
            MLProjectOperator(
                task_id="train", **STEP, retries=3, parameters={"mark": mark("mistaken"), "alpha": "not a number"}
            )
            """,
        ),
        steps.dag(
            "forbidden",
            """
            MLProjectOperator(task_id="elsewhere", uri="{{ params.uri }}", env_manager="local", retries=3)
            MLProjectOperator(task_id="outside", uri="../../outside", env_manager="local", retries=3)
            """,
            arguments="params={'uri': '/srv/else/where'}",
        ),
    ]
    steps.dag(
        "consumer",
        """
        @task
        def read(triggering_asset_events=None):
            for events in triggering_asset_events.values():
                for event in events:
                    print("EVENT", event.extra["run_id"], event.extra["metrics"])
        read()
        """,
        arguments="schedule=[Asset('model')]",
    )
    airflow.ask("POST", "variables", body={"key": "some_token", "value": SECRET})
    return {dag_id: airflow.trigger(dag_id) for dag_id in dags}


VALUE_KEYS = {"run_id", "status", "experiment_id", "artifact_uri", "tracking_url", "metrics", "result", "handle"}


@pytest.fixture(scope="module")
def synchronous(airflow, runs):
    airflow.wait_for_run(runs["synchronous"], timeout=120)
    return runs["synchronous"]


class TestSynchronous:
    def test_returns_what_the_run_left(self, airflow, synchronous):
        value = airflow.xcom(synchronous, "train")
        value = json.loads(value) if isinstance(value, str) else value
        assert set(value) == VALUE_KEYS
        assert value["status"] == "FINISHED"
        assert value["metrics"] == {"score": 0.25}
        assert value["result"] == {"alpha": 0.25, "lines": 0}
        assert value["handle"]["run_id"] == value["run_id"]
        assert value["tracking_url"].endswith(value["run_id"])

    def test_every_field_is_an_xcom_of_its_own(self, airflow, synchronous):
        assert set(airflow.xcom_keys(synchronous, "train")) >= VALUE_KEYS

    def test_the_output_is_in_the_log_once(self, airflow, synchronous):
        log = airflow.log(synchronous, "train")
        assert log.count("the first line") == log.count("the last line, of 2") == 1
        assert "submitted as attempt" in log

    def test_the_rendered_fields_show_what_was_run(self, airflow, synchronous):
        fields = airflow.rendered_fields(synchronous, "train")
        assert fields["command"].startswith("python step.py ")
        assert fields["command"].endswith("--note 'a b'")
        assert fields["env_vars"] == {"SOME_TOKEN": "***"}

    def test_the_link_to_mlflow_is_there(self, airflow, synchronous):
        links = airflow.extra_links(synchronous, "train")
        assert links["MLflow run"] == airflow.xcom(synchronous, "train", "tracking_url")

    def test_the_run_in_mlflow_leads_back_to_the_task(self, airflow, synchronous, mlflow_run):
        recorded = mlflow_run(airflow.xcom(synchronous, "train", "run_id"))
        tags = {tag["key"]: tag["value"] for tag in recorded["data"]["tags"]}
        assert tags["airflow.dag_id"] == "synchronous"
        assert tags["airflow.dag_run_id"] == synchronous.run_id
        assert tags["airflow.task_id"] == "train"
        assert tags["airflow.try_number"] == "1"
        assert tags["airflow.log_url"].startswith(airflow.url)
        assert tags["team"] == "wine"
        assert recorded["info"]["status"] == "FINISHED"
        assert recorded["info"]["run_name"] == "first"

    def test_the_project_sees_its_variables_and_none_of_airflow_s(self, airflow, steps, synchronous):
        environ = steps.environ("synchronous")
        assert environ["SOME_TOKEN"] == SECRET
        assert environ["AIRFLOW_CTX_TASK_ID"] == "train"
        assert not [
            name for name in environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_", "_AIRFLOW"))
        ]

    def test_no_secret_is_kept_anywhere(self, airflow, synchronous, mlflow_secret):
        # Of the variable itself Airflow keeps an encrypted value.
        assert airflow.places_of(SECRET) == []
        assert airflow.places_of(mlflow_secret) == []


@pytest.fixture(scope="module")
def deferred(airflow, runs):
    airflow.wait_for_run(runs["deferred"], timeout=180)
    return runs["deferred"]


def test_the_link_is_there_while_the_project_runs(airflow, steps):
    steps.dag(
        "linked",
        """
        MLProjectOperator(
            task_id="train", **STEP, mlflow_conn_id="mlflow_test", parameters={"mark": mark("linked"), "seconds": 15},
        )
        """,
    )
    run = airflow.trigger("linked")
    page = airflow.wait_for(lambda: airflow.extra_links(run, "train")["MLflow run"], "there is no link", 60)
    assert page.endswith(airflow.xcom(run, "train", "run_id"))
    assert airflow.task(run, "train")["state"] == "running"
    airflow.wait_for_run(run, timeout=90)
    assert airflow.extra_links(run, "train")["MLflow run"] == page


class TestDeferred:
    def test_frees_its_worker_and_comes_back(self, airflow, deferred):
        log = airflow.log(deferred, "train")
        assert "Pausing task as DEFERRED" in log
        assert airflow.xcom(deferred, "train", "result")["alpha"] == 0.5

    def test_every_line_is_in_the_log_once_and_in_order(self, airflow, deferred):
        lines = airflow.xcom(deferred, "train", "result")["lines"]
        log = airflow.log(deferred, "train")
        assert log.count("the first line") == log.count(f"the last line, of {lines + 2}") == 1
        numbers = [int(line.rpartition(" line ")[2].split()[0]) for line in log.splitlines() if " of /" in line]
        assert numbers == list(range(1, lines + 1))

    def test_it_was_started_once(self, steps, deferred):
        assert len(steps.pids("deferred")) == 1


@pytest.fixture(scope="module")
def pair(airflow, runs):
    airflow.wait_for_run(runs["pair"], timeout=240)
    return runs["pair"]


class TestOperatorAndSensor:
    def test_the_operator_returns_while_the_project_runs(self, airflow, pair):
        value = airflow.xcom(pair, "submit")
        value = json.loads(value) if isinstance(value, str) else value
        assert value["status"] == "RUNNING"
        assert value["metrics"] == {}

    @pytest.mark.parametrize("sensor", ["poke", "reschedule", "deferred"])
    def test_the_sensor_returns_what_the_operator_would_have(self, airflow, pair, sensor):
        assert airflow.xcom(pair, sensor, "status") == "FINISHED"
        assert airflow.xcom(pair, sensor, "run_id") == airflow.xcom(pair, "submit", "run_id")
        assert airflow.xcom(pair, sensor, "result")["lines"] > 10

    @pytest.mark.parametrize("sensor", ["by_run_id", "by_run_id_deferred"])
    def test_a_run_is_waited_for_by_its_id_in_mlflow_too(self, airflow, pair, sensor):
        assert airflow.xcom(pair, sensor, "status") == "FINISHED"
        assert airflow.xcom(pair, sensor, "metrics") == {"score": 0.5}

    def test_one_project_was_started(self, steps, pair):
        assert len(steps.pids("pair")) == 1


class TestAnEarlierRun:
    def test_stands_in_for_a_task_that_would_do_the_same_until_that_is_cleared(
        self, airflow, steps, git_server, tmp_path
    ):
        work = repository(
            tmp_path / "work",
            MLproject="entry_points:\n  main:\n    parameters: {mark: string}\n    command: echo $$ >> {mark}; pwd\n",
        )
        published(work, git_server.root / "reused.git")
        user, token = git_server.login
        connection = {"connection_id": "git_reused", "conn_type": "git", "host": git_server.url("reused.git")}
        airflow.ask("POST", "connections", body={**connection, "login": user, "password": token})
        steps.dag(
            "reusing",
            f"""
            given = dict(
                uri="{git_server.url("reused.git")}", git_conn_id="git_reused", env_manager="local",
                parameters={{"mark": mark("reusing")}}, mlflow_conn_id="mlflow_test", reuse_finished=True,
            )
            first = MLProjectOperator(task_id="first", **given)
            first >> MLProjectOperator(task_id="second", **given)
            """,
        )
        run = airflow.trigger("reusing")
        airflow.wait_for_run(run, timeout=120)
        first, second = (airflow.xcom(run, task, "run_id") for task in ("first", "second"))
        assert second == first
        assert f"reusing run {first}" in airflow.log(run, "second")
        airflow.clear(run, "second")
        airflow.wait_for_run(run, timeout=120)
        assert airflow.xcom(run, "second", "run_id") != first
        assert len(Path(steps.mark("reusing")).read_text().split()) == 2


class TestAGitProject:
    def test_is_fetched_with_the_login_of_a_connection_and_run_at_a_commit(self, airflow, steps, git_server, tmp_path):
        work = repository(
            tmp_path / "work",
            MLproject="entry_points:\n  main:\n    parameters: {mark: string}\n    command: env > {mark}; pwd\n",
        )
        head = git("rev-parse", "HEAD", cwd=work)
        published(work, git_server.root / "p.git")
        user, token = git_server.login
        connection = {"connection_id": "git_test", "conn_type": "git", "host": git_server.url("p.git")}
        airflow.ask("POST", "connections", body={**connection, "login": user, "password": token})
        steps.dag(
            "from_git",
            f"""
            MLProjectOperator(
                task_id="train", uri="{git_server.url("p.git")}", version="main", git_conn_id="git_test",
                env_manager="local", parameters={{"mark": mark("from_git")}},
            )
            """,
        )
        run = airflow.trigger("from_git")
        airflow.wait_for_run(run, timeout=120)
        assert airflow.rendered_fields(run, "train")["commit"] == head
        environ = Path(steps.mark("from_git")).read_text()
        assert "GIT_CONFIG_" not in environ
        assert token not in environ
        assert airflow.places_of(token) == []

    def test_of_another_host_is_not_given_the_login(self, airflow, steps, git_server):
        steps.dag(
            "from_elsewhere",
            """
            MLProjectOperator(
                task_id="train", uri="https://git.example.com/acme/p.git", git_conn_id="git_test", env_manager="local",
            )
            """,
        )
        run = airflow.trigger("from_elsewhere")
        airflow.wait_for_task(run, "train", "failed", timeout=90)
        assert "its login is not sent there" in airflow.log(run, "train")


def test_the_connection_to_mlflow_can_be_tested(airflow, mlflow_server):
    code = "from airflow_mlproj import MLflowHook; print(MLflowHook('mlflow_test').test_connection())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=airflow.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str((True, f"{mlflow_server} answers"))


def test_a_decorated_function_returns_the_parameters(airflow, runs):
    airflow.wait_for_run(runs["decorated"], timeout=120)
    assert airflow.xcom(runs["decorated"], "train", "result") == {"alpha": 0.75, "lines": 0}
    assert airflow.rendered_fields(runs["decorated"], "train")["command"].endswith(f"--run {runs['decorated'].run_id}")


def test_a_sweep_has_a_run_for_each_value_and_labels_that_can_be_read(airflow, runs):
    run = runs["sweep"]
    airflow.wait_for_run(run, timeout=180)
    tasks = {(task["task_id"], task["map_index"]): task for task in airflow.tasks(run)}
    assert [airflow.xcom(run, "train", "result", map_index=index)["alpha"] for index in (0, 1)] == [0.1, 0.2]
    assert "alpha=0.2" in tasks["train", 1]["rendered_map_index"]
    assert tasks["named", 1]["rendered_map_index"] == "alpha is 0.2"


def test_a_finished_training_starts_who_waits_for_its_asset(airflow, runs):
    airflow.wait_for_run(runs["producer"], timeout=120)
    started = airflow.wait_for(
        lambda: airflow.ask("GET", "dags", "consumer", "dagRuns")["dag_runs"], "the consumer was not started"
    )
    run = type(runs["producer"])("consumer", started[0]["dag_run_id"])
    airflow.wait_for_run(run, timeout=120)
    run_id = airflow.xcom(runs["producer"], "train", "run_id")
    assert f"EVENT {run_id} {{'score': 0.125}}" in airflow.log(run, "read")


def test_an_exit_code_can_skip_the_task(airflow, runs):
    airflow.wait_for_task(runs["skipped"], "train", "skipped", timeout=120)
    assert "The project exited with code 7" in airflow.log(runs["skipped"], "train")


def test_a_failed_project_is_tried_again_and_its_reason_is_in_the_log(airflow, steps, runs):
    task = airflow.wait_for_task(runs["failing"], "train", "failed", timeout=120)
    assert task["try_number"] == 2
    assert len(steps.pids("failing")) == 2
    log = airflow.log(runs["failing"], "train")
    assert "MLProjectFailed" in log
    assert "the entry point exited with code 3" in log


def test_a_mistake_is_not_tried_again(airflow, steps, runs):
    task = airflow.wait_for_task(runs["mistaken"], "train", "failed", timeout=120)
    assert task["try_number"] == 1
    assert steps.pids("mistaken") == []
    assert "'not a number'" in airflow.log(runs["mistaken"], "train")


def test_a_project_from_elsewhere_is_refused(airflow, runs):
    task = airflow.wait_for_task(runs["forbidden"], "elsewhere", "failed", timeout=120)
    assert task["try_number"] == 1
    assert "[mlproj] allowed_uris does not cover it" in airflow.log(runs["forbidden"], "elsewhere")
    airflow.wait_for_task(runs["forbidden"], "outside", "failed", timeout=120)
    assert "leads out of the DAG's bundle" in airflow.log(runs["forbidden"], "outside")
