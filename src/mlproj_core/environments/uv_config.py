"""What the user has told uv itself: `UV_*` variables, and the uv.toml files that uv reads."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproj_core.environments.redaction import without_credentials
from mlproj_core.locations import cache_dir

__all__ = ["UvConfig", "configured_at", "identity_of_variables", "is_on", "read_uv_config"]

_TABLE: Final = re.compile(r"^\s*\[+\s*([^\]]+?)\s*\]+\s*(#.*)?$")

# These decide how uv works, not what it installs; those that name an interpreter count through the interpreter.
_WITHOUT_EFFECT: Final = re.compile(
    r"^UV_(CACHE_DIR|NO_CACHE|CONCURRENT_\w+|HTTP_\w+|REQUEST_TIMEOUT|UPLOAD_HTTP_TIMEOUT|NO_PROGRESS|NO_WRAP|OFFLINE"
    r"|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|KEYRING_PROVIDER|PYTHON\w*|MANAGED_PYTHON|NO_MANAGED_PYTHON|PROJECT\w*"
    r"|NO_PROJECT|WORKING_DIR\w*|SYSTEM_PYTHON|BREAK_SYSTEM_PACKAGES|VENV_\w+|ENV_FILE|NO_ENV_FILE|PUBLISH_\w+|TOOL_\w+"
    r"|STACK_SIZE|LOG_CONTEXT|LOCK_TIMEOUT|INTERNAL__\w+|RUN_\w+|INIT_\w+|INSTALLER_\w+|NO_MODIFY_PATH|DEV|NO_DEV|GROUP"
    r"|NO_GROUP|FROZEN|LOCKED|NO_SYNC|ISOLATED|CONFIG_FILE|NO_CONFIG|CREDENTIALS_DIR|PREVIEW\w*|SHOW_RESOLUTION"
    r"|CUSTOM_COMPILE_COMMAND|UNMANAGED_INSTALL|DOWNLOAD_URL|GITHUB_\w+|NO_GITHUB_\w+|TEST_\w+|EDIT_\w+)$"
)
_SECRET: Final = re.compile(r"(PASSWORD|USERNAME|TOKEN|SECRET|CREDENTIAL|API_KEY)")


@dataclass(frozen=True)
class UvConfig:
    """The configuration files that uv will read, and what they say.

    Attributes:
        project: the directory where uv is to look for a project's configuration; None for nowhere.
        texts: content of each file that counts, by its path; of a pyproject.toml only the `tool.uv` tables.
    """

    project: Path | None
    texts: Mapping[str, str]

    def sets(self, *keys: str) -> str | None:
        """The file that sets one of these keys, in any table; None when none does."""
        for path, text in self.texts.items():
            if any(_setting(key).search(text) for key in keys):
                return path
        return None

    def identity(self) -> tuple[str, ...]:
        """Lines that differ when the files say something else; free of credentials."""
        return tuple(f"uv.toml {without_credentials(text)}" for text in self.texts.values())


def read_uv_config(environ: Mapping[str, str], directory: Path) -> UvConfig:
    """The configuration that uv will read for a project, by uv's own rules save one.

    uv would climb from the project's directory to the root in search of a configuration, and so take one that has
    nothing to do with the project. Only the project's own directory counts here, as under MLflow.

    Args:
        environ: the environment variables that count.
        directory: the project directory.
    """
    if is_on(environ.get("UV_NO_CONFIG")):
        return UvConfig(None, {})
    if named := environ.get("UV_CONFIG_FILE"):
        return UvConfig(None, _texts([Path(named)]))
    home = Path(environ.get("HOME") or Path.home())
    files = [Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "uv", "uv.toml")]
    places = [Path(place) for place in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep) if place]
    system = [place / "uv" / "uv.toml" for place in places] + [Path("/etc/uv/uv.toml")]
    files += [file for file in system if file.is_file()][:1]
    own = _texts([directory / "uv.toml"]) or _texts([directory / "pyproject.toml"])
    if not own:
        return UvConfig(None, _texts(files))
    # A project that is a member of a workspace is configured at the workspace's root.
    above = [parent / name for parent in directory.parents for name in ("pyproject.toml", "uv.toml")]
    return UvConfig(directory, {**own, **_texts(above), **_texts(files)})


def configured_at(config: UvConfig) -> Path:
    """The directory where uv is to look for configuration: the project's own, or one that ends the search."""
    if config.project is not None:
        return config.project
    nowhere = cache_dir() / "no-project"
    if not (nowhere / "uv.toml").is_file():
        nowhere.mkdir(parents=True, exist_ok=True)
        (nowhere / "uv.toml").touch()
    return nowhere


def identity_of_variables(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Lines that differ when a variable that changes what uv installs differs; free of credentials."""
    return tuple(
        f"{name}={without_credentials(variables[name])}"
        for name in sorted(variables)
        if name.startswith("UV_") and not _WITHOUT_EFFECT.match(name) and not _SECRET.search(name)
    )


def is_on(value: str | None) -> bool:
    """Whether a variable is a switch that is on, by uv's reading."""
    return (value or "").strip().lower() in ("1", "true", "yes", "y", "on", "t")


def _texts(files: list[Path]) -> dict[str, str]:
    found = {}
    for file in files:
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            if file.name == "pyproject.toml":
                text = _tool_uv(text)
            if text.strip():
                found[str(file)] = text
    return found


def _tool_uv(text: str) -> str:
    """The `tool.uv` tables of a pyproject.toml."""
    kept, inside = [], False
    for line in text.splitlines():
        if table := _TABLE.match(line):
            inside = table[1].replace(" ", "").startswith("tool.uv")
        if inside:
            kept.append(line)
    return "\n".join(kept)


@functools.lru_cache(maxsize=64)
def _setting(key: str) -> re.Pattern[str]:
    """Finds a key that is set, be it in a table, dotted, in an inline table, or as an array of tables."""
    name = re.escape(key)
    return re.compile(rf"^[^#\n]*(?<![\w-])[\"']?{name}[\"']?\s*=|^\s*\[\[\s*(tool\.uv\.)?(pip\.)?{name}\s*\]\]", re.M)
