"""A run's output in lines: complete, once only, with a cursor after each line at which one can go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproj_core.lines import LINE_LIMIT, Lines


def lines_of(pieces, start=0):
    lines, cursor, found = Lines(), start, []
    for piece in pieces:
        cursor += len(piece)
        found += lines.feed(piece, cursor)
    return [*found, *lines.finish(cursor)]


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", "é\n".encode(), b"\xff\n"])), st.integers(0, 1000))
def test_every_line_comes_once_wherever_the_pieces_were_cut(pieces, start):
    whole = b"".join(pieces)
    assert lines_of(pieces, start) == lines_of([whole], start)


@given(st.binary(max_size=60))
def test_whoever_goes_on_at_a_cursor_gets_the_rest(whole):
    lines = lines_of([whole])
    for position, (_, cursor) in enumerate(lines):
        assert [text for text, _ in lines_of([whole[cursor:]])] == [text for text, _ in lines[position + 1 :]]


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"", []),
        (b"one\n\nthree", ["one", "", "three"]),
        (b"crlf\r\n", ["crlf"]),
        (b" 10%\r 50%\r100%\ndone\n", ["100%", "done"]),
        ("ünïcode\n".encode(), ["ünïcode"]),
        (b"\xff\xfe!\n", ["\ufffd\ufffd!"]),
    ],
)
def test_a_line_is_what_a_terminal_would_show(output, lines):
    assert [text for text, _ in lines_of([output])] == lines


def test_a_line_without_an_end_is_cut_between_characters():
    whole = ("x" + "é" * LINE_LIMIT).encode()
    lines = lines_of([whole])
    assert len(lines) > 1
    assert "".join(text for text, _ in lines) == whole.decode()
    assert lines[-1][1] == len(whole)
