"""The tests' own Databricks workspace, as the real SDK sees it: its runs."""

import threading
from datetime import timedelta

import pytest
from databricks.sdk.errors import BadRequest, InvalidParameterValue, ResourceDoesNotExist, TooManyRequests
from databricks.sdk.service import compute, jobs
from databricks_client import client_of, submit, task
from databricks_refusals import Refusal
from databricks_run import LOGS, SKIPPED
from databricks_schema import check_is
from databricks_scripted import Script


@pytest.fixture
def client(workspace):
    with client_of(workspace) as client:
        yield client


def ended(client, run_id):
    return client.jobs.wait_get_run_job_terminated_or_skipped(run_id, timeout=timedelta(seconds=60))


def over(workspace, run_id):
    """Wait until a run is over, without the SDK's seconds between two looks."""
    workspace.runs.wait_until(lambda: workspace.runs.by_id[run_id].over)


def come_to(workspace, run_id, life):
    """Wait until a run's task is in a state."""
    workspace.runs.wait_until(lambda: workspace.runs.by_id[run_id].task.life == life)


class TestASubmission:
    def test_is_a_run_with_one_task_that_has_an_id_of_its_own(self, workspace, client):
        spec = compute.ClusterSpec(spark_version="16.4.x-scala2.12", node_type_id="i3.xlarge", num_workers=1)
        python = jobs.SparkPythonTask(python_file="/Volumes/main/ml/code/x.py", parameters=["a", "b c"])
        wait = client.jobs.submit(
            run_name="train [mlproj-1]",
            idempotency_token="mlproj-1",
            tasks=[jobs.SubmitTask(task_key="main", new_cluster=spec, spark_python_task=python)],
        )
        run = ended(client, wait.run_id)
        assert run.run_name == "train [mlproj-1]"
        assert run.run_type is jobs.RunType.SUBMIT_RUN
        assert run.tasks[0].run_id not in (run.run_id, run.job_id)
        assert run.tasks[0].spark_python_task.parameters == ["a", "b c"]
        assert run.run_page_url.endswith(f"#job/{run.job_id}/run/{run.run_id}")

    def test_with_a_token_that_was_used_is_the_same_run(self, workspace, client):
        found = []

        def ask():
            with client_of(workspace) as own:
                found.append(submit(own, idempotency_token="mlproj-1"))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 20
        assert len(set(found)) == len(workspace.runs.by_id) == 1

    def test_without_a_token_is_a_run_of_its_own(self, client):
        assert submit(client) != submit(client)

    def test_with_the_token_of_a_deleted_run_is_an_error(self, workspace, client):
        run_id = submit(client, idempotency_token="mlproj-1")
        over(workspace, run_id)
        client.jobs.delete_run(run_id)
        with pytest.raises(InvalidParameterValue, match="mlproj-1 has been deleted"):
            submit(client, idempotency_token="mlproj-1")

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ({"tags": {"a": "b"}}, "Unrecognized field tags"),
            ({"tasks": [task(job_cluster_key="shared")]}, r"Unrecognized field tasks\[0\].job_cluster_key"),
            ({"tasks": [task(new_cluster={"spark_versoin": "16"})]}, "Unrecognized field .*spark_versoin"),
            ({"run_name": 7}, "Expected str for field run_name"),
            ({"timeout_seconds": "60"}, "Expected int for field timeout_seconds"),
            ({"queue": {}}, "Missing required field: queue.enabled"),
            ({"tasks": [task(python={"source": "HERE"})]}, "Invalid value for field .*source"),
            ({"tasks": [task(python={"parameters": "a b"})]}, "Expected list for field .*parameters"),
        ],
    )
    def test_has_only_published_fields(self, client, body, complaint):
        with pytest.raises(BadRequest, match=complaint) as caught:
            submit(client, **body)
        assert caught.value.error_code == "MALFORMED_REQUEST"

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ({"idempotency_token": "x" * 65}, "at most 64 characters"),
            ({"run_name": "ä" * 2049}, "at most 4096 bytes"),
            ({"tasks": []}, "At least one task"),
            ({"tasks": [task("dbfs:/a.py", "x" * 10_000)]}, "more than 10000"),
            (
                {"tasks": [{"task_key": "main", "spark_python_task": {"python_file": "dbfs:/a"}}]},
                "One of job_cluster_key",
            ),
            ({"tasks": [task(existing_cluster_id="none")]}, "Cluster none does not exist"),
            ({"tasks": [task(new_cluster={"num_workers": 1})]}, "new_cluster.spark_version"),
            ({"tasks": [task(new_cluster={"spark_version": "16", "node_type_id": "a"})]}, "new_cluster.size"),
            ({"tasks": [task(environment_key="x")]}, "environment_key x is not in environments"),
            ({"tasks": [task("main.py")]}, "must be an absolute path"),
            ({"tasks": [task("main.py", python={"source": "GIT"})]}, "no git_source"),
            (
                {"git_source": {"git_url": "https://h/r", "git_provider": "gitHub", "git_tag": "1", "git_branch": "b"}},
                "Exactly one of git_branch",
            ),
        ],
    )
    def test_keeps_the_documented_limits(self, client, body, complaint):
        with pytest.raises(InvalidParameterValue, match=complaint):
            submit(client, **body)

    @pytest.mark.parametrize(
        "more",
        [
            {"new_cluster": {"instance_pool_id": "p", "spark_version": "16", "autoscale": {"min_workers": 1}}},
            {"new_cluster": {"policy_id": "p"}},
            {"existing_cluster_id": "1128-1"},
            {"environment_key": "default"},
        ],
    )
    def test_runs_on_any_kind_of_compute(self, workspace, client, more):
        workspace.add_cluster("1128-1")
        environments = [{"environment_key": "default", "spec": {"environment_version": "4", "dependencies": ["six"]}}]
        run_id = submit(client, task(**more), environments=environments)
        over(workspace, run_id)
        instance = client.jobs.get_run(run_id).tasks[0].cluster_instance
        assert instance.spark_context_id
        assert (instance.cluster_id == "1128-1") == ("existing_cluster_id" in more)

    def test_beyond_the_limit_of_active_runs_queues_if_it_says_so(self, workspace, client):
        workspace.runs.limit = 1
        workspace.runtime.gate.clear()
        first = submit(client)
        with client_of(workspace, patience=1) as hasty, pytest.raises(TimeoutError) as caught:
            submit(hasty)
        assert isinstance(caught.value.__cause__, TooManyRequests)
        second = submit(client, queue={"enabled": True})
        come_to(workspace, second, "QUEUED")
        run = client.jobs.get_run(second)
        assert run.state.queue_reason
        assert run.status.queue_details.code is jobs.QueueDetailsCodeCode.ACTIVE_RUNS_LIMIT_REACHED
        workspace.runtime.gate.set()
        over(workspace, second)
        assert {first, second} == {run.run_id for run in client.jobs.list_runs()}


class TestARunsState:
    @pytest.mark.parametrize(
        ("held", "run_life", "new"),
        [
            ("QUEUED", "QUEUED", "QUEUED"), ("BLOCKED", "BLOCKED", "BLOCKED"), ("PENDING", "RUNNING", "PENDING"),
            ("TERMINATING", "TERMINATING", "TERMINATING"),
        ],
    )  # fmt: skip
    def test_is_there_in_the_old_form_and_the_new(self, workspace, client, held, run_life, new):
        workspace.runs.hold(held)
        run_id = submit(client)
        come_to(workspace, run_id, held)
        run = client.jobs.get_run(run_id)
        assert run.state.life_cycle_state.value == run_life
        assert run.tasks[0].state.life_cycle_state.value == held
        assert run.tasks[0].status.state.value == new
        assert run.end_time == 0
        assert run.state.result_state is None
        workspace.runs.release(held)
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        assert run.state.result_state is jobs.RunResultState.SUCCESS
        assert run.status.termination_details.code is jobs.TerminationCodeCode.SUCCESS
        assert run.end_time > 0

    def test_waits_for_a_retry_of_the_services_own(self, workspace, client):
        scripts = iter([Script(error="ValueError: one"), Script("at last")])
        workspace.runtime.script = lambda _job: next(scripts)
        workspace.runs.hold("WAITING_FOR_RETRY")
        run_id = submit(client, task(max_retries=1))
        come_to(workspace, run_id, "WAITING_FOR_RETRY")
        run = client.jobs.get_run(run_id)
        assert run.tasks[1].status.state is jobs.RunLifecycleStateV2State.WAITING
        workspace.runs.release("WAITING_FOR_RETRY")
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        assert [one.attempt_number for one in run.tasks] == [0, 1]
        assert run.tasks[0].run_id != run.tasks[1].run_id
        assert [one.state.result_state.value for one in run.tasks] == ["FAILED", "SUCCESS"]
        assert run.state.result_state is jobs.RunResultState.SUCCESS

    def test_of_a_failure_differs_between_run_and_task(self, workspace, client):
        workspace.runtime.script = Script("so far\n", error="ValueError: bad", trace="Traceback …")
        run_id = submit(client)
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        (one,) = run.tasks
        assert (run.state.life_cycle_state.value, one.state.life_cycle_state.value) == ("INTERNAL_ERROR", "TERMINATED")
        assert run.state.result_state is one.state.result_state is jobs.RunResultState.FAILED
        assert "Task main failed with message: Workload failed" in run.state.state_message
        assert one.status.termination_details.code is jobs.TerminationCodeCode.RUN_EXECUTION_ERROR
        assert run.status.state is jobs.RunLifecycleStateV2State.TERMINATED
        output = client.jobs.get_run_output(one.run_id)
        assert (output.error, output.error_trace, output.logs) == ("ValueError: bad", "Traceback …", "so far\n")

    def test_of_a_run_that_takes_too_long_is_timedout(self, workspace, client):
        workspace.runtime.script = Script(seconds=60)
        run_id = submit(client, timeout_seconds=1)
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        assert run.state.result_state is jobs.RunResultState.TIMEDOUT
        assert run.state.user_cancelled_or_timedout
        assert run.status.termination_details.code is jobs.TerminationCodeCode.CANCELED

    def test_of_a_skipped_run_is_skipped(self, workspace, client):
        workspace.runs.end_next(SKIPPED)
        run_id = submit(client)
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        assert run.state.life_cycle_state is jobs.RunLifeCycleState.SKIPPED
        assert run.status.state is jobs.RunLifecycleStateV2State.TERMINATED

    def test_changes_as_slowly_as_a_test_wants(self, workspace, client):
        workspace.runs.pace = {"PENDING": 0.3, "TERMINATING": 0.2}
        run_id = submit(client)
        over(workspace, run_id)
        (one,) = client.jobs.get_run(run_id).tasks
        assert one.setup_duration >= 300
        assert one.cleanup_duration >= 200


class TestTheCloud:
    def test_may_have_no_machine(self, workspace, client):
        workspace.runs.fail_for_capacity()
        run_id = submit(client)
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        details = run.tasks[0].status.termination_details
        assert details.code is jobs.TerminationCodeCode.CLOUD_FAILURE
        assert details.type is jobs.TerminationTypeType.CLOUD_FAILURE
        assert run.tasks[0].state.life_cycle_state is jobs.RunLifeCycleState.INTERNAL_ERROR
        assert "INSUFFICIENT_INSTANCE_CAPACITY" in run.state.state_message
        assert not workspace.runtime.jobs

    def test_may_take_a_machine_back(self, workspace, client):
        workspace.runtime.gate.clear()
        run_id = submit(client)
        come_to(workspace, run_id, "RUNNING")
        workspace.runs.lose(run_id)
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        assert run.state.result_state is jobs.RunResultState.FAILED
        assert not run.state.user_cancelled_or_timedout
        assert "SPOT_INSTANCE_TERMINATION" in run.tasks[0].state.state_message

    def test_starts_no_cluster_whose_secret_is_not_there(self, workspace, client):
        cluster = {**task()["new_cluster"], "spark_env_vars": {"KEY": "{{secrets/ml/none}}"}}
        run_id = submit(client, task(new_cluster=cluster))
        over(workspace, run_id)
        details = client.jobs.get_run(run_id).tasks[0].status.termination_details
        assert details.code is jobs.TerminationCodeCode.INVALID_CLUSTER_REQUEST


class TestACancellation:
    @pytest.mark.parametrize("held", ["QUEUED", "BLOCKED", "PENDING"])
    def test_ends_a_run_that_has_not_started(self, workspace, client, held):
        workspace.runs.hold(held)
        run_id = submit(client)
        come_to(workspace, run_id, held)
        client.jobs.cancel_run(run_id)
        over(workspace, run_id)
        run = client.jobs.get_run(run_id)
        assert run.state.life_cycle_state is jobs.RunLifeCycleState.TERMINATED
        assert run.state.result_state is run.tasks[0].state.result_state is jobs.RunResultState.CANCELED
        assert run.state.state_message == "Run cancelled."
        assert run.status.termination_details.code is jobs.TerminationCodeCode.USER_CANCELED
        assert not workspace.runtime.jobs

    def test_answers_before_the_run_has_ended(self, workspace, client):
        workspace.runtime.gate.clear()
        workspace.runs.hold("TERMINATING")
        run_id = submit(client)
        come_to(workspace, run_id, "RUNNING")
        client.jobs.cancel_run(run_id)
        come_to(workspace, run_id, "TERMINATING")
        run = client.jobs.get_run(run_id)
        assert run.state.life_cycle_state is jobs.RunLifeCycleState.TERMINATING
        assert run.state.user_cancelled_or_timedout
        workspace.runs.release("TERMINATING")
        over(workspace, run_id)
        assert client.jobs.get_run(run_id).state.result_state is jobs.RunResultState.CANCELED

    def test_leaves_what_is_over_alone(self, workspace, client):
        run_id = submit(client)
        over(workspace, run_id)
        client.jobs.cancel_run(run_id)
        assert client.jobs.get_run(run_id).state.result_state is jobs.RunResultState.SUCCESS

    def test_of_no_run_is_an_error(self, client):
        with pytest.raises(InvalidParameterValue, match="Run 7 does not exist"):
            client.jobs.cancel_run(7)


class TestOutput:
    def test_is_of_the_tasks_run_only(self, workspace, client):
        run_id = submit(client)
        with pytest.raises(InvalidParameterValue, match="runs with multiple tasks is not supported"):
            client.jobs.get_run_output(run_id)

    def test_is_there_while_the_task_runs(self, workspace, client):
        workspace.runtime.script = Script("the first line\n")
        workspace.runtime.gate.clear()
        run_id = submit(client)
        come_to(workspace, run_id, "RUNNING")
        workspace.runs.wait_until(lambda: workspace.runs.by_id[run_id].task.logs)
        output = client.jobs.get_run_output(client.jobs.get_run(run_id).tasks[0].run_id)
        assert (output.logs, output.error) == ("the first line\n", None)

    def test_has_the_last_five_megabytes(self, workspace, client):
        workspace.runtime.script = Script("x" * LOGS + "end")
        run_id = submit(client)
        over(workspace, run_id)
        output = client.jobs.get_run_output(client.jobs.get_run(run_id).tasks[0].run_id)
        assert output.logs_truncated
        assert len(output.logs) == LOGS
        assert output.logs.endswith("end")


class TestAList:
    def test_has_the_newest_first_in_pages(self, workspace, client):
        made = [submit(client, run_name=str(number)) for number in range(7)]
        assert [run.run_id for run in client.jobs.list_runs(limit=3)] == made[::-1]
        assert workspace.counted("runs/list") == 3

    def test_has_no_tasks_unless_it_is_asked_for(self, client):
        submit(client)
        assert [run.tasks for run in client.jobs.list_runs()] == [[]]
        assert [len(run.tasks) for run in client.jobs.list_runs(expand_tasks=True)] == [1]

    def test_is_of_what_is_active_or_over(self, workspace, client):
        done = submit(client)
        over(workspace, done)
        workspace.runtime.gate.clear()
        living = submit(client)
        assert [run.run_id for run in client.jobs.list_runs(active_only=True)] == [living]
        assert [run.run_id for run in client.jobs.list_runs(completed_only=True)] == [done]
        with pytest.raises(InvalidParameterValue, match="cannot both be true"):
            list(client.jobs.list_runs(active_only=True, completed_only=True))

    def test_is_of_a_kind_and_of_a_time(self, workspace, client):
        early, late = submit(client), submit(client)
        moment = client.jobs.get_run(late).start_time
        workspace.runs.by_id[early].created -= 3600
        assert [run.run_id for run in client.jobs.list_runs(start_time_from=moment)] == [late]
        assert [run.run_id for run in client.jobs.list_runs(start_time_to=moment - 1)] == [early]
        assert not list(client.jobs.list_runs(run_type=jobs.RunType.JOB_RUN))
        assert len(list(client.jobs.list_runs(run_type=jobs.RunType.SUBMIT_RUN))) == 2

    def test_has_no_larger_page_than_the_api_has(self, client):
        with pytest.raises(InvalidParameterValue, match="between 1 and 25"):
            list(client.jobs.list_runs(limit=26))


class TestADeletedRun:
    def test_does_not_exist(self, workspace, client):
        run_id = submit(client)
        over(workspace, run_id)
        task_id = client.jobs.get_run(run_id).tasks[0].run_id
        client.jobs.delete_run(run_id)
        with pytest.raises(ResourceDoesNotExist, match=f"Run {run_id} does not exist"):
            client.jobs.get_run(run_id)
        with pytest.raises(ResourceDoesNotExist):
            client.jobs.get_run_output(task_id)
        assert not list(client.jobs.list_runs())

    def test_was_not_active(self, workspace, client):
        workspace.runtime.gate.clear()
        run_id = submit(client)
        with pytest.raises(BadRequest, match="is active"):
            client.jobs.delete_run(run_id)


class TestAnswers:
    def test_have_only_published_fields(self, workspace, client):
        workspace.runtime.script = Script("x", error="ValueError")
        git = {"git_url": "https://example.org/r", "git_provider": "gitHub", "git_commit": "a" * 40}
        run_id = submit(client, task("main.py"), git_source=git)
        over(workspace, run_id)
        run = client.api_client.do("GET", "/api/2.2/jobs/runs/get", query={"run_id": run_id})
        check_is(run, jobs.Run)
        for one in client.api_client.do("GET", "/api/2.2/jobs/runs/list")["runs"]:
            check_is(one, jobs.BaseRun)
        output = client.api_client.do(
            "GET", "/api/2.2/jobs/runs/get-output", query={"run_id": run["tasks"][0]["run_id"]}
        )
        check_is(output | {"metadata": {}}, jobs.RunOutput)

    def test_with_others_would_be_noticed(self):
        with pytest.raises(Refusal, match=r"Unrecognized field Run\.colour"):
            check_is({"colour": "red"}, jobs.Run)

    def test_tell_the_state_of_a_runs_cluster(self, workspace, client):
        workspace.runtime.gate.clear()
        run_id = submit(client)
        come_to(workspace, run_id, "RUNNING")
        cluster_id = client.jobs.get_run(run_id).tasks[0].cluster_instance.cluster_id
        assert client.clusters.get(cluster_id).state is compute.State.RUNNING
        workspace.runtime.gate.set()
        over(workspace, run_id)
        assert client.clusters.get(cluster_id).state is compute.State.TERMINATED
        with pytest.raises(ResourceDoesNotExist):
            client.clusters.get("none")
