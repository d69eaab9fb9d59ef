"""The command of an entry point as a template, filled in as `str.format` does, since that is what MLflow calls."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter

from mlproj_core.spec.problem import closest

__all__ = ["Fault", "Placeholder", "escape", "faults", "placeholders", "render"]


@dataclass(frozen=True)
class Placeholder:
    """A `{…}` in a command.

    Attributes:
        text: as written, braces included.
        name: the parameter it names.
        access: what follows the name, such as `[0]`; empty mostly.
        nested: the parameters named inside its format specification.
        at: where it begins in the command.
        occurrence: how many times the same text stands before it in the command.
        after_dollar: whether it was probably meant for the shell: `${…}`.
    """

    text: str
    name: str
    access: str
    nested: tuple[Placeholder, ...]
    at: int
    occurrence: int
    after_dollar: bool


@dataclass(frozen=True)
class Fault:
    """Why a command cannot be rendered.

    Attributes:
        text: the part of the command that is wrong.
        occurrence: which occurrence of that text, from 0.
        message: what is wrong.
        remedy: how to mend it.
    """

    text: str
    occurrence: int
    message: str
    remedy: str


def escape(text: str) -> str:
    """The template that renders as this text."""
    return text.replace("{", "{{").replace("}", "}}")


def placeholders(command: str) -> Iterator[Placeholder]:
    """The placeholders of a command, in order.

    Raises:
        ValueError: the braces do not match; placeholders before that point have been given.
    """
    at = 0
    for literal, name, specification, conversion in Formatter().parse(command):
        at += len(literal)
        if name is None:
            at += literal.endswith(("{", "}"))  # written twice
            continue
        text = (
            "{" + name + (f"!{conversion}" if conversion else "") + (f":{specification}" if specification else "") + "}"
        )
        if not command.startswith(text, at):
            text = f"{text[:-1]}:}}"
        cut = min((i for i in (name.find("."), name.find("[")) if i >= 0), default=len(name))
        yield Placeholder(
            text=text,
            name=name[:cut],
            access=name[cut:],
            nested=tuple(placeholders(specification)) if specification else (),
            at=at,
            occurrence=command.count(text, 0, at),
            after_dollar=command[at - 1 : at] == "$",
        )
        at += len(text)


def faults(command: str, declared: Collection[str], values: Mapping[str, str] | None = None) -> list[Fault]:
    """Everything that keeps a command from being rendered.

    Args:
        command: the template.
        declared: the names of the entry point's parameters.
        values: the quoted values; without them only what is wrong for every value is found.
    """
    found = []
    try:
        for placeholder in placeholders(command):
            if fault := _fault(placeholder, declared, values):
                found.append(fault)
    except ValueError as error:
        text, occurrence = _stray_brace(command)
        message = f"the braces of the command do not match: {error}"
        found.append(Fault(text, occurrence, message, "write a brace that is meant literally twice: {{ or }}"))
    return found


def render(command: str, values: Mapping[str, str]) -> str:
    """The command with each placeholder replaced; only for a command and values without `faults`."""
    return command.format(**values)


def _fault(placeholder: Placeholder, declared: Collection[str], values: Mapping[str, str] | None) -> Fault | None:
    for part in (placeholder, *placeholder.nested):
        if part.name not in declared:
            return Fault(placeholder.text, placeholder.occurrence, *_undeclared(placeholder, part, declared))
        if "." in _outside_brackets(part.access):
            message = f"the placeholder {placeholder.text} reads an attribute of a value, which is not supported"
            remedy = f"write {{{part.name}}}, or double the braces if they are meant for the shell"
            return Fault(placeholder.text, placeholder.occurrence, message, remedy)
    try:
        placeholder.text.format(**(values if values is not None else dict.fromkeys(declared, "8" * 4)))
    except (ValueError, TypeError, LookupError) as error:
        if values is None and isinstance(error, IndexError):
            return None  # depends on the value's length
        message = f"the placeholder {placeholder.text} cannot be filled in: {error}"
        remedy = f"write {{{placeholder.name}}}: values are quoted text, so number formats and keys do not apply"
        return Fault(placeholder.text, placeholder.occurrence, message, remedy)
    return None


def _outside_brackets(access: str) -> str:
    depth, kept = 0, []
    for character in access:
        depth += (character == "[") - (character == "]")
        if depth == 0:
            kept.append(character)
    return "".join(kept)


def _undeclared(placeholder: Placeholder, part: Placeholder, declared: Collection[str]) -> tuple[str, str]:
    text, name = placeholder.text, part.name
    if not name or name.isdecimal():
        return (
            f"the placeholder {text} has no parameter's name",
            "write the name of a parameter, or double the braces ({{ }}) if they are meant literally",
        )
    message = f"the placeholder {text} names {name!r}, which is no parameter of this entry point"
    doubled = "{" + text + "}"
    if part.name + part.access in declared:
        return (
            f"the placeholder {text} cannot reach the parameter {name + part.access!r}: "
            "what follows a dot or bracket is not part of a placeholder's name",
            "rename the parameter, without dots and brackets",
        )
    if name.strip() in declared:
        return message, f"write {{{name.strip()}}}, without spaces"
    if placeholder.after_dollar:
        return message, f"write ${doubled} for a variable of the shell, or declare a parameter {name}"
    if not name.replace("_", "a").replace("-", "a").isalnum():
        return message, f"double braces that are meant literally: {doubled}"
    meant = closest(name, declared)
    if meant is not None:
        return message, f"did you mean {{{meant}}}?"
    return message, f"declare it under parameters, or double the braces if they are meant literally: {doubled}"


def _stray_brace(command: str) -> tuple[str, int]:
    """The text from the first brace without a partner to the end of its line, and which occurrence of it."""
    opened: list[int] = []
    at = 0
    stray = None
    while at < len(command):
        character = command[at]
        if not opened and command[at : at + 2] in ("{{", "}}"):
            at += 2
            continue
        if character == "{":
            opened.append(at)
        elif character == "}":
            if not opened:
                stray = at
                break
            opened.pop()
        at += 1
    if stray is None:
        stray = opened[0] if opened else 0
    text = command[stray:].split("\n", 1)[0]
    return text, command.count(text, 0, stray)
