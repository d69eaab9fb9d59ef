"""The docker SDK, which comes with an extra of its own."""

from __future__ import annotations

from mlproj_core.errors import UserError

__all__ = ["require_docker"]


def require_docker() -> None:
    """See to it that `docker` can be imported. Called by whoever is about to import it.

    Raises:
        UserError: the extra `docker` is not installed.
    """
    try:
        import docker  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Containers need the docker SDK, which is not installed here: pip install 'mlproj[docker]'"
        ) from error
