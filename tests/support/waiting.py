"""Waiting for what a world's processes bring about."""

import contextlib
import time

import pytest


def wait_for(condition, complaint, timeout, check):
    """Wait until a condition gives something true, and give that; at most `timeout` seconds.

    Args:
        condition: a function. A server that cannot be asked for now, since a test ended it, is not true yet.
        complaint: what is wrong when it takes longer, or a function that tells.
        timeout: in seconds.
        check: is called meanwhile, and fails the test where waiting is in vain.
    """
    __tracebackhide__ = True
    end = time.monotonic() + timeout
    while True:
        with contextlib.suppress(ConnectionError):
            if value := condition():
                return value
        check()
        if time.monotonic() > end:
            pytest.fail(f"{complaint() if callable(complaint) else complaint}\nafter {timeout} s")
        time.sleep(0.05)
