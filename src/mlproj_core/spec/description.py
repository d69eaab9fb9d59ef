"""A project as one JSON value, for people and programs that want to know what it offers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mlproj_core.errors import InvalidProject
from mlproj_core.spec.environment import CondaEnvSpec
from mlproj_core.spec.project import EntryPoint, Parameter, Project
from mlproj_core.spec.uv_project import UvProjectSpec

__all__ = ["describe"]


def describe(project: Project) -> dict[str, Any]:
    """A project as a JSON value.

    Returns:
        `name`, `directory`, `file`, `entry_points` (by name: `command`, `line`, `problems`, and `parameters` by name:
        `type`, `declared_type`, `default`, `required`, `description`, `enum`, `optional`, `secret`, `line`),
        `environment` (`kind`, `path` and what it holds, or `problems` if its file cannot be used), `scripts` (by name,
        of those that are run in an environment of their own: `python`, `dependencies`, `tool_uv`, `locked`, or
        `problems`), `databricks_spark_job`, `warnings`, `mlproj` (see `Project`).
    """
    return {
        "name": project.name,
        "directory": str(project.directory),
        "file": str(project.path) if project.path is not None else None,
        "entry_points": {name: _entry_point(entry_point) for name, entry_point in project.entry_points.items()},
        "environment": _environment(project),
        "scripts": _scripts(project),
        "databricks_spark_job": _plain(asdict(project.databricks_spark_job)) if project.databricks_spark_job else None,
        "warnings": [problem.to_dict() for problem in project.warnings],
        "mlproj": project.mlproj,
    }


def _entry_point(entry_point: EntryPoint) -> dict[str, Any]:
    return {
        "name": entry_point.name,
        "command": entry_point.command,
        "line": entry_point.line,
        "parameters": {name: _parameter(parameter) for name, parameter in entry_point.parameters.items()},
        "problems": [problem.to_dict() for problem in entry_point.command_problems()],
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "type": parameter.type,
        "declared_type": parameter.declared_type,
        # Of a list or mapping, the text that the command gets.
        "default": str(parameter.default) if isinstance(parameter.default, (list, dict)) else _plain(parameter.default),
        "required": parameter.required,
        "description": parameter.description,
        "enum": list(parameter.enum) or None,
        "optional": parameter.optional,
        "secret": parameter.secret,
        "line": parameter.line,
    }


def _environment(project: Project) -> dict[str, Any]:
    source = project.environment_source
    described: dict[str, Any] = {"kind": source.kind, "path": str(source.path) if source.path is not None else None}
    try:
        spec = project.environment
    except InvalidProject as error:
        return {**described, "problems": list(error.problems)}
    if spec is None:
        return described
    content = {name: _plain(value) for name, value in asdict(spec).items() if name not in ("path", "file", "problems")}
    if isinstance(spec, (CondaEnvSpec, UvProjectSpec)):
        content["problems"] = [str(problem) for problem in spec.problems]
    return {**described, **content}


def _scripts(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in () if project.environment_source.known_to_mlflow else project.scripts():
        try:
            script = project.inline_script(name)
        except InvalidProject as error:
            found[name] = {"problems": list(error.problems)}
            continue
        if script is not None:
            content = asdict(script).items()
            found[name] = {key: _plain(value) for key, value in content if key not in ("path", "script")}
    return found


def _plain(value: Any) -> Any:
    """A YAML value as JSON can hold it; what JSON lacks becomes its text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON knows no infinity
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
