"""The published fields of the API, for which the SDK's dataclasses stand: what a body may hold, and of which type."""

import dataclasses
import enum
import functools
import inspect
import types
import typing

from databricks.sdk.service import jobs
from databricks_refusals import malformed

CASELESS = {jobs.GitProvider}
"""Enumerations whose words may be written in any case."""


@functools.cache
def submit_fields():
    """The fields of the body of runs/submit: name to type."""
    hints = typing.get_type_hints(jobs.JobsAPI.submit, vars(jobs))
    return {name: hints[name] for name in inspect.signature(jobs.JobsAPI.submit).parameters if name != "self"}


def check_submission(body):
    """Raises: Refusal, where a field of runs/submit is unknown, lacks, or is of another type."""
    _check_fields(body, submit_fields(), "")


def check_fields(body, **fields):
    """Check the fields of a small body, all of which may be missing: name to type.

    Raises: Refusal.
    """
    _check_fields(body, {name: typing.Optional[kind] for name, kind in fields.items()}, "")  # noqa: UP045


def check_is(value, kind):
    """Check that a value is of a dataclass's form, as what it was parsed from. Raises: Refusal."""
    _check(value, kind, kind.__name__)


def _check_fields(value, fields, path, required=()):
    if not isinstance(value, dict):
        raise malformed(f"Expected object for field {path or 'body'}")
    for name, inner in value.items():
        if name not in fields:
            raise malformed(f"Unrecognized field {_at(path, name)}")
        _check(inner, fields[name], _at(path, name))
    for name in required:
        if value.get(name) is None:
            raise malformed(f"Missing required field: {_at(path, name)}")


def _check(value, kind, path):
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return
        (kind,) = [one for one in typing.get_args(kind) if one is not type(None)]
        origin = typing.get_origin(kind)
    if kind is typing.Any:
        return
    if origin is list:
        if not isinstance(value, list):
            raise malformed(f"Expected list for field {path}")
        for number, inner in enumerate(value):
            _check(inner, typing.get_args(kind)[0], f"{path}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict):
            raise malformed(f"Expected object for field {path}")
        for name, inner in value.items():
            _check(inner, typing.get_args(kind)[1], _at(path, name))
    elif dataclasses.is_dataclass(kind):
        fields, required = _fields_of(kind)
        _check_fields(value, fields, path, required)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        words = {one.value for one in kind}
        if value not in words and not (kind in CASELESS and str(value).lower() in {word.lower() for word in words}):
            raise malformed(f"Invalid value for field {path}: {value!r} is none of {', '.join(sorted(words))}")
    elif not _is_a(value, kind):
        raise malformed(f"Expected {kind.__name__} for field {path}, not {type(value).__name__}")


def _is_a(value, kind):
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)


@functools.cache
def _fields_of(kind):
    # As locals too: a field may have the name of the module that its type is of.
    known = vars(inspect.getmodule(kind))
    hints = typing.get_type_hints(kind, known, known)
    required = [one.name for one in dataclasses.fields(kind) if one.default is dataclasses.MISSING]
    return {one.name: hints[one.name] for one in dataclasses.fields(kind)}, tuple(required)


def _at(path, name):
    return f"{path}.{name}" if path else str(name)
