"""The supervisor's part in a run in a container: a client of the engine is its child, instead of the project.

Standard library only, and light: the supervisor holds this module in memory for as long as its run lasts.
"""

from __future__ import annotations

import os

from mlproj_core.backends.local.words import verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlproj_core.backends.local.supervisor import Supervisor

__all__ = ["AUTH", "CLIENT", "ENDED", "MADE", "PREPARED", "REMOVED", "RESULT", "SECRET", "VISIBLE", "run"]

CLIENT = "mlproj_core.backends.local.container_client"
"""The module that is the container's client, as a program."""

ENDED = "container"
"""Name of the files of the client's request and result."""

VISIBLE, SECRET = "MLPROJ_VISIBLE:", "MLPROJ_SECRET:"
"""How the variables of a supervisor begin that are for its container, under the rest of their names."""

AUTH = "MLPROJ_DOCKER_AUTH"
"""Variable of a supervisor with the caller's `docker_auth`, as JSON."""

RESULT = "/mlflow/mlproj/result.json"
"""MLPROJ_RESULT in a container."""

PREPARED = "container-body.json"
"""File in a run directory with what is known of the container before its image is, but for variables."""

MADE = "container-made"
"""Name of the file in a run directory that says that there is a container, or is about to be."""

REMOVED = "container-removed"
"""Name of the file in a run directory that says that its container is gone for good."""

MARGIN = 10.0
"""Seconds for the client to end the container, beyond the grace period that the container is given."""

PATIENCE = 60.0
"""Seconds for a second client to end what the first one left."""


def run(supervisor: Supervisor) -> dict[str, Any]:
    """Fetch the data, and have the run's container made and seen to its end; the outcome."""
    if (failed := supervisor.data()) is not None:
        return failed
    if supervisor.stop_requested():
        return supervisor.stopped()
    supervisor.enter("image")
    supervisor.margin = MARGIN
    answer = supervisor.errand(ENDED, CLIENT, {"directory": supervisor.directory})
    supervisor.margin = 0.0
    left = supervisor.read_if_there(f"{ENDED}.json")
    found: dict[str, Any] = {}
    if "exit_code" not in left and os.path.exists(supervisor.path(MADE)):
        found = end(supervisor)
    if supervisor.stopping:
        return supervisor.stopped()
    if found:  # it had ended by itself
        return outcome(supervisor, found)
    if not left:
        return supervisor.outcome("FAILED", "lost", answer["reason"]["message"], retryable=True)
    return answer if "status" in answer else outcome(supervisor, answer)


def outcome(supervisor: Supervisor, found: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a run whose container has ended.

    Args:
        supervisor: the run's.
        found: what was found of the container; see `container_end.found`.
    """
    if found["cancelled"]:
        supervisor.stopping = "cancel"
        return supervisor.stopped()
    return supervisor.outcome(**judged(found)) if found["exit_code"] else {"status": "FINISHED", "reason": None}


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an outcome, of what was found of a container that has failed."""
    message, exit_code, number = verdict(found["exit_code"] << 8)
    code, retryable = "project_code", number == 9
    if found["oom"] is not None:
        code = "oom"
        limit = f", of which it may have {found['oom']}" if found["oom"] else ""
        message += f"; the kernel killed a process of the container because its memory{limit} had run out"
    if found["lost"]:
        code, message, retryable = "lost", found["lost"], True
    return {
        "status": "FAILED",
        "code": code,
        "message": found["message"] or message,
        "retryable": retryable,
        "exit_code": exit_code,
        "signal": number or None,
    }


def end(supervisor: Supervisor) -> dict[str, Any]:
    """End a container whose client has died, or was killed, before it saw the end.

    Returns:
        What was found of it, if it had ended by itself; else nothing.
    """
    import json
    import subprocess

    command = [*supervisor.python(CLIENT), "end", supervisor.directory]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        name = supervisor.request["container"]["name"]
        supervisor.say(f"warning: the container {name} could not be ended, and may still run (see supervisor.log)")
        return {}
    found: dict[str, Any] = json.loads(done.stdout)
    return found
