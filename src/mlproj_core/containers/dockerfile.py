"""A Dockerfile for a project and its environment, which any builder takes.

It has two stages. The first makes the environment, from nothing but the files that say what is in it, so that a change
of code does not make it anew. The second takes the environment and the code. What the first was told to get at a
package index, such as a password in its address, is in no layer and in no history of the image that comes out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlproj_core.containers.container import CODE
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.environments.conda_recipe import CondaRecipe
    from mlproj_core.environments.recipe import AnyRecipe, EnvironmentSpec, Recipe, SyncRecipe
    from mlproj_core.environments.requirements import Requirements
    from mlproj_core.report import Report

__all__ = ["CONDA_BASE", "ENVIRONMENT", "Dockerfile", "index_arguments", "project_dockerfile", "python_base"]

ENVIRONMENT: Final = "/opt/mlproj/env"
"""Where the environment is in an image."""

CONDA_BASE: Final = "mambaorg/micromamba:2"
"""The base image for a conda environment: Debian's slim one with micromamba."""

_UV: Final = "/opt/mlproj/uv"
_STAGE: Final = "environment"
_LINES: Final = ".mlproj-requirements.txt"
_VARIABLE: Final = re.compile(r"\$\{([A-Z0-9_]+)\}")
_VERSION: Final = re.compile(r"\d+\.\d+(?:\.\d+)?")
_ARCHIVES: Final = (".whl", ".zip", ".gz", ".bz2", ".xz", ".tgz")
_LOCAL: Final = re.compile(r"[/.~]|file:")
_PIP_ARGUMENTS: Final = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_FIND_LINKS")
_UV_ARGUMENTS: Final = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INSECURE_HOST", "UV_FIND_LINKS", "UV_INDEX_STRATEGY")


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile.

    Attributes:
        base: the image that it starts from.
        text: its text.
        variables: names of the build arguments without which the environment cannot be made: the `${NAME}` of
            requirement lines.
    """

    base: str
    text: str
    variables: tuple[str, ...] = ()


def project_dockerfile(
    spec: EnvironmentSpec,
    manager: str,
    directory: Path,
    *,
    base: str | None = None,
    source: str = ".",
    files: Iterable[str] | None = None,
) -> Dockerfile:
    """The Dockerfile for a project.

    Args:
        spec: the environment that the project asks for.
        manager: name of the environment manager: "virtualenv", "uv", "conda" or "local", which makes none.
        directory: the project's directory.
        base: the base image; None for a slim image of the project's Python, or micromamba's for conda.
        source: the project's directory in the context of the build.
        files: names of the files that will be in the context; None not to check.

    Raises:
        UserError: the environment cannot be made in an image: it needs files outside the project, or a login is written
            into a requirement line.
    """
    from mlproj_core.environments import environment_manager
    from mlproj_core.environments.conda_recipe import CondaRecipe
    from mlproj_core.environments.recipe import SyncRecipe

    recipe = environment_manager(manager).recipe(spec)
    custom = base is not None
    base = base or (CONDA_BASE if manager == "conda" else python_base(getattr(recipe, "python", None)))
    writer = _Writer(directory, source, frozenset(files) if files is not None else None)
    if isinstance(recipe, CondaRecipe):
        writer.conda(recipe)
    elif isinstance(recipe, SyncRecipe):
        writer.sync(recipe)
    elif recipe is not None and any(True for _ in recipe.steps()):
        writer.virtual_environment(recipe, with_uv=manager == "uv", check_python=custom)
    return Dockerfile(base, writer.text(base), tuple(sorted(writer.variables)))


def python_base(python: str | None) -> str:
    """The stock image of a version of Python, as a project writes it; None for the running Python's.

    Of a range such as ">=3.10,<3.13" it is the first version that is named.
    """
    import sys

    found = _VERSION.search(python or "")
    version = found[0] if found else ".".join(map(str, sys.version_info[:2]))
    return f"python:{version}-slim"


def index_arguments(environ: Mapping[str, str], manager: str, report: Report) -> dict[str, str]:
    """This host's settings for where packages are, as build arguments for the first stage; they may hold a password.

    Args:
        environ: the caller's environment.
        manager: name of the environment manager.
        report: is told of settings that name a place on this host, which a build does not see.
    """
    from mlproj_core.environments.pip_settings import read_pip_settings

    settings = read_pip_settings(environ)
    values = {}
    for name in ("index-url", "extra-index-url", "trusted-host", "find-links"):
        setting = settings.get(name)
        words = setting.words() if setting is not None else []
        values[name] = " ".join(word for word in words if not _LOCAL.match(word))
        if setting is not None and any(_LOCAL.match(word) for word in words):
            report(f"warning: pip's {name} ({setting.origin}) names a place on this host, which the build does not see")
    pip = {
        "PIP_INDEX_URL": values["index-url"],
        "PIP_EXTRA_INDEX_URL": values["extra-index-url"],
        "PIP_TRUSTED_HOST": values["trusted-host"],
        "PIP_FIND_LINKS": values["find-links"],
    }
    uv = {
        "UV_DEFAULT_INDEX": environ.get("UV_DEFAULT_INDEX") or values["index-url"],
        "UV_INDEX": environ.get("UV_INDEX") or values["extra-index-url"],
        "UV_INSECURE_HOST": environ.get("UV_INSECURE_HOST") or values["trusted-host"],
        "UV_FIND_LINKS": values["find-links"],
        # As outside of a container: an extra index of pip's is asked for the best version too.
        "UV_INDEX_STRATEGY": environ.get("UV_INDEX_STRATEGY")
        or ("unsafe-best-match" if values["extra-index-url"] and not environ.get("UV_INDEX") else ""),
    }
    both = {**pip, **uv} if manager == "uv" else pip  # it is pip that fetches uv
    return {name: value for name, value in both.items() if value}


class _Writer:
    """Writes the two stages."""

    def __init__(self, directory: Path, source: str, files: frozenset[str] | None) -> None:
        self.directory = directory.absolute()
        self.source = source.rstrip("/")
        self.files = files
        self.variables: set[str] = set()
        self.arguments: tuple[str, ...] = ()
        self.arguments_at = 0
        self.lines: list[str] = []
        self.final: list[str] = []

    def text(self, base: str) -> str:
        """The whole of it."""
        code = [f"COPY {self.source}/ {CODE}/", f"WORKDIR {CODE}"]
        if not self.lines:
            return "\n".join([f"FROM {base}", *code]) + "\n"
        arguments = [f"ARG {name}" for name in (*self.arguments, *sorted(self.variables))]
        made, installed = self.lines[: self.arguments_at], self.lines[self.arguments_at :]
        first = [f"FROM {base} AS {_STAGE}", "USER root", f"WORKDIR {CODE}", *made, *arguments, *installed]
        copy = f"COPY --from={_STAGE} {ENVIRONMENT}/ {ENVIRONMENT}/"
        return "\n".join([*first, "", f"FROM {base}", copy, *self.final, *code]) + "\n"

    # -- kinds of environments

    def virtual_environment(self, recipe: Recipe, *, with_uv: bool, check_python: bool) -> None:
        """Requirement lines, installed in MLflow's order by pip or uv."""
        origin = recipe.origin(self.directory)
        self._refuse_credentials(recipe, origin)
        if check_python and recipe.python and _VERSION.fullmatch(recipe.python):
            self.lines.append(f"RUN {_python_check(recipe.python)}")
        if with_uv:
            self._uv()
        else:
            self.lines.append(f"RUN python3 -m venv {ENVIRONMENT}")
            self._activate({"VIRTUAL_ENV": ENVIRONMENT})
            self._arguments(*_PIP_ARGUMENTS)
        self._files(recipe.contents(self.directory, {}), origin)
        install = f"{_UV}/bin/uv pip install --no-cache" if with_uv else "python -m pip install --no-cache-dir"
        for _, lines in recipe.steps():
            self._install(install, lines, CODE)

    def sync(self, recipe: SyncRecipe) -> None:
        """A lock file, by `uv sync`."""
        origin = recipe.origin(self.directory)
        contents = recipe.contents(self.directory, {})
        self._refuse_credentials(recipe, origin, contents)
        self._uv()
        file = self.directory / recipe.file
        lock = file.with_name(f"{file.name}.lock") if recipe.is_script else file.with_name("uv.lock")
        wanted = [file, lock, file.with_name(".python-version"), file.with_name("uv.toml")]
        self._files(contents, origin, [path for path in wanted if path.is_file()])
        frozen = " --frozen" if lock.is_file() else ""
        if recipe.is_script:
            which = f"--script {shlex.quote(f'{CODE}/{recipe.file}')} --active"
        else:
            which = f"--project {shlex.quote(str(Path(CODE, recipe.file).parent))}"
        self.lines.append(
            f"RUN UV_PROJECT_ENVIRONMENT={ENVIRONMENT} {_UV}/bin/uv sync --no-cache --no-editable {which}{frozen}"
        )

    def conda(self, recipe: CondaRecipe) -> None:
        """Conda's packages by micromamba, and then those of the pip section by the environment's own pip.

        micromamba would look for the files that its pip section names in a temporary directory.
        """
        from mlproj_core.environments.conda_channels import without_conda_credentials
        from mlproj_core.environments.conda_platform import host_platform
        from mlproj_core.environments.requirements import read_requirements
        from mlproj_core.spec.conda_file import selected

        origin, platform = recipe.origin(self.directory), host_platform()
        lines = [one.text for one in recipe.requirements if selected(one.selector, platform)]
        contents = (read_requirements(lines, recipe.folder(self.directory), {}, origin),)
        self._refuse_credentials(recipe, origin, contents)
        named = (*recipe.channels, *(one.text for one in recipe.packages), *(one.url for one in recipe.explicit))
        if any(without_conda_credentials(text) != text for text in named):
            raise UserError(
                f"{origin} has a login or a token in the address of a channel, and would carry it into the image. "
                "Leave it out, and name an image that has access, or the environment, with --base-image."
            )
        create = f"RUN micromamba create --yes --prefix {ENVIRONMENT}"
        if recipe.locked:
            self._copy([self.directory / recipe.file], origin)
            self.lines.append(f"{create} --file {shlex.quote(f'{CODE}/{recipe.file}')}")
        else:
            specs = [one.text for one in recipe.packages if selected(one.selector, platform)]
            if lines and not recipe.lists_pip:
                specs.append("pip")  # as conda does
            channels = [f"--channel {shlex.quote(channel)}" for channel in recipe.channels or ("defaults",)]
            self.lines.append(" ".join([f"{create} --override-channels", *channels, *map(shlex.quote, specs)]))
        self._activate({"CONDA_PREFIX": ENVIRONMENT, **dict(recipe.variables)})
        self._arguments(*_PIP_ARGUMENTS)
        if lines:
            self._files(contents, origin)
            self._install("python -m pip install --no-cache-dir", lines, str(recipe.folder(Path(CODE))))

    # -- lines

    def _arguments(self, *names: str) -> None:
        """Take build arguments from here on: what stands before them is not made anew when they change."""
        self.arguments, self.arguments_at = names, len(self.lines)

    def _uv(self) -> None:
        """A virtual environment by uv, which the base image's pip fetches."""
        self._arguments(*_UV_ARGUMENTS, *_PIP_ARGUMENTS)
        self.lines.append("ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1")
        self.lines.append(f"RUN python3 -m venv {_UV} && {_UV}/bin/python -m pip install --no-cache-dir uv")
        self.lines.append(f"RUN {_UV}/bin/uv venv --python python3 {ENVIRONMENT}")
        self._activate({"VIRTUAL_ENV": ENVIRONMENT})

    def _activate(self, variables: Mapping[str, str]) -> None:
        pairs = [f"{name}={_quoted(value)}" for name, value in variables.items()]
        line = " ".join(["ENV", *pairs, f"PATH={ENVIRONMENT}/bin:$PATH"])
        self.lines.append(line)
        self.final.append(line)

    def _install(self, command: str, lines: Iterable[str], folder: str) -> None:
        """Install requirement lines, from a file in the folder that relative references in them start at."""
        each = [part for line in lines for part in line.splitlines()]
        self._look_for_variables(each)
        words = " \\\n    ".join(map(shlex.quote, each))
        go = f"cd {shlex.quote(folder)} && " if folder != CODE else ""
        self.lines.append(
            f"RUN {go}printf '%s\\n' \\\n    {words} \\\n    > {_LINES} && {command} -r {_LINES} && rm {_LINES}"
        )

    def _files(self, contents: Sequence[Requirements], origin: str, also: Iterable[Path] = ()) -> None:
        self._copy([*also, *(path for one in contents for path in one.paths)], origin)
        for path in (path for one in contents for path in one.paths):
            if path.is_file() and not path.name.endswith(_ARCHIVES):  # a file of requirement lines
                self._look_for_variables(path.read_text("utf-8", "replace").splitlines())

    def _copy(self, paths: Iterable[Path], origin: str) -> None:
        """Copy what the environment is made of to where it will be."""
        for path in dict.fromkeys(Path(os.path.normpath(path)) for path in paths):
            if not path.exists():
                continue
            if not path.is_relative_to(self.directory):
                raise UserError(
                    f"{origin} refers to {path}, which is outside the project, and so not in the context of a build. "
                    "Put it into the project, or make an image that has it and name that with --base-image."
                )
            name = path.relative_to(self.directory).as_posix()
            if self.files is not None and name not in self.files and name != ".":
                raise UserError(
                    f"{origin} refers to {name}, which .dockerignore or .gitignore leaves out of the build: let it in, "
                    f"as with a line !{name} in .dockerignore, or track it with git."
                )
            slash = "/" if path.is_dir() else ""
            self.lines.append(f"COPY {json.dumps([f'{self.source}/{name}{slash}', f'{CODE}/{name}{slash}'])}")

    # -- secrets

    def _look_for_variables(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.variables.update(_VARIABLE.findall(line))

    def _refuse_credentials(
        self, recipe: AnyRecipe, origin: str, contents: Iterable[Requirements] | None = None
    ) -> None:
        """Refuse a login that is written out: the lines become a part of the image."""
        from mlproj_core.environments.redaction import credentials_in

        read = recipe.contents(self.directory, {}) if contents is None else contents
        texts = [*getattr(recipe, "build_dependencies", ()), *getattr(recipe, "dependencies", ())]
        found = [*credentials_in(texts), *(secret for one in read for secret in one.secrets)]
        if any("${" not in secret for secret in found):
            raise UserError(
                f"{origin} has a login in an address, and would carry it into the image. Write a variable in its place "
                "(https://${TOKEN}@…), which the build is given and the image does not keep; or put the address into "
                "pip's settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL), which are handed on in the same way."
            )


def _quoted(value: str) -> str:
    """A value for ENV, which would expand a variable in it."""
    escaped = re.sub(r'[\\"$]', r"\\\g<0>", value)
    return escaped if re.fullmatch(r"[\w./-]+", value) else f'"{escaped}"'


def _python_check(version: str) -> str:
    """A command that fails where the base image has another Python than the project wants."""
    parts = version.count(".") + 1
    trouble = f"'The project wants Python {version}, and the base image has ' + found"
    found = f"found = '.'.join(map(str, sys.version_info[:{parts}]))"
    return f"python3 -c {shlex.quote(f'import sys; {found}; sys.exit({trouble} if found != {version!r} else 0)')}"
