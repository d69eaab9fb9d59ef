"""What becomes of every option of `pip install` under uv: translated, harmless or refused.

The options are those of pip 20 to 26. uv reads none of pip's settings, so that each must be accounted for: one that
changes what is installed must never be lost in silence.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CHOOSING", "ELSEWHERE", "FETCHING", "HARMLESS", "REFUSED", "SWITCHES", "TRANSLATED"]

FETCHING: Final = frozenset(
    {
        "cert", "client-cert", "keyring-provider", "no-proxy-env", "proxy", "retries", "timeout", "trusted-host",
    }
)  # fmt: skip
"""How packages are reached, and whom to trust: not what is installed."""

CHOOSING: Final = frozenset(
    {
        "build-constraint", "config-settings", "constraint", "no-binary", "no-build-isolation", "no-deps",
        "only-binary", "pre", "require-hashes", "upgrade", "uploaded-prior-to",
    }
)  # fmt: skip
"""Which versions are taken, and how packages are built."""

TRANSLATED: Final = FETCHING | CHOOSING | {"extra-index-url", "find-links", "index-url", "no-index", "use-feature"}
"""`uv_settings` gives these to uv in its own terms."""

HARMLESS: Final = frozenset(
    {
        # How pip talks, asks and logs.
        "debug", "disable-pip-version-check", "exists-action", "help", "log", "no-color", "no-input",
        "no-python-version-warning", "progress-bar", "quiet", "report", "root-user-action", "verbose", "version",
        "no-warn-conflicts", "warn-conflicts", "no-warn-script-location", "warn-script-location",
        # Where pip keeps things; uv has places of its own.
        "cache-dir", "no-cache-dir", "no-cache", "no-clean", "src", "refresh-package", "resume-retries", "config-file",
        # Without meaning in a new virtual environment.
        "break-system-packages", "compile", "no-compile", "force-reinstall", "ignore-installed", "isolated",
        "no-user", "require-virtualenv", "upgrade-strategy",
        # What uv does anyway.
        "check-build-dependencies", "no-require-hashes", "use-pep517",
    }
)  # fmt: skip
"""These change nothing in what is installed."""

REFUSED: Final = {
    "abi": "uv builds for the interpreter at hand",
    "all-releases": "uv has no such choice for single packages; list a pre-release in the requirement itself",
    "build-option": "uv has no such option",
    "dry-run": "an environment cannot be built without installing",
    "editable": "list it under dependencies in python_env.yaml",
    "global-option": "uv has no such option",
    "group": "list the packages under dependencies in python_env.yaml",
    "ignore-requires-python": "uv never ignores it",
    "implementation": "uv builds for the interpreter at hand",
    "install-option": "uv has no such option",
    "no-use-pep517": "uv always builds by PEP 517",
    "only-deps": "uv has no such option",
    "only-final": "uv has no such choice for single packages",
    "platform": "uv builds for the platform at hand",
    "prefer-binary": "uv takes the newest version, as a wheel or not; only-binary can be translated",
    "prefix": "packages go into the environment's own directory",
    "python": "the interpreter is the one that python_env.yaml names",
    "python-version": "the interpreter is the one that python_env.yaml names",
    "requirement": "list it under dependencies in python_env.yaml",
    "requirements-from-script": "list the packages under dependencies in python_env.yaml",
    "root": "packages go into the environment's own directory",
    "target": "packages go into the environment's own directory",
    "use-deprecated": "uv has one resolver, and it is not the legacy one",
    "user": "packages go into the environment's own directory",
}
"""These change what is installed, and uv has no equal: name and why."""

SWITCHES: Final = frozenset(
    {"dry-run", "ignore-requires-python", "no-use-pep517", "only-deps", "prefer-binary", "user"}
)
"""Those refused only when they are switched on."""

ELSEWHERE: Final = frozenset({"dry-run", "prefix", "python", "root", "target", "user"})
"""With these pip itself installs somewhere else, or nothing."""
