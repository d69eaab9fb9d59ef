"""The resources, and the shape of their objects by the OpenAPI models that the `kubernetes` package ships."""

import base64
import binascii
import re
from dataclasses import dataclass
from functools import cache

import kubernetes_refusals as refusals
from kubernetes.client import models


@dataclass(frozen=True)
class Resource:
    """A kind of object and where it is served."""

    group: str
    version: str
    plural: str
    kind: str
    model: str
    namespaced: bool = True

    @property
    def qualified(self):
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self):
        return f"{self.group}/{self.version}" if self.group else self.version


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", "V1Namespace", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod", "V1Pod")
SECRETS = Resource("", "v1", "secrets", "Secret", "V1Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", "V1ConfigMap")
EVENTS = Resource("", "v1", "events", "Event", "CoreV1Event")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "V1PersistentVolumeClaim")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", "V1ServiceAccount")
JOBS = Resource("batch", "v1", "jobs", "Job", "V1Job")
REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
    "V1SelfSubjectAccessReview", namespaced=False,
)  # fmt: skip
RESOURCES = [NAMESPACES, PODS, SECRETS, CONFIG_MAPS, EVENTS, CLAIMS, SERVICE_ACCOUNTS, JOBS, REVIEWS]

GO_KINDS = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
QUANTITIES = {("ResourceRequirements", "limits"), ("ResourceRequirements", "requests")}
QUANTITY = re.compile(r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$")


@cache
def _fields(model):
    """The fields of a model: JSON name to its OpenAPI type."""
    found = getattr(models, model)
    return {found.attribute_map[name]: kind for name, kind in found.openapi_types.items()}


def decode(resource, body):
    """An object as the server understands it, and the unknown fields that it dropped.

    Raises:
        Refusal: a field has the wrong type.
    """
    if not isinstance(body, dict):
        raise refusals.undecodable(resource, f"json: cannot unmarshal {GO_KINDS[type(body)]} into Go value")
    unknown = []
    if body.get("kind", resource.kind) != resource.kind or body.get("apiVersion", resource.api_version) not in (
        resource.api_version,
    ):
        raise refusals.bad_request(
            f"the API version in the data ({body.get('apiVersion')}) does not match the expected API version"
            f" ({resource.api_version})"
        )
    known = _decode(resource, resource.model, body, "", "", unknown)
    known.pop("kind", None)
    known.pop("apiVersion", None)
    return {"kind": resource.kind, "apiVersion": resource.api_version, **known}, unknown


def _decode(resource, model, value, path, go_path, unknown):
    struct = re.sub(r"^(Core)?V\d+((alpha|beta)\d+)?", "", model)
    fields, result = _fields(model), {}
    for name, item in value.items():
        where, go = f"{path}.{name}".lstrip("."), f"{go_path}.{name}".lstrip(".")
        if name not in fields:
            unknown.append(where)
        elif item is not None:
            if (struct, name) in QUANTITIES and isinstance(item, dict):
                item = {key: _quantity(resource, quantity) for key, quantity in item.items()}
            result[name] = _value(resource, struct, fields[name], item, where, go, unknown)
    return {name: item for name, item in result.items() if item != []}


def _value(resource, struct, kind, value, where, go, unknown):
    many = re.fullmatch(r"[Ll]ist\[(.+)\]", kind)
    mapping = re.fullmatch(r"[Dd]ict(?:\[str, |\(str, )(.+)[\])]", kind)
    if kind == "object":
        return value
    expected = (
        (list, "slice") if many else (dict, "map") if mapping else
        {"str": (str, "string"), "int": (int, "int"), "bool": (bool, "bool"), "float": ((int, float), "float64"),
         "datetime": (str, "Time"), "date": (str, "Time"), "bytes": (str, "[]uint8")}.get(kind, (dict, kind))
    )  # fmt: skip
    wrong = not isinstance(value, expected[0]) or (isinstance(value, bool) and kind in ("int", "float"))
    if wrong:
        said = GO_KINDS[type(value)]
        raise refusals.undecodable(
            resource, f"json: cannot unmarshal {said} into Go struct field {struct}.{go} of type {expected[1]}"
        )
    if many:
        return [
            _value(resource, struct, many[1], item, f"{where}[{i}]", go, unknown) for i, item in enumerate(value)
        ]  # fmt: skip
    if mapping:
        return {
            key: _value(resource, struct, mapping[1], item, f"{where}.{key}", go, unknown)
            for key, item in value.items()
            if item is not None
        }
    if kind == "bytes":
        _base64(resource, value)
    return _decode(resource, kind, value, where, go, unknown) if hasattr(models, kind) else value


def _quantity(resource, value):
    if not QUANTITY.match(str(value)):
        why = f"quantities must match the regular expression '{QUANTITY.pattern}'"
        raise refusals.undecodable(resource, why)
    return str(value)


def _base64(resource, value):
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        raise refusals.undecodable(resource, "illegal base64 data at input byte 0") from None


UNITS = {
    "": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


def quantity(text):
    """The number that a quantity such as `64Mi` or `500m` is."""
    number, unit = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(text)).groups()
    return float(number) * UNITS[unit]
