"""The project: its code, its environment and data made ready, and its entry point's command."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile

from mlproj_core.launcher.program.archive import unpack
from mlproj_core.launcher.program.conda import ACTIVATION, CondaEnvironment
from mlproj_core.launcher.program.data import fetch
from mlproj_core.launcher.program.tools import Tools
from mlproj_core.launcher.program.venvs import VirtualEnvironment
from mlproj_core.launcher.program.words import Failure, bare, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn


def launch(plan: Mapping[str, Any]) -> NoReturn:
    """Carry out a plan."""
    if plan["version"] != 1:
        raise Failure("lost", f"the plan has version {plan['version']}, and this launcher knows version 1 only")
    place = os.path.abspath(plan["work"])
    environ = surroundings(place)
    os.environ.clear()
    os.environ.update(environ)
    code = plan["code"].get("directory")
    if code is None:
        code = os.path.join(place, "code")
        unpack(plan["code"]["archive"], code)
    elif not os.path.isdir(code):
        raise Failure("source", f"the image has no directory {code}, where the project's code should be")
    activation = None
    wanted = plan.get("environment")
    if wanted is None or wanted["manager"] == "local":
        say("environment: local, that of the image")
    else:
        try:
            environ, activation = environment(wanted, Tools(code, origin(wanted), place, plan.get("cache")))
        except OSError as error:
            raise Failure("environment", f"the environment could not be made: {error}", retryable=True) from None
    for download in plan.get("downloads", ()):
        try:
            fetch(download["parameter"], download["uri"], download["path"], environ)
        except OSError as error:
            words = f"parameter {download['parameter']!r}: {bare(download['uri'])} could not be fetched: {error}"
            raise Failure("data", words, retryable=True) from None
    become(plan["command"], code, environ, activation)


def origin(wanted: Mapping[str, Any]) -> str:
    """What asks for an environment, for people."""
    return os.path.basename(wanted["recipe"].get("path") or "") or "the project"


def environment(wanted: Mapping[str, Any], tools: Tools) -> tuple[dict[str, str], str | None]:
    """The environment, made if need be: its variables, and a file to be sourced where it takes that."""
    if wanted["manager"] == "conda":
        prefix = CondaEnvironment(tools, wanted).prefix()
        added, activation = {}, os.path.join(prefix, ACTIVATION)
    else:
        prefix = VirtualEnvironment(tools, wanted["manager"], wanted["recipe"]).prefix()
        added, activation = {"VIRTUAL_ENV": prefix}, None
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
    path = os.pathsep.join([os.path.join(prefix, "bin"), variables.get("PATH", os.defpath)])
    return {**variables, **added, "PATH": path}, activation


def surroundings(place: str) -> dict[str, str]:
    """The variables, with a home and a place for temporary files that can be written.

    A container may run as a user that nobody has heard of, and on a file system that cannot be written.
    """
    environ = dict(os.environ)
    try:
        os.makedirs(place, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise Failure(
            "environment",
            f"the work directory cannot be written by user {os.getuid()}: {error}. Mount a volume there (emptyDir).",
        ) from None
    for name, usual in (("HOME", ""), ("TMPDIR", "/tmp")):
        chosen = environ.get(name) or usual
        if not chosen or chosen == "/" or not os.access(chosen, os.W_OK | os.X_OK):
            environ[name] = os.path.join(place, name.lower())
            os.makedirs(environ[name], mode=0o700, exist_ok=True)
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # getpass.getuser() is asked by many libraries, and needs one of these then
        if not any(environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            environ["LOGNAME"] = environ["USER"] = f"uid-{os.getuid()}"
    return environ


def become(command: str, directory: str, environ: Mapping[str, str], activation: str | None) -> NoReturn:
    """Turn this process into the entry point's command: by bash, else by sh, else by itself if it needs no shell."""
    path = environ.get("PATH", os.defpath)
    shell = shutil.which("bash", path=path) or shutil.which("sh", path=path)
    if shell is not None and activation is not None:
        sourced = (
            '__mlproj_shell=$1 __mlproj_command=$2; shift 2; . "$0"; exec "$__mlproj_shell" -c "$__mlproj_command"'
        )
        argv = [shell, "-c", sourced, activation, shell, command]
    elif shell is not None:
        argv = [shell, "-c", command]
    elif activation is None and not set(command) & set("$`\\;&|<>(){}*?[]~#!\n"):
        argv = shlex.split(command)
    else:
        raise Failure("image", "the image has neither bash nor sh, and the entry point's command needs a shell")
    sys.stdout.flush()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # A handler goes with this program, but what is ignored stays ignored.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(directory)
        os.execvpe(argv[0], argv, dict(environ))
    except OSError as error:
        raise Failure("project_code", f"{argv[0]!r} cannot be run in {directory}: {error.strerror}") from None
