"""What environments are made with: interpreters, uv, pip, and how they are set up."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import uuid

from mlproj_core.launcher.program.programs import ask, run
from mlproj_core.launcher.program.pythons import facts, fits
from mlproj_core.launcher.program.requirements import Contents
from mlproj_core.launcher.program.settings import CHOOSING, MISLEADING, WITHOUT_EFFECT, for_uv, pip_settings
from mlproj_core.launcher.program.slot import Slot
from mlproj_core.launcher.program.words import (
    BUILD_IMAGE,
    OUT_OF_REACH,
    PASSING,
    Ended,
    Failure,
    learn_secrets,
    say,
    secrets,
    without_credentials,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


class Tools:
    """What an environment is made with, for a project.

    Attributes:
        code: the project's directory.
        origin: what asks for the environment, for people.
        root: where environments and caches are kept.
        environ: variables for pip and others.
        for_uv: variables for uv, which say what pip's settings say.
        options: options for uv, of the same meaning.
        odd: a setting of pip that changes what is installed and has no equal in uv; None without one.
    """

    def __init__(self, code: str, origin: str, place: str, cache: str | None) -> None:
        self.code = code
        self.origin = origin
        self.place = os.path.join(place, "environment")
        self.root = self.place
        os.makedirs(self.root, exist_ok=True)
        if cache is not None:
            try:
                os.makedirs(os.path.join(cache, "envs"), exist_ok=True)
                with tempfile.TemporaryFile(dir=cache):
                    self.root = cache
            except OSError as error:
                say(f"warning: the cache cannot be written by user {os.getuid()}, and is left aside: {error}")
        self.environ = {name: value for name, value in os.environ.items() if not MISLEADING.match(name)}
        for name, folder in (("UV_CACHE_DIR", "uv"), ("PIP_CACHE_DIR", "pip"), ("UV_PYTHON_INSTALL_DIR", "python")):
            self.environ.setdefault(name, os.path.join(self.root, folder))
        quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
        self.environ.update(quiet, UV_NO_PROGRESS="1")
        self.pip = pip_settings(self.environ)
        self.for_uv = dict(self.environ)
        self.options, self.odd = for_uv(self.pip, self.for_uv)
        learn_secrets([*self.environ.values(), *self.pip.values()])
        secrets.extend(
            value for name, value in self.environ.items()
            if name.startswith("UV_") and name.endswith(("PASSWORD", "TOKEN")) and len(value) > 3
        )  # fmt: skip
        self._uv: str | None = None

    def slot(self, contents: Contents, more: Sequence[Any]) -> Slot:
        """The place of the environment. One that points at the project's files is nobody else's."""
        variables = [
            f"{name}={without_credentials(value)}" for name, value in sorted(self.for_uv.items())
            if CHOOSING.match(name) and not WITHOUT_EFFECT.search(name)
        ]  # fmt: skip
        settings = [
            f"{name}={without_credentials(value)}" for name, value in sorted(self.pip.items())
            if not WITHOUT_EFFECT.search(name.upper().replace("-", "_"))
        ]  # fmt: skip
        whole = contents.digest_of_code() if contents.local else ""
        key = json.dumps(["mlproj launcher, format 1", *more, contents.lines, whole, variables, settings])
        root = self.place if contents.editable else self.root
        return Slot(root, hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32])

    def run(self, doing: str, command: Sequence[str], environ: Mapping[str, str], **more: Any) -> str:
        """Run an installer in the project's directory.

        Raises:
            Failure: it failed; with its own words.
        """
        try:
            return run(command, environ, self.code, **more)
        except Ended as ended:
            words = str(ended)
            message = f"{os.path.basename(command[0])} could not {doing}. Its last words:\n{words}"
            if OUT_OF_REACH.search(words):
                message += f"\n{BUILD_IMAGE}"
            raise Failure("environment", message, retryable=bool(PASSING.search(words))) from None

    def python(self, request: str | None) -> dict[str, Any]:
        """The interpreter that is asked for: one of the image's, else one that uv has or downloads."""
        found: dict[str, dict[str, Any]] = {}
        minor = ".".join((request or "").split(".")[:2])
        places = dict.fromkeys([*self.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/local/bin", "/usr/bin"])
        candidates = [sys.executable]
        for folder in places:
            candidates += [os.path.join(folder, name) for name in (f"python{minor}", "python3", "python")]
            candidates += sorted(glob.glob(os.path.join(folder, "python3.[0-9]*")), reverse=True)
        for path in dict.fromkeys(os.path.realpath(one) for one in candidates if os.access(one, os.X_OK)):
            known = facts(path, self.environ)
            if known is None:
                continue
            if request is None or fits(request, known):
                return known
            found[known["path"]] = known
        words = "  uv, which could download it, cannot be had here"
        uv = self.uv()
        if uv is not None:
            find = [uv, "python", "find", "--no-project", "--no-python-downloads", request or ""]
            path = ask(find, self.for_uv)
            if not path:
                say(f"the image has no Python {request}: asking uv to download it")
                try:
                    run([uv, "python", "install", request or ""], self.for_uv, self.code)
                    path = ask(find, self.for_uv)
                except Ended as ended:
                    words = str(ended)
            known = facts(path, self.environ) if path else None
            if known is not None:
                return known
        versions = ", ".join(f"{one['version']} ({path})" for path, one in found.items()) or "none"
        raise Failure(
            "environment",
            f"{self.origin} asks for Python {request}, which the image does not have and which could not be had from "
            f"uv:\n{words}\nFound in the image: {versions}. Name an image that has it, or ask for less: a version such "
            f'as "{minor}" takes any release of it.',
            retryable=bool(PASSING.search(words)),
        )

    def uv(self) -> str | None:
        """The program uv: on PATH, else in the package of that name, else from the package index; None without it."""
        if self._uv is None:
            found = shutil.which("uv", path=self.environ.get("PATH"))
            if found is None:
                command = [sys.executable, "-I", "-c", "import uv; print(uv.find_uv_bin())"]
                found = ask(command, self.environ) or self.tool("uv", facts(sys.executable, self.environ) or {})
            found = os.path.join(found, "bin", "uv") if os.path.isdir(found) else found
            self._uv = found if found and ask([found, "--version"], self.environ) else ""
            if not self._uv:
                why = f"does not run here ({found})" if found else "cannot be had here"
                say(f"uv {why}: what is possible without it is done by venv and pip")
        return self._uv or None

    def tool(self, requirement: str, python: Mapping[str, Any]) -> str:
        """The directory that a package is installed into for the launcher's own use; empty if it cannot be had."""
        if requirement != "uv" and self.uv():
            command = [self._uv or "", "pip", "install", "--quiet", "--python", python["path"]]
            environ = self.for_uv
        else:
            pip = self.pip_of(python)
            if pip is None:
                return ""
            own = self.environ.get("UV_DEFAULT_INDEX") or self.environ.get("UV_INDEX_URL")
            environ = {**({"PIP_INDEX_URL": own} if own else {}), **self.environ}
            command = [*pip, "install", "--quiet", "--retries", "1", "--timeout", "15", "--no-warn-script-location"]
        key = hashlib.sha256(json.dumps([requirement, python["identity"]]).encode()).hexdigest()[:16]
        final = os.path.join(self.root, "tools", f"{re.split('[^a-z-]', requirement)[0]}-{key}")
        if not os.path.isdir(final):
            say(f"installing {requirement}, which is not in the image")
            draft = f"{final}.{uuid.uuid4().hex[:12]}"
            try:
                run([*command, "--target", draft, requirement], environ, self.place)
                os.rename(draft, final)
            except Ended:
                return ""
            except OSError:
                if not os.path.isdir(final):  # another one has put it there meanwhile
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return final

    def pip_of(self, python: Mapping[str, Any]) -> list[str] | None:
        """The command of a pip for an interpreter: the one that it brings along, else the launcher's own."""
        if python.get("wheels"):
            return [python["path"], "-I", os.path.join(python["wheels"][0], "pip")]
        if ask([sys.executable, "-I", "-m", "pip", "--version"], self.environ):
            is_own = os.path.realpath(sys.executable) == python["path"]
            return [sys.executable, "-I", "-m", "pip", *([] if is_own else ["--python", python["path"]])]
        return None
