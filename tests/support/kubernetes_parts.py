"""Jobs and Secrets as the Kubernetes backend makes them, and an API server that is strict with them."""

import json

import kubernetes.client
from kubernetes_api import Api
from kubernetes_schema import NAMESPACES
from kubernetes_store import Store

from mlproj_core.backends.kubernetes.code import ArchiveCode, GitCode, ImageCode
from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.manifest import JobParts, build_job
from mlproj_core.backends.kubernetes.template import read_template

K = "0123456789abcdef0123456789abcdef"
NAME = f"mlproj-{K}-1"
LABELS = {"app.kubernetes.io/managed-by": "mlproj", "mlproj/key": K, "mlproj/attempt": f"{K}-1"}
GIT = GitCode("https://git.example.com/wine", "a" * 40, "projects/wine", login=True)
WAYS = {
    "launcher, archive": {"argv": None, "code": ArchiveCode()},
    "launcher, git": {"argv": None, "code": GIT},
    "launcher, image": {"argv": None, "code": ImageCode()},
    "image of its own, archive": {"argv": ("python", "train.py"), "code": ArchiveCode()},
    "image of its own, git": {"argv": ("python", "train.py"), "code": GIT},
    "image of its own, image": {"argv": ("python", "train.py"), "code": ImageCode()},
}


def parts(config=None, template=None, **given):
    """Parts with a configuration and a template as a caller gives them."""
    read = KubernetesConfig.read({**(config or {}), **({"job-template": template} if template else {})}, {})
    standard = {
        "name": NAME,
        "namespace": "ml",
        "labels": LABELS,
        "image": "python:3.11-slim",
        "secrets": ("MLFLOW_RUN_ID",),
    }
    return JobParts(
        **{**standard, **WAYS["launcher, archive"], "config": read, "template": read_template(read), **given}
    )


def build(config=None, template=None, **given):
    return build_job(parts(config, template, **given))


def template(container=None, pod=None, metadata=None, **spec):
    """A Job template with one container."""
    containers = [{"name": "mlproj", **(container or {})}]
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata or {},
        "spec": {**spec, "template": {"spec": {"containers": containers, **(pod or {})}}},
    }  # fmt: skip


def pod_of(job):
    return job["spec"]["template"]["spec"]


def main_of(job):
    name = job["metadata"]["annotations"]["mlproj/container"]
    return next(one for one in pod_of(job)["containers"] if one["name"] == name)


def accept(resource, body):
    """Create an object on an API server that is strict; what it keeps."""
    store = Store()
    store.create(NAMESPACES, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "ml", "uid": "1"}})
    answer = Api(store).create(resource, "ml", json.loads(json.dumps(body)), {"fieldValidation": "Strict"}, None)
    assert not answer.warnings
    return answer.body


def read_by_client(body, kind):
    """An object as the client's models have it, and back: what they do not know is lost on the way."""
    client = kubernetes.client.ApiClient()
    model = client.deserialize(json.dumps(body), kind, "application/json")
    return client.sanitize_for_serialization(model)
