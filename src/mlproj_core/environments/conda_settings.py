"""conda's own settings, read as conda reads them: `.condarc` files and `CONDA_*` variables.

The rules are conda's (https://docs.conda.io/projects/conda/en/stable/user-guide/configuration/use-condarc.html): files
from the widest to the narrowest, of which the later prevail; variables prevail over files; lists add up, mappings are
merged, and what is marked `#!final` cannot be changed any more. conda itself is not needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlproj_core.environments.conda_options import ALIASES, HARMLESS, LISTS, MAPS, REFUSED, SCALARS
from mlproj_core.errors import UserError

__all__ = ["CondaSetting", "CondaSettings", "expand_variables", "read_conda_settings"]

_TRUE: Final = ("true", "yes", "on", "y", "1")
_FALSE: Final = ("false", "no", "off", "n", "0", "none")
_PRIORITIES: Final = ("strict", "flexible", "disabled")
_PLACED: Final = re.compile(r"#!(top|bottom)\b")
_DURATION: Final = re.compile(r"^P?(?:(\d+)W)?(?:(\d+)D)?T?(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?$", re.IGNORECASE)
_REFERENCE: Final = re.compile(r"\$(?:(\w+)|\{([^}]+)\})")


@dataclass(frozen=True)
class CondaSetting:
    """One setting of conda.

    Attributes:
        value: text, a truth value, a tuple or a mapping; may hold a password.
        origin: where it is set, for people: a variable's name, or a file and its line.
    """

    value: Any
    origin: str


@dataclass(frozen=True)
class CondaSettings:
    """Every setting of conda that is in effect.

    Attributes:
        settings: by name; lists as tuples.
        notes: lines for people: what is left aside.
    """

    settings: Mapping[str, CondaSetting] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def text(self, name: str, default: str) -> str:
        """A setting that is text."""
        setting = self.settings.get(name)
        return default if setting is None or setting.value is None else str(setting.value)

    def items(self, name: str) -> tuple[Any, ...]:
        """A setting that is a list."""
        setting = self.settings.get(name)
        return setting.value if setting else ()

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A setting that is a mapping."""
        setting = self.settings.get(name)
        return setting.value if setting else {}

    def switch(self, name: str, default: bool) -> bool:
        """A setting that is on or off.

        Raises:
            UserError: it is neither.
        """
        setting = self.settings.get(name)
        if setting is None:
            return default
        word = str(setting.value).lower()
        if word not in _TRUE + _FALSE:
            raise UserError(f"conda's setting {name} ({setting.origin}) must be true or false; got {setting.value!r}.")
        return word in _TRUE

    def channel_priority(self) -> str:
        """`strict`, `flexible` or `disabled`.

        Raises:
            UserError: it is something else.
        """
        setting = self.settings.get("channel_priority")
        if setting is None:
            return "flexible"
        word = str(setting.value).lower()
        # Before conda 4.6 it was on or off.
        word = "flexible" if word in _TRUE else "disabled" if word in _FALSE else word
        if word not in _PRIORITIES:
            raise UserError(
                f"conda's setting channel_priority ({setting.origin}) must be one of {', '.join(_PRIORITIES)}; "
                f"got {setting.value!r}."
            )
        return word

    def pins(self) -> tuple[str, ...]:
        """Specifications that a package must satisfy if it is installed at all."""
        return () if self.switch("ignore_pinned", False) else tuple(str(one) for one in self.items("pinned_packages"))

    def newest(self) -> tuple[str, float] | None:
        """How new a package may be (`exclude_newer`): "until", in seconds since the epoch, or "age", in seconds.

        Raises:
            UserError: it is none of the forms that conda knows.
        """
        text = self.text("exclude_newer", "").strip()
        if not text:
            return None
        if text.isdigit():
            return "age", float(text)
        if (match := _DURATION.match(text)) and any(match.groups()):
            weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            return "age", ((weeks * 7 + days) * 24 + hours) * 3600.0 + minutes * 60 + seconds
        from datetime import datetime, timedelta, timezone

        try:
            moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        except ValueError:
            origin = self.settings["exclude_newer"].origin
            raise UserError(
                f"conda's setting exclude_newer ({origin}) must be a date, a time such as 2026-04-01T12:00:00Z or an "
                f"age such as 7d; got {text!r}."
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return "until", (moment + timedelta(days=1 if len(text) == len("2026-04-01") else 0)).timestamp()

    def refuse(self) -> None:
        """See to it that nothing is lost.

        Raises:
            UserError: a setting changes what is installed, and cannot be kept without conda.
        """
        for name, (harmless, remedy) in REFUSED.items():
            setting = self.settings.get(name)
            if setting is None or setting.value in harmless:
                continue
            if not (False in harmless and str(setting.value).lower() in _FALSE):
                raise UserError(
                    f"conda's setting {name} ({setting.origin}) changes what is installed and cannot be kept by "
                    f"py-rattler: {remedy}. Remove it from the file or the environment."
                )
        for one in self.items("channel_settings"):
            if isinstance(one, dict) and one.get("exclude_newer") is not None:
                origin = self.settings["channel_settings"].origin
                raise UserError(
                    f"conda's setting channel_settings ({origin}) limits how new the packages of one channel may be, "
                    "which py-rattler cannot keep. Set `exclude_newer` for all channels."
                )


def read_conda_settings(environ: Mapping[str, str]) -> CondaSettings:
    """Conda's settings on this host.

    Args:
        environ: the environment variables that count.

    Raises:
        UserError: a configuration file cannot be read, or a setting in it has the wrong form.
    """
    reading = _Reading(environ)
    for file in _files(environ):
        reading.file(file)
    reading.variables()
    return CondaSettings(reading.settings, tuple(reading.notes))


def expand_variables(text: str, environ: Mapping[str, str]) -> str:
    """The text with `$NAME` and `${NAME}` filled in, as conda does in its configuration and in channels.

    Args:
        text: the text.
        environ: the variables; what is not among them stays as it is.
    """
    return _REFERENCE.sub(lambda match: environ.get(match[1] or match[2], match[0]), text)


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Conda's configuration files in the order in which they overrule each other."""
    home = Path(environ.get("HOME") or Path.home())
    folders = [Path("/etc/conda"), Path("/var/lib/conda")]
    folders += [Path(root) for root in (_installation(environ),) if root]
    if config := environ.get("XDG_CONFIG_HOME"):
        folders.append(Path(config, "conda"))
    folders += [home / ".config" / "conda", home / ".conda"]
    for folder in folders:
        yield from _in(folder)
    yield home / ".condarc"
    if prefix := environ.get("CONDA_PREFIX"):
        yield from _in(Path(prefix))
    if named := environ.get("CONDARC"):
        yield Path(named).expanduser()


def _in(folder: Path) -> Iterator[Path]:
    yield folder / ".condarc"
    yield folder / "condarc"
    parts = folder / "condarc.d"
    if parts.is_dir():
        yield from sorted(path for path in parts.iterdir() if path.suffix in (".yml", ".yaml"))


def _installation(environ: Mapping[str, str]) -> str | None:
    """Where conda itself is installed, if a shell that knows one has started this process."""
    if root := environ.get("CONDA_ROOT") or environ.get("MAMBA_ROOT_PREFIX"):
        return root
    program = environ.get("CONDA_EXE")
    return str(Path(program).parent.parent) if program else None


class _Reading:
    """One reading of conda's settings, each source after those that it prevails over."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.settings: dict[str, CondaSetting] = {}
        self.notes: list[str] = []
        self.final: set[str] = set()

    def file(self, path: Path) -> None:
        """Read one file; nothing when there is none, or none that this user may read."""
        from mlproj_core.spec.document import UnreadableDocument, kind, read_document

        if not (path.is_file() and os.access(path, os.R_OK)):
            return
        try:
            document = read_document(path)
        except UnreadableDocument as error:
            problem = error.problem
            where = ":".join(str(part) for part in (problem.file, problem.line) if part)
            # Not the message: it may quote the line, which may hold a password.
            raise UserError(f"{where}: conda's configuration is no YAML that can be read. Mend the file.") from None
        if document.value is None:
            return
        if not isinstance(document.value, dict):
            raise UserError(f"{path}: conda's configuration must be a mapping, found {kind(document.value)}.")
        lines = document.text.split("\n")
        if any(_PLACED.search(line) for line in lines):
            raise UserError(
                f"{path}: the marks #!top and #!bottom change the order of a list and cannot be kept by py-rattler. "
                "Write the list in its order in the file that prevails."
            )
        for key, value in document.value.items():
            line = document.key_position(document.value, key)[0]
            origin = f"{path}, line {line}" if line else str(path)
            name = ALIASES.get(str(key), str(key))
            self.add(name, self.expanded(value), origin)
            if line and "#!final" in lines[line - 1]:
                self.final.add(name)

    def variables(self) -> None:
        for name in (*LISTS, *SCALARS):
            variable = f"CONDA_{name.upper()}"
            text = self.environ.get(variable)
            if text is None:
                continue
            separator = LISTS.get(name)
            value: Any = text
            if separator is not None:
                value = [part.strip() for part in text.split(separator or ",") if part.strip()]
            self.add(name, value, f"the variable {variable}")

    def add(self, name: str, value: Any, origin: str) -> None:
        """Take in what one source says of a setting."""
        earlier = self.settings.get(name)
        if name in self.final:
            return
        if name in LISTS:
            items = self.listed(name, value, origin)
            both = tuple(item for item in (earlier.value if earlier else ()) if item not in items)
            self.settings[name] = CondaSetting((*items, *both), origin if items or not earlier else earlier.origin)
        elif name in MAPS:
            if not isinstance(value, dict):
                raise UserError(f"conda's setting {name} ({origin}) must be a mapping, found {value!r}.")
            self.settings[name] = CondaSetting({**(earlier.value if earlier else {}), **value}, origin)
        elif name in SCALARS:
            self.settings[name] = CondaSetting(value, origin)
        elif name not in HARMLESS:
            self.notes.append(f"conda's {name} ({origin}) is no setting that mlproj knows; it is left aside")

    def listed(self, name: str, value: Any, origin: str) -> tuple[Any, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            raise UserError(
                f"conda's setting {name} ({origin}) must be a list; write one item on each line after '- '."
            )
        if name == "channel_settings":
            handlers = [one.get("auth") for one in value if isinstance(one, dict) and one.get("auth")]
            if handlers:
                self.notes.append(
                    f"conda's channel_settings ({origin}) name authentication by plugins of conda "
                    f"({', '.join(map(str, handlers))}), which only conda can run; see `RATTLER_AUTH_FILE` and ~/.netrc"
                )
        return tuple(value)

    def expanded(self, value: Any) -> Any:
        """A value with `$NAME` and `${NAME}` in it filled in, as conda does."""
        if isinstance(value, str):
            return expand_variables(value, self.environ)
        if isinstance(value, list):
            return [self.expanded(one) for one in value]
        if isinstance(value, dict):
            return {key: self.expanded(one) for key, one in value.items()}
        return value
