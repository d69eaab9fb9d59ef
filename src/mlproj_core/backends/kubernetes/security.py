"""What a container may do: as little as Pod Security's level *restricted* asks for, where a template does not say.

All of it stands with the container and not with the pod, so that a template's other containers stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlproj_core.backends.kubernetes.config import KubernetesConfig

__all__ = ["IDENTITY", "has_identity", "secured"]

IDENTITY = ("runAsUser", "runAsGroup", "runAsNonRoot")
"""What of a security context says as whom a container runs."""


def has_identity(container: Mapping[str, Any], pod: Mapping[str, Any], config: KubernetesConfig) -> bool:
    """Whether a container runs as the user of the settings: a template does not say which, nor do they say the image's.

    Args:
        container: the container, as the template has it.
        pod: the pod's spec, as the template has it.
        config: the caller's settings.
    """
    said = {**(pod.get("securityContext") or {}), **(container.get("securityContext") or {})}
    return config.run_as_user != "image" and not any(name in said for name in IDENTITY)


def secured(
    container: Mapping[str, Any], pod: Mapping[str, Any], config: KubernetesConfig, *, read_only: bool = False
) -> dict[str, Any]:
    """A container's security context. What the template says, of the container or of the pod, stays as it is.

    Args:
        container: the container, as the template has it.
        pod: the pod's spec, as the template has it.
        config: the caller's settings.
        read_only: whether the container needs to write on volumes only.
    """
    context = dict(container.get("securityContext") or {})
    said = {**(pod.get("securityContext") or {}), **context}
    user = config.run_as_user
    if has_identity(container, pod, config):
        context |= {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user}
        if read_only:
            context.setdefault("readOnlyRootFilesystem", True)
    elif said.get("runAsUser") and "runAsNonRoot" not in said:
        context["runAsNonRoot"] = True
    if "seccompProfile" not in said:
        context["seccompProfile"] = {"type": "RuntimeDefault"}
    if not context.get("privileged"):
        added = (context.get("capabilities") or {}).get("add") or []
        if "SYS_ADMIN" not in added and "CAP_SYS_ADMIN" not in added:  # which the API server refuses together
            context.setdefault("allowPrivilegeEscalation", False)
        # An image whose user may be root counts on what root can do to files.
        if user != "image":
            context.setdefault("capabilities", {"drop": ["ALL"]})
    return context
