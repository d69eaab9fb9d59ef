"""A connection to a web server that stays open: `http.client`, loaded when there is something to ask."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse

__all__ = ["BrokenAnswer", "Connection", "Proxy", "Response", "host_header"]


class BrokenAnswer(OSError):
    """The other side closed the connection in the middle, or what it said is not HTTP."""


@dataclass(frozen=True)
class Response:
    """One answer, read to its end."""

    status: int
    headers: HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy: where it is, whether it is spoken to by TLS, and what it is told about who asks."""

    host: str
    port: int
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def host_header(host: str, port: int, tls: bool) -> str:
    """The value of the Host header; an IPv6 address in brackets, the scheme's own port left out."""
    name = f"[{host}]" if ":" in host else host
    return name if port == (443 if tls else 80) else f"{name}:{port}"


class Connection:
    """A connection to one server, opened at need and kept open between requests.

    Args:
        host: name or address of the server.
        port: its TCP port.
        tls: makes the TLS settings; None for plain HTTP.
        proxy: the proxy to go through.
        connect_timeout: seconds for the connection to open.
        timeout: seconds without a byte after which a request is given up.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        proxy: Proxy | None,
        connect_timeout: float,
        timeout: float,
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._proxy = proxy
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._context: ssl.SSLContext | None = None
        self._http: HTTPConnection | None = None

    @property
    def is_open(self) -> bool:
        """Whether a connection is open and the other side has not closed it."""
        if self._http is None or self._http.sock is None:
            return False
        import ssl

        try:
            self._http.sock.settimeout(0)
            # Nothing was asked, so a byte to read, or the end, means that the other side hung up. (What TLS
            # has to say to itself, such as a session ticket, is swallowed here.)
            self._http.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._http.sock.settimeout(self._timeout)
            return True
        except OSError:
            pass
        self.close()
        return False

    def close(self) -> None:
        """Close it; the next `open` makes another."""
        if self._http is not None:
            self._http.close()
        self._http = None

    def __del__(self) -> None:
        # Whoever drops a connection is done with it: no ResourceWarning for that.
        self.close()

    def open(self) -> None:
        """Connect, through the proxy if there is one.

        Raises:
            OSError: no connection; nothing has been asked of the server.
        """
        from http.client import HTTPException

        self.close()
        try:
            self._http = self._new()
            self._http.connect()
            self._http.sock.settimeout(self._timeout)
        except HTTPException as error:
            self.close()
            raise _broken(error) from None
        except BaseException:
            self.close()
            raise

    def _new(self) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        if self._context is None:
            if self._tls is not None:
                self._context = self._tls()
            elif self._proxy is not None and self._proxy.tls:
                import ssl

                self._context = ssl.create_default_context()
        near = self._proxy or Proxy(self._host, self._port)
        if self._context is None:
            return HTTPConnection(near.host, near.port, timeout=self._connect_timeout)
        http = HTTPSConnection(near.host, near.port, timeout=self._connect_timeout, context=self._context)
        if self._tls is not None and self._proxy is not None:
            http.set_tunnel(self._host, self._port, self._proxy.headers)
        return http

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Path | None = None
    ) -> Response:
        """Send one request on the open connection and read its answer.

        Args:
            method: GET, POST, PUT …
            target: path and query.
            headers: all headers but Host and those that frame the body.
            body: bytes, or a file whose content is streamed.

        Raises:
            OSError: no answer; the request may have been acted upon all the same.
        """
        with self.answer(method, target, headers, body) as response:
            return Response(response.status, response.headers, response.read())

    @contextlib.contextmanager
    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Path | None = None
    ) -> Iterator[HTTPResponse]:
        """As `request`, with an answer that the caller reads as far as it wants to.

        Whoever leaves a rest of it unread closes the connection.
        """
        from http.client import HTTPException

        if self._http is None or self._http.sock is None:
            raise BrokenAnswer("the connection is closed")
        if self._proxy is not None and self._tls is None:
            target = f"http://{host_header(self._host, self._port, tls=False)}{target}"
            headers = {**headers, **self._proxy.headers}
        try:
            _send(self._http, method, target, headers, body)
            with self._http.getresponse() as response:
                yield response
        except HTTPException as error:
            self.close()
            raise _broken(error) from None
        except BaseException:
            self.close()
            raise


def _send(
    http: HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: bytes | Path | None
) -> None:
    import ssl

    # Whoever hangs up before everything is sent may have said why: that is read as the answer.
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        if isinstance(body, Path):
            with body.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                http.request(method, target, _first(size, file), {**headers, "Content-Length": str(size)})
        else:
            http.request(method, target, body, headers)


def _first(size: int, file: BinaryIO) -> Iterator[bytes]:
    """A file's first bytes: a log may still grow, and exactly what was announced is to be sent."""
    while size:
        chunk = file.read(min(size, 1 << 16))
        if not chunk:
            raise BrokenAnswer("the file became shorter while it was sent")
        size -= len(chunk)
        yield chunk


def _broken(error: HTTPException) -> OSError:
    from http.client import IncompleteRead, InvalidURL

    if isinstance(error, OSError):
        return error
    if isinstance(error, InvalidURL):
        return BrokenAnswer(str(error))
    if isinstance(error, IncompleteRead):
        return BrokenAnswer("the server closed the connection in the middle of its answer")
    return BrokenAnswer("the answer is not HTTP")
