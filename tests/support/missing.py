"""What to do where a test needs something that is not there."""

import os

import pytest


def missing(why):
    """Fail in CI, where everything must be there; on a laptop, skip and say why."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
