"""Virtual environments: by uv where it can be had, else by venv and pip."""

from __future__ import annotations

import os
import sys

from mlproj_core.launcher.program.programs import ask
from mlproj_core.launcher.program.requirements import Contents, absolute
from mlproj_core.launcher.program.tools import Tools
from mlproj_core.launcher.program.words import Failure, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


class VirtualEnvironment:
    """A virtual environment that is wanted: requirement lines, or a file that `uv sync` makes one of.

    The recipes are `Recipe` and `SyncRecipe` of `mlproj_core.environments.recipe`.
    """

    def __init__(self, tools: Tools, manager: str, recipe: Mapping[str, Any]) -> None:
        self.tools = tools
        self.manager = manager
        self.recipe = recipe
        self.is_synced = "file" in recipe
        self.contents = Contents(tools.code, tools.environ)

    def prefix(self) -> str:
        """Its directory, made if need be."""
        tools, contents = self.tools, self.contents
        contents.file("uv.toml", "pyproject.toml")
        if self.is_synced:
            contents.sync(self.recipe["file"], is_script=self.recipe["is_script"])
        else:
            for _, lines in self.steps():
                contents.read(lines, tools.code, tools.origin)
        python = tools.python(self.recipe.get("python"))
        slot = tools.slot(contents, [self.manager, python["identity"]])
        return slot.fill(lambda prefix: self.make(python, prefix))

    def steps(self) -> Iterator[tuple[str, list[str]]]:
        """What to install one after the other."""
        for name in ("build_dependencies", "dependencies"):
            if self.recipe.get(name):
                yield name, self.recipe[name]

    def make(self, python: Mapping[str, Any], prefix: str) -> None:
        """Make it in its place."""
        odd = self.tools.odd
        uv = None if odd and not self.is_synced else self.tools.uv()
        if odd:
            say(f"pip's setting {odd} has no equal in uv" + ("" if self.is_synced else ": pip makes the environment"))
        with_what = "uv" if uv else "venv and pip"
        say(f"making an environment with {python['implementation']} {python['version']} by {with_what}")
        if uv is not None:
            self.make_by_uv(uv, python, prefix)
        elif self.is_synced:
            origin = self.tools.origin
            raise Failure("environment", f"only uv can make the environment of {origin}: add uv to the image")
        else:
            self.make_by_pip(python, prefix)

    def make_by_uv(self, uv: str, python: Mapping[str, Any], prefix: str) -> None:
        """As `mlproj_core.environments.uv_manager` does; the manager `virtualenv` means that pip is there too."""
        tools, environ, inside = self.tools, self.tools.for_uv, os.path.join(prefix, "bin", "python")
        if self.contents.extra_indexes or environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL"):
            # pip takes the best version that any of its indexes has.
            environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
        command = [uv, "venv", "--quiet", "--no-project", "--python", python["path"], prefix]
        tools.run(f"make a virtual environment with {python['path']}", command, environ)
        if not self.is_synced:
            command = [uv, "pip", "install", "--python", inside]
            if self.manager == "virtualenv":
                brought = ["--no-index", "--no-deps", *python["wheels"]] if python["wheels"] else ["pip"]
                tools.run("install pip", [*command, "--quiet", *brought], environ)
            command += [*tools.options, "-r", "-"]
            for name, lines in self.steps():
                given = absolute(lines, tools.code, environ)
                tools.run(f"install the {name} of {tools.origin}", command, environ, given=given)
            return
        file = os.path.join(tools.code, self.recipe["file"])
        if self.recipe["is_script"]:
            which, frozen, variable = ["--script", file, "--active"], f"{file}.lock", "VIRTUAL_ENV"
        else:
            folder = os.path.dirname(file)
            which, frozen, variable = ["--project", folder], os.path.join(folder, "uv.lock"), "UV_PROJECT_ENVIRONMENT"
        command = [uv, "sync", "--no-editable", "--python", python["path"], *which]
        command += ["--frozen"] if os.path.isfile(frozen) else []
        tools.run(f"install what {tools.origin} asks for", command, {**environ, variable: prefix})

    def make_by_pip(self, python: Mapping[str, Any], prefix: str) -> None:
        """As `mlproj_core.environments.virtualenv_manager` does; by virtualenv where there is no venv."""
        tools, environ = self.tools, self.tools.environ
        path, inside = python["path"], os.path.join(prefix, "bin", "python")
        doing = f"make a virtual environment with {path}"
        try:
            tools.run(doing, [path, "-I", "-m", "venv", "--without-pip", prefix], environ)
        except Failure:
            if not ask([sys.executable, "-I", "-m", "virtualenv", "--version"], environ):
                raise
            tools.run(doing, [sys.executable, "-I", "-m", "virtualenv", "--python", path, prefix], environ)
        if not ask([inside, "-I", "-m", "pip", "--version"], environ):
            self.install_pip(python, inside)
        path = os.pathsep.join([os.path.dirname(inside), environ.get("PATH", os.defpath)])
        activated = {**environ, "VIRTUAL_ENV": prefix, "PATH": path}
        for name, lines in self.steps():
            command = [inside, "-m", "pip", "install", "-r", "/dev/stdin"]
            given = absolute(lines, tools.code, environ)
            tools.run(f"install the {name} of {tools.origin}", command, activated, given=given)

    def install_pip(self, python: Mapping[str, Any], inside: str) -> None:
        """The pip that the interpreter brings along; Debian's brings none, and gets the newest there is."""
        tools = self.tools
        if python["wheels"]:
            command = [inside, "-I", os.path.join(python["wheels"][0], "pip"), "install", "--quiet"]
            command += ["--no-index", "--no-deps", *python["wheels"]]
            environ = {name: value for name, value in tools.environ.items() if not name.startswith("PIP_")}
            tools.run(
                "install the pip that this Python brings along", command, {**environ, "PIP_CONFIG_FILE": os.devnull}
            )
        elif ask([sys.executable, "-I", "-m", "pip", "--version"], tools.environ):
            command = [sys.executable, "-I", "-m", "pip", "--python", inside, "install", "--quiet", "pip"]
            tools.run("install pip", command, tools.environ)
        else:
            raise Failure("environment", "the image has neither uv nor pip (nor ensurepip): add one of them")
