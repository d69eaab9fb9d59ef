"""What conda itself finds in an environment file: packages for some platforms, variables, lists of locked packages.

Three kinds of files can be named as `conda_env`: an environment file in YAML, an explicit list (`conda list
--explicit`) and a lock file of conda-lock (https://conda.github.io/conda-lock/).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlproj_core.spec.document import Document, kind
from mlproj_core.spec.problem import Problem, shown

__all__ = ["CondaDependency", "CondaFile", "ExplicitPackage", "locked_kind", "read_explicit", "selected"]

PLATFORMS: Final = (
    "linux-32", "linux-64", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-ppc64le", "linux-riscv64",
    "linux-s390x", "osx-64", "osx-arm64", "win-32", "win-64", "win-arm64",
)  # fmt: skip
"""The platforms that conda makes packages for (`conda.base.constants.KNOWN_SUBDIRS`), those for browsers left out."""

_COMMENT: Final = re.compile(r"\s#[^\[\]]*\[([^\[\]]+)\]\s*$")
_SEL: Final = re.compile(r"^sel\((.+)\)$")
_PACKAGE_URL: Final = re.compile(r"^(?P<url>\S+?\.(?:conda|tar\.bz2))(?:#(?P<digest>\S+))?$")
_MD5: Final = re.compile(r"^[0-9a-fA-F]{32}$")
_SHA256: Final = re.compile(r"^(?:sha256:)?([0-9a-fA-F]{64})$")
_PLATFORM_COMMENT: Final = re.compile(r"^#\s*platform:\s*(\S+)")
_VARIABLE: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_PIP: Final = re.compile(r"^(?:\S+::)?pip(?![\w.-])")


@dataclass(frozen=True)
class CondaDependency:
    """A package that an environment file lists.

    Attributes:
        text: a match specification of conda, or for pip a requirement line.
        where: file, line and column, for messages.
        selector: the platforms it is for, as in "linux" or "not win"; None for all.
    """

    text: str
    where: str
    selector: str | None = None


@dataclass(frozen=True)
class ExplicitPackage:
    """A package by its address.

    Attributes:
        url: where it is; a path on this host without a scheme.
        md5: its digest in hexadecimal, or None.
        sha256: its digest in hexadecimal, or None.
    """

    url: str
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class CondaFile:
    """What conda reads in a file, beyond what a virtual environment can be made of.

    Attributes:
        packages: its conda packages.
        pip: the requirement lines of its `pip:` section.
        variables: environment variables to set whenever the environment is activated.
        platforms: those that the file is for; none for all.
        locked: "explicit" or "conda-lock" for a file that lists every package by its address; None for any other.
        explicit: the packages of an explicit list.
        problems: why conda cannot make an environment of it.
    """

    packages: tuple[CondaDependency, ...] = ()
    pip: tuple[CondaDependency, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    platforms: tuple[str, ...] = ()
    locked: str | None = None
    explicit: tuple[ExplicitPackage, ...] = ()
    problems: tuple[Problem, ...] = field(default=())

    def lists_pip(self) -> bool:
        """Whether pip itself is among the conda packages."""
        return any(_PIP.match(package.text) for package in self.packages)


def selected(selector: str | None, platform: str) -> bool:
    """Whether a selector takes a platform in: names joined by `or`, `and` and `not`.

    The names are those of conda-lock and micromamba: `linux`, `osx`, `win`, `unix`, a platform (`linux-64`), one
    without its dash (`linux64`), a processor (`arm64`).

    Args:
        selector: the selector; None takes in every platform.
        platform: conda's name of a platform, as in "linux-64".
    """
    if selector is None:
        return True
    names = _names(platform)
    return any(
        all((word.removeprefix("not ").strip() in names) != word.startswith("not ") for word in part.split(" and "))
        for part in " ".join(selector.split()).split(" or ")
    )


def locked_kind(path: Path) -> str | None:
    """Whether a file is an explicit list or a lock file of conda-lock, by its content; None if it is neither."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    if any(line.strip() == "@EXPLICIT" for line in text.splitlines()[:200]):
        return "explicit"
    keys = {key for key in ("version", "metadata", "package") if re.search(rf"^{key}:", text, re.MULTILINE)}
    return "conda-lock" if len(keys) == 3 else None


def read_explicit(path: Path, file: str) -> CondaFile:
    """Read an explicit list: addresses of packages, each with the md5 or sha256 of the package behind a `#`.

    Args:
        path: the file.
        file: how messages name it.
    """
    packages: list[ExplicitPackage] = []
    platforms: list[str] = []
    problems: list[Problem] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        text = line.strip()
        if comment := _PLATFORM_COMMENT.match(text):
            platforms.append(comment[1])
        if not text or text.startswith("#") or text == "@EXPLICIT":
            continue
        match = _PACKAGE_URL.match(text)
        digest = match["digest"] if match else None
        sha256 = _SHA256.match(digest or "")
        if match is None or (digest and not sha256 and not _MD5.match(digest)):
            remedy = "write the address of a .conda or .tar.bz2 file, and behind a # its md5 or sha256 or nothing"
            problems.append(Problem(f"{shown(text)} is no package of an explicit list", remedy, file, number))
            continue
        md5 = None if sha256 else digest
        packages.append(ExplicitPackage(match["url"], md5, sha256[1] if sha256 else None))
    if not packages and not problems:
        problems.append(Problem("this explicit list is empty", "list packages after the line @EXPLICIT", file))
    return CondaFile(platforms=tuple(platforms), locked="explicit", explicit=tuple(packages), problems=tuple(problems))


def read_environment(document: Document, content: dict[Any, Any]) -> CondaFile:
    """Read what an environment file says to conda."""
    reader = _Reader(document)
    dependencies = content.get("dependencies")
    packages, pip = reader.dependencies(dependencies if isinstance(dependencies, list) else [])
    reader.channels(content)
    return CondaFile(
        packages=tuple(packages),
        pip=tuple(pip),
        variables=tuple(reader.variables(content)),
        platforms=tuple(reader.platforms(content)),
        problems=tuple(reader.problems),
    )


class _Reader:
    """One reading of an environment file."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.lines = document.text.split("\n")
        self.problems: list[Problem] = []

    def problem(self, message: str, remedy: str, container: Any, key: Any) -> None:
        at = self.document.value_position(container, key)
        self.problems.append(self.document.problem(message, remedy, at=at))

    def dependencies(self, items: list[Any]) -> tuple[list[CondaDependency], list[CondaDependency]]:
        packages: list[CondaDependency] = []
        pip: list[CondaDependency] = []
        for index, item in enumerate(items):
            if isinstance(item, str):
                packages.append(self.dependency(item, items, index))
            elif isinstance(item, dict) and "pip" in item:
                pip += self.requirements(item)
            elif isinstance(item, dict) and len(item) == 1 and (found := self.sel(item)):
                packages.append(found)
            else:
                remedy = "write a package as text, or a section 'pip:' with a list of requirements"
                self.problem(f"{shown(item)} is no conda dependency", remedy, items, index)
        return packages, pip

    def requirements(self, item: dict[Any, Any]) -> Iterator[CondaDependency]:
        lines = item["pip"]
        if lines is None:
            return
        if not isinstance(lines, list):
            remedy = "write one requirement on each line, after '- '"
            self.problem(f"pip must be a list, found {kind(lines)}", remedy, item, "pip")
            return
        for index, line in enumerate(lines):
            if isinstance(line, str):
                yield self.dependency(line, lines, index)
            else:
                remedy = "write a requirement such as numpy==1.26.4, quoted if it contains a colon followed by a space"
                self.problem(f"pip must hold text only, found {shown(line)}", remedy, lines, index)

    def dependency(self, text: str, items: list[Any], index: int) -> CondaDependency:
        line, column = self.document.value_position(items, index)
        comment = _COMMENT.search(self.lines[line - 1]) if line else None
        selector = comment[1].strip() if comment and _is_selector(comment[1]) else None
        return CondaDependency(text, self.where(line, column), selector)

    def sel(self, item: dict[Any, Any]) -> CondaDependency | None:
        """A package under `sel(PLATFORM):`, as micromamba reads it."""
        ((key, value),) = item.items()
        match = _SEL.match(str(key))
        if match is None or not isinstance(value, str):
            return None
        line, column = self.document.key_position(item, key)
        if not _is_selector(match[1]):
            remedy = f"write one of {', '.join(sorted(_names('linux-64') | _names('osx-arm64') | {'win'}))}"
            self.problem(f"{match[1]!r} in {shown(str(key))} names no platform", remedy, item, key)
        return CondaDependency(value, self.where(line, column), match[1].strip())

    def where(self, line: int | None, column: int | None) -> str:
        return ":".join(str(part) for part in (self.document.file, line, column) if part)

    def channels(self, content: dict[Any, Any]) -> None:
        channels = content.get("channels")
        if channels is None:
            return
        if not isinstance(channels, list):
            remedy = "write one channel on each line, after '- '"
            self.problem(f"channels must be a list, found {kind(channels)}", remedy, content, "channels")
            return
        for index, channel in enumerate(channels):
            if not isinstance(channel, str):
                remedy = "write a name such as conda-forge, or the address of a channel"
                self.problem(f"a channel must be text, found {shown(channel)}", remedy, channels, index)

    def variables(self, content: dict[Any, Any]) -> Iterator[tuple[str, str]]:
        variables = content.get("variables")
        if variables is None:
            return
        if not isinstance(variables, dict):
            remedy = "write one variable on each line: NAME: value"
            self.problem(f"variables must be a mapping, found {kind(variables)}", remedy, content, "variables")
            return
        for name, value in variables.items():
            if not _VARIABLE.match(str(name)):
                remedy = "a variable's name has letters, digits and _ only, and begins with no digit"
                self.problem(f"{shown(name)} cannot be the name of a variable", remedy, variables, name)
            elif value is None or isinstance(value, list | dict):
                remedy = f'write text: {name}: "value"'
                self.problem(f"the variable {name} must have one value, found {kind(value)}", remedy, variables, name)
            else:
                yield str(name), str(value)

    def platforms(self, content: dict[Any, Any]) -> Iterator[str]:
        platforms = content.get("platforms")
        if platforms is None:
            return
        if not isinstance(platforms, list):
            remedy = "write one platform on each line, after '- '"
            self.problem(f"platforms must be a list, found {kind(platforms)}", remedy, content, "platforms")
            return
        for index, platform in enumerate(platforms):
            if platform in (*PLATFORMS, "noarch"):
                yield platform
            else:
                self.problem(
                    f"{shown(platform)} is no platform", f"it is one of {', '.join(PLATFORMS)}", platforms, index
                )


def _names(platform: str) -> set[str]:
    """The names that stand for a platform in a selector."""
    system, _, processor = platform.partition("-")
    names = {platform, system, system + processor}
    if not processor.isdigit():
        names.add(processor)
    return names | {"unix"} if system in ("linux", "osx") else names


def _is_selector(text: str) -> bool:
    """Whether text in brackets is a selector, and no mere remark."""
    known = {name for platform in PLATFORMS for name in _names(platform)} | {"and", "or", "not"}
    return all(word in known for word in text.split())
