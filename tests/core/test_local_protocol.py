"""The local backend keeps the protocol."""

from protocol_suite import ProtocolSuite


class TestLocalProtocol(ProtocolSuite):
    """Every test of the suite, on real processes."""
