"""A project and its entry points, as its MLproject file declares them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.errors import UserError
from mlproj_core.spec.argument import argument_faults, settle
from mlproj_core.spec.environment import (
    CondaEnvSpec,
    DatabricksSparkJobSpec,
    DockerEnvSpec,
    PythonEnvSpec,
    read_conda_env,
    read_python_env,
)
from mlproj_core.spec.inline_script import InlineScriptSpec, read_inline_script
from mlproj_core.spec.problem import Problem, Snippet, closest, invalid
from mlproj_core.spec.template import escape, faults
from mlproj_core.spec.uv_project import UvProjectSpec, read_uv_project

if TYPE_CHECKING:
    from mlproj_core.parameters import BoundEntryPoint

__all__ = ["EntryPoint", "EnvironmentSource", "Parameter", "Project"]

MISNAMED = ("MLproject.yaml", "MLproject.yml", "MLProject.yaml", "MLProject.yml", "mlproject.yaml", "mlproject.yml")
"""Names that people give to an MLproject, but by which neither MLflow nor mlproj finds it."""


@dataclass(frozen=True)
class Parameter:
    """A declared parameter of an entry point.

    Attributes:
        name: its name.
        type: "string", "float", "int", "path" or "uri"; in a project of `mlproj: 1` also "bool".
        declared_type: the type as written; None when none is. Any name but those is read as string.
        default: the YAML value used when the caller gives none; None: the caller must give one.
        line: its line in the MLproject, from 1.
        column: its column, from 1.
        description: what it is for, from a key `description`, which MLflow ignores.
        enum: the values it may have, as text; empty: any that fits its type. This and what follows is given in a
            project of `mlproj: 1` only.
        optional: whether it may be without a value: then its argument is not in the command.
        secret: whether its value is passed in the environment variable of its name, and never shown.
    """

    name: str
    type: str = "string"
    declared_type: str | None = None
    default: Any = None
    line: int | None = None
    column: int | None = None
    description: str | None = None
    enum: tuple[str, ...] = ()
    optional: bool = False
    secret: bool = False

    @property
    def required(self) -> bool:
        """Whether the caller must give a value."""
        return self.default is None and not self.optional


@dataclass(frozen=True)
class EntryPoint:
    """A command of a project, with its parameters.

    Attributes:
        name: its name; for an undeclared script, its file name.
        command: a template: `{name}` stands for a parameter, a literal brace is written twice.
        parameters: what it declares, by name, in the order of the file. A caller may give others.
        line: its line in the MLproject, from 1; None for an undeclared script.
        project: the project's name, if it has one.
        file: the MLproject, as messages name it; empty for an undeclared script.
        command_source: the command as it is written there.
        problems: why it cannot run. Its neighbours can, so they keep nobody from loading the project.
    """

    name: str
    command: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    line: int | None = None
    project: str | None = None
    file: str = ""
    command_source: Snippet | None = field(default=None, repr=False)
    problems: tuple[Problem, ...] = ()

    def bind(
        self, parameters: Mapping[str, Any] | None = None, storage_dir: str | os.PathLike[str] | None = None
    ) -> BoundEntryPoint:
        """Check a caller's values and render the command with them; see `mlproj_core.parameters.bind`.

        Raises:
            InvalidParameters: values are missing or do not fit their types; it lists all of them.
            InvalidProject: this entry point's command cannot be rendered.
        """
        from mlproj_core.parameters import bind

        return bind(self, parameters, storage_dir)

    def command_problems(self, values: Mapping[str, str] | None = None) -> list[Problem]:
        """Everything that keeps the command from being rendered.

        Args:
            values: the quoted values of the declared parameters that have one; without them only what is wrong for
                every value is found.
        """
        problems = list(self.problems)
        found = argument_faults(self.command, self.parameters)
        settled = self.command if values is None or found else settle(self.command, self.parameters, values)
        for fault in (*found, *faults(settled, self.parameters, values)):
            line, column = (
                self.command_source.locate(fault.text, fault.occurrence) if self.command_source else (self.line, None)
            )
            problems.append(
                Problem(f"entry point {self.name!r}: {fault.message}", fault.remedy, self.file, line, column)
            )
        return problems


@dataclass(frozen=True)
class EnvironmentSource:
    """Where a project describes its environment.

    Attributes:
        kind: "python", "uv" (a pyproject.toml with a uv.lock, which MLflow does not know), "conda", "docker", or "none"
            for a Databricks Spark job.
        path: the environment file; None if there is none.
        file: that file, as messages name it.
        docker: what the MLproject says of the container.
    """

    kind: str = "python"
    path: Path | None = None
    file: str = ""
    docker: DockerEnvSpec | None = None

    @property
    def known_to_mlflow(self) -> bool:
        """Whether MLflow finds an environment there too."""
        return self.kind != "uv" and (self.path is not None or self.kind != "python")


@dataclass(frozen=True)
class Project:
    """A directory with code that can be run, as MLflow reads it.

    Attributes:
        name: its name, if it gives one.
        directory: where it lies, absolute.
        path: its MLproject file; None if it has none.
        entry_points: those it declares, by name, in the order of the file.
        environment_source: which environment it asks for; `environment` reads what that says.
        databricks_spark_job: set when it runs as a Databricks Spark job.
        warnings: what is odd about its MLproject but does not keep it from running.
        mlproj: the version of mlproj's own additions to the format that it asks for; None: it is read as by MLflow.
    """

    name: str | None
    directory: Path
    path: Path | None = None
    entry_points: Mapping[str, EntryPoint] = field(default_factory=dict)
    environment_source: EnvironmentSource = EnvironmentSource()
    databricks_spark_job: DatabricksSparkJobSpec | None = None
    warnings: tuple[Problem, ...] = ()
    mlproj: int | None = None

    @cached_property
    def environment(self) -> PythonEnvSpec | UvProjectSpec | CondaEnvSpec | DockerEnvSpec | None:
        """What it says of its environment; None for a Databricks Spark job.

        The file is read when this is first asked for: a project whose environment file is faulty still runs where no
        environment is made for it, as under MLflow.

        Raises:
            InvalidProject: the environment file cannot be used; it lists every problem in it.
        """
        source = self.environment_source
        if source.kind == "docker":
            return source.docker
        if source.path is None:
            return PythonEnvSpec() if source.kind == "python" else None
        spec: PythonEnvSpec | UvProjectSpec | CondaEnvSpec
        if source.kind == "uv":
            relative = os.path.relpath(source.path, self.directory)
            spec, problems = read_uv_project(source.path, relative, source.file)
        elif source.kind == "conda":
            spec, problems = read_conda_env(source.path, source.file, self.directory)
        else:
            spec, problems = read_python_env(source.path, source.file)
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            raise invalid("The environment file cannot be used", errors)
        return spec

    def environment_of(
        self, entry_point: str
    ) -> PythonEnvSpec | UvProjectSpec | InlineScriptSpec | CondaEnvSpec | DockerEnvSpec | None:
        """What an entry point runs in: the project's environment, or the one that a script asks for itself.

        A script that is run by its file name gets the environment of its inline metadata, save where the project names
        one that MLflow reads too: there it runs as under MLflow, which does not look at such metadata.

        Raises:
            InvalidProject: the environment file, or the script's metadata, cannot be used.
        """
        script = None if self.environment_source.known_to_mlflow else self.inline_script(entry_point)
        return script or self.environment

    def environment_remark(self, entry_point: str) -> str | None:
        """What people should know of `environment_of`: that a script's inline metadata has no say; None if nothing."""
        source = self.environment_source
        if not source.known_to_mlflow or not self._is_script(entry_point):
            return None
        if b"# /// script" not in (self.directory / entry_point).read_bytes():
            return None
        theirs = source.file or f"the project's {source.kind}_env"
        return f"{entry_point} runs in the environment of {theirs}, as under MLflow; its inline metadata has no say"

    def inline_script(self, entry_point: str) -> InlineScriptSpec | None:
        """The inline metadata of a script that is no declared entry point; None if it has none, or is no such script.

        Raises:
            InvalidProject: the metadata cannot be used; it lists every problem in it.
        """
        if not self._is_script(entry_point):
            return None
        path = self.directory / entry_point
        script, problems = read_inline_script(path, entry_point, str(path))
        if problems:
            raise invalid("The script's inline metadata cannot be used", problems)
        return script

    def _is_script(self, entry_point: str) -> bool:
        """Whether an entry point is a Python script of the project that is run by its file name."""
        declared = entry_point in self.entry_points or not entry_point.endswith(".py")
        return not declared and (self.directory / entry_point).is_file()

    def entry_point(self, name: str) -> EntryPoint:
        """An entry point by its name, or a `.py`, `.sh` or `.R` file of the project as one, as MLflow finds them.

        Raises:
            UserError: there is none of that name, and it is no script of the project.
        """
        if self.databricks_spark_job is not None and self.databricks_spark_job.python_file is not None:
            raise UserError(
                f"Project {self.name or self.directory} runs the file {self.databricks_spark_job.python_file!r} as a "
                "Databricks Spark job and has no entry points; it can only run on the backend databricks."
            )
        if name in self.entry_points:
            return self.entry_points[name]
        command = None if self.databricks_spark_job is not None else _script_command(name)
        if command is None:
            raise self._no_such_entry_point(name)
        # An image may bring files that the project's directory lacks.
        if self.environment_source.kind != "docker" and not (self.directory / name).exists():
            raise UserError(
                f"{name!r} is neither an entry point of the project nor a file in {self.directory}."
                f"{self._meant(name)} {self._known()}"
            )
        # A file's name is no template: MLflow would fill in braces in it, and fail.
        return EntryPoint(name=name, command=escape(command), project=self.name)

    def scripts(self) -> list[str]:
        """Names of the files at the top of the project that can be run as entry points."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.directory))
        except OSError:
            return []
        return [name for name in names if name.endswith((".py", ".sh", ".R"))]

    def _no_such_entry_point(self, name: str) -> UserError:
        scripts = "" if self.databricks_spark_job is not None else " A script is run by its file name (.py, .sh or .R)."
        where = self.path or self.directory
        misnamed = next((other for other in MISNAMED if self.path is None and (self.directory / other).exists()), None)
        rename = f" The file {misnamed} is not read: rename it to MLproject." if misnamed else ""
        return UserError(
            f"There is no entry point {name!r} in {where}.{rename}{self._meant(name)} {self._known()}{scripts}"
        )

    def _meant(self, name: str) -> str:
        meant = closest(name, [*self.entry_points, *self.scripts()])
        return f" Did you mean {meant!r}?" if meant else ""

    def _known(self) -> str:
        if not self.entry_points:
            return "The project declares no entry points."
        return f"Its entry points: {', '.join(self.entry_points)}."


def _script_command(name: str) -> str | None:
    """How MLflow runs an undeclared entry point (`Project.get_entry_point`); None if it is no script to it."""
    extension = os.path.splitext(name)[1]  # noqa: PTH122 - MLflow's rule for names such as ".py"
    if extension == ".py":
        return f"python {shlex.quote(name)}"
    if extension == ".sh":
        return f"{os.environ.get('SHELL', 'bash')} {shlex.quote(name)}"
    if extension == ".R":
        return f"Rscript -e \"mlflow::mlflow_source('{shlex.quote(name)}')\" --args"
    return None
