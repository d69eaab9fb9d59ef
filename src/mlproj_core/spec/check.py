"""Everything that can be said against a project without running it: what `mlproj validate` reports."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlproj_core.spec.document import Document
from mlproj_core.spec.environment import CONDA_ENV_KEYS, read_conda_env, read_python_env
from mlproj_core.spec.extension import EXTENSION_KEYS, OPT_IN, PARAMETER_KEYS
from mlproj_core.spec.inline_script import read_inline_script
from mlproj_core.spec.mlproject import MLPROJECT_KEYS, ProjectReader
from mlproj_core.spec.problem import Problem, closest, shown
from mlproj_core.spec.project import EntryPoint, Parameter, Project
from mlproj_core.spec.template import placeholders
from mlproj_core.spec.types import EXTENDED_TYPES, MEANT, MEANT_EXTENDED, TYPES, misfit
from mlproj_core.spec.uv_project import read_uv_project

__all__ = ["check_project"]


def check_project(directory: str | Path) -> list[Problem]:
    """Every problem of a project's files, in the order of the files and their lines.

    A problem of severity "error" keeps the project, or one entry point of it, from running; a "warning" does not.

    Args:
        directory: the directory that holds the MLproject file.

    Raises:
        UserError: there is no such directory.
    """
    reader = ProjectReader(directory)
    project = reader.read()
    problems = list(reader.problems)
    document = reader.document
    if document is not None and isinstance(document.value, dict):
        content = document.value
        problems += _unknown_keys(document, content, MLPROJECT_KEYS, "the project")
        entry_points = content.get("entry_points")
        for key, entry_point_content in entry_points.items() if isinstance(entry_points, dict) else ():
            if isinstance(entry_point_content, dict):
                entry_point = project.entry_points[str(key)]
                problems += _check_entry_point(document, entry_point, entry_point_content, project.mlproj)
        if project.environment_source.kind == "docker" and project.name is None:
            message = "the project has no name, which MLflow needs for the name of its image"
            problems.append(document.problem(message, "write 'name:'", severity="warning"))
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    return [*problems, *_check_environment(project), *_check_scripts(project, reader.shown_directory)]


def _check_entry_point(
    document: Document, entry_point: EntryPoint, content: dict[Any, Any], mlproj: int | None
) -> Iterator[Problem]:
    name = f"entry point {entry_point.name!r}"
    yield from _unknown_keys(document, content, ("parameters", "command"), name)
    yield from entry_point.command_problems()
    parameters = content.get("parameters")
    for key, value in parameters.items() if isinstance(parameters, dict) else ():
        if isinstance(value, dict) and mlproj is None:  # else they are errors
            known = (*PARAMETER_KEYS, "secret")  # of which the reader warns
            yield from _unknown_keys(document, value, known, f"parameter {str(key)!r}", EXTENSION_KEYS)
        if str(key) in entry_point.parameters:
            yield from _check_parameter(document, entry_point.parameters[str(key)], mlproj)
    yield from _check_placeholders(document, entry_point)


def _check_parameter(document: Document, parameter: Parameter, mlproj: int | None) -> Iterator[Problem]:
    at = (parameter.line, parameter.column)
    declared = parameter.declared_type
    if mlproj is None and declared is not None and declared not in TYPES:
        meant = MEANT.get(declared.lower()) or closest(declared, TYPES)
        remedy = f"did you mean {meant!r}?" if meant else f"the types are {', '.join(TYPES)}"
        if (extended := MEANT_EXTENDED.get(declared.lower(), declared)) in EXTENDED_TYPES and extended not in TYPES:
            remedy = f"{OPT_IN}, as 'type: {extended}'"
        message = f"the type {shown(declared)} of parameter {parameter.name!r} is unknown and read as string"
        yield document.problem(message, remedy, at=at, severity="warning")
    if parameter.default is not None and (why := misfit(parameter.type, str(parameter.default))):
        message = f"the default {shown(parameter.default)} of parameter {parameter.name!r} {why}"
        yield document.problem(message, "correct the default or the type", at=at, severity="warning")


def _check_placeholders(document: Document, entry_point: EntryPoint) -> Iterator[Problem]:
    used: set[str] = set()
    source = entry_point.command_source
    if source is None or entry_point.problems:
        return
    try:
        for placeholder in placeholders(entry_point.command):
            used.update(part.name for part in (placeholder, *placeholder.nested))
            if placeholder.name not in entry_point.parameters:
                continue
            at = source.locate(placeholder.text, placeholder.occurrence)
            if placeholder.after_dollar:
                message = f"${placeholder.text} puts a dollar sign before the value of the parameter"
                remedy = (
                    f"write {placeholder.text} for the value, or ${{{placeholder.text}}} for a variable of the shell"
                )
                yield document.problem(message, remedy, at=at, severity="warning")
            if any(f"{quote}{placeholder.text}{quote}" in entry_point.command for quote in "'\""):
                message = f"{placeholder.text} stands in quotes, but values are quoted already"
                yield document.problem(message, "remove the quotes around it", at=at, severity="warning")
    except ValueError:
        return  # braces that do not match are reported as an error
    for parameter in entry_point.parameters.values():
        if parameter.name not in used and not parameter.secret:
            message = f"the command of entry point {entry_point.name!r} does not use its parameter {parameter.name!r}"
            at_parameter = (parameter.line, parameter.column)
            remedy = f"write {{{parameter.name}}} where its value belongs; declared parameters are not appended"
            yield document.problem(message, remedy, at=at_parameter, severity="warning")


def _unknown_keys(
    document: Document, content: dict[Any, Any], known: Collection[str], what: str, extended: Collection[str] = ()
) -> Iterator[Problem]:
    for key in content:
        if key in known or key == "description":
            continue
        text = str(key)
        head = text.partition(":")[0]
        if head in known and head != text:  # {type: float, default:0.1}
            remedy = f"write a space after the colon: {head}: {text.partition(':')[2]}"
        elif text in extended:
            remedy = OPT_IN
        else:
            meant = closest(text, known)
            remedy = f"did you mean {meant!r}?" if meant else f"remove it; the keys are {', '.join(known)}"
        at = document.key_position(content, key)
        yield document.problem(
            f"{what} has the unknown key {text!r}, which is ignored", remedy, at=at, severity="warning"
        )


def _check_environment(project: Project) -> list[Problem]:
    source = project.environment_source
    if source.path is None or not source.path.exists():
        return []
    if source.kind == "python":
        return read_python_env(source.path, source.file)[1]
    if source.kind == "uv":
        return read_uv_project(source.path, os.path.relpath(source.path, project.directory), source.file)[1]
    spec, problems = read_conda_env(source.path, source.file)
    if spec.conda.locked is not None:
        return [*problems, *spec.conda.problems]
    # Conda itself may be able to read what a virtual environment cannot be made of, and the other way round.
    unreadable = dict.fromkeys((*spec.problems, *spec.conda.problems))
    problems += [replace(problem, severity="warning") for problem in unreadable]
    if spec.left_out:
        message = f"an environment made without conda lacks these conda packages: {', '.join(spec.left_out)}"
        remedy = f"list what the project needs under 'pip:'; conda reads {', '.join(CONDA_ENV_KEYS[:3])}"
        problems.append(Problem(message, remedy, source.file, severity="warning"))
    return problems


def _check_scripts(project: Project, shown_directory: str) -> Iterator[Problem]:
    """Check the inline metadata of the scripts that can be run by their names."""
    if project.environment_source.known_to_mlflow:
        return
    for name in project.scripts():
        if name.endswith(".py") and name not in project.entry_points:
            shown_path = os.path.join(shown_directory, name)  # noqa: PTH118 - as the caller writes it
            yield from read_inline_script(project.directory / name, name, shown_path)[1]
