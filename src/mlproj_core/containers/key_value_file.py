"""Files of lines KEY=VALUE, as `docker run` reads them for `--env-file` and `--label-file`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["read_key_values"]


def read_key_values(path: Path) -> list[tuple[str, str | None]]:
    """Keys and values, in their order; the rules are those of `pkg/kvfile` of docker's command line.

    Nothing is quoted, and blanks belong to a value. A line that starts with `#` is a comment.

    Args:
        path: the file.

    Returns:
        Pairs; the value is None where a line has no equals sign.

    Raises:
        ValueError: the file cannot be read, is no UTF-8, or has a line with a bad key. It shows no value.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error
    pairs: list[tuple[str, str | None]] = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not key or " " in key or "\t" in key or "\0" in line:
            raise ValueError(f"line {number}: expected NAME=VALUE, no blank in the name and no NUL")
        pairs.append((key, value if equals else None))
    return pairs
