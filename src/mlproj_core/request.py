"""What the user asked for, checked as far as that goes without fetching the project."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.backends import Backend

__all__ = ["RunRequest", "read_backend_config"]


@dataclass(frozen=True)
class RunRequest:
    """The arguments of `mlproj_core.run` that say what to run; see there for each of them.

    Raises:
        UserError: arguments that contradict each other or cannot be used, before any work is done.
    """

    uri: str | os.PathLike[str]
    entry_point: str = "main"
    version: str | None = None
    parameters: Mapping[str, Any] | None = None
    docker_args: Mapping[str, Any] | None = None
    experiment_name: str | None = None
    experiment_id: str | None = None
    backend: str | Backend = "local"
    backend_config: Mapping[str, Any] | str | os.PathLike[str] | None = None
    storage_dir: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    env_manager: str | None = None
    build_image: bool = False
    docker_auth: Mapping[str, str] | None = None
    env_vars: Mapping[str, str] | None = None
    tags: Mapping[str, str] | None = None
    parent_run_id: str | None = None
    tracking_uri: str | None = None
    timeout: float | None = None
    git_token: str | None = None
    withhold: Sequence[str] = ()
    reuse_finished: bool = False

    def __post_init__(self) -> None:
        if self.experiment_name and self.experiment_id:
            raise UserError("Give experiment_name or experiment_id, not both.")
        if self.run_id and self.reuse_finished:
            raise UserError(
                "Give run_id or reuse_finished, not both: one names the MLflow run, the other looks for one."
            )
        if self.timeout is not None and not self.timeout > 0:
            raise UserError(f"timeout must be a number of seconds above 0; got {self.timeout!r}")
        for name, value in (self.env_vars or {}).items():
            if not name or "=" in name or "\0" in name or "\0" in str(value):
                raise UserError(
                    f"env_vars: {name!r} cannot be the name of an environment variable, or its value holds a NUL."
                )


def read_backend_config(config: Mapping[str, Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    """A backend's settings, given as a dict or as the path to a JSON file.

    Raises:
        UserError: the file is missing, is not named `*.json`, or holds no JSON object.
    """
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    path = Path(config)
    if path.suffix != ".json":
        raise UserError(f"backend_config must be a dict or the path to a .json file; got {os.fspath(config)!r}")
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"backend_config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"backend_config: {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f'backend_config: {path} must hold a JSON object, such as {{"detach": true}}')
    return value
