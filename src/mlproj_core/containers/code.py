"""A project's code as one archive, for a container that has no image of its own."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mlproj_core.containers.context import MTIME, Entry, add_entries, context_entries
from mlproj_core.report import log

if TYPE_CHECKING:
    from mlproj_core.report import Report

__all__ = ["add_code", "write_code_archive"]


def write_code_archive(directory: Path, file: BinaryIO, *, compress: bool = False, report: Report = log) -> None:
    """Write a tar of a project: equal files make equal archives, byte for byte.

    Owned by root, sorted, with a fixed time; `.git` and what `.dockerignore` names are left out. What Git ignores goes
    along, since a run on this host would find it too. Symbolic links are kept if they are relative and stay within the
    project: another would point to something else in a container, and no careful unpacker makes it.

    Args:
        directory: the project's directory.
        file: where to write.
        compress: whether the tar is compressed by gzip.
        report: is told of links that are left out.

    Raises:
        UserError: a file cannot be read.
    """
    if not compress:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            add_code(tar, directory, report=report)
        return
    import gzip

    # Neither a name nor the time of day stands in its header.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=MTIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        add_code(tar, directory, report=report)


def add_code(tar: tarfile.TarFile, directory: Path, *, below: str = "", report: Report = log) -> None:
    """Add a project's files to a tar; see `write_code_archive`.

    Args:
        tar: open for writing.
        directory: the project's directory.
        below: what the names in the tar begin with, such as `code/`.
        report: is told of links that are left out.
    """
    entries = _within(context_entries(directory, gitignore=False), directory, report)
    add_entries(tar, (replace(entry, name=below + entry.name) for entry in entries))


def _within(entries: tuple[Entry, ...], directory: Path, report: Report) -> Iterator[Entry]:
    root = os.path.realpath(directory)
    for entry in entries:
        leads_to = os.path.realpath(entry.path) if entry.kind == "link" else root
        if Path(entry.target).is_absolute() or os.path.commonpath([root, leads_to]) != root:
            report(f"warning: the link {entry.name} -> {entry.target} leads out of the project and is left out")
        else:
            yield entry
