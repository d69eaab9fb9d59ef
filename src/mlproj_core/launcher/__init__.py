"""What runs a project where nothing of mlproj is installed: one file, read as text and sent there."""

from __future__ import annotations

from mlproj_core.launcher.plan import Plan

__all__ = ["Plan", "source"]


def source() -> str:
    """The text of the launcher, to be run as `python3 -I launcher.py PLAN` by any Python from 3.8 on."""
    from importlib.resources import files

    return files(__name__).joinpath("launcher.py").read_text(encoding="utf-8")
