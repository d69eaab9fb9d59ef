"""The commands that read a project without running it: `mlproj validate`, `describe` and `schema`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from mlproj_core.cli.checkout import checked_out
from mlproj_core.cli.printing import fancy, fields, print_json, remark, table

__all__ = ["describe", "schema", "validate"]

VERSION = click.option("--version", "-v", metavar="VERSION", help="Of a Git project: the branch, tag or commit.")


@click.command()
@click.argument("directory", metavar="DIR", default=".")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of the problems.")
def validate(directory: str, as_json: bool) -> int:
    """Report every problem of the project in DIR (by default the current directory).

    Each is one line FILE:LINE:COLUMN: SEVERITY: TEXT, as editors read it. Exits with 2 if there is an error, with 0 if
    there are at most warnings.
    """
    from mlproj_core.spec import check_project

    problems = check_project(directory)
    if as_json:
        print_json([problem.to_dict() for problem in problems])
    for problem in [] if as_json else problems:
        where = ":".join(str(part) for part in (problem.file, problem.line, problem.column) if part)
        what = f"{problem.message} — {problem.remedy}" if problem.remedy else problem.message
        severity = problem.severity
        if fancy(sys.stdout):
            severity = click.style(severity, fg="red" if severity == "error" else "yellow")
        click.echo(f"{where}: {severity}: {what}")
    errors = sum(problem.severity == "error" for problem in problems)
    if not as_json:
        warnings = len(problems) - errors
        remark(f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}")
    return 2 if errors else 0


@click.command()
@click.argument("uri")
@VERSION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def describe(uri: str, version: str | None, as_json: bool) -> None:
    """Show the entry points, parameters and environment of the project at URI."""
    from mlproj_core.spec import describe as describe_project
    from mlproj_core.spec import load_project

    with checked_out(uri, version, remark) as checkout:
        project = load_project(checkout.directory)
        origin = {"uri": checkout.uri, "version": checkout.version, "commit": checkout.commit}
        described = {**origin, **describe_project(project)}
        # Of a fetched project nothing is there any more when this is read.
        del described["directory"]
        for place, name in ((described, "file"), (described["environment"], "path")):
            if place[name] is not None:
                place[name] = os.path.relpath(place[name], checkout.directory)
    if as_json:
        print_json(described)
        return
    for warning in project.warnings:
        remark(f"warning: {warning}")
    _show(described)


def _show(described: Mapping[str, Any]) -> None:
    environment = described["environment"]
    fields(
        {
            "project": described["name"] or "(without a name)",
            "source": described["uri"],
            "commit": described["commit"],
            "environment": " ".join(filter(None, [environment["kind"], environment["path"]])),
            **{
                name.replace("_", " "): _words(environment[name])
                for name in environment
                if name not in ("kind", "path")
            },
        }
    )
    click.echo()
    rows = []
    for name, entry_point in described["entry_points"].items():
        cells = [
            [one["name"], " | ".join(one["enum"] or [one["type"]]), _default_words(one)]
            for one in entry_point["parameters"].values()
        ]
        rows += [[name if row == 0 else "", *cell] for row, cell in enumerate(cells or [["", "", ""]])]
    if rows:
        table(["ENTRY POINT", "PARAMETER", "TYPE", "DEFAULT"], rows)
    else:
        click.echo("No entry points are declared; each .py, .sh and .R file can be run with -e FILE.")
    for name, script in described["scripts"].items():
        words = "; ".join(script["problems"]) if "problems" in script else _words(script["dependencies"]) or "nothing"
        click.echo(f"{name} asks in its inline metadata for {words}.")
    for entry_point in described["entry_points"].values():
        for problem in entry_point["problems"]:
            remark(f"warning: entry point {entry_point['name']!r} cannot run: {problem['message']}")


def _default_words(parameter: Mapping[str, Any]) -> str:
    if parameter["secret"]:
        return "(secret, optional)" if parameter["optional"] else "(secret)"
    if parameter["optional"]:
        return "(optional)"
    return "(required)" if parameter["required"] else str(parameter["default"])


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join("=".join(one) if isinstance(one, list) else str(one) for one in value)
    return str(value) if value is not None else ""


@click.command()
@click.argument("uri")
@click.option("--entry-point", "-e", metavar="NAME", default="main", show_default=True, help="The entry point.")
@VERSION
def schema(uri: str, entry_point: str, version: str | None) -> None:
    """Print a JSON Schema for the parameters of an entry point of the project at URI."""
    from mlproj_core.parameters import json_schema
    from mlproj_core.spec import load_project

    with checked_out(uri, version, remark) as checkout:
        print_json(json_schema(load_project(checkout.directory).entry_point(entry_point)))
