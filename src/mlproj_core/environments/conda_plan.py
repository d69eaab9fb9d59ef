"""A conda environment that is wanted on this host, with everything that decides its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproj_core.environments.cache import Slot
from mlproj_core.environments.conda_channels import Channels, conda_channels, explicit_packages
from mlproj_core.environments.conda_platform import host_identity, host_platform
from mlproj_core.environments.conda_program import rattler_installed
from mlproj_core.environments.conda_recipe import CondaRecipe
from mlproj_core.environments.conda_settings import CondaSettings, read_conda_settings
from mlproj_core.environments.requirements import Requirements, read_requirements
from mlproj_core.environments.uv_settings import UvSettings, uv_settings
from mlproj_core.errors import UserError
from mlproj_core.spec.conda_file import ExplicitPackage, selected

__all__ = ["Plan", "plan_environment"]

_KEY_DIGITS: Final = 32
_FORMAT: Final = "mlproj conda environment, format 1"


@dataclass(frozen=True)
class Plan:
    """An environment that is wanted, with everything that decides its content.

    Attributes:
        recipe: what it is to contain.
        directory: the project directory.
        folder: where pip's part is read and installed: the directory of the environment file.
        platform: conda's name of the platform.
        settings: conda's settings.
        channels: where its packages are.
        wheres: where each specification in `channels` is written.
        explicit: the packages of an explicit list; None for any other file.
        lock: the content of a conda-lock file; None for any other file.
        requirements: requirement lines for pip.
        pip: how uv is to be run for them; None when it is not.
        secrets: what to mask in what programs print.
        slot: its place in the cache.
    """

    recipe: CondaRecipe
    directory: Path
    folder: Path
    platform: str
    settings: CondaSettings
    channels: Channels
    wheres: tuple[str, ...]
    explicit: tuple[ExplicitPackage, ...] | None
    lock: bytes | None
    requirements: tuple[str, ...]
    pip: UvSettings | None
    secrets: tuple[str, ...]
    slot: Slot


def plan_environment(recipe: CondaRecipe, directory: Path, environ: Mapping[str, str]) -> Plan:
    """Everything that decides an environment's content, and the key that stands for it."""
    directory = directory.absolute()
    folder, origin = recipe.folder(directory), recipe.origin(directory)
    settings = read_conda_settings(environ)
    if rattler_installed():  # conda's own programs keep all of them
        settings.refuse()
    platform = settings.text("subdir", host_platform())
    if recipe.platforms and not {platform, "noarch"} & set(recipe.platforms):
        raise UserError(f"{origin} is for {', '.join(recipe.platforms)} only, and this host's platform is {platform}.")
    requirements = tuple(line.text for line in recipe.requirements if selected(line.selector, platform))
    specs = [(package.text, package.where) for package in recipe.packages if selected(package.selector, platform)]
    explicit: tuple[ExplicitPackage, ...] | None = None
    lock: bytes | None = None
    if recipe.locked == "explicit":
        explicit, channels = explicit_packages(recipe.explicit, settings, folder, environ)
        specs = []
    elif recipe.locked is not None:
        lock = _content(directory / recipe.file, origin)
        channels, specs = Channels((), (), ()), []
    else:
        added = [
            (str(one), "conda's setting create_default_packages") for one in settings.items("create_default_packages")
        ]
        specs += added
        if requirements and not recipe.lists_pip:
            specs.append(("pip", origin))  # as conda does
        channels = conda_channels(recipe.channels, [text for text, _ in specs], settings, folder, environ)
    read = read_requirements(requirements, folder, environ, origin)
    pip = uv_settings(environ, folder, extra_indexes=read.extra_indexes) if requirements or lock is not None else None
    lines = [
        f"platform {platform}",
        *(f"channel {' '.join(channel.urls)}" for channel in channels.channels),
        f"newest {settings.newest()}",
        f"priority {settings.channel_priority()}",
        f"pip with python {settings.switch('add_pip_as_python_dependency', True)}",
        *(f"pinned {one}" for one in settings.pins()),
        *(f"package {spec}" for spec in channels.specs),
        *(f"explicit {one.url} {one.md5} {one.sha256}" for one in explicit or ()),
        f"lock {hashlib.sha256(lock).hexdigest() if lock is not None else None}",
        *(f"variable {name}={value}" for name, value in recipe.variables),
    ]
    digest = hashlib.sha256()
    for part in ((_FORMAT,), lines, host_identity(environ), read.identity, pip.identity if pip else ()):
        for line in (*part, ""):
            digest.update(f"{len(line)} {line}\n".encode(errors="surrogateescape"))
    secrets = _secrets(channels, read, pip)
    wheres = tuple(where for _, where in specs)
    slot = Slot(digest.hexdigest()[:_KEY_DIGITS])
    return Plan(
        recipe,
        directory,
        folder,
        platform,
        settings,
        channels,
        wheres,
        explicit,
        lock,
        requirements,
        pip,
        secrets,
        slot,
    )


def _secrets(channels: Channels, requirements: Requirements, pip: UvSettings | None) -> tuple[str, ...]:
    found = {*channels.secrets(), *requirements.secrets, *(pip.secrets if pip else ())}
    return tuple(sorted(found, key=len, reverse=True))


def _content(path: Path, origin: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{origin} cannot be read: {error.strerror}.") from error
