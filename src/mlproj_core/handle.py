"""The run handle: the small JSON value by which any process finds a run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlproj_core.errors import UserError

__all__ = ["RunHandle", "attempt_name", "key_digest"]

VERSION = 1


def key_digest(key: str) -> str:
    """The 32 hex digits K that stand for a key in names: the head of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def attempt_name(key: str, attempt: int) -> str:
    """The native name `mlproj-K-n` of an attempt, valid as a container's, a Job's and a token's name."""
    return f"mlproj-{key_digest(key)}-{attempt}"


@dataclass(frozen=True)
class RunHandle:
    """Names one attempt of one run, in any process, on any machine that can reach its backend.

    It holds no secret, so it may stand in a log, an XCom or a database. A release reads the handles that
    the release before it wrote; keys it does not know are ignored.

    Attributes:
        backend: the backend's name, as given to `run`.
        key: what was submitted under: one step of one pipeline run.
        attempt: which attempt of that key, from 1.
        run_id: the MLflow run's id; an id of mlproj's own when the run is untracked.
        ref: what the backend needs to find the work again; JSON values only.
    """

    backend: str
    key: str
    attempt: int
    run_id: str
    ref: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def name(self) -> str:
        """The attempt's native name, `mlproj-K-n`."""
        return attempt_name(self.key, self.attempt)

    @property
    def tag(self) -> str:
        """`K-n`: the value of the MLflow tag `mlproj.attempt` and of the variable MLPROJ_ATTEMPT."""
        return self.name.removeprefix("mlproj-")

    def to_dict(self) -> dict[str, Any]:
        """This handle as a JSON value."""
        return {
            "version": self.version,
            "backend": self.backend,
            "key": self.key,
            "attempt": self.attempt,
            "run_id": self.run_id,
            "ref": dict(self.ref),
        }

    def to_json(self) -> str:
        """This handle as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> RunHandle:
        """The handle that `to_dict` wrote.

        Raises:
            UserError: the value is no run handle, or one of a later release.
        """
        try:
            version = int(value["version"])
            if version > VERSION:
                raise UserError(
                    f"This run handle has version {version}, but this mlproj reads versions up to {VERSION}: "
                    "it was written by a later release. Upgrade mlproj where the handle is read."
                )
            return cls(
                version=version,
                backend=str(value["backend"]),
                key=str(value["key"]),
                attempt=int(value["attempt"]),
                run_id=str(value["run_id"]),
                ref=dict(value.get("ref") or {}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"Not a run handle: {value!r}. A handle is a JSON object with the keys version, backend, "
                "key, attempt, run_id and ref, as `run.handle.to_json()` writes it."
            ) from error

    @classmethod
    def from_json(cls, text: str) -> RunHandle:
        """The handle that `to_json` wrote.

        Raises:
            UserError: the text is not JSON, or no run handle.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UserError(f"Not a run handle: the text is not JSON ({error}): {text[:200]!r}") from error
        if not isinstance(value, dict):
            raise UserError(f"Not a run handle: expected a JSON object, got {text[:200]!r}")
        return cls.from_dict(value)
