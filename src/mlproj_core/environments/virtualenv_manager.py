"""Environments made as MLflow's manager "virtualenv" makes them: `python -m venv`, and a pip inside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlproj_core.environments.pip_options import ELSEWHERE, FETCHING, HARMLESS, SWITCHES
from mlproj_core.environments.pip_settings import PipSetting, read_pip_settings
from mlproj_core.environments.plan import InstallerSettings, Plan, compiler_identity
from mlproj_core.environments.recipe import Recipe
from mlproj_core.environments.redaction import credentials_in, without_credentials
from mlproj_core.environments.requirements import scan_file, with_absolute_references
from mlproj_core.environments.venv_manager import VenvManager
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.environments.builder import Builder
    from mlproj_core.environments.recipe import VenvRecipe, Wanted
    from mlproj_core.environments.requirements import Requirements

__all__ = ["VirtualenvManager"]

_FILES: Final = ("build-constraint", "constraint", "requirement")
_ADDED_UP: Final = ("no-binary", "only-binary")
_MISLEADING: Final = ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV")

_BUNDLED_WHEELS: Final = """
import ensurepip, glob, os, sys, sysconfig
places = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), sysconfig.get_config_var("WHEEL_PKG_DIR")]
for place in filter(None, [*places, "/usr/share/python-wheels"]):
    pip = glob.glob(os.path.join(place, "pip-" + ensurepip.version() + "-*.whl"))
    if pip:
        setuptools = sorted(glob.glob(os.path.join(place, "setuptools-*.whl"))) if sys.version_info < (3, 12) else []
        print("\\n".join(pip + setuptools[-1:]))
        break
"""
"""Prints the wheels that `python -m venv` would install, in a twentieth of its time. They lie in the package ensurepip,
or where the one who built this Python put them (configure's --with-wheel-pkg-dir; Debian: /usr/share/python-wheels)."""


class VirtualenvManager(VenvManager[InstallerSettings]):
    """Makes environments with venv and pip, as MLflow does (`_create_virtualenv` of `mlflow/utils/virtualenv.py`)."""

    name = "virtualenv"

    def recipe(self, spec: Wanted) -> Recipe:
        """The Python and packages of a python_env.yaml, or of a conda.yaml's pip part; see `Recipe.of`."""
        return Recipe.of(spec)

    def settings(self, recipe: VenvRecipe, contents: tuple[Requirements, ...], directory: Path) -> InstallerSettings:
        """The variables for pip, and what counts of its own settings, which it reads itself.

        Raises:
            UserError: a setting would have pip install elsewhere, or cannot be read.
        """
        pip = read_pip_settings(os.environ, site=False)
        for setting in pip.settings:
            if setting.name in ELSEWHERE and (setting.name not in SWITCHES or setting.is_true()):
                raise UserError(
                    f"With pip's setting {setting.name} ({setting.origin}) the environment would lack the packages: "
                    "pip would install them elsewhere, or not at all. Remove it, or leave pip's configuration files "
                    f"out with PIP_CONFIG_FILE={os.devnull}."
                )
        environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        environment.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        environment.setdefault("PIP_NO_INPUT", "1")
        identity = [*_effective(pip.settings), *compiler_identity(environment)]
        for name in _FILES:
            named = pip.get(name)
            for file in named.words() if named is not None else ():
                identity += scan_file(file, directory, os.environ, f"pip's setting {name}")
        addresses = [one.value for one in pip.settings]
        return InstallerSettings(environment, (), tuple(identity), (), credentials_in(addresses))

    def install(self, plan: Plan[InstallerSettings], builder: Builder) -> None:
        """`python -m venv`, its pip, then `pip install` for the build_dependencies and for the dependencies."""
        prefix, python = plan.slot.prefix, plan.interpreter.path
        environment = plan.settings.environment
        doing = f"make a virtual environment with {python}"
        make = [python, "-I", "-m", "venv", "--without-pip", str(prefix)]
        builder.run(doing, make, environment, program="venv", answers=False)
        _install_pip(plan, builder)
        activated = {
            **environment,
            "VIRTUAL_ENV": str(prefix),
            "PATH": os.pathsep.join([str(prefix / "bin"), environment.get("PATH", os.defpath)]),
        }
        assert isinstance(plan.recipe, Recipe)  # noqa: S101 - `recipe` makes no other
        for what, lines in plan.recipe.steps():
            # By a pipe, not by a file: a line may hold a password.
            given = "\n".join(with_absolute_references(lines, plan.directory, os.environ)) + "\n"
            builder.run(
                f"install the {what} of {plan.recipe.origin(plan.directory)}",
                [str(prefix / "bin" / "python"), "-m", "pip", "install", "-r", "/dev/stdin"],
                activated,
                program="pip",
                given=given,
                answers=False,
            )


def _effective(settings: tuple[PipSetting, ...]) -> list[str]:
    """Lines that differ when a setting that changes what pip installs differs; free of credentials."""
    prevailing = {one.name: one for one in settings if one.name not in HARMLESS | FETCHING}
    counting = [one for one in settings if one.name in _ADDED_UP or prevailing.get(one.name) is one]
    counting.sort(key=lambda one: one.name)
    return [f"pip {one.name}={without_credentials(one.value)}" for one in counting]


def _install_pip(plan: Plan[InstallerSettings], builder: Builder) -> None:
    """Give the environment the pip that its Python brings along; one without (Debian's) gets the newest there is."""
    from mlproj_core.environments.program import Failure, run_program
    from mlproj_core.environments.uv_config import configured_at
    from mlproj_core.environments.uv_program import find_uv
    from mlproj_core.environments.uv_settings import uv_settings

    python, environment = plan.interpreter.path, plan.settings.environment
    command = [find_uv(os.environ), "pip", "install", "--quiet", "--color", "never", "--link-mode", "copy"]
    command += ["--python", str(plan.slot.prefix / "bin" / "python")]
    try:
        wheels = run_program([python, "-I", "-c", _BUNDLED_WHEELS], environment=environment, directory=plan.directory,
                             secrets=(), report=lambda line: None)  # fmt: skip
    except Failure:
        wheels = []
    if wheels:
        offline = ["--no-config", "--no-index", "--no-deps", "--offline"]
        plain = {name: value for name, value in environment.items() if not name.startswith("UV_") or "CACHE" in name}
        builder.run("install the pip that this Python brings along", [*command, *offline, *wheels], plain)
        return
    names = ["pip", "setuptools"] if tuple(map(int, plan.interpreter.version.split(".")[:2])) < (3, 12) else ["pip"]
    builder.report(f"{python} brings no pip along (no ensurepip): the newest is taken from the package index")
    settings = uv_settings(os.environ, plan.directory)
    command += ["--project", str(configured_at(settings.config)), *settings.arguments, *names]
    builder.run("install pip", command, settings.environment)
