"""Runs in Databricks: how they are, how they end, what they leave, and how they are found again."""

import asyncio
import json
import threading

import pytest
import rest
from databricks_run import CANCELLED, SKIPPED, Ending, spot_loss
from databricks_scripted import Script
from databricks_steps import said
from databricks_steps import steps as steps

import mlproj_core
from mlproj_core.backends import load_backend
from mlproj_core.backends.databricks import DatabricksBackend, poll, sight
from mlproj_core.errors import ContactLost, ExecutionException, Superseded, UserError

FAILS = Script(
    "one\ntwo\n" + said(exit=3), error="TaskFailed: exit status 3", trace="Traceback\nTaskFailed: exit status 3"
)
RAISES = Script("begun\n", error="ValueError: no", trace="\x1b[0;31mTraceback\x1b[0m\n  line 3\nValueError: no")


def failed_library(cluster_id):
    return Ending("FAILED", "LIBRARY_INSTALLATION_ERROR", "CLIENT_ERROR", "no such package: nonesuch")


class TestAnEnd:
    def test_is_a_success(self, steps):
        run = steps.submit()
        assert run.wait()
        assert (run.get_status(), run.phase, run.reason) == ("FINISHED", "ended", None)

    def test_is_the_projects_own_failure_with_its_exit_code_and_its_last_lines(self, steps):
        steps.workspace.runtime.script = FAILS
        run = steps.submit()
        assert not run.wait()
        assert run.get_status() == "FAILED"
        assert (run.reason.code, run.reason.exit_code, run.reason.retryable) == ("project_code", 3, False)
        assert run.reason.output == ("one", "two")

    def test_is_an_exception_with_its_trace_where_no_launcher_was(self, steps):
        steps.workspace.runtime.script = RAISES
        run = steps.submit()
        run.wait()
        assert run.reason.code == "project_code"
        assert run.reason.message == "the project failed: ValueError: no"
        assert run.reason.output == ("begun", "Traceback", "  line 3", "ValueError: no")

    def test_is_the_clouds_failure_where_it_has_no_machine(self, steps):
        steps.workspace.runs.fail_for_capacity()
        run = steps.submit()
        run.wait()
        assert (run.get_status(), run.reason.code, run.reason.retryable) == ("FAILED", "capacity", True)
        assert "AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE" in run.reason.message

    def test_is_the_clouds_failure_where_it_takes_the_machine_back(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.come_to(run, "RUNNING")
        steps.workspace.runs.lose(run.handle.ref["run"], spot_loss)
        run.wait()
        assert (run.reason.code, run.reason.retryable) == ("capacity", True)
        assert "SPOT_INSTANCE_TERMINATION" in run.reason.message

    def test_is_a_failed_environment_where_a_library_is_missing(self, steps):
        steps.workspace.runs.end_next(failed_library)
        run = steps.submit()
        run.wait()
        assert (run.reason.code, run.reason.retryable) == ("environment", False)
        assert "nonesuch" in run.reason.message

    def test_is_a_timeout(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit(timeout=0.5)
        run.wait()
        assert (run.get_status(), run.reason.code, run.reason.retryable) == ("FAILED", "timeout", True)

    def test_is_no_success_of_a_run_that_was_skipped(self, steps):
        steps.workspace.runs.end_next(SKIPPED)
        run = steps.submit()
        run.wait()
        assert (run.get_status(), run.reason.code) == ("FAILED", "capacity")

    def test_is_a_cancellation_also_where_somebody_did_it_in_the_workspace(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.come_to(run, "RUNNING")
        steps.workspace.runs.cancel({"run_id": run.handle.ref["run"]})
        run.wait()
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")

    def test_is_told_to_whoever_ran_it(self, steps):
        steps.workspace.runtime.script = FAILS
        with pytest.raises(ExecutionException, match="exited with status 3") as caught:
            mlproj_core.run(**steps.arguments())
        assert caught.value.reason.exit_code == 3


class TestAPhase:
    @pytest.mark.parametrize(
        ("life", "phase"),
        [
            ("QUEUED", "queued"),
            ("BLOCKED", "queued"),
            ("PENDING", "environment"),
            ("RUNNING", "running"),
            ("TERMINATING", "running"),
        ],
    )
    def test_is_where_the_run_is(self, steps, life, phase):
        runs = steps.workspace.runs
        if life == "RUNNING":
            steps.workspace.runtime.gate.clear()
        else:
            runs.hold(life)
        run = steps.submit()
        steps.come_to(run, life)
        assert (run.get_status(), run.phase) == ("RUNNING", phase)
        runs.release(life)
        steps.workspace.runtime.gate.set()
        assert run.wait()


class TestACancellation:
    @pytest.mark.parametrize("life", ["QUEUED", "BLOCKED", "PENDING", "RUNNING"])
    def test_ends_a_run_wherever_it_is(self, steps, life):
        if life == "RUNNING":
            steps.workspace.runtime.gate.clear()
        else:
            steps.workspace.runs.hold(life)
        run = steps.submit()
        steps.come_to(run, life)
        run.cancel()
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")
        assert steps.run(run).over

    def test_waits_until_databricks_says_that_it_is_over(self, steps):
        runs = steps.workspace.runs
        runs.hold("TERMINATING")
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.come_to(run, "RUNNING")
        thread = threading.Thread(target=run.cancel)
        thread.start()
        steps.come_to(run, "TERMINATING")
        assert run.get_status() == "RUNNING"
        assert thread.is_alive()
        runs.release("TERMINATING")
        thread.join()
        assert run.get_status() == "KILLED"

    def test_of_a_run_that_is_over_changes_nothing(self, steps):
        run = steps.submit()
        run.wait()
        asked = steps.workspace.counted("runs/cancel")
        run.cancel()
        assert run.get_status() == "FINISHED"
        assert steps.workspace.counted("runs/cancel") == asked

    def test_of_a_run_that_was_deleted_ends(self, steps):
        run = steps.submit()
        run.wait()
        steps.workspace.runs.forget(run.handle.ref["run"])
        run.cancel()
        assert run.reason.code == "forgotten"

    def test_says_that_it_is_not_over_yet_when_databricks_does_not_end_it(self, steps, monkeypatch):
        monkeypatch.setattr("mlproj_core.backends.databricks.backend.STOP_PATIENCE", 0.2)
        steps.workspace.runs.hold("TERMINATING")
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.come_to(run, "RUNNING")
        with pytest.raises(ContactLost, match="was cancelled"):
            run.cancel()
        steps.workspace.runs.release("TERMINATING")
        run.wait()
        assert run.get_status() == "KILLED"


class TestADeletedRun:
    def test_is_forgotten_never_finished(self, steps):
        run = steps.submit()
        run.wait()
        steps.workspace.runs.forget(run.handle.ref["run"])
        assert (run.get_status(), run.reason.code, run.reason.retryable) == ("FAILED", "forgotten", True)
        assert list(run.logs()) == []

    def test_ends_a_wait(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.come_to(run, "RUNNING")
        thread = threading.Thread(target=run.wait)
        thread.start()
        steps.workspace.runs.forget(run.handle.ref["run"])
        thread.join(30)
        assert not thread.is_alive()
        steps.workspace.runtime.gate.set()

    def test_is_followed_by_another_attempt(self, steps):
        """Its token cannot be used again: submitting with it is an error, from which nobody learns at which turn."""
        first = steps.submit(key="k", turn=1)
        first.wait()
        steps.workspace.runs.forget(first.handle.ref["run"])
        second = steps.submit(key="k", turn=2)
        assert second.handle.attempt == 2
        assert second.wait()

    @pytest.mark.parametrize("words", ["Run 17 has been deleted.", "The idempotency token was used before"])
    def test_is_known_by_what_is_said_of_its_token(self, steps, words):
        """The API says only that there is an error."""
        steps.workspace.runs.deleted_token = words
        first = steps.submit(key="k", turn=1)
        first.wait()
        steps.workspace.runs.forget(first.handle.ref["run"])
        assert steps.submit(key="k", turn=2).handle.attempt == 2

    def test_is_not_taken_for_a_cluster_that_was_deleted(self, steps):
        said = "Run configuration is invalid. The cluster 1128-1 has been deleted"
        steps.workspace.faults.fail(400, said, on="runs/submit", code="INVALID_PARAMETER_VALUE")
        with pytest.raises(UserError, match="The cluster 1128-1 has been deleted"):
            steps.submit(key="k", turn=1)

    def test_is_told_as_forgotten_to_who_counts_no_turns(self, steps):
        first = steps.submit(key="k")
        first.wait()
        steps.workspace.runs.forget(first.handle.ref["run"])
        again = steps.submit(key="k")
        assert (again.handle.attempt, again.get_status(), again.reason.code) == (1, "FAILED", "forgotten")


class TestAnAttemptThatWasMissed:
    """Runs are looked for in so many pages of the list; the idempotency token finds what is not there."""

    @pytest.fixture(autouse=True)
    def _no_pages(self, steps, monkeypatch):
        monkeypatch.setattr(sight, "PAGES", 1)
        monkeypatch.setattr("mlproj_core.backends.databricks.workspace.PAGE", 1)
        self.steps = steps

    def others(self):
        for number in range(3):
            self.steps.submit(key=f"other {number}").wait()

    def test_is_returned_if_it_finished(self):
        first = self.steps.submit(key="k", turn=1)
        first.wait()
        self.others()
        assert load_backend("databricks").find("k") is None
        again = self.steps.submit(key="k", turn=2)
        assert again.handle == first.handle
        assert again.get_status() == "FINISHED"

    def test_is_followed_by_the_next_if_it_failed(self):
        self.steps.workspace.runtime.script = FAILS
        for turn in (1, 2):
            self.steps.submit(key="k", turn=turn).wait()
            self.others()
        third = self.steps.submit(key="k", turn=3)
        assert third.handle.attempt == 3
        assert self.steps.submit(key="k", turn=3).handle == third.handle

    def test_of_a_later_turn_is_not_taken_over(self):
        self.steps.submit(key="k", turn=5).wait()
        self.others()
        with pytest.raises(Superseded):
            self.steps.submit(key="k", turn=4)

    def test_is_found_on_any_page_while_it_lives(self):
        self.steps.workspace.runtime.gate.clear()
        first = self.steps.submit(key="k", turn=1)
        for number in range(3):
            self.steps.submit(key=f"other {number}")
        assert load_backend("databricks").find("k") == first.handle
        self.steps.workspace.runtime.gate.set()


class TestOutput:
    def test_is_what_the_task_printed_without_the_launchers_word(self, steps):
        steps.workspace.runtime.script = Script("größer\nund größer\n" + said(exit=0, result={"a": 1}))
        run = steps.submit()
        run.wait()
        assert "".join(run.logs()) == "größer\nund größer\n"
        assert run.result().result == {"a": 1}

    def test_is_read_on_from_a_cursor(self, steps):
        steps.workspace.runtime.script = Script("größer\n")
        run = steps.submit()
        run.wait()
        pieces = list(run.read_logs())
        assert pieces == [("größer\n", 9)]
        assert list(run.read_logs(cursor=9)) == []
        assert "".join(run.logs(cursor=4)) == "ßer\n"

    def test_is_followed_while_it_comes(self, steps):
        steps.workspace.runtime.script = Script("one\n")
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        pieces = run.logs(follow=True)
        assert next(pieces) == "one\n"
        steps.run(run).task.write(b"two\n")
        assert next(pieces) == "two\n"
        steps.workspace.runtime.gate.set()
        assert list(pieces) == []

    def test_of_which_databricks_has_dropped_the_beginning_says_so(self, steps):
        steps.workspace.runtime.script = Script("x" * (6 << 20) + "\nlast\n")
        run = steps.submit()
        run.wait()
        text = "".join(run.logs())
        assert text.startswith("[mlproj] Databricks keeps the last 5 MB")
        assert text.endswith("last\n")

    def test_of_a_result_that_is_no_object_is_an_error(self, steps):
        steps.workspace.runtime.script = Script(said(exit=0, result=3))
        run = steps.submit()
        run.wait()
        with pytest.raises(ExecutionException, match="not a JSON object"):
            run.result()


class TestAHandle:
    def test_names_the_run_and_its_page_and_holds_no_secret(self, steps):
        run = steps.submit(turn=[1, 2])
        run.wait()
        ref = run.handle.ref
        there = steps.run(run)
        assert (ref["host"], ref["run"], ref["turn"]) == (steps.workspace.host, there.run_id, [1, 2])
        assert run.page == there.page
        assert steps.workspace.token not in run.handle.to_json()

    def test_finds_its_run_in_any_process(self, steps):
        run = steps.submit()
        run.wait()
        assert mlproj_core.attach(run.handle.to_json()).get_status() == "FINISHED"

    def test_finds_its_run_by_any_profile_of_the_same_workspace(self, steps, databricks_host, monkeypatch):
        run = steps.submit()
        run.wait()
        for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
            monkeypatch.delenv(name)
        with pytest.raises(ContactLost, match="credentials"):
            mlproj_core.attach(run.handle).get_status()
        steps.workspace.write_profile(databricks_host / ".databrickscfg", "staging")
        assert mlproj_core.attach(run.handle).get_status() == "FINISHED"

    def test_of_a_profile_is_of_that(self, steps, databricks_host, monkeypatch):
        for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
            monkeypatch.delenv(name)
        steps.workspace.write_profile(databricks_host / ".databrickscfg", "staging")
        run = steps.submit(backend_config={"profile": "staging"})
        assert run.wait()
        assert run.handle.ref["profile"] == "staging"

    def test_of_another_workspace_is_not_told_this_ones_token(self, steps):
        run = steps.submit()
        run.wait()
        before = steps.workspace.counted("runs/get")
        value = {**run.handle.to_dict(), "ref": {**run.handle.ref, "host": "http://127.0.0.1:9"}}
        with pytest.raises(ContactLost, match=r"127\.0\.0\.1:9"):
            mlproj_core.attach(value).get_status()
        assert steps.workspace.counted("runs/get") == before


class TestAClientOfTheCallers:
    def test_is_used_whatever_is_configured(self, steps, monkeypatch):
        from databricks_client import client_of

        for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
            monkeypatch.delenv(name)
        with client_of(steps.workspace) as client:
            run = steps.submit(backend=DatabricksBackend(client))
            assert run.wait()
            assert mlproj_core.attach(run.handle, backend=DatabricksBackend(client)).get_status() == "FINISHED"
            with pytest.raises(UserError, match="given a client"):
                steps.submit(backend=DatabricksBackend(client), backend_config={"profile": "staging"})
            poll.stop_polling()


class TestWaiting:
    def test_of_many_asks_for_the_list_instead_of_each(self, steps):
        steps.workspace.runtime.gate.clear()
        runs = [steps.submit() for _ in range(12)]
        for run in runs:
            steps.come_to(run, "RUNNING")
        threads = [threading.Thread(target=run.wait) for run in runs]
        asked = steps.workspace.counted("runs/get")
        for thread in threads:
            thread.start()
        listed = steps.workspace.counted("runs/list")
        steps.workspace.runs.wait_until(lambda: True)
        while steps.workspace.counted("runs/list") < listed + 5:
            threads[0].join(0.05)
        alone = steps.workspace.counted("runs/get") - asked
        assert alone < 12 * 5
        steps.workspace.runtime.gate.set()
        for thread in threads:
            thread.join(60)
        assert all(run.get_status() == "FINISHED" for run in runs)

    def test_in_an_event_loop_takes_one_thread_for_all(self, steps):
        steps.workspace.runtime.gate.clear()
        runs = [steps.submit() for _ in range(12)]

        async def wait():
            waits = [asyncio.create_task(run.wait_async()) for run in runs]
            await asyncio.sleep(0.5)
            pollers = [thread for thread in threading.enumerate() if "databricks-poll" in thread.name]
            steps.workspace.runtime.gate.set()
            return pollers, await asyncio.gather(*waits)

        pollers, done = asyncio.run(wait())
        assert len(pollers) == 1
        assert done == [True] * 12

    def test_ends_when_its_time_is_over(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        assert not run.wait(0)
        assert not run.wait(0.1)
        assert not run.wait(2.1)
        assert not asyncio.run(run.wait_async(0.1))
        steps.workspace.runtime.gate.set()

    def test_goes_on_over_an_outage(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.come_to(run, "RUNNING")
        thread = threading.Thread(target=run.wait)
        steps.workspace.faults.fail(500, on="jobs/runs", during=1)
        thread.start()
        steps.workspace.runtime.gate.set()
        thread.join(60)
        assert run.get_status() == "FINISHED"

    def test_says_so_when_an_outage_lasts(self, steps, monkeypatch):
        monkeypatch.setattr(poll, "OUTAGE", 0.3)
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.workspace.faults.fail(500, on="jobs/runs", during=60)
        with pytest.raises(ContactLost, match="could not read the run"):
            run.wait()
        with pytest.raises(ContactLost):
            asyncio.run(run.wait_async())
        steps.workspace.faults.clear()
        steps.workspace.runtime.gate.set()
        assert run.wait()

    def test_says_so_at_once_when_the_credentials_are_refused(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        steps.workspace.faults.fail(401, on="jobs/runs", during=60)
        with pytest.raises(UserError, match="credentials"):
            run.wait()
        steps.workspace.faults.clear()
        steps.workspace.runtime.gate.set()


class TestATrackedRun:
    @pytest.fixture(autouse=True)
    def _tracked(self, steps, monkeypatch, mlflow_server, tmp_path):
        monkeypatch.delenv("MLPROJ_TRACKING")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", str(tmp_path))
        self.steps, self.server = steps, mlflow_server

    def submit(self, **more):
        return self.steps.submit(backend_config={"tracking_uri": self.server}, **more)

    def tags(self, run):
        url = rest.address(self.server, "api", "2.0", "mlflow", "runs", "get", run_id=run.run_id)
        found = rest.request("GET", url)["run"]
        assert "TOKEN" not in json.dumps(found)
        return {tag["key"]: tag["value"] for tag in found["data"]["tags"]}, found["info"]["status"]

    def test_has_the_tags_of_mlflows_own_backend(self):
        run = self.submit()
        run.wait()
        there = self.steps.run(run)
        tags, status = self.tags(run)
        assert tags["mlflow.databricks.runURL"] == there.page
        assert tags["mlflow.databricks.shellJobID"] == str(there.job_id)
        assert tags["mlflow.databricks.shellJobRunID"] == str(there.run_id)
        assert tags["mlflow.databricks.webappURL"] == self.steps.workspace.host
        assert status == "FINISHED"

    def test_is_killed_in_mlflow_when_it_was_cancelled(self):
        self.steps.workspace.runtime.gate.clear()
        run = self.submit()
        run.cancel()
        tags, status = self.tags(run)
        assert status == "KILLED"
        assert json.loads(tags["mlproj.outcome"])["reason"]["code"] == "cancelled"

    def test_that_was_deleted_is_what_its_outcome_says(self):
        self.steps.workspace.runtime.script = FAILS
        run = self.submit()
        run.wait()
        assert run.reason.exit_code == 3
        self.steps.workspace.runs.forget(run.handle.ref["run"])
        assert run.reason.exit_code == 3

    def test_of_which_mlflow_has_no_claim_any_more_is_read_from_its_arguments(self):
        run = self.submit(key="k", turn=7, parameters={"a": "1"})
        run.wait()
        url = rest.address(self.server, "api", "2.0", "mlflow", "runs", "delete")
        rest.request("POST", url, body={"run_id": run.run_id})
        again = mlproj_core.attach(run.handle)
        assert again.get_status() == "FINISHED"
        assert (again.turn, again.request["parameters"]) == ((7,), {"a": "1"})

    def test_is_cancelled_also_while_mlflow_is_away(self, monkeypatch):
        self.steps.workspace.runtime.gate.clear()
        run = self.submit()
        value = {**run.handle.to_dict(), "ref": {**run.handle.ref, "tracking_uri": "http://127.0.0.1:9"}}
        mlproj_core.attach(value).cancel()
        assert self.steps.run(run).ending is CANCELLED
