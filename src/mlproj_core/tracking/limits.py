"""What a tracking store takes at most, and how a run's data is made to fit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from mlproj_core.status import Outcome

__all__ = ["BATCH", "VALUE_LENGTHS", "batches", "cut_warning", "outcome_tag"]

BATCH = 100
"""Parameters, or tags, in one call (`mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH`)."""

VALUE_LENGTHS = (6000, 500, 250)
"""Characters of a parameter's value: today, on servers before 2.8, and on those before 1.28."""

_OUTCOME_LENGTH = 5000
"""Characters a tag may hold on every server since MLflow 1.0 (3.x takes 8000)."""

# mlflow.utils.validation.MAX_BATCH_LOG_REQUEST_SIZE is 1 MB; some room is left for the frame.
_BATCH_BYTES = 900_000


def batches(parameters: Mapping[str, str]) -> Iterable[dict[str, str]]:
    """The parameters, in parts that each fit into one call when their values are cut to the first length."""
    batch: dict[str, str] = {}
    size = 0
    for name, value in parameters.items():
        # JSON takes at most six bytes for a character.
        weight = 6 * (len(name) + min(len(value), VALUE_LENGTHS[0])) + 40
        if batch and (len(batch) == BATCH or size + weight > _BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[name] = value
        size += weight
    if batch:
        yield batch


def cut_warning(name: str, value: str, length: int) -> str:
    """What to tell the user about a parameter whose value was cut to `length` characters."""
    return f"The parameter {name!r} has {len(value)} characters; the first {length} of them are recorded."


def outcome_tag(outcome: Outcome, limit: int = _OUTCOME_LENGTH) -> str:
    """The outcome as the JSON text of its tag, never longer than `limit` characters.

    What does not fit is left out of the reason: the oldest lines of output first, then the message's tail.
    """
    value = outcome.to_dict()
    text = _compact(value)
    reason = value["reason"]
    while len(text) > limit and reason and reason["output"]:
        reason["output"] = reason["output"][(len(reason["output"]) + 1) // 2 :]
        text = _compact(value)
    while len(text) > limit and reason and reason["message"]:
        reason["message"] = reason["message"][: len(reason["message"]) // 2]
        text = _compact(value)
    return text


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
