"""A container's output, read by a thread and passed on to this process's standard output."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["Copying", "attached", "logged", "pieces", "say_to"]


def attached(client: APIClient, container: str, *, stdin: bool) -> Any:
    """A socket that is a container's output, from its start on, and its input."""
    streams = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
    socket = client.attach_socket(container, params=streams)
    getattr(socket, "_sock", socket).settimeout(None)  # it may print nothing for days
    return socket


def say_to(socket: Any, data: bytes) -> None:
    """Write to an attached container's standard input."""
    getattr(socket, "_sock", socket).sendall(data)


def pieces(socket: Any) -> Iterator[bytes]:
    """The output that comes by an attached socket."""
    from docker.utils.socket import frames_iter

    for _stream, data in frames_iter(socket, tty=False):
        yield data


def logged(client: APIClient, container: str, skip: int) -> Iterator[bytes]:
    """The output that the engine has kept of a container, and then what comes, but for its first bytes."""
    for data in client.logs(container, stream=True, follow=True, stdout=True, stderr=True):
        if skip < len(data):
            yield data[skip:]
        skip = max(0, skip - len(data))


class Copying:
    """Copies output in a thread until it ends, or its source fails.

    Attributes:
        copied: how many bytes it has passed on.
        done: whether there will be no more.
    """

    def __init__(self, source: Iterable[bytes], bell: int, copied: int = 0) -> None:
        """Begin to copy; a byte is written to the descriptor `bell` at the end."""
        self.copied = copied
        self.done = False
        self._source, self._bell = source, bell
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            # What becomes of a source that fails is for those to find out who ask the engine next.
            with suppress(Exception):
                for data in self._source:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(1, view) :]
                    self.copied += len(data)
        finally:
            self.done = True
            os.write(self._bell, b".")
