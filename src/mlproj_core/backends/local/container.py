"""A local run in a container, on the side of those who ask for it: what goes into its claim and its supervisor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlproj_core.backends.local.contained import AUTH, CLIENT, MADE, PREPARED, REMOVED, RESULT, SECRET, VISIBLE
from mlproj_core.backends.local.container_request import asked_body
from mlproj_core.backends.local.directory import RunDirectory, host_name
from mlproj_core.claim import Claim, Record
from mlproj_core.containers.engine import engine_host, is_local
from mlproj_core.containers.inside import Inside, inside
from mlproj_core.errors import ContactLost, MlprojError, UserError
from mlproj_core.launch import Launch

__all__ = ["check", "claimed", "employ", "remove", "supply", "tidy"]

HARMLESS = ("MLPROJ_ENV_MANAGER",)
"""Variables of a launch that are no secret."""

_EXPORTABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def check(launch: Launch, environ: Mapping[str, str]) -> None:
    """See whether a container can be had for a launch, as far as that is cheap.

    Raises:
        UserError: the SDK is missing, nobody listens at the engine's socket, or the container could not do its work.
    """
    container = launch.container
    assert container is not None  # noqa: S101  # asked for containers only
    engine = engine_host(environ)
    if is_local(engine):
        _knock(engine)
    from importlib.util import find_spec

    if find_spec("docker") is None:
        raise UserError("Containers need the docker SDK, which is not installed here: pip install 'mlproj[docker]'")
    tracking = launch.tracking
    inside(None if tracking.name == "untracked" else tracking.uri, None, environ, local=is_local(engine))
    odd = [name for name in (*launch.variables, *container.variables.secret) if _EXPORTABLE.fullmatch(name) is None]
    if odd:
        raise UserError(
            f"The variable {odd[0]!r} cannot be given to a container as a secret: a shell sets it there, and that is "
            "no name for a shell's variable. Expected letters, digits and underscores."
        )


def _knock(engine: str) -> None:
    """See whether somebody listens at a socket of this host; nothing is said to him."""
    import errno
    import socket

    path = re.sub(r"^(http\+)?unix://", "", engine)
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(5)
        try:
            knock.connect(path)
        except OSError as error:
            why = {
                errno.ENOENT: "there is no such socket. Start the Docker daemon (sudo systemctl start docker), or set "
                "DOCKER_HOST",
                errno.ECONNREFUSED: "nobody listens there. Start the Docker daemon (sudo systemctl start docker), or "
                "set DOCKER_HOST",
                errno.EACCES: "permission denied. Is this user in the group docker? (sudo usermod -aG docker USER, and "
                "log in again; or set DOCKER_HOST to an engine of your own)",
            }.get(error.errno or 0, str(error.strerror or error))
            raise UserError(
                f"The project runs in a container, and the Docker engine at {engine} cannot be reached: {why}."
            ) from error


def claimed(launch: Launch, name: str, environ: Mapping[str, str], moved: tuple[Path, Path] | None) -> dict[str, Any]:
    """What a claim says of its container, without secrets.

    Args:
        launch: whose container it is.
        name: the container's.
        environ: the caller's variables.
        moved: where the project's files were, and where they are now.
    """
    container = launch.container
    assert container is not None  # noqa: S101  # asked for containers only
    value = {**container.request(), "engine": engine_host(environ), "name": name, "host": host_name()}
    return _moved(value, str(moved[0]), str(moved[1])) if moved is not None else value


def _moved(value: Any, old: str, new: str) -> Any:
    """A JSON value in which the texts that are paths below `old` are below `new`."""
    if isinstance(value, dict):
        return {key: _moved(each, old, new) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, old, new) for each in value]
    if isinstance(value, str) and (value == old or value.startswith((f"{old}/", f"{old}:"))):
        return new + value[len(old) :]
    return value


def supply(
    launch: Launch, directory: RunDirectory, record: Record, tag: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """Write down what tracking needs in the container; and the variables of the supervisor that are for the container.

    Later ones count: what tracking needs, the project's, the caller's, and those that say which run it is.
    """
    claim = directory.read("claim.json")
    container = launch.container
    assert claim is not None  # noqa: S101  # a hold is on a claim
    assert container is not None  # noqa: S101  # asked for containers only
    engine = claim["request"]["container"]["engine"]
    network = container.arguments.host_config.get("NetworkMode")
    needs = inside(
        record.tracking_uri,
        record.artifact_uri,
        {**environ, **launch.tracking.child_secrets},
        local=is_local(engine),
        desktop="/.docker/desktop/" in engine,
        network=network,
    )
    needs = _with_places(needs)
    directory.write(
        PREPARED,
        {
            "create": asked_body(Claim.from_dict(claim), record, needs),
            "files": [list(pair) for pair in needs.files],
            "remarks": list(needs.remarks),
        },
    )
    visible: dict[str, str] = {"PYTHONUNBUFFERED": "1"}
    secret: dict[str, str] = {}
    run = launch.tracking.child_variables(record.run_id, record.experiment_id or "")
    own = {"MLPROJ_ATTEMPT": tag, "MLPROJ_RESULT": RESULT}
    if record.tracked:
        own["MLPROJ_RUN_ID"] = record.run_id
        own |= {name: run[name] for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID") if name in run}
    asked = {name: value for name, value in launch.variables.items() if name not in HARMLESS}
    harmless = {name: value for name, value in launch.variables.items() if name in HARMLESS}
    for target, other, variables in (
        (visible, secret, {**run, **needs.variables}),
        (secret, visible, {**launch.tracking.child_secrets, **needs.secrets}),
        (visible, secret, container.variables.visible),
        (secret, visible, container.variables.secret),
        (visible, secret, harmless),
        (secret, visible, asked),
        (visible, secret, own),
    ):
        for name, value in variables.items():
            other.pop(name, None)
            target[name] = value
    variables = {VISIBLE + name: value for name, value in visible.items()}
    variables |= {SECRET + name: value for name, value in secret.items()}
    if container.docker_auth is not None:
        variables[AUTH] = json.dumps(dict(container.docker_auth))
    return variables


def _with_places(needs: Inside) -> Inside:
    """The same, with its directories in place: the engine would make those that are missing, as root's."""
    mounts, remarks = [], list(needs.remarks)
    for mount in needs.mounts:
        place = Path(mount.partition(":")[0])
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # it is a path of the tracking server's host, not of this one
            remarks.append(f"{place} is not mounted into the container, since it cannot be had here: {error.strerror}")
        else:
            mounts.append(mount)
    return replace(needs, mounts=tuple(mounts), remarks=tuple(remarks))


def employ(verb: str, directory: RunDirectory) -> dict[str, Any]:
    """Have a process of its own see to a run's container, without the SDK in this one.

    Args:
        verb: "end" ends it, "remove" removes it.
        directory: the run's.

    Returns:
        What it found.

    Raises:
        ContactLost: the engine cannot be reached.
    """
    code = (
        "import sys; sys.path.append(sys.argv.pop(1)); from runpy import run_module; "
        f"run_module({CLIENT!r}, run_name='__main__', alter_sys=True)"
    )
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", code, root, verb, str(directory.path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"the process that was to {verb} it exited with {done.returncode}"]
        raise ContactLost(f"The container of {directory.path} could not be seen to: {words[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def remove(directory: RunDirectory) -> None:
    """Remove a run's container, if it has one that is not removed yet.

    Raises:
        ContactLost: the engine cannot be reached.
    """
    if directory.has(MADE) and not directory.has(REMOVED):
        employ("remove", directory)


def tidy(path: str) -> None:
    """Remove the container of a run that is over, if nobody will ask for it: what a supervisor leaves behind does this.

    That of an untracked detached run stays: by it a process that cannot see the run directory knows how it ended.
    """
    directory = RunDirectory(Path(path))
    claim = directory.read("claim.json")
    if claim is not None and (claim["request"]["tethered"] or directory.has("settled")):
        from contextlib import suppress

        from mlproj_core.backends.local.container_client import remove as remove_here

        with suppress(MlprojError):  # house-keeping comes to it
            remove_here(directory)
