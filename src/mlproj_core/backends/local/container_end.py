"""What an engine says of a container that could not be started, or has ended, in the words of a run's end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlproj_core.errors import ExecutionException
from mlproj_core.status import Reason, ReasonCode

if TYPE_CHECKING:
    from mlproj_core.backends.local.container_body import Body
    from mlproj_core.containers.wire import EngineRefusal

__all__ = ["CANCELLED", "found", "refused"]

CANCELLED = ".cancelled"
"""What is appended to the name of a container that somebody cancelled who could not see its run directory."""

_MEANINGS = (
    (
        r"unknown or invalid runtime name: (\S+)|Unknown runtime specified (\S+)",
        ReasonCode.USER_INPUT,
        "the engine has no runtime {0}: install it and name it in the engine's daemon.json, or leave out "
        "docker_args runtime",
    ),
    (
        r"could not select device driver",
        ReasonCode.USER_INPUT,
        "the engine has no driver for the GPUs that docker_args asks for: install the NVIDIA Container Toolkit on its "
        "host, or leave out gpus",
    ),
    (
        r"unable to find user (\S+)|no matching entries in (?:passwd|group) file",
        ReasonCode.USER_INPUT,
        "the image does not know the user that docker_args or the image itself names",
    ),
    (
        r"bind source path does not exist: (\S+)",
        ReasonCode.USER_INPUT,
        "there is no {0} on the engine's host to mount",
    ),
    (r"no space left on device|disk quota", ReasonCode.CAPACITY, "the engine's disk is full"),
    (r"port is already allocated|address already in use", ReasonCode.CAPACITY, "a port that it publishes is in use"),
    (r"exec format error", ReasonCode.IMAGE, "the image is for machines of another kind: name a platform"),
)
"""Of what an engine says: what it means, and for people. In braces what the pattern's groups found."""

_NOT_FOUND = re.compile(r'exec: \\?"(?P<word>.*?)\\?": (?:executable file not found|stat .*no such file)')
_NOT_EXECUTABLE = re.compile(r'exec: \\?"(?P<word>.*?)\\?": (?:permission denied|is a directory)')


def refused(error: EngineRefusal, body: Body, secrets: Mapping[str, str]) -> ExecutionException | dict[str, Any]:
    """What it means that an engine did not make or start a container.

    Returns:
        An error with a reason; or, where the project's command is at fault, what `found` gives.
    """
    said = " ".join(error.said.split())
    if (match := _NOT_FOUND.search(said)) is not None:
        word = match["word"]
        wrapped = bool(secrets)
        if word == "sh" and (wrapped or body.argv[0] == "sh"):
            need = (
                f"its standard input brings the variables {', '.join(sorted(secrets))}, so that they show nowhere"
                if wrapped
                else "the entry point's command is one for a shell"
            )
            return _error(ReasonCode.USER_INPUT, f"the image has no shell (sh), which it needs: {need}")
        return _failed(127, f"the command {word!r} was not found in the image")
    if (match := _NOT_EXECUTABLE.search(said)) is not None:
        return _failed(126, f"the command {match['word']!r} could not be executed in the image")
    for pattern, code, meaning in _MEANINGS:
        if (match := re.search(pattern, said, re.IGNORECASE)) is not None:
            groups = [group for group in match.groups() if group]
            return _error(code, f"{meaning.format(*groups)} ({said})", retryable=code is ReasonCode.CAPACITY)
    if error.status < 500 or "OCI runtime" in said or "failed to" in said:
        return _error(ReasonCode.USER_INPUT, f"the engine refused the container: {said}")
    return _error(ReasonCode.LOST, f"the engine failed: {said}", retryable=True)


def _error(code: ReasonCode, message: str, *, retryable: bool = False) -> ExecutionException:
    return ExecutionException(message, reason=Reason(code, message, retryable=retryable))


def _failed(exit_code: int, message: str) -> dict[str, Any]:
    return {"exit_code": exit_code, "oom": None, "lost": None, "cancelled": False, "message": message}


def lost(message: str) -> dict[str, Any]:
    """What is found of a container that is not there any more."""
    return {"exit_code": 137, "oom": None, "lost": message, "cancelled": False, "message": None}


def found(container: Mapping[str, Any], *, engine_was_away: bool = False) -> dict[str, Any]:
    """What an engine knows of a container that has ended.

    Args:
        container: what the engine says of it.
        engine_was_away: whether the engine went down while it ran.

    Returns:
        `exit_code`; `oom`: the limit on its memory if the kernel killed a process of it, "" where there is no limit,
        else None; `lost`: why its exit code says nothing of the project, or None; `cancelled`: whether somebody
        cancelled it by the engine alone; `message`: what to say instead of the exit code's meaning, or None.
    """
    state = container["State"]
    exit_code = int(state["ExitCode"])
    why = None
    if engine_was_away and exit_code != 0:
        why = f"the Docker engine went down while the run was at work, which ended its container (code {exit_code})"
    elif exit_code != 0 and state.get("Error"):
        why = None
    return {
        "exit_code": exit_code,
        "oom": _limit(container) if state.get("OOMKilled") and exit_code != 0 else None,
        "lost": why,
        "cancelled": str(container["Name"]).endswith(CANCELLED),
        "message": None,
    }


def _limit(container: Mapping[str, Any]) -> str:
    """The limit on a container's memory, for people."""
    limit = int(container["HostConfig"].get("Memory") or 0)
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if limit >= size:
            return f"{limit / size:.4g} {unit}"
    return ""
