"""Conda's environments: by a program of conda's that the image has, else by py-rattler."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import tempfile

from mlproj_core.launcher.program.programs import content, write
from mlproj_core.launcher.program.requirements import Contents, absolute
from mlproj_core.launcher.program.tools import Tools
from mlproj_core.launcher.program.words import (
    BUILD_IMAGE,
    PASSING,
    USERINFO,
    Failure,
    redact,
    say,
    without_credentials,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ACTIVATION = ".mlproj-activate.sh"
"""Name of the file, in an environment's directory, that a shell sources before a program runs in it."""
DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
ALIAS = "https://conda.anaconda.org"


class CondaEnvironment:
    """A conda environment that is wanted, as by `mlproj_core.environments.conda_manager`.

    Conda's configuration files are not read: the file says all, with CONDA_CHANNEL_ALIAS and CONDA_CHANNEL_PRIORITY.
    """

    def __init__(self, tools: Tools, wanted: Mapping[str, Any]) -> None:
        self.tools = tools
        self.installer: str = wanted["installer"]
        self.recipe: Mapping[str, Any] = wanted["recipe"]
        self.folder = os.path.dirname(os.path.join(tools.code, self.recipe["file"]))
        machine = os.uname().machine
        self.platform = "linux-" + {"x86_64": "64", "i686": "32"}.get(machine, machine)
        recipe, origin = self.recipe, tools.origin
        if recipe["platforms"] and not {self.platform, "noarch"} & set(recipe["platforms"]):
            known = ", ".join(recipe["platforms"])
            raise Failure("user_input", f"{origin} is for {known} only, and this image's platform is {self.platform}")
        self.lines = [one["text"] for one in recipe["requirements"] if selected(one["selector"], self.platform)]
        self.specs = [
            (one["text"], one["where"]) for one in recipe["packages"] if selected(one["selector"], self.platform)
        ]
        self.explicit: list[Any] | None = None
        if recipe["locked"] == "conda-lock":
            locked = wanted["locked"].get(self.platform)
            if locked is None:
                words = f"{origin} lists no packages for {self.platform}: make it anew, `conda-lock -p {self.platform}`"
                raise Failure("user_input", words)
            self.explicit, self.lines = locked["conda"], locked["pip"]
        elif recipe["locked"]:
            self.explicit = [(one["url"], one["md5"], one["sha256"]) for one in recipe["explicit"]]
        elif self.lines and not recipe["lists_pip"]:
            self.specs.append(("pip", origin))  # as conda does

    def prefix(self) -> str:
        """Its directory, made if need be."""
        contents = Contents(self.tools.code, self.tools.environ)
        contents.read(self.lines, self.folder, self.tools.origin)
        try:
            libc = os.confstr("CS_GNU_LIBC_VERSION")
        except (ValueError, OSError):
            libc = ""
        written = json.dumps([self.recipe["channels"], self.recipe["variables"], self.specs, self.explicit])
        more = ["conda", self.platform, libc, without_credentials(written)]
        return self.tools.slot(contents, more).fill(self.make)

    def make(self, prefix: str) -> None:
        """Make it in its place."""
        environ = self.tools.environ
        program = environ.get("CONDA_EXE") or environ.get("MAMBA_EXE")
        for name in ("micromamba", "mamba", "conda"):
            program = program or shutil.which(name, path=environ.get("PATH"))
        say(f"making a conda environment of {self.tools.origin} by {program or 'py-rattler'}")
        if program:
            self.make_by_program(program, prefix)
        else:
            self.make_by_rattler(prefix)
        if self.recipe["variables"]:
            os.makedirs(os.path.join(prefix, "conda-meta"), exist_ok=True)
            state = json.dumps({"version": 1, "env_vars": dict(self.recipe["variables"])})
            write(os.path.join(prefix, "conda-meta", "state"), state)
        write(os.path.join(prefix, ACTIVATION), activation(prefix))
        if self.lines:
            self.install_lines(prefix)
            write(os.path.join(prefix, ACTIVATION), activation(prefix))

    def make_by_program(self, program: str, prefix: str) -> None:
        """By a conda, mamba or micromamba."""
        tools = self.tools
        if self.explicit is None:
            listed: dict[str, Any] = {"name": "mlproj", "dependencies": [text for text, _ in self.specs]}
            if self.recipe["channels"]:
                listed["channels"] = self.recipe["channels"]
            text, suffix = json.dumps(listed), ".yml"  # which YAML is a superset of
        else:
            digests = [f"#{md5}" if md5 else f"#sha256:{sha256}" if sha256 else "" for _, md5, sha256 in self.explicit]
            urls = [f"{package[0]}{digest}" for package, digest in zip(self.explicit, digests)]
            text, suffix = "".join(f"{line}\n" for line in ["@EXPLICIT", *urls]), ".txt"
        is_micromamba = os.path.basename(program).startswith("micromamba")
        create = ["create", "--yes"] if self.explicit is not None or is_micromamba else ["env", "create"]
        variables = {"CONDA_ALWAYS_YES": "true", "MAMBA_ALWAYS_YES": "true", "MAMBA_ROOT_PREFIX": tools.root}
        environ = {**variables, "CONDA_PKGS_DIRS": os.path.join(tools.root, "pkgs"), **tools.environ}
        with tempfile.NamedTemporaryFile("w", suffix=suffix) as file:  # which nobody else may read
            file.write(text)
            file.flush()
            command = [program, *create, "--prefix", prefix, "--file", file.name]
            tools.run(f"make the environment of {tools.origin}", command, environ)

    def make_by_rattler(self, prefix: str) -> None:
        """By py-rattler, in a process of its own, whose program the plan has (`environments.conda_installer`)."""
        tools, accesses = self.tools, []

        def reached(url: str) -> str:
            """The address free of credentials; how it is reached is noted."""
            clean, without_login = without_credentials(url).replace("/t//", "/"), USERINFO.sub("", url)
            if clean != url:
                user, _, password = (USERINFO.findall(url) or [""])[0].partition(":")
                login = (user, password) if user else None
                accesses.append((clean, [without_login] if without_login != clean else [], login))
            return clean

        def located(place: str) -> str:
            place = os.path.expandvars(place)
            if "://" in place:
                return place
            return "file://" + os.path.normpath(os.path.join(self.folder, os.path.expanduser(place)))

        def address(name: str) -> str:
            if not name.startswith((".", "/", "~", "$")) and "://" not in name:
                name = f"{tools.environ.get('CONDA_CHANNEL_ALIAS', ALIAS).rstrip('/')}/{name}"
            return reached(located(name).rstrip("/"))

        python = tools.python(">=3.10")
        library = tools.tool("py-rattler>=0.28", python)
        if not library:
            why = "the image has no conda, mamba or micromamba, and py-rattler could not be installed"
            raise Failure("environment", f"{why}. {BUILD_IMAGE}", retryable=True)
        names = [name for name in self.recipe["channels"] if name != "nodefaults"] or ["defaults"]
        channels = [(one, DEFAULTS) if one == "defaults" else (None, [address(one)]) for one in names]
        explicit = self.explicit and [(reached(located(url)), md5, sha256) for url, md5, sha256 in self.explicit]
        request = {
            "prefix": prefix,
            "cache": os.path.join(tools.root, "conda"),
            "platform": self.platform,
            "channels": channels if explicit is None else [],
            "specs": self.specs,
            "constraints": [],
            "priority": tools.environ.get("CONDA_CHANNEL_PRIORITY", "flexible"),
            "explicit": explicit,
            "accesses": accesses,
        }
        doing, environ = f"make the environment of {tools.origin}", {**tools.for_uv, "PYTHONPATH": library}
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write(self.installer)
            file.flush()
            given = json.dumps(request)
            answer = tools.run(doing, [python["path"], "-s", file.name], environ, given=given, answers=True)
        error = json.loads(answer.splitlines()[-1]).get("error")
        if error:
            words = f"py-rattler could not {doing}: {redact(error['message'])}"
            code = "user_input" if error["kind"] == "specification" else "environment"
            raise Failure(code, words, retryable=error["kind"] == "install" and bool(PASSING.search(words)))

    def install_lines(self, prefix: str) -> None:
        """The part of pip: by uv in the activated environment, else by the pip that is there."""
        tools, inside = self.tools, os.path.join(prefix, "bin", "python")
        if not os.path.exists(inside):
            raise Failure("user_input", f"{tools.origin} lists packages for pip, but no python among those of conda")
        uv = tools.uv()
        if uv:
            names = [re.match(r"\s*([A-Za-z0-9][\w.-]*)", one) for one in self.lines]
            upgraded = [one for match in names if match for one in ("--upgrade-package", match[1])]
            command = [uv, "pip", "install", "--python", inside, "--break-system-packages", *tools.options, "-r", "-"]
            command += ["--no-deps"] if self.recipe["locked"] == "conda-lock" else upgraded
        else:
            command = [inside, "-m", "pip", "install", "-U", "-r", "/dev/stdin"]
        shell = shutil.which("bash", path=tools.environ.get("PATH"))
        if shell:
            command = [shell, "-c", '. "$0"; exec "$@"', os.path.join(prefix, ACTIVATION), *command]
        environ = tools.for_uv if uv else tools.environ
        given = absolute(self.lines, self.folder, environ)
        tools.run(f"install the pip part of {tools.origin}", command, environ, given=given)


def activation(prefix: str) -> str:
    """What `conda activate` does, for a shell to source: variables first, then the scripts of packages."""
    place, variables = shlex.quote(prefix), {}
    for path in sorted(glob.glob(os.path.join(glob.escape(prefix), "etc", "conda", "env_vars.d", "*.json"))):
        with contextlib.suppress(ValueError):
            variables.update(json.loads(content(path)))
    with contextlib.suppress(ValueError):
        variables.update(json.loads(content(os.path.join(prefix, "conda-meta", "state"))).get("env_vars") or {})
    lines = [f"export CONDA_PREFIX={place} CONDA_DEFAULT_ENV={place} CONDA_SHLVL=1"]
    lines.append(f'export PATH={shlex.quote(os.path.join(prefix, "bin"))}"${{PATH:+:$PATH}}"')
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()
              if name.isidentifier() and value != "***unset***"]  # fmt: skip
    scripts = sorted(glob.glob(os.path.join(glob.escape(prefix), "etc", "conda", "activate.d", "*.sh")))
    return "".join(f"{line}\n" for line in [*lines, *(f". {shlex.quote(script)}" for script in scripts)])


def selected(selector: str | None, platform: str) -> bool:
    """Whether a selector takes a platform in: names joined by `or`, `and` and `not` (see `spec.conda_file`)."""
    if selector is None:
        return True
    system, _, processor = platform.partition("-")
    names = {system, platform, platform.replace("-", ""), "unix", processor, {"64": "x86_64"}.get(processor, "")}
    return any(
        all((word[4:] if word.startswith("not ") else word in names) != word.startswith("not ")
            for word in part.split(" and "))
        for part in " ".join(selector.split()).split(" or ")
    )  # fmt: skip
