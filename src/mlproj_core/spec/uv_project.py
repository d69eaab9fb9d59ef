"""A pyproject.toml with the uv.lock beside it, as what a project says of its environment.

MLflow knows no such environment. The format: https://packaging.python.org/en/latest/specifications/pyproject-toml/,
https://docs.astral.sh/uv/concepts/projects/layout/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlproj_core.spec.document import UnreadableDocument, kind
from mlproj_core.spec.problem import Problem, shown
from mlproj_core.spec.toml import line_of, parse_toml

__all__ = ["PYPROJECT", "UvProjectSpec", "normal_name", "read_uv_project"]

PYPROJECT = "pyproject.toml"
LOCK = "uv.lock"
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\])?\s*\(?([^;@)]*)\)?")
_OWN_PACKAGE = re.compile(r'^source = \{ (?:editable|virtual) = "\." \}$', re.MULTILINE)


@dataclass(frozen=True)
class UvProjectSpec:
    """The environment that `uv sync --frozen` makes of a pyproject.toml and its uv.lock.

    Attributes:
        path: the pyproject.toml.
        file: that file relative to the project's directory, as the MLproject names it.
        name: name of the project in it.
        python: the version of Python: that of a `.python-version` beside it, else `requires-python`; None for the
            current one.
        dependencies: what it lists itself; the versions are those of uv.lock.
        problems: what is odd, but keeps nobody from making the environment.
    """

    path: Path
    file: str
    name: str
    python: str | None = None
    dependencies: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_uv_project(path: Path, relative: str, file: str) -> tuple[UvProjectSpec, list[Problem]]:
    """Read a pyproject.toml and its uv.lock.

    Args:
        path: the pyproject.toml.
        relative: its path relative to the project's directory.
        file: how messages name it.

    Returns:
        What it says, and every problem in it; with errors among them, what it says is not to be used.
    """
    nothing = UvProjectSpec(path, relative, "")
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = parse_toml(text, file)
    except UnreadableDocument as error:
        return nothing, [error.problem]
    except (OSError, UnicodeDecodeError) as error:
        return nothing, [Problem(f"it cannot be read: {error}", "it must be readable, and text in UTF-8", file)]
    table = content.get("project")
    if not isinstance(table, dict):
        remedy = "add one with a name, a version and dependencies (`uv init --bare`), or name a python_env.yaml instead"
        return nothing, [Problem("there is no table [project], of which uv makes an environment", remedy, file)]
    problems = _checked(table, text, file)
    lock, shown_lock = path.with_name(LOCK), os.path.join(os.path.dirname(file), LOCK)  # noqa: PTH118, PTH120
    if not lock.is_file():
        remedy = f"run `uv lock` in {path.parent} and keep uv.lock with the project; of a workspace name the root's"
        problems.append(Problem(f"there is no {LOCK} beside it, which says what to install", remedy, file))
    if problems:
        return nothing, problems
    try:
        locked = _locked(lock.read_text(encoding="utf-8"), shown_lock)
    except UnreadableDocument as error:
        return nothing, [error.problem]
    except (OSError, UnicodeDecodeError) as error:
        return nothing, [Problem(f"it cannot be read: {error}", "make it anew with `uv lock`", shown_lock)]
    problems = _compared(content, text, locked, file, shown_lock)
    spec = UvProjectSpec(
        path=path,
        file=relative,
        name=table["name"],
        python=_pinned_python(path.parent) or table.get("requires-python"),
        dependencies=tuple(table.get("dependencies", ())),
        problems=tuple(problem for problem in problems if problem.severity == "warning"),
    )
    return spec, problems


def _checked(table: dict[str, Any], text: str, file: str) -> list[Problem]:
    problems = []
    if not isinstance(table.get("name"), str):
        problems.append(Problem("[project] has no name", 'write name = "…"', file, line_of(text, "project")))
    python = table.get("requires-python")
    if python is not None and not isinstance(python, str):
        message = f"requires-python must be text, found {kind(python)}"
        problems.append(Problem(message, 'write requires-python = ">=3.10"', file, line_of(text, "requires-python")))
    dependencies = table.get("dependencies", [])
    if not (isinstance(dependencies, list) and all(isinstance(one, str) for one in dependencies)):
        message = f"dependencies must be a list of text, found {shown(dependencies)}"
        problems.append(Problem(message, 'write dependencies = ["numpy"]', file, line_of(text, "dependencies")))
    return problems


def _pinned_python(directory: Path) -> str | None:
    """The first version in a .python-version, which uv prefers to requires-python."""
    try:
        lines = (directory / ".python-version").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    versions = (line.partition("#")[0].strip() for line in lines)
    return next((version for version in versions if version), None)


def _locked(text: str, file: str) -> dict[str, Any] | None:
    """The project's own entry in a uv.lock; None when it has none.

    A lock of a large project takes a tenth of a second to parse, so only this entry is.
    """
    for entry in text.split("\n[[package]]\n")[1:]:
        if _OWN_PACKAGE.search(entry):
            return dict(parse_toml(f"[[package]]\n{entry}", file)["package"][0])
    return None


def _compared(content: dict[str, Any], text: str, locked: dict[str, Any] | None, file: str, lock: str) -> list[Problem]:
    """What pyproject.toml lists and the lock does not have, by name (an error) or in this version (a warning).

    `uv sync --frozen` would not look: the environment would lack what the project needs.
    """
    table, remedy = content["project"], "run `uv lock`"
    if locked is None or normal_name(str(locked.get("name"))) != normal_name(table["name"]):
        message = f"{lock} is the lock of another project: it does not have {table['name']!r}"
        return [Problem(message, remedy, file, line_of(text, "name"))]
    metadata = locked.get("metadata", {})
    have = _entries(metadata.get("requires-dist", ()))
    for entries in metadata.get("requires-dev", {}).values():
        have += _entries(entries)
    names, pairs = {name for name, _ in have}, set(have)
    problems = []
    for requirement in _wanted(content):
        match = _REQUIREMENT.match(requirement)
        if match is None:
            continue
        name, versions = normal_name(match[1]), _clauses(match[2])
        line = text.count("\n", 0, text.find(requirement)) + 1 if requirement in text else None
        if name not in names:
            message = f"{requirement!r} is not in {lock}, which is out of date"
            problems.append(Problem(message, remedy, file, line))
        elif versions and (name, versions) not in pairs:
            message = f"{lock} may be out of date: it was made for other versions than {requirement!r}"
            problems.append(Problem(message, remedy, file, line, severity="warning"))
    return problems


def _wanted(content: dict[str, Any]) -> list[str]:
    """The requirements of the project and of its groups; those that a build would have to tell are left out."""
    table, groups = content["project"], content.get("dependency-groups", {})
    wanted: list[str] = [] if "dependencies" in table.get("dynamic", ()) else list(table.get("dependencies", ()))
    for group in groups.values() if isinstance(groups, dict) else ():
        wanted += [one for one in group if isinstance(one, str)]
    return wanted


def _entries(items: Iterable[Any]) -> list[tuple[str, frozenset[str]]]:
    return [
        (normal_name(str(item.get("name"))), _clauses(str(item.get("specifier", ""))))
        for item in items
        if isinstance(item, dict)
    ]


def _clauses(specifier: str) -> frozenset[str]:
    return frozenset("".join(clause.split()) for clause in specifier.split(",") if clause.strip())


def normal_name(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
