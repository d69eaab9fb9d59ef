"""Interpreters, and what they say of themselves."""

from __future__ import annotations

import json
import re

from mlproj_core.launcher.program.programs import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


FACTS = r"""
import glob, json, os, sys, sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (ValueError, OSError):
    libc = ""
wheels = []
try:
    import ensurepip
    places = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), sysconfig.get_config_var("WHEEL_PKG_DIR")]
    for place in filter(None, places + ["/usr/share/python-wheels"]):
        pip = sorted(glob.glob(os.path.join(place, "pip-*.whl")))
        if pip and not wheels:
            setuptools = sorted(glob.glob(os.path.join(place, "setuptools-*.whl")))
            wheels = pip[-1:] + (setuptools[-1:] if sys.version_info < (3, 12) else [])
except (ImportError, TypeError):  # Debian leaves it out, or a directory without a module
    pass
path = os.path.realpath(sys.executable)
base = os.path.realpath(sys.base_prefix)
if sys.prefix != sys.base_prefix and not path.startswith(base + os.sep):
    path = os.path.realpath(os.path.join(base, "bin", "python%d.%d" % sys.version_info[:2]))
found = os.stat(path)
print(json.dumps({
    "path": path, "version": "%d.%d.%d" % sys.version_info[:3], "final": sys.version_info[3] == "final",
    "implementation": sys.implementation.name, "wheels": wheels,
    "identity": [path, sys.version, EXTENSION_SUFFIXES[0], os.uname()[4], libc, found.st_size, int(found.st_mtime)],
}))
"""
"""Prints what a Python is, and the wheels of pip and setuptools that it brings along."""

CLAUSE = re.compile(r"^(~=|==|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?$")

BARE_VERSION = re.compile(r"^\d+(\.\d+){0,2}$")


def facts(python: str, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What an interpreter says of itself; None if it does not run."""
    answer = ask([python, "-I", "-c", FACTS], environ)
    return json.loads(answer) if answer else None


def fits(request: str, python: Mapping[str, Any]) -> bool:
    """Whether an interpreter is what a version ("3", "3.10", "3.10.13") or a range (">=3.9,<3.12") asks for."""
    have = tuple(map(int, python["version"].split(".")))
    if BARE_VERSION.match(request):
        want = tuple(map(int, request.split(".")))
        return have[: len(want)] == want and python["implementation"] == "cpython"
    return bool(python["final"]) and all(within(clause.strip(), have) for clause in request.split(","))


def within(clause: str, have: tuple[int, ...]) -> bool:
    """Whether a version is within a clause as `>=3.9`."""
    match = CLAUSE.match(clause)
    if match is None:
        return False
    operator, digits, star = match.groups()
    want = tuple(map(int, digits.split(".")))
    padded = want + (0,) * (len(have) - len(want))
    return {
        "==": have[: len(want)] == want if star else have == padded,
        "!=": have[: len(want)] != want if star else have != padded,
        ">=": have >= padded,
        "<=": have <= padded,
        ">": have > padded,
        "<": have < padded,
        "~=": have >= padded and have[: len(want) - 1] == want[:-1],
    }[operator]
