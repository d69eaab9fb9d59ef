"""The command `mlproj build-image`: a project and its environment in an image."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from mlproj_core.cli.checkout import checked_out
from mlproj_core.cli.printing import remark
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from mlproj_core.containers.dockerfile import Dockerfile
    from mlproj_core.sources import Checkout
    from mlproj_core.spec import Project

__all__ = ["build_image"]

HEADER = """\
# {what}: its code and its environment. Written by mlproj build-image, for any builder:
#
#     docker build -f {file}{arguments} -t IMAGE PROJECT_DIRECTORY
#
# A builder leaves out what PROJECT_DIRECTORY/.dockerignore names, and looks at no .gitignore: name .git there, data and
# results, and this file.

"""


@click.command("build-image")
@click.argument("uri", default=".")
@click.option("--version", "-v", metavar="VERSION", help="Of a Git project: the branch, tag or commit.")
@click.option(
    "--repository",
    "-t",
    metavar="REPOSITORY",
    help="Name of the image without a tag, as in registry.example/us/model.  [default: docker-project]",
)
@click.option("--push", is_flag=True, help="Push it to its registry, and print its name by digest.")
@click.option(
    "--base-image",
    metavar="IMAGE",
    help="What it starts from.  [default: the project's docker_env, else python:X.Y-slim or a micromamba]",
)
@click.option("--env-manager", metavar="NAME", help="virtualenv, uv, conda, or local (the base image's own packages).")
@click.option(
    "--entry-point", "-e", metavar="NAME", default="main", help="For a script with inline metadata: its name."
)
@click.option(
    "--platform", metavar="PLATFORM", help="What to build for, as in linux/amd64.  [default: the engine's own]"
)
@click.option("--network", metavar="NETWORK", help="The network of the build's commands, as for docker build.")
@click.option(
    "--dockerfile",
    metavar="FILE",
    help="Write a Dockerfile for another builder (- for standard output) and build nothing. Needs no engine.",
)
def build_image(
    uri: str,
    version: str | None,
    repository: str | None,
    push: bool,
    base_image: str | None,
    env_manager: str | None,
    entry_point: str,
    platform: str | None,
    network: str | None,
    dockerfile: str | None,
) -> None:
    """Build an image of the project at URI (by default the current directory) with its environment; print its name.

    The tag is made of what is in it: what was built already is not built again. It runs anywhere by
    `mlproj run URI -A image=NAME`, and by backends that run containers. What .dockerignore and .gitignore name is not
    in it.
    """
    if dockerfile is not None and (repository or push or platform or network):
        raise click.UsageError("--dockerfile builds nothing: leave out --repository, --push, --platform and --network.")
    if push and not repository:
        raise click.UsageError("--push needs --repository: which registry is it to go to?")
    if repository is not None:
        from mlproj_core.containers.build import checked_repository

        checked_repository(repository)
    from mlproj_core.spec import load_project

    with checked_out(uri, version, remark) as checkout:
        project = load_project(checkout.directory)
        for warning in project.warnings:
            remark(f"warning: {warning}")
        if dockerfile is not None:
            written, _ = _dockerfile(project, entry_point, env_manager, base_image, ".", None)
            _write(written, dockerfile, project)
            return
        _build(project, checkout, entry_point, env_manager, base_image, repository, push, platform, network)


def _dockerfile(
    project: Project,
    entry_point: str,
    env_manager: str | None,
    base_image: str | None,
    source: str,
    files: Iterable[str] | None,
) -> tuple[Dockerfile, str]:
    """The Dockerfile for a project, and the environment manager that makes its environment."""
    from mlproj_core.containers.dockerfile import project_dockerfile
    from mlproj_core.environments import choose_manager
    from mlproj_core.spec import DockerEnvSpec

    wanted = project.environment_of(entry_point)
    if isinstance(wanted, DockerEnvSpec):
        if env_manager not in (None, "local"):
            raise UserError(
                f"--env-manager {env_manager}: the project has a docker_env, whose image has its environment. Leave "
                "the option out."
            )
        base = base_image or wanted.image
        return project_dockerfile(None, "local", project.directory, base=base, source=source, files=files), "local"
    manager, remarks = choose_manager(wanted, env_manager or os.environ.get("MLPROJ_ENV_MANAGER") or None, here=False)
    for line in filter(None, (*remarks, project.environment_remark(entry_point))):
        remark(line)
    made = project_dockerfile(wanted, manager, project.directory, base=base_image, source=source, files=files)
    return made, manager


def _write(dockerfile: Dockerfile, file: str, project: Project) -> None:
    from pathlib import Path

    arguments = "".join(f" --build-arg {name}" for name in dockerfile.variables)
    what = project.name or project.directory.name
    text = HEADER.format(what=what, file="FILE" if file == "-" else file, arguments=arguments) + dockerfile.text
    if file == "-":
        sys.stdout.write(text)
        return
    Path(file).write_text(text, encoding="utf-8")
    remark(f"wrote {file}; build it with the project's directory as context")


def _build(
    project: Project,
    checkout: Checkout,
    entry_point: str,
    env_manager: str | None,
    base_image: str | None,
    repository: str | None,
    push: bool,
    platform: str | None,
    network: str | None,
) -> None:
    from mlproj_core.containers.auth import auth_for
    from mlproj_core.containers.build import SOURCE, push_image
    from mlproj_core.containers.build import build_image as build
    from mlproj_core.containers.context import context_entries
    from mlproj_core.containers.dockerfile import index_arguments
    from mlproj_core.containers.engine import connect, engine_host, in_contact
    from mlproj_core.containers.image import ensure_image
    from mlproj_core.environments.redaction import credentials_in

    files = [entry.name for entry in context_entries(project.directory, gitignore=True)]
    dockerfile, manager = _dockerfile(project, entry_point, env_manager, base_image, SOURCE, files)
    if absent := [name for name in dockerfile.variables if not os.environ.get(name)]:
        raise UserError(
            f"The project's requirements have {', '.join(f'${{{name}}}' for name in absent)}, and there is no such "
            f"variable: set {' and '.join(absent)}."
        )
    arguments = index_arguments(os.environ, manager, remark)
    secrets = [*credentials_in(arguments.values()), *(os.environ[name] for name in dockerfile.variables)]
    arguments |= {name: os.environ[name] for name in dockerfile.variables}
    host = engine_host(os.environ)
    with connect(host) as client, in_contact(host):
        base = ensure_image(client, dockerfile.base, auth=auth_for(dockerfile.base), platform=platform, report=remark)
        reference = build(
            client, base, project.directory, dockerfile.text, repository=repository, commit=checkout.commit,
            platform=platform, network=network, arguments=arguments, secrets=secrets, report=remark,
        )  # fmt: skip
        if push:
            reference = push_image(client, reference, auth_for(reference), remark)
    click.echo(reference)
