"""The commands `mlproj envs list`, `build` and `prune`: the environments in the cache."""

from __future__ import annotations

import os
import time

import click

from mlproj_core.cli.checkout import checked_out
from mlproj_core.cli.lazy import LazyGroup
from mlproj_core.cli.options import duration
from mlproj_core.cli.printing import ago, print_json, remark, table

__all__ = ["build", "envs", "listing", "prune"]


@click.group(
    cls=LazyGroup,
    package="mlproj_core.cli",
    summaries={
        "list": ("envs:listing", "List the environments in the cache."),
        "build": ("envs:build", "Make a project's environment before it is needed."),
        "prune": ("envs:prune", "Delete environments that nobody uses."),
    },
)
def envs() -> None:
    """List, build and prune environments."""


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def listing(as_json: bool) -> None:
    """List the environments in the cache, the one used last first."""
    from mlproj_core.environments import list_environments

    found = list_environments()
    if as_json:
        print_json(
            [
                {
                    "key": info.key,
                    "manager": info.manager,
                    "prefix": str(info.prefix),
                    "python": info.python,
                    "purpose": info.purpose,
                    "created": info.created,
                    "last_used": info.last_used,
                    "in_use": info.in_use,
                    "complete": info.complete,
                    "bytes": info.size(),
                }
                for info in found
            ]
        )
        return
    if not found:
        remark("there are no environments in the cache")
        return
    now = time.time()
    rows = [
        [
            info.key[:12],
            info.manager,
            info.python,
            "in use" if info.in_use else "ready" if info.complete else "incomplete",
            f"{info.size() / 1e6:.0f} MB",
            f"{ago(now - info.last_used)} ago" if info.last_used else "",
            info.purpose,
        ]
        for info in found
    ]
    table(["ENVIRONMENT", "MANAGER", "PYTHON", "STATE", "SIZE", "LAST USED", "MADE FOR"], rows)


@click.command()
@click.argument("uri", default=".")
@click.option("--version", "-v", metavar="VERSION", help="Of a Git project: the branch, tag or commit.")
@click.option("--env-manager", metavar="NAME", help="The manager that makes it.  [default: what the project asks for]")
@click.option(
    "--entry-point", "-e", metavar="NAME", default="main", help="For a script with inline metadata: its name."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def build(uri: str, version: str | None, env_manager: str | None, entry_point: str, as_json: bool) -> None:
    """Make the environment of the project at URI, if it is not there, and print its directory.

    A run of the project finds it ready then.
    """
    from mlproj_core.environments import choose_manager, environment_manager
    from mlproj_core.spec import load_project

    with checked_out(uri, version, remark) as checkout:
        project = load_project(checkout.directory)
        for warning in project.warnings:
            remark(f"warning: {warning}")
        wanted = project.environment_of(entry_point)
        manager, remarks = choose_manager(wanted, env_manager or os.environ.get("MLPROJ_ENV_MANAGER") or None)
        for line in filter(None, (*remarks, project.environment_remark(entry_point))):
            remark(line)
        environment = environment_manager(manager).ensure(wanted, checkout.directory, remark)
    if as_json:
        print_json(environment.to_dict())
    elif environment.prefix is None:
        remark("this project runs in the environment of the process that runs it: there is nothing to make")
    else:
        remark("it was there already" if environment.hit else "it was made now")
        click.echo(str(environment.prefix))


@click.command()
@click.option(
    "--older-than", type=duration, metavar="TIME", help="Only those that were last used longer ago: 12h, 7d, 2w."
)
def prune(older_than: float | None) -> None:
    """Delete the environments in the cache that nobody uses now; they are made anew when they are needed."""
    from mlproj_core.environments import prune_environments

    removed = prune_environments(older_than, report=remark)
    remark(f"deleted {len(removed)} environment{'' if len(removed) == 1 else 's'}")
