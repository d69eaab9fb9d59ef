"""A Job that the caller gives as a template: read, checked, and rid of what mlproj decides itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.names import is_name
from mlproj_core.backends.kubernetes.schema import Misfit, is_placeholder, misfits, path_text
from mlproj_core.errors import UserError
from mlproj_core.spec.document import Document, UnreadableDocument, kind, read_document
from mlproj_core.spec.problem import Problem, shown

__all__ = ["CONTAINER", "JobTemplate", "read_template"]

CONTAINER = "mlproj"
"""Name of the project's container, where a template gives it none."""

OURS = ("mlproj-files", "mlproj-work", "mlproj-tmp", "mlproj-cache", "mlproj-code")
"""Names of volumes and of a container that mlproj adds."""

_OF_SERVER = (
    "name", "generateName", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
    "deletionGracePeriodSeconds", "managedFields", "selfLink",
)  # fmt: skip
"""What metadata has that is not the caller's to say: a Job that was printed by kubectl may be a template too."""

_LABELS_OF_CONTROLLER = (
    "controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name",
)  # fmt: skip

_REFUSED = {
    "backoffLimitPerIndex": "an attempt is one pod",
    "maxFailedIndexes": "an attempt is one pod",
    "successPolicy": "an attempt is one pod, and succeeds with it",
}


@dataclass(frozen=True)
class JobTemplate:
    """A checked template. What mlproj decides is not in it any more.

    Attributes:
        job: the Job.
        source: what messages call it: the file, or the setting.
        warnings: what of it does not count, for the caller to see.
    """

    job: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def namespace(self) -> str | None:
        """The namespace that it names."""
        return (self.job.get("metadata") or {}).get("namespace")

    @property
    def pod(self) -> Mapping[str, Any]:
        """The spec of its pod; empty if it has none."""
        return ((self.job.get("spec") or {}).get("template") or {}).get("spec") or {}

    def index(self, project_name: str | None) -> int:
        """Which container is the project's: the one named `mlproj`, or as the project, or not at all; else the first.

        The first one is what `mlflow run` takes.

        Args:
            project_name: the project's name, if it has one.
        """
        names = [one.get("name") for one in self.pod.get("containers") or ()]
        return next((names.index(name) for name in (CONTAINER, project_name, None) if name in names), 0)

    def container(self, project_name: str | None) -> Mapping[str, Any]:
        """The project's container; empty if there is none."""
        containers = self.pod.get("containers")
        return dict(containers[self.index(project_name)]) if containers else {}


def read_template(config: KubernetesConfig) -> JobTemplate:
    """The template that the settings name; an empty one if they name none.

    Raises:
        UserError: it cannot be read, is no Job, or cannot be run; with the line where it is known.
    """
    if config.template_path is not None:
        try:
            document = read_document(config.template_path)
        except UnreadableDocument as error:
            raise UserError(f"kube-job-template-path: {error.problem}") from error
        return _read(document.value, config.template_path, document)
    if config.template is not None:
        return _read(dict(config.template), "job-template", None)
    return JobTemplate()


def _read(value: Any, source: str, document: Document | None) -> JobTemplate:
    found = list(_problems(value))
    if found:
        texts = [_located(one, document) for one in found]
        if len(texts) == 1:
            raise UserError(f"The job template cannot be used: {texts[0]}")
        raise UserError("\n  ".join([f"The job template cannot be used, {len(texts)} problems:", *texts]))
    warnings = [str(one) for one in document.warnings] if document is not None else []
    job = _without_placeholders(copy.deepcopy(value))
    warnings += [f"{source}: {text}" for text in _disown(job)]
    return JobTemplate(job, source, tuple(warnings))


def _located(misfit: Misfit, document: Document | None) -> str:
    text = str(misfit)
    if document is None:
        return f"job-template: {text}"
    container: Any = document.value
    at: tuple[int | None, int | None] = (None, None)
    for index, part in enumerate(misfit.path):
        last = index == len(misfit.path) - 1
        try:
            position = document.key_position if last and misfit.is_key else document.value_position
            at = position(container, part)
            container = container[part]
        except (KeyError, IndexError, TypeError):
            break
    return str(Problem(text, file=document.file, line=at[0], column=at[1]))


def _problems(value: Any) -> Iterator[Misfit]:
    if not isinstance(value, dict):
        yield Misfit((), False, f"must be a Job, and is {kind(value)}", "write apiVersion, kind, metadata and spec")
        return
    if value.get("kind") != "Job":
        yield Misfit(("kind",), False, f"must be Job, and is {shown(value.get('kind'))}", "give a Job of batch/v1")
        return
    if value.get("apiVersion") != "batch/v1":
        what = shown(value.get("apiVersion"))
        yield Misfit(("apiVersion",), False, f"must be batch/v1, and is {what}", "write 'apiVersion: batch/v1'")
        return
    wrong = list(misfits(value, "V1Job"))
    yield from wrong
    if not wrong:
        yield from _what_cannot_be(value)


def _what_cannot_be(job: dict[str, Any]) -> Iterator[Misfit]:
    namespace = (job.get("metadata") or {}).get("namespace")
    if namespace is not None and not is_placeholder(namespace) and not is_name(namespace, dots=False):
        yield Misfit(("metadata", "namespace"), False, f"{namespace!r} is no namespace's name", "use a-z, 0-9 and '-'")
    spec = job.get("spec") or {}
    for name, why in _REFUSED.items():
        if spec.get(name) is not None:
            yield Misfit(("spec", name), True, f"cannot be: {why}", "remove it")
    for name in ("parallelism", "completions"):
        if spec.get(name) not in (None, 1):
            yield Misfit(("spec", name), False, f"must be 1, and is {spec[name]}: an attempt is one pod", "remove it")
    if spec.get("completionMode") not in (None, "NonIndexed"):
        yield Misfit(("spec", "completionMode"), False, "must be NonIndexed: an attempt is one pod", "remove it")
    if spec.get("selector") is not None or spec.get("manualSelector"):
        name = "selector" if spec.get("selector") is not None else "manualSelector"
        yield Misfit(("spec", name), True, "cannot be: Kubernetes selects the Job's pods itself", "remove it")
    pod = (spec.get("template") or {}).get("spec") or {}
    path = ("spec", "template", "spec")
    for field_name in ("volumes", "containers", "initContainers"):
        # One container may be without a name: the project's.
        names: list[str | None] = [] if field_name == "containers" else [None]
        for index, item in enumerate(pod.get(field_name) or ()):
            own = (item or {}).get("name")
            if is_placeholder(own):
                own = None
            where = (*path, field_name, index)
            if own in OURS:
                yield Misfit((*where, "name"), False, f"the name {own!r} is mlproj's own", "use another")
            elif own in names:
                message = "has no name" if own is None else f"has the name {own!r}, as one before it"
                yield Misfit(where, False, message, "give it a name of its own")
            names.append(own)


def _without_placeholders(value: Any) -> Any:
    """The value without what MLflow's documentation writes where something is put in, and without nulls."""
    if isinstance(value, dict):
        cleaned = {name: _without_placeholders(item) for name, item in value.items() if _is_given(item)}
        return {name: item for name, item in cleaned.items() if item != [] or value[name] == []}
    if isinstance(value, list):
        return [_without_placeholders(item) for item in value if _is_given(item)]
    return value


def _is_given(value: Any) -> bool:
    return value is not None and not is_placeholder(value)


def _disown(job: dict[str, Any]) -> Iterator[str]:
    """Take out what mlproj decides itself; what is lost by it, in words."""
    metadata = job.setdefault("metadata", {})
    if "generateName" in metadata:
        yield "metadata.generateName does not count: the Job's name is that of the attempt"
    for name in _OF_SERVER:
        metadata.pop(name, None)
    job.pop("status", None)
    spec = job.setdefault("spec", {})
    if spec.pop("suspend", None) is not None:
        yield "spec.suspend does not count: mlproj creates each Job suspended, and starts it when all is there"
    if spec.pop("backoffLimit", 0) != 0:
        yield "spec.backoffLimit does not count: a retry is a new attempt, which whoever asked for the run decides on"
    if spec.pop("podFailurePolicy", None) is not None:
        yield "spec.podFailurePolicy does not count: whatever ends the pod ends the attempt"
    if spec.pop("podReplacementPolicy", "Failed") != "Failed":
        yield "spec.podReplacementPolicy does not count: an attempt is over when its pod is"
    for name in ("parallelism", "completions", "completionMode", "manualSelector"):
        spec.pop(name, None)
    template = spec.setdefault("template", {})
    for labels in (metadata.get("labels"), template.setdefault("metadata", {}).get("labels")):
        for name in _LABELS_OF_CONTROLLER:
            (labels or {}).pop(name, None)
    template["metadata"] = {
        name: value for name, value in template["metadata"].items() if name in ("labels", "annotations", "finalizers")
    }
    pod = template.setdefault("spec", {})
    if (policy := pod.pop("restartPolicy", "Never")) != "Never":
        yield f"{path_text(('spec', 'template', 'spec', 'restartPolicy'))} {policy!r} does not count: it is Never"
