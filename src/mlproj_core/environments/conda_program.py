"""What makes conda environments on this host: py-rattler, else the program of a conda installation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

__all__ = ["CondaProgram", "environment_file", "explicit_file", "find_program", "missing", "rattler_installed"]

_NAMES: Final = ("conda", "mamba", "micromamba")


@dataclass(frozen=True)
class CondaProgram:
    """A conda, mamba or micromamba.

    Attributes:
        path: the program.
        origin: how it was found, for people.
    """

    path: str
    origin: str

    @property
    def name(self) -> str:
        """Which of them it is."""
        name = Path(self.path).stem
        return name if name in _NAMES else "conda"

    def create(self, prefix: Path, file: Path, *, explicit: bool) -> list[str]:
        """The command that makes an environment.

        Args:
            prefix: the environment's directory, which is not there yet.
            file: an environment file, or an explicit list.
            explicit: whether it is such a list.
        """
        where = ["--prefix", str(prefix), "--file", str(file)]
        if explicit or self.name == "micromamba":
            return [self.path, "create", "--yes", *where]
        return [self.path, "env", "create", *where]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The variables that it gets."""
        misleading = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
        kept = {name: value for name, value in environ.items() if name not in misleading}
        # `conda env create` has known --yes only since conda 24; the variables are older than any conda in use.
        return {**kept, "CONDA_ALWAYS_YES": "true", "MAMBA_ALWAYS_YES": "true"}


def rattler_installed() -> bool:
    """Whether py-rattler is there; it is not imported."""
    return find_spec("rattler") is not None


def missing() -> str | None:
    """Why no conda environment can be made on this host, with the remedy; None if one can. Starts no process."""
    if rattler_installed() or find_program(os.environ) is not None:
        return None
    return (
        "neither the package py-rattler nor a conda, mamba or micromamba is on this host; "
        "install mlproj's extra: pip install 'mlproj[conda]'"
    )


def find_program(environ: Mapping[str, str]) -> CondaProgram | None:
    """The program to make conda environments with; None if there is none.

    Looked for in MLFLOW_CONDA_HOME (with MLFLOW_CONDA_CREATE_ENV_CMD, both MLflow's), CONDA_EXE, MAMBA_EXE and PATH.
    """
    for path, origin in _candidates(environ):
        if os.access(path, os.X_OK) and Path(path).is_file():
            return CondaProgram(path, origin)
    return None


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    wanted = environ.get("MLFLOW_CONDA_CREATE_ENV_CMD") or "conda"
    if home := environ.get("MLFLOW_CONDA_HOME"):
        yield str(Path(home, "bin", wanted)), "MLFLOW_CONDA_HOME"
    for variable in ("CONDA_EXE", "MAMBA_EXE"):
        if path := environ.get(variable):
            yield path, variable
    for name in dict.fromkeys((wanted, *_NAMES)):
        if found := shutil.which(name, path=environ.get("PATH")):
            yield found, "PATH"


def environment_file(content: Mapping[str, Any]) -> str:
    """The text of an environment file."""
    import yaml

    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def explicit_file(packages: Sequence[tuple[str, str | None, str | None]]) -> str:
    """The text of an explicit list of packages, each with address, md5 and sha256."""
    lines = ["@EXPLICIT"]
    for url, md5, sha256 in packages:
        digest = f"#{md5}" if md5 else f"#sha256:{sha256}" if sha256 else ""
        lines.append(f"{url}{digest}")
    return "\n".join(lines) + "\n"
