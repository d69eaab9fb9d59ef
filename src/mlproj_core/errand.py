"""What a run needs done before its project starts, in a process of its own: `python -m MODULE REQUEST RESULT`.

REQUEST is a file with a JSON object. RESULT is written at the end, at once or not at all: what the work gives, or
`{"error": {"code", "message", "retryable"}}`. Progress goes to standard output. TERM, INT and HUP end the work, which
clears up what is half made, and leave an error with the code "cancelled".
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mlproj_core.errors import MlprojError, UserError
from mlproj_core.status import ReasonCode

__all__ = ["perform", "report_line"]


class _Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def perform(
    work: Callable[[dict[str, Any]], dict[str, Any]],
    code: ReasonCode,
    what: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Do what the request asks for; 0 when it is done, 2 for a user's mistake, 1 for any other failure.

    Args:
        work: from the request to the result.
        code: of the reason for a failure that is no user's mistake, and has no reason of its own.
        what: it is that is done, for messages: "the environment could not be made".
        arguments: path of the request, path for the result; those of the command line when None.
    """
    request_path, result_path = map(Path, sys.argv[1:] if arguments is None else arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        result, status = work(json.loads(request_path.read_text(encoding="utf-8"))), 0
    except _Stopped as stopped:
        result, status = _error("cancelled", f"{what}: {stopped}"), 128 + stopped.number
    except UserError as error:
        result, status = _error(ReasonCode.USER_INPUT, str(error)), error.exit_code
    except MlprojError as error:
        reason = getattr(error, "reason", None)
        own_code, retryable = (reason.code, reason.retryable) if reason is not None else (code, False)
        result = _error(own_code, str(error), retryable=retryable)
        status = error.exit_code
    except OSError as error:
        # A full disk or a cache that cannot be written is neither the user's nor the project's mistake.
        result, status = _error(code, f"{what}: {error}", retryable=True), 1
    draft = result_path.with_name(f"{result_path.name}.{os.getpid()}")
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(result_path)
    return status


def report_line(line: str) -> None:
    """Print a line of progress."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _error(code: str, message: str, *, retryable: bool = False) -> dict[str, Any]:
    return {"error": {"code": str(code), "message": message, "retryable": retryable}}


def _stop(number: int, _frame: FrameType | None) -> None:
    """Turn the first signal into an exception; further ones must not cut the clearing up short."""
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise _Stopped(number)
