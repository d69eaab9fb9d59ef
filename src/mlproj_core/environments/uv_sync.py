"""Environments that `uv sync` makes by itself: of a pyproject.toml with its uv.lock, or of a script.

See https://docs.astral.sh/uv/concepts/projects/sync/ and https://docs.astral.sh/uv/guides/scripts/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mlproj_core.environments.recipe import SyncRecipe
from mlproj_core.environments.redaction import credentials_in, without_credentials
from mlproj_core.environments.requirements import Requirements, read_sources
from mlproj_core.errors import UserError

__all__ = ["sync_contents", "sync_options", "sync_tables"]

_LOCAL: Final = re.compile(r'^source = \{ (?:editable|directory|path) = "((?:[^"\\]|\\.)+)"', re.MULTILINE)
_ARCHIVES: Final = re.compile(r'^source = \{ registry = "(?![a-z+]+://)((?:[^"\\]|\\.)+)" \}', re.MULTILINE)
_FIND_LINKS: Final = re.compile(r"""\bfind-links\s*=\s*\[([^\]]*)\]|\burl\s*=\s*("[^"]*"|'[^']*')""")
_TEXT: Final = re.compile(r"""["']([^"']+)["']""")
_CHOICES: Final = ("UV_DEV", "UV_NO_DEV", "UV_GROUP", "UV_NO_GROUP")
"""Variables that choose groups for `uv sync`; elsewhere they change nothing."""


def sync_contents(recipe: SyncRecipe, directory: Path, environ: Mapping[str, str]) -> Requirements:
    """What `uv sync` will read: the file, its lock, and every local package and archive they name.

    Of a script only its inline metadata counts, so that a change of its code needs no new environment.

    Raises:
        UserError: one of the files cannot be read.
    """
    file, lock = directory / recipe.file, _lock(recipe, directory)
    text = _block(file) if recipe.is_script else _read(file)
    locked = _read(lock) if lock.is_file() or not recipe.is_script else ""
    # A lock names all there is; without one the tables tool.uv.sources and the like do.
    packages = _LOCAL.findall(locked)
    archives = _ARCHIVES.findall(locked)
    if not locked:
        places = [one for values in _FIND_LINKS.findall(text) for one in _TEXT.findall("".join(values))]
        archives = [one for one in places if "://" not in one]
    sources = read_sources("" if locked else text, packages, archives, file.parent, environ)
    choices = [f"{name}={environ[name]}" for name in _CHOICES if environ.get(name)]
    identity = (
        f"sync {'script' if recipe.is_script else 'project'}",
        f"text {without_credentials(text)}",
        f"lock {without_credentials(locked)}",
        *choices,
        *sources.identity,
    )
    return replace(sources, identity=identity, secrets=(*credentials_in([text, locked]), *sources.secrets))


def sync_tables(recipe: SyncRecipe, directory: Path) -> dict[str, str]:
    """The `tool.uv` tables that uv reads from the file itself, by the file."""
    file = directory / recipe.file
    return {str(file): _block(file)} if recipe.is_script else {}


def sync_options(
    recipe: SyncRecipe, directory: Path, prefix: Path, configured_at: Path
) -> tuple[list[str], dict[str, str]]:
    """Options for `uv sync`, and variables, with which it installs into an environment and leaves the project alone.

    Args:
        recipe: what to install.
        directory: the project directory.
        prefix: the environment.
        configured_at: where uv is to look for its configuration if the file is a script.
    """
    frozen = ["--frozen"] if _lock(recipe, directory).is_file() else []
    if recipe.is_script:
        script = ["--script", str(directory / recipe.file), "--active", "--project", str(configured_at)]
        return [*script, *frozen], {"VIRTUAL_ENV": str(prefix)}
    project = str((directory / recipe.file).parent)
    return ["--project", project, *frozen], {"UV_PROJECT_ENVIRONMENT": str(prefix)}


def _lock(recipe: SyncRecipe, directory: Path) -> Path:
    file = directory / recipe.file
    return file.with_name(f"{file.name}.lock" if recipe.is_script else "uv.lock")


def _block(script: Path) -> str:
    from mlproj_core.spec.inline_script import script_block

    return script_block(_read(script), str(script))[0]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. It is what the environment is made of.") from error
