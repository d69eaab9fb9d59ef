"""A run's output on disk: written by its supervisor, read by anybody.

Standard library only, and light: the supervisor holds this module in memory for as long as its run lasts.
"""

from __future__ import annotations

import os

__all__ = ["Output", "OutputReader", "end_of_output", "shown", "tail"]

TAIL_BYTES = 16384
TAIL_LINES = 20


class Output:
    """The run's output on disk: bounded, its middle dropped when it grows too long.

    Segments are files named by the offset of their first byte in the whole output. The first half of the limit
    is kept for good; of what follows the last half is kept. A reader sees from the names what was dropped.
    """

    SEGMENTS = 8

    def __init__(self, directory: str, limit: int) -> None:
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        self.size = max(4096, limit // self.SEGMENTS)
        self.offset = 0
        self.kept: list[str] = []
        self.tail = bytearray()
        self.at_line_start = True
        self.open()

    def open(self) -> None:
        """Begin a segment; drop the oldest of the last half if there are too many."""
        self.room = self.size
        name = os.path.join(self.directory, f"{self.offset:020d}")
        self.file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.kept.append(name)
        if len(self.kept) > self.SEGMENTS:
            os.unlink(self.kept.pop(self.SEGMENTS // 2))

    def write(self, data: bytes) -> None:
        """Append what the project printed."""
        self.tail += data[-TAIL_BYTES:]
        del self.tail[:-TAIL_BYTES]
        self.at_line_start = data.endswith(b"\n")
        view = memoryview(data)
        try:
            while view:
                if self.room <= 0:
                    os.close(self.file)
                    self.open()
                written = os.write(self.file, view[: self.room])
                self.room -= written
                self.offset += written
                view = view[written:]
        except OSError:
            # A full disk must not end the project's work: its output is lost, not its result.
            self.room = max(self.room, 1)

    def write_line(self, text: str) -> None:
        """Append a line of our own, on a line of its own."""
        self.write(("" if self.at_line_start else "\n").encode() + text.encode(errors="replace") + b"\n")

    def last_lines(self) -> list[str]:
        """What the project printed last, as lines: oldest first, without mlproj's own."""
        return last_lines(bytes(self.tail))

    def close(self) -> None:
        """No more is written."""
        os.close(self.file)


def end_of_output(directory: str) -> int:
    """How many bytes of output there were so far, dropped ones included."""
    last = max(os.listdir(directory))
    return int(last) + os.path.getsize(os.path.join(directory, last))


class OutputReader:
    """Reads a run's output from any process, also while it is being written.

    Attributes:
        cursor: offset in bytes, in the whole output, of what is read next; store it to go on later.
    """

    def __init__(self, directory: str, cursor: int = 0) -> None:
        self.directory = directory
        self.cursor = cursor

    def read(self, limit: int = 65536) -> bytes:
        """What follows the cursor, at most `limit` bytes (or a note of what was dropped); empty if nothing does."""
        while True:
            segment, following = self._segment()
            if segment is None:
                return b""
            if segment > self.cursor:
                return self._skip_to(segment)
            try:
                with open(os.path.join(self.directory, f"{segment:020d}"), "rb") as file:
                    file.seek(self.cursor - segment)
                    data = file.read(limit)
            except FileNotFoundError:
                continue  # dropped this moment
            self.cursor += len(data)
            if data or following is None:
                return data
            if following > self.cursor:
                return self._skip_to(following)

    def _skip_to(self, offset: int) -> bytes:
        dropped, self.cursor = offset - self.cursor, offset
        return b"\n[mlproj] ... %d bytes of output were dropped here ...\n" % dropped

    def _segment(self) -> tuple[int | None, int | None]:
        """The segment that holds the cursor (or the first one after it), and the one that follows."""
        try:
            offsets = sorted(int(name) for name in os.listdir(self.directory))
        except FileNotFoundError:
            return None, None
        for position, offset in enumerate(offsets):
            following = offsets[position + 1] if position + 1 < len(offsets) else None
            if following is None or self.cursor < following:
                return offset, following
        return None, None


def tail(directory: str) -> list[str]:
    """The last lines of an output on disk, as `Output.last_lines` gives them while it is written."""
    try:
        last = max(os.listdir(directory))
        with open(os.path.join(directory, last), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return last_lines(file.read())
    except (FileNotFoundError, ValueError):  # no output directory, or nothing in it
        return []


def last_lines(data: bytes) -> list[str]:
    """The last lines that the project printed, oldest first: without empty ones and mlproj's own."""
    lines = [shown(line) for line in data.decode("utf-8", "replace").split("\n")]
    return [line for line in lines if line and not line.startswith("[mlproj] ")][-TAIL_LINES:]


def shown(line: str) -> str:
    """What a terminal would show of a line on which a progress bar moved back with carriage returns."""
    return line.rstrip("\r").rpartition("\r")[2].rstrip()
