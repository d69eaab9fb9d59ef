"""Building an environment in a process of its own: `python -m mlproj_core.environments.build REQUEST RESULT`.

REQUEST is a file with the JSON of `build_request`, RESULT becomes `{"environment": …}` or an error (see `errand`). The
installer's words go to standard output too; a signal ends the installer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.environments.manager import environment_manager
from mlproj_core.errand import perform, report_line
from mlproj_core.errors import UserError
from mlproj_core.status import ReasonCode

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import VenvRecipe

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the request asks for; 0 when it is there, 2 for a user's mistake, 1 for any other failure.

    Args:
        arguments: path of the request, path for the result; those of the command line when None.
    """
    return perform(
        lambda request: {"environment": _build(request)},
        ReasonCode.ENVIRONMENT,
        "The environment could not be made",
        arguments,
    )


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
    return manager.ensure(recipe, directory, report_line).to_dict()


if __name__ == "__main__":
    sys.exit(main())
