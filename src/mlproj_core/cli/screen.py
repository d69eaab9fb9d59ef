"""What a run's output looks like to whoever asked for the run: its project's, and mlproj's own lines beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from mlproj_core.cli.printing import fancy, remark
from mlproj_core.cli.progress import Progress
from mlproj_core.errors import MlprojError
from mlproj_core.status import Phase, RunStatus

if TYPE_CHECKING:
    from mlproj_core.backends.backend import Backend, Sighting
    from mlproj_core.handle import RunHandle

__all__ = ["OwnLines", "Screen"]

OWN = b"[mlproj] "
PREPARED = OWN + b"environment: "
"""Begins the line that a run's supervisor writes between the making of the environment and the project's start."""

ENDS = tuple(f"{status}" for status in RunStatus if RunStatus.is_terminated(status))
"""Begin the line that says how the run ended; where its environment could not be made, the builder's words follow."""

NEXT = "next: "
"""Begins the line that may follow that one."""


class OwnLines:
    """Tells the lines that mlproj writes into a run's output from what the project prints, in pieces of any size.

    What the project prints is passed on at once and byte for byte; mlproj's own lines come whole.
    """

    def __init__(self) -> None:
        self._held = b""
        self._at_line_start = True

    def split(self, data: bytes) -> Iterator[tuple[bool, bytes]]:
        """Pieces of the output with whether they are one of mlproj's own lines."""
        data, self._held = self._held + data, b""
        while data:
            if self._at_line_start and (OWN.startswith(data) or (data.startswith(OWN) and b"\n" not in data)):
                self._held = data  # more must come before it can be told, or shown
                return
            own = self._at_line_start and data.startswith(OWN)
            end = data.find(b"\n") + 1 if own else _end_of_foreign(data)
            self._at_line_start = data[end - 1 : end] == b"\n"
            yield own, data[:end]
            data = data[end:]

    def rest(self) -> bytes:
        """What was held back, at the output's end."""
        held, self._held = self._held, b""
        return held


def _end_of_foreign(data: bytes) -> int:
    """Where in the output a line begins that is mlproj's own, or may turn out to be; else its end."""
    if end := data.find(b"\n" + OWN) + 1:
        return end
    last = data.rfind(b"\n") + 1
    return last if last and OWN.startswith(data[last:]) else len(data)


class Screen:
    """The project's output goes to standard output, all that mlproj says to standard error.

    Until the project starts, on a terminal: a spinner with the run's phase and the last line of what its builder
    says, which otherwise goes to standard error too.

    Attributes:
        said_end: whether the run's output itself told how the run ended.
    """

    def __init__(self, project_output: BinaryIO) -> None:
        self.said_end = False
        self._out = project_output
        self._lines = OwnLines()
        self._preparing = True
        self._progress: Progress | None = None
        self._sight: tuple[Backend, RunHandle] | None = None

    def __enter__(self) -> Screen:
        if fancy(sys.stderr):
            self._progress = Progress("fetching the project")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._still()

    def report(self, line: str) -> None:
        """Show a line that tells of the submission."""
        if line.startswith("submitted as attempt"):
            return  # the first line of the run's own output says so too
        if self._progress is not None:
            self._progress.note(line)
        self.say(line)

    def say(self, line: str) -> None:
        """Show one of mlproj's own lines."""
        if self._progress is not None:
            self._progress.say(line)
        else:
            self._out.flush()
            remark(line)

    def follow(self, backend: Backend, handle: RunHandle) -> None:
        """From now on a run is what there is to see."""
        self._sight = (backend, handle)
        if self._progress is not None:
            self._progress.note("")
            self._progress.follow(self._phase)

    def write(self, data: bytes) -> None:
        """Show a piece of the run's output."""
        if self._preparing and PREPARED not in data and self._project_started():
            self._started()
        for own, piece in self._lines.split(data):
            self._show(own, piece)
        self._out.flush()

    def close(self) -> None:
        """The output has ended."""
        if rest := self._lines.rest():
            self._show(False, rest)
        self._out.flush()
        self._still()

    def _show(self, own: bool, piece: bytes) -> None:
        if own:
            if self._preparing and piece.startswith(PREPARED):
                self._started()
            line = piece[len(OWN) :].decode(errors="replace").rstrip("\n")
            self.said_end = line.startswith(ENDS) or (self.said_end and line.startswith(NEXT))
            if self.said_end:
                self._still()
            self.say(line)
        elif not self._preparing:
            self.said_end = False  # those were the words of a run inside this one
            self._out.write(piece)
        elif self._progress is not None:
            lines = [line.rpartition("\r")[2].strip() for line in piece.decode(errors="replace").split("\n")]
            for line in filter(None, lines[-3:]):
                self._progress.note(line)
        else:
            os.write(2, piece)

    def _started(self) -> None:
        self._preparing = False
        self._still()

    def _still(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def _look(self) -> Sighting:
        assert self._sight is not None  # noqa: S101  # there is no output before there is a run
        backend, handle = self._sight
        return backend.look(handle)

    def _project_started(self) -> bool:
        """Whether output that was read before this look may be the project's."""
        sighting = self._look()
        if sighting.outcome is not None:
            return "running" in sighting.outcome.phases
        return sighting.phase is Phase.RUNNING

    def _phase(self) -> str | None:
        """The phase's name for people, None once there is output to look at instead."""
        try:
            phase = self._look().phase
        except MlprojError:  # whoever reads the output meets it too, and tells
            return None
        return {Phase.QUEUED: "starting", Phase.ENVIRONMENT: "environment", Phase.DATA: "data"}.get(phase)
