"""A project of `mlproj: 1` as a task of a real Airflow: its flags, choices and optional values, and its secret."""

import json

import pytest

MLPROJECT = """
name: printer
mlproj: 1
entry_points:
  main:
    parameters:
      kind: {enum: [fast, slow], default: slow}
      depth: {type: int, optional: true}
      note: {optional: true}
      verbose: bool
      seconds: {type: float, default: 0}
      LICENCE: {secret: true}
    command: "python show.py --kind {kind} --depth={depth} --note {note} --verbose {verbose} -- {seconds}"
"""

SHOW = """
import json, os, sys, time

time.sleep(float(sys.argv[-1]))
print("the licence is", os.environ["LICENCE"], flush=True)
with open(os.environ["MLPROJ_RESULT"], "w") as file:
    json.dump({"arguments": sys.argv[1:-2], "length": len(os.environ["LICENCE"])}, file)
"""

DAG = """
from airflow.sdk import DAG
from airflow_mlproj import MLProjectOperator, mlproject_params

with DAG(
    {dag_id!r}, params=mlproject_params({project!r}), render_template_as_native_obj=True,
):
    MLProjectOperator(
        task_id="show", uri="projects/printer", env_manager="local", retries=2, mlflow_conn_id="mlflow_default",
        parameters={{
            "kind": "{{{{ params.kind }}}}", "depth": "{{{{ params.depth }}}}", "note": "{{{{ params.note }}}}",
            "verbose": "{{{{ params.verbose }}}}", {parameters}
        }},
        {arguments}
    )
"""

LICENCE = "k7q-licence-of-the-tests"
"""Its name and its looks tell Airflow nothing."""


@pytest.fixture(scope="module")
def project(airflow):
    """A directory in the DAG bundle with a project that prints its secret, which it had better not."""
    directory = airflow.dags / "projects" / "printer"
    directory.mkdir(parents=True)
    (directory / "MLproject").write_text(MLPROJECT)
    (directory / "show.py").write_text(SHOW)
    airflow.ask("POST", "variables", body={"key": "harmless", "value": LICENCE})
    return str(directory)


@pytest.fixture(scope="module")
def runs(airflow, project):
    """All of this module's DAG runs, started at once."""
    given = 'env_vars={"LICENCE": "{{ var.value.harmless }}"}'
    for dag_id, parameters, arguments in (
        ("printing", "", given),
        ("deferring", '"seconds": 15', f"{given}, deferrable=True"),
        ("showing", '"LICENCE": "in the open"', ""),
    ):
        text = DAG.format(dag_id=dag_id, project=project, parameters=parameters, arguments=arguments)
        airflow.write_dag(dag_id, text)
    return {
        "deferred": airflow.trigger("deferring"),
        "plain": airflow.trigger("printing"),
        "given": airflow.trigger("printing", conf={"kind": "fast", "depth": 3, "note": "a b", "verbose": True}),
        "shown": airflow.trigger("showing"),
    }


class TestTheForm:
    def test_what_is_left_empty_is_not_on_the_command_line(self, airflow, runs):
        airflow.wait_for_run(runs["plain"], timeout=180)
        result = airflow.xcom(runs["plain"], "show", "result")
        assert result == {"arguments": ["--kind", "slow"], "length": len(LICENCE)}

    def test_what_is_given_is(self, airflow, runs):
        airflow.wait_for_run(runs["given"], timeout=180)
        result = airflow.xcom(runs["given"], "show", "result")
        assert result["arguments"] == ["--kind", "fast", "--depth=3", "--note", "a b", "--verbose"]


class TestTheSecret:
    def test_what_the_project_prints_of_it_is_masked_in_the_log(self, airflow, runs):
        airflow.wait_for_run(runs["plain"], timeout=180)
        assert "the licence is ***" in airflow.log(runs["plain"], "show")

    def test_so_it_is_where_the_task_was_deferred_meanwhile(self, airflow, runs):
        airflow.wait_for_run(runs["deferred"], timeout=180)
        log = airflow.log(runs["deferred"], "show")
        assert "Pausing task as DEFERRED" in log
        assert "the licence is ***" in log

    def test_it_is_kept_nowhere_in_airflow_nor_in_mlflow(self, airflow, runs, mlflow_run):
        for name in ("plain", "given", "deferred"):
            airflow.wait_for_run(runs[name], timeout=180)
        assert airflow.places_of(LICENCE) == []
        assert LICENCE not in json.dumps(mlflow_run(airflow.xcom(runs["plain"], "show", "run_id")))

    def test_among_the_parameters_it_is_refused_at_once(self, airflow, runs):
        airflow.wait_for_run(runs["shown"], "failed", timeout=180)
        log = airflow.log(runs["shown"], "show")
        assert "it is secret, and others could read it here; give it as the environment variable LICENCE" in log
        assert airflow.task(runs["shown"], "show")["try_number"] == 1
