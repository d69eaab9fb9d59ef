"""The Prefect that the tests run in: what it tells is true, it notices faults, and nothing of it stays behind."""

import os
import signal
import time

import pytest
from prefect_world import PrefectWorld
from processes import lives
from rest import ApiError

COUNT = """
    from prefect import flow, get_run_logger, task
    from prefect.artifacts import create_markdown_artifact

    @task(tags=["counting"])
    def count(numbers):
        for number in range(numbers):
            get_run_logger().info(f"number {number}")
        create_markdown_artifact(f"**{numbers}**", key="numbers")
        if numbers == 13:
            raise ValueError("13 brings bad luck")
        return numbers

    @flow
    def main(numbers: int = 3):
        get_run_logger().info("before")
        count(numbers)
        get_run_logger().info("after")
"""

SLEEP = """
    import time
    from prefect import flow, task

    @task
    def sleep():
        time.sleep(1000)

    @flow(name="{name}")
    def main():
        sleep()
"""


@pytest.fixture(scope="module")
def counting(prefect):
    """A served flow with a task that counts, tells and may fail."""
    return prefect.serve("counting", COUNT)


@pytest.fixture(scope="module")
def finished(prefect, counting):
    """A run of it that succeeded."""
    run = counting.run({"numbers": 250})
    prefect.wait_for_flow_run(run)
    return run


@pytest.fixture(scope="module")
def sleeping(prefect):
    """A served flow whose task never ends."""
    return prefect.serve("sleeping", SLEEP.format(name="sleeping"))


@pytest.fixture
def asleep(prefect, sleeping):
    """A run of it whose task runs."""
    run = sleeping.run()
    prefect.wait_for_task_run(run, "sleep", "Running")
    return run


def test_the_server_is_healthy(prefect, record_property):
    assert prefect.is_healthy()
    record_property("seconds until healthy", round(prefect.seconds_until_healthy, 1))


class TestWhatARunLeaves:
    def test_its_states_are_told_in_order(self, prefect, finished):
        names = [state["name"] for state in prefect.flow_run_states(finished)]
        assert (names[0], names[-2:]) == ("Scheduled", ["Running", "Completed"])
        assert prefect.flow_run(finished)["run_count"] == 1

    def test_its_task_runs_are_told_with_their_states(self, prefect, finished):
        task = prefect.wait_for_task_run(finished, "count")
        assert [run["id"] for run in prefect.task_runs(finished)] == [task["id"]]
        assert (task["state_type"], task["state_name"], task["tags"]) == ("COMPLETED", "Completed", ["counting"])
        states = prefect.states_of_task_run(task["id"])
        assert [state["name"] for state in states] == ["Pending", "Running", "Completed"]

    def test_its_logs_are_told_in_order_and_all_of_them(self, prefect, finished):
        told = prefect.log_text(finished).splitlines()
        first, last = told.index("before"), told.index("after")
        numbers = [line for line in told if line.startswith("number ")]
        assert numbers == [f"number {number}" for number in range(250)]
        assert first < told.index("number 0") < told.index("number 249") < last
        assert told[-1] == "Finished in state Completed()"

    def test_its_tasks_have_logs_of_their_own(self, prefect, finished):
        [task] = prefect.task_runs(finished)
        told = prefect.log_text(finished, task["id"]).splitlines()
        assert told[0] == "number 0"
        assert "before" not in told

    def test_its_artifacts_are_told(self, prefect, finished):
        assert [(each["key"], each["data"]) for each in prefect.artifacts(finished)] == [("numbers", "**250**")]

    def test_a_run_that_fails_says_why_and_is_not_waited_for_longer(self, prefect, counting):
        run = counting.run({"numbers": 13})
        assert "13 brings bad luck" in prefect.wait_for_flow_run(run, "Failed")["state"]["message"]
        assert "13 brings bad luck" in prefect.wait_for_task_run(run, "count", "Failed")["message"]
        complaint = r"(?s)is Failed, not Completed.*task count.*log of counting.*brings bad luck"
        with pytest.raises(pytest.fail.Exception, match=complaint):
            prefect.wait_for_flow_run(run, timeout=600)


class TestServing:
    def test_the_deployment_is_known_by_its_name(self, prefect, counting):
        assert counting.deployment["entrypoint"] == "counting.py:main"
        assert counting.deployment["paused"] is False
        assert prefect.deployment("nobody") is None

    def test_what_the_flow_prints_is_in_the_log_of_its_program(self, counting, finished):
        assert "number 249" in counting.log

    def test_a_flow_that_cannot_be_served_is_shown(self, prefect):
        with pytest.raises(pytest.fail.Exception, match=r"(?s)broken ended with 1.*ValueError: 17 is not even"):
            prefect.serve("broken", "raise ValueError('17 is not even')")

    def test_a_program_that_is_stopped_leaves_nothing_and_starts_nothing(self, prefect):
        served = prefect.serve("stopped", SLEEP.format(name="stopped"))
        run = served.run()
        process = served.flow_process(run)
        served.stop()
        assert not lives(served.runner_pid)
        assert not lives(process)
        assert all("stopped.py" not in command for _, command in prefect.survivors())
        waiting = served.run()
        prefect.cancel(waiting)
        assert prefect.flow_run(waiting)["state_name"] == "Cancelled"


class TestFaults:
    def test_a_cancelled_run_has_no_process_any_more(self, prefect, sleeping, asleep):
        process = sleeping.flow_process(asleep)
        assert process != sleeping.runner_pid
        prefect.cancel(asleep)
        prefect.wait_for_flow_run(asleep, "Cancelled")
        assert not lives(process)
        states = [state["name"] for state in prefect.flow_run_states(asleep)]
        assert states[-3:] == ["Running", "Cancelling", "Cancelled"]
        assert prefect.wait_for_task_run(asleep, "sleep", "Crashed")

    def test_a_run_whose_process_is_killed_has_crashed_and_can_be_tried_again(self, prefect, sleeping, asleep):
        first = sleeping.flow_process(asleep)
        os.kill(first, signal.SIGKILL)
        crashed = prefect.wait_for_flow_run(asleep, "Crashed")
        assert "SIGKILL" in crashed["state"]["message"]
        prefect.retry(asleep)
        assert prefect.wait_for_flow_run(asleep, "Running")["run_count"] == 2
        assert sleeping.flow_process(asleep) != first
        prefect.cancel(asleep)
        prefect.wait_for_flow_run(asleep, "Cancelled")

    def test_a_script_and_its_flow_run_are_found_and_the_server_knows_not_that_it_was_killed(self, prefect):
        text = SLEEP.format(name="unserved") + "\n    main()"
        script = prefect.start_script("unserved", text)
        prefect.wait_for_task_run(script.flow_run_id, "sleep", "Running")
        script.kill()
        assert script.wait() == -signal.SIGKILL
        assert prefect.flow_run(script.flow_run_id)["state_name"] == "Running"
        again = prefect.start_script("unserved", text)
        assert again.flow_run_id != script.flow_run_id

    def test_a_request_that_is_refused_says_so(self, prefect):
        with pytest.raises(ApiError, match="404"):
            prefect.flow_run("00000000-0000-0000-0000-000000000000")


class TestAWorldOfItsOwn:
    @pytest.fixture
    def world(self, prefect_installed, tmp_path):
        world = PrefectWorld(tmp_path, {"GREETING": "from the outside"})
        yield world
        world.close()

    def test_its_server_can_be_stopped_and_started_again_while_its_programs_live_on(self, world):
        text = """
            import os, time
            from pathlib import Path
            from prefect import flow

            @flow(log_prints=True)
            def main(gate: str):
                while not Path(gate).exists():
                    time.sleep(0.1)
                print(os.environ["GREETING"], os.environ["WHO"])
        """
        served = world.serve("waiting", text, {"WHO": "by a test"})
        gate = world.directory / "gate"
        run = served.run({"gate": str(gate)})
        world.wait_for_flow_run(run, "Running")
        world.stop()
        with pytest.raises(ConnectionError):
            world.flow_run(run)
        time.sleep(2)
        world.start()
        assert world.flow_run(run)["state_name"] == "Running"
        gate.touch()
        world.wait_for_flow_run(run)
        assert "from the outside by a test\n" in world.log_text(run)
        world.wait_for_flow_run(served.run({"gate": str(gate)}))

    def test_one_that_loses_its_server_says_so_and_when_closed_leaves_nothing(self, world):
        text = "import subprocess\nsubprocess.run(['setsid', 'sleep', '1000'])"
        world.start_script("leaving", text)
        world.wait_for(lambda: [c for _, c in world.survivors() if c == "sleep 1000"], "no sleeper")
        world.server.kill()
        with pytest.raises(pytest.fail.Exception, match="the server ended by itself, with -9"):
            world.wait_for(lambda: False, "never")
        world.close()
        assert world.survivors() == []
