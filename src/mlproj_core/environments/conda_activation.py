"""Activating a conda environment: what `conda activate` does in bash, as a file to be sourced.

The order is that of `conda.activate._Activator.build_activate`: variables first, those of packages before those of the
environment file, then the scripts of packages by name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["ACTIVATION_NAME", "variables_of", "write_activation", "write_variables"]

ACTIVATION_NAME: Final = ".mlproj-activate.sh"
"""Name of the file, in the environment's directory."""

_UNSET: Final = "***unset***"
"""The value by which conda marks a variable that was taken back (`CONDA_ENV_VARS_UNSET_VAR`)."""

_HEAD: Final = r"""# Activates the conda environment for a command, as `conda activate` would; to be sourced by bash.
trap 'printf "[mlproj] the activation of the conda environment ended the shell, in %s\n" "${__mlproj_at-}" >&2' EXIT
if [ -n "${CONDA_PREFIX-}" ]; then
  __mlproj_scripts=("$CONDA_PREFIX"/etc/conda/deactivate.d/*.sh)
  for ((__mlproj_i = ${#__mlproj_scripts[@]} - 1; __mlproj_i >= 0; __mlproj_i--)); do
    __mlproj_at=${__mlproj_scripts[__mlproj_i]}
    if [ -e "$__mlproj_at" ]; then . "$__mlproj_at"; fi
  done
  PATH=":${PATH-}:"
  while [[ $PATH == *":$CONDA_PREFIX/bin:"* ]]; do PATH="${PATH//":$CONDA_PREFIX/bin:"/:}"; done
  PATH="${PATH#:}"
  PATH="${PATH%:}"
fi
"""


def write_variables(prefix: Path, variables: Mapping[str, str]) -> None:
    """Note the variables of an environment file where conda keeps them, so that its own `activate` knows them too."""
    if not variables:
        return
    state = prefix / "conda-meta" / "state"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps({"version": 1, "env_vars": dict(variables)}), encoding="utf-8")


def variables_of(prefix: Path) -> dict[str, str]:
    """The variables that activating an environment sets: those of its packages, then those of its file."""
    found: dict[str, str] = {}
    for path in sorted((prefix / "etc" / "conda" / "env_vars.d").glob("*.json")):
        found.update(_texts(_json(path)))
    found.update(_texts(_json(prefix / "conda-meta" / "state").get("env_vars") or {}))
    return {name: value for name, value in found.items() if value != _UNSET}


def write_activation(prefix: Path) -> Path:
    """Write the file that activates an environment, for what is in it now."""
    path = prefix / ACTIVATION_NAME
    path.write_text(_HEAD + "".join(f"{line}\n" for line in _lines(prefix)), encoding="utf-8")
    return path


def _lines(prefix: Path) -> Iterator[str]:
    place = shlex.quote(str(prefix))
    yield f"export CONDA_PREFIX={place} CONDA_DEFAULT_ENV={place} CONDA_SHLVL=1"
    yield f"export CONDA_PROMPT_MODIFIER={shlex.quote(f'({prefix}) ')}"
    yield f'export PATH={shlex.quote(str(prefix / "bin"))}"${{PATH:+:$PATH}}"'
    for name, value in variables_of(prefix).items():
        yield f"export {name}={shlex.quote(value)}"
    for script in sorted((prefix / "etc" / "conda" / "activate.d").glob("*.sh")):
        yield f"__mlproj_at={shlex.quote(str(script))}"
        yield '. "$__mlproj_at"'
    yield "trap - EXIT"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _texts(value: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(text) for name, text in value.items() if name.isidentifier() and name.isascii()}
