"""What the values of `docker run` flags mean, each read from its text.

A reader gives a JSON value of the Engine API, or raises ValueError with what is wrong; the text itself is not in that
message. The rules are those of docker's command line (`opts/` and `cli/command/container/opts.go` of docker/cli).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

__all__ = [
    "Reader",
    "absolute",
    "any_text",
    "capability",
    "choice",
    "clean",
    "cpus",
    "duration",
    "fields",
    "in_a_list",
    "key_value",
    "octal",
    "option",
    "platform",
    "size",
    "size_or_unlimited",
    "switch",
    "sysctl",
    "tmpfs",
    "ulimit",
    "whole",
]

Reader: TypeAlias = Callable[[str], Any]

_SIZE = re.compile(r"(\d+\.?\d*|\.\d+) ?(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SYSCTL = re.compile(
    r"(kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|net\..+|fs\.mqueue\..+)=.*", re.DOTALL
)

ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
)  # fmt: skip


def any_text(text: str) -> str:
    """Text that the engine itself judges."""
    return text


def clean(text: str) -> str:
    """A name, which is not empty and has no blank in it."""
    if not text or re.search(r"\s", text):
        raise ValueError("must be a name without blanks")
    return text


def capability(text: str) -> list[str]:
    """A capability of Linux by its full name, or ALL."""
    name = clean(text).upper()
    return [name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"]


def absolute(text: str) -> str:
    """A path in the container."""
    if not text.startswith("/"):
        raise ValueError("must be an absolute path in the container, such as /data")
    return text


def in_a_list(text: str) -> list[str]:
    """A list that holds the text."""
    return [text]


def switch(text: str) -> bool:
    """On or off, by the words that Go's `strconv.ParseBool` knows."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("must be True or False")


def choice(*words: str, prefixes: tuple[str, ...] = ()) -> Reader:
    """One of a few words, or one that starts with a prefix such as `container:`."""
    shown = [*words, *(f"{prefix}NAME" for prefix in prefixes)]

    def read(text: str) -> str:
        named = any(text.startswith(prefix) and len(text) > len(prefix) for prefix in prefixes)
        if text not in words and not named:
            raise ValueError(f"must be {' or '.join(shown)}")
        return text

    return read


def whole(lowest: int, highest: int | None = None) -> Reader:
    """A whole number within bounds, both included."""
    bounds = f", {lowest} or more" if highest is None else f" from {lowest} to {highest}"

    def read(text: str) -> int:
        if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
            number = int(text)
            if number >= lowest and (highest is None or number <= highest):
                return number
        raise ValueError(f"must be a whole number{bounds}")

    return read


def size(text: str) -> int:
    """Bytes; the units b, k, m, g, t and p are powers of 1024 (`RAMInBytes` of docker/go-units)."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("must be a size, such as 512m or 4g")
    return int(Fraction(match[1]) * _UNITS[(match[2] or "").lower()])


def size_or_unlimited(text: str) -> int:
    """Bytes, or -1 for no limit."""
    try:
        return -1 if text == "-1" else size(text)
    except ValueError as error:
        raise ValueError(f"{error}, or -1 for no limit") from None


def cpus(text: str) -> int:
    """A number of CPUs, in billionths of one."""
    try:
        nano = Fraction(text) * 10**9
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be a number of CPUs, such as 2 or 1.5") from None
    if nano < 0 or nano.denominator != 1:
        raise ValueError("must be a number of CPUs from 0, with nine decimals at most")
    return int(nano)


def duration(text: str) -> int:
    """A time such as `1m30s`, in nanoseconds."""
    parts = _DURATION.findall(text)
    if text != "0" and (not parts or "".join(number + unit for number, unit in parts) != text):
        raise ValueError("must be a time, such as 30s or 1m30s")
    return int(sum(Fraction(number) * _NANOSECONDS[unit] for number, unit in parts))


def fields(text: str) -> list[str]:
    """The fields of a value that commas join; one with a comma in it is quoted, as in CSV."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise ValueError("must be fields joined by commas") from None


def octal(text: str) -> int:
    """The mode of a file."""
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise ValueError("must be the mode of a file, such as 1777")
    return int(text, 8)


def key_value(text: str) -> dict[str, str]:
    """A pair NAME=VALUE; the name alone has the empty value."""
    name, _, value = text.partition("=")
    if not name.strip() or re.search(r"\s", name.lstrip()):
        raise ValueError("must be NAME=VALUE, and no blank in the name")
    return {name: value}


def option(text: str) -> dict[str, str]:
    """A pair NAME=VALUE, whose value may not be left out."""
    if "=" not in text:
        raise ValueError("must be NAME=VALUE")
    return key_value(text)


def platform(text: str) -> str:
    """A platform OS, OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+){0,2}", text, re.ASCII):
        raise ValueError("must be a platform, such as linux/amd64")
    return text


def sysctl(text: str) -> dict[str, str]:
    """A kernel parameter that a container can have for itself."""
    if not _SYSCTL.fullmatch(text):
        raise ValueError("must be NAME=VALUE of a parameter under net. or fs.mqueue., or one for System V IPC")
    return key_value(text)


def ulimit(text: str) -> dict[str, dict[str, Any]]:
    """A limit NAME=SOFT or NAME=SOFT:HARD under its name; -1 is no limit."""
    name, _, limits = text.partition("=")
    match = re.fullmatch(r"(-?\d+)(?::(-?\d+))?", limits, re.ASCII)
    if name not in ULIMITS or match is None:
        raise ValueError(f"must be NAME=SOFT[:HARD], as nofile=1024:2048; names are {', '.join(ULIMITS)}")
    soft, hard = int(match[1]), int(match[2] or match[1])
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError("must have a hard limit that is not below the soft one")
    return {name: {"Name": name, "Soft": soft, "Hard": hard}}


def tmpfs(text: str) -> dict[str, str]:
    """A file system in memory, PATH or PATH:OPTIONS."""
    path, _, options = text.partition(":")
    return {absolute(path): options}
