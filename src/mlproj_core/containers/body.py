"""The body of the Engine API's container-create call, put together of parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["merged", "placed"]

VECTORS = ("Cmd", "Entrypoint", "Test")
"""Keys whose list is one value, and no collection: the later part replaces it."""


def placed(place: str, value: Any) -> dict[str, Any]:
    """The part that holds one value.

    Args:
        place: the keys that lead to it, joined by dots: `HostConfig.Memory`.
        value: a JSON value.
    """
    for key in reversed(place.split(".")):
        value = {key: value}
    part: dict[str, Any] = value
    return part


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both parts in one: mappings key by key, lists one after the other, and of all else the second's."""
    result = dict(first)
    for key, value in second.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            result[key] = merged(before, value)
        elif isinstance(before, list) and isinstance(value, list) and key not in VECTORS:
            result[key] = [*before, *value]
        else:
            result[key] = value
    return result
