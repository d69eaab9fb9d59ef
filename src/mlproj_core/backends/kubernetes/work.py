"""From what is asked for to the Job and the Secret of an attempt."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mlproj_core.backends.kubernetes.client import Cluster, Conflict
from mlproj_core.backends.kubernetes.code import ARCHIVE, ArchiveCode, Code, GitCode, ImageCode, choose_code
from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.hold import OVER
from mlproj_core.backends.kubernetes.labels import labels_of
from mlproj_core.backends.kubernetes.manifest import (
    CACHE,
    TTL,
    JobParts,
    SecretContent,
    build_job,
    build_secret,
    stock_image,
    work_directory,
)
from mlproj_core.backends.kubernetes.objects import CANCEL, CLAIM, OUTCOME
from mlproj_core.backends.kubernetes.security import secured
from mlproj_core.backends.kubernetes.template import read_template
from mlproj_core.claim import Claim, Record
from mlproj_core.containers import CODE
from mlproj_core.errors import UserError
from mlproj_core.launch import Launch
from mlproj_core.report import log

__all__ = ["Work", "prepare", "tombstone"]

_NEVER_RUNS = "registry.k8s.io/pause:3.10"


@dataclass(frozen=True)
class Work:
    """What an attempt's Job and Secret are made of.

    Attributes:
        claim: the attempt's claim.
        launch: what is asked for, with the caller's secrets.
        config: the caller's settings.
        parts: what the Job is made of.
        content: what the Secret holds but for what is known with the record only.
    """

    claim: Claim
    launch: Launch
    config: KubernetesConfig
    parts: JobParts
    content: SecretContent = field(repr=False)

    def job(self) -> dict[str, Any]:
        """The Job, suspended."""
        return build_job(self.parts)

    def secret(self, record: Record, owner_uid: str) -> dict[str, Any]:
        """The Secret, for the Job of this uid."""
        content = SecretContent(
            variables={**self.content.variables, **_of_record(self.launch, self.config, record)},
            archive=self.content.archive,
            launcher=self.content.launcher,
            plan=self.content.plan,
            git_login=self.content.git_login,
        )
        return build_secret(
            name=self.parts.name,
            namespace=self.parts.namespace,
            labels=self.parts.labels,
            owner_uid=owner_uid,
            content=content,
        )

    def rehearse(self, cluster: Cluster) -> None:
        """Ask the cluster if it would take what comes after the Job: what it refuses, it shall refuse before that.

        Raises:
            UserError: it would not take the Secret, or does not let who asks change Jobs.
        """
        secret = self.secret(Record(run_id="0" * 32, tracked=True, experiment_id="0" * 19), "0" * 8)
        secret["metadata"].pop("ownerReferences")
        with suppress(Conflict):  # of a Job of the same name, which was deleted a moment ago
            cluster.create("secrets", secret, dry_run=True)
        cluster.patch("jobs", self.parts.name, {"metadata": {}}, dry_run=True)


def prepare(claim: Claim, launch: Launch, config: KubernetesConfig, cluster: Cluster) -> Work:
    """Make all that an attempt needs but the attempt: the code's archive, the plan, an image if one is to be built.

    Raises:
        UserError: it cannot be run as a Job.
    """
    template = read_template(config)
    for warning in template.warnings:
        log(f"warning: {warning}")
    _check_tracking(launch, config)
    visible, secret = _of_container(launch)
    if launch.container is None:
        image, argv = stock_image(config, template, launch.project_name, _python(launch)), None
    else:
        image, argv = launch.container.image, _argv(launch)
    variables = {**secret, **launch.variables, **_of_record(launch, config, Record(run_id=""))}
    content = SecretContent(variables, _archive(launch), *_launcher(launch, config, ArchiveCode()))
    code = _choose(launch, config, content.fits())
    if code is None:
        code, image = ImageCode(), _built(launch, config, image)
    if not isinstance(code, ArchiveCode):
        login = launch.upstream.login if isinstance(code, GitCode) and launch.upstream is not None else None
        content = SecretContent(variables, None, *_launcher(launch, config, code), git_login=login)
    labels = labels_of(claim, project=launch.project_name, entry_point=launch.entry_point, tags=launch.new_run.tags)
    parts = JobParts(
        name=claim.name,
        namespace=cluster.namespace,
        labels=labels.labels,
        pod_annotations=labels.annotations,
        annotations={CLAIM: json.dumps(claim.to_dict())},
        image=image,
        argv=argv,
        code=code,
        config=config,
        variables={**visible, "MLPROJ_ATTEMPT": claim.tag, "PYTHONUNBUFFERED": "1"},
        secrets=tuple(sorted(variables)),
        template=template,
        project_name=launch.project_name,
        timeout=launch.timeout,
    )
    return Work(claim, launch, config, parts, content)


def tombstone(claim: Claim, config: KubernetesConfig, namespace: str) -> dict[str, Any]:
    """A Job that ends without a pod: it stands for a run that was cancelled before there was one.

    Its mark and its outcome are on it from the beginning, so that nobody can take it for a claim to complete.
    """
    from mlproj_core.backends.kubernetes import ending
    from mlproj_core.status import Outcome, RunStatus

    outcome = Outcome(RunStatus.KILLED, ending.cancelled("before it was submitted"), ended_at=claim.created_at)
    labels = labels_of(claim)
    ttl = TTL if config.ttl is None else config.ttl
    annotations = {
        CLAIM: json.dumps(claim.to_dict()),
        CANCEL: json.dumps({"at": claim.created_at}),
        OUTCOME: json.dumps(outcome.to_dict()),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": claim.name,
            "namespace": namespace,
            "labels": dict(labels.labels),
            "annotations": annotations,
        },
        "spec": {
            **OVER,
            "backoffLimit": 0,
            **({"ttlSecondsAfterFinished": ttl} if ttl != "never" else {}),
            "template": {
                "metadata": {"labels": dict(labels.labels)},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        # As little as any policy asks for, though it never runs.
                        {
                            "name": "mlproj",
                            "image": _NEVER_RUNS,
                            "resources": {name: {"cpu": "1m", "memory": "1Mi"} for name in ("requests", "limits")},
                            "securityContext": secured({}, {}, config, read_only=True),
                        }
                    ],
                },
            },
        },
    }


def _of_record(launch: Launch, config: KubernetesConfig, record: Record) -> dict[str, str]:
    """The variables that tell the project of its MLflow run. Their names are the same for every record."""
    tracking = launch.tracking
    variables = {
        **tracking.child_secrets,
        **tracking.child_variables(record.run_id, record.experiment_id or ""),
    }
    if config.tracking_uri is not None and "MLFLOW_TRACKING_URI" in variables:
        variables["MLFLOW_TRACKING_URI"] = config.tracking_uri
    if tracking.name != "untracked":
        variables["MLPROJ_RUN_ID"] = record.run_id
    return variables


def _check_tracking(launch: Launch, config: KubernetesConfig) -> None:
    if launch.tracking.name == "untracked" or config.tracking_uri is not None:
        return
    uri = urlsplit(launch.tracking.uri)
    if uri.scheme in ("http", "https"):
        if uri.hostname not in ("localhost", "127.0.0.1", "::1"):
            return
        what = "is an address of this host itself"
    elif uri.scheme in ("databricks", "databricks-uc", "uc", "postgresql", "mysql", "mssql"):
        return
    else:
        what = "is a file of this host"
    raise UserError(
        f"The tracking server {launch.tracking.uri} {what}, which a pod cannot reach. Say how it is reached from "
        "inside the cluster: backend_config={'tracking-uri': 'http://mlflow.tracking:5000'}."
    )


def _python(launch: Launch) -> str:
    """The version of Python that the project's environment is of, as far as images tell it; else that of this one."""
    import sys

    found = re.search(r"(\d+)\.(\d+)", str(getattr(launch.spec, "python", None) or ""))
    return f"{found[1]}.{found[2]}" if found else f"{sys.version_info[0]}.{sys.version_info[1]}"


def _argv(launch: Launch) -> tuple[str, ...]:
    from mlproj_core.containers.command import container_argv

    if launch.downloads:
        names = ", ".join(download.parameter for download in launch.downloads)
        raise UserError(
            f"The data of {names} is to be fetched before the project runs, and in an image of the project's own there "
            "is nothing of mlproj to do so. Declare the parameters as uri and let the code read them, or give paths of "
            "a volume."
        )
    return container_argv(launch.command)


def _of_container(launch: Launch) -> tuple[dict[str, str], dict[str, str]]:
    """The variables that docker_env asks for, visible and secret ones; what a pod cannot be given is refused."""
    container = launch.container
    if container is None:
        return {}, {}
    asked = container.arguments
    if asked.config or asked.host_config or asked.networking or asked.volumes:
        named = ("image", "platform", "env", "e", "environment", "env-file")
        others = [name for name in container.docker_args if str(name).replace("_", "-") not in named]
        raise UserError(
            f"docker_args: {', '.join(others)} can be given for Docker, and not for a pod. Use env_vars for variables, "
            "and backend_config for all else: 'resources', 'env-from', or a template by 'job-template'."
        )
    spec = container.docker_env
    templates = {name.replace("_", "-") for name in launch.backend_config} & _TEMPLATES
    if spec is not None and spec.volumes and not templates:
        raise UserError(
            f"docker_env.volumes mounts {', '.join(map(str, spec.volumes))} of the host that it runs on, and a pod has "
            "none. Give the pod its volumes by a template: backend_config={'job-template': …}."
        )
    return dict(container.variables.visible), dict(container.variables.secret)


_TEMPLATES = {"job-template", "kube-job-template-path"}


def _archive(launch: Launch) -> bytes:
    from mlproj_core.containers.code import write_code_archive

    file = io.BytesIO()
    write_code_archive(launch.checkout.directory, file, compress=True)
    return file.getvalue()


def _launcher(launch: Launch, config: KubernetesConfig, code: Code) -> tuple[str | None, str | None]:
    """The launcher and its plan; None for both where the project has an image of its own."""
    if launch.container is not None:
        return None, None
    from mlproj_core.environments.portable import portable_environment
    from mlproj_core.launcher import Plan, source

    archive = ARCHIVE if isinstance(code, ArchiveCode) else None
    plan = Plan(
        command=launch.command,
        archive=archive,
        directory=None if archive else CODE,
        environment=portable_environment(launch.env_manager, launch.spec, launch.checkout.directory),
        cache=CACHE if config.cache_volume is not None else None,
        downloads=[download.to_dict() for download in launch.downloads],
        work=work_directory(code),
    )
    return source(), plan.to_json()


def _choose(launch: Launch, config: KubernetesConfig, archive_fits: bool) -> Code | None:
    """How the code gets in; None where an image is to be built that holds it."""
    container, git = launch.container, _git(launch)
    way = choose_code(
        config,
        prebuilt=container is not None and container.arguments.image is not None,
        build=container is not None and container.build,
        archive_fits=archive_fits,
        git=git,
    )
    if way == "build":
        return None
    if way == "git" and isinstance(git, GitCode):
        return git
    return ImageCode() if way == "image" else ArchiveCode()


def _git(launch: Launch) -> GitCode | str:
    """How a pod clones the project; or why it cannot."""
    upstream, commit = launch.upstream, launch.checkout.commit
    if upstream is None or commit is None:
        return "the project is not run from a remote Git repository"
    if not upstream.url.startswith(("http://", "https://")):
        return f"a pod has no key to clone {upstream.url}; use its https URL"
    return GitCode(upstream.url, commit, launch.checkout.subdirectory, login=upstream.login is not None)


def _built(launch: Launch, config: KubernetesConfig, image: str) -> str:
    from mlproj_core.containers.auth import auth_for, read_docker_auth
    from mlproj_core.containers.build import build_project_image, push_image
    from mlproj_core.containers.engine import connect, engine_host
    from mlproj_core.containers.image import ensure_image

    login = read_docker_auth(launch.container.docker_auth if launch.container is not None else None)
    client = connect(engine_host(os.environ))
    try:
        base = ensure_image(client, image, auth=auth_for(image, login), platform=None, report=log)
        reference: str = build_project_image(
            client,
            base,
            launch.checkout.directory,
            repository=config.repository_uri,
            commit=launch.checkout.commit,
            report=log,
        )
        pinned: str = push_image(client, reference, auth_for(reference, login), log)
        return pinned
    finally:
        client.close()
