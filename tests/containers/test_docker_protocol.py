"""A local run in a container keeps the protocol too."""

import pytest
from container_world import ContainerWorld
from protocol_suite import ProtocolSuite


@pytest.fixture
def world(tmp_path, monkeypatch, engine):
    """A state directory, a project in a container that counts its starts, and nothing left at the end."""
    monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLPROJ_TRACKING", "off")
    world = ContainerWorld(tmp_path, engine)
    yield world
    world.close()


class TestDockerProtocol(ProtocolSuite):
    """Every test of the suite, on a real engine."""
