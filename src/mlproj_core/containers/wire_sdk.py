"""Any engine, through the docker SDK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from mlproj_core.containers.engine import in_contact
from mlproj_core.containers.refusal import EngineRefusal

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["SdkWire"]


class _Attached:
    """What the SDK gives for an attached container, as a socket: it wraps one, and sockets of its kinds differ."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._socket = stream, getattr(stream, "_sock", stream)
        self._socket.settimeout(None)
        self.recv, self.sendall, self.shutdown = self._socket.recv, self._socket.sendall, self._socket.shutdown

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class SdkWire:
    """See `Wire` for what the methods do."""

    def __init__(self, host: str, client: APIClient) -> None:
        self._host, self._client = host, client

    def image(self, image: str) -> Mapping[str, Any]:
        with self._told():
            found: Mapping[str, Any] = self._client.inspect_image(image)
            return found

    def create(self, body: Mapping[str, Any], name: str, platform: str | None) -> str:
        with self._told():
            return str(self._client.create_container_from_config(dict(body), name, platform)["Id"])

    def container(self, container: str) -> Mapping[str, Any]:
        with self._told():
            found: Mapping[str, Any] = self._client.inspect_container(container)
            return found

    def labels(self, label: str) -> list[Mapping[str, str]]:
        with self._told():
            return [each["Labels"] for each in self._client.containers(all=True, filters={"label": [label]})]

    def put(self, container: str, path: str, archive: bytes | BinaryIO | Iterable[bytes]) -> None:
        with self._told():
            whole = isinstance(archive, bytes) or hasattr(archive, "read")
            self._client.put_archive(container, path, archive if whole else iter(archive))

    def get(self, container: str, path: str, limit: int) -> bytes:
        with self._told():
            chunks, about = self._client.get_archive(container, path)
            if about["size"] > limit:
                raise EngineRefusal(413, f"{path} has {about['size']} bytes")
            return b"".join(chunks)

    def attach(self, container: str, *, stdin: bool) -> Any:
        with self._told():
            streams = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
            return _Attached(self._client.attach_socket(container, params=streams))

    def start(self, container: str) -> None:
        with self._told():
            self._client.start(container)

    def logs(self, container: str) -> Iterator[bytes]:
        with self._told():
            for data in self._client.logs(container, stream=True, follow=True):
                yield b"\x01\0\0\0" + len(data).to_bytes(4, "big") + data

    def kill(self, container: str, signal: str) -> None:
        with self._told():
            self._client.kill(container, signal=signal)

    def unpause(self, container: str) -> None:
        with self._told():
            self._client.unpause(container)

    def wait(self, container: str, timeout: float) -> None:
        with self._told():
            self._client.wait(container, timeout=timeout)

    def remove(self, container: str) -> None:
        with self._told():
            self._client.remove_container(container, v=True, force=True)

    def ping(self) -> None:
        with self._told():
            self._client.ping()

    @contextmanager
    def _told(self) -> Iterator[None]:
        from docker.errors import APIError

        try:
            with in_contact(self._host):
                yield
        except APIError as error:
            raise EngineRefusal(error.status_code or 500, str(error.explanation or error)) from error
