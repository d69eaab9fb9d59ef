"""Environments made as conda makes them: by py-rattler without a conda installation, else by the program of one.

What an environment file says, conda's configuration and the `pip:` section keep their meaning
(https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-environments.html); docs/environments.md has the
differences.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.environments.cache import Slot
from mlproj_core.environments.conda_activation import ACTIVATION_NAME, variables_of
from mlproj_core.environments.conda_build import Build
from mlproj_core.environments.conda_plan import plan_environment
from mlproj_core.environments.conda_program import missing
from mlproj_core.environments.conda_recipe import CondaRecipe
from mlproj_core.environments.environment import Environment
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import Wanted

__all__ = ["CondaManager", "missing"]


class CondaManager:
    """Makes conda environments."""

    name = "conda"

    def recipe(self, spec: Wanted) -> CondaRecipe:
        """What an environment file asks for; see `CondaRecipe.of`."""
        return CondaRecipe.of(spec)

    def read_recipe(self, value: Mapping[str, Any]) -> CondaRecipe:
        """The recipe whose `to_dict` gave this value."""
        return CondaRecipe.from_dict(value)

    def find(self, spec: Wanted, directory: Path) -> Environment | None:
        """The environment for a project if it is there already; no process, no network, a few milliseconds.

        Raises:
            UserError: a file that the environment file refers to cannot be read, a setting cannot be kept, or nothing
                on this host could make the environment.
        """
        slot = Slot(self.key(spec, directory))
        if slot.complete():
            return _environment(slot, hit=True)
        if why := missing():
            raise UserError(f"No conda environment can be made: {why}.")
        return None

    def key(self, spec: Wanted, directory: Path) -> str:
        """The key of the environment for a project, whether it is there or not.

        Raises:
            UserError: as for `find`.
        """
        return plan_environment(CondaRecipe.of(spec), directory, os.environ).slot.key

    def ensure(self, spec: Wanted, directory: Path, report: Callable[[str], None]) -> Environment:
        """The environment for a project, built now if it is not there.

        Any number of processes may ask for the same one at once: one of them builds it.

        Args:
            spec: the project's environment.
            directory: the project directory.
            report: is given each line of progress; free of credentials.

        Raises:
            UserError: a file cannot be read, or a setting of conda or pip cannot be kept.
            EnvironmentBuildError: there is no solution, or something failed; with the solver's or installer's words.
        """
        plan = plan_environment(CondaRecipe.of(spec), directory, os.environ)
        built = plan.slot.fill(lambda lock: Build(plan, lock, report).run(), report)
        return _environment(plan.slot, hit=not built)


def _environment(slot: Slot, *, hit: bool) -> Environment:
    slot.touch()
    return Environment(
        manager=CondaManager.name,
        prefix=slot.prefix,
        key=slot.key,
        unset=("PYTHONHOME", "VIRTUAL_ENV", *_left_by_active()),
        activation=slot.prefix / ACTIVATION_NAME,
        hit=hit,
        in_use_lock=slot.in_use_lock,
    )


def _left_by_active() -> tuple[str, ...]:
    """The variables that the activated environment around this process has set, which its deactivation takes back."""
    active = os.environ.get("CONDA_PREFIX")
    return tuple(variables_of(Path(active))) if active else ()
