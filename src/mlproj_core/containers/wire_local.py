"""An engine at a socket of this host, spoken to with the standard library."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from mlproj_core.containers.engine import OLDEST_API, TIMEOUT
from mlproj_core.containers.refusal import EngineRefusal
from mlproj_core.errors import ContactLost, ExecutionException, UserError

__all__ = ["LocalWire"]

CHUNK = 65536


class _Answer:
    """One answer: its head is read, its body as it is asked for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        match = re.match(r"HTTP/1\.[01] (\d{3})", head[0])
        if match is None:
            raise ConnectionError("what it answers is not HTTP")
        self.status = int(match[1])
        fields = (line.partition(":") for line in head[1:] if line)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in fields}

    def rest(self) -> bytes:
        """What has come of the body, or after the head, unasked."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def body(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self._until(b"\r\n").partition(b";")[0], 16):
                yield self._exactly(size)
                self._exactly(2)
        elif "content-length" in self.headers:
            yield self._exactly(int(self.headers["content-length"]))
        else:
            yield self.rest()
            while data := self._connection.recv(CHUNK):
                yield data

    def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            self._more()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def _more(self) -> None:
        data = self._connection.recv(CHUNK)
        if not data:
            raise ConnectionError("it hung up in the middle of its answer")
        self._buffer += data


class LocalWire:
    """See `Wire` for what the methods do. Each call has a connection of its own."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._path = re.sub(r"^(http\+)?unix://", "", host)

    def image(self, image: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._json("GET", f"/images/{quote(image, safe='/:@')}/json")
        return found

    def create(self, body: Mapping[str, Any], name: str, platform: str | None) -> str:
        query = {"name": name, **({"platform": platform} if platform else {})}
        return str(self._json("POST", f"/containers/create?{urlencode(query)}", body)["Id"])

    def container(self, container: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._json("GET", f"/containers/{quote(container)}/json")
        return found

    def labels(self, label: str) -> list[Mapping[str, str]]:
        query = urlencode({"all": "1", "filters": json.dumps({"label": [label]})})
        return [each["Labels"] for each in self._json("GET", f"/containers/json?{query}")]

    def put(self, container: str, path: str, archive: bytes | BinaryIO | Iterable[bytes]) -> None:
        target = f"/containers/{quote(container)}/archive?{urlencode({'path': path})}"
        with self._asked("PUT", target, archive, kind="application/x-tar") as answer:
            answer.body()

    def get(self, container: str, path: str, limit: int) -> bytes:
        with self._asked("GET", f"/containers/{quote(container)}/archive?{urlencode({'path': path})}") as answer:
            about = json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
            if about["size"] > limit:
                raise EngineRefusal(413, f"{path} has {about['size']} bytes")
            return answer.body()

    def attach(self, container: str, *, stdin: bool) -> Any:
        target = f"/containers/{quote(container)}/attach?stdin={int(stdin)}&stdout=1&stderr=1&stream=1"
        head = _head("POST", target, {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Length": "0"})
        connection = None
        try:
            connection = self._connection()
            connection.sendall(head)
            answer = _Answer(connection)
            if answer.status not in (101, 200):
                raise _refusal(answer)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, OSError):
                raise self._lost(error) from error
            raise
        connection.settimeout(None)  # it may print nothing for days
        return connection

    def start(self, container: str) -> None:
        self._json("POST", f"/containers/{quote(container)}/start")

    def logs(self, container: str) -> Iterator[bytes]:
        target = f"/containers/{quote(container)}/logs?stdout=1&stderr=1&follow=1"
        with self._asked("GET", target, forever=True) as answer:
            yield from answer.pieces()

    def kill(self, container: str, signal: str) -> None:
        self._json("POST", f"/containers/{quote(container)}/kill?{urlencode({'signal': signal})}")

    def unpause(self, container: str) -> None:
        self._json("POST", f"/containers/{quote(container)}/unpause")

    def wait(self, container: str, timeout: float) -> None:
        with self._asked("POST", f"/containers/{quote(container)}/wait", timeout=timeout) as answer:
            answer.body()

    def remove(self, container: str) -> None:
        self._json("DELETE", f"/containers/{quote(container)}?force=1&v=1")

    def ping(self) -> None:
        with self._asked("GET", "/_ping") as answer:
            answer.body()

    def _json(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else b""
        with self._asked(method, target, data) as answer:
            text = answer.body()
        return json.loads(text) if text.strip() else None

    @contextmanager
    def _asked(
        self,
        method: str,
        target: str,
        body: bytes | BinaryIO | Iterable[bytes] = b"",
        *,
        kind: str = "application/json",
        timeout: float = TIMEOUT,
        forever: bool = False,
    ) -> Iterator[_Answer]:
        """One call.

        Args:
            method: of HTTP.
            target: path and query.
            body: what to send; all but bytes in pieces.
            kind: of the body.
            timeout: seconds for the answer, or for the next piece of it.
            forever: whether the rest of the answer may take as long as it takes.

        Raises:
            EngineRefusal: the engine said no.
            ContactLost: nobody answered, or not in time.
        """
        connection = None
        try:
            connection = self._connection()
            connection.settimeout(timeout)
            self._send(connection, method, target, body, kind)
            answer = _Answer(connection)
            if answer.status >= 400:
                raise _refusal(answer)
            self._check(answer)
            if forever:
                connection.settimeout(None)
            yield answer
        except OSError as error:
            raise self._lost(error) from error
        finally:
            if connection is not None:
                connection.close()

    @staticmethod
    def _send(
        connection: socket.socket, method: str, target: str, body: bytes | BinaryIO | Iterable[bytes], kind: str
    ) -> None:
        headers = {"Connection": "close", "Content-Type": kind}
        # An engine that hangs up before everything is sent may have said why: that is read as its answer.
        with suppress(BrokenPipeError, ConnectionResetError):
            if isinstance(body, bytes):
                connection.sendall(_head(method, target, {**headers, "Content-Length": str(len(body))}) + body)
                return
            connection.sendall(_head(method, target, {**headers, "Transfer-Encoding": "chunked"}))
            for piece in _pieces_of(body):
                if piece:
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")

    def _connection(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(TIMEOUT)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, answer: _Answer) -> None:
        version = answer.headers.get("api-version", "")
        if version and tuple(map(int, version.split("."))) < OLDEST_API:
            raise UserError(
                f"The Docker engine at {self._host} speaks version {version} of its API, and "
                f"{'.'.join(map(str, OLDEST_API))} (Docker 19.03) or later is needed: update it."
            )

    def _lost(self, error: OSError) -> ContactLost:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error.strerror or error).lower()
        return ContactLost(
            f"The Docker engine at {self._host} cannot be reached: {why}. Is the daemon running? (sudo systemctl start "
            "docker, or set DOCKER_HOST.)"
        )


def _pieces_of(body: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    """A body piece by piece; a file that cannot be read is no fault of the engine's."""
    try:
        yield from iter(lambda: body.read(CHUNK), b"") if hasattr(body, "read") else body
    except OSError as error:
        raise ExecutionException(f"A file for the container cannot be read: {error}") from error


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", "User-Agent: mlproj"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def _refusal(answer: _Answer) -> EngineRefusal:
    text = answer.body().decode(errors="replace")
    with suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["message"])
    return EngineRefusal(answer.status, text)
