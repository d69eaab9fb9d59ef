"""Where mlproj keeps things on this host: disposable caches, and the state of runs.

Two variables move them: MLPROJ_CACHE_DIR and MLPROJ_STATE_DIR. By default they follow the platform's
convention (on Linux the XDG base directory specification).
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir", "state_dir"]


def cache_dir() -> Path:
    """Directory of caches (Git mirrors, environments): may be deleted whenever nothing runs."""
    if own := os.environ.get("MLPROJ_CACHE_DIR"):
        return Path(own).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("mlproj")


def state_dir() -> Path:
    """Directory of local runs: their claims, outputs and ends."""
    if own := os.environ.get("MLPROJ_STATE_DIR"):
        return Path(own).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("mlproj")
