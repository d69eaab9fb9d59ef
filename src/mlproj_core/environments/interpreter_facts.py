"""What an interpreter says of itself, as one JSON object on standard output.

Run as a script by interpreters that mlproj finds on the host, so that Python 2.7 and up must understand this file;
imported by mlproj for the interpreter that runs it. Nothing slow is imported: `platform` and `sysconfig` are.
"""

import json
import os
import sys

__all__ = ["interpreter_facts"]


def interpreter_facts():  # type: ignore[no-untyped-def]  # Python 2.7 reads this too
    """The fields of `interpreters.Interpreter` for the interpreter that runs this."""
    path = os.path.realpath(sys.executable)
    base = os.path.realpath(getattr(sys, "base_prefix", sys.prefix))
    if sys.prefix != getattr(sys, "base_prefix", sys.prefix) and not path.startswith(base + os.sep):
        # A virtual environment made of copies instead of links: what matters is what it was made from.
        path = os.path.realpath(os.path.join(base, "bin", "python%d.%d" % sys.version_info[:2]))  # noqa: PTH118, UP031
    try:
        from importlib.machinery import EXTENSION_SUFFIXES

        abi = EXTENSION_SUFFIXES[0]
    except ImportError:
        abi = ""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError, AttributeError):
        libc = ""
    return {
        "path": path,
        "version": "%d.%d.%d" % sys.version_info[:3],  # noqa: UP031
        "prerelease": sys.version_info[3] != "final",
        "implementation": getattr(getattr(sys, "implementation", None), "name", "cpython"),
        "abi": abi,
        "machine": os.uname()[4],
        "libc": libc,
    }


if __name__ == "__main__":
    print(json.dumps(interpreter_facts()))  # type: ignore[no-untyped-call]  # noqa: T201
