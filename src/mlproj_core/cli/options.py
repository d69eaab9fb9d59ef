"""What several commands take: pairs, durations, turns."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["duration", "pairs", "size", "turn_numbers", "variables"]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def duration(text: str) -> float:
    """The seconds of a duration given as `90`, `90s`, `1.5h`, `30m`, `7d` or `2w`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text)
    if match is None:
        raise click.BadParameter(
            f"{text!r} is no duration. Give seconds, or a number with s, m, h, d or w: 90, 30m, 7d."
        )
    return float(match[1]) * UNITS[match[2] or "s"]


SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size(text: str) -> int:
    """The bytes of a size given as `500MB`, `20GB`, `1.5TiB` or a bare number; K, M, G and T are powers of 1000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is no size. Give bytes, or a number with a unit: 500MB, 20GB, 1.5TiB.")
    return int(float(match[1]) * SIZES[(match[2] or "").lower()])


def turn_numbers(text: str) -> list[int]:
    """The integers of a turn given as `2` or, when it takes several in order, as `1.2`."""
    try:
        return [int(part) for part in re.split("[.,]", text)]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no turn. Give an integer, or several in order: 2, 1.2.") from error


def pairs(arguments: Sequence[str], option: str, *, flags: bool = False) -> dict[str, Any]:
    """The pairs of an option NAME=VALUE that may be given several times; the rules are those of `mlflow run`.

    Args:
        arguments: as given.
        option: its name, for messages.
        flags: whether a NAME alone may stand for True.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals and not flags:
            raise click.UsageError(f"Invalid format for {option}: {argument!r}. Use {option} name=value.")
        if name in found:
            raise click.UsageError(f"{option} {name!r} is given more than once.")
        found[name] = value if equals else True
    return found


def variables(arguments: Sequence[str]) -> dict[str, str]:
    """The environment variables of `--env-var`: NAME=VALUE, or NAME to copy this process's own.

    A secret that is copied shows in no process list and in no shell history.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in found:
            raise click.UsageError(f"--env-var {name!r} is given more than once.")
        if not equals and name not in os.environ:
            raise click.UsageError(
                f"--env-var {name}: there is no variable {name} to copy. Set it, or give --env-var {name}=VALUE."
            )
        found[name] = value if equals else os.environ[name]
    return found
