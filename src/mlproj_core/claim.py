"""What is written down of an attempt: the claim on its name, and the record of its MLflow run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlproj_core.errors import UserError
from mlproj_core.handle import attempt_name

__all__ = ["Claim", "Record", "Turn", "fingerprint", "read_turn"]

Turn = tuple[int, ...]
"""Which try of the caller is asking: compared in order, later is larger."""


def read_turn(turn: object) -> Turn | None:
    """A turn as callers give it, an integer or a list of integers, as a tuple; None stays None.

    Raises:
        UserError: it is neither.
    """
    if turn is None:
        return None
    parts = tuple(turn) if isinstance(turn, (list, tuple)) else (turn,)
    if not parts or not all(isinstance(part, int) and not isinstance(part, bool) for part in parts):
        raise UserError(f"turn must be an integer or a list of integers, such as 2 or [1, 2]; got {turn!r}")
    return parts


def fingerprint(request: Mapping[str, Any]) -> str:
    """A digest of what was asked for: two requests that would run the same have the same one."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Claim:
    """The claim on one attempt: what was asked, by which turn, without secrets.

    Attributes:
        key: the key that was submitted under.
        attempt: which attempt of that key, from 1.
        turn: which try of the caller claimed it; None if it named none.
        fingerprint: digest of the request, to notice a different request under the same key.
        request: what to run, as a JSON value: enough for any process to start it, given the secrets.
        created_at: when it was claimed, in seconds since the epoch.
        tombstone: whether it was claimed by a cancellation, so that nothing may run under it.
    """

    key: str
    attempt: int
    turn: Turn | None
    fingerprint: str
    request: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    tombstone: bool = False

    @property
    def name(self) -> str:
        """The attempt's native name, `mlproj-K-n`."""
        return attempt_name(self.key, self.attempt)

    @property
    def tag(self) -> str:
        """`K-n`."""
        return self.name.removeprefix("mlproj-")

    def to_dict(self) -> dict[str, Any]:
        """This claim as a JSON value."""
        return {
            "version": 1,
            "key": self.key,
            "attempt": self.attempt,
            "turn": list(self.turn) if self.turn is not None else None,
            "fingerprint": self.fingerprint,
            "request": dict(self.request),
            "created_at": self.created_at,
            "tombstone": self.tombstone,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Claim:
        """The claim that `to_dict` wrote; unknown keys are ignored."""
        return cls(
            key=value["key"],
            attempt=value["attempt"],
            turn=read_turn(value["turn"]),
            fingerprint=value["fingerprint"],
            request=value["request"],
            created_at=value["created_at"],
            tombstone=value.get("tombstone", False),
        )


@dataclass(frozen=True)
class Record:
    """The MLflow run of an attempt.

    Attributes:
        run_id: its id; one of mlproj's own when the run is untracked.
        tracked: whether a tracking server or store knows it.
        tracking_uri: where, without credentials; None when untracked.
        experiment_id: the experiment's id; None when untracked.
        artifact_uri: root of the run's artifacts; None when untracked.
        url: the run's page for people, None if there is none.
    """

    run_id: str
    tracked: bool = False
    tracking_uri: str | None = None
    experiment_id: str | None = None
    artifact_uri: str | None = None
    url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """This record as a JSON value."""
        return {
            "run_id": self.run_id,
            "tracked": self.tracked,
            "tracking_uri": self.tracking_uri,
            "experiment_id": self.experiment_id,
            "artifact_uri": self.artifact_uri,
            "url": self.url,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Record:
        """The record that `to_dict` wrote; unknown keys are ignored."""
        return cls(
            run_id=value["run_id"],
            tracked=value.get("tracked", False),
            tracking_uri=value.get("tracking_uri"),
            experiment_id=value.get("experiment_id"),
            artifact_uri=value.get("artifact_uri"),
            url=value.get("url"),
        )
