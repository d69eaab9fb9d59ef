"""What an attempt's Job is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlproj_core.backends.kubernetes.code import WORK, Code, ImageCode
from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.template import JobTemplate

__all__ = ["CACHE", "RESULT", "JobParts", "stock_image", "work_directory"]

CACHE = "/mlflow/cache"
"""Where the volume for environments is."""
RESULT = "/dev/termination-log"
"""Value of MLPROJ_RESULT: Kubernetes keeps the first 4096 bytes of it with the pod's status."""


@dataclass(frozen=True)
class JobParts:
    """What an attempt's Job is made of; all of it is known at the claim.

    Attributes:
        name: the attempt's, of the Job and of its Secret.
        namespace: where they are.
        labels: of the Job and of its pods; see `labels.labels_of`.
        image: the image of the project's container.
        argv: what it runs, as arguments of the image's ENTRYPOINT; None for the launcher.
        code: how the code gets in.
        config: the caller's settings.
        annotations: of the Job alone: the claim.
        pod_annotations: of the Job and of its pods; `labels.labels_of` makes some.
        variables: variables that everybody may see.
        secrets: names of the variables that the Secret holds. One that is in both is taken from there.
        template: the caller's template.
        project_name: the project's name, if it has one.
        entrypoint: what runs instead of the image's ENTRYPOINT; None for that.
        working_dir: where the container starts; None for where the code is, else for the image's own.
        timeout: seconds from the pod's start until Kubernetes ends it; None for no limit.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    image: str
    argv: Sequence[str] | None
    code: Code
    config: KubernetesConfig = field(default_factory=KubernetesConfig)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    template: JobTemplate = field(default_factory=JobTemplate)
    project_name: str | None = None
    entrypoint: Sequence[str] | None = None
    working_dir: str | None = None
    timeout: float | None = None

    @property
    def launcher(self) -> bool:
        """Whether the launcher runs the project."""
        return self.argv is None


def stock_image(config: KubernetesConfig, template: JobTemplate, project_name: str | None, python: str) -> str:
    """The image for a project that names none.

    Args:
        config: the caller's settings.
        template: the caller's template.
        project_name: the project's name, if it has one.
        python: the project's Python, such as "3.11".
    """
    return config.image or template.container(project_name).get("image") or f"python:{python}-slim"


def work_directory(code: Code) -> str:
    """A directory of the pod that can be written, for the launcher's plan: it must not hide the image's own code."""
    return "/tmp/mlproj" if isinstance(code, ImageCode) else WORK  # noqa: S108 - a volume of the pod's own
