"""Building an environment in a process of its own: `python -m mlproj_core.environments.build REQUEST RESULT`.

REQUEST is a file with the JSON of `build_request`. RESULT is written at the end, at once or not at all:
`{"environment": …}` or `{"error": {"code", "message", "retryable"}}`. Progress and the installer's words go to standard
output. TERM, INT and HUP end the installer, remove what is half made, and leave an error with the code "cancelled".
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mlproj_core.environments.manager import environment_manager
from mlproj_core.errors import EnvironmentBuildError, MlprojError, UserError

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import VenvRecipe

__all__ = ["main"]


class _Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the building of the environment was stopped by {signal.Signals(number).name}")
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the request asks for; 0 when it is there, 2 for a user's mistake, 1 for any other failure.

    Args:
        arguments: path of the request, path for the result; those of the command line when None.
    """
    request_path, result_path = map(Path, sys.argv[1:] if arguments is None else arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        request = json.loads(request_path.read_text(encoding="utf-8"))
        result, status = {"environment": _build(request)}, 0
    except _Stopped as stopped:
        result, status = _error("cancelled", str(stopped)), 128 + stopped.number
    except UserError as error:
        result, status = _error("user_input", str(error)), error.exit_code
    except EnvironmentBuildError as error:
        retryable = error.reason is not None and error.reason.retryable
        result, status = _error("environment", str(error), retryable=retryable), error.exit_code
    except MlprojError as error:
        result, status = _error("environment", str(error)), error.exit_code
    except OSError as error:
        # A full disk or a cache that cannot be written is neither the user's nor the project's mistake.
        result, status = _error("environment", f"The environment could not be made: {error}", retryable=True), 1
    draft = result_path.with_name(f"{result_path.name}.{os.getpid()}")
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(result_path)
    return status


def _build(request: dict[str, Any]) -> dict[str, Any]:
    directory = Path(request["directory"])
    manager = environment_manager(request["manager"])
    if (written := request.get("spec")) is not None:
        recipe: VenvRecipe | None = manager.read_recipe(written)
    else:
        from mlproj_core.spec import load_project

        project = load_project(directory)
        script = request.get("script")
        recipe = manager.recipe(project.environment_of(script) if script else project.environment)
        if recipe is None or not recipe.holds_credentials():
            raise UserError(f"The environment of the project in {directory} was changed since it was asked for.")
    return manager.ensure(recipe, directory, _report).to_dict()


def _error(code: str, message: str, *, retryable: bool = False) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "retryable": retryable}}


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _stop(number: int, _frame: FrameType | None) -> None:
    """Turn the first signal into an exception; further ones must not cut the clearing up short."""
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise _Stopped(number)


if __name__ == "__main__":
    sys.exit(main())
