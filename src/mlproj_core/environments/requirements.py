"""What requirement lines refer to on disk, so that every byte of it counts in an environment's key.

The format is pip's requirements file (https://pip.pypa.io/en/stable/reference/requirements-file-format/).
Only references are read here; versions, markers and hashes are the installer's business. As in pip and uv, a file
named by `-r` or `-c` is relative to the file that names it, a local package to the working directory, which
is the project's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproj_core.environments.digests import directory_digest, file_digest
from mlproj_core.environments.redaction import credentials_in, without_credentials
from mlproj_core.errors import UserError

__all__ = ["Requirements", "read_requirements", "read_sources", "scan_file", "with_absolute_references"]

_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_VARIABLE: Final = re.compile(r"\$\{([A-Z0-9_]+)\}")
_REMOTE: Final = re.compile(r"^(https?|ftp|s3|gs|hf|(git|hg|svn|bzr)(\+[a-z]+)?)(://|\+|@)", re.IGNORECASE)
_OPTION: Final = re.compile(r"^(--[a-z-]+|-[a-zA-Z])(?:[=\s]\s*)?(.*)$")
_REFERENCES: Final = ("-r", "--requirement", "--requirements", "-c", "--constraint", "--constraints")
_ARCHIVE: Final = re.compile(r"\.(whl|zip|tar|tar\.(gz|bz2|xz|zst)|tgz|tbz|txz)$", re.IGNORECASE)
_URL_REQUIREMENT: Final = re.compile(r"^[A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*@\s*(.+)$")
_PATH_SOURCE: Final = re.compile(r"""\bpath\s*=\s*["']([^"']+)["']|["'][^"']*@\s*file:(?://)?([^"']+)["']""")
_WORKSPACE_SOURCE: Final = re.compile(r"\bworkspace\s*=\s*true\b")
_NAMES: Final = {
    "pyproject.toml": re.compile(
        r"""^\[(?:project|tool\.poetry|tool\.flit\.metadata)\]\s*?(?:\n(?!\[).*)*?\n\s*name\s*=\s*["']([\w.-]+)["']""",
        re.M,
    ),
    "setup.cfg": re.compile(r"^\[metadata\]\s*?(?:\n(?!\[).*)*?\n\s*name\s*=\s*([\w.-]+)\s*$", re.M),
    "setup.py": re.compile(r"""\bname\s*=\s*["']([\w.-]+)["']"""),
}


@dataclass(frozen=True)
class Requirements:
    """What a list of requirement lines stands for.

    Attributes:
        identity: lines that differ when anything that could change the installation differs; free of credentials.
        editable: absolute paths of the directories installed with `-e`: the environment points at them.
        packages: names of the packages built from local directories; empty text for one whose name is unknown.
        secrets: passwords in the URLs of the lines, to be masked in what an installer prints.
        extra_indexes: whether a line adds a package index beside the default one.
        paths: absolute paths of the files and directories that are read.
    """

    identity: tuple[str, ...]
    editable: tuple[Path, ...]
    packages: tuple[str, ...]
    secrets: tuple[str, ...]
    extra_indexes: bool
    paths: tuple[Path, ...] = ()


def read_requirements(lines: Iterable[str], directory: Path, environ: Mapping[str, str], origin: str) -> Requirements:
    """What these requirement lines stand for, with everything they refer to read.

    Args:
        lines: requirement lines, as in python_env.yaml.
        directory: what relative references are relative to: the project directory.
        environ: variables for `${NAME}` in a line.
        origin: what holds the lines, for error messages.

    Raises:
        UserError: a file that a line refers to cannot be read.
    """
    scan = _Scan(directory, environ)
    scan.text("\n".join(lines), directory, origin)
    return scan.result()


def with_absolute_references(lines: Iterable[str], directory: Path, environ: Mapping[str, str]) -> list[str]:
    """The lines with the files named by `-r` and `-c` as absolute paths, for a pip that reads them from elsewhere."""
    return [_with_absolute_reference(line, directory, environ) for line in _logical_lines("\n".join(lines)) if line]


def _with_absolute_reference(line: str, directory: Path, environ: Mapping[str, str]) -> str:
    expanded = _VARIABLE.sub(lambda match: environ.get(match[1], match[0]), line)
    option = _OPTION.match(expanded)
    if option is None or option[1] not in _REFERENCES:
        return line
    path = option[2].strip().strip("\"'")
    return line if _REMOTE.match(path) else f"{option[1]} {directory / _local(path)}"


def read_sources(
    tables: str, packages: Iterable[str], archives: Iterable[str], directory: Path, environ: Mapping[str, str]
) -> Requirements:
    """What `tool.uv` tables and a lock file stand for, with everything local read.

    Args:
        tables: text whose tables `tool.uv.sources` name local packages.
        packages: local directories and archives of packages.
        archives: directories that hold archives of packages.
        directory: what relative paths are relative to.
        environ: variables for `${NAME}`.
    """
    scan = _Scan(directory, environ)
    scan.sources(tables, directory)
    for package in packages:
        scan.package(package)
    for folder in archives:
        scan.directory_of_archives(directory, folder)
    return scan.result()


def scan_file(path: str, directory: Path, environ: Mapping[str, str], origin: str) -> tuple[str, ...]:
    """The identity of one requirements or constraints file and all it refers to.

    Raises:
        UserError: it, or a file it refers to, cannot be read.
    """
    scan = _Scan(directory, environ)
    scan.reference(path, directory, origin)
    return tuple(scan.identity)


def _logical_lines(text: str) -> Iterator[str]:
    """Lines with continuations joined and comments removed, as pip reads them."""
    joined = ""
    for line in text.splitlines():
        if line.endswith("\\") and not _COMMENT.match(line):
            joined += line[:-1]
            continue
        yield _COMMENT.sub("", joined + line).strip()
        joined = ""
    yield _COMMENT.sub("", joined).strip()


class _Scan:
    """Reads requirement lines and everything they refer to, once each."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.environ = environ
        self.identity: list[str] = []
        self.editable: list[Path] = []
        self.packages: list[str] = []
        self.secrets: list[str] = []
        self.extra_indexes = False
        self._seen: dict[Path, None] = {}  # a set that keeps its order

    def result(self) -> Requirements:
        """What was found."""
        return Requirements(
            tuple(self.identity),
            tuple(self.editable),
            tuple(self.packages),
            tuple(self.secrets),
            self.extra_indexes,
            tuple(self._seen),
        )

    def text(self, text: str, base: Path, origin: str) -> None:
        """Read requirement lines; `base` is the directory of the file that holds them."""
        for line in _logical_lines(text):
            if not line:
                continue
            expanded = _VARIABLE.sub(lambda match: self.environ.get(match[1], match[0]), line)
            self.identity.append(f"line {without_credentials(expanded)}")
            self.secrets += credentials_in([expanded])
            option = _OPTION.match(expanded)
            if option:
                self._option(option[1], option[2].strip().strip("\"'"), base, origin)
            else:
                self._requirement(expanded)

    def reference(self, path: str, base: Path, origin: str) -> None:
        """Read a requirements or constraints file that `origin` refers to."""
        if _REMOTE.match(path):
            # What lies behind a URL cannot be known without the network; its address counts.
            self.identity.append(f"remote {without_credentials(path)}")
            return
        file = base / _local(path)
        if file in self._seen:
            return
        self._seen[file] = None
        try:
            content = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise UserError(
                f"{origin} refers to {path}, but {file} cannot be read: {error.strerror}. "
                "Relative references are relative to the project directory, or to the file that holds them."
            ) from error
        self.identity.append(f"begin {path}")
        self.text(content, file.parent, str(file))
        self.identity.append(f"end {path}")

    def _option(self, name: str, value: str, base: Path, origin: str) -> None:
        if name in _REFERENCES:
            self.reference(value, base, origin)
        elif name in ("-e", "--editable"):
            self.package(value, editable=True)
        elif name in ("-f", "--find-links") and not _REMOTE.match(value):
            self.directory_of_archives(base, value)
        elif name in ("--extra-index-url", "--index"):
            self.extra_indexes = True

    def _requirement(self, line: str) -> None:
        target = re.split(r"\s+;|\s+--|;\s", line)[0].strip()
        if named := _URL_REQUIREMENT.match(target):
            self.package(named[2])
        elif target.startswith((".", "/", "~", "file:")) or "/" in target or _ARCHIVE.search(target):
            self.package(target)

    def package(self, target: str, *, editable: bool = False) -> None:
        """Read a local directory or archive; leave what is remote to its address."""
        if _REMOTE.match(target):
            return
        path = Path(os.path.normpath(self.directory / _local(re.sub(r"\s*\[[^\]]*\]\s*$", "", target))))
        if editable:
            self.editable.append(path)
            self.identity.append(f"at {path}")
        self._content(path)

    def _content(self, path: Path) -> None:
        if path in self._seen:
            return
        self._seen[path] = None
        if path.is_dir():
            self.identity.append(f"directory {directory_digest(path)}")
            self.packages.append(_package_name(path))
            if (path / "pyproject.toml").is_file():
                self.sources((path / "pyproject.toml").read_text(encoding="utf-8", errors="replace"), path)
        elif path.is_file():
            self.identity.append(f"file {path.name} {file_digest(path)}")
        else:
            self.identity.append(f"absent {path}")

    def sources(self, text: str, package: Path) -> None:
        """Read the local packages that the pyproject.toml of a package, or a script, names as its own dependencies."""
        for match in _PATH_SOURCE.finditer(text):
            source = Path(os.path.normpath(package / _local(match[1] or match[2])))
            if source.exists() and not package.is_relative_to(source):
                self._content(source)
        if _WORKSPACE_SOURCE.search(text):
            for parent in package.parents:
                root = parent / "pyproject.toml"
                if root.is_file() and "[tool.uv.workspace]" in root.read_text("utf-8", "replace"):
                    self._content(parent)
                    break

    def directory_of_archives(self, base: Path, value: str) -> None:
        """Read the distributions that a project brings along in a directory of its own."""
        for folder in {base / _local(value), self.directory / _local(value)}:
            if folder.is_dir():
                for path in sorted(folder.iterdir()):
                    if _ARCHIVE.search(path.name):
                        self._content(path)


def _package_name(directory: Path) -> str:
    """The name under which a source directory is built; empty when only building it would tell."""
    for file, pattern in _NAMES.items():
        path = directory / file
        if path.is_file() and (match := pattern.search(path.read_text("utf-8", "replace"))):
            return match[1]
    return ""


def _local(reference: str) -> str:
    """The path in a `file:` URL or plain reference, without fragment."""
    path = reference.partition("#")[0].strip()
    if path.startswith("file:"):
        from urllib.parse import unquote

        path = unquote(path.removeprefix("file:"))
        if path.startswith("//"):
            path = "/" + path.removeprefix("//").partition("/")[2]
    return str(Path(path).expanduser())
