"""The name of a run in Databricks, by which it is found again: the API shows no idempotency tokens."""

from __future__ import annotations

import re

__all__ = ["attempt_in", "run_name"]

_LONGEST = 4096
"""Characters (bytes in UTF-8) that a run's name may have (`run_name` of the Jobs API)."""

_SUFFIX = re.compile(r"\[mlproj-([0-9a-f]{32})-([1-9][0-9]*)\]$")


def run_name(name: str, attempt: str) -> str:
    """The name of an attempt's run.

    Args:
        name: what people call it.
        attempt: its native name, `mlproj-K-n`.
    """
    suffix = f" [{attempt}]"
    room = _LONGEST - len(suffix)
    return name.encode()[:room].decode("utf-8", "ignore") + suffix


def attempt_in(name: str, wanted: str) -> int | None:
    """The number of the attempt that a run's name is of; None if it is of another key, or another attempt.

    Args:
        name: the run's name.
        wanted: a key's digest K, for any of its attempts, or `K-n`.
    """
    found = _SUFFIX.search(name)
    if found is None or wanted not in (found[1], f"{found[1]}-{found[2]}"):
        return None
    return int(found[2])
