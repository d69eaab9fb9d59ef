"""What several commands take: pairs, durations, turns."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["duration", "pairs", "read_config", "size", "turn_numbers", "variables"]

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


def read_config(text: str | None, option: str) -> dict[str, Any]:
    """A backend's settings as an option gives them: the name of a .json file, or JSON text."""
    import json

    from mlproj_core.request import read_backend_config

    if text is None or text.endswith(".json"):
        return read_backend_config(text)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option} is neither the name of a .json file nor JSON: {error}") from error
    if not isinstance(config, dict):
        raise click.UsageError(f"{option} must be a JSON object; got {config!r}")
    return config


def pairs(arguments: Sequence[str], option: str, *, flags: bool = False, repeated: bool = False) -> dict[str, Any]:
    """The pairs of an option NAME=VALUE that may be given several times; the rules are those of `mlflow run`.

    Args:
        arguments: as given.
        option: its name, for messages.
        flags: whether a NAME alone may stand for True.
        repeated: whether a NAME may be given several times, and then stands for the list of its values.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals and not flags:
            raise click.UsageError(f"Invalid format for {option}: {argument!r}. Use {option} name=value.")
        value = text if equals else True
        if name not in found:
            found[name] = value
        elif repeated:
            before = found[name]
            found[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            raise click.UsageError(f"{option} {name!r} is given more than once.")
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
