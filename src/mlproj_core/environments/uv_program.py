"""Where the `uv` program is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from mlproj_core.errors import EnvironmentBuildError

__all__ = ["find_uv"]


def find_uv(environ: Mapping[str, str]) -> str:
    """Path of the uv program: the one that came with mlproj, else the one on PATH.

    Raises:
        EnvironmentBuildError: there is none.
    """
    import shutil

    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return os.fspath(find_uv_bin())
    found = shutil.which("uv", path=environ.get("PATH"))
    if found is None:
        raise EnvironmentBuildError(
            "The program uv was found neither in the Python package `uv` nor on PATH. It comes with mlproj: install "
            "the package `uv` into the environment of mlproj, or name the manager `local` to run in that environment."
        )
    return found
