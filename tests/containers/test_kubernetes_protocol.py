"""The Kubernetes backend keeps the protocol, on a cluster whose pods are processes."""

import pytest
import rest
from kubernetes_world import KubernetesWorld
from protocol_suite import ProtocolSuite, until

import mlproj_core
from mlproj_core.handle import RunHandle


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
        filter_string = f"tags.`mlproj.attempt` = '{RunHandle.from_dict(handles[0]).tag}'"
        request = {"experiment_ids": ["0"], "filter": filter_string}
        url = rest.address(mlflow_server, "api", "2.0", "mlflow", "runs", "search")
        found = rest.request("POST", url, body=request)["runs"]
        assert [run["info"]["run_id"] for run in found] == [handles[0]["run_id"]]
        assert found[0]["info"]["status"] == "FINISHED"
