"""Environments to run projects in: managers behind one door, and a cache of what they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlproj_core.environments.environment import Environment, EnvironmentInfo, still_there
from mlproj_core.environments.manager import (
    EnvironmentManager,
    build_request,
    choose_manager,
    environment_manager,
)

if TYPE_CHECKING:
    from mlproj_core.environments.cache import list_environments, prune_environments
    from mlproj_core.environments.portable import portable_environment

__all__ = [
    "Environment",
    "EnvironmentInfo",
    "EnvironmentManager",
    "build_request",
    "choose_manager",
    "environment_manager",
    "list_environments",
    "portable_environment",
    "prune_environments",
    "still_there",
]


def __getattr__(name: str) -> Any:
    """What most runs need not, loaded when first asked for: the functions over the cache, and what launchers need."""
    if name in ("list_environments", "prune_environments"):
        from mlproj_core.environments import cache

        return getattr(cache, name)
    if name == "portable_environment":
        from mlproj_core.environments.portable import portable_environment

        return portable_environment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
