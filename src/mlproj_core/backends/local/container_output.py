"""A container's output, read by a thread and passed on to this process's standard output."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlproj_core.containers.wire import Wire

__all__ = ["Copying", "attached", "logged"]

CHUNK = 65536

HEAD = 8
"""Bytes before each frame of a container's output."""


def attached(connection: Any) -> Iterator[bytes]:
    """The output that comes by a socket that a container is attached to."""
    return payloads(iter(lambda: connection.recv(CHUNK), b""))


def payloads(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What is in the frames of a container's output, of which each has a head of 8 bytes: the stream, and its size."""
    buffer, left = bytearray(), 0
    for piece in pieces:
        buffer += piece
        while buffer:
            if not left:
                if len(buffer) < HEAD:
                    break
                left = int.from_bytes(buffer[4:HEAD], "big")
                del buffer[:HEAD]
            data = bytes(buffer[:left])
            del buffer[:left]
            left -= len(data)
            if data:
                yield data


def logged(wire: Wire, container: str, skip: int) -> Iterator[bytes]:
    """The output that the engine has kept of a container, and then what comes, but for its first bytes."""
    for data in payloads(wire.logs(container)):
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
