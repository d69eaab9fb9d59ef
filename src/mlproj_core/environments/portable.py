"""An environment that is wanted elsewhere, where a launcher makes it: without mlproj, for the platform it finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlproj_core.environments.manager import environment_manager
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import Wanted

__all__ = ["portable_environment"]

_PLATFORMS: Final = ("linux-64", "linux-aarch64", "linux-ppc64le", "linux-s390x")


def portable_environment(manager: str, spec: Wanted, directory: Path) -> dict[str, Any] | None:
    """The part `environment` of a launcher's plan; None where nothing is to be made.

    It may hold credentials, if requirement lines or channels do.

    Args:
        manager: the manager's name.
        spec: the project's environment; None when it has none.
        directory: the project directory.

    Raises:
        UserError: this manager can make nothing of such a project, or a lock file cannot be read.
    """
    recipe = environment_manager(manager).recipe(spec)
    if recipe is None:
        return None
    value: dict[str, Any] = {"manager": manager, "recipe": recipe.to_dict()}
    if manager == "conda":
        # What installs by py-rattler is a program of its own, and imports nothing of mlproj.
        value["installer"] = Path(__file__).with_name("conda_installer.py").read_text(encoding="utf-8")
        if value["recipe"]["locked"] == "conda-lock":
            value["locked"] = _locked(directory / value["recipe"]["file"], recipe.origin(directory))
    return value


def _locked(path: Path, origin: str) -> dict[str, Any]:
    """What a lock file of conda-lock lists, by platform: a launcher reads no YAML."""
    from mlproj_core.environments.conda_lock_file import read_conda_lock

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{origin} cannot be read: {error.strerror}.") from error
    found, failure = {}, None
    for platform in _PLATFORMS:
        try:
            packages = read_conda_lock(content, origin, platform)
        except UserError as error:
            failure = failure or error
            continue
        conda = [[one.url, one.md5, one.sha256] for one in packages.conda]
        found[platform] = {"conda": conda, "pip": list(packages.pip)}
    if failure and not found:
        raise failure
    return found
