"""Values for an entry point: checked, quoted for the shell, and rendered into its command as MLflow does."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlproj_core.errors import InvalidParameters, UserError
from mlproj_core.spec.problem import closest, invalid, shown
from mlproj_core.spec.project import EntryPoint, Parameter
from mlproj_core.spec.template import render
from mlproj_core.spec.types import misfit

__all__ = ["BoundEntryPoint", "bind", "json_schema"]


@dataclass(frozen=True)
class BoundEntryPoint:
    """An entry point with a value for every parameter: ready to run.

    Attributes:
        name: the entry point's name.
        command: the command for `bash -c`, byte for byte as MLflow renders it.
        parameters: what MLflow logs as the run's parameters, the extra ones too: values, and the names of extra ones,
            are quoted for the shell; a path is logged as it was given.
        values: the same values as plain text, under plain names.
        warnings: what is odd about the values but does not keep them from being used.
    """

    name: str
    command: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def bind(
    entry_point: EntryPoint,
    parameters: Mapping[str, Any] | None = None,
    storage_dir: str | os.PathLike[str] | None = None,
    *,
    check_local_paths: bool = True,
) -> BoundEntryPoint:
    """Check a caller's values and render the command with them.

    Args:
        entry_point: what to run.
        parameters: values by name. Those that the entry point does not declare are appended to its command, as
            `--name value`.
        storage_dir: as for MLflow's `compute_command`: given, local paths become absolute in the command, starting at
            the current working directory, as in every run; None leaves them as they are written.
        check_local_paths: whether local paths must exist here: the project runs as a local process.

    Raises:
        InvalidParameters: values are missing or do not fit their types; it lists all of them.
        InvalidProject: the entry point has no command, or one that cannot be rendered.
        UserError: `parameters` is no mapping.
    """
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UserError(f"Parameters must be a mapping of names to values, got {shown(parameters)}.")
    if faulty := entry_point.command_problems():
        raise invalid(f"Entry point {entry_point.name!r} cannot run", faulty)
    binder = _Binder(entry_point, {str(name): value for name, value in (parameters or {}).items()})
    binder.check(check_local_paths)
    if binder.problems:
        raise InvalidParameters(_headline(entry_point, binder.problems), binder.problems)
    values = binder.values
    extra = {name: text for name, text in values.items() if name not in entry_point.parameters}
    logged = {name: shlex.quote(values[name]) for name in entry_point.parameters}
    rendered = dict(logged)
    if storage_dir:
        for name, parameter in entry_point.parameters.items():
            if parameter.type == "path":
                rendered[name] = shlex.quote(os.path.abspath(_local_path(values[name]) or values[name]))  # noqa: PTH100
    if faulty := entry_point.command_problems(rendered):
        raise invalid(f"Entry point {entry_point.name!r} cannot run with these values", faulty)
    quoted_extra = {shlex.quote(name): shlex.quote(text) for name, text in extra.items()}
    command = " ".join(
        [render(entry_point.command, rendered), *(f"--{name} {text}" for name, text in quoted_extra.items())]
    )
    return BoundEntryPoint(
        name=entry_point.name,
        command=command,
        parameters={**logged, **quoted_extra},
        values=values,
        warnings=tuple(binder.warnings),
    )


class _Binder:
    """Turns given and default values into text, and notes every problem on the way."""

    def __init__(self, entry_point: EntryPoint, given: Mapping[str, Any]) -> None:
        self.entry_point = entry_point
        self.given = given
        self.values: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def check(self, check_local_paths: bool) -> None:
        declared = self.entry_point.parameters
        extra = [name for name in self.given if name not in declared]
        for name, parameter in declared.items():
            if name in self.given:
                self._check_given(parameter, self.given[name], check_local_paths)
            elif parameter.required:
                self.problems.append(
                    f"{self._label(parameter)}: no value given, and it has no default{self._meant(name, extra)}"
                )
            else:
                self._check_default(parameter, check_local_paths)
        for name in extra:
            self.values[name] = text = _text(self.given[name])
            meant = closest(name, [other for other in declared if other not in self.given]) if declared else None
            if "\0" in name or "\0" in text:
                self.problems.append(f"parameter {shown(name)}: the NUL character cannot be passed to a command")
            elif meant is not None and not declared[meant].required:
                self.warnings.append(
                    f"parameter {name!r} is not declared by entry point {self.entry_point.name!r} and is appended to "
                    f"its command; did you mean {meant!r}?"
                )

    def _check_given(self, parameter: Parameter, value: Any, check_local_paths: bool) -> None:
        self.values[parameter.name] = text = _text(value)
        why = (
            "is no value; leave the parameter out to use its default"
            if value is None and parameter.type != "string"
            else "contains the NUL character, which cannot be passed to a command"
            if "\0" in text
            else misfit(parameter.type, text) or self._path_fault(parameter, text, check_local_paths)
        )
        if why is not None:
            self.problems.append(f"{self._label(parameter)}: {shown(value)} {why}")
        elif value is None:
            self.warnings.append(
                f"parameter {parameter.name!r} was given None, and the command gets the text 'None', as under MLflow; "
                "leave the parameter out to use its default"
            )

    def _check_default(self, parameter: Parameter, check_local_paths: bool) -> None:
        self.values[parameter.name] = text = str(parameter.default)
        label = f"{self._label(parameter)}: the default {shown(parameter.default)}"
        why = misfit(parameter.type, text)
        fatal = self._path_fault(parameter, text, check_local_paths)
        if "\0" in text:
            fatal = "contains the NUL character, which cannot be passed to a command"
        elif parameter.type == "uri" and not _has_scheme(parameter.default):
            fatal = why
        if fatal is not None:
            self.problems.append(f"{label} {fatal}; give another value")
        elif why is not None:
            self.warnings.append(f"{label} {why}; it is used all the same, as under MLflow")

    def _path_fault(self, parameter: Parameter, text: str, check_local_paths: bool) -> str | None:
        if parameter.type != "path":
            return None
        local = _local_path(text)
        if local is None:
            return (
                "is not a local path, and data from elsewhere is not supported yet by this release; fetch it first, or "
                "declare the parameter as uri and let the code read it"
            )
        if not local:
            return "is empty, but a path is needed"
        if check_local_paths and not os.path.exists(local):  # noqa: PTH110 - no pathlib for a question to the file system
            return f"does not exist{'' if os.path.isabs(local) else f' below the current directory {os.getcwd()}'}"  # noqa: PTH109, PTH117
        return None

    def _label(self, parameter: Parameter) -> str:
        where = f", line {parameter.line}" if parameter.line is not None else ""
        return f"parameter {parameter.name!r} ({parameter.type}{where})"

    def _meant(self, name: str, extra: list[str]) -> str:
        written = closest(name, extra) if extra else None
        return f"; {written!r} was given, which it does not declare: did you mean {name!r}?" if written else ""


def _headline(entry_point: EntryPoint, problems: list[str]) -> str:
    where = f" ({entry_point.file})" if entry_point.file else ""
    return "\n".join(
        [
            f"Entry point {entry_point.name!r}{where} cannot run with these parameters:",
            *(f"  {text}" for text in problems),
        ]
    )


def _text(value: Any) -> str:
    return str(os.fspath(value)) if isinstance(value, os.PathLike) else str(value)


def _has_scheme(default: Any) -> bool:
    """Whether MLflow takes a value for a URI (`data_utils.is_uri`)."""
    from urllib.parse import urlparse

    if not isinstance(default, str):
        return False
    try:
        return bool(urlparse(default).scheme)
    except ValueError:
        return False


def _local_path(text: str) -> str | None:
    """The local path that a value of type path means, as MLflow reads it; None if it is elsewhere.

    From MLflow's `file_utils.get_local_path_or_none`: percent escapes are resolved, in paths without a scheme too.
    """
    from urllib.parse import unquote, urlparse

    try:
        parts = urlparse(text)
    except ValueError:
        return None
    if parts.scheme and (parts.scheme != "file" or parts.netloc):
        return None
    return unquote(parts.path if text.startswith("file:") else text)


def json_schema(entry_point: EntryPoint) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of the values an entry point takes.

    The default of a string is the text that the command gets. A default that does not fit its type is given as text.
    """
    properties = {name: _property(parameter) for name, parameter in entry_point.parameters.items()}
    project = entry_point.project
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{project}: {entry_point.name}" if project else entry_point.name,
        "description": f"Parameters of entry point {entry_point.name} of "
        + (f"the MLproject {project}" if project else "an MLproject without a name"),
        "type": "object",
        "properties": properties,
        "required": [name for name, parameter in entry_point.parameters.items() if parameter.required],
        "additionalProperties": True,
    }


_SCHEMA_TYPES: dict[str, dict[str, str]] = {
    "string": {"type": "string"},
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "path": {"type": "string", "format": "path"},
    "uri": {"type": "string", "format": "uri"},
}


def _property(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = dict(_SCHEMA_TYPES[parameter.type])
    if parameter.description is not None:
        described["description"] = parameter.description
    if parameter.default is None:
        return described
    text = str(parameter.default)
    described["default"] = text
    if misfit(parameter.type, text) is None:
        if parameter.type == "int":
            described["default"] = int(text)
        elif parameter.type == "float" and (number := float(text)) - number == 0:  # JSON knows no infinity
            described["default"] = number
    return described
