"""Arguments that come and go with a parameter's value, in the command of a project of `mlproj: 1`.

The syntax is that of a command line, so that MLflow renders the same text wherever there is a value:

    --alpha {alpha}     --alpha={alpha}     -a{alpha}     alpha={alpha}     {alpha}

An optional parameter without a value takes the whole of it away. Of a parameter of type bool nothing but the option is
left, or nothing at all. What could be read in two ways is refused, so that no part of a command vanishes unexpectedly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlproj_core.spec.template import Fault, Placeholder, placeholders

if TYPE_CHECKING:
    from mlproj_core.spec.project import Parameter

__all__ = ["argument_faults", "settle"]

# Patterns are compiled when they are first used: few projects need them.

_BLANK = r"(?:[ \t]|\\\n)"
"""What separates words of one command: a bare newline ends the command."""

_PLAIN = r"[^\s;&|()<>'\"`$\\{}]"
"""A character that means only itself to the shell and to `str.format`."""

_WORD = rf"(?:\A|(?<=[\s;&|(`])){_PLAIN}*\Z"
"""The part of a word that stands before a placeholder."""

_OPTION = rf"(?:\A|(?<=[\s;&|(`]))(--?[A-Za-z](?:(?!=){_PLAIN})*){_BLANK}+\Z"
"""An option that may take the next word as its value, and the blank after it."""

_IS_OPTION = r"--?[A-Za-z][^=]*\Z"

_ENDS_WORD = r"\Z|[\s;&|)`]"

_REDIRECTION = rf"[<>]&?{_BLANK}*\Z"


@dataclass(frozen=True)
class _Argument:
    """Where the argument of a parameter stands in a command.

    Attributes:
        name: the parameter.
        gap: where the blank before it begins.
        start: where it begins.
        end: where it ends.
        option: what of it names the option, such as `--alpha`; empty if it has none.
    """

    name: str
    gap: int
    start: int
    end: int
    option: str


def settle(command: str, parameters: Mapping[str, Parameter], values: Mapping[str, str]) -> str:
    """The command with every argument that comes and goes decided: gone, or there. What is left is to be rendered.

    Args:
        command: the template, without `argument_faults`.
        parameters: the entry point's.
        values: the values that there are, by name; a bool's is "True" or "False".
    """
    found = [argument for argument in _arguments(command, parameters) if isinstance(argument, _Argument)]
    for argument in reversed(found):
        if parameters[argument.name].type == "bool":
            kept = command[argument.gap : argument.start] + argument.option if values[argument.name] == "True" else ""
        elif argument.name in values:
            continue
        else:
            kept = ""
        command = command[: argument.gap] + kept + command[argument.end :]
    return command


def argument_faults(command: str, parameters: Mapping[str, Parameter]) -> list[Fault]:
    """Every placeholder of an optional, bool or secret parameter that stands where it cannot."""
    return [fault for fault in _arguments(command, parameters) if isinstance(fault, Fault)]


def _arguments(command: str, parameters: Mapping[str, Parameter]) -> Iterator[_Argument | Fault]:
    changing = {name for name, one in parameters.items() if one.optional or one.secret or one.type == "bool"}
    if not changing:
        return
    try:
        for placeholder in placeholders(command):
            name = next((part.name for part in (placeholder, *placeholder.nested) if part.name in changing), None)
            if name is not None:
                yield _argument(command, placeholder, parameters[name])
    except ValueError:
        return  # braces that do not match are a fault of the template


def _argument(command: str, placeholder: Placeholder, parameter: Parameter) -> _Argument | Fault:
    name, text = parameter.name, placeholder.text

    def fault(message: str, remedy: str) -> Fault:
        return Fault(text, placeholder.occurrence, f"the placeholder {text} {message}", remedy)

    if parameter.secret:
        return fault(
            "would put a secret on the command line, where others can read it",
            f"remove it: the code finds the value in the environment variable {name}",
        )
    kind = "a bool" if parameter.type == "bool" else "an optional parameter"
    usual = f"--{name} {{{name}}}"
    if text != f"{{{name}}}":
        return fault(f"formats {kind}, which may have no value", f"write it as it is: {usual}")
    before, end = command[: placeholder.at], placeholder.at + len(text)
    word = re.search(_WORD, before)
    if (
        word is None
        or not re.match(_ENDS_WORD, command[end:])
        or (word[0] and word[0][0] != "-" and word[0][-1] != "=")
    ):
        return fault(f"is part of a word, but {kind} needs one of its own", f"write {usual}")
    before = before[: word.start()]
    if re.search(_REDIRECTION, before):
        return fault(f"names the file of a redirection, but {kind} may have no value", "give the parameter a default")
    option, start = word[0].removesuffix("="), word.start()
    ahead = None if option.startswith("-") else re.search(_OPTION, before)
    if ahead is not None and not (parameter.type == "bool" and option):
        # Of a bool it is the option, since a bool is no value of any other. Else a flag could stand before a
        # positional argument.
        if parameter.type != "bool" and (option or _folded(ahead[1].lstrip("-")) != _folded(name)):
            own = ahead[1] + ("=" if ahead[1].startswith("--") else "") + text
            return fault(
                f"of an optional parameter stands after {ahead[1]}, which may be its option or a flag of its own",
                f"write {own} if it is the option; else move {word[0]}{text} to another place, or write -- before it",
            )
        option, start = ahead[1], ahead.start()
    if parameter.type == "bool" and not re.match(_IS_OPTION, option):
        return fault("is a bool and has no option", f"write {usual}: what is left of it is --{name}, or nothing")
    gap = re.search(rf"{_BLANK}*\Z", command[:start])
    return _Argument(name, gap.start() if gap else start, start, end, option)


def _folded(name: str) -> str:
    return name.replace("-", "_").lower()
