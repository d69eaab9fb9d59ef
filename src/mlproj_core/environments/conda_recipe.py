"""What a conda environment is to contain: the part of an environment file that conda and pip need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.environments.conda_channels import without_conda_credentials
from mlproj_core.environments.recipe import Recipe
from mlproj_core.errors import UserError
from mlproj_core.spec.conda_file import CondaDependency, ExplicitPackage

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import Wanted

__all__ = ["CondaRecipe"]


@dataclass(frozen=True)
class CondaRecipe(Recipe):
    """A conda environment that is wanted; `dependencies` are its requirement lines for pip.

    Attributes:
        file: the environment file, relative to the project's directory.
        channels: where conda looks for packages, as written.
        packages: its conda packages.
        requirements: its requirement lines, with the platforms they are for.
        variables: environment variables to set whenever it is activated.
        platforms: those that it can be made for; none for all.
        locked: "explicit" or "conda-lock" where the file lists every package by its address.
        explicit: the packages of an explicit list.
        lists_pip: whether pip itself is among its conda packages.
        pip_only: whether a virtual environment could have all of it.
    """

    file: str = ""
    channels: tuple[str, ...] = ()
    packages: tuple[CondaDependency, ...] = ()
    requirements: tuple[CondaDependency, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    platforms: tuple[str, ...] = ()
    locked: str | None = None
    explicit: tuple[ExplicitPackage, ...] = ()
    lists_pip: bool = False
    pip_only: bool = False

    @classmethod
    def of(cls, spec: Wanted) -> CondaRecipe:
        """The recipe in a project's environment file. One is its own.

        Raises:
            UserError: the project has another kind of environment, or conda could not read the file.
        """
        from mlproj_core.spec import CondaEnvSpec
        from mlproj_core.spec.problem import invalid

        if isinstance(spec, CondaRecipe):
            return spec
        if not isinstance(spec, CondaEnvSpec):
            raise UserError(
                "The project names no conda_env, and a conda environment is made of that only. Set env_manager to "
                "'virtualenv', 'uv' or 'local' to execute this project."
            )
        if spec.conda.problems:
            raise invalid("conda could not make this environment", spec.conda.problems)
        directory = spec.directory or spec.path.parent
        return cls(
            dependencies=tuple(line.text for line in spec.conda.pip),
            path=str(spec.path),
            file=os.path.relpath(spec.path, directory),
            channels=spec.channels,
            packages=spec.conda.packages,
            requirements=spec.conda.pip,
            variables=spec.conda.variables,
            platforms=spec.conda.platforms,
            locked=spec.conda.locked,
            explicit=spec.conda.explicit,
            lists_pip=spec.conda.lists_pip(),
            pip_only=spec.conda.locked is None and not spec.left_out and not spec.problems,
        )

    def to_dict(self) -> dict[str, Any]:
        """This recipe as a JSON value."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CondaRecipe:
        """The recipe that `to_dict` wrote."""
        made = dict(value)
        for name in ("build_dependencies", "dependencies", "channels", "platforms"):
            made[name] = tuple(made[name])
        made["packages"] = tuple(CondaDependency(**one) for one in made["packages"])
        made["requirements"] = tuple(CondaDependency(**one) for one in made["requirements"])
        made["variables"] = tuple((name, text) for name, text in made["variables"])
        made["explicit"] = tuple(ExplicitPackage(**one) for one in made["explicit"])
        return cls(**made)

    def holds_credentials(self) -> bool:
        """Whether a URL in it has a user, a password or a token in it."""
        texts = [*self.dependencies, *self.channels, *(one.text for one in self.packages)]
        texts += [one.url for one in self.explicit]
        return any(without_conda_credentials(text) != text for text in texts)

    def folder(self, directory: Path) -> Path:
        """The directory of the file in a project's directory: where conda runs pip."""
        return Path(os.path.normpath(directory / self.file)).parent
