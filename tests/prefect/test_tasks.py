"""What a task of mlproj is in Prefect: its states, results, logs, artifacts, names, and what a call of it raises."""

import json
import os
import re
import signal
import urllib.request

import pytest
from git_world import repository
from prefect_flows import head
from processes import supervisor_of

MANY = """
import json, os

OUTCOMES = {}

def outcome(name, function):
    try:
        value = function()
        value = json.loads(value.model_dump_json()) if isinstance(value, ProjectResult) else value
        OUTCOMES[name] = {"value": value}
    except BaseException as error:
        OUTCOMES[name] = {"raised": type(error).__name__, "text": str(error)}

@flow(name="many")
def main():
    outcome("finishes", lambda: run_project(**step("finishes", alpha=0.25)))
    outcome("tagged", lambda: run_project.with_options(tags=["nightly"])(**step("tagged")))
    outcome("takes a while", lambda: run_project(**step("takes_a_while", seconds=1.5)))
    outcome("fails", lambda: run_project(**step("fails", code=3)))
    outcome("takes too long", lambda: run_project(**step("too_long", seconds=600), timeout=0.5))
    outcome("takes too long for Prefect", lambda: (
        run_project.with_options(timeout_seconds=0.5).submit(**step("too_long_2", seconds=600)).result()
    ))
    outcome("state", lambda: run_project(**step("returns_state", code=4), return_state=True).name)
    outcome("submitted", lambda: run_project.submit(**step("submitted", code=5)).result())
    outcome("no such entry point", lambda: run_project(PROJECT, "nothing"))
    outcome("bad parameter", lambda: run_project(**step("bad", seconds="long")))
    outcome("no handle", lambda: wait_for_project({"backend": "local"}))
    outcome("no such project", lambda: run_project("/no/such/project"))
    outcome("equal calls", lambda: [run_project(**step("equal")).run_id for _ in range(2)])
    outcome("equal calls submitted", lambda: [
        future.result().run_id for future in [run_project.submit(**step("equal")) for _ in range(2)]
    ])
    outcome("sweep", lambda: [
        future.result().metrics for future in run_project.map(
            PROJECT, env_manager="local", tags={"kind": "sweep"},
            parameters=[step("sweep", alpha=alpha)["parameters"] for alpha in (0.1, 0.2, 0.3)],
        )
    ])
    outcome("given on", lambda: run_project.submit(
        PROJECT, env_manager="local", parameters=given.submit("given_on", 0.75)
    ).result())
    outcome("pair", lambda: wait_for_project(submit_project(**step("pair"))))
    outcome("pair by handle", lambda: wait_for_project(submit_project(**step("pair_2")).handle))
    patient = submit_project(**step("patient", seconds=2))
    outcome("limited wait", lambda: wait_for_project.with_options(timeout_seconds=0.2)(patient))
    outcome("second wait", lambda: wait_for_project(patient))
    ended = submit_project(**step("by_hand", seconds=600))
    ended.cancel()
    outcome("cancelled by hand", ended.get_status)
    outcome("wait for cancelled", lambda: wait_for_project(ended))
    outcome("cached", lambda: [
        run_project.with_options(cache_policy=INPUTS)(**step("cached")).run_id for _ in range(2)
    ])
    outcome("asset", lambda: run_project.with_options(assets=["mlflow://models/steps"])(**step("asset")))

@task
def given(name, alpha):
    return step(name, alpha=alpha)["parameters"]

if __name__ == "__main__":
    from prefect.cache_policies import INPUTS
    main()
    print(json.dumps(OUTCOMES))
"""


@pytest.fixture(scope="module")
def many(prefect, steps, tracked):
    """A flow run in which much was done, and the outcome of each thing, by its name."""
    script = prefect.start_script("many", head(steps) + MANY, env=tracked)
    script.wait(180)
    lines = script.log_file.read_text().splitlines()
    assert lines[-1].startswith("{"), script.log
    return Many(prefect, script.flow_run_id, json.loads(lines[-1]))


class Many:
    def __init__(self, prefect, flow_run_id, outcomes):
        self.prefect, self.flow_run_id, self.outcomes = prefect, flow_run_id, outcomes

    def value(self, name):
        assert "value" in self.outcomes[name], self.outcomes[name]
        return self.outcomes[name]["value"]

    def raised(self, name):
        return self.outcomes[name]["raised"]

    def text(self, name):
        return self.outcomes[name]["text"]

    def task(self, mark):
        """The task run whose run the step of this mark was."""
        key = f"marks/{mark} "
        for task in self.prefect.task_runs(self.flow_run_id):
            if any(f"/{key}" in log["message"] for log in self.prefect.logs(self.flow_run_id, task["id"])):
                return task
        raise AssertionError(f"no task run has logged {mark}")


def mlflow_run(tracked, run_id):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{tracked['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/get?run_id={run_id}") as answer:
        return json.load(answer)["run"]


class TestAFinishedRun:
    def test_is_completed_and_gives_what_it_left(self, many):
        value = many.value("finishes")
        assert sorted(value) == [
            *("artifact_uri", "experiment_id", "handle", "metrics", "result", "run_id", "status", "tracking_url"),
        ]
        assert (value["status"], value["metrics"], value["result"]["alpha"]) == ("FINISHED", {"score": 0.25}, 0.25)
        task = many.task("finishes")
        assert (task["state_type"], task["state_name"]) == ("COMPLETED", "Completed")
        assert task["message"] == f"FINISHED: run {value['run_id']}"

    def test_was_running_with_its_phase_in_the_message(self, prefect, many):
        task = many.task("takes_a_while")
        states = prefect.states_of_task_run(task["id"])
        messages = [state["message"] or "" for state in states if state["name"] == "Running"]
        assert any(message.startswith("the project runs (") for message in messages), states
        assert task["run_count"] == 1

    def test_is_named_by_project_and_entry_point_and_tagged_if_that_is_asked_for(self, many):
        assert many.task("finishes")["name"] == "steps/main"
        assert many.task("finishes")["tags"] == []
        assert many.task("tagged")["tags"] == ["nightly"]

    def test_leads_from_mlflow_back_to_its_task_run(self, prefect, many, tracked):
        run = mlflow_run(tracked, many.value("finishes")["run_id"])
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        task = many.task("finishes")
        assert tags["prefect.task_run_id"] == task["id"]
        assert tags["prefect.task_run_name"] == "steps/main"
        assert tags["prefect.flow_run_id"] == many.flow_run_id
        assert tags["prefect.flow_name"] == "many"
        assert tags["prefect.flow_run_name"] == prefect.flow_run(many.flow_run_id)["name"]
        assert task["id"] in tags["prefect.task_run_url"]

    def test_has_told_its_output_in_order(self, prefect, many):
        lines = [log["message"] for log in prefect.logs(many.flow_run_id, many.task("finishes")["id"])]
        assert lines.index("the first line") < lines.index("the last line, of 2")

    def test_has_its_result_in_prefects_storage(self, prefect, many):
        (state,) = [
            one for one in prefect.states_of_task_run(many.task("finishes")["id"]) if one["type"] == "COMPLETED"
        ]
        assert os.path.exists(state["data"]["storage_key"])  # noqa: PTH110 - a key of local storage is a path

    def test_shows_a_link_and_a_table(self, prefect, many):
        task = many.task("finishes")
        shown = {one["type"]: one for one in prefect.artifacts(many.flow_run_id) if one["task_run_id"] == task["id"]}
        assert sorted(shown) == ["markdown", "table"]
        assert many.value("finishes")["tracking_url"] in shown["markdown"]["data"]
        rows = {row["name"]: (row["kind"], row["value"]) for row in json.loads(shown["table"]["data"])}
        assert rows["score"] == ("metric", "0.25")
        assert rows["alpha"] == ("parameter", "0.25")


class TestARunThatDoesNotFinish:
    def test_fails_the_task_and_raises_where_it_is_called(self, many):
        assert many.raised("fails") == "ExecutionException"
        task = many.task("fails")
        assert task["state_type"] == "FAILED"
        for text in (task["message"], many.text("fails")):
            assert "exited with code 3" in text
            assert "the last line, of 2" in text

    def test_raises_the_same_from_a_future(self, many):
        assert many.raised("submitted") == "ExecutionException"
        assert "exited with code 5" in many.text("submitted")

    def test_is_told_by_the_state_if_that_is_asked_for(self, many):
        assert many.value("state") == "Failed"

    # By the backend's own limit; and by Prefect's, which the backend is given too, since Prefect interrupts no thread.
    @pytest.mark.parametrize(("name", "mark", "error"), [
        ("takes too long", "too_long", "ExecutionException"),
        ("takes too long for Prefect", "too_long_2", "TaskRunTimeoutError"),
    ])  # fmt: skip
    def test_is_timed_out_also_in_a_thread(self, many, steps, name, mark, error):
        assert many.raised(name) == error
        assert many.task(mark)["state_name"] == "TimedOut"
        assert steps.living(mark) == []

    def test_is_cancelled_if_somebody_has_ended_it(self, many):
        assert many.value("cancelled by hand") == "KILLED"
        assert many.raised("wait for cancelled") == "CancelledRun"


class TestAMistake:
    def test_is_told_without_a_traceback(self, prefect, many):
        assert many.raised("no such entry point") == "UserError"
        assert "There is no entry point 'nothing'" in many.text("no such entry point")
        assert many.raised("bad parameter") == "InvalidParameters"
        assert "seconds" in many.text("bad parameter")
        assert many.raised("no handle") == "UserError"
        assert many.raised("no such project") == "UserError"
        wrong = [task for task in prefect.task_runs(many.flow_run_id) if task["state_name"] == "Failed"]
        assert len(wrong) >= 3
        for task in wrong:
            assert "Traceback" not in prefect.log_text(many.flow_run_id, task["id"])


class TestCalls:
    def test_that_are_equal_have_runs_of_their_own(self, many, steps):
        ids = [*many.value("equal calls"), *many.value("equal calls submitted")]
        assert len(set(ids)) == 4
        assert len(steps.pids("equal")) == 4

    def test_are_mapped_over_lists_and_not_over_mappings(self, many, steps):
        assert [metrics["score"] for metrics in many.value("sweep")] == [0.1, 0.2, 0.3]
        assert len(steps.pids("sweep")) == 3

    def test_take_what_another_task_gives(self, many):
        assert many.value("given on")["metrics"] == {"score": 0.75}

    def test_that_submit_and_wait_are_a_pair(self, many, steps):
        assert many.value("pair")["status"] == "FINISHED"
        assert many.value("pair by handle")["status"] == "FINISHED"
        assert "wait for steps/main" in {task["name"] for task in many.prefect.task_runs(many.flow_run_id)}
        assert len(steps.pids("pair")) == 1

    def test_that_wait_have_limits_of_their_own_which_end_no_run(self, many, steps):
        assert many.raised("limited wait") == "TaskRunTimeoutError"
        assert many.value("second wait")["status"] == "FINISHED"
        assert len(steps.pids("patient")) == 1

    def test_are_cached_only_if_that_is_asked_for(self, many, steps):
        first, second = many.value("cached")
        assert first == second
        assert len(steps.pids("cached")) == 1

    def test_materialize_an_asset(self, prefect, many):
        def events():
            event, resource = "prefect.asset.materialization.succeeded", "mlflow://models/steps"
            query = {"filter": {"event": {"name": [event]}, "resource": {"id": [resource]}}}
            return prefect.ask("POST", "events", "filter", body=query)["events"]

        (event,) = prefect.wait_for(events, "no asset was materialized")
        assert event["resource"]["prefect.resource.id"] == "mlflow://models/steps"
        assert event["payload"]["mlflow.run_id"] == many.value("asset")["run_id"]


class TestAFlowThatIgnoresTheResult:
    @pytest.mark.parametrize("end", ["fails", "is killed", "is lost"])
    def test_does_not_go_green(self, prefect, steps, end):
        name = "ignored_" + end.replace(" ", "_")
        code = 1 if end == "fails" else 0
        seconds = 0 if end == "fails" else 600
        text = (
            head(steps)
            + f"""
@flow(name={name!r})
def main():
    run_project(**step({name!r}, code={code}, seconds={seconds}))

main()
"""
        )
        script = prefect.start_script(name, text)
        if end != "fails":
            prefect.wait_for(lambda: steps.pids(name), "it was not started")
            number = {"is killed": signal.SIGTERM, "is lost": signal.SIGKILL}[end]
            if end == "is lost":
                os.kill(supervisor_of(steps.pids(name)[0]), number)
            else:
                cancel_by_hand(prefect, script)
        assert script.wait() == 1
        prefect.wait_for_flow_run(script.flow_run_id, "Failed")
        (task,) = prefect.task_runs(script.flow_run_id)
        assert task["state_type"] == {"fails": "FAILED", "is killed": "CANCELLED", "is lost": "CRASHED"}[end]
        assert steps.living(name) == []


class TestAnEnvironmentThatIsMade:
    def test_is_shown_as_progress_and_in_the_state(self, prefect, steps, tmp_path):
        project = tmp_path / "made"
        project.mkdir()
        (project / "python_env.yaml").write_text("dependencies: []\n")
        (project / "MLproject").write_text("entry_points: {main: {command: 'echo made'}}\n")
        text = f"{head(steps)}\n@flow(name='made')\ndef main():\n    run_project({str(project)!r})\n\nmain()\n"
        script = prefect.start_script("made", text, env={"MLPROJ_CACHE_DIR": str(tmp_path / "cache")})
        assert script.wait(90) == 0, script.log
        (task,) = prefect.task_runs(script.flow_run_id)
        messages = [state["message"] or "" for state in prefect.states_of_task_run(task["id"])]
        phases = [message.split(" (")[0] for message in messages if "(" in message]
        assert phases[-2:] == ["its environment is being built", "the project runs"]
        (progress,) = [one for one in prefect.artifacts(script.flow_run_id) if one["type"] == "progress"]
        assert progress["data"] == 100.0
        assert progress["key"] == "made-main-environment"


class TestTheProject:
    def test_does_not_see_what_is_prefects(self, prefect, steps):
        text = head(steps) + "\n@flow(name='hiding')\ndef main():\n    run_project(**step('hiding'))\n\nmain()\n"
        script = prefect.start_script("hiding", text, env={"PREFECT_API_KEY": "pnu_secret", "OTHER": "seen"})
        assert script.wait() == 0, script.log
        environ = steps.environ("hiding")
        assert environ["OTHER"] == "seen"
        assert not [name for name in environ if name.startswith("PREFECT")]


class TestInAnAsyncFlow:
    def test_a_limit_ends_the_run_and_the_flow_goes_on(self, prefect, steps):
        text = (
            head(steps)
            + """
@flow(name="async_limits")
async def main():
    try:
        await run_project.with_options(timeout_seconds=1)(**step("async_limit", seconds=600))
    except Exception as error:
        print("LIMIT", type(error).__name__)
    patient = await submit_project(**step("async_patient", seconds=2))
    try:
        await wait_for_project.with_options(timeout_seconds=0.2)(patient)
    except Exception as error:
        print("WAIT", type(error).__name__)
    print("THEN", (await wait_for_project(patient)).status)

asyncio.run(main())
"""
        )
        script = prefect.start_script("async_limits", text)
        assert script.wait(90) == 0, script.log
        printed = script.log_file.read_text()
        assert "LIMIT TaskRunTimeoutError" in printed
        assert "WAIT TaskRunTimeoutError" in printed
        assert "THEN FINISHED" in printed
        assert steps.living("async_limit") == []
        states = [task["state_name"] for task in prefect.task_runs(script.flow_run_id)]
        assert sorted(states) == ["Completed", "Completed", "TimedOut", "TimedOut"]


class TestElsewhere:
    def test_a_task_is_called_outside_a_flow_too(self, prefect, steps):
        text = head(steps) + "\nif __name__ == '__main__':\n    print(run_project(**step('outside')).status)\n"
        text += "\n@flow(name='outside')\ndef main():\n    pass\n\nmain()\n"
        script = prefect.start_script("outside", text)
        assert script.wait() == 0, script.log
        assert "FINISHED" in script.log
        assert len(steps.pids("outside")) == 1

    def test_equal_calls_in_processes_of_a_task_runner_have_runs_of_their_own(self, prefect, steps):
        text = (
            head(steps)
            + """
from prefect.task_runners import ProcessPoolTaskRunner

@task
def inner(_number):
    return run_project(**step("pooled")).run_id

@flow(name="pooled", task_runner=ProcessPoolTaskRunner(max_workers=2))
def main():
    inside = [future.result() for future in [inner.submit(number) for number in (1, 1)]]
    mapped = [future.result().run_id for future in run_project.map(**{**step("pooled"), "parameters": [
        step("pooled")["parameters"]] * 2})]
    print("RUNS", len({*inside, *mapped}))

if __name__ == "__main__":
    main()
"""
        )
        script = prefect.start_script("pooled", text)
        assert script.wait(90) == 0, script.log
        assert "RUNS 4" in script.log
        assert len(steps.pids("pooled")) == 4

    def test_a_sweep_has_shown_all_its_runs_when_its_process_ends(self, prefect, steps):
        text = (
            head(steps)
            + """
@flow(name="wide")
def main():
    run_project.map(
        PROJECT, env_manager="local", parameters=[step("wide")["parameters"] for _ in range(60)]
    ).wait()

if __name__ == "__main__":
    main()
"""
        )
        script = prefect.start_script("wide", text)
        assert script.wait(90) == 0, script.log
        shown = [each["task_run_id"] for each in prefect.artifacts(script.flow_run_id) if each["key"].endswith("-run")]
        assert len(shown) == len(set(shown)) == 60
        assert not [words for words in ("Traceback", "Error emitting event", "shutdown") if words in script.log]

    def test_a_flow_within_a_flow_is_cancelled_with_it(self, prefect, steps):
        text = (
            head(steps)
            + """
@flow(name="within")
def within():
    run_project(**step("within", seconds=600))

@flow(name="around")
def main():
    within()

if __name__ == "__main__":
    main()
"""
        )
        script = prefect.start_script("around", text)
        prefect.wait_for(lambda: steps.pids("within"), "it was not started")
        prefect.cancel(script.flow_run_id)
        script.wait()
        assert steps.living("within") == []
        prefect.wait_for_flow_run(script.flow_run_id, "Cancelled")


class TestAnEarlierRun:
    REUSING = """
@flow(name="reusing")
def main():
    given = {{"env_manager": "local", "experiment_name": "reusing", "reuse_finished": True}}
    for alpha in (1, 1, 2):
        print("RUN", run_project({work!r}, parameters={{"alpha": alpha}}, **given).run_id)

if __name__ == "__main__":
    main()
"""

    def test_stands_in_for_a_task_that_would_do_the_same(self, prefect, steps, tracked, tmp_path):
        work = repository(
            tmp_path / "work",
            MLproject="entry_points:\n  main:\n    parameters: {alpha: float}\n    command: echo {alpha}\n",
        )
        script = prefect.start_script("reusing", head(steps) + self.REUSING.format(work=str(work)), env=tracked)
        script.wait()
        first, again, another = re.findall(r"^RUN (\w+)$", script.log, re.MULTILINE)
        assert again == first
        assert another != first
        assert f"reusing run {first}" in prefect.log_text(script.flow_run_id)
        assert prefect.flow_run(script.flow_run_id)["state_type"] == "COMPLETED"


def cancel_by_hand(prefect, script):
    """Cancel the run of a flow by `mlproj cancel`, with the handle that the flow run shows."""
    import subprocess
    import sys

    (shown,) = prefect.wait_for(lambda: prefect.artifacts(script.flow_run_id), "no handle was shown")
    handle = (shown["data"] + (shown["description"] or "")).split("```json\n")[1].split("\n```")[0]
    code = "from mlproj_core.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, "cancel", handle], env=prefect.environment, check=True, timeout=30)
