"""The Airflow that the tests run in: what it tells is true, it notices faults, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import time

import processes
import pytest
from airflow_world import AirflowWorld, DagImportError
from processes import command
from rest import ApiError

BASH = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("{dag_id}"):
    BashOperator(task_id="bash", bash_command="{command}", retries=1, retry_delay=0)
"""


@pytest.fixture(scope="module")
def finished(airflow):
    """A run that succeeded, of a DAG with an ordinary and a mapped task."""
    airflow.write_dag(
        "finished",
        """
        from airflow.providers.standard.operators.bash import BashOperator
        from airflow.providers.standard.operators.python import PythonOperator
        from airflow.sdk import DAG

        with DAG("finished"):
            BashOperator(task_id="bash", bash_command="echo said by {{ dag_run.conf['who'] }}")
            PythonOperator.partial(task_id="python", python_callable=lambda x: {"x": x}).expand(op_args=[[1], [2]])
        """,
    )
    run = airflow.trigger("finished", conf={"who": "a program"})
    airflow.wait_for_run(run)
    return run


def test_everything_is_healthy(airflow, record_property):
    assert airflow.is_healthy()
    record_property("seconds until healthy", round(airflow.seconds_until_healthy, 1))


class TestWhatARunLeaves:
    def test_the_log_has_what_the_task_printed(self, airflow, finished):
        assert " said by a program\n" in airflow.log(finished, "bash")
        assert len(airflow.tries(finished, "bash")) == 1

    def test_templates_are_rendered(self, airflow, finished):
        assert airflow.rendered_fields(finished, "bash")["bash_command"] == "echo said by a program"

    def test_every_instance_of_a_mapped_task_has_its_result(self, airflow, finished):
        states = sorted((task["task_id"], task["map_index"], task["state"]) for task in airflow.tasks(finished))
        assert states == [("bash", -1, "success"), ("python", 0, "success"), ("python", 1, "success")]
        assert airflow.xcom_keys(finished, "python", map_index=1) == ["return_value"]
        assert airflow.xcom(finished, "python", map_index=1) == {"x": 2}
        assert "'x': 1" in airflow.log(finished, "python", map_index=0)

    def test_there_are_no_links_and_no_state_that_nobody_made(self, airflow, finished):
        assert airflow.extra_links(finished, "bash") == {}
        assert airflow.task_state(finished, "bash") == {}

    def test_a_text_is_found_where_it_is_kept(self, airflow, finished):
        places = airflow.places_of("said by a program")
        assert "rendered_task_instance_fields.rendered_fields" in places
        assert any(place.startswith("logs/dag_id=finished/") for place in places)
        assert airflow.places_of("said by nobody") == []
        assert "dag_run.run_id: " + finished.run_id in airflow.database_text()

    def test_a_logical_date_is_given_only_if_it_is_asked_for(self, airflow, finished):
        assert airflow.run(finished)["logical_date"] is None


class TestDagFiles:
    def test_an_import_error_is_told_with_its_text(self, airflow):
        with pytest.raises(DagImportError, match="ValueError: 17 is not even"):
            airflow.write_dag("broken", "from airflow.sdk import DAG\nraise ValueError('17 is not even')")

    def test_a_file_counts_as_parsed_when_its_present_text_is(self, airflow):
        for number in range(3):
            text = f"from airflow.sdk import DAG\ndag = DAG('rewritten_{number}')"
            assert airflow.write_dag("rewritten", text) == [f"rewritten_{number}"]


class TestFaults:
    def test_the_processes_of_a_task_are_found_and_a_killed_one_is_tried_again(self, airflow):
        airflow.write_dag(
            "killed",
            """
            import time

            from airflow.providers.standard.operators.python import PythonOperator
            from airflow.sdk import DAG

            with DAG("killed"):
                PythonOperator(task_id="sleep", python_callable=lambda: time.sleep(1000), retries=1, retry_delay=0)
            """,
        )
        run = airflow.trigger("killed")
        airflow.wait_for_task(run, "sleep", "running")
        first = airflow.task_processes(run, "sleep")
        assert first.runner == airflow.task(run, "sleep")["pid"]
        assert command(first.supervisor).startswith("airflow worker -- LocalExecutor: ")
        os.kill(first.runner, signal.SIGKILL)
        airflow.wait_for_task(run, "sleep", "running", try_number=2)
        assert airflow.task_processes(run, "sleep").runner != first.runner
        assert "SIGKILL" in airflow.log(run, "sleep", try_number=1)
        airflow.mark(run, "sleep", "failed")
        airflow.wait_for_run(run, "failed")
        assert [each["state"] for each in airflow.tries(run, "sleep")] == ["failed", "failed"]

    def test_waiting_for_what_cannot_happen_any_more_fails_at_once_and_shows_the_log(self, airflow):
        airflow.write_dag("failing", BASH.format(dag_id="failing", command="echo so it ends; exit 3"))
        run = airflow.trigger("failing")
        with pytest.raises(pytest.fail.Exception, match=r"(?s)bash is failed in its try 2.*so it ends"):
            airflow.wait_for_task(run, "bash", "success")
        with pytest.raises(pytest.fail.Exception, match=r"(?s)failing is failed, not success.*so it ends"):
            airflow.wait_for_run(run)

    def test_a_cleared_task_runs_again_and_a_deleted_run_is_gone(self, airflow, finished):
        run = airflow.trigger(finished.dag_id, conf={"who": "another"})
        airflow.wait_for_run(run)
        assert [task["task_id"] for task in airflow.clear(run, "bash")] == ["bash"]
        airflow.wait_for_task(run, "bash", "success", try_number=2)
        airflow.wait_for_run(run)
        airflow.delete_run(run)
        with pytest.raises(ApiError, match="404"):
            airflow.run(run)

    def test_a_paused_dag_starts_nothing(self, airflow, finished):
        airflow.pause(finished.dag_id)
        run = airflow.trigger(finished.dag_id, conf={"who": "a sleeper"})
        time.sleep(2)
        assert {task["state"] for task in airflow.tasks(run)} == {None}
        airflow.unpause(finished.dag_id)
        airflow.wait_for_run(run)


class TestAWorldOfItsOwn:
    def test_one_that_loses_a_component_says_so_and_when_stopped_leaves_nothing(self, airflow_installed, tmp_path):
        config = {"core": {"parallelism": 1}}
        world = AirflowWorld(tmp_path, variables={"AIRFLOW_VAR_GREETING": "from the outside"}, config=config)
        try:
            assert len([title for _, title in world.survivors() if "LocalExecutor" in title]) == 1
            command = "echo {{ var.value.greeting }}; setsid sleep 1000 & exec sleep 1000"
            world.write_dag("leaving", BASH.format(dag_id="leaving", command=command))
            run = world.trigger("leaving")
            world.wait_for(lambda: [c for _, c in world.survivors() if c == "sleep 1000"][1:], "no two sleepers", 30)
            assert "from the outside" in world.log(run, "bash")
            os.kill(world.components["scheduler"].process.pid, signal.SIGKILL)
            with pytest.raises(pytest.fail.Exception, match="the scheduler ended by itself, with -9"):
                world.wait_for_run(run)
        finally:
            world.stop()
        assert world.survivors() == []

    def test_its_guard_ends_what_is_left_when_the_tests_are_killed(self, tmp_path):
        guard = subprocess.Popen(
            [sys.executable, processes.__file__, f"AIRFLOW_HOME={tmp_path}"], stdin=subprocess.PIPE, text=True
        )
        environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
        marked = subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=True)
        leader = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        try:
            guard.communicate(f"{leader.pid}\n", timeout=30)
            assert (marked.wait(5), leader.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)
            assert bystander.poll() is None
        finally:
            for process in (marked, leader, bystander):
                process.kill()
                process.wait()
