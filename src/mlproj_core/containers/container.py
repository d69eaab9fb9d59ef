"""What a project asks of its container, whoever runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.containers.arguments import DockerArguments
    from mlproj_core.containers.variables import ContainerVariables
    from mlproj_core.request import RunRequest
    from mlproj_core.spec import DockerEnvSpec

__all__ = ["CODE", "OWN", "Container", "wanted_container"]

CODE = "/mlflow/projects/code"
"""Where a project's files are in a container: `MLFLOW_DOCKER_WORKDIR_PATH` of `mlflow/projects/utils.py`."""

OWN = "/mlflow/mlproj"
"""Where a container has what mlproj puts beside the project's files."""


@dataclass(frozen=True)
class Container:
    """What a project asks of its container.

    Attributes:
        image: the image, or the base of the one that is to be built.
        arguments: the caller's arguments for `docker run`, in the words of the Engine API.
        volumes: those of the project, as for `docker run -v`, with absolute paths.
        variables: those that the project and the caller ask for. May be secret.
        docker_args: the caller's arguments for `docker run` as given.
        docker_env: what the MLproject says; None where the image was named by the caller only.
        build: whether an image is to be built that holds the project.
        docker_auth: the caller's credentials for a registry. Secret.
    """

    image: str
    arguments: DockerArguments = field(repr=False)
    volumes: tuple[str, ...]
    variables: ContainerVariables = field(repr=False)
    docker_args: Mapping[str, Any] = field(default_factory=dict, repr=False)
    docker_env: DockerEnvSpec | None = None
    build: bool = False
    docker_auth: Mapping[str, str] | None = field(default=None, repr=False)

    def request(self) -> dict[str, Any]:
        """What is asked for, as a JSON value without secrets: of variables there are the names only."""
        return {
            "image": self.image,
            "build": self.build,
            "volumes": list(self.volumes),
            "variables": sorted({*self.variables.visible, *self.variables.secret}),
            "arguments": self.arguments.to_dict(secrets=False),
        }


def wanted_container(
    request: RunRequest,
    docker_env: DockerEnvSpec | None,
    *,
    directory: str | os.PathLike[str],
    environ: Mapping[str, str],
) -> Container | None:
    """The container of a run; None if neither the project nor the caller asks for one.

    Args:
        request: what the caller asks for.
        docker_env: what the MLproject asks for; None if nothing.
        directory: the project's, where relative paths start.
        environ: the variables that may be copied into the container, and that paths may name.

    Raises:
        UserError: arguments for a container are given, and there is none to be; or they cannot be used.
    """
    image = docker_env.image if docker_env is not None else None
    if not image and not (request.docker_args or {}).get("image"):
        given = [name for name in ("docker_args", "docker_auth", "build_image") if getattr(request, name)]
        if given:
            raise UserError(
                f"{' and '.join(given)} can only be given for a run in a container, and the project has no docker_env. "
                'Name an image to run it in, docker_args={"image": "python:3.11"}, or leave them out.'
            )
        return None
    from mlproj_core.containers.arguments import read_docker_args
    from mlproj_core.containers.auth import read_docker_auth
    from mlproj_core.containers.variables import resolve_environment

    arguments = read_docker_args(request.docker_args, directory=directory, environ=environ)
    read_docker_auth(request.docker_auth)
    return Container(
        image=arguments.image or image or "",
        arguments=arguments,
        volumes=_volumes(docker_env, directory, environ),
        variables=resolve_environment(
            docker_env.environment if docker_env is not None else (), arguments.environment, environ
        ),
        docker_args=dict(request.docker_args or {}),
        docker_env=docker_env,
        build=bool(request.build_image),
        docker_auth=request.docker_auth,
    )


def _volumes(
    docker_env: DockerEnvSpec | None, directory: str | os.PathLike[str], environ: Mapping[str, str]
) -> tuple[str, ...]:
    """The volumes of an MLproject, read as docker reads its `-v`."""
    if docker_env is None or not docker_env.volumes:
        return ()
    from mlproj_core.containers.arguments import read_docker_args

    try:
        asked = {"volume": list(docker_env.volumes)}
        return read_docker_args(asked, directory=directory, environ=environ).volumes
    except UserError as error:
        raise UserError(f"docker_env of the MLproject: {str(error).removeprefix('docker_args: ')}") from None
