"""The Kubernetes backend keeps the protocol, on a cluster whose pods are processes."""

import pytest
from kubernetes_world import KubernetesWorld
from protocol_suite import ProtocolSuite


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    world = KubernetesWorld(tmp_path)
    yield world
    world.close()


class TestKubernetesProtocol(ProtocolSuite):
    """Every test of the suite."""
