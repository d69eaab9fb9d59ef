"""The calls of the Engine API that every run in a container makes.

For an engine at a socket of this host they are made here, with the standard library: to load the docker SDK takes
longer than a small container lives. Any other engine (TCP, TLS, SSH) is spoken to by the SDK.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

from mlproj_core.containers.engine import connect, is_local
from mlproj_core.containers.refusal import EngineRefusal

__all__ = ["EngineRefusal", "Wire", "open_wire"]


class Wire(Protocol):
    """An engine, as far as a run needs it.

    Every call raises `EngineRefusal`, or `ContactLost` if nobody answers. Containers and images are named, or given by
    their ids; archives are tars.
    """

    def image(self, image: str) -> Mapping[str, Any]:
        """What the engine knows of an image."""

    def create(self, body: Mapping[str, Any], name: str, platform: str | None) -> str:
        """Make a container; its id."""

    def container(self, container: str) -> Mapping[str, Any]:
        """What the engine knows of a container."""

    def labels(self, label: str) -> list[Mapping[str, str]]:
        """The labels of every container that has this one, `NAME=VALUE`, also of those that have ended."""

    def put(self, container: str, path: str, archive: bytes | BinaryIO | Iterable[bytes]) -> None:
        """Unpack an archive in a directory of a container."""

    def get(self, container: str, path: str, limit: int) -> bytes:
        """An archive of a file in a container.

        Raises:
            EngineRefusal: with status 413 if the file is larger than `limit` bytes.
        """

    def attach(self, container: str, *, stdin: bool) -> Any:
        """A socket that is a container's output from now on, and its input."""

    def start(self, container: str) -> None:
        """Start a container."""

    def logs(self, container: str) -> Iterator[bytes]:
        """The frames of what a container has printed, and then what it prints until it ends."""

    def kill(self, container: str, signal: str) -> None:
        """Send a container a signal."""

    def unpause(self, container: str) -> None:
        """Let a paused container go on."""

    def wait(self, container: str, timeout: float) -> None:
        """Return when a container has ended, or after so many seconds."""

    def remove(self, container: str) -> None:
        """End and remove a container with its anonymous volumes."""

    def ping(self) -> None:
        """See whether the engine answers."""


@contextmanager
def open_wire(host: str) -> Iterator[Wire]:
    """An engine, by its address.

    Raises:
        UserError: the SDK is needed and not installed, or the engine may not be used.
        ContactLost: nobody answers.
    """
    if is_local(host):
        from mlproj_core.containers.wire_local import LocalWire

        yield LocalWire(host)
        return
    from mlproj_core.containers.wire_sdk import SdkWire

    with connect(host) as client:
        yield SdkWire(host, client)
