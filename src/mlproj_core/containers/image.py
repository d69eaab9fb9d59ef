"""An image that an engine has, or pulls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlproj_core.containers.trouble import image_error
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from docker import APIClient

    from mlproj_core.report import Report

__all__ = ["PULL_POLICIES", "Image", "ensure_image"]

PULL_POLICIES: Final = ("missing", "always", "never")
"""As for `docker run --pull`."""


@dataclass(frozen=True)
class Image:
    """An image that an engine has.

    Attributes:
        reference: as it was asked for.
        id: the engine's own name of it, `sha256:…`: what a container is to be made of, whatever the tag is moved to.
        digest: `repository@sha256:…`, by which its registry has it; None for one that was never pulled or pushed.
    """

    reference: str
    id: str
    digest: str | None


def ensure_image(
    client: APIClient,
    image: str,
    *,
    auth: Mapping[str, Any] | None = None,
    platform: str | None = None,
    pull: str = "missing",
    report: Report,
) -> Image:
    """An image as `docker run` takes it: the one that is there, else pulled now.

    Args:
        client: the engine.
        image: name, with tag or digest if need be, or an image's id.
        auth: credentials for its registry, of `auth_for`; None for none.
        platform: such as "linux/arm64"; None for the engine's own, or whatever is there.
        pull: "missing" pulls what is not there, "always" asks the registry first, "never" pulls nothing.
        report: is given a few lines of progress.

    Raises:
        UserError: there is no such policy.
        ImageError: it cannot be had; its reason says whether a retry can help.
    """
    from docker.errors import APIError
    from docker.utils import parse_repository_tag

    if pull not in PULL_POLICIES:
        raise UserError(f"pull must be one of {', '.join(PULL_POLICIES)}; got {pull!r}")
    if pull != "always" and (found := _find(client, image, platform)) is not None:
        return found
    doing = f"Pulling the image {image!r}"
    if pull == "never":
        raise image_error(f"Finding the image {image!r} without pulling it", "no such image on the engine")
    from mlproj_core.containers.progress import LayerProgress

    repository, tag = parse_repository_tag(image)
    progress = LayerProgress("pulling", image, report)
    try:
        events = client.pull(
            repository, tag=tag or "latest", stream=True, decode=True, auth_config=dict(auth or {}), platform=platform
        )
        progress.follow(events)
    except APIError as error:
        raise image_error(doing, str(error.explanation or error), status=error.status_code) from error
    if progress.trouble is not None:
        raise image_error(doing, progress.trouble)
    pulled = _find(client, image, platform)
    if pulled is None:  # an image that is for one platform only is pulled whatever is asked for
        raise image_error(doing, f"what was pulled does not match the specified platform {platform}")
    progress.done(f"{pulled.digest or pulled.id}")
    return pulled


def _find(client: APIClient, image: str, platform: str | None) -> Image | None:
    """The image if the engine has it, for the platform that is asked for."""
    from docker.errors import APIError, ImageNotFound, NotFound

    try:
        value = client.inspect_image(image)
    except (ImageNotFound, NotFound):
        return None
    except APIError as error:
        raise image_error(
            f"Finding the image {image!r}", str(error.explanation or error), status=error.status_code
        ) from error
    if platform is not None and not _is_for(value, platform):
        return None
    return Image(image, value["Id"], _digest(image, value.get("RepoDigests") or ()))


def _is_for(value: Mapping[str, Any], platform: str) -> bool:
    """Whether an image is for a platform `os[/architecture[/variant]]`, as far as it is named."""
    has = [value.get("Os") or "", value.get("Architecture") or "", value.get("Variant") or ""]
    wanted = platform.lower().split("/")
    if len(wanted) == 1 and wanted[0] != has[0]:  # an architecture alone is usual too
        return wanted[0] == has[1]
    return all(not has_it or has_it == want for has_it, want in zip(has, wanted, strict=False))


def _digest(image: str, digests: Any) -> str | None:
    """Of an image's digests the one in the repository that was asked for, else any."""
    from docker.utils import parse_repository_tag

    repository = parse_repository_tag(parse_repository_tag(image)[0])[0]
    return next((digest for digest in digests if digest.partition("@")[0] == repository), next(iter(digests), None))
