"""A local run in a container keeps the protocol too."""

import pytest
from protocol_suite import ProtocolSuite


@pytest.fixture
def world(container_world):
    return container_world


class TestDockerProtocol(ProtocolSuite):
    """Every test of the suite, on a real engine."""
