"""Interpreters that only uv finds, or that it downloads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlproj_core.environments.builder import is_passing
from mlproj_core.environments.interpreters import Interpreter, Search
from mlproj_core.environments.uv_config import configured_at
from mlproj_core.environments.uv_settings import uv_settings
from mlproj_core.errors import EnvironmentBuildError
from mlproj_core.status import Reason, ReasonCode

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import VenvRecipe

__all__ = ["interpreter_from_uv"]


def interpreter_from_uv(recipe: VenvRecipe, directory: Path, report: Callable[[str], None]) -> Interpreter:
    """The interpreter that a recipe asks for, from uv.

    Raises:
        EnvironmentBuildError: there is none, and none can be had.
    """
    from mlproj_core.environments.program import Failure, run_program
    from mlproj_core.environments.uv_program import find_uv

    request = recipe.python or ""
    uv, search = find_uv(os.environ), Search(os.environ)
    settings = uv_settings(os.environ, directory, choosing=False)

    def ask(*arguments: str, tell: Callable[[str], None]) -> list[str]:
        return run_program(
            [uv, "--color", "never", "--project", str(configured_at(settings.config)), "python", *arguments, "--",
             request],
            environment=settings.environment,
            directory=directory,
            secrets=settings.secrets,
            report=tell,
        )  # fmt: skip

    def look() -> Interpreter | None:
        found = ask("find", "--system", "--no-python-downloads", tell=lambda line: None)
        return search.add(found[0].strip(), request) if found else None

    failure: tuple[str, ...] = ()
    try:
        if interpreter := look():
            return interpreter
    except Failure as nothing:
        failure = nothing.lines
    downloads = os.environ.get("UV_PYTHON_DOWNLOADS", "automatic").lower()
    if downloads in ("automatic", "auto", "true", "1"):
        report(f"no Python {request} on this host: asking uv to download it")
        try:
            ask("install", tell=report)
            if interpreter := look():
                return interpreter
        except Failure as refused:
            failure = refused.lines
    found = "\n".join(f"  {one.version}  {one.path}" for one in search.found())
    words = "\n".join(f"  {line}" for line in failure)
    origin = recipe.path or "the project"
    message = (
        f"{origin} asks for Python {request}, which is not on this host and could not be had from uv:\n{words}\n"
        f"Found on this host:\n{found}\n"
        f"Install Python {request} (`uv python install {request}` or `pyenv install {request}`), or ask for less in "
        f'{origin}: a version such as "{".".join(request.split(".")[:2])}" takes any release of it.'
    )
    raise EnvironmentBuildError(message, reason=Reason(ReasonCode.ENVIRONMENT, message, retryable=is_passing(words)))
