"""Values for an entry point: checked, quoted for the shell, and rendered into its command as MLflow does."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlproj_core.errors import InvalidParameters, UserError
from mlproj_core.spec.argument import settle
from mlproj_core.spec.problem import closest, invalid, shown
from mlproj_core.spec.project import EntryPoint, Parameter
from mlproj_core.spec.template import render
from mlproj_core.spec.types import chosen, misfit

if TYPE_CHECKING:
    from mlproj_core.data.remote import Download

__all__ = ["BoundEntryPoint", "bind", "json_schema"]


@dataclass(frozen=True)
class BoundEntryPoint:
    """An entry point with a value for every parameter that needs one: ready to run.

    Attributes:
        name: the entry point's name.
        command: the command for `bash -c`, byte for byte as MLflow renders it.
        parameters: what MLflow logs as the run's parameters, the extra ones too: values, and the names of extra ones,
            are quoted for the shell; a path is logged as it was given.
        values: the same values as plain text, under plain names.
        warnings: what is odd about the values but does not keep them from being used.
        secrets: the values of secret parameters, which are in none of the others: variables of the project's process.
        downloads: what must be fetched before the command can run; its paths stand in the command already.
    """

    name: str
    command: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    downloads: tuple[Download, ...] = ()


def bind(
    entry_point: EntryPoint,
    parameters: Mapping[str, Any] | None = None,
    storage_dir: str | os.PathLike[str] | None = None,
    *,
    check_local_paths: bool = True,
    variables: Mapping[str, str] | None = None,
    exposed: bool = False,
) -> BoundEntryPoint:
    """Check a caller's values and render the command with them.

    Args:
        entry_point: what to run.
        parameters: values by name. Those that the entry point does not declare are appended to its command, as
            `--name value`. None is no value to an optional parameter.
        storage_dir: as for MLflow's `compute_command`: given, local paths become absolute in the command, starting at
            the current working directory, as in every run, and data from elsewhere gets a place below it, of which
            the run is the only user. Nothing is fetched here. None leaves paths as they are written.
        check_local_paths: whether local paths are of this host, and must exist here: the project runs as a local
            process. If not, they stay as they are written.
        variables: the environment variables in which secret parameters are looked up that are not given; by default
            those of this process. An empty one is none.
        exposed: whether others can read `parameters` where they stand, as on a command line: secret ones are refused
            then, unless they are wrapped in something like pydantic's `SecretStr`, with a `get_secret_value()`.

    Raises:
        InvalidParameters: values are missing or do not fit their types; it lists all of them.
        InvalidProject: the entry point has no command, or one that cannot be rendered.
        UserError: `parameters` is no mapping.
    """
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UserError(f"Parameters must be a mapping of names to values, got {shown(parameters)}.")
    if faulty := entry_point.command_problems():
        raise invalid(f"Entry point {entry_point.name!r} cannot run", faulty)
    given = {str(name): value for name, value in (parameters or {}).items()}
    binder = _Binder(
        entry_point,
        given,
        os.environ if variables is None else variables,
        exposed=exposed,
        fetches=bool(storage_dir),
    )
    binder.check(check_local_paths)
    if binder.problems:
        raise InvalidParameters(_headline(entry_point, binder.problems), binder.problems)
    values = binder.values
    extra = {name: text for name, text in values.items() if name not in entry_point.parameters}
    logged = {name: shlex.quote(values[name]) for name in entry_point.parameters if name in values}
    rendered = dict(logged)
    downloads: list[Download] = []
    if storage_dir:
        for position, (name, parameter) in enumerate(entry_point.parameters.items()):
            if parameter.type == "path" and name in values:
                local = _local_path(values[name])
                if local is None:
                    downloads.append(_download(name, values[name], os.path.join(storage_dir, f"param_{position}")))  # noqa: PTH118
                    local = downloads[-1].path
                elif not check_local_paths:  # a path of where it runs, and relative to the project there
                    continue
                rendered[name] = shlex.quote(os.path.abspath(local))  # noqa: PTH100
    if faulty := entry_point.command_problems(rendered):
        raise invalid(f"Entry point {entry_point.name!r} cannot run with these values", faulty)
    quoted_extra = {shlex.quote(name): shlex.quote(text) for name, text in extra.items()}
    template = settle(entry_point.command, entry_point.parameters, rendered)
    command = " ".join([render(template, rendered), *(f"--{name} {text}" for name, text in quoted_extra.items())])
    return BoundEntryPoint(
        name=entry_point.name,
        command=command,
        parameters={**logged, **quoted_extra},
        values=values,
        warnings=tuple(binder.warnings),
        secrets=binder.secrets,
        downloads=tuple(downloads),
    )


class _Binder:
    """Turns given and default values into text, and notes every problem on the way."""

    def __init__(
        self,
        entry_point: EntryPoint,
        given: Mapping[str, Any],
        variables: Mapping[str, str],
        *,
        exposed: bool,
        fetches: bool,
    ) -> None:
        self.entry_point = entry_point
        self.fetches = fetches
        self.given = given
        self.variables = variables
        self.exposed = exposed
        self.values: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def check(self, check_local_paths: bool) -> None:
        declared = self.entry_point.parameters
        extra = [name for name in self.given if name not in declared]
        for name, parameter in declared.items():
            if parameter.secret:
                self._check_secret(parameter)
            elif parameter.optional and self.given.get(name) is None:
                continue
            elif name in self.given:
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
            if meant is not None and declared[meant].secret:
                self.problems.append(
                    f"parameter {name!r}: it is not declared, and would be shown; did you mean {meant!r}, a secret?"
                )
            elif _unwrap(self.given[name]) is not None:
                self.problems.append(f"parameter {name!r}: {_UNDECLARED}")
            elif "\0" in name or "\0" in text:
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
            else _UNDECLARED
            if _unwrap(value) is not None
            else misfit(parameter.type, text)
            or self._path_fault(parameter, text, check_local_paths)
            or self._choose(parameter, text)
        )
        if why is not None:
            self.problems.append(f"{self._label(parameter)}: {shown(value)} {why}")
        elif value is None:
            self.warnings.append(
                f"parameter {parameter.name!r} was given None, and the command gets the text 'None', as under MLflow; "
                "leave the parameter out to use its default"
            )
        elif parameter.optional and text == "None":
            self.warnings.append(
                f"parameter {parameter.name!r} is optional and was given the text 'None', which is a value; leave the "
                "parameter out for no value"
            )

    def _choose(self, parameter: Parameter, text: str) -> str | None:
        """Take a value as it is written where all are listed; why it is none of them."""
        if parameter.type == "bool":
            self.values[parameter.name] = text.capitalize()  # as Python and MLflow write a truth value
        elif parameter.enum:
            found = chosen(parameter.type, text, parameter.enum)
            if found is None:
                meant = closest(text, parameter.enum)
                allowed = ", ".join(map(repr, parameter.enum))
                return f"is none of {allowed}" + (f"; did you mean {meant!r}?" if meant else "")
            self.values[parameter.name] = found
        return None

    def _check_secret(self, parameter: Parameter) -> None:
        name, label = parameter.name, self._label(parameter)
        given = self.given.get(name)
        wrapped = _unwrap(given)
        if given is not None and wrapped is None and self.exposed:
            self.problems.append(
                f"{label}: it is secret, and others could read it here; give it as the environment variable {name} "
                "(--env-var, env_vars), or leave it out where that is set already"
            )
            return
        text = self.variables.get(name, "") if given is None else _text(given) if wrapped is None else wrapped
        if "\0" in text:
            self.problems.append(f"{label}: the value contains the NUL character, which no variable can hold")
        elif text:
            self.secrets[name] = text
        elif parameter.required:
            self.problems.append(
                f"{label}: no value given; it is secret, so set the environment variable {name}, or name that in "
                "env_vars"
            )

    def _check_default(self, parameter: Parameter, check_local_paths: bool) -> None:
        self.values[parameter.name] = text = str(parameter.default)
        if parameter.enum:
            self._choose(parameter, text)
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
            return self._remote_fault(parameter, text)
        if not local:
            return "is empty, but a path is needed"
        if check_local_paths and not os.path.exists(local):  # noqa: PTH110 - no pathlib for a question to the file system
            return f"does not exist{'' if os.path.isabs(local) else f' below the current directory {os.getcwd()}'}"  # noqa: PTH109, PTH117
        return None

    def _remote_fault(self, parameter: Parameter, text: str) -> str | None:
        from mlproj_core.data.remote import fault, missing_library, signature_in

        why = fault(text) or (missing_library(text) if self.fetches else None)
        if why is None and (name := signature_in(text)) is not None:
            self.warnings.append(
                f"parameter {parameter.name!r}: the query of its URL holds {name!r}, which may be a secret, and is "
                "recorded with the run"
            )
        return why

    def _label(self, parameter: Parameter) -> str:
        where = f", line {parameter.line}" if parameter.line is not None else ""
        return f"parameter {parameter.name!r} ({'secret' if parameter.secret else parameter.type}{where})"

    def _meant(self, name: str, extra: list[str]) -> str:
        written = closest(name, extra) if extra else None
        return f"; {written!r} was given, which it does not declare: did you mean {name!r}?" if written else ""


_UNDECLARED = "is given as a secret, but would be shown: it is not declared as one (secret: true)"


def _unwrap(value: Any) -> str | None:
    """The text in a value of a type such as pydantic's `SecretStr`, which no message shows; None of any other value."""
    get = getattr(value, "get_secret_value", None)
    return str(get()) if callable(get) else None


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


def _download(parameter: str, uri: str, directory: str) -> Download:
    from mlproj_core.data.remote import Download, basename

    return Download(parameter, uri, os.path.abspath(os.path.join(directory, basename(uri))))  # noqa: PTH100, PTH118


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
    An optional parameter may be null. A secret one is marked `writeOnly`, and is not required, since it may be there as
    an environment variable.
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
        "required": [
            name for name, parameter in entry_point.parameters.items() if parameter.required and not parameter.secret
        ],
        "additionalProperties": True,
    }


_SCHEMA_TYPES: dict[str, dict[str, str]] = {
    "string": {"type": "string"},
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "path": {"type": "string", "format": "path"},
    "uri": {"type": "string", "format": "uri"},
    "bool": {"type": "boolean"},
}


def _property(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = dict(_SCHEMA_TYPES[parameter.type])
    if parameter.description is not None:
        described["description"] = parameter.description
    if parameter.enum:
        described["enum"] = [_typed(parameter.type, text) for text in parameter.enum]
    if parameter.secret:
        described["writeOnly"] = True
    elif parameter.optional:
        described["type"] = [described["type"], "null"]
        if parameter.enum:
            described["enum"].append(None)
    if parameter.default is not None:
        described["default"] = _typed(parameter.type, str(parameter.default))
    return described


def _typed(parameter_type: str, text: str) -> Any:
    """A text as a JSON value of its type; what does not fit, or JSON lacks, stays text."""
    if misfit(parameter_type, text) is not None:
        return text
    if parameter_type == "bool":
        return text.lower() == "true"
    if parameter_type == "int":
        return int(text)
    if parameter_type == "float" and (number := float(text)) - number == 0:  # JSON knows no infinity
        return number
    return text
