"""What Databricks says of a run, and what that comes to: every state, result and code that its API has."""

import json

import pytest
from databricks.sdk.service import jobs

from mlproj_core.backends.databricks.output import last_lines, printed, word
from mlproj_core.backends.databricks.states import CODES, PHASES, RESULTS, is_over, judge


def run(life="TERMINATED", result=None, code=None, message="", kind=None, task=None, **more):
    """A run as `runs/get` gives it; its task says the same, unless `task` says something else."""

    def part(life, result, code, message, kind=None, **more):
        details = {"code": code, "type": kind, "message": message}
        return {
            "state": {"life_cycle_state": life, "result_state": result, "state_message": message, **more},
            "status": {"state": life, **({"termination_details": details} if code else {})},
        }

    own = part(life, result, code, message, kind, **more)
    of_task = part(**{"life": life, "result": result, "code": code, "message": message, "kind": kind, **(task or {})})
    return {
        "run_id": 1,
        "end_time": 60_000,
        "queue_duration": 1500,
        **own,
        "tasks": [{"run_id": 2, "setup_duration": 2000, "execution_duration": 3000, **of_task}],
    }


def end(*arguments, output=None, **more):
    return judge(run(*arguments, **more), output).outcome


class TestTheTable:
    """It knows every word of the API that the SDK knows."""

    @pytest.mark.parametrize(
        ("words", "table"),
        [
            (jobs.RunLifeCycleState, PHASES),
            (jobs.RunLifecycleStateV2State, PHASES),
            (jobs.RunResultState, RESULTS),
            (jobs.TerminationCodeCode, CODES),
        ],
    )
    def test_has_every_word(self, words, table):
        assert {word.value for word in words} - set(table) == set()


class TestALivingRun:
    @pytest.mark.parametrize(
        ("life", "phase"),
        [
            ("QUEUED", "queued"),
            ("BLOCKED", "queued"),
            ("WAITING_FOR_RETRY", "queued"),
            ("PENDING", "environment"),
            ("RUNNING", "running"),
            ("TERMINATING", "running"),
            ("A_STATE_OF_NEXT_YEAR", "running"),
        ],
    )
    def test_has_a_phase(self, life, phase):
        verdict = judge(run(life))
        assert (verdict.state.name, verdict.phase, verdict.outcome) == ("LIVING", phase, None)
        assert not is_over(run(life))

    def test_waits_for_its_cluster_while_the_run_says_that_it_runs(self):
        assert judge(run("RUNNING", task={"life": "PENDING"})).phase == "environment"

    def test_is_not_over_while_the_run_does_not_say_so(self):
        verdict = judge(run("RUNNING", task={"life": "TERMINATED", "result": "SUCCESS"}))
        assert (verdict.state.name, verdict.phase) == ("LIVING", "running")

    def test_that_is_being_cancelled_says_so(self):
        assert judge(run("TERMINATING", user_cancelled_or_timedout=True)).cancelled


class TestAnEnd:
    @pytest.mark.parametrize(
        ("code", "result", "status", "reason", "retryable"),
        [
            ("SUCCESS", "SUCCESS", "FINISHED", None, None),
            ("RUN_EXECUTION_ERROR", "FAILED", "FAILED", "project_code", False),
            ("USER_CANCELED", "CANCELED", "KILLED", "cancelled", False),
            ("CANCELED", "CANCELED", "KILLED", "cancelled", False),
            ("CANCELED", "TIMEDOUT", "FAILED", "timeout", True),
            ("CLOUD_FAILURE", "FAILED", "FAILED", "capacity", True),
            ("CLUSTER_ERROR", "FAILED", "FAILED", "capacity", True),
            ("CLUSTER_REQUEST_LIMIT_EXCEEDED", "FAILED", "FAILED", "capacity", True),
            ("WORKSPACE_RUN_LIMIT_EXCEEDED", "FAILED", "FAILED", "capacity", True),
            ("MAX_CONCURRENT_RUNS_EXCEEDED", "MAXIMUM_CONCURRENT_RUNS_REACHED", "FAILED", "capacity", True),
            ("DRIVER_ERROR", "FAILED", "FAILED", "lost", True),
            ("INTERNAL_ERROR", "FAILED", "FAILED", "lost", True),
            ("CLUSTER_TERMINATED_BY_USER", "FAILED", "FAILED", "lost", True),
            ("LIBRARY_INSTALLATION_ERROR", "FAILED", "FAILED", "environment", False),
            ("REPOSITORY_CHECKOUT_FAILED", "FAILED", "FAILED", "source", True),
            ("STORAGE_ACCESS_ERROR", "FAILED", "FAILED", "data", True),
            ("INVALID_CLUSTER_REQUEST", "FAILED", "FAILED", "user_input", False),
            ("INVALID_RUN_CONFIGURATION", "FAILED", "FAILED", "user_input", False),
            ("UNAUTHORIZED_ERROR", "FAILED", "FAILED", "user_input", False),
            ("RESOURCE_NOT_FOUND", "FAILED", "FAILED", "user_input", False),
        ],
    )
    def test_is_told_by_its_code(self, code, result, status, reason, retryable):
        outcome = end(result=result, code=code)
        assert outcome.status == status
        assert (outcome.reason and (outcome.reason.code, outcome.reason.retryable)) == (reason and (reason, retryable))

    @pytest.mark.parametrize(
        ("life", "result", "status", "reason"),
        [
            ("TERMINATED", "SUCCESS", "FINISHED", None),
            ("TERMINATED", "FAILED", "FAILED", "project_code"),
            ("TERMINATED", "TIMEDOUT", "FAILED", "timeout"),
            ("TERMINATED", "CANCELED", "KILLED", "cancelled"),
            ("SKIPPED", None, "FAILED", "capacity"),
            ("INTERNAL_ERROR", None, "FAILED", "lost"),
            ("INTERNAL_ERROR", "FAILED", "FAILED", "lost"),
        ],
    )
    def test_is_told_by_its_result_where_there_is_no_code(self, life, result, status, reason):
        outcome = end(life, result)
        assert (outcome.status, outcome.reason and outcome.reason.code) == (status, reason)

    def test_of_nothing_that_is_known_is_no_success(self):
        outcome = end("TERMINATED", "A_RESULT_OF_NEXT_YEAR")
        assert (outcome.status, outcome.reason.code) == ("FAILED", "lost")

    def test_with_a_code_of_a_later_release_is_told_by_its_type(self):
        outcome = end(result="FAILED", code="METEORITE", kind="CLOUD_FAILURE")
        assert (outcome.reason.code, outcome.reason.retryable) == ("capacity", True)

    def test_of_a_task_is_closer_than_that_of_its_run(self):
        outcome = end(
            "INTERNAL_ERROR",
            "FAILED",
            code="RUN_EXECUTION_ERROR",
            message="Task main failed with message: the cluster was lost",
            task={"life": "INTERNAL_ERROR", "code": "CLOUD_FAILURE", "message": "the cluster was lost"},
        )
        assert (outcome.reason.code, outcome.reason.message) == (
            "capacity",
            "the cloud provider failed: the cluster was lost",
        )

    def test_of_the_projects_own_is_not_taken_for_one_of_databricks(self):
        message = "Workload failed, see run output for details"
        outcome = end("INTERNAL_ERROR", "FAILED", message=message, output={"error": "ValueError: QUOTA"})
        assert (outcome.reason.code, outcome.reason.message) == (
            "project_code",
            "the project failed: ValueError: QUOTA",
        )

    @pytest.mark.parametrize(
        ("message", "reason", "retryable"),
        [
            ("Unexpected failure of the cluster: AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE", "capacity", True),
            ("Cluster was terminated. Reason: SPOT_INSTANCE_TERMINATION (CLIENT_ERROR)", "capacity", True),
            ("CLOUD_PROVIDER_RESOURCE_STOCKOUT: the zone has no such machines", "capacity", True),
            ("Cluster 1128-1 became unreachable during run", "capacity", True),
            ("Init script failure: Cluster scoped init script /x.sh failed", "environment", False),
            ("The spark driver has stopped unexpectedly and is restarting", "lost", True),
            ("java.lang.OutOfMemoryError: Java heap space", "oom", False),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("code", ["CLUSTER_ERROR", "RUN_EXECUTION_ERROR", None])
    def test_of_a_vague_code_is_told_by_databricks_own_words(self, code, message, reason, retryable):
        outcome = end("INTERNAL_ERROR", "FAILED", code=code, message=message)
        assert (outcome.reason.code, outcome.reason.retryable) == (reason, retryable)
        assert outcome.reason.message.endswith(message)

    def test_has_its_time_and_its_phases(self):
        outcome = end(result="SUCCESS")
        assert outcome.ended_at == 60.0
        assert outcome.phases == {"queued": 1.5, "environment": 2.0, "running": 3.0}

    def test_that_was_repaired_is_that_of_the_last_try(self):
        repaired = run(result="SUCCESS")
        failed = {**run(result="FAILED", code="RUN_EXECUTION_ERROR")["tasks"][0], "attempt_number": 0}
        repaired["tasks"] = [{**repaired["tasks"][0], "attempt_number": 1}, failed]
        assert judge(repaired).outcome.status == "FINISHED"


def said(**value):
    return json.dumps({"mlproj": value})


class TestTheLaunchersWord:
    def test_is_the_exit_code(self):
        outcome = end(result="FAILED", code="RUN_EXECUTION_ERROR", output={"logs": f"a\nb\n{said(exit=3)}\n"})
        assert outcome.reason.code == "project_code"
        assert (outcome.reason.exit_code, outcome.reason.signal) == (3, None)
        assert outcome.reason.message == "the project's process exited with status 3"
        assert outcome.reason.output == ("a", "b")

    def test_is_the_signal(self):
        reason = end(result="FAILED", output={"logs": said(exit=137)}).reason
        assert (reason.signal, reason.exit_code, reason.retryable) == (9, 137, True)

    def test_is_the_launchers_own_failure(self):
        error = {"code": "environment", "message": "no such package", "retryable": False}
        reason = end(result="FAILED", output={"logs": said(exit=70, error=error)}).reason
        assert (reason.code, reason.message) == ("environment", "no such package")

    def test_overrules_a_success(self):
        assert end(result="SUCCESS", output={"logs": said(exit=3)}).status == "FAILED"
        assert end(result="SUCCESS", output={"logs": said(exit=0)}).status == "FINISHED"

    def test_does_not_overrule_what_the_cloud_did(self):
        reason = end(result="FAILED", code="CLOUD_FAILURE", output={"logs": said(exit=143)}).reason
        assert reason.code == "capacity"

    def test_is_not_part_of_the_output(self):
        logs = f"one\n{said(exit=3, result={'a': 1})}\nSystemExit: 3\n"
        assert word(logs) == {"exit": 3, "result": {"a": 1}}
        assert printed(logs) == "one\nSystemExit: 3\n"

    def test_is_the_last_one(self):
        assert word(f"{said(exit=0)}\nmore\n{said(exit=4)}\n") == {"exit": 4}

    def test_may_be_missing(self):
        assert word('{"mlproj": {\n{"mlproj": 3}\n') is None
        assert printed("a\nb") == "a\nb"


class TestTheLastLines:
    def test_are_those_of_the_project(self):
        logs = "".join(f"{number}\n" for number in range(30)) + "[mlproj] unpacking\n"
        assert last_lines(logs) == tuple(map(str, range(10, 30)))

    def test_show_a_trace_that_was_not_printed(self):
        trace = "\x1b[0;31mValueError\x1b[0m Traceback\n\nValueError: no\n"
        assert last_lines("begun\n", trace) == ("begun", "ValueError Traceback", "ValueError: no")
        assert last_lines("begun\nValueError: no\n", trace) == ("begun", "ValueError: no")

    def test_come_with_the_reason_where_no_launcher_was(self):
        output = {"error": "ValueError: no", "error_trace": "File x\nValueError: no", "logs": "begun\n"}
        reason = end(result="FAILED", code="RUN_EXECUTION_ERROR", output=output).reason
        assert reason.message == "the project failed: ValueError: no"
        assert reason.output == ("begun", "File x", "ValueError: no")
