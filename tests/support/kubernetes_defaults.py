"""What an API server adds to an object that is created: defaults, and what admission fills in."""

import base64
import re
import secrets as randomness

from kubernetes_schema import JOBS, PODS, SECRETS

SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


def random_suffix(length=5):
    """As names are generated: no vowels, no digits that look like letters."""
    return "".join(randomness.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(length))


def with_defaults(resource, new):
    """The object with the defaults of its kind."""
    if resource is JOBS:
        _job(new)
    elif resource is PODS:
        _pod_spec(new.setdefault("spec", {}))
    elif resource is SECRETS:
        data = new.setdefault("data", {})
        for name, text in new.pop("stringData", {}).items():
            data[name] = base64.b64encode(text.encode()).decode()
        new.setdefault("type", "Opaque")
        if not data:
            del new["data"]
    return new


def _job(job):
    uid, name, spec = job["metadata"]["uid"], job["metadata"]["name"], job.setdefault("spec", {})
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    template = spec.setdefault("template", {})
    _pod_spec(template.setdefault("spec", {}), of_job=True)
    if not spec["manualSelector"]:
        labels = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
        labels |= {"controller-uid": uid, "job-name": name}
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = {**labels, **metadata.get("labels", {})}
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    job.setdefault("status", {})


def _pod_spec(spec, of_job=False):
    for container in [*spec.get("initContainers", ()), *spec.get("containers", ())]:
        _container(container)
    if not of_job:
        spec.setdefault("restartPolicy", "Always")
        spec.setdefault("enableServiceLinks", True)
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for volume in spec.get("volumes", ()):
        for kind in ("secret", "configMap", "projected", "downwardAPI"):
            if kind in volume:
                volume[kind].setdefault("defaultMode", 0o644)
        if "hostPath" in volume:
            volume["hostPath"].setdefault("type", "")
        if len(volume) == 1:
            volume["emptyDir"] = {}


def _container(container):
    tag = re.search(r":([\w.-]+)$", container.get("image", "").partition("@")[0])
    pinned = "@" in container.get("image", "") or (tag and tag[1] != "latest")
    container.setdefault("imagePullPolicy", "IfNotPresent" if pinned else "Always")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for variable in container.get("env", ()):
        if variable.get("value") == "":
            del variable["value"]
        if "fieldRef" in variable.get("valueFrom", {}):
            variable["valueFrom"]["fieldRef"].setdefault("apiVersion", "v1")
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")


def admitted_pod(pod):
    """A pod with what admission and the service account add, and its first status."""
    spec = pod["spec"]
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    for container in containers:
        resources = container["resources"]
        if "limits" in resources:
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
    spec.setdefault("serviceAccountName", "default")
    spec["serviceAccount"] = spec["serviceAccountName"]
    if spec.get("automountServiceAccountToken", True):
        name = f"kube-api-access-{random_suffix()}"
        spec["volumes"] = [*spec.get("volumes", ()), _token_volume(name)]
        for container in containers:
            mounts = container.get("volumeMounts", [])
            if all(mount["mountPath"] != SERVICE_ACCOUNT_PATH for mount in mounts):
                mount = {"name": name, "readOnly": True, "mountPath": SERVICE_ACCOUNT_PATH}
                container["volumeMounts"] = [*mounts, mount]
    unready = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    spec["tolerations"] = [
        *spec.get("tolerations", ()),
        *({"key": k, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300} for k in unready),
    ]
    spec.setdefault("priority", 0)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    pod["status"] = {"phase": "Pending", "qosClass": _quality(containers)}
    return pod


def _quality(containers):
    """https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/"""
    resources = [container["resources"] for container in containers]
    if not any(found.get("limits") or found.get("requests") for found in resources):
        return "BestEffort"
    for found in resources:
        limits = found.get("limits", {})
        if not {"cpu", "memory"} <= set(limits) or found.get("requests", limits) != limits:
            return "Burstable"
    return "Guaranteed"


def _token_volume(name):
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 0o644}}
