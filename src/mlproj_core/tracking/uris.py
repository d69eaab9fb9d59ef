"""Tracking URIs: made absolute, and told apart from the credentials inside them."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote, urlsplit

from mlproj_core.errors import UserError

__all__ = ["Userinfo", "absolute", "is_database", "is_http", "scheme_of", "without_credentials"]

Userinfo = tuple[str, str]
"""User name and password, both decoded."""

# The dialects of mlflow.store.db.db_types.DATABASE_ENGINES.
_DATABASES = ("mysql", "mssql", "sqlite", "postgresql")


def scheme_of(uri: str) -> str:
    """The URI's scheme in lower case without a driver (`mysql` of `mysql+pymysql`); "" for a plain path."""
    if uri == "databricks":
        return uri
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    return match[1].lower().split("+", 1)[0] if match else ""


def is_http(uri: str) -> bool:
    """Whether the URI names a tracking server."""
    return scheme_of(uri) in ("http", "https")


def is_database(uri: str) -> bool:
    """Whether the URI names a database that mlflow opens through SQLAlchemy."""
    return scheme_of(uri) in _DATABASES


def absolute(uri: str) -> str:
    """The URI with a relative file name made absolute, so that it means the same in a child's directory.

    Raises:
        UserError: a database in memory, which no other process could see, or a server's URI that is none.
    """
    scheme = scheme_of(uri)
    if scheme == "sqlite":
        head, slashes, tail = uri.partition(":///")
        path, question, query = tail.partition("?")
        if not slashes or path in ("", ":memory:"):
            raise UserError(
                f"The tracking URI {uri} is a database in memory, which the project's own process could not "
                "see. Name a file: sqlite:///mlflow.db"
            )
        return f"{head}:///{_absolute_path(path)}{question}{query}"
    if scheme == "":
        return "file://" + quote(_absolute_path(uri))
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc in ("", "localhost"):
            return "file://" + quote(_absolute_path(unquote(parts.path)))
        return uri
    if scheme in ("http", "https"):
        _check_server(uri)
        return uri.rstrip("/")
    return uri


def _absolute_path(path: str) -> str:
    # As MLflow does it: ".." is resolved, links are not.
    return os.path.abspath(path)  # noqa: PTH100


def _check_server(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        # A name that no resolver could take fails in its encoding, with a UnicodeError (a ValueError).
        names_a_server = bool(host if host.isascii() else host.encode("idna")) and parts.port != 0
    except ValueError:
        names_a_server = False
    if not names_a_server:
        # Shown only without an "@": a password with a slash in it cannot be told from a path.
        shown = "" if "@" in uri else f" {uri}"
        raise UserError(
            f"The tracking URI{shown} names no server. Expected for example http://localhost:5000 "
            "(in a user name or password, write / as %2F and @ as %40)"
        )
    if parts.query or parts.fragment or "#" in uri:
        base = without_credentials(uri)[0].split("#", 1)[0].split("?", 1)[0].rstrip("/")
        raise UserError(
            f"The tracking URI of the server {base} has a query or fragment: it is the address of a page. "
            f"Set MLFLOW_TRACKING_URI={base}"
        )


def without_credentials(uri: str) -> tuple[str, Userinfo | None]:
    """The URI fit to be shown and stored, and the credentials that were inside it.

    A database's query is left out too (but sqlite's), since a driver may take its password there.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme_of(uri) in ("file", "sqlite"):
        return uri, None
    if is_database(uri):
        # As in sqlalchemy.engine.url, where a password may hold slashes and question marks.
        match = re.match(r"(?:([^:/]*)(?::([^@]*))?@)?(.*)", rest, re.DOTALL)
        assert match is not None  # noqa: S101 - every part of the pattern is optional
        user, password, place = match.groups()
        userinfo = None if user is None else (unquote(user), unquote(password or ""))
        return f"{scheme}://{place.split('?', 1)[0]}", userinfo
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before, at, host = authority.rpartition("@")
    if not at:
        return uri, None
    user, _, password = before.partition(":")
    return f"{scheme}://{host}{rest[len(authority) :]}", (unquote(user), unquote(password))
