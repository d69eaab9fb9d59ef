"""The supervisor's part in a run on its own host: the environment is made ready, and the command runs in it.

Standard library only, and light: the supervisor holds this module in memory for as long as its run lasts.
"""

from __future__ import annotations

import fcntl
import os
import signal

from mlproj_core.backends.local.processes import oom_kills
from mlproj_core.backends.local.words import describe, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlproj_core.backends.local.supervisor import Supervisor

__all__ = ["run"]

ENVIRONMENT_MARKER = ".mlproj-complete.json"  # as in mlproj_core.environments.environment, which is too heavy here
ACTIVATED = '__mlproj_command=$1; shift; . "$0"; exec "$BASH" -c "$__mlproj_command"'
"""Sources the file `$0`, without arguments, and then becomes the bash that the command would have had without it."""


def run(supervisor: Supervisor) -> dict[str, Any]:
    """Make the environment ready, fetch the data and run the command; the outcome."""
    request, killed_before = supervisor.request, oom_kills()
    environment = make_ready(supervisor)
    if "status" in environment:
        return environment
    if supervisor.stop_requested():
        return supervisor.stopped()
    if (failed := supervisor.data()) is not None:
        return failed
    if supervisor.stop_requested():
        return supervisor.stopped()
    supervisor.enter("running")
    variables = dict(os.environ)
    for name in environment["unset"]:
        variables.pop(name, None)
    variables.update(environment["variables"])
    if environment["path_prefix"]:
        path = [*environment["path_prefix"], variables.get("PATH", os.defpath)]
        variables["PATH"] = os.pathsep.join(path)
    command = ["bash", "-c", request["command"]]
    if activation := environment.get("activation"):  # which the environments of an earlier release do not have
        command = ["bash", "-c", ACTIVATED, activation, request["command"]]
    status = supervisor.execute(command, request["directory"], variables)
    if supervisor.stopping:
        return supervisor.stopped()
    return outcome(supervisor, status, killed_before)


def make_ready(supervisor: Supervisor) -> dict[str, Any]:
    """The environment to run in, built if need be; else the outcome of the run that goes without."""
    wanted = supervisor.request["environment"]
    ready = wanted["ready"]
    if ready is not None and hold(ready):
        supervisor.say(f"environment: {describe(ready)} (found ready)")
        return dict(ready)
    supervisor.enter("environment")
    while True:
        answer = supervisor.errand("environment", "mlproj_core.environments.build", wanted["request"])
        if "status" in answer:
            return answer
        if hold(answer["environment"]):
            supervisor.say(f"environment: {describe(answer['environment'])} (made for this run)")
            return dict(answer["environment"])
        # It was pruned between its making and our hold on it: make it again.


def hold(environment: dict[str, Any]) -> bool:
    """Take the shared lock that keeps the environment from being pruned; False if it is gone."""
    if environment.get("in_use_lock"):
        try:
            descriptor = os.open(environment["in_use_lock"], os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    prefix = environment["prefix"]
    return prefix is None or os.path.exists(os.path.join(prefix, ENVIRONMENT_MARKER))


def outcome(supervisor: Supervisor, status: int, killed_before: int) -> dict[str, Any]:
    """The outcome of a run by its command's wait status.

    Args:
        supervisor: the run's.
        status: of the command.
        killed_before: how many processes the kernel had killed for want of memory before it began.
    """
    if status == 0:
        return {"status": "FINISHED", "reason": None}
    message, exit_code, number = verdict(status)
    killed = number == signal.SIGKILL
    code = "project_code"
    if killed and oom_kills() > killed_before:
        code = "oom"
        message += "; meanwhile the kernel killed a process because memory had run out"
    return supervisor.outcome("FAILED", code, message, retryable=killed, exit_code=exit_code, signal=number or None)
