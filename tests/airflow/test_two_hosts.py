"""Workers on two hosts: a local run ends with its task, and a retry on the other host starts anew without a twin."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from airflow_elsewhere import TASKS, Both
from airflow_steps import Steps
from airflow_world import AirflowWorld
from processes import command, pids


@pytest.fixture(scope="module")
def airflow(airflow_installed, airflow_variables, tmp_path_factory):
    world = AirflowWorld(
        tmp_path_factory.mktemp("two-hosts"),
        {**airflow_variables, "PYTHONPATH": str(Path(__file__).parents[1] / "support")},
        {"core": {"executor": "airflow_two_hosts.TwoHostsExecutor"}},
    )
    yield world
    world.stop()


@pytest.fixture(scope="module")
def steps(airflow):
    return Steps(airflow)


def worker_of(airflow, run):
    """Pid of the task's process, as this machine counts."""
    title = f"airflow worker -- {airflow.task(run, 'train')['id']}"
    return airflow.wait_for(lambda: [pid for pid in pids() if command(pid) == title], "no worker runs it")[0]


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def lives(steps):
    """Whether the step runs on either host; its pid counts on its own host only."""
    return any(f"{steps.marks}/" in command(pid) for pid in pids())


def test_a_retry_on_the_other_host_starts_anew_without_a_twin(airflow, steps):
    steps.dag(
        "moves",
        """
        MLProjectOperator(
            task_id="train", **STEP, retries=1,
            parameters={"mark": mark("moves"), "seconds": "{{ 600 if ti.try_number == 1 else 2 }}"},
        )
        """,
    )
    run = airflow.trigger("moves")
    airflow.wait_for(lambda: len(steps.pids("moves")) == 1, "it was not started", 90)
    os.kill(worker_of(airflow, run), signal.SIGKILL)
    airflow.wait_for(lambda: not lives(steps) or len(steps.pids("moves")) == 2, "the run outlived its task", 60)
    airflow.wait_for_task(run, "train", "success", try_number=2, timeout=120)
    assert len(steps.pids("moves")) == 2
    assert not lives(steps)
    assert airflow.xcom(run, "train", "handle")["ref"]["host"] == "host-b"
    assert airflow.xcom(run, "train", "handle")["attempt"] == 2


def test_a_worker_that_shuts_down_ends_the_run_and_the_other_host_starts_anew(airflow, steps):
    steps.dag(
        "leaves",
        """
        MLProjectOperator(
            task_id="train", **STEP, retries=1,
            parameters={"mark": mark("leaves"), "seconds": "{{ 600 if ti.try_number == 1 else 2 }}"},
        )
        """,
    )
    run = airflow.trigger("leaves")
    airflow.wait_for(lambda: len(steps.pids("leaves")) == 1, "it was not started", 90)
    os.kill(parent(worker_of(airflow, run)), signal.SIGTERM)
    airflow.wait_for_task(run, "train", "success", try_number=2, timeout=120)
    assert len(steps.pids("leaves")) == 2
    assert not lives(steps)


@pytest.mark.parametrize("wish", ["deferrable=True", "wait_for_completion=False"])
def test_a_local_run_cannot_be_left_where_it_could_not_be_found_again(airflow, steps, wish):
    name = wish.partition("=")[0]
    steps.dag(
        name, f'MLProjectOperator(task_id="train", **STEP, retries=2, {wish}, parameters={{"mark": mark({name!r})}})'
    )
    run = airflow.trigger(name)
    task = airflow.wait_for_task(run, "train", "failed", timeout=90)
    assert task["try_number"] == 1
    assert f"{wish} cannot be had for the backend 'local' here" in airflow.log(run, "train")
    assert steps.pids(name) == []


def test_a_run_elsewhere_is_followed_by_the_triggerer_when_its_worker_s_host_is_gone(
    airflow, steps, elsewhere, closed_registry, mlflow_server, record_property
):
    # A server on loopback is none to an engine elsewhere; by this address it is the same one.
    tracking_uri = mlflow_server.replace("127.0.0.1", "0.0.0.0")
    both = Both(airflow, steps, elsewhere, closed_registry, elsewhere.remote_host, tracking_uri, {"network": "host"})
    run, handles = both.begin("host_gone", seconds=40, deferrable=True)
    for task_id in TASKS:
        airflow.wait_for_task(run, task_id, "deferred", timeout=60)
    airflow.wait_for(lambda: not any("unshare --mount" in command(pid) for pid in pids()), "a worker is left")
    shutil.rmtree(airflow.directory / "host-a")
    for task_id in TASKS:
        airflow.wait_for_task(run, task_id, "success", timeout=120)
        assert airflow.xcom(run, task_id, "metrics") == {"score": 0.5}
        printed = airflow.log(run, task_id)
        lines = airflow.xcom(run, task_id, "result")["lines"]
        assert all(f"line {number} of" in printed for number in range(1, lines + 1))
        cells = {
            "fault": f"the worker's host gone ({task_id})",
            "mode": "deferred",
            "starts": elsewhere.starts(handles[task_id]),
            "survivors": len(elsewhere.living()),
            "outcome": "success",
        }
        record_property("table: Faults in Airflow: one run or none, and nothing left", cells)
        assert cells["starts"] == 1
    both.are_ended()
