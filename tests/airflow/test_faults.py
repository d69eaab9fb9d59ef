"""Whoever dies, and whatever is done to a task: one live or finished run, or none, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAUSE = '''
import os, time
from pathlib import Path

def pause(name):
    """Stand still at this point, the first time that a task of this DAG comes to it."""
    marker = Path({marker!r})
    if name == {instant!r} and not marker.exists():
        marker.write_text(str(os.getpid()))
        time.sleep(1000)

import mlproj_core.protocol
import airflow_mlproj.outcome
import airflow_mlproj.step

mlproj_core.protocol.checkpoint = pause
store, conclude = airflow_mlproj.step.Store.handle.fset, airflow_mlproj.outcome.conclude
def paused_store(self, handle):
    pause("before the handle is stored")
    store(self, handle)
airflow_mlproj.step.Store.handle = airflow_mlproj.step.Store.handle.setter(paused_store)
def paused_conclude(*arguments):
    pause("after the end")
    return conclude(*arguments)
airflow_mlproj.outcome.conclude = paused_conclude
'''


@pytest.fixture
def row(record_property, request):
    """Puts a row into the table of faults that is printed at the end."""

    def put(fault, mode, steps, name, outcome):
        cells = {
            "fault": fault,
            "mode": mode,
            "starts": len(steps.pids(name)),
            "survivors": len(steps.living(name)),
            "outcome": outcome,
        }
        record_property("table: Faults in Airflow: one run or none, and nothing left", cells)

    return put


def train(name, **more):
    """The line of a DAG that runs the step of this name."""
    parameters = more.pop("parameters", {})
    given = ", ".join(f'"{key}": {value!r}' for key, value in parameters.items())
    options = "".join(f", {key}={value}" for key, value in more.items())
    return f'MLProjectOperator(task_id="train", **STEP, parameters={{"mark": mark({name!r}), {given}}}{options})'


def ended(airflow, steps, name):
    """Wait until no process of the step lives."""
    airflow.wait_for(lambda: not steps.living(name), lambda: f"{name} lives: {steps.living(name)}", 60)


def started(airflow, steps, name, times=1):
    airflow.wait_for(lambda: len(steps.pids(name)) >= times, f"{name} was not started {times} times", 90)


class TestAKilledTask:
    @pytest.mark.parametrize(
        "instant",
        ["before the claim", "after the claim", "after the record", "before the handle is stored", "after the end"],
    )
    def test_has_one_run_all_the_same(self, airflow, steps, tmp_path, row, instant):
        name = "killed_" + instant.replace(" ", "_")
        marker = tmp_path / "marker"
        steps.dag(
            name,
            train(name, parameters={"seconds": 6}, retries=1),
            imports=PAUSE.format(marker=str(marker), instant=instant),
        )
        run = airflow.trigger(name)
        airflow.wait_for(lambda: marker.exists() and marker.read_text(), f"it never came to {instant}", 90)
        os.kill(int(marker.read_text()), signal.SIGKILL)
        airflow.wait_for_task(run, "train", "success", try_number=2, timeout=120)
        row(f"KILL of the task, {instant}", "synchronous", steps, name, "try 2 success")
        assert len(steps.pids(name)) == 1
        assert airflow.xcom(run, "train", "status") == "FINISHED"
        ended(airflow, steps, name)

    def test_is_found_by_its_retry_while_it_runs_and_the_output_goes_on(self, airflow, steps, row):
        name = "killed_while_it_runs"
        steps.dag(name, train(name, parameters={"seconds": 25}, retries=1))
        run = airflow.trigger(name)
        started(airflow, steps, name)
        time.sleep(7)  # longer than between two notes of how far the log is
        os.kill(airflow.task_processes(run, "train").runner, signal.SIGKILL)
        airflow.wait_for_task(run, "train", "success", try_number=2, timeout=120)
        row("KILL of the task, while it runs", "synchronous", steps, name, "try 2 success")
        assert len(steps.pids(name)) == 1
        lines = airflow.xcom(run, "train", "result")["lines"]
        first, second = (numbers(airflow.log(run, "train", attempt)) for attempt in (1, 2))
        assert sorted({*first, *second}) == list(range(1, lines + 1))
        # Seconds of it at most were told again, and that was said.
        assert len(set(first) & set(second)) < 6 * 4
        assert "goes on from where an earlier try left it" in airflow.log(run, "train", 2)

    def test_without_a_retry_ends_its_run(self, airflow, steps, row):
        name = "killed_without_retry"
        steps.dag(name, train(name, parameters={"seconds": 600}))
        run = airflow.trigger(name)
        started(airflow, steps, name)
        os.kill(airflow.task_processes(run, "train").runner, signal.SIGKILL)
        ended(airflow, steps, name)
        airflow.wait_for_task(run, "train", "failed", timeout=90)
        row("KILL of the task, no retry left", "synchronous", steps, name, "failed")
        assert len(steps.pids(name)) == 1


class TestAWorkerThatShutsDown:
    def test_leaves_the_run_to_the_retry_that_is_to_come(self, airflow, steps, row):
        name = "worker_ends"
        steps.dag(name, train(name, parameters={"seconds": 20}, retries=1))
        run = airflow.trigger(name)
        started(airflow, steps, name)
        os.kill(airflow.task_processes(run, "train").supervisor, signal.SIGTERM)
        airflow.wait_for_task(run, "train", "success", try_number=2, timeout=120)
        row("TERM of the worker, a retry left", "synchronous", steps, name, "try 2 success")
        assert len(steps.pids(name)) == 1
        assert "The worker shuts down" in airflow.log(run, "train", 1)

    def test_ends_the_run_if_no_retry_is_to_come(self, airflow, steps, row):
        name = "worker_ends_for_good"
        steps.dag(name, train(name, parameters={"seconds": 600}))
        run = airflow.trigger(name)
        started(airflow, steps, name)
        os.kill(airflow.task_processes(run, "train").supervisor, signal.SIGTERM)
        ended(airflow, steps, name)
        airflow.wait_for_task(run, "train", "failed", timeout=90)
        row("TERM of the worker, no retry left", "synchronous", steps, name, "failed")
        assert len(steps.pids(name)) == 1


MODES = [pytest.param("", id="synchronous"), pytest.param("True", id="deferred")]


def begin(airflow, steps, name, deferrable, seconds, **more):
    """A run of a DAG whose step is at work, and whose task has been deferred if it is to be."""
    options = {"deferrable": deferrable} if deferrable else {}
    steps.dag(name, train(name, parameters={"seconds": seconds}, **options, **more))
    run = airflow.trigger(name)
    started(airflow, steps, name)
    airflow.wait_for_task(run, "train", "deferred" if deferrable else "running", timeout=60)
    if deferrable:  # and is at work in the triggerer: what is done to the task before that, it never hears of
        airflow.wait_for(lambda: " starting" in airflow.log(run, "train"), "no trigger was started")
    return run


class TestATaskThatIsEndedByHand:
    @pytest.mark.parametrize("deferrable", MODES)
    def test_marked_failed_ends_its_run(self, airflow, steps, row, deferrable):
        name = f"marked_failed_{'deferred' if deferrable else 'synchronous'}"
        run = begin(airflow, steps, name, deferrable, 600, retries=2)
        airflow.mark(run, "train", "failed")
        ended(airflow, steps, name)
        row("marked failed", "deferred" if deferrable else "synchronous", steps, name, "failed")
        assert airflow.task(run, "train")["state"] == "failed"
        assert len(steps.pids(name)) == 1

    @pytest.mark.parametrize("deferrable", MODES)
    def test_cleared_ends_its_run_and_starts_another(self, airflow, steps, row, deferrable):
        name = f"cleared_{'deferred' if deferrable else 'synchronous'}"
        run = begin(airflow, steps, name, deferrable, 25, retries=2)
        (first,) = steps.pids(name)
        airflow.clear(run, "train")
        started(airflow, steps, name, 2)
        assert steps.living(name) == [steps.pids(name)[1]]
        airflow.wait_for_task(run, "train", "success", try_number=2, timeout=120)
        row("cleared", "deferred" if deferrable else "synchronous", steps, name, "try 2 success")
        assert len(steps.pids(name)) == 2
        assert first not in steps.living(name)

    def test_cleared_after_its_success_is_run_again(self, airflow, steps, row):
        name = "cleared_after_success"
        steps.dag(name, train(name, retries=1))
        run = airflow.trigger(name)
        airflow.wait_for_run(run, timeout=90)
        airflow.clear(run, "train")
        airflow.wait_for_task(run, "train", "success", try_number=2, timeout=90)
        row("cleared after its success", "synchronous", steps, name, "try 2 success")
        assert len(steps.pids(name)) == 2

    def test_a_dag_run_that_is_deleted_and_created_again_begins_afresh(self, airflow, steps, row):
        name = "deleted"
        steps.dag(name, train(name, retries=1))
        run = airflow.trigger(name, dag_run_id="again")
        airflow.wait_for_run(run, timeout=90)
        airflow.delete_run(run)
        again = airflow.trigger(name, dag_run_id="again")
        airflow.wait_for_run(again, timeout=90)
        row("DAG run deleted and created again", "synchronous", steps, name, "success")
        assert len(steps.pids(name)) == 2


class TestATaskThatTakesTooLong:
    @pytest.mark.parametrize("deferrable", MODES)
    def test_ends_its_run(self, airflow, steps, row, deferrable):
        name = f"too_long_{'deferred' if deferrable else 'synchronous'}"
        seconds = 25 if deferrable else 6
        run = begin(airflow, steps, name, deferrable, 600, execution_timeout=f"timedelta(seconds={seconds})")
        airflow.wait_for_task(run, "train", "failed", timeout=120)
        ended(airflow, steps, name)
        row("execution_timeout", "deferred" if deferrable else "synchronous", steps, name, "failed")
        assert len(steps.pids(name)) == 1


class TestASensorThatWaitsTooLong:
    def test_fails_while_it_is_deferred_and_leaves_the_run_alone(self, airflow, steps):
        name = "sensor_too_long"
        line = train(name, parameters={"seconds": 45}, wait_for_completion="False")
        sensor = 'MLProjectRunSensor(task_id="wait", handle=submitted.output["handle"], deferrable=True, timeout=12)'
        steps.dag(name, f"submitted = {line}", sensor)
        run = airflow.trigger(name)
        airflow.wait_for_task(run, "wait", "failed", timeout=90)
        assert "The run was not over after 12 seconds" in airflow.log(run, "wait")
        assert len(steps.living(name)) == 1
        ended(airflow, steps, name)


class TestATriggerer:
    def test_that_is_killed_loses_nothing(self, airflow, steps, row):
        name = "triggerer_killed"
        run = begin(airflow, steps, name, "True", 40)
        time.sleep(8)
        airflow.kill("triggerer", everything=True)
        airflow.start("triggerer")
        airflow.wait_for_run(run, timeout=120)
        row("KILL of the triggerer", "deferred", steps, name, "success")
        assert len(steps.pids(name)) == 1
        log = airflow.log(run, "train")
        lines = airflow.xcom(run, "train", "result")["lines"]
        assert sorted(set(numbers(log))) == list(range(1, lines + 1))
        assert len(numbers(log)) - lines < 6 * 4
        assert "goes on from where another triggerer left it" in log

    def test_that_was_thought_dead_leaves_the_run_to_the_one_that_took_over(self, airflow, steps, row):
        name = "triggerer_frozen"
        run = begin(airflow, steps, name, "True", 60)
        airflow.start("triggerer", "second triggerer")
        try:
            airflow.freeze("triggerer")
            second = airflow.components["second triggerer"].job_id
            airflow.wait_for(lambda: airflow.task(run, "train")["triggerer_job"]["id"] == second, "nobody has it", 90)
            airflow.thaw("triggerer")
            airflow.wait_for_run(run, timeout=150)
        finally:
            airflow.kill("second triggerer", everything=True)
            airflow.kill("triggerer", everything=True)
            airflow.start("triggerer")
        row("triggerer stopped past its heartbeat", "deferred", steps, name, "success")
        assert len(steps.pids(name)) == 1
        assert airflow.xcom(run, "train", "status") == "FINISHED"


class TestNoTriggererAtAll:
    """Airflow tells nobody of what is done to a deferred task then; what is done about that."""

    @pytest.fixture
    def without_triggerer(self, airflow):
        """Takes every triggerer away, and brings one back at the end."""
        yield lambda: airflow.kill("triggerer", everything=True)
        airflow.start("triggerer")

    def test_a_marked_task_s_run_goes_on_until_it_is_reaped(self, airflow, steps, row, without_triggerer):
        name = "marked_without_triggerer"
        run = begin(airflow, steps, name, "True", 600)
        without_triggerer()
        airflow.mark(run, "train", "failed")
        time.sleep(3)
        assert len(steps.living(name)) == 1  # the documented bound is the run's own `timeout`
        said = reap(airflow, "--dry-run")
        assert "would end" in said
        assert f"{name}.train" in said
        assert len(steps.living(name)) == 1
        assert f"its task {name}.train" in reap(airflow)
        ended(airflow, steps, name)
        row("marked failed, no triggerer; reaped", "deferred", steps, name, "failed")
        assert "no run of this host has outlived its task" in reap(airflow)

    def test_a_marked_task_s_run_is_ended_by_the_api_server_if_it_may(self, airflow, steps, row, without_triggerer):
        name = "marked_with_listener"
        airflow.environment["AIRFLOW__MLPROJ__END_RUNS_OF_MARKED_TASKS"] = "True"
        airflow.kill("api-server", everything=True)
        airflow.start("api-server")
        try:
            run = begin(airflow, steps, name, "True", 600)
            without_triggerer()
            airflow.mark(run, "train", "failed")
            ended(airflow, steps, name)
        finally:
            del airflow.environment["AIRFLOW__MLPROJ__END_RUNS_OF_MARKED_TASKS"]
            airflow.kill("api-server", everything=True)
            airflow.start("api-server", wait=False)  # not all are healthy without a triggerer
            airflow.wait_for(lambda: airflow.ask("GET", "version"), "the API server is not back", 90)
        row("marked failed, no triggerer; listener", "deferred", steps, name, "failed")

    def test_a_cleared_task_s_next_try_ends_the_old_run(self, airflow, steps, row, without_triggerer):
        name = "cleared_without_triggerer"
        run = begin(airflow, steps, name, "True", 600)
        (first,) = steps.pids(name)
        without_triggerer()
        airflow.clear(run, "train")
        started(airflow, steps, name, 2)
        assert first not in steps.living(name)
        airflow.mark(run, "train", "failed")
        reap(airflow)
        ended(airflow, steps, name)
        row("cleared, no triggerer", "deferred", steps, name, "try 2 runs")

    def test_what_is_waited_for_is_not_reaped(self, airflow, steps):
        name = "waited_for"
        run = begin(airflow, steps, name, "", 6)
        assert name not in reap(airflow)
        airflow.wait_for_run(run)


def reap(airflow, *options):
    """What `mlproj runs reap` says on the host of the runs."""
    command = [Path(sys.executable).with_name("mlproj"), "runs", "reap", "--airflow", airflow.url, *options]
    done = subprocess.run(command, env=airflow.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def numbers(log):
    """The numbers of the project's lines in a log, in order."""
    return [
        int(line.rpartition(" line ")[2].split()[0])
        for line in log.splitlines()
        if " line " in line and " of /" in line
    ]
