"""pip's own settings, read as `pip install` reads them: configuration files and `PIP_*` variables.

The rules are pip's (https://pip.pypa.io/en/stable/topics/configuration/): files from the widest to the narrowest, later
ones overruling earlier ones; then `[global]` before `[install]` before variables. pip itself is not needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproj_core.errors import UserError

__all__ = ["PipSetting", "PipSettings", "read_pip_settings"]

_SECTIONS: Final = ("global", "install", ":env:")
_ALIASES: Final = {
    "default-timeout": "timeout",
    "local-log": "log",
    "log-file": "log",
    "no-dependencies": "no-deps",
    "only-dependencies": "only-deps",
    "pypi-url": "index-url",
    "require-venv": "require-virtualenv",
    "source": "src",
    "source-dir": "src",
    "source-directory": "src",
}
_TRUE: Final = ("y", "yes", "t", "true", "on", "1")
_FALSE: Final = ("n", "no", "f", "false", "off", "0")


@dataclass(frozen=True)
class PipSetting:
    """One setting of pip.

    Attributes:
        name: pip's long option without dashes, as in "index-url".
        value: as written; may hold a password.
        origin: where it is set, for people: a variable's name, or a file and its section.
    """

    name: str
    value: str
    origin: str

    def words(self) -> list[str]:
        """The value as pip splits it where an option may be given several times."""
        return self.value.split()

    def is_true(self) -> bool:
        """The value as a switch.

        Raises:
            UserError: it is neither yes nor no.
        """
        word = self.value.strip().lower()
        if word not in _TRUE + _FALSE:
            raise UserError(
                f"pip's setting {self.name} ({self.origin}) must be yes or no, true or false, 1 or 0; "
                f"got {self.value!r}."
            )
        return word in _TRUE


@dataclass(frozen=True)
class PipSettings:
    """Every setting of pip that is in effect for `pip install`, in the order in which pip applies them."""

    settings: tuple[PipSetting, ...]

    def get(self, name: str) -> PipSetting | None:
        """The setting that prevails under this name; None when there is none."""
        return next((one for one in reversed(self.settings) if one.name == name), None)

    def all(self, *names: str) -> Iterator[PipSetting]:
        """Every setting under these names, in order: some of pip's options add up instead of overruling."""
        return (one for one in self.settings if one.name in names)

    def names(self) -> list[str]:
        """The names of what is set, each once, in order."""
        return list(dict.fromkeys(one.name for one in self.settings))


def read_pip_settings(environ: Mapping[str, str], *, site: bool = True) -> PipSettings:
    """Pip's settings on this host.

    Args:
        environ: the environment variables that count.
        site: whether the files of the environment that mlproj runs in, and of the one that is activated around it,
            count too. A pip inside a new environment does not read them.

    Raises:
        UserError: a configuration file cannot be parsed; pip would stop as well.
    """
    by_section: dict[str, dict[str, PipSetting]] = {section: {} for section in _SECTIONS}
    for file in _files(environ, site=site):
        for section, name, value in _parsed(file):
            if section in by_section:
                by_section[section][name] = PipSetting(name, value, f"{file}, section [{section}]")
    for variable, value in environ.items():
        if variable.startswith("PIP_") and variable not in ("PIP_VERSION", "PIP_HELP"):
            name = _normal(variable.removeprefix("PIP_"))
            by_section[":env:"][name] = PipSetting(name, value, f"the variable {variable}")
    # An empty value counts as not set, and lets a wider section through.
    return PipSettings(tuple(one for found in by_section.values() for one in found.values() if one.value))


def _files(environ: Mapping[str, str], *, site: bool) -> Iterator[Path]:
    """Pip's configuration files in the order in which they overrule each other."""
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    home = Path(environ.get("HOME") or Path.home())
    mac = sys.platform == "darwin"
    if mac:
        yield Path("/Library/Application Support/pip/pip.conf")
    else:
        for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep):
            yield Path(folder, "pip", "pip.conf")
        yield Path("/etc/pip.conf")
    if not (named and Path(named).exists()):
        yield home / ".pip" / "pip.conf"
        support = home / "Library" / "Application Support" / "pip"
        if mac and support.is_dir():
            yield support / "pip.conf"
        elif mac:
            yield home / ".config" / "pip" / "pip.conf"
        else:
            yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")
    if site:
        prefixes = dict.fromkeys((sys.prefix, environ.get("VIRTUAL_ENV")))
        yield from (Path(prefix, "pip.conf") for prefix in prefixes if prefix)
    if named:
        yield Path(named)


def _parsed(file: Path) -> Iterator[tuple[str, str, str]]:
    """Section, name and value of every setting in a file; nothing when there is no such file."""
    if not file.is_file():
        return
    import configparser
    import locale

    parser = configparser.RawConfigParser()
    try:
        with file.open(encoding=locale.getpreferredencoding(False)) as text:
            parser.read_file(text)
    except PermissionError:
        return  # what pip of this user cannot read does not concern this user
    except (configparser.Error, UnicodeDecodeError) as error:
        # The parser quotes the line at fault, which may hold a password: name the place, not the text.
        line = getattr(error, "lineno", None) or next((at for at, _ in getattr(error, "errors", ())), None)
        raise UserError(
            f"{file}{f', line {line}' if line else ''}: pip's configuration cannot be read "
            f"({type(error).__name__}). Mend the file, or point PIP_CONFIG_FILE at {os.devnull} to leave it out."
        ) from None
    for section in parser.sections():
        for name, value in parser.items(section):
            yield section, _normal(name), value or ""


def _normal(name: str) -> str:
    """An option's name as pip compares it."""
    plain = name.lower().replace("_", "-").removeprefix("--")
    return _ALIASES.get(plain, plain)
