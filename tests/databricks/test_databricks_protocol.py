"""The Databricks backend keeps the protocol, in a workspace whose tasks are processes."""

import pytest
import rest
from databricks_world import DatabricksWorld
from protocol_suite import INSTANTS, ProtocolSuite, until

import mlproj_core
from mlproj_core import protocol
from mlproj_core.backends import load_backend
from mlproj_core.errors import UserError
from mlproj_core.handle import RunHandle
from mlproj_core.tracking import UNTRACKED_URI


class TestTrackedProtocol(ProtocolSuite):
    """Every test of the suite, with a tracking server: what is durable of a claim is its MLflow run."""

    @pytest.fixture
    def world(self, databricks_host, tmp_path, monkeypatch, mlflow_server):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        # All tests use the same keys, and the server knows them.
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", str(tmp_path))
        world = DatabricksWorld(tmp_path, monkeypatch, mlflow_server)
        yield world
        world.close()

    @pytest.mark.parametrize("instant", INSTANTS[1:3])
    def test_a_cancel_while_it_is_being_submitted_starts_nothing(self, world, instant):
        """A claim that is not recorded is nowhere yet: its key is cancelled, not its handle."""
        asker, go_on = world.paused_asker(instant, arguments={"key": "k", "turn": 1})
        protocol.cancel_key(load_backend(world.backend), "k", (1,), print)
        go_on()
        run = mlproj_core.attach(world.handle(asker))
        run.wait()
        assert run.get_status() == "KILLED"
        assert world.starts() == 0

    def test_an_untracked_run_of_which_nothing_is_left_is_forgotten_never_finished(self, world):
        run = world.submit(key="k", tracking_uri=UNTRACKED_URI)
        assert run.wait()
        world.forget(run.handle)
        assert run.get_status() == "FAILED"
        assert run.reason.code == "forgotten"

    def test_a_tracked_run_that_was_deleted_is_what_its_outcome_says(self, world):
        run = world.submit(key="k")
        assert run.wait()
        world.forget(run.handle)
        assert run.get_status() == "FINISHED"
        assert world.submit(key="k", turn=2).handle == run.handle

    def test_many_submitters_leave_one_mlflow_run(self, world, mlflow_server):
        gate, markers = world.directory / "gate", [world.directory / f"marker-{number}" for number in range(6)]
        askers = [
            world.asker(arguments={"key": "k", "turn": 1}, pause="before the claim", marker=str(marker), gate=str(gate))
            for marker in markers
        ]
        until(lambda: all(marker.exists() for marker in markers), world.patience)
        gate.touch()
        handles = [world.handle(asker) for asker in askers]
        assert all(handle == handles[0] for handle in handles)
        assert mlproj_core.attach(handles[0]).wait()
        filter_string = f"tags.`mlproj.attempt` = '{RunHandle.from_dict(handles[0]).tag}'"
        url = rest.address(mlflow_server, "api", "2.0", "mlflow", "runs", "search")
        experiment = handles[0]["ref"]["experiment_id"]
        found = rest.request("POST", url, body={"experiment_ids": [experiment], "filter": filter_string})["runs"]
        assert [run["info"]["run_id"] for run in found] == [handles[0]["run_id"]]
        assert found[0]["info"]["status"] == "FINISHED"


class TestUntrackedProtocol(ProtocolSuite):
    """The suite without a tracking server: until a run is submitted, there is nothing of it anywhere."""

    @pytest.fixture
    def world(self, databricks_host, tmp_path, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setenv("MLPROJ_TRACKING", "off")
        world = DatabricksWorld(tmp_path, monkeypatch)
        yield world
        world.close()

    def test_a_cancel_before_any_attempt_leaves_a_tombstone(self, world):
        with pytest.raises(UserError, match="tracking server"):
            protocol.cancel_key(load_backend(world.backend), "k", (1,), print)

    test_a_tombstone_does_not_stop_a_later_turn = None

    def test_a_cancel_between_two_tries_lets_the_second_start_nothing(self, world):
        world.project_runs("exit 1")
        world.submit(key="k", turn=1).wait()
        with pytest.raises(UserError, match="tracking server"):
            protocol.cancel_key(load_backend(world.backend), "k", (2,), print)

    def test_a_cancel_by_a_later_try_ends_what_lives_and_starts_nothing(self, world):
        """It ends what lives, and says that it can keep nothing from being started."""
        world.project_runs("sleep 60")
        first = world.submit(key="k", turn=1)
        until(world.starts)
        with pytest.raises(UserError, match="tracking server"):
            protocol.cancel_key(load_backend(world.backend), "k", (2,), print)
        assert first.get_status() == "KILLED"
        assert world.survivors() == []

    test_a_cancel_while_it_is_being_submitted_starts_nothing = None
    test_a_cancel_after_the_submitter_died_starts_nothing = None
