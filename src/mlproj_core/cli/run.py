"""The commands `mlproj run` and `mlproj submit`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from mlproj_core.cli.options import duration, pairs, read_config, turn_numbers, variables
from mlproj_core.cli.printing import print_json, remark

if TYPE_CHECKING:
    from mlproj_core.request import RunRequest

__all__ = ["run", "submit"]

Command = TypeVar("Command", bound=Callable[..., Any])

FROM_MLFLOW = (
    click.argument("uri"),
    click.option(
        "--entry-point",
        "-e",
        metavar="NAME",
        default="main",
        help="Entry point of the project, or a .py, .sh or .R file of it to run as a script.  [default: main]",
    ),
    click.option("--version", "-v", metavar="VERSION", help="Of a Git project: the branch, tag or commit to run."),
    click.option(
        "--param-list",
        "-P",
        metavar="NAME=VALUE",
        multiple=True,
        help="A parameter. One that the entry point does not declare is appended to its command as --name value.",
    ),
    click.option(
        "--docker-args",
        "-A",
        metavar="NAME=VALUE",
        multiple=True,
        help="A flag of `docker run` for a run in a container: -A gpus=all, -A NAME for one without a value, several "
        "times for one that may be repeated. -A image=IMAGE runs any project in that image.",
    ),
    click.option(
        "--experiment-name",
        envvar="MLFLOW_EXPERIMENT_NAME",
        show_envvar=True,
        help="Name of the experiment to record the run in.",
    ),
    click.option(
        "--experiment-id",
        envvar="MLFLOW_EXPERIMENT_ID",
        show_envvar=True,
        help="Id of the experiment to record the run in.",
    ),
    click.option(
        "--backend", "-b", metavar="BACKEND", default="local", show_default=True, help="Where the project runs."
    ),
    click.option(
        "--backend-config",
        "-c",
        metavar="FILE",
        help="The backend's settings: a JSON file (its name must end in .json), or JSON text.",
    ),
    click.option(
        "--env-manager",
        metavar="NAME",
        help="virtualenv, uv, conda, or local (the environment of this process).  [default: as MLflow chooses]",
    ),
    click.option(
        "--storage-dir",
        envvar="MLFLOW_TMP_DIR",
        show_envvar=True,
        help="Directory for data that is fetched for parameters of type path.",
    ),
    click.option("--run-id", metavar="RUN_ID", help="Use this MLflow run instead of creating one."),
    click.option("--run-name", metavar="RUN_NAME", help="Name of the MLflow run."),
    click.option(
        "--build-image",
        is_flag=True,
        default=False,
        help="Of a project in a container: build an image that holds its code.",
    ),
)
"""The options of `mlflow run`, with their names, meanings and variables."""

OUR_OWN = (
    click.option("--timeout", type=duration, metavar="TIME", help="End the run as failed after this: 90, 30m, 2h."),
    click.option("--tag", "tags", metavar="NAME=VALUE", multiple=True, help="A tag for the MLflow run."),
    click.option(
        "--env-var",
        "env_vars",
        metavar="NAME[=VALUE]",
        multiple=True,
        help="A variable for the project. NAME alone copies it from here, so that a secret shows in no process list.",
    ),
    click.option("--tracking-uri", metavar="URI", help="Tracking server or store.  [default: MLFLOW_TRACKING_URI]"),
    click.option("--parent-run-id", metavar="RUN_ID", help="The MLflow run that this one is nested in."),
    click.option(
        "--reuse-finished",
        is_flag=True,
        default=False,
        help="Return an earlier run of the experiment that finished with the same commit, entry point and parameters, "
        "if the work tree is clean. Data is not compared.",
    ),
    click.option(
        "--detach/--tethered",
        default=None,
        help="Whether the run lives on if this process dies.  [default: run is tethered, submit detaches]",
    ),
)


def _asks_for_a_run(command: Command) -> Command:
    for option in reversed((*FROM_MLFLOW, *OUR_OWN)):
        command = option(command)
    return command


@click.command(epilog="Exits with 0, the project's own exit code (1 in place of 2), or 2 for a mistake of the caller.")
@_asks_for_a_run
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what became of the run as JSON at the end; its output goes to standard error.",
)
@click.pass_context
def run(context: click.Context, /, as_json: bool, **given: Any) -> int:
    """Run the project at URI, and see it through to its end.

    URI is a local directory, an archive (.zip, .tar.gz …; a path or a URL) or a Git repository, each with #subdirectory
    if need be. The options of `mlflow run` mean what they mean there. What the project prints goes to standard output,
    all else to standard error. Ctrl-C and TERM cancel the run; a second time, they leave it to end by itself.
    """
    from mlproj_core.cli.conclusion import conclude, run_document, sight
    from mlproj_core.cli.follow import see_through
    from mlproj_core.cli.screen import Screen
    from mlproj_core.runner import submit_request

    request = _request(context, given)
    screen = Screen(sys.stderr.buffer if as_json else sys.stdout.buffer)
    ending = see_through(lambda: submit_request(request, tethered=True, exposed=True, report=screen.report), screen)
    if ending.left or ending.run is None:
        return ending.exit_status or 1
    sighting = sight(ending.run)
    status = conclude(ending.run, sighting, screen)
    if as_json:
        print_json(run_document(ending.run, sighting, results=True))
    return ending.exit_status or status


@click.command()
@_asks_for_a_run
@click.option("--key", metavar="KEY", help="Name of one step of one pipeline run: all that submit it get one run.")
@click.option("--turn", type=turn_numbers, metavar="N", help="Which try of the step this is: 2, or 1.2.")
@click.option("--fresh-after", type=turn_numbers, metavar="N", help="Disown what was claimed at this turn or before.")
@click.pass_context
def submit(
    context: click.Context,
    /,
    key: str | None,
    turn: list[int] | None,
    fresh_after: list[int] | None,
    **given: Any,
) -> None:
    """Start the project at URI as a run that goes on by itself, and print its handle: one line of JSON.

    The options of `mlflow run` mean what they mean there. `mlproj status`, `logs`, `wait` and `cancel` take the handle
    in any process:

        mlproj submit . | mlproj wait -
    """
    from mlproj_core.request import read_backend_config
    from mlproj_core.runner import submit_request

    request = _request(context, given)
    if read_backend_config(request.backend_config).get("detach") is False:
        raise click.UsageError("A tethered run ends with the process that asked for it, here at once: use mlproj run.")
    submitted = submit_request(request, key=key, turn=turn, fresh_after=fresh_after or 0, exposed=True, report=remark)
    click.echo(submitted.handle.to_json())


def _request(context: click.Context, given: dict[str, Any]) -> RunRequest:
    from mlproj_core.request import RunRequest

    config = read_config(given.pop("backend_config"), "--backend-config")
    if (detach := given.pop("detach")) is not None:
        config = {**config, "detach": detach}
    # One that was typed counts for more than a variable, which may be an outer run's.
    names = ("experiment_name", "experiment_id")
    typed = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if len(typed) == 1:
        given.update({name: None for name in names if name not in typed})
    elif given["experiment_name"] and given["experiment_id"]:
        raise click.UsageError(
            "Give --experiment-name or --experiment-id, not both (MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID "
            "count too).",
            context,
        )
    return RunRequest(
        parameters=pairs(given.pop("param_list"), "-P"),
        docker_args=pairs(given.pop("docker_args"), "-A", flags=True, repeated=True),
        tags=pairs(given.pop("tags"), "--tag"),
        env_vars=variables(given.pop("env_vars")),
        backend_config=config,
        **given,
    )
