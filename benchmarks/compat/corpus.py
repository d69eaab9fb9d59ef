"""The projects of the table: this directory's own, and those in the examples of an mlflow checkout."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).parent

SAMPLES = {"float": "0.5", "int": "1", "path": ".", "uri": "file:///tmp"}
"""What a required parameter of an example gets, by its type; any other type is text."""


@dataclass(frozen=True)
class Case:
    """One row: a project, and how both programs are asked to run it."""

    name: str
    directory: Path
    style: str = ""
    entry_point: str = "main"
    parameters: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    subdirectory: str = ""

    @property
    def project(self) -> Path:
        """The directory that holds the MLproject."""
        return self.directory / self.subdirectory

    def copy_to(self, work: Path) -> None:
        """A fresh copy of the project at `work`, without what a run may have left in it."""
        shutil.copytree(self.directory, work, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))


def own_cases() -> list[Case]:
    """The projects beside this file, as projects.yaml has them."""
    told = yaml.safe_load((HERE / "projects.yaml").read_text())
    found = {path.name for path in (HERE / "projects").iterdir()}
    if found != set(told):
        raise SystemExit(f"projects.yaml and projects/ differ: {sorted(found ^ set(told))}")
    return [Case(name, HERE / "projects" / name, **keys) for name, keys in told.items()]


def example_cases(checkout: Path) -> list[Case]:
    """Every MLproject below `checkout/examples`, its main entry point (else its first) with the defaults."""
    cases = []
    for path in sorted((checkout / "examples").rglob("MLproject")):
        entry_points = (yaml.safe_load(path.read_text()) or {}).get("entry_points") or {"main": {}}
        name = "main" if "main" in entry_points else next(iter(entry_points))
        parameters = {}
        for parameter, told in (entry_points[name].get("parameters") or {}).items():
            kind = told.get("type") if isinstance(told, dict) else told
            if not isinstance(told, dict) or told.get("default") is None:
                parameters[parameter] = SAMPLES.get(kind, "text")
        cases.append(Case(str(path.parent.relative_to(checkout)), path.parent, entry_point=name, parameters=parameters))
    if not cases:
        raise SystemExit(f"{checkout}/examples has no MLproject; --checkout takes a checkout of mlflow")
    return cases
