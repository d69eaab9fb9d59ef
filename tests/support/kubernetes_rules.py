"""What an API server refuses of an object: names, labels, Jobs and pods that cannot be, fields that may not change."""

import json
import re

import kubernetes_refusals as refusals
from kubernetes_schema import CONFIG_MAPS, JOBS, PODS, SECRETS, quantity

SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
ENVIRONMENT = r"[^=]+"  # since 1.34 all printable characters but the equals sign
MEGABYTE = 1 << 20

OF_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start"
    " and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    f" '{SUBDOMAIN}')"
)
OF_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end"
    f" with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
)
OF_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
    f" '{LABEL_VALUE}')"
)
OF_KEY = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"
    " character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    f" '{QUALIFIED}')"
)


class Findings(list):
    """Causes of a 422: (field, reason, message)."""

    def wrong(self, field, value, why):
        self.append((field, "FieldValueInvalid", f"Invalid value: {json.dumps(value)}: {why}"))

    def required(self, field, why=""):
        self.append((field, "FieldValueRequired", f"Required value: {why}" if why else "Required value"))

    def too_long(self, field, limit):
        self.append((field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes"))

    def forbidden(self, field, why):
        self.append((field, "FieldValueForbidden", f"Forbidden: {why}"))

    def twice(self, field, value):
        self.append((field, "FieldValueDuplicate", f"Duplicate value: {json.dumps(value)}"))

    def missing(self, field, value):
        self.append((field, "FieldValueNotFound", f"Not found: {json.dumps(value)}"))

    def unsupported(self, field, value, supported):
        said = ", ".join(json.dumps(one) for one in supported)
        self.append(
            (field, "FieldValueNotSupported", f"Unsupported value: {json.dumps(value)}: supported values: {said}")
        )


def check_new(resource, item):
    """Raises: Refusal: a 422 that lists all that is wrong with a new object."""
    found = Findings()
    _check_metadata(item["metadata"], found)
    if resource is JOBS:
        _check_job(item, found)
    elif resource is PODS:
        _check_pod_spec(item["spec"], "spec", found)
    elif resource in (SECRETS, CONFIG_MAPS):
        _check_size(resource, item, found)
    if found:
        raise refusals.invalid(resource, item["metadata"]["name"], found)


def _check_metadata(metadata, found):
    name = metadata["name"]
    if len(name) > 253:
        found.append(("metadata.name", "FieldValueTooLong", "Too long: may not be more than 253 bytes"))
    if not re.fullmatch(SUBDOMAIN, name):
        found.wrong("metadata.name", name, OF_SUBDOMAIN)
    _check_labels(metadata.get("labels", {}), "metadata.labels", found)
    _check_annotations(metadata.get("annotations", {}), "metadata.annotations", found)
    for i, owner in enumerate(metadata.get("ownerReferences", ())):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                found.required(f"metadata.ownerReferences[{i}].{name}", f"{name} must not be empty")


def _check_labels(labels, field, found):
    for key, value in sorted(labels.items()):
        _check_key(key, field, found)
        if len(value) > 63:
            found.wrong(field, value, "must be no more than 63 bytes")
        elif not re.fullmatch(LABEL_VALUE, value):
            found.wrong(field, value, OF_VALUE)


def _check_annotations(annotations, field, found):
    for key in annotations:
        _check_key(key.lower(), field, found)
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > 256 << 10:
        found.too_long(field, 256 << 10)


def _check_key(key, field, found):
    prefix, slash, name = key.rpartition("/")
    if slash and not re.fullmatch(SUBDOMAIN, prefix):
        found.wrong(field, key, f"prefix part {OF_SUBDOMAIN}")
    if len(name) > 63:
        found.wrong(field, key, "name part must be no more than 63 bytes")
    elif not re.fullmatch(QUALIFIED, name):
        found.wrong(field, key, OF_KEY)


def _check_size(resource, item, found):
    data = {**item.get("data", {}), **item.get("binaryData", {})}
    binary = set(item.get("binaryData", {})) if resource is CONFIG_MAPS else set(data)
    total = 0
    for key, value in data.items():
        total += (len(value) // 4 * 3 - value[-2:].count("=")) if key in binary else len(value.encode())
        if not re.fullmatch(r"[-._a-zA-Z0-9]+", key) or len(key) > 253 or key in (".", ".."):
            why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
            found.wrong(f"data[{key}]", key, why)
    if total > MEGABYTE:
        found.too_long("[]" if resource is CONFIG_MAPS else "data", MEGABYTE)


def _check_job(job, found):
    spec = job["spec"]
    least = ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
    for name in least:
        if spec.get(name, 0) < 0:
            found.wrong(f"spec.{name}", spec[name], "must be greater than or equal to 0")
    template = spec["template"]
    metadata = template.get("metadata", {})
    if spec["manualSelector"] and not spec.get("selector"):
        found.required("spec.selector")
    _check_labels(metadata.get("labels", {}), "spec.template.labels", found)
    _check_annotations(metadata.get("annotations", {}), "spec.template.annotations", found)
    if template["spec"].get("restartPolicy", "Always") == "Always":
        found.required("spec.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
    _check_pod_spec(template["spec"], "spec.template.spec", found)


def _check_pod_spec(spec, path, found):
    volumes, names = set(), set()
    for i, volume in enumerate(spec.get("volumes", ())):
        _check_dns(volume.get("name"), f"{path}.volumes[{i}].name", volumes, found)
    if not spec.get("containers"):
        found.required(f"{path}.containers")
    for kind in ("containers", "initContainers"):
        for i, container in enumerate(spec.get(kind, ())):
            _check_container(container, f"{path}.{kind}[{i}]", names, volumes, found)
    if spec["terminationGracePeriodSeconds"] < 0:
        why = "must be greater than or equal to 0"
        found.wrong(f"{path}.terminationGracePeriodSeconds", spec["terminationGracePeriodSeconds"], why)
    if spec.get("restartPolicy", "Never") not in ("Always", "OnFailure", "Never"):
        found.unsupported(f"{path}.restartPolicy", spec["restartPolicy"], ["Always", "OnFailure", "Never"])


def _check_dns(name, field, names, found):
    if not name:
        found.required(field)
    elif len(name) > 63 or not re.fullmatch(LABEL, name):
        found.wrong(field, name, OF_LABEL if len(name) <= 63 else "must be no more than 63 bytes")
    elif name in names:
        found.twice(field, name)
    names.add(name)


def _check_container(container, path, names, volumes, found):
    _check_dns(container.get("name"), f"{path}.name", names, found)
    if not container.get("image"):
        found.required(f"{path}.image")
    elif container["image"] != container["image"].strip():
        found.wrong(f"{path}.image", container["image"], "must not have leading or trailing whitespace")
    for i, variable in enumerate(container.get("env", ())):
        if not variable.get("name"):
            found.required(f"{path}.env[{i}].name")
        elif not re.fullmatch(ENVIRONMENT, variable["name"]):
            why = "a valid environment variable name must consist only of printable ASCII characters other than '='"
            found.wrong(f"{path}.env[{i}].name", variable["name"], why)
        if "valueFrom" in variable and variable.get("value"):
            found.wrong(f"{path}.env[{i}].valueFrom", "", "may not be specified when `value` is not empty")
    for i, mount in enumerate(container.get("volumeMounts", ())):
        if mount.get("name") not in volumes:
            found.missing(f"{path}.volumeMounts[{i}].name", mount.get("name", ""))
        if not mount.get("mountPath"):
            found.required(f"{path}.volumeMounts[{i}].mountPath")
    paths = [mount.get("mountPath") for mount in container.get("volumeMounts", ())]
    for i, where in enumerate(paths):
        if where in paths[:i]:
            found.wrong(f"{path}.volumeMounts[{i}].mountPath", where, "must be unique")
    resources = container.get("resources", {})
    for name, wanted in resources.get("requests", {}).items():
        limit = resources.get("limits", {}).get(name)
        if limit is not None and quantity(wanted) > quantity(limit):
            found.wrong(f"{path}.resources.requests", wanted, f"must be less than or equal to {name} limit of {limit}")
    policy = container["imagePullPolicy"]
    if policy not in ("Always", "IfNotPresent", "Never"):
        found.unsupported(f"{path}.imagePullPolicy", policy, ["Always", "IfNotPresent", "Never"])


# -- changes


SCHEDULING = ("nodeSelector", "tolerations", "schedulingGates")
IMMUTABLE = ("completions", "selector", "completionMode", "manualSelector", "podFailurePolicy", "managedBy")


def check_change(resource, old, new):
    """Raises: Refusal: a 422 for what may not change."""
    check_new(resource, new)
    found = Findings()
    if resource is JOBS:
        _check_job_change(old, new, found)
    elif resource is PODS:
        _check_pod_change(old["spec"], new["spec"], found)
    elif resource in (SECRETS, CONFIG_MAPS) and old.get("immutable"):
        for field in ("data", "binaryData"):
            if old.get(field) != new.get(field):
                found.forbidden(field, "field is immutable when `immutable` is set")
        if not new.get("immutable"):
            found.forbidden("immutable", "field is immutable when `immutable` is set")
    if resource is SECRETS and old.get("type") != new.get("type"):
        found.wrong("type", new.get("type"), "field is immutable")
    if found:
        raise refusals.invalid(resource, new["metadata"]["name"], found)


def _check_job_change(old, new, found):
    for name in IMMUTABLE:
        if old["spec"].get(name) != new["spec"].get(name):
            found.wrong(f"spec.{name}", new["spec"].get(name), "field is immutable")
    was, now = old["spec"]["template"], new["spec"]["template"]
    if old["spec"]["suspend"] and "startTime" not in old.get("status", {}):
        was, now = _fixed(was), _fixed(now)
    if was != now:
        found.wrong("spec.template", new["spec"]["template"], "field is immutable")


def _fixed(template):
    """What of a template may not change while the Job is suspended and never started."""
    spec = {name: value for name, value in template["spec"].items() if name not in SCHEDULING}
    spec["affinity"] = {k: v for k, v in spec.get("affinity", {}).items() if k != "nodeAffinity"}
    return spec


def _check_pod_change(old, new, found):
    def fixed(spec):
        rest = {k: v for k, v in spec.items() if k not in ("activeDeadlineSeconds", "tolerations")}
        for kind in ("containers", "initContainers"):
            rest[kind] = [{k: v for k, v in c.items() if k != "image"} for c in spec.get(kind, ())]
        return rest

    if fixed(old) != fixed(new):
        found.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to"
            " existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was"
            " previously negative)",
        )
