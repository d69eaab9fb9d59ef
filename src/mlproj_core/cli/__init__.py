"""The program `mlproj`. Each command lives in a module that is imported when the command is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from mlproj_core.cli.lazy import LazyGroup
from mlproj_core.errors import MlprojError

__all__ = ["main", "program"]

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells have it."""

READER_GONE = 141
"""Exit status when whoever read our output has gone: 128 + SIGPIPE."""

SUMMARIES = {
    "run": ("run:run", "Run a project and see it through to its end."),
    "submit": ("run:submit", "Start a run that goes on by itself, and print its handle."),
    "status": ("runs:status", "Say where a run is, and how it ended."),
    "logs": ("runs:logs", "Print what a run has printed."),
    "wait": ("runs:wait", "Wait for a run's end; exit as the run did."),
    "cancel": ("runs:cancel", "End a run, and wait until nothing is left of it."),
    "runs": ("history:runs", "List, prune and reap the runs of this host."),
    "validate": ("project:validate", "Report every problem of a project's files."),
    "describe": ("project:describe", "Show a project's entry points, parameters and environment."),
    "schema": ("project:schema", "Print a JSON Schema for an entry point's parameters."),
    "envs": ("envs:envs", "List, build and prune environments."),
    "build-image": ("build_image:build_image", "Build an image of a project and its environment."),
    "gc": ("gc:gc", "Remove what this host keeps and nobody has used for long."),
    "kubernetes": ("kubernetes:kubernetes", "Prepare a Kubernetes cluster."),
}


class Program(LazyGroup):
    """The group of all commands, with the exit statuses of what ends any of them."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; see `docs/cli.md` for the exit statuses."""
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # What Python flushes at its own end would raise again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(READER_GONE)


@click.group(
    cls=Program,
    package="mlproj_core.cli",
    summaries=SUMMARIES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="mlproj", prog_name="mlproj", message="%(prog)s %(version)s")
def program() -> None:
    """Run MLflow Projects as durable steps of larger pipelines.

    A run outlives whoever asked for it: submit gives a handle by which status, logs, wait and cancel find the run
    from any process.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; by default those of this process.

    Returns:
        The exit status: 0, the project's failure, or 2 for a user's mistake; `docs/cli.md` has them all.
    """
    try:
        status = program.main(arguments, prog_name="mlproj", standalone_mode=False)
    except click.UsageError as error:
        _explain(error)
        return error.exit_code
    except click.ClickException as error:
        _say(error.format_message())
        return error.exit_code
    except MlprojError as error:
        _say(str(error))
        return error.exit_code
    except OSError as error:
        _say(f"{error} (MLPROJ_DEBUG=1 shows where)")
        return 1
    return status if isinstance(status, int) else 0


def _say(message: str) -> None:
    if os.environ.get("MLPROJ_DEBUG", "") not in ("", "0"):
        from traceback import print_exc

        print_exc()
    click.echo(f"mlproj: error: {message}", err=True)


def _explain(error: click.UsageError) -> None:
    _say(error.format_message())
    if error.ctx is not None:
        click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
