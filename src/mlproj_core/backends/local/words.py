"""What a supervisor says of its run, in words. As light as the supervisor itself."""

from __future__ import annotations

import os

from mlproj_core.backends.local.processes import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["describe", "ended_how", "farewell", "stop_meaning", "verdict"]

SHELL_MEANINGS = {126: "a command could not be executed", 127: "a command was not found"}


def verdict(status: int) -> tuple[str, int | None, int]:
    """What a wait status other than 0 says of a project's command.

    Returns:
        A message, the exit code (None when a signal ended it), and the number of the signal that ended it or a process
        of it (0 without one).
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"the project's process was ended by {signal_name(number)}", None, number
    exit_code = os.WEXITSTATUS(status)
    # A shell reports the signal that ended its last command as 128 + the signal's number.
    number = exit_code - 128 if exit_code > 128 else 0
    message = f"the entry point exited with code {exit_code}"
    if exit_code in SHELL_MEANINGS:
        message += f" ({SHELL_MEANINGS[exit_code]})"
    elif number:
        message += f" (a process of it was ended by {signal_name(number)})"
    return message, exit_code, number


def stop_meaning(cause: str | None, timeout: float | None) -> tuple[str, str, str, bool]:
    """What it means that a supervisor was made to stop its run.

    Args:
        cause: "cancel", "timeout", "tether", or "signal".
        timeout: the run's, in seconds.

    Returns:
        The run's status, the reason's code and message, and whether a retry can help.
    """
    if cause == "cancel":
        return "KILLED", "cancelled", "the run was cancelled", False
    if cause == "timeout":
        return "FAILED", "timeout", f"the run took longer than its timeout of {timeout:g} seconds", True
    if cause == "tether":
        return "KILLED", "lost", "the process that asked for this tethered run ended, and so the run was ended", True
    return "KILLED", "lost", "the run's supervisor was told to end by a signal, as when a machine shuts down", True


def ended_how(status: int) -> str:
    """How a wait status says that a process ended, in words."""
    if os.WIFSIGNALED(status):
        return f"was ended by {signal_name(os.WTERMSIG(status))}"
    return f"exited with code {os.WEXITSTATUS(status)}"


def farewell(outcome: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """The last lines of a run's output: how it ended, and what to type next."""
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcome["phases"].items())
    reason = outcome["reason"]
    if reason is None:
        return [f"{outcome['status']} ({phases})"]
    return [
        f"{outcome['status']}: {reason['message']} ({reason['code']}; {phases})",
        f"next: mlproj logs {record['tag']}",
    ]


def describe(environment: dict[str, Any]) -> str:
    """An environment in a few words."""
    return " ".join(filter(None, [environment["manager"], (environment.get("key") or "")[:12]]))
