"""Files of an HTTP server: ranges, entity tags, redirects (RFC 9110), by the standard library.

fsspec's own HTTP file system begins anew when a connection is cut, and asks for no `If-Range`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urldefrag, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from mlproj_core.data.content import Body, Item, Known, Outdated, Passing, Store, failure
from mlproj_core.data.remote import without_query
from mlproj_core.tracking.credentials import Credentials, TlsSettings, integer

__all__ = ["Web", "web_file"]

CHUNK = 1 << 20
TIMEOUT = 60
"""Seconds without a byte after which a request is given up, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise."""

LONGEST_PAUSE = 60.0
"""Seconds to wait at most when a server says itself when to come back."""

# mlflow.utils.request_utils._TRANSIENT_FAILURE_RESPONSE_CODES
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_MODIFIED = "modified "


class Web:
    """Asks for files of one server by GET.

    Args:
        headers: sent with each request, and to the server itself only: a redirect to another host gets none of them.
        tls: how certificates are checked.
        remedy: what to do when the server wants to know who asks.
    """

    def __init__(self, headers: Mapping[str, str], tls: TlsSettings, remedy: str) -> None:
        self._headers = headers
        self._tls = tls
        self._remedy = remedy
        self._opener: OpenerDirector | None = None
        self._timeout = integer("MLFLOW_HTTP_REQUEST_TIMEOUT", os.environ, TIMEOUT)

    def open(self, url: str, known: Known) -> Body | None:
        """Read a file; see `Store.open`."""
        start = known.length
        wanted = {"Accept-Encoding": "identity", "User-Agent": "mlproj", **self._headers}
        if known.part is not None and start and (condition := _if_range(known.part)) is not None:
            wanted |= {"Range": f"bytes={start}-", "If-Range": condition}
        elif known.cached is not None and known.cached.startswith(_MODIFIED):
            wanted["If-Modified-Since"] = known.cached.removeprefix(_MODIFIED)
        elif known.cached is not None:
            wanted["If-None-Match"] = known.cached
        response = self._ask(url, wanted)
        if response is None:
            return None
        try:
            body = _body(response, url, start)
            if body.start == 0 and known.cached is not None and body.version == known.cached:
                response.close()  # MLflow's server tags what it sends, and does not look at If-None-Match
                return None
            return body
        except BaseException:
            response.close()
            raise

    def _ask(self, url: str, headers: Mapping[str, str]) -> HTTPResponse | None:
        request = Request(_ascii(url))  # noqa: S310 - http and https only, and so are redirects
        for name, value in headers.items():
            # Each request of a chain of redirects gets its headers from `_Redirects`.
            request.add_unredirected_header(name, value)
        if self._opener is None:
            self._opener = build_opener(HTTPSHandler(context=self._tls.context()), _Redirects())
        try:
            response: HTTPResponse = self._opener.open(request, timeout=self._timeout)
        except HTTPError as error:
            with error:
                if error.code == 304:
                    return None
                self._refused(error, url)
        except (URLError, HTTPException, OSError) as error:
            raise _trouble(error, url) from None
        return response

    def _refused(self, error: HTTPError, url: str) -> NoReturn:
        shown = without_query(url)
        what = f"HTTP {error.code} {error.reason}".strip()
        if error.code == 416:
            raise Outdated(f"{shown} has become shorter than what was fetched of it")
        if error.code in _TRANSIENT:
            raise Passing(f"{shown} cannot be read now: {what}", _pause(error.headers))
        if error.code in (401, 403, 407):
            raise failure(f"{shown} may not be read: {what}. {self._remedy}")
        if error.code in (404, 410):
            raise failure(f"{shown} does not exist: {what}. Check the URI.")
        raise failure(f"{shown} cannot be read: {what}.", retryable=error.code > 500)


class _File(Store):
    """One file by its URL."""

    def __init__(self, web: Web, url: str) -> None:
        self._web = web
        self._url = url

    def items(self) -> Sequence[Item]:
        """The file: what it is, only reading it tells."""
        return [Item("", self._url)]

    def open(self, item: Item, known: Known) -> Body | None:
        """See `Store.open`."""
        return self._web.open(item.address, known)


def web_file(url: str) -> Store:
    """The file that an http or https URL names, read as whoever ~/.netrc says (as requests does, and so MLflow)."""
    url = urldefrag(url).url
    host = urlsplit(url).hostname or ""
    # No variable of the tracking server: its credentials are no business of other hosts.
    credentials = Credentials.from_environment(
        host, None, {name: os.environ[name] for name in ("HOME", "NETRC") if name in os.environ}
    )
    headers = {"Authorization": credentials.authorization} if credentials.authorization else {}
    certificates = {name: os.environ[name] for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if name in os.environ}
    remedy = (
        f"It was asked for by {credentials.who}; a user and password for it belong into ~/.netrc "
        f"(machine {host} login USER password PASSWORD)."
    )
    return _File(Web(headers, TlsSettings.from_environment(certificates), remedy), url)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to http and https; another host gets the range that is wanted, but not who asks."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        target = super().redirect_request(req, fp, code, msg, headers, newurl)
        if target is not None:
            if urlsplit(newurl).scheme not in ("http", "https"):
                raise HTTPError(newurl, code, "redirects to something other than http", headers, fp)
            old, new = urlsplit(req.full_url), urlsplit(newurl)
            is_same = (old.scheme, old.netloc) == (new.scheme, new.netloc)
            is_upgrade = (old.scheme, new.scheme, old.hostname) == ("http", "https", new.hostname)
            for name, value in req.unredirected_hdrs.items():
                if name.lower() not in ("host", "authorization") or (
                    name.lower() == "authorization" and (is_same or is_upgrade)
                ):
                    target.add_unredirected_header(name, value)
        return target


def _body(response: HTTPResponse, url: str, have: int) -> Body:
    headers = response.headers
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("identity", "x-gzip"):
        encoding = "gzip" if encoding == "x-gzip" else ""
    if encoding not in ("", "gzip"):
        raise failure(
            f"{without_query(url)} is sent in the coding {encoding!r}, though it was asked for as it is. Switch that "
            "off at the server, or fetch the file by other means."
        )
    length = headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    start = 0
    if response.status == 206:
        start, whole = _range(headers.get("Content-Range", ""))
        if start != have:
            raise Outdated(f"{without_query(url)} was asked for from byte {have} on, and was sent from {start} on")
        total = whole if whole is not None else None if total is None else start + total
    return Body(_chunks(response, url), start, total, _version(headers), encoding)


def _chunks(response: HTTPResponse, url: str) -> Generator[bytes, None, None]:
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (HTTPException, OSError) as error:
        raise _trouble(error, url) from None
    finally:
        response.close()


def _range(text: str) -> tuple[int, int | None]:
    """First byte and whole length of `Content-Range: bytes 100-199/200`; -1 when it cannot be read."""
    unit, _, rest = text.partition(" ")
    extent, _, whole = rest.partition("/")
    first, _, _ = extent.partition("-")
    if unit.lower() != "bytes" or not first.isdigit():
        return -1, None
    return int(first), int(whole) if whole.isdigit() else None


def _version(headers: HTTPMessage) -> str | None:
    if etag := headers.get("ETag"):
        return etag
    modified = headers.get("Last-Modified")
    if not modified:
        return None
    try:
        changed = parsedate_to_datetime(modified).timestamp()
        now = parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
    except (TypeError, ValueError):
        return None
    # A file that was written this very second may be written once more in it (RFC 9110, 8.8.2.2).
    return f"{_MODIFIED}{modified}" if now - changed >= 1 else None


def _if_range(version: str) -> str | None:
    """The value of If-Range; None for a weak tag, which promises no equal bytes (RFC 9110, 13.1.5)."""
    if version.startswith(_MODIFIED):
        return version.removeprefix(_MODIFIED)
    return None if version.startswith("W/") else version


def _pause(headers: Any) -> float | None:
    text = headers.get("Retry-After", "") if headers else ""
    return min(float(text), LONGEST_PAUSE) if text.isdigit() else None


def _trouble(error: BaseException, url: str) -> Exception:
    import ssl

    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return failure(
            f"The certificate of {urlsplit(url).netloc} is not trusted: {cause.verify_message}. Name the authority "
            "that signed it in SSL_CERT_FILE or REQUESTS_CA_BUNDLE."
        )
    if isinstance(cause, TimeoutError):
        why = "no byte came in time"
    elif isinstance(cause, HTTPException):
        why = "the connection was cut"
    else:
        why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return Passing(f"{without_query(url)} cannot be read: {why}")


def _ascii(url: str) -> str:
    """A URL as requests sends it: spaces and letters beyond ASCII are escaped, escapes stay."""
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    return parts._replace(
        netloc=host, path=quote(parts.path, safe="/%:@!$&'()*+,;=~"), query=quote(parts.query, safe="/?%:@!$&'()*+,;=~")
    ).geturl()
