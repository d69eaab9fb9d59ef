"""Images that hold a project: built by an engine, found again by their content, pushed to a registry."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlproj_core.containers.container import CODE
from mlproj_core.containers.context import MTIME, Entry, add_entries, content_digest, context_entries
from mlproj_core.containers.sdk import require_docker
from mlproj_core.containers.trouble import image_error
from mlproj_core.errors import ImageError, UserError
from mlproj_core.status import Reason, ReasonCode

if TYPE_CHECKING:
    from docker import APIClient

    from mlproj_core.containers.image import Image
    from mlproj_core.report import Report

__all__ = ["REPOSITORY", "build_image", "build_project_image", "push_image"]

REPOSITORY: Final = "docker-project"
"""Where MLflow puts the images that it builds, if nobody says otherwise (`_get_docker_image_uri`)."""

SOURCE: Final = "code"
"""The project's directory in a build's context."""

_DOCKERFILE: Final = "Dockerfile"
_TAG_DIGITS: Final = 16
_FORMAT: Final = "mlproj image, format 1"
_LAST_LINES: Final = 20
_NOISE: Final = re.compile(
    r"^\s*(--->|Removing intermediate container|Successfully (built|tagged)|\[Warning\] One or more)"
)
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def build_project_image(
    client: APIClient,
    base: Image,
    directory: Path,
    *,
    repository: str | None = None,
    commit: str | None = None,
    platform: str | None = None,
    report: Report,
) -> str:
    """An image of a project's code on a base image, as MLflow builds it; one that was built already is not built again.

    What `.dockerignore` names is not in it, nor what Git ignores (`context_entries`).

    Args:
        client: the engine.
        base: the base image, of `ensure_image`.
        directory: the project's directory.
        repository: name of the image without a tag; None for MLflow's.
        commit: the commit of the project's files: its first 7 digits become a second tag, which MLflow would give.
        platform: what to build for; None for the engine's own.
        report: is given lines of progress.

    Returns:
        `REPOSITORY:HASH`, with a hash of the base image and the project's files.

    Raises:
        UserError: a file cannot be read, or the repository is no name of one.
        ImageError: the build failed; its reason has the builder's last lines.
    """
    text = f"FROM {base.reference}\nCOPY {SOURCE}/ {CODE}/\nWORKDIR {CODE}\n"
    return build_image(
        client, base, directory, text, repository=repository, commit=commit, platform=platform, report=report
    )


def build_image(
    client: APIClient,
    base: Image,
    directory: Path,
    dockerfile: str,
    *,
    repository: str | None = None,
    commit: str | None = None,
    platform: str | None = None,
    network: str | None = None,
    arguments: Mapping[str, str] | None = None,
    secrets: Sequence[str] = (),
    report: Report,
) -> str:
    """An image of a Dockerfile that takes a project's files from `code/`; as `build_project_image`.

    Args:
        client: the engine; see `build_project_image` for what is not said here.
        base: the base image.
        directory: the project's directory.
        dockerfile: the text of the Dockerfile.
        repository: name of the image without a tag.
        commit: the commit of the project's files.
        platform: what to build for.
        network: the network of the commands that the build runs, as for `docker build --network`.
        arguments: build arguments. They say how to get something rather than what: they do not count for the hash.
        secrets: what is masked in what the builder prints.
        report: is given lines of progress.
    """
    from docker.errors import APIError, ImageNotFound

    repository = checked_repository(repository or REPOSITORY)
    entries = context_entries(directory, gitignore=True)
    files = content_digest(entries)
    identity = "\n".join((_FORMAT, base.id, platform or "", dockerfile, files))
    reference = f"{repository}:{hashlib.sha256(identity.encode()).hexdigest()[:_TAG_DIGITS]}"
    try:
        found = client.inspect_image(reference)["Id"]
        report(f"the image {reference} is there already")
    except ImageNotFound:
        report(f"building the image {reference}")
        labels = {"mlproj.files": files, "mlproj.base": base.digest or base.id}
        with tempfile.TemporaryFile() as context:
            _write_context(context, entries, dockerfile)
            try:
                events = client.build(
                    fileobj=context,
                    custom_context=True,
                    dockerfile=_DOCKERFILE,
                    tag=reference,
                    decode=True,
                    rm=True,
                    forcerm=True,
                    labels=labels,
                    platform=platform,
                    network_mode=network,
                    buildargs=dict(arguments or {}),
                )
                _follow(events, f"Building the image {reference}", secrets, report)
            except APIError as error:
                said = str(error.explanation or error)
                raise image_error(f"Building the image {reference}", said, status=error.status_code) from error
        found = client.inspect_image(reference)["Id"]
    if commit:
        client.tag(found, repository, commit[:7])
    return reference


def push_image(client: APIClient, reference: str, auth: Mapping[str, Any] | None, report: Report) -> str:
    """Push an image, and return it pinned: `repository@sha256:…`.

    Args:
        client: the engine.
        reference: the image, with its tag.
        auth: credentials for its registry, of `auth_for`; None for none.
        report: is given a few lines of progress.

    Raises:
        ImageError: the registry refused it, or is out of reach.
    """
    from docker.errors import APIError
    from docker.utils import parse_repository_tag

    from mlproj_core.containers.progress import LayerProgress

    repository, tag = parse_repository_tag(reference)
    doing = f"Pushing the image {reference!r}"
    progress = LayerProgress("pushing", reference, report)
    timeout, client.timeout = client.timeout, None  # a registry may think for long between two of its answers
    try:
        progress.follow(
            client.push(repository, tag or "latest", stream=True, decode=True, auth_config=dict(auth or {}))
        )
    except APIError as error:
        raise image_error(doing, str(error.explanation or error), status=error.status_code) from error
    finally:
        client.timeout = timeout
    if progress.trouble is not None:
        raise image_error(doing, progress.trouble)
    if progress.digest is None:
        raise image_error(doing, "the engine did not say under which digest the registry has it")
    pinned = f"{repository}@{progress.digest}"
    progress.done(pinned)
    return pinned


def checked_repository(name: str) -> str:
    """A repository's name, without tag and digest.

    Raises:
        UserError: it has one, or is no name.
    """
    require_docker()
    from docker.utils import match_tag, parse_repository_tag

    if parse_repository_tag(name)[1] is not None:
        raise UserError(f"{name!r} names a tag or a digest, and the tag is made of the image's content: leave it out.")
    if not match_tag(name):
        raise UserError(
            f"{name!r} is no name of a repository. Write it in lower case, as in registry.example:5000/us/model."
        )
    return name


def _write_context(file: Any, entries: Iterable[Entry], dockerfile: str) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        content = dockerfile.encode()
        info = tarfile.TarInfo(_DOCKERFILE)
        info.size, info.mtime = len(content), MTIME
        tar.addfile(info, io.BytesIO(content))
        top = tarfile.TarInfo(SOURCE)
        top.type, top.mode, top.mtime = tarfile.DIRTYPE, 0o755, MTIME
        tar.addfile(top)
        add_entries(tar, entries, f"{SOURCE}/")
    file.seek(0)


def _follow(events: Iterable[Mapping[str, Any]], doing: str, secrets: Sequence[str], report: Report) -> None:
    """Report what the builder says line by line; raise if it says that it failed."""
    from mlproj_core.environments.redaction import redact

    lines: deque[str] = deque(maxlen=_LAST_LINES)
    trouble: str | None = None
    rest = ""
    for event in events:
        if "error" in event or "errorDetail" in event:
            detail = event.get("errorDetail") or {}
            trouble = redact(str(detail.get("message") or event.get("error")), secrets)
        *whole, rest = (rest + str(event.get("stream") or "")).split("\n")
        for raw in whole:
            line = redact(_ESCAPES.sub("", raw.rstrip().rpartition("\r")[2]).rstrip(), secrets)
            if line and not _NOISE.match(line):
                lines.append(line)
                report(line)
    if trouble is not None:
        raise _failure(doing, trouble, tuple(lines))


def _failure(doing: str, trouble: str, lines: tuple[str, ...]) -> ImageError:
    """The error for a build that failed: a command of its own, or the builder."""
    if "returned a non-zero code" not in trouble:
        return image_error(doing, trouble, output=lines)
    from mlproj_core.environments.builder import is_passing

    command = trouble.partition(" returned a non-zero code")[0].removeprefix("The command '").rstrip("'")
    code = trouble.rpartition(": ")[2]
    said = next((line for line in reversed(lines) if not line.startswith("Step ")), "it said nothing")
    message = f"{doing} failed: a command ended with status {code}: {said} (the command: {command})"
    reason = Reason(ReasonCode.IMAGE, message, retryable=is_passing("\n".join(lines)), output=lines)
    return ImageError(message, reason=reason)
