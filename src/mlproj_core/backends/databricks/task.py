"""The arguments of a run's task: what was claimed and recorded, which is read back from them, and the launcher's plan.

They are `--mlproj X --plan Y`, where X is a claim and a record, and Y a plan or `@` and the path of a file with one.
They are JSON, compressed and in base64: no shell and no `{{…}}` of Databricks' own finds anything in them.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mlproj_core.claim import Claim, Record
from mlproj_core.errors import UserError

__all__ = ["LIMIT", "VARIABLE", "fits", "pack", "read_arguments", "read_task", "unpack", "write_arguments"]

LIMIT: Final = 10_000
"""Bytes that the JSON of a task's parameters may have (Jobs API, `python_params`)."""

VARIABLE: Final = "MLPROJ_TASK"
"""The cluster's variable with X, where the arguments are the project's own: its file is run from a Git repository."""

_CLAIM, _PLAN = "--mlproj", "--plan"

_ROOM: Final = 6_000
"""Characters of the arguments for claim and record: the rest is for the plan's path at least."""


def write_arguments(claim: Claim, record: Record, plan: str) -> list[str]:
    """The arguments of a task.

    Args:
        claim: the attempt's claim.
        record: its MLflow run.
        plan: a plan as `pack` gives it, or `@` and the path of a file with one.

    Raises:
        UserError: the key is too long to be kept there.
    """
    return [_CLAIM, write_value(claim, record), _PLAN, plan]


def write_value(claim: Claim, record: Record) -> str:
    """A claim and its record as one word; the request is left out where it is too long, as only people read it.

    Raises:
        UserError: the key is too long to be kept there.
    """
    for candidate in (claim, replace(claim, request={})):
        word = pack({"claim": candidate.to_dict(), "record": record.to_dict()})
        if len(word) <= _ROOM:
            return word
    raise UserError(
        f"The key has {len(claim.key)} characters, too many for the arguments of a run in Databricks: take "
        "a shorter one."
    )


def fits(arguments: Sequence[str]) -> bool:
    """Whether the API takes so many arguments, of such a length."""
    return len(json.dumps({"python_params": list(arguments)}).encode()) <= LIMIT


def read_task(task: Mapping[str, Any]) -> tuple[Claim, Record] | None:
    """What a run's task, as `runs/get` gives it, says of claim and record; None if it is none of ours."""
    parameters = (task.get("spark_python_task") or {}).get("parameters") or ()
    variables = (task.get("new_cluster") or {}).get("spark_env_vars") or {}
    try:
        if VARIABLE in variables:
            return _read(variables[VARIABLE])
        return read_arguments(list(parameters))
    except (ValueError, LookupError, TypeError):
        return None


def read_arguments(arguments: Sequence[str]) -> tuple[Claim, Record]:
    """The claim and the record that `write_arguments` wrote.

    Raises:
        ValueError, LookupError, TypeError: it did not write these.
    """
    return _read(arguments[arguments.index(_CLAIM) + 1])


def _read(word: str) -> tuple[Claim, Record]:
    value = unpack(word)
    return Claim.from_dict(value["claim"]), Record.from_dict(value["record"])


def pack(value: Mapping[str, Any]) -> str:
    """A JSON value as one word of letters, digits, `-`, `_` and `=`."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(word: str) -> dict[str, Any]:
    """The value that `pack` made a word of.

    Raises:
        ValueError: it is no such word.
    """
    try:
        value = json.loads(zlib.decompress(base64.urlsafe_b64decode(word)))
    except zlib.error as error:
        raise ValueError(f"not packed: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
