"""What a project asks of its container, whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.request import RunRequest
    from mlproj_core.spec import DockerEnvSpec

__all__ = ["CODE", "Container", "wanted_container"]

CODE = "/mlflow/projects/code"
"""Where a project's files are in a container: `MLFLOW_DOCKER_WORKDIR_PATH` of `mlflow/projects/utils.py`."""


@dataclass(frozen=True)
class Container:
    """What a project asks of its container.

    Attributes:
        image: the image, or the base of the one that is to be built.
        docker_env: what the MLproject says; None where the image was named by the caller only.
        docker_args: the caller's arguments for `docker run`, as given.
        build: whether an image is to be built that holds the project.
        docker_auth: the caller's credentials for a registry. Secret.
    """

    image: str
    docker_env: DockerEnvSpec | None = None
    docker_args: Mapping[str, Any] = field(default_factory=dict, repr=False)  # `-e` may hold a secret
    build: bool = False
    docker_auth: Mapping[str, str] | None = field(default=None, repr=False)


def wanted_container(request: RunRequest, docker_env: DockerEnvSpec | None) -> Container | None:
    """The container of a run; None if neither the project nor the caller asks for one.

    Args:
        request: what the caller asks for.
        docker_env: what the MLproject asks for; None if nothing.

    Raises:
        UserError: arguments for a container are given, and there is none to be.
    """
    arguments = dict(request.docker_args or {})
    image = arguments.get("image") or (docker_env.image if docker_env is not None else None)
    if image is None:
        given = [name for name in ("docker_args", "docker_auth", "build_image") if getattr(request, name)]
        if given:
            raise UserError(
                f"{' and '.join(given)} can only be given for a run in a container, and the project has no docker_env. "
                'Name an image to run it in, docker_args={"image": "python:3.11"}, or leave them out.'
            )
        return None
    if not isinstance(image, str):
        raise UserError(f"docker_args: image must be the name of an image; got {image!r}")
    return Container(image, docker_env, arguments, bool(request.build_image), request.docker_auth)
