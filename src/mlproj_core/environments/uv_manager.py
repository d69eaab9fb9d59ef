"""Environments made by uv: one virtual environment for each content, kept in a cache."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlproj_core.environments.cache import Slot
from mlproj_core.environments.environment import Environment
from mlproj_core.environments.interpreters import Interpreter, Search, running
from mlproj_core.environments.recipe import Recipe
from mlproj_core.environments.requirements import Requirements, read_requirements
from mlproj_core.environments.uv_settings import UvSettings, uv_settings
from mlproj_core.errors import EnvironmentBuildError
from mlproj_core.locations import cache_dir
from mlproj_core.status import Reason, ReasonCode

if TYPE_CHECKING:
    from mlproj_core.environments.recipe import EnvironmentSpec

__all__ = ["UvManager"]

_KEY_DIGITS: Final = 32
_FORMAT: Final = "mlproj environment, format 1"
_PASSING: Final = re.compile(
    r"error sending request|timed out|timeout|connection|dns error|temporar|No space left|Disk quota"
    r"|\b(429|500|502|503|504)\b",
    re.IGNORECASE,
)
_DISTRUST: Final = re.compile(r"certificate|UnknownIssuer|self.signed", re.IGNORECASE)


@dataclass(frozen=True)
class _Plan:
    """An environment that is wanted, with everything that decides its content.

    Attributes:
        recipe: what it is to contain.
        directory: the project directory.
        interpreter: the Python it is to be made from.
        settings: how uv is to be run.
        editable: directories that it will point at.
        packages: names of the packages built from local directories, as in `Requirements.packages`.
        secrets: what to mask in what uv prints.
        slot: its place in the cache.
    """

    recipe: Recipe
    directory: Path
    interpreter: Interpreter
    settings: UvSettings
    editable: tuple[Path, ...]
    packages: tuple[str, ...]
    secrets: tuple[str, ...]
    slot: Slot


class UvManager:
    """Makes environments with uv (https://docs.astral.sh/uv/pip/)."""

    name = "uv"

    def recipe(self, spec: EnvironmentSpec) -> Recipe:
        """The Python and the packages of a python_env.yaml, or of a conda.yaml's pip part; see `Recipe.of`."""
        return Recipe.of(spec)

    def read_recipe(self, value: Mapping[str, Any]) -> Recipe:
        """The recipe whose `to_dict` gave this value."""
        return Recipe.from_dict(value)

    def find(self, spec: EnvironmentSpec | Recipe, directory: Path) -> Environment | None:
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
        return _environment(slot, hit=True) if slot.complete() else None

    def key(self, spec: EnvironmentSpec | Recipe, directory: Path) -> str | None:
        """The key of the environment for a project, whether it is there or not.

        Returns:
            None when the interpreter is not known yet, so that finding out would start processes.

        Raises:
            UserError: as for `find`.
        """
        recipe = spec if isinstance(spec, Recipe) else Recipe.of(spec)
        interpreter = Search(os.environ).without_asking(recipe.python)
        return None if interpreter is None else _plan(recipe, directory, interpreter, os.environ).slot.key

    def ensure(self, spec: EnvironmentSpec | Recipe, directory: Path, report: Callable[[str], None]) -> Environment:
        """The environment for a project, built now if it is not there.

        Any number of processes may ask for the same one at once: one of them builds it.

        Args:
            spec: the project's environment; None when it has none.
            directory: the project directory.
            report: is given each line of progress, uv's own included; free of credentials.

        Raises:
            UserError: a file that the requirements refer to cannot be read, or a setting of pip cannot be kept.
            EnvironmentBuildError: no fitting Python, or uv failed; with uv's own words.
        """
        recipe = spec if isinstance(spec, Recipe) else Recipe.of(spec)
        interpreter = Search(os.environ).asking(recipe.python)
        if interpreter is None:
            interpreter = _interpreter_from_uv(recipe, directory, report)
        plan = _plan(recipe, directory, interpreter, os.environ)
        built = plan.slot.fill(lambda lock: _build(plan, lock, report), report)
        return _environment(plan.slot, hit=not built)


def _plan(recipe: Recipe, directory: Path, interpreter: Interpreter, environ: Mapping[str, str]) -> _Plan:
    """Everything that decides an environment's content, and the key that stands for it."""
    directory = directory.absolute()
    origin = recipe.origin(directory)
    first: Requirements = read_requirements(recipe.build_dependencies, directory, environ, origin)
    then: Requirements = read_requirements(recipe.dependencies, directory, environ, origin)
    settings = uv_settings(environ, directory, extra_indexes=first.extra_indexes or then.extra_indexes)
    host = running()
    digest = hashlib.sha256()
    for part in (
        (_FORMAT, UvManager.name, f"host {host.machine} {host.libc}"),
        interpreter.identity(),
        first.identity,
        then.identity,
        settings.identity,
    ):
        for line in (*part, ""):
            digest.update(f"{len(line)} {line}\n".encode(errors="surrogateescape"))
    slot = Slot(digest.hexdigest()[:_KEY_DIGITS])
    editable, packages = first.editable + then.editable, first.packages + then.packages
    secrets = settings.secrets + first.secrets + then.secrets
    return _Plan(recipe, directory, interpreter, settings, editable, packages, secrets, slot)


def _environment(slot: Slot, *, hit: bool) -> Environment:
    slot.touch()
    return Environment(
        manager=UvManager.name,
        prefix=slot.prefix,
        key=slot.key,
        variables={"VIRTUAL_ENV": str(slot.prefix)},
        path_prefix=(str(slot.prefix / "bin"),),
        unset=("PYTHONHOME",),
        hit=hit,
        in_use_lock=slot.in_use_lock,
    )


def _build(plan: _Plan, lock: int, report: Callable[[str], None]) -> None:
    """Make the environment in its place. The caller holds the lock, and removes what a failure leaves."""
    from mlproj_core.environments.uv_program import Failure, find_uv, run_uv

    uv, slot, began = find_uv(os.environ), plan.slot, time.monotonic()
    for note in plan.settings.notes:
        report(note)
    python = plan.interpreter
    report(f"building environment {slot.key[:12]} with {python.implementation} {python.version} ({python.path})")

    def run(*arguments: str, given: str = "") -> None:
        run_uv(
            [uv, *arguments, "--color", "never", "--project", str(_configured_at(plan.settings))],
            environment=plan.settings.environment,
            directory=plan.directory,
            secrets=plan.secrets,
            report=report,
            given=given,
            keep_open=(lock,),
        )

    origin = plan.recipe.origin(plan.directory)
    doing = f"make a virtual environment with {python.path}"
    try:
        run("venv", "--quiet", "--no-project", "--python", python.path, str(slot.prefix))
        for what in ("build_dependencies", "dependencies"):
            lines = getattr(plan.recipe, what)
            if lines:
                doing = f"install the {what} of {origin}"
                into = ("--python", str(slot.prefix / "bin" / "python"))
                options = (*plan.settings.arguments, *_refreshed(plan.packages))
                run("pip", "install", *into, *options, "-r", "-", given="\n".join(lines) + "\n")
    except Failure as failure:
        raise _error(doing, failure.lines) from None
    slot.mark_complete(
        {
            "manager": UvManager.name,
            "python": python.version,
            "interpreter": python.path,
            "purpose": plan.recipe.path or str(plan.directory),
            "editable": [str(path) for path in plan.editable],
        }
    )
    report(f"environment {slot.key[:12]} is ready after {time.monotonic() - began:.1f} s")


def _refreshed(packages: tuple[str, ...]) -> list[str]:
    """Options that make uv build local directories anew: it would take a change in their modules for none."""
    if "" in packages:
        return ["--refresh"]
    return [option for name in dict.fromkeys(packages) for option in ("--refresh-package", name)]


def _configured_at(settings: UvSettings) -> Path:
    """The directory where uv is to look for configuration: the project's own, or one that ends the search."""
    if settings.config.project is not None:
        return settings.config.project
    nowhere = cache_dir() / "no-project"
    if not (nowhere / "uv.toml").is_file():
        nowhere.mkdir(parents=True, exist_ok=True)
        (nowhere / "uv.toml").touch()
    return nowhere


def _error(doing: str, lines: tuple[str, ...]) -> EnvironmentBuildError:
    text = "\n".join(f"  {line}" for line in lines)
    message = f"uv could not {doing}. Its last words:\n{text}"
    if _DISTRUST.search(text):
        message += (
            "\nuv trusts the certificates that come with it. To trust the system's as pip does, set "
            "UV_SYSTEM_CERTS=true; for a certificate of your own set `cert` in pip.conf, or SSL_CERT_FILE."
        )
    retryable = bool(_PASSING.search(text)) and not _DISTRUST.search(text)
    return EnvironmentBuildError(message, reason=Reason(ReasonCode.ENVIRONMENT, message, retryable=retryable))


def _interpreter_from_uv(recipe: Recipe, directory: Path, report: Callable[[str], None]) -> Interpreter:
    """An interpreter that only uv finds, or that it downloads.

    Raises:
        EnvironmentBuildError: there is none, and none can be had.
    """
    from mlproj_core.environments.uv_program import Failure, find_uv, run_uv

    request = recipe.python or ""
    uv, search = find_uv(os.environ), Search(os.environ)
    settings = uv_settings(os.environ, directory, extra_indexes=False)

    def ask(*arguments: str, tell: Callable[[str], None]) -> list[str]:
        return run_uv(
            [uv, "--color", "never", "--project", str(_configured_at(settings)), "python", *arguments, "--", request],
            environment=settings.environment,
            directory=directory,
            secrets=settings.secrets,
            report=tell,
        )

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
    retryable = bool(_PASSING.search(words))
    raise EnvironmentBuildError(message, reason=Reason(ReasonCode.ENVIRONMENT, message, retryable=retryable))
