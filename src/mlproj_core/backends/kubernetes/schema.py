"""Whether a value has the shape of a Kubernetes object, by the models that the `kubernetes` package ships."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mlproj_core.backends.kubernetes.names import is_quantity
from mlproj_core.errors import UserError
from mlproj_core.spec.document import kind
from mlproj_core.spec.problem import closest, shown

__all__ = ["Misfit", "is_placeholder", "misfits", "path_text"]

Path = tuple[str | int, ...]

_PLAIN = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "float": (float, "a number"),
}
_ANYTHING = ("object", "datetime")
"""Types of many kinds of values, which the API server looks into."""
_QUANTITIES = ("limits", "requests", "sizeLimit", "divisor", "capacity", "overhead")
_PLACEHOLDER = re.compile(r"\{(replaced|appended) with .*\}", re.DOTALL)


@dataclass(frozen=True)
class Misfit:
    """Where a value is not what Kubernetes takes.

    Attributes:
        path: keys and indexes from the top of the value.
        is_key: whether the key is wrong, rather than what stands under it.
        message: what is wrong.
        remedy: how to mend it.
    """

    path: Path
    is_key: bool
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.message} — {self.remedy}"


def path_text(path: Path) -> str:
    """A path as people write it: `spec.template.spec.containers[0].image`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def is_placeholder(value: object) -> bool:
    """Whether a value stands, in the example of MLflow's documentation, for what is put in its place."""
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


def misfits(value: Any, model: str, path: Path = ()) -> Iterator[Misfit]:
    """Everything in a value that does not fit a model. A null is taken for nothing, as Kubernetes does.

    Args:
        value: the JSON value.
        model: a class of `kubernetes.client.models`, such as "V1Job", or a type as these name it: "list[V1Toleration]".
        path: where the value stands.

    Raises:
        UserError: the package `kubernetes` is not installed.
    """
    if value is None or is_placeholder(value):
        return
    if many := re.fullmatch(r"[Ll]ist\[(.+)\]", model):
        if not isinstance(value, list):
            yield Misfit(path, False, f"must be a list, and is {kind(value)}", "begin each item with a dash")
            return
        for index, item in enumerate(value):
            yield from misfits(item, many[1], (*path, index))
    elif mapping := re.fullmatch(r"[Dd]ict(?:\[str, |\(str, )(.+)[\])]", model):
        yield from _misfits_of_mapping(value, mapping[1], path)
    elif model in _PLAIN:
        yield from _misfit_of_plain(value, model, path)
    elif model not in _ANYTHING:
        yield from _misfits_of_object(value, model, path)


def _misfits_of_object(value: Any, model: str, path: Path) -> Iterator[Misfit]:
    if not isinstance(value, dict):
        yield Misfit(path, False, f"must be a mapping, and is {kind(value)}", "write it as keys with values")
        return
    fields = _fields(model)
    for name, item in value.items():
        where = (*path, str(name))
        if name in fields:
            yield from misfits(item, fields[name], where)
        else:
            meant = closest(str(name), fields)
            remedy = f"did you mean {meant!r}?" if meant else f"{_of_this_release()}{', '.join(sorted(fields))}"
            yield Misfit(where, True, f"Kubernetes knows no field {str(name)!r} here", remedy)


def _of_this_release() -> str:
    import kubernetes

    return f"the package kubernetes {kubernetes.__version__}, which must be as new as a new field is, has "


def _misfits_of_mapping(value: Any, model: str, path: Path) -> Iterator[Misfit]:
    if not isinstance(value, dict):
        yield Misfit(path, False, f"must be a mapping, and is {kind(value)}", "write it as names with values")
        return
    for name, item in value.items():
        if isinstance(name, str):
            yield from misfits(item, model, (*path, name))
        else:
            yield Misfit((*path, str(name)), True, f"the name {name!r} must be text", "quote it")


def _misfit_of_plain(value: Any, model: str, path: Path) -> Iterator[Misfit]:
    if any(part in path[-2:] for part in _QUANTITIES) and not isinstance(value, (dict, list)):
        if not is_quantity(value):
            yield Misfit(path, False, f"{shown(value)} is no amount", "give one such as 2, 500m or 4Gi")
        return
    expected, words = _PLAIN[model]
    fits = isinstance(value, (int, float) if expected is float else expected)
    if not fits or (isinstance(value, bool) and model != "bool"):
        remedy = "quote it" if model == "str" and not isinstance(value, (dict, list)) else f"give {words}"
        yield Misfit(path, False, f"must be {words}, and is {kind(value)}: {shown(value)}", remedy)


def _fields(model: str) -> dict[str, str]:
    """The fields of a model: the name in JSON, and its type."""
    found = getattr(_models(), model)
    return {found.attribute_map[name]: of for name, of in found.openapi_types.items()}


@functools.cache
def _models() -> ModuleType:
    try:
        from kubernetes.client import models
    except ImportError as error:
        raise UserError(
            "The Kubernetes backend needs the package kubernetes, which is not installed: pip install "
            "'mlproj[kubernetes]'."
        ) from error
    module: ModuleType = models
    return module
