"""What a kubelet works out before it starts a container: variables, words with `$(NAME)`, and files of volumes."""

import base64
import re

import kubernetes_refusals as refusals
from kubernetes_schema import CONFIG_MAPS, SECRETS, quantity


class ConfigProblem(Exception):
    """A container cannot be configured; the message is what its status says."""


class MountProblem(Exception):
    """A volume cannot be mounted; its pod waits."""


def environment(store, pod, container, own=()):
    """The variables of a container.

    Args:
        own: what the node adds before all others.

    Raises:
        ConfigProblem: a Secret, a ConfigMap or a key is not there.
    """
    result = dict(own)
    namespace = pod["metadata"]["namespace"]
    for source in container.get("envFrom", ()):
        for kind, resource in (("secretRef", SECRETS), ("configMapRef", CONFIG_MAPS)):
            if kind in source:
                values = _values(store, resource, namespace, source[kind])
                result |= {source.get("prefix", "") + key: value.decode() for key, value in values.items()}
    for variable in container.get("env", ()):
        value = _variable(store, pod, container, variable, result)
        if value is not None:
            result[variable["name"]] = value
    return result


def _variable(store, pod, container, variable, so_far):
    given = variable.get("valueFrom")
    if not given:
        return expand(variable.get("value", ""), so_far)
    namespace = pod["metadata"]["namespace"]
    for kind, resource in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
        if kind in given:
            reference = given[kind]
            values = _values(store, resource, namespace, reference)
            if reference["key"] in values:
                return values[reference["key"]].decode()
            if reference.get("optional"):
                return None
            what = f"{resource.kind} {namespace}/{reference['name']}"
            raise ConfigProblem(f"couldn't find key {reference['key']} in {what}")
    if "fieldRef" in given:
        return field(pod, given["fieldRef"]["fieldPath"])
    return resource_field(container, given["resourceFieldRef"])


def _values(store, resource, namespace, reference):
    try:
        found = store.get(resource, namespace, reference["name"])
    except refusals.Refusal:
        if reference.get("optional"):
            return {}
        word = "secret" if resource is SECRETS else "configmap"
        raise ConfigProblem(f'{word} "{reference["name"]}" not found') from None
    return content(found)


def content(item):
    """The files of a Secret or a ConfigMap, as bytes."""
    if item["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in item.get("data", {}).items()}
    binary = {key: base64.b64decode(value) for key, value in item.get("binaryData", {}).items()}
    return {**{key: value.encode() for key, value in item.get("data", {}).items()}, **binary}


def field(pod, path):
    """What a fieldRef names."""
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return pod["metadata"].get(found[1], {}).get(found[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        values = pod["metadata"].get(path.partition(".")[2], {})
        return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
    known = {"status.hostIP": "192.0.2.2", "status.podIP": "127.0.0.1"}
    if path in known:
        return known[path]
    value = pod
    for name in path.split("."):
        value = value[name]
    return str(value)


def resource_field(container, reference):
    kind, _, name = reference["resource"].partition(".")
    value = container.get("resources", {}).get(kind, {}).get(name, "0")
    return str(int(quantity(value) / quantity(reference.get("divisor", "1") or "1")))


def expand(text, variables):
    """`$(NAME)` becomes its value, `$$` a `$`; a name that is not known stays as it is."""

    def one(found):
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def volume_files(store, pod, volume, own):
    """The files of a volume that is made of objects: name to bytes and mode; None for another kind of volume.

    Args:
        own: the content of the token's volume: `token` and `ca.crt`.

    Raises:
        MountProblem: an object or a key is not there.
    """
    namespace = pod["metadata"]["namespace"]
    for kind, resource, name in (("secret", SECRETS, "secretName"), ("configMap", CONFIG_MAPS, "name")):
        if kind in volume:
            return _object_files(store, resource, namespace, volume[kind], volume[kind].get(name), volume[kind])
    if "downwardAPI" in volume:
        return _downward_files(pod, volume["downwardAPI"], volume["downwardAPI"])
    if "projected" not in volume:
        return None
    projected, files = volume["projected"], {}
    for source in projected.get("sources", ()):
        if "serviceAccountToken" in source:
            files[source["serviceAccountToken"]["path"]] = (own["token"], 0o644)
        elif source.get("configMap", {}).get("name") == "kube-root-ca.crt":
            files["ca.crt"] = (own["ca.crt"], 0o644)
        elif "downwardAPI" in source:
            files |= _downward_files(pod, source["downwardAPI"], projected)
        else:
            kind, resource = ("secret", SECRETS) if "secret" in source else ("configMap", CONFIG_MAPS)
            files |= _object_files(store, resource, namespace, source[kind], source[kind].get("name"), projected)
    return files


def _object_files(store, resource, namespace, reference, name, modes):
    try:
        values = content(store.get(resource, namespace, name))
    except refusals.Refusal as refusal:
        if reference.get("optional"):
            return {}
        raise MountProblem(str(refusal)) from None
    mode = modes.get("defaultMode", 0o644)
    if not reference.get("items"):
        return {key: (value, mode) for key, value in values.items()}
    files = {}
    for item in reference["items"]:
        if item["key"] not in values:
            if reference.get("optional"):
                continue
            raise MountProblem(f"references non-existent secret key: {item['key']}")
        files[item["path"]] = (values[item["key"]], item.get("mode", mode))
    return files


def _downward_files(pod, source, modes):
    mode = modes.get("defaultMode", 0o644)
    return {
        item["path"]: (field(pod, item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode))
        for item in source.get("items", ())
    }
