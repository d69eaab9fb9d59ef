"""The fault table of the Databricks backend: whoever dies, whatever is lost, there is one run, and its end is told."""

import signal
import threading
import time

import pytest
from databricks_steps import steps as steps
from databricks_world import DatabricksWorld
from protocol_suite import until

import mlproj_core
from mlproj_core import protocol
from mlproj_core.backends import load_backend
from mlproj_core.backends.databricks import connect
from mlproj_core.errors import ContactLost, TrackingError, UserError

STEPS = {
    "while its code is uploaded": {"on": "/workspace/import"},
    "before its submission is heard": {"on": "runs/submit"},
    "when its submission took effect": {"on": "runs/submit", "after": True},
    "while it reads back what was submitted": {"on": "runs/get"},
}


@pytest.fixture(params=["tracked", "untracked"])
def world(request, databricks_host, tmp_path, monkeypatch):
    server = None
    if request.param == "tracked":
        server = request.getfixturevalue("mlflow_server")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", str(tmp_path))
    else:
        monkeypatch.setenv("MLPROJ_TRACKING", "off")
    world = DatabricksWorld(tmp_path, monkeypatch, server)
    yield world
    world.workspace.faults.clear()
    world.close()


class TestASubmitterThatIsKilled:
    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("turn", [1, 2], ids=["the same turn", "a later turn"])
    def test_leaves_one_run_to_the_next(self, world, step, turn):
        there, gate = world.workspace.faults.pause(**STEPS[step])
        asker = world.asker(arguments={"key": "k", "turn": 1})
        assert there.wait(world.patience)
        asker.send_signal(signal.SIGKILL)
        asker.wait()
        gate.set()
        run = world.submit(key="k", turn=turn)
        assert run.wait()
        assert run.handle.attempt == 1
        assert world.starts() == 1
        assert len(world.runs.by_id) == 1


class TestAnAnswerThatIsLost:
    def test_to_the_submission_is_asked_for_again(self, world):
        world.workspace.faults.lose(on="runs/submit", times=2)
        run = world.submit(key="k")
        assert run.wait()
        assert (world.starts(), world.runs.submissions, len(world.runs.by_id)) == (1, 3, 1)

    def test_for_good_leaves_a_run_that_is_found(self, world, monkeypatch):
        monkeypatch.setattr(connect, "PATIENCE", 2)
        world.workspace.faults.lose(on="runs/submit", during=60)
        with pytest.raises(ContactLost, match="could not submit the run"):
            world.submit(key="k", turn=1)
        world.workspace.faults.clear()
        run = world.submit(key="k", turn=2)
        assert run.wait()
        assert (run.handle.attempt, world.starts()) == (1, 1)

    @pytest.mark.parametrize("path", ["runs/get", "runs/list", "/workspace/import"])
    def test_to_anything_else_is_asked_for_again(self, world, path):
        world.workspace.faults.lose(on=path, times=1)
        run = world.submit(key="k")
        assert run.wait(), run.reason
        assert world.starts() == 1


class TestAWorkspaceThatThrottles:
    def test_is_waited_for_as_it_says(self, world):
        throttled = 4.0
        world.workspace.faults.throttle(retry_after=1, on="/api/2.", during=throttled)
        begun = time.monotonic()
        run = world.submit(key="k")
        assert time.monotonic() - begun >= throttled - 1
        assert run.wait()
        assert (world.starts(), len(world.runs.by_id)) == (1, 1)

    def test_is_not_asked_sooner_than_it_says(self, steps):
        steps.workspace.runtime.gate.clear()
        run = steps.submit()
        thread = threading.Thread(target=run.wait)
        steps.workspace.faults.throttle(retry_after=1, on="jobs/runs", during=4)
        asked = steps.workspace.counted("runs/get")
        thread.start()
        thread.join(3.5)
        met = steps.workspace.counted("runs/get") - asked
        steps.workspace.runtime.gate.set()
        thread.join(60)
        assert run.get_status() == "FINISHED"
        assert met == 0, "what is counted took effect"

    def test_for_too_long_is_out_of_contact(self, steps, monkeypatch):
        monkeypatch.setattr(connect, "PATIENCE", 2)
        steps.workspace.faults.throttle(retry_after=1, during=60)
        with pytest.raises(ContactLost, match="rate limit"):
            steps.submit()
        assert steps.workspace.runs.submissions == 0


class TestAWorkspaceThatIsUnwell:
    @pytest.mark.parametrize("status", [500, 503, 504])
    def test_is_out_of_contact_and_may_be_asked_again(self, steps, status, monkeypatch):
        monkeypatch.setattr(connect, "PATIENCE", 2)
        steps.workspace.faults.fail(status, on="runs/submit", during=60)
        with pytest.raises(ContactLost):
            steps.submit(key="k", turn=1)
        steps.workspace.faults.clear()
        assert steps.submit(key="k", turn=1).wait()

    def test_that_breaks_connections_is_asked_again(self, steps):
        steps.workspace.faults.cut(on="runs/submit", times=2)
        assert steps.submit().wait()
        assert steps.workspace.runs.submissions == 1

    def test_that_refuses_credentials_says_what_to_do(self, steps):
        steps.workspace.faults.fail(403, "no", on="runs/submit")
        with pytest.raises(UserError, match="ask for the permission"):
            steps.submit()

    def test_that_refuses_the_submission_is_told_in_its_words(self, steps):
        steps.workspace.faults.fail(400, "Cluster validation error", on="runs/submit", code="INVALID_PARAMETER_VALUE")
        with pytest.raises(UserError, match="Cluster validation error"):
            steps.submit()


class TestACancellationInBetween:
    """Whoever cancels, and whoever submits, each look for what the other has done."""

    @pytest.mark.parametrize("after", [False, True], ids=["before it is heard", "when it took effect"])
    def test_of_a_submission_that_is_on_its_way_ends_it(self, request, world, after):
        if "untracked" in request.node.callspec.id:
            with pytest.raises(UserError, match="tracking server"):
                protocol.cancel_key(load_backend("databricks"), "k", (1,), print)
            return
        world.project_runs("sleep 60")
        there, gate = world.workspace.faults.pause(on="runs/submit", after=after)
        asker = world.asker(arguments={"key": "k", "turn": 1})
        assert there.wait(world.patience)
        cancelled = protocol.cancel_key(load_backend("databricks"), "k", (1,), print)
        gate.set()
        run = mlproj_core.attach(world.handle(asker))
        run.wait()
        assert run.get_status() == "KILLED"
        assert mlproj_core.attach(cancelled).get_status() == "KILLED"
        assert [one.ending.result for one in world.runs.by_id.values()] == ["CANCELED"]
        assert world.survivors() == []
        assert world.submit(key="k", turn=1).get_status() == "KILLED"

    def test_whose_canceller_died_is_seen_through_by_the_next(self, world):
        world.project_runs("sleep 60")
        first = world.submit(key="k", turn=1)
        until(world.starts)
        load_backend("databricks").mark_cancelled(first.handle)
        world.project_runs("true")
        second = world.submit(key="k", turn=2)
        assert first.get_status() == "KILLED"
        assert second.handle.attempt == 2
        assert second.wait()

    def test_whose_answer_was_lost_ends_the_run_all_the_same(self, world):
        world.project_runs("sleep 60")
        run = world.submit(key="k")
        world.workspace.faults.lose(on="runs/cancel", times=1)
        run.cancel()
        assert run.get_status() == "KILLED"
        assert world.survivors() == []


class TestARunThatIsDeleted:
    def test_while_it_lives_is_forgotten_and_followed_by_another(self, world):
        world.project_runs("sleep 60")
        first = world.submit(key="k", turn=1)
        until(world.starts)
        run = world.run(first.handle)
        world.runs.forget(run.run_id)
        assert (first.get_status(), first.reason.code) == ("FAILED", "forgotten")
        world.project_runs("true")
        second = world.submit(key="k", turn=2, handle=first.handle)
        assert second.wait()
        assert second.handle.attempt == 2
        run.stopping.set()

    def test_right_after_it_was_submitted_is_no_run(self, world):
        there, gate = world.workspace.faults.pause(on="runs/get")
        asker = world.asker(arguments={"key": "k", "turn": 1})
        assert there.wait(world.patience)
        until(lambda: world.runs.newest().over)
        world.runs.forget(world.runs.newest().run_id)
        gate.set()
        run = mlproj_core.attach(world.handle(asker))
        run.wait()
        assert run.get_status() in ("FAILED", "FINISHED")


class TestATrackingServerThatIsAway:
    def test_keeps_everything_from_being_submitted(self, steps, monkeypatch):
        monkeypatch.delenv("MLPROJ_TRACKING")
        with pytest.raises(TrackingError):
            steps.submit(
                key="k", tracking_uri="http://127.0.0.1:9", backend_config={"tracking_uri": "http://mlflow:5000"}
            )
        assert steps.workspace.runs.submissions == 0
