"""What an environment is to contain: the part of a project's environment file that an installer needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlproj_core.environments.redaction import without_credentials
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.environments.conda_recipe import CondaRecipe
    from mlproj_core.environments.requirements import Requirements
    from mlproj_core.spec import CondaEnvSpec, DockerEnvSpec, InlineScriptSpec, PythonEnvSpec, UvProjectSpec

    EnvironmentSpec = PythonEnvSpec | UvProjectSpec | InlineScriptSpec | CondaEnvSpec | DockerEnvSpec | None
    AnyRecipe: TypeAlias = "Recipe | SyncRecipe | CondaRecipe"
    Wanted: TypeAlias = "EnvironmentSpec | AnyRecipe"
    """What a manager can be asked for: a project's environment, or what was read of it already."""

__all__ = ["Recipe", "SyncRecipe", "VenvRecipe"]


@dataclass(frozen=True)
class Recipe:
    """A Python and the packages to install for it.

    Attributes:
        python: version as written; None for that of the running Python.
        build_dependencies: requirement lines to install first.
        dependencies: requirement lines to install then.
        path: the file they come from; None when the project has none.
        script: name of the script whose inline metadata they are; None for a project's environment.
    """

    python: str | None = None
    build_dependencies: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    path: str | None = None
    script: str | None = None

    @classmethod
    def of(cls, spec: Wanted) -> Recipe:
        """The recipe in a project's environment; of a conda.yaml its Python, pip and pip part. One is its own.

        A project without an environment gets the running Python and no packages, as under MLflow.

        Raises:
            UserError: the environment is a container, one that only uv can make, or a conda.yaml that MLflow could not
                make one of either.
        """
        from mlproj_core.spec import CondaEnvSpec, DockerEnvSpec, InlineScriptSpec, PythonEnvSpec, UvProjectSpec

        if spec is None:
            return cls()
        if isinstance(spec, Recipe):
            return spec
        if isinstance(spec, DockerEnvSpec):
            raise UserError("The project has a docker_env, and no Python environment can be made of that.")
        if isinstance(spec, (UvProjectSpec, SyncRecipe)):
            raise UserError(f"Only uv can make the environment of {spec.path} and its lock file.")
        if isinstance(spec, InlineScriptSpec):
            if spec.for_uv_only:
                what = "lock file" if spec.locked else "[tool.uv] in its inline metadata"
                raise UserError(f"Only uv can make the environment of {spec.path}, because of the {what}.")
            return cls(python=spec.python, dependencies=spec.dependencies, path=str(spec.path), script=spec.script)
        if isinstance(spec, CondaEnvSpec):
            spec = spec.as_python_env()
        elif not isinstance(spec, PythonEnvSpec):
            raise UserError(f"{spec.path} was read for conda, and no virtual environment can be made of that.")
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
            "script": self.script,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote; unknown keys are ignored."""
        return cls(
            python=value.get("python"),
            build_dependencies=tuple(value.get("build_dependencies", ())),
            dependencies=tuple(value.get("dependencies", ())),
            path=value.get("path"),
            script=value.get("script"),
        )

    def steps(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What to install one after the other: the name of each step, and its requirement lines."""
        for name, lines in (("build_dependencies", self.build_dependencies), ("dependencies", self.dependencies)):
            if lines:
                yield name, lines

    def contents(self, directory: Path, environ: Mapping[str, str]) -> tuple[Requirements, ...]:
        """What the requirement lines refer to on disk, for the build_dependencies and for the dependencies.

        Raises:
            UserError: a file that a line refers to cannot be read.
        """
        from mlproj_core.environments.requirements import read_requirements

        origin = self.origin(directory)
        return (
            read_requirements(self.build_dependencies, directory, environ, origin),
            read_requirements(self.dependencies, directory, environ, origin),
        )

    def holds_credentials(self) -> bool:
        """Whether a line has a URL with a user or password in it."""
        lines = (*self.build_dependencies, *self.dependencies)
        return any(without_credentials(line) != line for line in lines)

    def origin(self, directory: Path) -> str:
        """What the recipe comes from, for people."""
        return self.path or f"the project in {directory}"


@dataclass(frozen=True)
class SyncRecipe:
    """A Python, and a file of which `uv sync` makes the environment by itself.

    Attributes:
        file: a pyproject.toml with a uv.lock beside it, or a script with inline metadata; relative to the project
            directory.
        python: version as written; None for that of the running Python.
        path: that file, for people.
        is_script: whether it is a script.
    """

    file: str
    python: str | None = None
    path: str | None = None
    is_script: bool = False

    @classmethod
    def of(cls, spec: Wanted) -> SyncRecipe | None:
        """The recipe in a project's environment; None for one that consists of requirement lines. One is its own."""
        from mlproj_core.spec import InlineScriptSpec, UvProjectSpec

        if isinstance(spec, SyncRecipe):
            return spec
        if isinstance(spec, UvProjectSpec):
            return cls(spec.file, spec.python, str(spec.path))
        if isinstance(spec, InlineScriptSpec) and spec.for_uv_only:
            return cls(spec.script, spec.python, str(spec.path), is_script=True)
        return None

    def to_dict(self) -> dict[str, Any]:
        """This recipe as a JSON value."""
        return {"file": self.file, "python": self.python, "path": self.path, "is_script": self.is_script}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SyncRecipe:
        """The recipe that `to_dict` wrote; unknown keys are ignored."""
        return cls(str(value["file"]), value.get("python"), value.get("path"), bool(value.get("is_script")))

    def contents(self, directory: Path, environ: Mapping[str, str]) -> tuple[Requirements, ...]:
        """What the file, and its lock, refer to on disk.

        Raises:
            UserError: one of them cannot be read.
        """
        from mlproj_core.environments.uv_sync import sync_contents

        return (sync_contents(self, directory, environ),)

    def holds_credentials(self) -> bool:
        """Never: the file is read where the environment is made."""
        return False

    def origin(self, directory: Path) -> str:
        """What the recipe comes from, for people."""
        return self.path or str(directory / self.file)


VenvRecipe = Recipe | SyncRecipe
"""What a virtual environment is made of."""
