"""The Job of an attempt, as the API server is given it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from mlproj_core.backends.kubernetes.parts import CACHE, RESULT, JobParts, stock_image, work_directory
from mlproj_core.backends.kubernetes.pod import LAUNCH, pod_spec
from mlproj_core.backends.kubernetes.secret import SecretContent, build_secret, check_variables
from mlproj_core.errors import UserError

__all__ = [
    "CACHE",
    "CONTAINER_NAME",
    "LAUNCH",
    "RESULT",
    "TTL",
    "JobParts",
    "SecretContent",
    "build_job",
    "build_secret",
    "stock_image",
    "work_directory",
]

TTL = 7 * 24 * 3600
"""Seconds. Long enough that a weekend's runs are still there on Monday, with their logs, and an untracked run has no
other memory. Short enough that they fill neither the cluster's store nor a namespace's quota of Jobs."""

CONTAINER_NAME = "mlproj/container"
"""The annotation of Job and pod that names the project's container."""
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""The same for `kubectl logs` and `kubectl exec`, of the pod."""

_STAY = {
    # A pod that is moved to another node is a failed attempt.
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
MOST_ANNOTATIONS = 256 << 10
"""Bytes: `TotalAnnotationSizeLimitB` of Kubernetes."""


def build_job(parts: JobParts) -> dict[str, Any]:
    """The Job, suspended. Its pods refer to a Secret of the same name, which comes later.

    Raises:
        UserError: the template does not go with the project, a variable cannot have its name, or the annotations are
            too large.
    """
    check_variables((*parts.variables, *parts.secrets))
    job: dict[str, Any] = copy.deepcopy(dict(parts.template.job))
    spec = job.get("spec") or {}
    template = spec.get("template") or {}
    pod = pod_spec(parts)
    name = pod["containers"][parts.template.index(parts.project_name)]["name"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **_metadata(job.get("metadata") or {}, parts, {**parts.annotations, CONTAINER_NAME: name}),
            "name": parts.name,
            "namespace": parts.namespace,
        },
        "spec": {
            **spec,
            "suspend": True,
            "parallelism": 1,
            "completions": 1,
            "completionMode": "NonIndexed",
            # Whether to try again is up to whoever asked for the run: a second pod would be a run of its own.
            "backoffLimit": 0,
            # A Job that has failed has then no pod that still runs, and one that is resumed has no twin.
            "podReplacementPolicy": "Failed",
            **_lifetime(spec, parts),
            "template": {
                "metadata": _metadata(
                    template.get("metadata") or {}, parts, {CONTAINER_NAME: name, DEFAULT_CONTAINER: name}, _STAY
                ),
                "spec": pod,
            },
        },
    }


def _metadata(
    given: Mapping[str, Any], parts: JobParts, ours: Mapping[str, str], defaults: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The template's, the settings' on top of it, mlproj's own on top of these."""
    annotations = {
        **(defaults or {}),
        **(given.get("annotations") or {}),
        **parts.config.annotations,
        **parts.pod_annotations,
        **ours,
    }
    size = sum(len(name.encode()) + len(value.encode()) for name, value in annotations.items())
    if size > MOST_ANNOTATIONS:
        raise UserError(
            f"The Job's annotations have {size >> 10} KiB, and Kubernetes takes {MOST_ANNOTATIONS >> 10}: what is "
            "asked for stands there, with its parameters. Give large values by a file that the project reads."
        )
    labels = {**(given.get("labels") or {}), **parts.config.labels, **parts.labels}
    return {**given, "labels": labels, "annotations": annotations}


def _lifetime(spec: Mapping[str, Any], parts: JobParts) -> dict[str, Any]:
    lifetime: dict[str, Any] = {}
    limits = [spec["activeDeadlineSeconds"]] if "activeDeadlineSeconds" in spec else []
    if parts.timeout is not None:
        limits.append(max(1, math.ceil(parts.timeout)))
    if limits:
        lifetime["activeDeadlineSeconds"] = min(limits)
    ttl = parts.config.ttl if parts.config.ttl is not None else spec.get("ttlSecondsAfterFinished", TTL)
    return {**lifetime, "ttlSecondsAfterFinished": None if ttl == "never" else ttl}
