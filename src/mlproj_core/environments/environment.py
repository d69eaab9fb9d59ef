"""An environment that is ready for use: what a process needs to know to run a program in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["MARKER_NAME", "Environment", "EnvironmentInfo", "still_there"]

MARKER_NAME = ".mlproj-complete.json"
"""Name of the file, in an environment's directory, that is written last: without it the environment
is half made and counts as absent."""


@dataclass(frozen=True)
class Environment:
    """A ready environment.

    Whoever runs a program in it holds a shared flock on `in_use_lock` for as long as the program runs, and asks
    `still_there` once the lock is held: the environment may have been pruned in between.

    Attributes:
        manager: name of the manager that made it ("virtualenv", "uv", "conda", "local").
        prefix: its directory; None for the host's own environment.
        key: digest of everything that decided its content; empty for the host's own.
        variables: environment variables to set.
        path_prefix: directories to put before PATH, first one first.
        unset: environment variables to remove.
        activation: a file that bash sources before a program runs in it; None when variables say everything.
        hit: whether it was there already; False when this request built it.
        in_use_lock: the file to lock while it is in use; None when nothing needs a lock.
    """

    manager: str
    prefix: Path | None = None
    key: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    path_prefix: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    activation: Path | None = None
    hit: bool = True
    in_use_lock: Path | None = None

    @property
    def marker(self) -> Path | None:
        """The file whose presence says that the environment is complete; None for the host's own."""
        return self.prefix / MARKER_NAME if self.prefix else None

    def to_dict(self) -> dict[str, Any]:
        """This environment as a JSON value, with the path of its marker for readers that know no Python class."""
        return {
            "manager": self.manager,
            "prefix": str(self.prefix) if self.prefix else None,
            "key": self.key,
            "variables": dict(self.variables),
            "path_prefix": list(self.path_prefix),
            "unset": list(self.unset),
            "activation": str(self.activation) if self.activation else None,
            "hit": self.hit,
            "in_use_lock": str(self.in_use_lock) if self.in_use_lock else None,
            "marker": str(self.marker) if self.marker else None,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Environment:
        """The environment that `to_dict` wrote; unknown keys are ignored."""
        prefix, lock, activation = value.get("prefix"), value.get("in_use_lock"), value.get("activation")
        return cls(
            manager=str(value["manager"]),
            prefix=Path(prefix) if prefix else None,
            key=str(value.get("key", "")),
            variables=dict(value.get("variables", {})),
            path_prefix=tuple(value.get("path_prefix", ())),
            unset=tuple(value.get("unset", ())),
            activation=Path(activation) if activation else None,
            hit=bool(value.get("hit", True)),
            in_use_lock=Path(lock) if lock else None,
        )


@dataclass(frozen=True)
class EnvironmentInfo:
    """What is known of an environment in the cache.

    Attributes:
        key: digest of everything that decided its content; also its directory's name.
        manager: name of the manager that made it.
        prefix: its directory.
        python: full version of its Python, as in "3.11.7".
        purpose: what it was first built for: the path of an environment file or of a project directory.
        created: when its build ended, in seconds since the epoch; 0 if it has not.
        last_used: when it was last asked for, in seconds since the epoch.
        in_use: whether a process holds its in-use lock now.
        complete: False when a build was cut off, or is under way.
        editable: directories that it refers to instead of holding a copy (`-e`).
    """

    key: str
    manager: str
    prefix: Path
    python: str = ""
    purpose: str = ""
    created: float = 0.0
    last_used: float = 0.0
    in_use: bool = False
    complete: bool = True
    editable: tuple[str, ...] = ()

    def size(self) -> int:
        """Bytes of the files in it. Files that share their content with uv's cache by a hard link count too."""
        import os

        return sum((Path(root) / name).lstat().st_size for root, _, names in os.walk(self.prefix) for name in names)


def still_there(environment: Environment) -> bool:
    """Whether an environment is complete on disk now. To be asked after its in-use lock was taken."""
    return environment.marker is None or environment.marker.is_file()
