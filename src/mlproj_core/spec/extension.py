"""What a project of `mlproj: 1` may declare of a parameter beyond MLflow: `bool`, `enum`, `optional`, `secret`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlproj_core.spec.document import Document, kind
from mlproj_core.spec.problem import Problem, closest, shown
from mlproj_core.spec.project import Parameter
from mlproj_core.spec.types import EXTENDED_TYPES, MEANT_EXTENDED, chosen, misfit

__all__ = ["EXTENSION_KEYS", "OPT_IN", "PARAMETER_KEYS", "VERSION", "VERSION_KEY", "read_extended", "version_problem"]

VERSION_KEY = "mlproj"
VERSION = 1
"""Of the additions: what this release reads."""

PARAMETER_KEYS = ("type", "default")
"""What MLflow reads of a parameter."""

EXTENSION_KEYS = ("enum", "optional", "secret")

OPT_IN = f"write '{VERSION_KEY}: {VERSION}' at the top of the file for mlproj to heed it"
"""What to do about a declaration that means something in such a project only."""

_RESERVED = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "PATH", "PYTHONUNBUFFERED")
"""Variables that every run sets itself, beside those that begin with `MLPROJ_`."""


def version_problem(document: Document, content: dict[Any, Any]) -> Problem | None:
    """What is wrong with the version that a project asks for; None if this release reads it."""
    written = content[VERSION_KEY]
    if type(written) is int and written == VERSION:
        return None
    message = f"{VERSION_KEY}: {shown(written)} is no version of the format that this release of mlproj reads"
    newer = isinstance(written, int) and written > VERSION
    remedy = f"write {VERSION_KEY}: {VERSION}" + (", or run the project with a newer mlproj" if newer else "")
    return document.problem(message, remedy, at=document.value_position(content, VERSION_KEY))


def read_extended(plain: Parameter, content: Any, document: Document) -> tuple[Parameter, list[Problem]]:
    """A parameter with what `mlproj: 1` adds to it.

    Nothing here is read as something else, as MLflow does: a misspelt `secret` must not show what is secret.

    Args:
        plain: the parameter as it is read without.
        content: its declaration, a type or a mapping.
        document: the file.

    Returns:
        The parameter, and why it cannot be used.
    """
    return _Reader(plain, content, document).read()


class _Reader:
    """Reads one declaration, and notes every problem in it."""

    def __init__(self, plain: Parameter, content: Any, document: Document) -> None:
        self.plain = plain
        self.name = plain.name
        self.content: dict[Any, Any] = content if isinstance(content, dict) else {"type": content}
        self.container = content
        self.document = document
        self.problems: list[Problem] = []

    def read(self) -> tuple[Parameter, list[Problem]]:
        self.check_keys()
        type_ = self.type()
        optional, secret = self.flag("optional"), self.flag("secret")
        default = self.plain.default
        enum = self.enum(type_) if "enum" in self.content and type_ != "bool" and not secret else ()
        if type_ == "bool":
            default = self.bool_default(default)
            for key in [*(["optional"] if optional else []), *(["enum"] if "enum" in self.content else [])]:
                self.problem(key, f"is a bool, to which {key} adds nothing", f"remove {key}: a bool is true or false")
        elif optional and default is not None:
            self.problem("default", "is optional and has a default, so that it never lacks a value", "remove either")
        if enum and default is not None and chosen(type_, str(default), enum) is None:
            self.problem("default", f"has the default {shown(default)}", f"give one of {', '.join(enum)}")
        if secret:
            self.check_secret(type_)
        parameter = replace(self.plain, type=type_, default=default, enum=enum, optional=optional, secret=secret)
        return parameter, self.problems

    def problem(self, key: Any, what: str, remedy: str) -> None:
        at = (self.plain.line, self.plain.column)
        if isinstance(self.container, dict) and key in self.container:
            at = self.document.key_position(self.container, key)
        self.problems.append(self.document.problem(f"parameter {self.name!r} {what}", remedy, at=at))

    def check_keys(self) -> None:
        known = (*PARAMETER_KEYS, *EXTENSION_KEYS, "description")
        for key in self.content:
            if key not in known:
                meant = closest(str(key), known)
                remedy = f"did you mean {meant!r}?" if meant else f"remove it; the keys are {', '.join(known)}"
                self.problem(key, f"has the unknown key {str(key)!r}", remedy)

    def type(self) -> str:
        written = self.content.get("type")
        if written is None:
            return "string"
        if written in EXTENDED_TYPES:
            return str(written)
        meant = MEANT_EXTENDED.get(str(written).lower()) or closest(str(written), EXTENDED_TYPES)
        remedy = f"did you mean {meant!r}?" if meant else f"the types are {', '.join(EXTENDED_TYPES)}"
        if written == "enum":
            remedy = "list the values under enum: [...], of whatever type"
        elif written == "secret":
            remedy = "write secret: true"
        self.problem("type", f"has the unknown type {shown(written)}", remedy)
        return "string"

    def flag(self, key: str) -> bool:
        written = self.content.get(key, False)
        if not isinstance(written, bool):
            self.problem(key, f"has {key}: {shown(written)}, which is no truth value", f"write {key}: true")
        return written is True

    def bool_default(self, written: Any) -> bool:
        if written is None:
            return False
        if misfit("bool", str(written)):
            self.problem("default", f"is a bool and has the default {shown(written)}", "write true or false")
        return str(written).lower() == "true"

    def enum(self, type_: str) -> tuple[str, ...]:
        written = self.content["enum"]
        if not isinstance(written, list) or not written:
            self.problem("enum", f"has an enum that is {kind(written)}", "list the values: enum: [one, two]")
            return ()
        texts: list[str] = []
        for value in written:
            if not isinstance(value, str) and (isinstance(value, bool) or not isinstance(value, (int, float))):
                self.problem("enum", f"lists {value!r}, as YAML reads it", "quote it if it is meant as text")
            elif type_ == "string" and isinstance(value, float):
                self.problem("enum", f"is text and lists the number {value!r}, as YAML reads it", "quote it")
            elif why := misfit(type_, str(value)):
                self.problem("enum", f"lists {shown(value)}, which {why}", "correct the value or the type")
            elif chosen(type_, str(value), texts) is not None:
                self.problem("enum", f"lists {shown(value)} twice", "remove one")
            else:
                texts.append(str(value))
        return tuple(texts)

    def check_secret(self, type_: str) -> None:
        if type_ != "string":
            self.problem("type", f"is secret and has the type {type_}", "remove the type: a secret is text")
        for key in ("default", "enum"):
            if self.content.get(key) is not None:
                self.problem(key, f"is secret, but {key} would show its value to whoever reads this file", "remove it")
        if not (self.name.isascii() and self.name.isidentifier()):
            remedy = "rename it, such as API_TOKEN: letters, digits and underscores, no digit first"
            self.problem(None, "is secret, and its name cannot be that of an environment variable", remedy)
        elif self.name in _RESERVED or self.name.startswith("MLPROJ_"):
            self.problem(None, f"is secret, but every run sets the variable {self.name} itself", "rename it")
