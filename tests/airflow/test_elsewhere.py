"""Tasks whose runs are in containers, on a cluster, in a workspace: one for each, whoever dies, and nothing left."""

import os
import signal

import pytest
from airflow_elsewhere import TOGETHER, Everywhere


@pytest.fixture(scope="module")
def everywhere(airflow, steps, elsewhere, closed_registry, mlflow_server):
    return Everywhere(airflow, steps, elsewhere, closed_registry, elsewhere.engine.host, mlflow_server)


@pytest.fixture
def row(record_property, elsewhere):
    """Puts a row for each run into the table of faults that is printed at the end."""

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


@pytest.fixture(params=TOGETHER, ids="-".join)
def tasks(request):
    """Tasks that are equal but for where they run."""
    return request.param


class TestARunElsewhere:
    def test_is_found_by_the_retry_of_a_task_that_was_killed(
        self, airflow, elsewhere, everywhere, tasks, row, mlflow_run
    ):
        run, handles = everywhere.begin("killed", tasks, seconds=45, retries=1)
        for task_id in tasks:
            os.kill(airflow.task_processes(run, task_id).runner, signal.SIGKILL)
        for task_id in tasks:
            airflow.wait_for_task(run, task_id, "success", try_number=2, timeout=120)
            assert airflow.xcom(run, task_id, "handle") == handles[task_id]
            assert airflow.xcom(run, task_id, "metrics") == {"score": 0.5}
            assert mlflow_run(handles[task_id]["run_id"])["info"]["status"] == "FINISHED"
            printed = "".join(airflow.log(run, task_id, number) for number in (1, 2))
            lines = airflow.xcom(run, task_id, "result")["lines"]
            assert all(f"line {number} of" in printed for number in range(1, lines + 1))
        everywhere.are_ended()
        row("KILL of the task, while it runs", "synchronous", handles, "try 2 success")
        for job in [elsewhere.job(handle) for handle in handles.values() if handle["backend"] == "kubernetes"]:
            labels = job["metadata"]["labels"]
            assert (labels["mlproj/airflow-dag"], labels["mlproj/airflow-task"]) == (run.dag_id, "kubernetes")
        assert [airflow.places_of(secret) for secret in elsewhere.secrets] == [[], [], [], []]

    def test_is_ended_with_a_task_that_is_marked(self, airflow, everywhere, tasks, row):
        run, handles = everywhere.begin("marked", tasks, seconds=600, retries=2)
        for task_id in tasks:
            airflow.mark(run, task_id, "failed")
        everywhere.are_ended()
        row("marked failed", "synchronous", handles, "failed")
        assert {airflow.task(run, task_id)["state"] for task_id in tasks} == {"failed"}
