"""Reading an MLproject file by MLflow's rules (`mlflow/projects/_project_spec.py`), with all its problems at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlproj_core.errors import UserError
from mlproj_core.spec.document import Document, UnreadableDocument, kind, read_document
from mlproj_core.spec.environment import DatabricksSparkJobSpec, DockerEnvSpec
from mlproj_core.spec.extension import OPT_IN, VERSION, VERSION_KEY, read_extended, version_problem
from mlproj_core.spec.problem import Problem, invalid, shown
from mlproj_core.spec.project import EntryPoint, EnvironmentSource, Parameter, Project
from mlproj_core.spec.types import read_type
from mlproj_core.spec.uv_project import PYPROJECT

__all__ = ["MLPROJECT_KEYS", "ProjectReader", "load_project"]

MLPROJECT = "MLproject"

ENVIRONMENT_KEYS = ("docker_env", "python_env", "conda_env")
"""In the order in which MLflow looks at them."""

MLPROJECT_KEYS = ("name", "entry_points", *ENVIRONMENT_KEYS, "databricks_spark_job", VERSION_KEY)

DEFAULT_ENVIRONMENTS = (("python", "python_env.yaml"), ("conda", "conda.yaml"))
"""The environment files that are used without being named, the first that exists."""


def load_project(directory: str | Path) -> Project:
    """The project in a directory.

    A directory without an MLproject file is a project without declared entry points; its scripts can be run.

    Args:
        directory: the directory that holds the MLproject file, whose name may be in any case.

    Raises:
        UserError: there is no such directory.
        InvalidProject: the MLproject cannot be used; it lists every problem in it, each with file, line and remedy.
    """
    reader = ProjectReader(directory)
    project = reader.read()
    errors = [problem for problem in reader.problems if problem.severity == "error"]
    if errors:
        raise invalid(f"The project in {reader.shown_directory} cannot be used", errors)
    return project


class ProjectReader:
    """Reads one MLproject file and keeps every problem it meets on the way.

    Attributes:
        problems: errors, for which the project cannot be used, and warnings.
        document: the file's content, once read; None if there is no MLproject.
        shown_directory: the directory as the caller named it.
    """

    def __init__(self, directory: str | Path) -> None:
        self.shown_directory = os.fspath(directory)
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 - as MLflow: does not follow symbolic links
        self.problems: list[Problem] = []
        self.document: Document | None = None
        self._content: dict[Any, Any] = {}
        self._name: str | None = None
        self._mlproj: int | None = None

    def read(self) -> Project:
        """The project; not to be used if there are errors among the problems.

        Raises:
            UserError: there is no such directory.
        """
        path = self._find()
        if path is not None:
            try:
                self.document = read_document(path, self._shown(path))
            except UnreadableDocument as error:
                self.problems.append(error.problem)
                return Project(None, self.directory, path)
            self.problems.extend(self.document.warnings)
            self._read_content(self.document)
        name = self._content.get("name")
        self._name = None if name is None else str(name)
        entry_points = self._entry_points()
        job = self._databricks_spark_job(entry_points)
        return Project(
            name=self._name,
            directory=self.directory,
            path=path,
            entry_points=entry_points,
            environment_source=self._environment_source() if job is None else EnvironmentSource("none"),
            databricks_spark_job=job,
            warnings=tuple(problem for problem in self.problems if problem.severity == "warning"),
            mlproj=self._mlproj,
        )

    # Files

    def _find(self) -> Path | None:
        try:
            names = sorted(name for name in os.listdir(self.directory) if name.lower() == MLPROJECT.lower())  # noqa: PTH208
        except NotADirectoryError:
            raise UserError(
                f"{self.shown_directory} is a file: give the directory that holds the MLproject file."
            ) from None
        except OSError as error:
            raise UserError(
                f"There is no project in {self.shown_directory}: {error.strerror or error}. Give the directory that "
                "holds the MLproject file."
            ) from error
        if not names:
            return None
        if len(names) == 1:
            return self.directory / names[0]
        names.sort(key=lambda name: (not (self.directory / name).is_file(), name != MLPROJECT))
        files = [name for name in names if (self.directory / name).is_file()]
        if len(files) > 1:
            message = f"the directory also holds {', '.join(files[1:])}, and MLflow reads whichever it meets first"
            shown_path = self._shown(self.directory / names[0])
            self.problems.append(Problem(message, f"keep one; mlproj reads {names[0]}", shown_path, severity="warning"))
        return self.directory / names[0]

    def _shown(self, path: Path) -> str:
        """A path as the caller would write it: under the directory as given."""
        return os.path.join(self.shown_directory, os.path.relpath(path, self.directory))  # noqa: PTH118 - keeps "./"

    # Content

    def _read_content(self, document: Document) -> None:
        if isinstance(document.value, dict):
            self._content = document.value
            if VERSION_KEY in self._content:
                self._mlproj = VERSION
                if problem := version_problem(document, self._content):
                    self.problems.append(problem)
        elif document.value is None:
            remedy = "write at least 'name:' and 'entry_points:'; without the file, scripts can be run by their names"
            self.problems.append(document.problem("the file is empty", remedy))
        else:
            message = f"expected a mapping at the top of the file, found {kind(document.value)}"
            self.problems.append(document.problem(message, f"write keys such as {', '.join(MLPROJECT_KEYS)}"))

    def _error(self, message: str, remedy: str, container: Any, key: Any) -> None:
        assert self.document is not None  # noqa: S101 - what is wrong was read from it
        at = self.document.key_position(container, key)
        self.problems.append(self.document.problem(message, remedy, at=at))

    def _text(self, key: Any, container: Any, what: str) -> str:
        """A key as text, with a warning if YAML does not read it as text."""
        if not isinstance(key, str):
            assert self.document is not None  # noqa: S101 - the key was read from it
            at = self.document.key_position(container, key)
            message = f"the name of {what} is not text: YAML reads it as {key!r}"
            self.problems.append(self.document.problem(message, "quote it", at=at, severity="warning"))
        return str(key)

    def _entry_points(self) -> dict[str, EntryPoint]:
        declared = self._content.get("entry_points", {})
        if not isinstance(declared, dict):
            remedy = "write 'main:' under it, with 'command:' under that; or remove the key"
            self._error(
                f"entry_points must be a mapping, found {kind(declared)}", remedy, self._content, "entry_points"
            )
            return {}
        entry_points = {}
        for key, content in declared.items():
            name = self._text(key, declared, "an entry point")
            if not isinstance(content, dict):
                remedy = f"write it as '{name}:' with 'command: \"…\"' on a line of its own under it"
                self._error(f"entry point {name!r} must be a mapping, found {kind(content)}", remedy, declared, key)
                continue
            entry_points[name] = self._entry_point(name, content, declared, key)
        return entry_points

    def _entry_point(self, name: str, content: dict[Any, Any], container: Any, key: Any) -> EntryPoint:
        document = self.document
        assert document is not None  # noqa: S101 - the entry point was read from it
        line, column = document.key_position(container, key)
        command = content.get("command")
        problems: tuple[Problem, ...] = ()
        if command is None:
            message = f"entry point {name!r} has no command"
            problems = (document.problem(message, 'write command: "…" under it', at=(line, column)),)
        elif not isinstance(command, str):
            message = f"the command of entry point {name!r} must be text, found {kind(command)}"
            at = document.value_position(content, "command")
            problems = (document.problem(message, "write it as one text, in quotes", at=at),)
        parameters = self._parameters(name, content)
        if self._mlproj is not None:
            declared = content.get("parameters")
            for key, value in declared.items() if isinstance(declared, dict) else ():
                if str(key) in parameters:
                    parameters[str(key)], faulty = read_extended(parameters[str(key)], value, document)
                    problems = (*problems, *faulty)
        return EntryPoint(
            name=name,
            command=command if isinstance(command, str) else "",
            parameters=parameters,
            line=line,
            project=self._name,
            file=document.file,
            command_source=document.snippet(content, "command"),
            problems=problems,
        )

    def _parameters(self, entry_point: str, content: dict[Any, Any]) -> dict[str, Parameter]:
        assert self.document is not None  # noqa: S101 - the entry point was read from it
        declared = content.get("parameters", {})
        if not isinstance(declared, dict):
            message = f"the parameters of entry point {entry_point!r} must be a mapping, found {kind(declared)}"
            self._error(message, "write 'name: type' for each, or remove the key", content, "parameters")
            return {}
        parameters = {}
        for key, value in declared.items():
            name = self._text(key, declared, "a parameter")
            line, column = self.document.key_position(declared, key)
            if isinstance(value, str):
                parameters[name] = Parameter(name, read_type(value), value, None, line, column)
            elif isinstance(value, dict):
                if self._mlproj is None and value.get("secret"):
                    at = self.document.key_position(value, "secret")
                    message = f"parameter {name!r} is marked as secret, which is ignored: its value is recorded"
                    self.problems.append(self.document.problem(message, OPT_IN, at=at, severity="warning"))
                written = value.get("type")
                declared_type = None if written is None else str(written)
                description = value.get("description")
                parameters[name] = Parameter(
                    name=name,
                    type=read_type(written),
                    declared_type=declared_type,
                    default=value.get("default"),
                    line=line,
                    column=column,
                    description=None if description is None else str(description),
                )
            else:
                whose = f"parameter {name!r} of entry point {entry_point!r}"
                message = f"{whose} must be a type or a mapping, found {kind(value)}"
                default = "" if value is None else f", default: {value}"
                self._error(message, f"write {name}: float, or {name}: {{type: float{default}}}", declared, key)
        return parameters

    # Environments

    def _environment_source(self) -> EnvironmentSource:
        content = self._content
        given = [key for key in ENVIRONMENT_KEYS if key in content]
        if len(given) > 1:
            message = f"a project can have one environment only, but this one has {' and '.join(given)}"
            self._error(message, "keep one of them", content, given[-1])
        if content.get("docker_env"):
            return EnvironmentSource("docker", docker=self._docker_env(content["docker_env"]))
        for key, named in (("python_env", "python"), ("conda_env", "conda")):
            if content.get(key):
                return self._named_environment(named, key, content[key])
        for default, file_name in DEFAULT_ENVIRONMENTS:
            path = self.directory / file_name
            if path.exists():
                return EnvironmentSource(default, path, self._shown(path))
        return EnvironmentSource()

    def _named_environment(self, named: str, key: str, written: Any) -> EnvironmentSource:
        if not isinstance(written, str):
            file_name = dict(DEFAULT_ENVIRONMENTS)[named]
            remedy = f"write the environment into a file of its own and name that: {key}: {file_name}"
            self._error(f"{key} must be the path of a file, found {kind(written)}", remedy, self._content, key)
            return EnvironmentSource(named)
        path = self.directory / written
        shown_path = os.path.join(self.shown_directory, written)  # noqa: PTH118 - as the caller and the file write it
        if not path.exists():
            remedy = "correct the path, which starts at the project's directory, or add the file"
            self._error(f"{key} names {shown(written)}, but there is no such file", remedy, self._content, key)
        kind_of_file = "uv" if named == "python" and path.name == PYPROJECT else named
        return EnvironmentSource(kind_of_file, path, shown_path)

    def _docker_env(self, content: Any) -> DockerEnvSpec:
        if not isinstance(content, dict):
            remedy = "write 'image:' on a line of its own under it"
            self._error(f"docker_env must be a mapping, found {kind(content)}", remedy, self._content, "docker_env")
            return DockerEnvSpec("")
        image = content.get("image")
        if not image:
            self._error("docker_env names no image", "write 'image: …' under it", self._content, "docker_env")
        volumes = content.get("volumes") or []
        if not (isinstance(volumes, list) and all(isinstance(volume, str) for volume in volumes)):
            self._error("volumes must be a list of text", 'write it as ["/here:/there"]', content, "volumes")
            volumes = []
        return DockerEnvSpec(str(image or ""), tuple(volumes), self._docker_variables(content))

    def _docker_variables(self, content: dict[Any, Any]) -> tuple[tuple[str, str] | str, ...]:
        remedy = 'write it as [["NEW_VARIABLE", "value"], "VARIABLE_TO_COPY_FROM_THE_HOST"]'
        items = content.get("environment") or []
        if not isinstance(items, list):
            self._error(f"environment must be a list, found {kind(items)}", remedy, content, "environment")
            return ()
        variables: list[tuple[str, str] | str] = []
        for index, item in enumerate(items):
            if isinstance(item, str):
                variables.append(item)
            elif isinstance(item, list) and len(item) == 2:
                variables.append((str(item[0]), str(item[1])))
            else:
                self._error(f"{shown(item)} is neither a variable's name nor a pair", remedy, items, index)
        return tuple(variables)

    def _databricks_spark_job(self, entry_points: dict[str, EntryPoint]) -> DatabricksSparkJobSpec | None:
        key = "databricks_spark_job"
        content = self._content.get(key)
        if content is None:
            return None
        if not isinstance(content, dict):
            remedy = "write 'python_file:' on a line of its own under it"
            self._error(f"{key} must be a mapping, found {kind(content)}", remedy, self._content, key)
            return DatabricksSparkJobSpec()
        python_file = content.get("python_file")
        if python_file is None and not entry_points:
            remedy = "give it a python_file, or the project entry_points"
            self._error("a Databricks Spark job needs something to run", remedy, self._content, key)
        if python_file is not None and entry_points:
            remedy = "keep either python_file or entry_points"
            self._error(
                "a Databricks Spark job has either a python_file or entry points", remedy, content, "python_file"
            )
        for entry_point in entry_points.values():
            for parameter in entry_point.parameters.values():
                if parameter.type == "path":
                    at = (parameter.line, parameter.column)
                    message = f"parameter {parameter.name!r} is a path, which a Databricks Spark job does not support"
                    assert self.document is not None  # noqa: S101 - the parameter was read from it
                    self.problems.append(self.document.problem(message, "declare it as uri or string", at=at))
        for environment in ENVIRONMENT_KEYS:
            if environment in self._content:
                message = f"a Databricks Spark job runs without {environment}"
                self._error(message, "remove it; list packages under python_libraries", self._content, environment)
        return DatabricksSparkJobSpec(
            python_file=None if python_file is None else str(python_file),
            parameters=self._list(content, "parameters"),
            python_libraries=self._list(content, "python_libraries"),
        )

    def _list(self, content: dict[Any, Any], key: str) -> tuple[Any, ...]:
        items = content.get(key) or []
        if not isinstance(items, list):
            self._error(
                f"{key} must be a list, found {kind(items)}", "write each item on a line, after '- '", content, key
            )
            return ()
        return tuple(items)
