"""Environments made by uv (https://docs.astral.sh/uv/)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlproj_core.environments.plan import Plan
from mlproj_core.environments.recipe import Recipe, SyncRecipe, VenvRecipe
from mlproj_core.environments.uv_config import configured_at
from mlproj_core.environments.uv_settings import UvSettings, uv_settings
from mlproj_core.environments.uv_sync import sync_options, sync_tables
from mlproj_core.environments.venv_manager import VenvManager

if TYPE_CHECKING:
    from mlproj_core.environments.builder import Builder
    from mlproj_core.environments.recipe import Wanted
    from mlproj_core.environments.requirements import Requirements

__all__ = ["UvManager", "refreshed"]


class UvManager(VenvManager[UvSettings]):
    """Makes environments with uv: of requirement lines by `uv pip`, of what has a lock file by `uv sync`."""

    name = "uv"

    def recipe(self, spec: Wanted) -> VenvRecipe:
        """The Python and packages of a project, in whatever file; of a conda.yaml its pip part. See `Recipe.of`."""
        return SyncRecipe.of(spec) or Recipe.of(spec)

    def settings(self, recipe: VenvRecipe, contents: tuple[Requirements, ...], directory: Path) -> UvSettings:
        """The user's own settings for uv, and pip's translated; see `uv_settings`."""
        if isinstance(recipe, SyncRecipe):
            own = sync_tables(recipe, directory)
            return uv_settings(os.environ, (directory / recipe.file).parent, choosing=False, own=own)
        return uv_settings(os.environ, directory, extra_indexes=any(one.extra_indexes for one in contents))

    def install(self, plan: Plan[UvSettings], builder: Builder) -> None:
        """`uv venv`, then `uv pip install` for the build_dependencies and the dependencies, or `uv sync`."""
        from mlproj_core.environments.uv_program import find_uv

        uv, prefix, python = find_uv(os.environ), plan.slot.prefix, plan.interpreter.path
        configuration = configured_at(plan.settings.config)
        common = ("--color", "never", "--project", str(configuration))
        builder.run(
            f"make a virtual environment with {python}",
            [uv, "venv", "--quiet", "--no-project", "--python", python, str(prefix), *common],
            plan.settings.environment,
        )
        recipe, options = plan.recipe, (*plan.settings.arguments, *refreshed(plan.packages))
        if isinstance(recipe, SyncRecipe):
            which, variables = sync_options(recipe, plan.directory, prefix, configuration)
            builder.run(
                f"install what {recipe.origin(plan.directory)} asks for",
                [uv, "sync", "--no-editable", "--python", python, "--color", "never", *which, *options],
                {**plan.settings.environment, **variables},
            )
            return
        for what, lines in recipe.steps():
            builder.run(
                f"install the {what} of {recipe.origin(plan.directory)}",
                [uv, "pip", "install", "--python", str(prefix / "bin" / "python"), *options, "-r", "-", *common],
                plan.settings.environment,
                given="\n".join(lines) + "\n",
            )


def refreshed(packages: tuple[str, ...]) -> list[str]:
    """Options that make uv build local directories anew: it would take a change in their modules for none."""
    if "" in packages:
        return ["--refresh"]
    return [option for name in dict.fromkeys(packages) for option in ("--refresh-package", name)]
