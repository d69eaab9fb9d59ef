"""The local backend: a supervised process on this host."""

from __future__ import annotations

# Spelled out, since a supervisor, which imports this too, is spared a module by it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlproj_core.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]


def __getattr__(name: str) -> Any:
    # Lazily, because a run's supervisor imports this package too and must stay small.
    if name in __all__:
        from mlproj_core.backends.local.backend import LocalBackend

        return LocalBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
