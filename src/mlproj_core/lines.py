"""Whole lines out of a run's output, each with the cursor after it, for whoever writes line by line."""

from __future__ import annotations

from collections.abc import Iterator

from mlproj_core.backends.local.output import shown

__all__ = ["LINE_LIMIT", "Lines"]

LINE_LIMIT = 16 * 1024
"""Bytes after which a line is cut: a progress bar that never ends its line must not fill the memory."""


class Lines:
    """Takes output in any pieces and gives it in lines, as text without the line's end.

    Of a line on which a progress bar moved back with carriage returns, what a terminal would show is given. Bytes that
    are no UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes, cursor: int) -> Iterator[tuple[str, int]]:
        """The lines that a piece completes.

        Args:
            data: the piece.
            cursor: offset in the whole output of what follows the piece.

        Yields:
            A line, and the offset of what follows it: begin there to go on, without loss or repetition.
        """
        whole = self._rest + data
        begin, start = 0, cursor - len(whole)
        while (end := whole.find(b"\n", begin)) >= 0:
            yield _text(whole[begin:end]), start + end + 1
            begin = end + 1
        while len(whole) - begin > LINE_LIMIT:
            end = _before_a_character(whole, begin + LINE_LIMIT)
            yield _text(whole[begin:end]), start + end
            begin = end
        self._rest = whole[begin:]

    def finish(self, cursor: int) -> Iterator[tuple[str, int]]:
        """The last line, if it has no end; `cursor` as for `feed`."""
        if self._rest:
            yield _text(self._rest), cursor
        self._rest = b""


def _text(line: bytes) -> str:
    return shown(line.decode("utf-8", "replace"))


def _before_a_character(data: bytes, end: int) -> int:
    """The last place at or before `end` where a UTF-8 character begins."""
    for place in range(end, end - 4, -1):
        if data[place] & 0xC0 != 0x80:
            return place
    return end
