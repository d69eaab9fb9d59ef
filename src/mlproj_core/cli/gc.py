"""The command `mlproj gc`: what mlproj keeps on this host, bounded by age and size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mlproj_core.cli.options import duration, size
from mlproj_core.cli.printing import print_json, remark, table
from mlproj_core.cli.printing import size as shown_size

if TYPE_CHECKING:
    from mlproj_core.housekeeping import Item, Tally

__all__ = ["KINDS", "gc", "tidy"]

KINDS = {
    "runs": ("mlproj_core.backends.local.keeping:runs", "Directories of local runs that are over."),
    "logs": ("mlproj_core.backends.local.keeping:logs", "Only the outputs of local runs that are over."),
    "checkouts": ("mlproj_core.sources.workspace:leftovers", "Checkouts whose process died."),
    "mirrors": ("mlproj_core.sources.mirrors:stored", "Git mirrors."),
    "environments": ("mlproj_core.environments.cache:stored", "Environments."),
    "packages": ("mlproj_core.environments.conda_cache:stored", "Packages that conda environments share."),
    "data": ("mlproj_core.data.cache:stored", "Files that were fetched for parameters of type path."),
}
"""By the name of a kind: the function that yields its items, and a line for the help.

A room that keeps something more says what there is by a function of its own, and a line here.
"""

OF_RUNS = ("runs", "logs")
"""Kinds whose ends their tracking servers have to know first."""

BY_DEFAULT = "30d"


def _kind_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, (_, summary) in reversed(KINDS.items()):
        command = click.option(f"--{name}", is_flag=True, help=summary)(command)
    return command


@click.command()
@click.option(
    "--older-than",
    type=duration,
    metavar="TIME",
    help=f"What was last used longer ago: 12h, 7d, 2w.  [default: {BY_DEFAULT}, unless --max-size is given]",
)
@click.option(
    "--max-size",
    type=size,
    metavar="SIZE",
    help="Then what was last used the longest ago, until the rest of the chosen kinds together takes no more: 20GB.",
)
@_kind_options
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as JSON.")
def gc(older_than: float | None, max_size: int | None, dry_run: bool, as_json: bool, **chosen: bool) -> int:
    """Remove what mlproj keeps on this host and nobody has used for long; with no kind given, of all kinds.

    What is in use stays, and so does a run whose end its tracking server has not heard of. Mirrors, environments,
    packages and fetched files are had anew when they are needed. Of a run that no tracking server knows, the end is
    kept for a year.

    Exits with 1 if something could not be removed.
    """
    kinds = [name for name in KINDS if chosen[name]] or [name for name in KINDS if name != "logs"]
    if "runs" in kinds and "logs" in kinds:
        kinds.remove("logs")  # the runs' own directories hold them
    if older_than is None and max_size is None:
        older_than = duration(BY_DEFAULT)
    tallies = tidy(kinds, older_than=older_than, max_size=max_size, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "kinds": {name: _document(tallies[name]) for name in kinds}})
    else:
        rows = [
            [name, str(len(tally.removed)), shown_size(tally.freed), str(tally.left)] for name, tally in tallies.items()
        ]
        table(["KIND", "WOULD GO" if dry_run else "REMOVED", "WOULD FREE" if dry_run else "FREED", "LEFT"], rows)
    return 1 if any(tally.problems for tally in tallies.values()) else 0


def tidy(
    kinds: Sequence[str], *, older_than: float | None, max_size: int | None = None, dry_run: bool
) -> dict[str, Tally]:
    """Collect the things of some kinds; see `mlproj_core.housekeeping.collect`."""
    from mlproj_core.housekeeping import Tally, collect

    problems: dict[str, list[tuple[str, str]]] = {name: [] for name in kinds}
    undelivered: Collection[str] = ()
    if not dry_run and any(name in OF_RUNS for name in kinds):
        from mlproj_core.runs import settle_all

        undelivered = settle_all(remark)
    items: list[Item] = []
    for name in kinds:
        try:
            items.extend(_items(name, undelivered))
        except OSError as error:
            remark(f"warning: {name}: {error}")
            problems[name].append((name, str(error)))
    found = collect(items, older_than=older_than, max_size=max_size, dry_run=dry_run, report=remark)
    tallies = {name: found.get(name, Tally()) for name in kinds}
    for name, told in problems.items():
        tallies[name].problems.extend(told)
    return tallies


def _items(kind: str, undelivered: Collection[str]) -> Iterable[Item]:
    from importlib import import_module

    module, _, function = KINDS[kind][0].partition(":")
    items: Callable[..., Iterable[Item]] = getattr(import_module(module), function)
    return items(undelivered) if kind in OF_RUNS else items()


def _document(tally: Tally) -> dict[str, Any]:
    return {
        "removed": [{"name": name, "bytes": size} for name, size in tally.removed],
        "freed": tally.freed,
        "left": tally.left,
        "problems": [{"name": name, "error": error} for name, error in tally.problems],
    }
