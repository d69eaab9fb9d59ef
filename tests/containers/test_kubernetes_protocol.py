"""The Kubernetes backend keeps the protocol, on a cluster whose pods are processes."""

import time

import pytest
import rest
from kubernetes_world import KubernetesWorld
from protocol_suite import ProtocolSuite, until

import mlproj_core
from mlproj_core.backends.kubernetes import verdict
from mlproj_core.handle import RunHandle
from mlproj_core.tracking.server import TrackingServer


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    world = KubernetesWorld(tmp_path)
    yield world
    world.close()


class TestKubernetesProtocol(ProtocolSuite):
    """Every test of the suite."""


class TestTracked:
    """What the suite does not see: the tracking server."""

    def test_many_submitters_leave_one_mlflow_run(self, world, mlflow_server):
        gate, markers = world.directory / "gate", [world.directory / f"marker-{number}" for number in range(6)]
        arguments = {
            "key": "k",
            "turn": 1,
            "tracking_uri": mlflow_server,
            "backend_config": {"grace": 1, "tracking-uri": mlflow_server},
        }
        askers = [
            world.asker(arguments=arguments, pause="before the claim", marker=str(marker), gate=str(gate))
            for marker in markers
        ]
        until(lambda: all(marker.exists() for marker in markers), world.patience)
        gate.touch()
        handles = [world.answer(asker)["handle"] for asker in askers]
        assert all(handle == handles[0] for handle in handles)
        assert mlproj_core.attach(handles[0]).wait()
        found = mlflow_runs(mlflow_server, RunHandle.from_dict(handles[0]))
        assert [run["info"]["run_id"] for run in found] == [handles[0]["run_id"]]
        assert found[0]["info"]["status"] == "FINISHED"

    def test_a_submitter_who_is_overtaken_leaves_the_other_s_mlflow_run_alone(self, world, mlflow_server, monkeypatch):
        monkeypatch.setattr(verdict, "COMPLETION_PATIENCE", 0.05)
        arguments = {
            "key": "overtaken",
            "tracking_uri": mlflow_server,
            "backend_config": {"grace": 1, "tracking-uri": mlflow_server},
        }
        find_run, overtakers = TrackingServer.find_run, []

        def overtaken(self, *about):
            found = find_run(self, *about)
            if not overtakers:
                overtakers.append(None)
                time.sleep(0.1)
                overtakers[0] = world.submit(**arguments)
            return found

        monkeypatch.setattr(TrackingServer, "find_run", overtaken)
        run = world.submit(**arguments)
        assert run.handle == overtakers[0].handle
        assert run.wait(), run.reason
        assert [one["info"]["run_id"] for one in mlflow_runs(mlflow_server, run.handle)] == [run.run_id]


def mlflow_runs(server, handle):
    """The runs of an attempt that are not deleted, on a tracking server."""
    request = {"experiment_ids": ["0"], "filter": f"tags.`mlproj.attempt` = '{handle.tag}'"}
    url = rest.address(server, "api", "2.0", "mlflow", "runs", "search")
    return rest.request("POST", url, body=request).get("runs", [])
