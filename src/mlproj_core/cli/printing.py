"""How things look: mlproj's own lines, tables, durations."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

import click

__all__ = ["ago", "fancy", "fields", "print_json", "remark", "seconds", "size", "table"]


def fancy(stream: IO[Any]) -> bool:
    """Whether a stream is a terminal that takes colours and movement, and its user has nothing against them."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")


def remark(line: str) -> None:
    """Tell the user one of mlproj's own lines, on standard error; it fits wherever a `Report` is wanted."""
    sys.stdout.flush()
    line = f"[mlproj] {line}"
    click.echo(click.style(line, fg=colour_of(line)) if fancy(sys.stderr) else line, err=True)


def colour_of(line: str) -> str | None:
    """The colour of one of mlproj's own lines on a terminal."""
    for beginning, colour in (("FINISHED", "green"), ("FAILED", "red"), ("KILLED", "red"), ("warning", "yellow")):
        if line.startswith(f"[mlproj] {beginning}"):
            return colour
    return "bright_black"


def print_json(value: object) -> None:
    """Print a value as JSON: for people on a terminal, on one line for programs."""
    import json

    if sys.stdout.isatty():
        click.echo(json.dumps(value, indent=2))
    else:
        click.echo(json.dumps(value, separators=(",", ":")))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table: with rules and wrapped cells on a terminal, else one line a row, in aligned columns."""
    if fancy(sys.stdout):
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for header in headers:
            grid.add_column(header, overflow="fold")
        for row in rows:
            grid.add_row(*(Text(cell) for cell in row))
        Console().print(grid)
        return
    if title is not None:
        click.echo(title)
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in [headers, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fields(values: Mapping[str, str | None]) -> None:
    """Print names and values, one a line; what has no value is left out."""
    shown = {name: value for name, value in values.items() if value}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        label = f"{name:<{width}}"
        click.echo(f"{click.style(label, bold=True) if fancy(sys.stdout) else label}  {value}")


def size(count: float) -> str:
    """Bytes in one unit, as in `20.1 MB`; the units are powers of 1000."""
    for unit, bytes_in_it in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_in_it:
            return f"{count / bytes_in_it:.1f} {unit}"
    return f"{count:.0f} B"


def seconds(duration: float) -> str:
    """A duration in two units at most, as in `1 h 20 min`."""
    if duration < 60:
        return f"{duration:.1f} s"
    minutes, hours, days = int(duration // 60), int(duration // 3600), int(duration // 86400)
    if hours < 1:
        return f"{minutes} min {int(duration % 60)} s"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def ago(duration: float) -> str:
    """How long ago something was, in one unit: `12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if duration >= size:
            return f"{int(duration // size)} {unit}"
    return f"{max(0, int(duration))} s"
