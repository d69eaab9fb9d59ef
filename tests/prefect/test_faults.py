"""Whoever dies, and whatever is done to a flow run: one live or finished run, or none, and nothing left behind."""

import os
import signal
import time
from pathlib import Path

import pytest
from package_world import PackageIndex
from prefect_flows import called, head, roads
from processes import belonging, command, supervisor_of

SYNC_ROADS = ["direct", "submitted", "waited for", "in a thread"]
ASYNC_ROADS = ["async", "gathered"]
MODES = [pytest.param(False, id="tethered"), pytest.param(True, id="detached")]


@pytest.fixture
def row(record_property, steps):
    """Puts a row into the table of faults that is printed at the end."""

    def put(fault, road, mode, name, outcome):
        cells = {
            "fault": fault,
            "road": road,
            "mode": mode,
            "starts": len(steps.pids(name)),
            "survivors": len(steps.living(name)),
            "outcome": outcome,
        }
        record_property("table: Faults in Prefect: one run or none, and nothing left", cells)

    return put


@pytest.fixture(scope="module")
def served(prefect, steps):
    """The flow of many roads, served; without any hook."""
    return prefect.serve("roads", roads(steps, "roads"))


@pytest.fixture(scope="module")
def served_async(prefect, steps):
    """The same with a flow that is a coroutine."""
    return prefect.serve("roads_async", roads(steps, "roads-async", is_async=True))


@pytest.fixture
def by(served, served_async):
    """The served flow that knows a road."""
    return lambda road: served_async if road in ASYNC_ROADS else served


def mode(detach):
    return "detached" if detach else "tethered"


def started(prefect, steps, name, times=1):
    prefect.wait_for(lambda: len(steps.pids(name)) >= times, f"{name} was not started {times} times", 60)


def ended(prefect, steps, name):
    prefect.wait_for(lambda: not steps.living(name), lambda: f"{name} lives: {steps.living(name)}", 60)


def hook_ran(prefect, run, text):
    prefect.wait_for(lambda: text in prefect.log_text(run), lambda: prefect.log_text(run), 60)


class TestACancelledFlowRun:
    @pytest.mark.parametrize("detach", MODES)
    @pytest.mark.parametrize("road", [*SYNC_ROADS, *ASYNC_ROADS])
    def test_ends_its_runs_by_every_road(self, prefect, steps, by, row, road, detach):
        name = f"cancelled_{road}_{detach}".replace(" ", "_")
        run = by(road).run({"road": road, "steps": [{"name": name, "seconds": 600, "detach": detach}]})
        started(prefect, steps, name)
        prefect.cancel(run)
        ended(prefect, steps, name)
        prefect.wait_for_flow_run(run, "Cancelled")
        row("cancelled while it runs", road, mode(detach), name, "Cancelled")
        assert len(steps.pids(name)) == 1
        if road not in ("in a thread", "submitted", "waited for"):  # there the process may end before the task does
            assert {task["state_name"] for task in prefect.task_runs(run)} == {"Cancelled"}

    @pytest.mark.parametrize("road", ["direct", "submitted", "async", "gathered"])
    def test_ends_them_where_nobody_serves_it_and_is_cancelled_in_the_end(self, prefect, steps, row, road):
        name = f"cancelled_script_{road}"
        text = roads(steps, name, is_async=road in ASYNC_ROADS)
        script = prefect.start_script(name, called(text, road=road, steps=[{"name": name, "seconds": 600}]))
        started(prefect, steps, name)
        prefect.cancel(script.flow_run_id)
        ended(prefect, steps, name)
        script.wait()
        prefect.wait_for_flow_run(script.flow_run_id, "Cancelled")
        row("cancelled while it runs", f"{road}, not served", "tethered", name, "Cancelled")
        assert "main ended with CancelledRun" in script.log
        assert [task["state_name"] for task in prefect.task_runs(script.flow_run_id)] == ["Cancelled"]

    @pytest.mark.parametrize("road", ["direct", "submitted", "async"])
    def test_ends_the_making_of_an_environment(self, prefect, steps, row, tmp_path, road):
        name = f"cancelled_building_{road}"
        index = PackageIndex(tmp_path)
        index.hold = "six"
        project = tmp_path / "project"
        project.mkdir()
        (project / "python_env.yaml").write_text("dependencies: [six]\n")
        (project / "MLproject").write_text(f"entry_points: {{main: {{command: 'echo $$ >> {steps.mark(name)}'}}}}\n")
        is_async = road in ASYNC_ROADS
        text = roads(steps, name, is_async=is_async)
        text += f"""
def step(name):
    return {{"uri": {str(project)!r}, "backend_config": {{"detach": True}}}}
"""
        environment = {"UV_DEFAULT_INDEX": index.url(), "MLPROJ_CACHE_DIR": str(tmp_path / "cache")}
        served = prefect.serve(name, text, env=environment)
        run = served.run({"road": road, "steps": [{"name": name}]})
        prefect.wait_for(index.held.is_set, "the index was never asked", 60)
        assert builders(index)
        prefect.wait_for_task_run(run, "project/main", "Running")
        prefect.wait_for(
            lambda: "its environment is being built" in prefect.task_runs(run)[0]["message"],
            lambda: prefect.task_runs(run),
        )
        prefect.cancel(run)
        prefect.wait_for(lambda: not builders(index), lambda: builders(index))
        prefect.wait_for_flow_run(run, "Cancelled")
        row("cancelled while its environment is built", road, "detached", name, "Cancelled")
        assert steps.pids(name) == []
        index.close()

    def test_begins_nothing_more(self, prefect, steps, row):
        names = [f"queued_{number}" for number in range(6)]
        text = roads(steps, "queued", options="task_runner=__import__('prefect').task_runners.ThreadPoolTaskRunner(2)")
        text = text.replace("import asyncio", "import asyncio, prefect.task_runners", 1)
        script = prefect.start_script(
            "queued", called(text, road="submitted", steps=[{"name": name, "seconds": 600} for name in names])
        )
        for name in names[:2]:
            started(prefect, steps, name)
        prefect.cancel(script.flow_run_id)
        script.wait()
        assert [len(steps.pids(name)) for name in names] == [1, 1, 0, 0, 0, 0]
        assert not any(steps.living(name) for name in names)
        row("cancelled while others are queued", "submitted, not served", "tethered", names[2], "Cancelled")

    def test_whose_process_was_stopped_is_ended_by_the_hook(self, prefect, steps, row):
        # A stopped process hears of nothing: the runner kills it in the end, and the hook finds the run.
        name = "hook_cancels"
        served = prefect.serve(name, roads(steps, name, options="on_cancellation=[cancel_runs]"))
        run = served.run({"road": "direct", "steps": [{"name": name, "seconds": 600, "detach": True}]})
        started(prefect, steps, name)
        os.kill(served.flow_process(run), signal.SIGSTOP)
        prefect.cancel(run)
        ended(prefect, steps, name)
        prefect.wait_for_flow_run(run, "Cancelled", timeout=90)
        row("cancelled, its process stopped; on_cancellation", "direct", "detached", name, "Cancelled")
        assert len(steps.pids(name)) == 1
        hook_ran(prefect, run, "1 of 1 runs were still at work, and were ended")
        assert "warning" not in prefect.log_text(run)

    def test_is_ended_by_the_hook_also_where_the_run_is_none_of_the_runners_own(self, prefect, steps, row):
        # Another directory of runs stands for another backend: only the handle that the flow run shows leads there.
        name = "hook_elsewhere"
        text = roads(steps, name, options="on_crashed=[cancel_runs]")
        text += """
import os
if __name__ != "__main__":
    os.environ["MLPROJ_STATE_DIR"] += "-elsewhere"
"""
        served = prefect.serve(name, text)
        run = served.run({"road": "direct", "steps": [{"name": name, "seconds": 600, "detach": True}]})
        started(prefect, steps, name)
        prefect.wait_for(lambda: prefect.artifacts(run), "its handle was never shown")
        os.kill(served.flow_process(run), signal.SIGKILL)
        ended(prefect, steps, name)
        hook_ran(prefect, run, "1 of 1 runs were still at work, and were ended")
        row("KILL of the flow's process; on_crashed, by its artifact", "direct", "detached", name, "Crashed")


class TestAKilledProcess:
    @pytest.mark.parametrize("road", ["direct", "submitted", "async"])
    def test_takes_a_tethered_run_with_it_and_the_flow_run_again_starts_another(self, prefect, steps, by, row, road):
        name = f"killed_tethered_{road}"
        run = by(road).run({"road": road, "steps": [{"name": name, "seconds": 8}]})
        started(prefect, steps, name)
        os.kill(by(road).flow_process(run), signal.SIGKILL)
        ended(prefect, steps, name)
        prefect.wait_for_flow_run(run, "Crashed")
        prefect.retry(run)
        prefect.wait_for_flow_run(run)
        row("KILL of the flow's process, then run again", road, "tethered", name, "Completed, attempt 2")
        assert len(steps.pids(name)) == 2

    @pytest.mark.parametrize("road", ["direct", "submitted", "async"])
    def test_leaves_a_detached_run_that_the_flow_run_finds_again(self, prefect, steps, by, row, road):
        name = f"killed_detached_{road}"
        run = by(road).run({"road": road, "steps": [{"name": name, "seconds": 10, "detach": True}]})
        started(prefect, steps, name)
        os.kill(by(road).flow_process(run), signal.SIGKILL)
        prefect.wait_for_flow_run(run, "Crashed")
        assert steps.living(name)
        prefect.retry(run)
        prefect.wait_for_flow_run(run)
        row("KILL of the flow's process, then run again", road, "detached", name, "Completed, attempt 1")
        assert len(steps.pids(name)) == 1
        assert steps.living(name) == []
        assert "attached to attempt" in prefect.log_text(run)

    def test_of_a_sweep_leaves_nothing_where_on_crashed_says_so(self, prefect, steps, row):
        names = [f"sweep_{number}" for number in range(105)]  # more than Prefect reads at once of task runs
        text = (
            head(steps)
            + f"""
@flow(name="sweep", on_crashed=[cancel_runs])
def main():
    futures = [run_project.submit(**step(name, detach=True, seconds=600)) for name in {names!r}]
    [future.result() for future in futures]
"""
        )
        served = prefect.serve("sweep", text)
        run = served.run()
        prefect.wait_for(lambda: all(steps.pids(name) for name in names), "the sweep was not started", 180)
        os.kill(served.flow_process(run), signal.SIGKILL)
        prefect.wait_for(lambda: not any(steps.living(name) for name in names), "some of the sweep live", 120)
        hook_ran(prefect, run, "105 of 105 runs were still at work, and were ended")
        row("KILL of the flow's process; on_crashed", "submitted, 105", "detached", names[0], "Crashed")

    def test_on_its_way_to_a_run_leaves_one_claim_for_the_next(self, prefect, steps, row):
        for instant in ("before the claim", "after the claim", "after the record"):
            name = "killed_" + instant.replace(" ", "_")
            marker = Path(steps.mark(name) + ".marker")
            text = (
                roads(steps, name)
                + f"""
import os, time
import mlproj_core.protocol
def stand_still(where):
    marker = {str(marker)!r}
    if where == {instant!r} and not os.path.exists(marker):
        open(marker, "w").close()
        time.sleep(1000)
mlproj_core.protocol.checkpoint = stand_still
"""
            )
            served = prefect.serve(name, text)
            run = served.run({"road": "direct", "steps": [{"name": name, "seconds": 1, "detach": True}]})
            prefect.wait_for(lambda marker=marker: marker.exists(), f"never came to {name}")
            os.kill(served.flow_process(run), signal.SIGKILL)
            prefect.wait_for_flow_run(run, "Crashed")
            prefect.retry(run)
            prefect.wait_for_flow_run(run)
            row(f"KILL of the flow's process, {instant}", "direct", "detached", name, "Completed")
            assert len(steps.pids(name)) == 1
            served.stop()


class TestATerminatedProcess:
    @pytest.mark.parametrize("detach", MODES)
    @pytest.mark.parametrize("road", ["direct", "async"])
    def test_ends_its_run_unless_that_is_detached(self, prefect, steps, by, row, road, detach):
        name = f"terminated_{road}_{detach}"
        run = by(road).run({"road": road, "steps": [{"name": name, "seconds": 10, "detach": detach}]})
        started(prefect, steps, name)
        os.kill(by(road).flow_process(run), signal.SIGTERM)
        prefect.wait_for_flow_run(run, "Crashed")
        assert bool(steps.living(name)) is detach
        prefect.retry(run)
        prefect.wait_for_flow_run(run)
        outcome = f"Completed, attempt {1 if detach else 2}"
        row("TERM of the flow's process, then run again", road, mode(detach), name, outcome)
        assert len(steps.pids(name)) == (1 if detach else 2)
        ended(prefect, steps, name)


class TestARetriedTask:
    def test_starts_anew_after_a_real_failure(self, prefect, steps, served, row):
        run = served.run({"road": "direct", "steps": [{"name": "fails", "code": 3}], "retries": 2})
        prefect.wait_for_flow_run(run, "Failed")
        row("the project fails, 2 retries", "direct", "tethered", "fails", "Failed")
        assert len(steps.pids("fails")) == 3

    @pytest.mark.parametrize("road", ["direct", "async"])
    def test_starts_anew_after_a_loss(self, prefect, steps, by, row, road):
        name = f"lost_{road}"
        run = by(road).run({"road": road, "steps": [{"name": name, "seconds": 6}], "retries": 1})
        started(prefect, steps, name)
        os.kill(supervisor_of(steps.pids(name)[0]), signal.SIGKILL)
        prefect.wait_for_flow_run(run)
        row("KILL of the run's supervisor, 1 retry", road, "tethered", name, "Completed, attempt 2")
        assert len(steps.pids(name)) == 2
        ended(prefect, steps, name)

    def test_of_ones_own_finds_the_runs_of_its_calls(self, prefect, steps, row):
        text = (
            head(steps)
            + """
@task(retries=1)
def own(which):
    run_project(**step(f"own_{which}_one"))
    run_project(**step(f"own_{which}_two"))

@flow(name="own")
def main():
    [future.result() for future in [own.submit("a"), own.submit("b")]]

main()
"""
        )
        steps.fails_once("own_b_two")
        script = prefect.start_script("own", text)
        assert script.wait() == 0, script.log
        row("a call in a task fails, 1 retry of that task", "in a thread", "tethered", "own_b_two", "Completed")
        names = ("own_a_one", "own_a_two", "own_b_one", "own_b_two")
        assert [len(steps.pids(name)) for name in names] == [1, 1, 1, 2]

    def test_is_not_retried_where_that_cannot_help(self, prefect, steps, served):
        run = served.run({"road": "direct", "steps": [{"name": "wrong", "seconds": "long"}], "retries": 2})
        prefect.wait_for_flow_run(run, "Failed")
        (task,) = prefect.task_runs(run)
        assert task["run_count"] == 1
        assert "seconds" in task["message"]


class TestARetriedFlowRun:
    @pytest.mark.parametrize("how", ["from the UI", "by itself"])
    def test_runs_only_what_had_not_finished(self, prefect, steps, row, how):
        by_itself = how == "by itself"
        first, second, third = (f"{which}_{'itself' if by_itself else 'ui'}" for which in ("one", "two", "three"))
        text = (
            head(steps)
            + f"""
@flow(name="three steps {how}"{", retries=1" if by_itself else ""})
def main():
    run_project(**step({first!r}))
    run_project.submit(**step({second!r})).result()
    run_project(**step({third!r}))
"""
        )
        steps.fails_once(second)
        served = prefect.serve(f"three_steps_{'itself' if by_itself else 'ui'}", text)
        run = served.run()
        if not by_itself:
            prefect.wait_for_flow_run(run, "Failed")
            assert [len(steps.pids(name)) for name in (first, second, third)] == [1, 1, 0]
            prefect.retry(run)
        prefect.wait_for_flow_run(run)
        row(f"one of three steps fails, flow run again {how}", "direct and submitted", "tethered", second, "Completed")
        assert [len(steps.pids(name)) for name in (first, second, third)] == [1, 2, 1]
        assert "the run was over before this try (FINISHED)" in prefect.log_text(run)

    def test_finds_what_a_flow_within_it_had_finished(self, prefect, steps, row):
        # Prefect gives the flow within another flow run then.
        text = (
            head(steps)
            + """
@flow(name="inner")
def inner(which):
    run_project(**step(f"inner_{which}_one"))
    run_project(**step(f"inner_{which}_two"))

@flow(name="outer", retries=1)
def main():
    inner("a")
    inner("b")
"""
        )
        steps.fails_once("inner_b_two")
        served = prefect.serve("outer", text)
        run = served.run()
        prefect.wait_for_flow_run(run)
        row("a step of a flow within fails, 1 retry of the flow", "direct", "tethered", "inner_b_two", "Completed")
        names = ("inner_a_one", "inner_a_two", "inner_b_one", "inner_b_two")
        assert [len(steps.pids(name)) for name in names] == [1, 1, 1, 2]


class TestAServerThatIsAway:
    @pytest.mark.parametrize("road", ["direct", "submitted", "async"])
    def test_costs_no_run(self, prefect, steps, by, row, road):
        name = f"server_away_{road}"
        run = by(road).run({"road": road, "steps": [{"name": name, "seconds": 12}]})
        started(prefect, steps, name)
        prefect.stop()
        time.sleep(3)
        prefect.start()
        prefect.wait_for_flow_run(run)
        row("Prefect's server stopped and started", road, "tethered", name, "Completed")
        assert len(steps.pids(name)) == 1

    def test_does_not_keep_a_later_cancellation_from_working(self, prefect, steps, row):
        name = "cancelled_after_absence"
        text = roads(steps, name)
        script = prefect.start_script(name, called(text, road="submitted", steps=[{"name": name, "seconds": 600}]))
        started(prefect, steps, name)
        prefect.wait_for_task_run(script.flow_run_id, "steps/main", "Running")
        prefect.stop()
        prefect.start()
        prefect.cancel(script.flow_run_id)
        ended(prefect, steps, name)
        script.wait()
        row("server stopped and started, then cancelled", "submitted, not served", "tethered", name, "Cancelled")


def builders(index):
    """Command lines of the processes that install from this index."""
    mark = f"UV_DEFAULT_INDEX={index.url()}"
    return [line for pid in belonging(mark, ()) if "uv pip" in (line := command(pid))]
