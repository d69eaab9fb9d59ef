"""Logins for HTTP: how they are sent, and where requests looks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["basic", "home", "netrc_login"]


def basic(user: str, password: str) -> str:
    """A user and password as HTTP's Basic scheme encodes them (RFC 7617)."""
    import base64

    return base64.b64encode(f"{user}:{password}".encode()).decode()


def home(environ: Mapping[str, str]) -> Path:
    """The user's home directory."""
    named = environ.get("HOME")
    return Path(named) if named else Path.home()


def netrc_login(host: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """User and password for a host, from the file that NETRC names, else from ~/.netrc or ~/_netrc."""
    if named := environ.get("NETRC"):
        places = [Path(named).expanduser()]
    else:
        places = [home(environ) / ".netrc", home(environ) / "_netrc"]
    for place in places:
        if place.exists():
            from netrc import NetrcParseError, netrc

            try:
                entry = netrc(str(place)).authenticators(host)
            except (NetrcParseError, OSError):
                # requests leaves out a file it cannot read, since it may be meant for other programs.
                return None
            if entry is None:
                return None
            login, account, password = entry
            return login or account or "", password or ""
    return None
