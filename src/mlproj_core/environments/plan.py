"""A virtual environment that is wanted: what it is to hold, what it is made with, and its place in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from mlproj_core.environments.cache import Slot
from mlproj_core.environments.interpreters import Interpreter, running

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import VenvRecipe
    from mlproj_core.environments.requirements import Requirements

__all__ = ["InstallerSettings", "Plan", "compiler_identity", "slot_for"]

_KEY_DIGITS: Final = 32
_FORMAT: Final = "mlproj environment, format 1"
_COMPILER: Final = ("CC", "CXX", "CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS")


@dataclass(frozen=True)
class InstallerSettings:
    """How an installer is to be run on this host for a project.

    Attributes:
        environment: every variable it gets. It may hold passwords: never shown, stored or put on a command line.
        arguments: options for its command that installs, free of credentials.
        identity: lines that differ when something that changes what is installed differs; free of credentials.
        notes: lines for people: what was left aside, and why.
        secrets: passwords that it may meet, to be masked in what it prints.
    """

    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    identity: tuple[str, ...]
    notes: tuple[str, ...]
    secrets: tuple[str, ...]


Settings = TypeVar("Settings", bound=InstallerSettings)


@dataclass(frozen=True)
class Plan(Generic[Settings]):
    """An environment that is wanted, with everything that decides its content.

    Attributes:
        recipe: what it is to hold.
        directory: the project directory, absolute.
        interpreter: the Python it is to be made from.
        settings: how the installer is to be run.
        contents: what the recipe refers to on disk, in the order of installation.
        slot: its place in the cache.
    """

    recipe: VenvRecipe
    directory: Path
    interpreter: Interpreter
    settings: Settings
    contents: tuple[Requirements, ...]
    slot: Slot

    @property
    def editable(self) -> tuple[Path, ...]:
        """Directories that it will point at."""
        return tuple(path for one in self.contents for path in one.editable)

    @property
    def packages(self) -> tuple[str, ...]:
        """Names of the packages built from local directories, as in `Requirements.packages`."""
        return tuple(name for one in self.contents for name in one.packages)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What to mask in what the installer prints."""
        return (*self.settings.secrets, *(secret for one in self.contents for secret in one.secrets))


def slot_for(
    manager: str, interpreter: Interpreter, contents: tuple[Requirements, ...], settings: InstallerSettings
) -> Slot:
    """The place of an environment in the cache: its key is a digest of all that decides its content."""
    host = running()
    digest = hashlib.sha256()
    for part in (
        (_FORMAT, manager, f"host {host.machine} {host.libc}"),
        interpreter.identity(),
        *(one.identity for one in contents),
        settings.identity,
    ):
        for line in (*part, ""):
            digest.update(f"{len(line)} {line}\n".encode(errors="surrogateescape"))
    return Slot(digest.hexdigest()[:_KEY_DIGITS])


def compiler_identity(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Lines that differ when variables that change how a package is built differ."""
    return tuple(
        f"{name}={environment[name]}"
        for name in sorted(environment)
        if name in _COMPILER or name.startswith("SETUPTOOLS_SCM_PRETEND_VERSION")
    )
