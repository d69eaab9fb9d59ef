"""From what is asked for to the Job and the Secret of an attempt."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
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
from mlproj_core.backends.kubernetes.template import read_template
from mlproj_core.claim import Claim, Record
from mlproj_core.containers import CODE, Container
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
        """Ask the cluster whether it would take the Secret: it may refuse who asks, or the Secret, before a Job is there.

        Raises:
            UserError: it would not.
        """
        secret = self.secret(Record(run_id="0" * 32, tracked=True, experiment_id="0" * 19), "0" * 8)
        secret["metadata"].pop("ownerReferences")
        try:
            cluster.create("secrets", secret, dry_run=True)
        except Conflict:  # of a Job of the same name, which was deleted a moment ago
            return


def prepare(claim: Claim, launch: Launch, config: KubernetesConfig, cluster: Cluster) -> Work:
    """Make all that an attempt needs but the attempt: the code's archive, the plan, an image if one is to be built.

    Raises:
        UserError: it cannot be run as a Job.
    """
    template = read_template(config)
    _check_tracking(launch, config)
    python = str(getattr(launch.spec, "python", None) or "")
    if launch.container is None:
        image, argv = stock_image(config, template, launch.project_name, _python(python)), None
        visible, secret = {}, {}
    else:
        image, argv = launch.container.image, _argv(launch)
        visible, secret = _of_container(launch, launch.container)
    archive = _archive(launch)
    variables = {
        **secret,
        **launch.variables,
        **_of_record(launch, config, Record(run_id="")),
    }
    content = SecretContent(variables=variables, archive=archive)
    code, image, archive = _code(launch, config, image, content)
    parts = JobParts(
        name=claim.name,
        namespace=cluster.namespace,
        labels=(
            labels := labels_of(
                claim, project=launch.project_name, entry_point=launch.entry_point, tags=launch.new_run.tags
            )
        ).labels,
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
    plan = launcher = None
    if argv is None:
        from mlproj_core.launcher import source

        launcher, plan = source(), _plan(launch, config, code)
    return Work(claim, launch, config, parts, SecretContent(variables, archive, launcher, plan, None))


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
                    "containers": [{"name": "mlproj", "image": _NEVER_RUNS, "resources": {}}],
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
        f"The tracking server {launch.tracking.uri} {what}, which a pod cannot reach. Say how it is reached from inside "
        "the cluster: backend_config={'tracking-uri': 'http://mlflow.tracking:5000'}."
    )


def _python(wanted: str) -> str:
    import sys

    found = re.search(r"(\d+)\.(\d+)", wanted)
    return f"{found[1]}.{found[2]}" if found else f"{sys.version_info[0]}.{sys.version_info[1]}"


def _argv(launch: Launch) -> tuple[str, ...]:
    from mlproj_core.containers.command import container_argv

    if launch.downloads:
        names = ", ".join(download.parameter for download in launch.downloads)
        raise UserError(
            f"The data of {names} is to be fetched before the project runs, and in an image of the project's own nothing "
            "of mlproj is there to do so. Declare the parameters as uri and let the code read them, or give paths of a "
            "volume."
        )
    return container_argv(launch.command)


def _of_container(launch: Launch, container: Container) -> tuple[dict[str, str], dict[str, str]]:
    """The variables that docker_env asks for, visible and secret; what a pod cannot be given is refused."""
    from mlproj_core.containers.variables import resolve_environment

    others = sorted(str(name) for name in container.docker_args if name != "image")
    if others:
        raise UserError(
            f"docker_args: {', '.join(others)} can be given for Docker, and not for a pod. Use env_vars for variables, and "
            "backend_config for all else: 'resources', 'env-from', or a template by 'job-template'."
        )
    spec = container.docker_env
    if spec is None:
        return {}, {}
    if spec.volumes and not (launch.backend_config.keys() & _TEMPLATES):
        raise UserError(
            f"docker_env.volumes mounts {', '.join(map(str, spec.volumes))} of the host that it runs on, and a pod has none. "
            "Give the pod its volumes by a template: backend_config={'job-template': …}."
        )
    variables = resolve_environment(
        [item if isinstance(item, str) else (item[0], item[1]) for item in spec.environment or ()],
        (),
        {**os.environ, **launch.variables},
    )
    return dict(variables.visible), dict(variables.secret)


_TEMPLATES = {"job-template", "job_template", "kube-job-template-path", "kube_job_template_path"}


def _archive(launch: Launch) -> bytes:
    from mlproj_core.containers.code import write_code_archive

    file = io.BytesIO()
    write_code_archive(launch.checkout.directory, file, compress=True)
    return file.getvalue()


def _code(
    launch: Launch, config: KubernetesConfig, image: str, content: SecretContent
) -> tuple[Code, str, bytes | None]:
    """How the code gets in, in which image, and the archive if that is the way."""
    container = launch.container
    git = _git(launch)
    way = choose_code(
        config,
        prebuilt=container is not None and "image" in container.docker_args,
        build=container is not None and container.build,
        archive_fits=content.fits(),
        git=git if git is not None else "the project is no Git repository with a commit that a pod can clone",
    )
    if way == "build":
        return ImageCode(), _built(launch, config, image), None
    if way == "git" and isinstance(git, GitCode):
        return git, image, None
    if way == "image":
        return ImageCode(), image, None
    return ArchiveCode(), image, content.archive


def _git(launch: Launch) -> GitCode | None:
    checkout = launch.checkout
    url = checkout.repo_url
    if checkout.owned is None or url is None or checkout.commit is None or not re.match(r"https?://", url):
        return None
    return GitCode(url, checkout.commit, checkout.subdirectory)


def _built(launch: Launch, config: KubernetesConfig, image: str) -> str:
    from mlproj_core.containers.auth import auth_for
    from mlproj_core.containers.build import build_project_image, push_image
    from mlproj_core.containers.engine import connect, engine_host
    from mlproj_core.containers.image import ensure_image

    auth = launch.container.docker_auth if launch.container is not None else None
    client = connect(engine_host(os.environ))
    try:
        base = ensure_image(client, image, auth=auth_for(image, auth), platform=None, report=log)
        reference = build_project_image(
            client,
            base,
            launch.checkout.directory,
            repository=config.repository_uri,
            commit=launch.checkout.commit,
            report=log,
        )
        return push_image(client, reference, auth_for(reference, auth), log)
    finally:
        client.close()


def _plan(launch: Launch, config: KubernetesConfig, code: Code) -> str:
    from mlproj_core.environments.portable import portable_environment
    from mlproj_core.launcher import Plan

    archive = ARCHIVE if isinstance(code, ArchiveCode) else None
    return Plan(
        command=launch.command,
        archive=archive,
        directory=None if archive else CODE,
        environment=portable_environment(launch.env_manager, launch.spec, launch.checkout.directory),
        cache=CACHE if config.cache_volume is not None else None,
        downloads=[download.to_dict() for download in launch.downloads],
        work=work_directory(code),
    ).to_json()


def storage() -> PurePosixPath:
    """A directory of a pod for data."""
    return PurePosixPath("/tmp/mlproj-data")  # noqa: S108
