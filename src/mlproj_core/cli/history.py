"""The commands `mlproj runs list` and `mlproj runs prune`: the runs that this host knows of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mlproj_core.cli.lazy import LazyGroup
from mlproj_core.cli.lookup import short_tag
from mlproj_core.cli.options import duration
from mlproj_core.cli.printing import ago, print_json, remark, seconds, table

if TYPE_CHECKING:
    from mlproj_core.backends.backend import Sighting
    from mlproj_core.backends.local import LocalBackend
    from mlproj_core.handle import RunHandle

__all__ = ["listing", "prune", "reap", "runs"]


@click.group(
    cls=LazyGroup,
    package="mlproj_core.cli",
    summaries={
        "list": ("history:listing", "List the runs of this host, the newest first."),
        "prune": ("history:prune", "Delete what this host keeps of old runs."),
        "reap": ("history:reap", "End the runs of this host whose scheduler's task is over."),
    },
)
def runs() -> None:
    """List, prune and reap the runs of this host."""


@click.command("list")
@click.option("--key", metavar="KEY", help="Only the attempts of this key.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def listing(key: str | None, as_json: bool) -> None:
    """List the runs of this host, the newest first. A short tag is enough for other commands."""
    from mlproj_core.backends.local import LocalBackend
    from mlproj_core.cli.conclusion import run_document
    from mlproj_core.runs import attach
    from mlproj_core.status import RunStatus

    found = [(handle, sighting) for handle, sighting in _sightings(LocalBackend()) if key in (None, handle.key)]
    if as_json:
        print_json([run_document(attach(handle), sighting) for handle, sighting in found])
        return
    if not found:
        remark("there are no runs on this host" + (f" with the key {key!r}" if key is not None else ""))
        return
    now = time.time()
    rows = []
    for handle, sighting in found:
        claim, outcome = sighting.claim, sighting.outcome
        began = claim.created_at if claim is not None else now
        request = claim.request if claim is not None else {}
        rows.append(
            [
                short_tag(handle),
                str(outcome.status if outcome is not None else RunStatus.RUNNING),
                str(outcome.reason.code) if outcome is not None and outcome.reason is not None else str(sighting.phase),
                str(request.get("entry_point", "")),
                str(request.get("project") or request.get("uri", "")),
                ago(now - began),
                seconds((outcome.ended_at if outcome is not None else now) - began),
            ]
        )
    table(["RUN", "STATUS", "PHASE/REASON", "ENTRY POINT", "PROJECT", "AGE", "TOOK"], rows)


def _sightings(backend: LocalBackend) -> Iterator[tuple[RunHandle, Sighting]]:
    """Every attempt on this host with what there is to see of it, without asking a tracking server."""
    from mlproj_core.backends.backend import State

    for handle in backend.handles():
        while (sighting := backend.look(handle)).state is State.LOST:
            backend.bury(handle)
        if sighting.state is not State.GONE:  # pruned this moment
            yield handle, sighting


@click.command()
@click.option(
    "--older-than",
    type=duration,
    metavar="TIME",
    default="30d",
    show_default=True,
    help="Only runs that ended longer ago than this: 12h, 7d, 2w.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
def prune(older_than: float, dry_run: bool) -> int:
    """Delete what this host keeps of runs that are over: outputs, checkouts, results. As `mlproj gc --runs`.

    Runs that live stay, and so does a run whose end the tracking server has not heard of yet. Of a run that no tracking
    server knows, the end is kept for a year.
    """
    from mlproj_core.cli.gc import tidy

    tally = tidy(["runs"], older_than=older_than, dry_run=dry_run)["runs"]
    deleted = len(tally.removed)
    remark(f"{'would delete' if dry_run else 'deleted'} {deleted} run{'' if deleted == 1 else 's'}")
    return 1 if tally.problems else 0


@click.command()
@click.option("--airflow", metavar="URL", required=True, help="The Airflow whose tasks to ask about, as in a browser.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
def reap(airflow: str, dry_run: bool) -> None:
    """End the living runs of this host whose task in Airflow is over, so that nobody waits for them any more.

    For what is done to tasks while nobody of Airflow is there to end their runs. A run of which that Airflow knows
    nothing is left alone. AIRFLOW_CLI_TOKEN holds the token for its API.
    """
    from mlproj_core.backends.backend import State
    from mlproj_core.backends.local import LocalBackend
    from mlproj_core.runs import attach

    scheduler = _scheduler("airflow")(airflow)
    ended = 0
    for handle, sighting in _sightings(LocalBackend()):
        if sighting.state is not State.LIVING or (why := scheduler.why_ended(handle.key)) is None:
            continue
        ended += 1
        remark(f"{'would end' if dry_run else 'ending'} {short_tag(handle)}: {why}")
        if not dry_run:
            attach(handle, remark).cancel()
    if not ended:
        remark("no run of this host has outlived its task")


def _scheduler(name: str) -> Any:
    """How to ask a scheduler about its tasks: an entry point in the group `mlproj.schedulers`."""
    from importlib.metadata import entry_points

    from mlproj_core.errors import UserError

    (found,) = entry_points(group="mlproj.schedulers", name=name)
    try:
        return found.load()
    except ImportError as error:
        raise UserError(f"{name} is asked through its own adapter, which cannot be used here: {error}") from error
