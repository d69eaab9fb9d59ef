"""What an environment is to contain: the part of python_env.yaml and conda.yaml that an installer needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.environments.redaction import without_credentials
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.spec import CondaEnvSpec, DockerEnvSpec, PythonEnvSpec

    EnvironmentSpec = PythonEnvSpec | CondaEnvSpec | DockerEnvSpec | None

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A Python and the packages to install for it.

    Attributes:
        python: version as written; None for that of the running Python.
        build_dependencies: requirement lines to install first.
        dependencies: requirement lines to install then.
        path: the file they come from; None when the project has none.
    """

    python: str | None = None
    build_dependencies: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    path: str | None = None

    @classmethod
    def of(cls, spec: EnvironmentSpec) -> Recipe:
        """The recipe in a project's environment; of a conda.yaml its Python, pip and pip part.

        A project without an environment gets the running Python and no packages, as under MLflow.

        Raises:
            UserError: the environment is a container, or a conda.yaml that MLflow could not make one of either.
        """
        from mlproj_core.spec import CondaEnvSpec, DockerEnvSpec

        if spec is None:
            return cls()
        if isinstance(spec, DockerEnvSpec):
            raise UserError("The project has a docker_env, and no Python environment can be made of that.")
        if isinstance(spec, CondaEnvSpec):
            spec = spec.as_python_env()
        return cls(
            python=spec.python,
            build_dependencies=tuple(spec.build_dependencies),
            dependencies=tuple(spec.dependencies),
            path=str(spec.path) if spec.path else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """This recipe as a JSON value."""
        return {
            "python": self.python,
            "build_dependencies": list(self.build_dependencies),
            "dependencies": list(self.dependencies),
            "path": self.path,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote; unknown keys are ignored."""
        return cls(
            python=value.get("python"),
            build_dependencies=tuple(value.get("build_dependencies", ())),
            dependencies=tuple(value.get("dependencies", ())),
            path=value.get("path"),
        )

    def holds_credentials(self) -> bool:
        """Whether a line has a URL with a user or password in it."""
        lines = (*self.build_dependencies, *self.dependencies)
        return any(without_credentials(line) != line for line in lines)

    def origin(self, directory: Path) -> str:
        """What the recipe comes from, for people."""
        return self.path or f"the project in {directory}"
