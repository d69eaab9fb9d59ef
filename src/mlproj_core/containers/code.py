"""The project's code as an archive (provisional)."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO

__all__ = ["write_code_archive"]


def write_code_archive(directory: Path, file: IO[bytes]) -> None:
    """Write a tar of the project's files."""

    def keep(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "/.git" in f"/{entry.name}" and entry.name.split("/")[-1] == ".git":
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(directory, ".", filter=keep)
