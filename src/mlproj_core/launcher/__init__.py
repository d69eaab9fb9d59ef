"""What runs a project where nothing of mlproj is installed, a pod for one: one file, sent there as text.

Its course: unpack the code, make the environment, fetch data, become the entry point.
"""

from __future__ import annotations

from typing import Final

from mlproj_core.launcher.plan import Plan

__all__ = ["Plan", "source"]

_MODULES: Final = (
    "words", "programs", "archive", "slot", "pythons", "settings", "requirements", "tools", "venvs", "conda", "data",
    "project", "process",
)  # fmt: skip
"""Those of `program/`, each after those that it imports from. No two of them give a name two meanings."""


def source() -> str:
    """The text of the launcher, to be run as `python3 -I launcher.py PLAN` by any Python from 3.8 on.

    PLAN is a file with the JSON of a `Plan`. The modules stand one behind the other, without what they import from each
    other.
    """
    import re
    from importlib.resources import files

    own = re.compile(r"^from (?:__future__|mlproj_core\.\S+) import (?:\([^)]*\)|[^\n(]*)\n", re.MULTILINE)
    folder = files("mlproj_core.launcher.program")
    texts = [own.sub("", folder.joinpath(f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    return "\n\n".join(["from __future__ import annotations\n", *texts])
