"""The door to environments: managers by name, and which one a project gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from mlproj_core.environments.environment import Environment
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import EnvironmentSpec, Recipe

__all__ = ["EnvironmentManager", "LocalManager", "build_request", "choose_manager", "environment_manager"]

_NAMES: Final = ("local", "uv")
_LATER: Final = ("conda", "virtualenv")


class EnvironmentManager(Protocol):
    """Makes one kind of environment."""

    name: str

    def recipe(self, spec: EnvironmentSpec) -> Recipe | None:
        """What the environment for a project's is to contain; None when nothing is made.

        Raises:
            UserError: this manager can make nothing of such a project.
        """

    def read_recipe(self, value: Mapping[str, Any]) -> Recipe:
        """The recipe whose `to_dict` gave this value."""

    def find(self, spec: EnvironmentSpec | Recipe, directory: Path) -> Environment | None:
        """The environment for a project if it is there already; no process, no network, a few milliseconds."""

    def ensure(self, spec: EnvironmentSpec | Recipe, directory: Path, report: Callable[[str], None]) -> Environment:
        """The environment for a project, made now if it is not there."""


class LocalManager:
    """The host's own environment: projects run in what is there, nothing is made."""

    name = "local"

    def recipe(self, spec: EnvironmentSpec) -> None:
        """Nothing is made, whatever the project asks for."""

    def read_recipe(self, value: Mapping[str, Any]) -> Recipe:
        """Nothing was ever written by this manager.

        Raises:
            UserError: always.
        """
        raise UserError("The environment manager 'local' makes no environment.")

    def find(self, spec: EnvironmentSpec | Recipe, directory: Path) -> Environment:
        """The host's environment, which is always there."""
        return Environment(manager=self.name)

    def ensure(self, spec: EnvironmentSpec | Recipe, directory: Path, report: Callable[[str], None]) -> Environment:
        """The host's environment."""
        return Environment(manager=self.name)


def environment_manager(name: str) -> EnvironmentManager:
    """The manager of this name.

    Raises:
        UserError: there is none; the message names those that can be used.
    """
    if name == "local":
        return LocalManager()
    if name == "uv":
        from mlproj_core.environments.uv_manager import UvManager

        return UvManager()
    usable = "`uv` (an isolated environment with the packages that the project lists) or `local` (the host's own)"
    if name in _LATER:
        raise UserError(f"The environment manager {name!r} comes with a later release. Use {usable}.")
    import difflib

    close = difflib.get_close_matches(str(name), (*_NAMES, *_LATER), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(f"There is no environment manager {name!r}.{hint} Use {usable}.")


def choose_manager(project_environment: EnvironmentSpec, env_manager: str | None) -> tuple[str, tuple[str, ...]]:
    """Which manager a project gets, by MLflow's rules as far as its managers exist here.

    Args:
        project_environment: the project's environment; None when it has none.
        env_manager: the manager asked for; None for the default.

    Returns:
        Its name, and lines that people should see; a warning begins with "warning".

    Raises:
        UserError: the manager does not exist, or cannot run such a project.
    """
    from mlproj_core.spec import CondaEnvSpec, DockerEnvSpec

    conda = isinstance(project_environment, CondaEnvSpec)
    if isinstance(project_environment, DockerEnvSpec):
        raise UserError(
            "The project has a docker_env, and containers come with a later release. Until then run it with mlflow, "
            "or give it a python_env."
        )
    if env_manager == "conda" and not conda:
        raise UserError(
            "A python_env project cannot be executed using conda. Set env_manager to 'uv' or 'local' to execute this "
            "project."
        )
    if env_manager is not None:
        environment_manager(env_manager)
    notes: list[str] = []
    if env_manager is None:
        usual = "conda" if conda else "virtualenv"
        notes.append(f"environment manager uv is used; MLflow's default here, {usual}, comes with a later release")
    if isinstance(project_environment, CondaEnvSpec) and project_environment.left_out and env_manager != "local":
        notes.append(
            f"warning: these conda packages of {project_environment.path} are left out, since only its pip part can be "
            f"installed: {', '.join(project_environment.left_out)}"
        )
    return env_manager or "uv", tuple(notes)


def build_request(manager: str, spec: EnvironmentSpec | Recipe, directory: str | Path) -> dict[str, Any]:
    """What `python -m mlproj_core.environments.build` needs to make an environment, as a JSON value.

    It holds no credentials: lines that contain some are left out, and read anew from the project by the builder.

    Args:
        manager: the manager's name.
        spec: the project's environment; None when it has none.
        directory: the project directory, as it will be when the builder runs.
    """
    from mlproj_core.environments.recipe import Recipe

    request: dict[str, Any] = {"manager": manager, "directory": str(directory)}
    recipe = spec if isinstance(spec, Recipe) else environment_manager(manager).recipe(spec)
    if recipe is not None:
        request["spec"] = None if recipe.holds_credentials() else recipe.to_dict()
    return request
