"""Digests of files and directories, by content alone: a fresh checkout of the same commit has the same."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["directory_digest", "file_digest"]

_LEFT_OUT_ANYWHERE: Final = (
    ".git", ".hg", ".svn", ".venv", ".tox", ".nox", ".eggs", ".mypy_cache", ".pytest_cache", ".ruff_cache",
    ".ipynb_checkpoints", "__pycache__", "node_modules", "mlruns", "mlartifacts", "*.egg-info", "*.pyc",
    ".DS_Store",
)  # fmt: skip
_LEFT_OUT_AT_THE_TOP: Final = ("build", "dist", "venv", "mlflow.db", "mlflow.db-*")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def directory_digest(directory: Path) -> str:
    """SHA-256 over names, executable bits and contents of a package's files, in hex.

    Left out is what version control, builds, test tools and tracking leave behind (`.git`, `__pycache__`,
    `*.egg-info`, `build` and `dist` at the top, `mlruns`, …), and any virtual environment.
    """
    digest = hashlib.sha256()
    for name, path in _files(directory, "", _LEFT_OUT_ANYWHERE + _LEFT_OUT_AT_THE_TOP, (directory.resolve(),)):
        if path.is_file():
            runs = "x" if os.access(path, os.X_OK) else "-"
            line = f"{runs} {name} {file_digest(path)}\n"
        elif path.is_symlink():
            line = f"link {name} {path.readlink()}\n"
        else:
            continue  # a socket or pipe has no content that a build could read
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(
    directory: Path, prefix: str, left_out: tuple[str, ...], inside: tuple[Path, ...]
) -> Iterator[tuple[str, Path]]:
    """Files below a directory with their relative names, in a fixed order.

    Links to directories are followed, except back to one that the walk is inside of.
    """
    with os.scandir(directory) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    if any(entry.name == "pyvenv.cfg" for entry in found):
        return
    for entry in found:
        if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in left_out):
            continue
        path, name = Path(entry.path), prefix + entry.name
        if entry.is_dir():
            real = path.resolve()
            if real in inside:
                yield name, path
            else:
                yield from _files(path, f"{name}/", _LEFT_OUT_ANYWHERE, (*inside, real))
        else:
            yield name, path
