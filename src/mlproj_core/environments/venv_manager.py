"""What the managers of virtual environments share: one environment for each content, kept in a cache."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from mlproj_core.environments.cache import Slot
from mlproj_core.environments.environment import Environment
from mlproj_core.environments.interpreters import Interpreter, Search
from mlproj_core.environments.plan import Plan, Settings, slot_for
from mlproj_core.environments.recipe import Recipe, SyncRecipe, VenvRecipe

if TYPE_CHECKING:
    from mlproj_core.environments.builder import Builder
    from mlproj_core.environments.recipe import Wanted
    from mlproj_core.environments.requirements import Requirements

__all__ = ["VenvManager"]


class VenvManager(ABC, Generic[Settings]):
    """Makes virtual environments. A subclass says how its installer is set up, and what it is told to do."""

    name: str

    @abstractmethod
    def recipe(self, spec: Wanted) -> VenvRecipe:
        """What the environment for a project's is to hold; a recipe is its own.

        Raises:
            UserError: this manager can make nothing of such a project.
        """

    @abstractmethod
    def settings(self, recipe: VenvRecipe, contents: tuple[Requirements, ...], directory: Path) -> Settings:
        """How the installer is to be run on this host for a recipe.

        Raises:
            UserError: a setting cannot be kept, or is malformed.
        """

    @abstractmethod
    def install(self, plan: Plan[Settings], builder: Builder) -> None:
        """Make the environment in its place, without its marker.

        Raises:
            EnvironmentBuildError: an installer failed; with its own words.
        """

    def read_recipe(self, value: Mapping[str, Any]) -> VenvRecipe:
        """The recipe whose `to_dict` gave this value."""
        return SyncRecipe.from_dict(value) if "file" in value else Recipe.from_dict(value)

    def find(self, spec: Wanted, directory: Path) -> Environment | None:
        """The environment for a project if it is there already.

        Starts no process and touches no network: a few milliseconds.

        Args:
            spec: the project's environment; None when it has none.
            directory: the project directory.

        Returns:
            None when the environment is not there, or when that takes longer to find out.

        Raises:
            UserError: a file that the requirements refer to cannot be read, or a setting of pip cannot be kept.
        """
        key = self.key(spec, directory)
        if key is None:
            return None
        slot = Slot(key)
        return self._environment(slot, hit=True) if slot.complete() else None

    def key(self, spec: Wanted, directory: Path) -> str | None:
        """The key of the environment for a project, whether it is there or not.

        Returns:
            None when the interpreter is not known yet, so that finding out would start processes.

        Raises:
            UserError: as for `find`.
        """
        recipe = self.recipe(spec)
        interpreter = Search(os.environ).without_asking(recipe.python)
        return None if interpreter is None else self._plan(recipe, directory, interpreter).slot.key

    def ensure(self, spec: Wanted, directory: Path, report: Callable[[str], None]) -> Environment:
        """The environment for a project, built now if it is not there.

        Any number of processes may ask for the same one at once: one of them builds it.

        Args:
            spec: the project's environment; None when it has none.
            directory: the project directory.
            report: is given each line of progress, the installer's own included; free of credentials.

        Raises:
            UserError: a file that the requirements refer to cannot be read, or a setting of pip cannot be kept.
            EnvironmentBuildError: no fitting Python, or the installer failed; with its own words.
        """
        recipe = self.recipe(spec)
        interpreter = Search(os.environ).asking(recipe.python)
        if interpreter is None:
            from mlproj_core.environments.uv_python import interpreter_from_uv

            interpreter = interpreter_from_uv(recipe, directory, report)
        plan = self._plan(recipe, directory, interpreter)
        built = plan.slot.fill(lambda lock: self._build(plan, lock, report), report)
        return self._environment(plan.slot, hit=not built)

    def _plan(self, recipe: VenvRecipe, directory: Path, interpreter: Interpreter) -> Plan[Settings]:
        directory = directory.absolute()
        contents = recipe.contents(directory, os.environ)
        settings = self.settings(recipe, contents, directory)
        slot = slot_for(self.name, interpreter, contents, settings)
        return Plan(recipe, directory, interpreter, settings, contents, slot)

    def _environment(self, slot: Slot, *, hit: bool) -> Environment:
        slot.touch()
        return Environment(
            manager=self.name,
            prefix=slot.prefix,
            key=slot.key,
            variables={"VIRTUAL_ENV": str(slot.prefix)},
            path_prefix=(str(slot.prefix / "bin"),),
            unset=("PYTHONHOME",),
            hit=hit,
            in_use_lock=slot.in_use_lock,
        )

    def _build(self, plan: Plan[Settings], lock: int, report: Callable[[str], None]) -> None:
        """Make the environment in its place. The caller holds the lock, and removes what a failure leaves."""
        from mlproj_core.environments.builder import Builder

        slot, python, began = plan.slot, plan.interpreter, time.monotonic()
        for note in plan.settings.notes:
            report(note)
        report(f"building environment {slot.key[:12]} with {python.implementation} {python.version} ({python.path})")
        self.install(plan, Builder(plan.directory, plan.secrets, lock, report))
        slot.mark_complete(
            {
                "manager": self.name,
                "python": python.version,
                "interpreter": python.path,
                "purpose": plan.recipe.path or str(plan.directory),
                "editable": [str(path) for path in plan.editable],
            }
        )
        report(f"environment {slot.key[:12]} is ready after {time.monotonic() - began:.1f} s")
