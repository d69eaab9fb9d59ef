"""The commands that find a run again: `mlproj status`, `logs`, `wait` and `cancel`."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING

import click

from mlproj_core.cli.lookup import find_run, run_argument
from mlproj_core.cli.options import duration, turn_numbers
from mlproj_core.cli.printing import ago, fields, print_json, remark, seconds

if TYPE_CHECKING:
    from mlproj_core.backends.backend import Sighting
    from mlproj_core.runs import SubmittedRun

__all__ = ["cancel", "logs", "status", "wait"]

TIMED_OUT = 124
"""Exit status of `wait` when its time has passed: that of timeout(1)."""

RUN_HELP = """RUN is an attempt's tag K-n as the run's log shows it, its first characters, a key, an MLflow run id,
a handle (JSON), @FILE with a handle in it, or - for a handle on standard input."""


@click.command(epilog=RUN_HELP)
@run_argument()
@click.option("--json", "as_json", is_flag=True, help="Print all that is known of the run, as JSON.")
def status(run: str, as_json: bool) -> None:
    """Say where RUN is, and how it ended. Exits with 0 whatever the status is."""
    from mlproj_core.cli.conclusion import run_document, sight

    submitted = find_run(run)
    sighting = sight(submitted)
    if as_json:
        print_json(run_document(submitted, sighting))
    else:
        _show(submitted, sighting)


def _show(run: SubmittedRun, sighting: Sighting) -> None:
    from mlproj_core.status import RunStatus

    claim, record, outcome = sighting.claim, sighting.record, sighting.outcome
    request = claim.request if claim is not None else {}
    reason = outcome.reason if outcome is not None else None
    state = str(outcome.status) if outcome is not None else f"{RunStatus.RUNNING} ({sighting.phase})"
    if sighting.cancel_requested and outcome is None:
        state += ", being cancelled"
    ended_at = outcome.ended_at if outcome is not None else 0.0
    project = " ".join(filter(None, [request.get("uri"), request.get("commit")]))
    fields(
        {
            "run": run.handle.tag,
            "status": state,
            "reason": f"{reason.message} ({reason.code})" if reason is not None else None,
            "key": run.handle.key,
            "project": project,
            "entry point": request.get("entry_point"),
            "run id": record.run_id if record else run.run_id,
            "run page": record.url if record else None,
            "submitted": f"{ago(time.time() - claim.created_at)} ago" if claim else None,
            "took": seconds(ended_at - claim.created_at) if claim and ended_at else None,
        }
    )


@click.command(epilog=RUN_HELP)
@run_argument()
@click.option("--follow", "-f", is_flag=True, help="Go on until the run is over.")
@click.option("--tail", "-n", metavar="N", type=click.IntRange(min=0), help="Begin with the last N lines.")
def logs(run: str, follow: bool, tail: int | None) -> None:
    """Print the output of RUN as it was printed, byte for byte; Ctrl-C ends the printing, not the run."""
    from mlproj_core.backends import load_backend
    from mlproj_core.backends.backend import State
    from mlproj_core.errors import UserError

    handle = find_run(run).handle
    backend = load_backend(handle.backend)
    sighting = backend.look(handle)
    if sighting.state is State.GONE or sighting.trimmed:
        raise UserError(f"Nothing is left of the output of run {handle.tag}: it was pruned.")
    cursor = 0
    kept = deque[bytes](maxlen=tail)
    if tail is not None:
        line = b""
        while (chunk := backend.read_output(handle, cursor))[0]:
            *lines, line = (line + chunk[0]).split(b"\n")
            kept.extend(one + b"\n" for one in lines)
            cursor = chunk[1]
        if line:
            kept.append(line)
    out = sys.stdout.buffer
    out.writelines(kept)
    out.flush()
    if follow:
        for data, _ in backend.follow_output(handle, cursor):
            out.write(data)
            out.flush()
    elif tail is None:
        while (chunk := backend.read_output(handle, cursor))[0]:
            out.write(chunk[0])
            cursor = chunk[1]


@click.command(epilog=RUN_HELP)
@run_argument()
@click.option("--timeout", type=duration, metavar="TIME", help="Wait no longer than this: 90, 30m, 2h.")
@click.option("--json", "as_json", is_flag=True, help="Print what became of the run as JSON at the end.")
def wait(run: str, timeout: float | None, as_json: bool) -> int:
    """Wait for the end of RUN, and exit as it did.

    Exits with 0, the project's own exit code (1 in place of 2), or 124 when the time has passed; Ctrl-C ends the
    waiting, not the run.
    """
    from mlproj_core.backends import load_backend
    from mlproj_core.cli.conclusion import conclude, run_document, sight

    submitted = find_run(run)
    load_backend(submitted.handle.backend).wait(submitted.handle, timeout)
    sighting = sight(submitted)
    if sighting.outcome is None:
        remark(f"run {submitted.handle.tag} is not over after {seconds(timeout or 0.0)}")
        code = TIMED_OUT
    else:
        code = conclude(submitted, sighting)
    if as_json:
        print_json(run_document(submitted, sighting, results=True))
    return code


@click.command(epilog=RUN_HELP)
@run_argument(required=False)
@click.option(
    "--key", metavar="KEY", help="In place of RUN: the newest attempt of a key; if there is none yet, none will start."
)
@click.option("--turn", type=turn_numbers, metavar="N", help="With --key: the turn at which it is cancelled.")
@click.option(
    "--backend", "-b", metavar="BACKEND", default="local", show_default=True, help="With --key: where to look."
)
@click.option("--backend-config", "-c", metavar="FILE", help="With --key: the backend's settings, as for mlproj run.")
def cancel(run: str | None, key: str | None, turn: list[int] | None, backend: str, backend_config: str | None) -> None:
    """End RUN, and wait until nothing is left of it; a run that is over stays as it is."""
    from mlproj_core.cli.conclusion import sight

    if (run is None) == (key is None):
        raise click.UsageError("Give either RUN or --key KEY.")
    if key is not None:
        from mlproj_core.backends import choose_backend
        from mlproj_core.claim import read_turn
        from mlproj_core.cli.options import read_config
        from mlproj_core.protocol import cancel_key
        from mlproj_core.runs import attach

        chosen = choose_backend(backend, read_config(backend_config, "--backend-config"))
        submitted = attach(cancel_key(chosen, key, read_turn(turn), remark), remark, chosen)
    else:
        if turn is not None:
            raise click.UsageError("--turn goes with --key.")
        submitted = find_run(run or "")
        submitted.cancel()
    outcome = sight(submitted).outcome
    if outcome is not None:
        remark(
            f"run {submitted.handle.tag} is {outcome.status}"
            + (f": {outcome.reason.message}" if outcome.reason else "")
        )
