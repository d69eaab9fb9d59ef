"""What a project says of the environment it needs: python_env.yaml, conda.yaml, a container image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlproj_core.spec.conda_file import CondaFile, locked_kind, read_environment, read_explicit
from mlproj_core.spec.document import Document, UnreadableDocument, kind, read_document
from mlproj_core.spec.problem import Problem, closest, invalid, shown

__all__ = [
    "CondaEnvSpec",
    "DatabricksSparkJobSpec",
    "DockerEnvSpec",
    "PythonEnvSpec",
    "read_conda_env",
    "read_python_env",
]

PYTHON_ENV_KEYS = ("python", "build_dependencies", "dependencies")
"""The keys of python_env.yaml; MLflow refuses any other (`_PythonEnv.from_dict`)."""

CONDA_ENV_KEYS = ("name", "channels", "dependencies", "prefix", "variables", "platforms")

_BUILD_PACKAGE = re.compile(
    r"^(?P<package>python|pip|setuptools|wheel)(?P<operator><|>|<=|>=|=|==|!=)?(?P<version>[\d.]+)?$"
)
"""The conda packages whose meaning carries over to a virtual environment, in the only forms that MLflow knows
(`_CONDA_DEPENDENCY_REGEX` of its utils/environment.py)."""


@dataclass(frozen=True)
class PythonEnvSpec:
    """A virtual environment of packages from a package index.

    Attributes:
        path: the file that says so; None for a project that says nothing, which needs a Python and no packages.
        python: the version of Python as written; None for the current one.
        build_dependencies: requirement lines that are installed first.
        dependencies: requirement lines. Relative references (`-r`, `-c`, `-e`, paths) start at the project's directory.
    """

    path: Path | None = None
    python: str | None = None
    build_dependencies: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()


@dataclass(frozen=True)
class CondaEnvSpec:
    """A conda environment.

    Attributes:
        path: the conda.yaml.
        name: its name in that file.
        channels: where conda looks for packages.
        conda_packages: all its conda packages as written, Python among them.
        python: the version of Python that MLflow reads from it; None for the current one.
        build_dependencies: of pip, setuptools and wheel, those it names, as requirement lines.
        pip_dependencies: the requirement lines of its `pip:` section.
        left_out: the conda packages that an environment made by pip or uv lacks.
        problems: why no virtual environment can be made of it, though conda might read it.
        conda: what conda itself reads in it.
        directory: the project's; None when it is not known.
    """

    path: Path
    name: str | None = None
    channels: tuple[str, ...] = ()
    conda_packages: tuple[str, ...] = ()
    python: str | None = None
    build_dependencies: tuple[str, ...] = ()
    pip_dependencies: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    conda: CondaFile = field(default_factory=CondaFile)
    directory: Path | None = None

    def as_python_env(self) -> PythonEnvSpec:
        """Its pip part as a virtual environment, as MLflow's `_PythonEnv.from_conda_yaml` makes one.

        Raises:
            InvalidProject: it pins Python in a way that names no version, or holds what is no package.
        """
        if self.problems:
            raise invalid("This conda environment cannot be made without conda", self.problems)
        return PythonEnvSpec(self.path, self.python, self.build_dependencies, self.pip_dependencies)


@dataclass(frozen=True)
class DockerEnvSpec:
    """A container to run in.

    Attributes:
        image: the base image.
        volumes: as for `docker run -v`.
        environment: pairs that define a variable, and names of variables to copy from the host.
    """

    image: str
    volumes: tuple[str, ...] = ()
    environment: tuple[tuple[str, str] | str, ...] = ()


@dataclass(frozen=True)
class DatabricksSparkJobSpec:
    """A job for Databricks, which runs without an environment of the project's own.

    Attributes:
        python_file: the script to run; None when an entry point's command is run.
        parameters: its arguments.
        python_libraries: what the cluster installs first.
    """

    python_file: str | None = None
    parameters: tuple[Any, ...] = ()
    python_libraries: tuple[Any, ...] = ()


def read_python_env(path: Path, file: str) -> tuple[PythonEnvSpec, list[Problem]]:
    """Read a python_env.yaml by MLflow's rules.

    Args:
        path: the file.
        file: how messages name it.

    Returns:
        What it says, and every problem in it; with errors among them, what it says is not to be used.
    """
    try:
        document = read_document(path, file)
    except UnreadableDocument as error:
        return PythonEnvSpec(path), [error.problem]
    problems = list(document.warnings)
    content = document.value
    if not isinstance(content, dict):
        remedy = "write the keys python, build_dependencies and dependencies"
        return PythonEnvSpec(path), [*problems, document.problem(f"expected a mapping, found {kind(content)}", remedy)]
    for key in content:
        if key not in PYTHON_ENV_KEYS:
            problems.append(_unknown_python_env_key(document, key))
    python = content.get("python")
    if python is not None and not isinstance(python, str):
        at = document.value_position(content, "python")
        snippet = document.snippet(content, "python")
        written = snippet.text if snippet is not None else str(python)
        message = f"python must be text, but {written} is read as {kind(python)}"
        problems.append(document.problem(message, f'quote it: python: "{written}"', at=at))
        python = None
    return (
        PythonEnvSpec(
            path,
            python or None,
            _requirement_lines(document, content, "build_dependencies", problems),
            _requirement_lines(document, content, "dependencies", problems),
        ),
        problems,
    )


def _unknown_python_env_key(document: Document, key: Any) -> Problem:
    if key in ("channels", "name"):
        remedy = "this looks like a conda environment: name the file as conda_env in the MLproject"
    else:
        meant = closest(str(key), PYTHON_ENV_KEYS)
        remedy = f"did you mean {meant!r}?" if meant else f"remove it; the keys are {', '.join(PYTHON_ENV_KEYS)}"
    at = document.key_position(document.value, key)
    return document.problem(f"unknown key {key!r}, which MLflow refuses", remedy, at=at)


def _requirement_lines(
    document: Document, container: dict[Any, Any], key: str, problems: list[Problem]
) -> tuple[str, ...]:
    """The strings of a list, with a problem for whatever is not one."""
    items = container.get(key)
    if items is None:
        return ()
    if not isinstance(items, list):
        message = f"{key} must be a list, found {kind(items)}"
        at = document.value_position(container, key)
        problems.append(document.problem(message, "write one requirement on each line, after '- '", at=at))
        return ()
    lines = []
    for index, item in enumerate(items):
        if isinstance(item, str):
            lines.append(item)
            continue
        remedy = "write a requirement such as numpy==1.26.4, quoted if it contains a colon followed by a space"
        if isinstance(item, dict) and "pip" in item:
            remedy = "list the requirements directly: a pip section belongs in a conda.yaml"
        at = document.value_position(items, index)
        problems.append(document.problem(f"{key} must hold text only, found {shown(item)}", remedy, at=at))
    return tuple(lines)


def read_conda_env(path: Path, file: str, directory: Path | None = None) -> tuple[CondaEnvSpec, list[Problem]]:
    """Read a conda.yaml, or a list of locked packages that stands in its place.

    Args:
        path: the file.
        file: how messages name it.
        directory: the project's.

    Returns:
        What it says, and the problems for which not even conda could read it; with errors among them, what it says is
        not to be used. Those for which only a virtual environment cannot be made stand in the value itself.
    """
    if (locked := locked_kind(path)) is not None:
        return _locked_env(path, file, directory, locked), []
    try:
        document = read_document(path, file)
    except UnreadableDocument as error:
        return CondaEnvSpec(path), [error.problem]
    content = document.value
    if not isinstance(content, dict):
        remedy = "write the keys name, channels and dependencies"
        problem = document.problem(f"expected a mapping, found {kind(content)}", remedy)
        return CondaEnvSpec(path), [*document.warnings, problem]
    problems = list(document.warnings)
    dependencies = content.get("dependencies")
    if dependencies is not None and not isinstance(dependencies, list):
        at = document.value_position(content, "dependencies")
        message = f"dependencies must be a list, found {kind(dependencies)}"
        problems.append(document.problem(message, "write one package on each line, after '- '", at=at))
        dependencies = None
    name, channels = content.get("name"), content.get("channels")
    parts = _CondaParts(document, dependencies or [])
    return (
        CondaEnvSpec(
            path=path,
            name=None if name is None else str(name),
            channels=_texts(channels if isinstance(channels, list) else []),
            conda_packages=tuple(parts.packages),
            python=parts.python,
            build_dependencies=tuple(parts.build),
            pip_dependencies=parts.pip,
            left_out=tuple(parts.left_out),
            problems=tuple(parts.problems),
            conda=read_environment(document, content),
            directory=directory,
        ),
        problems,
    )


def _locked_env(path: Path, file: str, directory: Path | None, locked: str) -> CondaEnvSpec:
    """A file that lists every package by its address.

    A lock file of conda-lock is not parsed here: it may take a second, and the builder needs its content only.
    """
    conda = read_explicit(path, file) if locked == "explicit" else CondaFile(locked=locked)
    problem = Problem(f"this {locked} file lists conda's packages", "set env_manager to 'conda'", file)
    return CondaEnvSpec(path, problems=(problem,), conda=conda, directory=directory)


class _CondaParts:
    """The dependencies of a conda.yaml, sorted as MLflow sorts them for a virtual environment."""

    def __init__(self, document: Document, dependencies: list[Any]) -> None:
        self.packages: list[str] = []
        self.python: str | None = None
        self.build: list[str] = []
        self.pip: tuple[str, ...] = ()
        self.left_out: list[str] = []
        self.problems: list[Problem] = []
        for index, item in enumerate(dependencies):
            at = document.value_position(dependencies, index)
            if isinstance(item, str):
                self.packages.append(item)
                self._sort(document, item, at)
            elif isinstance(item, dict) and "pip" in item:
                self.pip = _requirement_lines(document, item, "pip", self.problems)
            else:
                remedy = "write a package as text, or a section 'pip:' with a list of requirements"
                self.problems.append(document.problem(f"{shown(item)} is no conda dependency", remedy, at=at))

    def _sort(self, document: Document, package: str, at: tuple[int | None, int | None]) -> None:
        match = _BUILD_PACKAGE.match(package)
        if match is None:
            self.left_out.append(package)
            return
        name, operator, version = match["package"], match["operator"], match["version"]
        if name != "python":
            self.build.append(name + ("==" if operator == "=" else operator or "") + (version or ""))
            return
        if self.python is not None:
            return
        if operator in (None, "<", ">", "!="):
            message = f"{package!r} names no version of Python to make a virtual environment with"
            self.problems.append(document.problem(message, "pin it, as in python=3.11", at=at))
            return
        self.python = version


def _texts(items: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(item) for item in items)
