"""The image of a run's container, when it has to be pulled or built: by the docker SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mlproj_core.claim import Claim
from mlproj_core.containers.auth import auth_for, log_in, read_docker_auth
from mlproj_core.containers.engine import connect
from mlproj_core.containers.image import ensure_image
from mlproj_core.report import Report

__all__ = ["image_for"]


def image_for(claim: Claim, docker_auth: Mapping[str, str] | None, report: Report) -> str:
    """The id or name of a run's image, which the engine has now.

    Args:
        claim: the run's.
        docker_auth: the caller's credentials; they are tried first, as MLflow does.
        report: is given lines of progress.

    Raises:
        ImageError: it cannot be had.
        ContactLost: the engine cannot be reached.
    """
    asked = claim.request["container"]
    reference, platform = asked["image"], asked["arguments"]["platform"]
    with connect(asked["engine"]) as client:
        login = read_docker_auth(docker_auth)
        if login is not None:
            log_in(client, login)
        image = ensure_image(client, reference, auth=auth_for(reference, login), platform=platform, report=report)
        if not asked["build"]:
            return image.id
        from mlproj_core.containers.build import build_project_image

        return build_project_image(
            client,
            image,
            Path(claim.request["directory"]),
            repository=_repository(claim.request["project"]),
            commit=claim.request["commit"],
            platform=platform,
            report=report,
        )


def _repository(project: str | None) -> str | None:
    """The name of a project's images: the project's, as under MLflow, in letters that such a name may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", (project or "").lower()).strip("-._") or None
