"""Where runs live: each backend is a few verbs on names, found by its entry point in `mlproj.backends`."""

from __future__ import annotations

# Spelled out, since a supervisor, which imports this too, is spared a module by it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlproj_core.backends.backend import Backend, choose_backend, load_backend

__all__ = ["Backend", "choose_backend", "load_backend"]


def __getattr__(name: str) -> Any:
    # Lazily, because a run's supervisor imports this package too and must stay small.
    if name in __all__:
        from mlproj_core.backends import backend

        return getattr(backend, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
