"""Label and field selectors, and patches."""

import copy
import re

import kubernetes_refusals as refusals

FIELDS = {
    "pods": {"metadata.name", "metadata.namespace", "spec.nodeName", "spec.restartPolicy", "spec.schedulerName",
             "spec.serviceAccountName", "status.phase", "status.podIP", "status.nominatedNodeName"},
    "jobs": {"metadata.name", "metadata.namespace", "status.successful"},
    "events": {"metadata.name", "metadata.namespace", "involvedObject.kind", "involvedObject.namespace",
               "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion", "reason", "source", "type",
               "involvedObject.resourceVersion", "involvedObject.fieldPath", "reportingComponent"},
    "secrets": {"metadata.name", "metadata.namespace", "type"},
}  # fmt: skip
"""The fields that a resource can be selected by; others have their name and namespace only."""


def label_test(selector):
    """A test of an object's labels: `a=b`, `a==b`, `a!=b`, `a in (b, c)`, `a notin (b)`, `a`, `!a`."""
    requirements = []
    for part in re.split(r",(?![^(]*\))", selector or ""):
        text = part.strip()
        if not text:
            continue
        if found := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s+\(([^)]*)\)", text):
            values = {value.strip() for value in found[3].split(",")}
            requirements.append((found[1], found[2], values))
        elif found := re.fullmatch(r"([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)", text):
            requirements.append((found[1], "notin" if found[2] == "!=" else "in", {found[3]}))
        elif found := re.fullmatch(r"(!?)\s*([\w./-]+)", text):
            requirements.append((found[2], "absent" if found[1] else "present", set()))
        else:
            raise refusals.bad_request(f"unable to parse requirement: found '{text}', expected: '=', '!=', '==', 'in'")

    def test(item):
        labels = item["metadata"].get("labels", {})
        return all(
            {"in": labels.get(key) in values and key in labels, "notin": labels.get(key) not in values,
             "present": key in labels, "absent": key not in labels}[operator]
            for key, operator, values in requirements
        )  # fmt: skip

    return test


def field_test(selector, resource):
    """A test of an object's fields: `a=b`, `a!=b`."""
    requirements = []
    for part in filter(None, (selector or "").split(",")):
        found = re.fullmatch(r"([\w.]+)(==|=|!=)(.*)", part)
        if not found:
            raise refusals.bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        if found[1] not in FIELDS.get(resource.plural, {"metadata.name", "metadata.namespace"}):
            raise refusals.bad_request(f"field label not supported: {found[1]}")
        requirements.append((found[1].split("."), found[2] != "!=", found[3]))

    def value(item, path):
        for name in path:
            item = item.get(name, {})
        return str(item) if item != {} else ""

    return lambda item: all((value(item, path) == wanted) is equal for path, equal, wanted in requirements)


def patched(item, content_type, patch):
    """The object as the patch makes it.

    Raises:
        Refusal: the patch cannot be applied.
    """
    kind = content_type.partition(";")[0].strip()
    item = copy.deepcopy(item)
    if kind == "application/json-patch+json":
        return _json_patch(item, patch)
    if not isinstance(patch, dict):
        raise refusals.bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
    if kind == "application/merge-patch+json":
        return _merge(item, patch)
    if kind == "application/strategic-merge-patch+json":
        return _merge(item, patch, keys=MERGE_KEYS)
    supported = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
    raise refusals.Refusal(
        415, "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {supported}", {},
    )  # fmt: skip


MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath",
    "conditions": "type", "ownerReferences": "uid", "imagePullSecrets": "name",
}  # fmt: skip
"""Lists that a strategic merge patch merges by a key; other lists are replaced (finalizers are a set)."""


def _merge(target, patch, keys=None):
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            if keys and value.get("$patch") == "replace":
                target[name] = {key: item for key, item in value.items() if key != "$patch"}
                continue
            old = target.get(name)
            target[name] = _merge(old if isinstance(old, dict) else {}, value, keys)
        elif keys and name == "finalizers":
            target[name] = list(dict.fromkeys([*target.get(name, ()), *value]))
        elif keys and name.startswith("$deleteFromPrimitiveList/"):
            name = name.partition("/")[2]
            target[name] = [item for item in target.get(name, ()) if item not in value]
        elif keys and name in keys and isinstance(value, list):
            target[name] = _merge_list(target.get(name, []), value, keys[name], keys)
        else:
            target[name] = value
    return target


def _merge_list(old, new, key, keys):
    merged = {item.get(key): item for item in old}
    for item in new:
        if item.get("$patch") == "delete":
            merged.pop(item.get(key), None)
        else:
            merged[item.get(key)] = _merge(merged.get(item.get(key), {}), item, keys)
    return list(merged.values())


def _json_patch(document, operations):
    for operation in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]  # fmt: skip
        try:
            place = document
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place[part]
            _operate(place, last, operation)
        except (KeyError, IndexError, ValueError, TypeError):
            raise refusals.Refusal(
                422, "Invalid", "the server rejected our request due to an error in our request", {}
            ) from None
    return document


def _operate(place, last, operation):
    index = None
    if isinstance(place, list):
        index = len(place) if last == "-" else int(last)
    if operation["op"] == "add":
        if index is None:
            place[last] = operation["value"]
        else:
            place.insert(index, operation["value"])
    elif operation["op"] == "remove":
        del place[last if index is None else index]
    elif operation["op"] == "replace":
        place[last if index is None else index]  # must be there
        place[last if index is None else index] = operation["value"]
    elif operation["op"] == "test":
        if place[last if index is None else index] != operation["value"]:
            raise ValueError
    else:
        raise ValueError
