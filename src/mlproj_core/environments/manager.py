"""The door to environments: managers by name, and which one a project gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from mlproj_core.environments.environment import Environment
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import AnyRecipe, EnvironmentSpec, Wanted

__all__ = ["EnvironmentManager", "LocalManager", "build_request", "choose_manager", "environment_manager"]

_NAMES: Final = ("local", "virtualenv", "uv", "conda")
"""As under MLflow (`mlflow/utils/env_manager.py`)."""


class EnvironmentManager(Protocol):
    """Makes one kind of environment."""

    name: str

    def recipe(self, spec: Wanted) -> AnyRecipe | None:
        """What the environment for a project's is to contain; None when nothing is made. A recipe is its own.

        Raises:
            UserError: this manager can make nothing of such a project.
        """

    def read_recipe(self, value: Mapping[str, Any]) -> AnyRecipe:
        """The recipe whose `to_dict` gave this value."""

    def find(self, spec: Wanted, directory: Path) -> Environment | None:
        """The environment for a project if it is there already; no process, no network, a few milliseconds."""

    def ensure(self, spec: Wanted, directory: Path, report: Callable[[str], None]) -> Environment:
        """The environment for a project, made now if it is not there."""


class LocalManager:
    """The host's own environment: projects run in what is there, nothing is made."""

    name = "local"

    def recipe(self, spec: Wanted) -> None:
        """Nothing is made, whatever the project asks for."""

    def read_recipe(self, value: Mapping[str, Any]) -> AnyRecipe:
        """Nothing was ever written by this manager.

        Raises:
            UserError: always.
        """
        raise UserError("The environment manager 'local' makes no environment.")

    def find(self, spec: Wanted, directory: Path) -> Environment:
        """The host's environment, which is always there."""
        return Environment(manager=self.name)

    def ensure(self, spec: Wanted, directory: Path, report: Callable[[str], None]) -> Environment:
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
    if name == "virtualenv":
        from mlproj_core.environments.virtualenv_manager import VirtualenvManager

        return VirtualenvManager()
    if name == "conda":
        from mlproj_core.environments.conda_manager import CondaManager

        return CondaManager()
    import difflib

    close = difflib.get_close_matches(str(name), _NAMES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"There is no environment manager {name!r}.{hint} Use `virtualenv` or `uv` (an isolated environment with the "
        "packages that the project lists), `conda` (a conda environment, for a project with a conda.yaml) or `local` "
        "(the host's own)."
    )


def choose_manager(
    project_environment: EnvironmentSpec, env_manager: str | None, *, here: bool = True
) -> tuple[str, tuple[str, ...]]:
    """Which manager a project gets: the one asked for, else the one that MLflow takes for its kind of environment.

    These are virtualenv for a python_env and where nothing is said, conda for a conda_env, local for a Databricks Spark
    job (`_env_type_to_env_manager` of `mlflow/projects/backend/local.py`); and uv for what MLflow does not know: a
    pyproject.toml with a uv.lock, a script with inline metadata.

    Args:
        project_environment: the environment of the project, or of a script; None for a Databricks Spark job.
        env_manager: the manager asked for; None for the default.
        here: whether the environment is made on this host, with what is installed here.

    Returns:
        Its name, and lines that people should see; a warning begins with "warning".

    Raises:
        UserError: the manager does not exist, or cannot run such a project.
    """
    from mlproj_core.spec import CondaEnvSpec, DockerEnvSpec, InlineScriptSpec, UvProjectSpec

    environment, notes = project_environment, list[str]()
    if isinstance(environment, DockerEnvSpec):
        raise UserError(
            "The project has a docker_env: it runs in a container of that image, and has no Python environment of its "
            "own to be made."
        )
    if env_manager is not None:
        _refuse_misfit(environment, env_manager)
    manager = env_manager or ("local" if environment is None else "virtualenv")
    if isinstance(environment, InlineScriptSpec) and manager != "local":
        notes.append(f"{environment.script} runs in the environment that its inline metadata asks for")
    if isinstance(environment, UvProjectSpec) and manager != "local":
        notes += [f"warning: {problem}" for problem in environment.problems]
    if env_manager is None and isinstance(environment, (InlineScriptSpec, UvProjectSpec)):
        manager = "uv"
    if isinstance(environment, CondaEnvSpec):
        if env_manager is None and here and (missing := _conda_missing()):
            notes.append(f"environment manager uv is used instead of conda, MLflow's default here: {missing}")
        manager = env_manager or ("uv" if notes else "conda")
        if environment.left_out and manager not in ("local", "conda"):
            notes.append(
                f"warning: these conda packages of {environment.path} are left out, since only its pip part can be "
                f"installed: {', '.join(environment.left_out)}"
            )
    return manager, tuple(notes)


def _refuse_misfit(environment: EnvironmentSpec, env_manager: str) -> None:
    """Raise a UserError if a manager does not exist, or cannot make such an environment."""
    from mlproj_core.spec import CondaEnvSpec, InlineScriptSpec, UvProjectSpec

    if env_manager == "conda" and not isinstance(environment, CondaEnvSpec):
        raise UserError(
            "A python_env project cannot be executed using conda. Set env_manager to 'virtualenv', 'uv' or 'local' to "
            "execute this project."
        )
    only_uv = isinstance(environment, UvProjectSpec) or (
        isinstance(environment, InlineScriptSpec) and environment.for_uv_only
    )
    if env_manager == "virtualenv" and only_uv:
        raise UserError(
            f"The environment manager 'virtualenv' cannot make the environment of {getattr(environment, 'path', '')}: "
            "pip reads neither a lock file of uv nor [tool.uv]. Set env_manager to 'uv' (the default here), or list "
            "the packages in a python_env.yaml."
        )
    environment_manager(env_manager)


def _conda_missing() -> str | None:
    """Why no conda environment can be made on this host; None when one can."""
    from mlproj_core.environments.conda_manager import missing

    return missing()


def build_request(manager: str, spec: Wanted, directory: str | Path) -> dict[str, Any]:
    """What `python -m mlproj_core.environments.build` needs to make an environment, as a JSON value.

    It holds no credentials: lines that contain some are left out, and read anew from the project by the builder.

    Args:
        manager: the manager's name.
        spec: the project's environment; None when it has none.
        directory: the project directory, as it will be when the builder runs.
    """
    request: dict[str, Any] = {"manager": manager, "directory": str(directory)}
    recipe = environment_manager(manager).recipe(spec)
    if recipe is not None:
        request["spec"] = None if recipe.holds_credentials() else recipe.to_dict()
        if (script := getattr(recipe, "script", None)) is not None:
            request["script"] = script
    return request
