"""Tasks whose runs are in containers and on a cluster: one for each, whoever dies, and nothing left."""

import os
import signal

import pytest
from airflow_elsewhere import TASKS, Both


@pytest.fixture(scope="module")
def both(airflow, steps, elsewhere, closed_registry, mlflow_server):
    return Both(airflow, steps, elsewhere, closed_registry, elsewhere.engine.host, mlflow_server)


@pytest.fixture
def row(record_property, elsewhere):
    """Puts a row for each of two runs into the table of faults that is printed at the end."""

    def put(fault, mode, handles, outcome):
        for where, handle in handles.items():
            cells = {
                "fault": f"{fault} ({where})",
                "mode": mode,
                "starts": elsewhere.starts(handle),
                "survivors": len(elsewhere.living()),
                "outcome": outcome,
            }
            record_property("table: Faults in Airflow: one run or none, and nothing left", cells)
            assert cells["starts"] == 1

    return put


class TestARunElsewhere:
    def test_is_found_by_the_retry_of_a_task_that_was_killed(self, airflow, elsewhere, both, row, mlflow_run):
        run, handles = both.begin("killed_elsewhere", seconds=45, retries=1)
        for task_id in TASKS:
            os.kill(airflow.task_processes(run, task_id).runner, signal.SIGKILL)
        for task_id in TASKS:
            airflow.wait_for_task(run, task_id, "success", try_number=2, timeout=120)
            assert airflow.xcom(run, task_id, "handle") == handles[task_id]
            assert airflow.xcom(run, task_id, "metrics") == {"score": 0.5}
            assert mlflow_run(handles[task_id]["run_id"])["info"]["status"] == "FINISHED"
            printed = "".join(airflow.log(run, task_id, number) for number in (1, 2))
            lines = airflow.xcom(run, task_id, "result")["lines"]
            assert all(f"line {number} of" in printed for number in range(1, lines + 1))
        both.are_ended()
        row("KILL of the task, while it runs", "synchronous", handles, "try 2 success")
        labels = elsewhere.job(handles["kubernetes"])["metadata"]["labels"]
        assert (labels["mlproj/airflow-dag"], labels["mlproj/airflow-task"]) == ("killed_elsewhere", "kubernetes")
        assert [airflow.places_of(secret) for secret in (elsewhere.token, "geheim")] == [[], []]

    def test_is_ended_with_a_task_that_is_marked(self, airflow, both, row):
        run, handles = both.begin("marked_elsewhere", seconds=600, retries=2)
        for task_id in TASKS:
            airflow.mark(run, task_id, "failed")
        both.are_ended()
        row("marked failed", "synchronous", handles, "failed")
        assert {airflow.task(run, task_id)["state"] for task_id in TASKS} == {"failed"}
