"""The download of an archive: http and https, with the logins, proxies and certificates that requests would use.

MLflow downloads with requests, so its variables and files say how; the connection is the one that the tracking server
is spoken to with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from mlproj_core.errors import SourceError, UserError
from mlproj_core.sources.limits import Limits
from mlproj_core.sources.location import Location, redact, usual_user
from mlproj_core.status import Reason, ReasonCode
from mlproj_core.web.authorities import authorities_of_requests, trusting
from mlproj_core.web.logins import basic, netrc_login
from mlproj_core.web.proxies import connection_to

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPResponse

__all__ = ["download"]

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection to open."""

READ_TIMEOUT = 60.0
"""Seconds without a byte after which a download is given up."""

_REDIRECTS = 10
_CHUNK = 1 << 18


def download(location: Location, target: Path, limits: Limits, report: Callable[[str], None]) -> None:
    """Write the archive at a URL to a file, and no more of it than the limit.

    Args:
        location: of an archive on a web server.
        target: the file to write.
        limits: what the archive may measure.
        report: see `fetch`.

    Raises:
        UserError: the archive is over the limit, or a setting of this machine cannot be used.
        SourceError: it cannot be had.
    """
    report(f"Downloading {location.uri}")
    url = location.url
    for _ in range(_REDIRECTS):
        connection, _ = connection_to(url, tls=_tls, connect_timeout=CONNECT_TIMEOUT, timeout=READ_TIMEOUT)
        try:
            connection.open()
            with connection.answer("GET", _request_target(url), _headers(location, url, report)) as response:
                if response.status == 200:
                    _save(response, target, location, limits)
                    return
                if response.status not in (301, 302, 303, 307, 308):
                    raise _refused(location, url, response.status)
                url = _redirected(location, url, response.headers.get("location", ""))
        except OSError as error:
            raise _unreachable(location, url, error) from None
        finally:
            connection.close()
    raise _failure(f"{location.uri} redirects in a circle, or more than {_REDIRECTS} times. Check the address.")


def _request_target(url: str) -> str:
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    return path + ("?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else "")


def _headers(location: Location, url: str, report: Callable[[str], None]) -> dict[str, str]:
    """The headers of a request, with a login for the URI's own server only, or with one of .netrc for any."""
    headers = {"User-Agent": "mlproj", "Accept": "*/*"}
    host = urlsplit(url).hostname or ""
    own = location.credentials
    login = None
    if own.password is not None and _origin(url) == _origin(location.url):
        login = (own.username if own.username is not None else usual_user(host), own.password)
    else:
        login = netrc_login(host, os.environ)
    if login is not None:
        if url.startswith("http://"):
            report(f"{location.uri}: http:// carries the login unencrypted")
        headers["Authorization"] = f"Basic {basic(*login)}"
    return headers


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _redirected(location: Location, url: str, target: str) -> str:
    new = urljoin(url, target).partition("#")[0]
    if not target or not new.lower().startswith(("http://", "https://")) or not urlsplit(new).hostname:
        raise _failure(f"{location.uri} redirects to {redact(target)!r}, which is no http(s) address.")
    if url.startswith("https://") and not new.lower().startswith("https://"):
        raise _failure(
            f"{location.uri} redirects from https:// to {redact(new)}, where anybody on the way could put another "
            "archive in its place. Give that address if it is meant."
        )
    return new


def _save(response: HTTPResponse, target: Path, location: Location, limits: Limits) -> None:
    announced = response.headers.get("content-length", "")
    size = 0
    if announced.isdecimal() and int(announced) > limits.size:
        raise limits.excess(location.uri, "size")
    with target.open("wb") as file:
        while chunk := response.read(_CHUNK):
            if (size := size + len(chunk)) > limits.size:
                raise limits.excess(location.uri, "size")
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                message = f"The download of {location.uri} cannot be written to {target.parent}: {error.strerror}."
                raise _failure(message, retryable=True) from error
    # http.client takes an end that comes too early for the end.
    if announced.isdecimal() and size != int(announced):
        raise _failure(
            f"The download of {location.uri} ended after {size} of {announced} bytes. Try again.", retryable=True
        )


def _tls() -> ssl.SSLContext:
    variable, authorities = authorities_of_requests(os.environ)
    if authorities is not None and not Path(authorities).exists():
        raise UserError(f"{variable} names {authorities}, which does not exist.")
    return trusting(authorities)


def _refused(location: Location, url: str, status: int) -> SourceError:
    said = f"Downloading {location.uri} failed: {urlsplit(url).hostname} answers with HTTP {status}."
    if status in (401, 403):
        remedy = (
            "It wants a login, or refuses the one it got. Write user:password@ before the host's name, "
            "percent-encoded, or give the login in ~/.netrc (a token for Git is not sent to it)."
        )
    elif status in (404, 410):
        remedy = "Check the address. Hosts also answer so when a login is missing: give it in the URL or in ~/.netrc."
    else:
        remedy = "Try again later." if status == 429 or status >= 500 else "Check the address."
    return _failure(f"{said} {remedy}", retryable=status in (408, 429) or status >= 500)


def _unreachable(location: Location, url: str, error: OSError) -> SourceError:
    import ssl

    host = urlsplit(url).hostname
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _failure(
            f"Downloading {location.uri} failed: no secure connection to {host}: {error.strerror or error}. If its "
            "certificate is signed by a company's own authority, name that in REQUESTS_CA_BUNDLE."
        )
    words = "no answer in time" if isinstance(error, TimeoutError) else str(error.strerror or error)
    return _failure(
        f"Downloading {location.uri} failed: {host}: {words}. Check the host's name, and that this machine reaches it "
        "(network, proxy, firewall); then try again.",
        retryable=True,
    )


def _failure(message: str, *, retryable: bool = False) -> SourceError:
    return SourceError(message, reason=Reason(ReasonCode.SOURCE, message, retryable=retryable))
