"""What a supervisor says of its run, in words. As light as the supervisor itself."""

from __future__ import annotations

import os

from mlproj_core.backends.local.processes import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["describe", "ended_how", "farewell", "verdict"]

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
