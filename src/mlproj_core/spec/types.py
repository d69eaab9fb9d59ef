"""The types of parameters: which names MLproject files give them, and which text fits which type."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["EXTENDED_TYPES", "MEANT", "MEANT_EXTENDED", "TYPES", "chosen", "misfit", "read_type"]

TYPES = ("string", "float", "int", "path", "uri")

EXTENDED_TYPES = (*TYPES, "bool")
"""Those of a project of `mlproj: 1`."""

MEANT = {
    "str": "string",
    "text": "string",
    "integer": "int",
    "long": "int",
    "number": "float",
    "double": "float",
    "numeric": "float",
    "decimal": "float",
    "url": "uri",
    "file": "path",
    "dir": "path",
    "directory": "path",
}
"""What other type names probably mean. They are read as string, as under MLflow."""

MEANT_EXTENDED = {**MEANT, "boolean": "bool", "flag": "bool", "enum": "string", "secret": "string"}
"""What they probably mean in a project of `mlproj: 1`."""

NEED_HOST = frozenset(
    {
        "http",
        "https",
        "ftp",
        "sftp",
        "s3",
        "s3a",
        "s3n",
        "gs",
        "gcs",
        "wasb",
        "wasbs",
        "abfs",
        "abfss",
        "r2",
        "b2",
        "oss",
    }
)
"""Schemes that name nothing without a host or bucket."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_type(declared: object) -> str:
    """The type that a declared type name stands for; MLflow matches names exactly and reads any other as string."""
    return declared if isinstance(declared, str) and declared in TYPES else "string"


def misfit(parameter_type: str, text: str) -> str | None:
    """Why a text cannot be a value of a type, in the words that follow the value in a message; None if it can.

    Numbers are what Python's `float` and `int` accept (`1e-3`, `inf`, `1_000`), since that is what a script's argument
    parser does with them. Whether a path exists is not asked here.
    """
    if parameter_type == "float":
        try:
            float(text)
        except ValueError:
            return "is not a number"
    elif parameter_type == "int":
        try:
            int(text)
        except ValueError:
            return "is not a whole number"
    elif parameter_type == "bool":
        if text.lower() not in ("true", "false"):
            return "is neither true nor false"
    elif parameter_type == "uri":
        return _uri_misfit(text)
    elif parameter_type == "path" and not text:
        return "is empty, but a path is needed"
    return None


def chosen(parameter_type: str, text: str, allowed: Sequence[str]) -> str | None:
    """The allowed value that a text means, as it is declared; None if it means none. Numbers are equal by value."""
    if text in allowed:
        return text
    number = {"float": float, "int": int}.get(parameter_type)
    if number is None or misfit(parameter_type, text):
        return None
    return next((each for each in allowed if number(each) == number(text)), None)


def _uri_misfit(text: str) -> str | None:
    if not _SCHEME.match(text):
        return "is not a URI: it has no scheme such as https: or s3:"
    if _CONTROL.search(text) or text != text.strip():
        return "is not a URI: it contains a control character, or begins or ends with a space"
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is not a URI: {error}"
    if not parts.netloc and not parts.path and not parts.query:
        return f"is not a URI: nothing follows {parts.scheme}:"
    if parts.scheme in NEED_HOST and not host:
        return f"is not a URI: {parts.scheme}: needs a host or bucket, as in {parts.scheme}://name/path"
    if re.search(r"\s", parts.netloc):
        return "is not a URI: its host contains a space"
    return None
