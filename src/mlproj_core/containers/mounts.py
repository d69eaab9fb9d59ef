"""Volumes and mounts, as `docker run` takes them for `-v` and `--mount`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlproj_core.containers.body import merged, placed
from mlproj_core.containers.flag_values import choice, fields, key_value, octal, size, switch
from mlproj_core.containers.host import Host
from mlproj_core.errors import UserError
from mlproj_core.spec.problem import shown

__all__ = ["placed_volumes", "read_mount", "read_volume", "resolve_volumes", "volume_of_pair"]

_MODES = {
    "ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent",
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
}  # fmt: skip
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)
_PROPAGATION = choice("private", "rprivate", "shared", "rshared", "slave", "rslave")

_FIELDS: dict[str, tuple[str, Any]] = {
    "type": ("Type", choice("bind", "volume", "tmpfs")),
    "source": ("Source", str),
    "src": ("Source", str),
    "target": ("Target", str),
    "dst": ("Target", str),
    "destination": ("Target", str),
    "readonly": ("ReadOnly", switch),
    "ro": ("ReadOnly", switch),
    "consistency": ("Consistency", str),
    "bind-propagation": ("BindOptions.Propagation", _PROPAGATION),
    "bind-nonrecursive": ("BindOptions.NonRecursive", switch),
    "bind-recursive": ("BindOptions.NonRecursive", lambda text: choice("disabled")(text) == text),
    "volume-nocopy": ("VolumeOptions.NoCopy", switch),
    "volume-label": ("VolumeOptions.Labels", key_value),
    "volume-driver": ("VolumeOptions.DriverConfig.Name", str),
    "volume-opt": ("VolumeOptions.DriverConfig.Options", key_value),
    "tmpfs-size": ("TmpfsOptions.SizeBytes", size),
    "tmpfs-mode": ("TmpfsOptions.Mode", octal),
}
"""The fields of `--mount`, where their values go, and how they are read (`opts/mount.go` of docker/cli)."""

NEWER_FIELDS = ("bind-create-src", "image-subpath", "volume-subpath")
"""Fields that older engines ignore, so that something else would be mounted than was asked for."""

_SWITCHES = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive")


def read_volume(text: str, host: Host) -> str:
    """A volume, SOURCE:TARGET[:MODE] or the TARGET of an anonymous one, with the source as the engine takes it.

    Raises:
        ValueError: it is none.
    """
    source, *rest = text.split(":")
    if not rest:
        source, target = "", source
    else:
        target = rest[0]
    if (rest and not source) or len(rest) > 2 or not target.startswith("/") or (len(rest) == 2 and not rest[1]):
        raise ValueError("must be SOURCE:/TARGET or SOURCE:/TARGET:MODE, as /data:/data:ro")
    if unknown := set(rest[1].split(",") if len(rest) == 2 else ()) - _MODES:
        raise ValueError(f"has the mode {', '.join(sorted(unknown))}; known are {', '.join(sorted(_MODES))}")
    if not rest:
        return text
    source = host.path(source)
    if not source.startswith("/") and not _VOLUME_NAME.fullmatch(source):
        raise ValueError(f"names no volume; if a directory of the project is meant, write ./{source}")
    return ":".join([source, *rest])


def resolve_volumes(volumes: Iterable[str], host: Host) -> tuple[str, ...]:
    """`docker_env.volumes` of an MLproject, as the engine takes them.

    Raises:
        UserError: one of them is no volume; all such are named.
    """
    found, problems = [], []
    for volume in volumes:
        try:
            found.append(read_volume(volume, host))
        except ValueError as error:
            problems.append(f"{shown(volume)} {error}")
    if problems:
        raise UserError(f"docker_env.volumes of the MLproject: {'; '.join(problems)}")
    return tuple(found)


def volume_of_pair(source: str, target: Any) -> str:
    """The text of a volume that is given in a mapping: `{"/here": "/there"}`, or the docker SDK's form.

    Args:
        source: the path on the host, or a volume's name.
        target: the path in the container, with `:ro` or not, or `{"bind": path, "mode": "ro"}`.

    Raises:
        ValueError: the target is neither.
    """
    if isinstance(target, Mapping) and set(target) <= {"bind", "mode"} and isinstance(target.get("bind"), str):
        parts = [source, target["bind"], *([target["mode"]] if target.get("mode") else [])]
    else:
        parts = [source, target]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError('must be {"/here": "/there"} or {"/here": {"bind": "/there", "mode": "ro"}}')
    return ":".join(parts)


def placed_volumes(volumes: Iterable[str]) -> dict[str, Any]:
    """The part of a container-create body that mounts volumes.

    Args:
        volumes: as `read_volume` gives them.
    """
    part: dict[str, Any] = {}
    for volume in volumes:
        if ":" in volume:
            part = merged(part, placed("HostConfig.Binds", [volume]))
        else:
            part = merged(part, {"Volumes": {volume: {}}})
    return part


def read_mount(text: str, host: Host) -> list[dict[str, Any]]:
    """A mount of fields `type=bind,source=/here,target=/there,readonly`, as the Engine API takes it.

    Raises:
        ValueError: it is none.
    """
    mount: dict[str, Any] = {"Type": "volume"}
    for field in fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key in NEWER_FIELDS:
            raise ValueError(f"has the field {key}, which older engines ignore")
        if key not in _FIELDS or not (equals or key in _SWITCHES):
            raise ValueError(f"has the field {field!r}; known are {', '.join(_FIELDS)}, each with =VALUE")
        place, read = _FIELDS[key]
        try:
            mount = merged(mount, placed(place, read(value if equals else "true")))
        except ValueError as error:
            raise ValueError(f"has a bad {key}, which {error}") from None
    kind = mount["Type"]
    if not str(mount.get("Target", "")).startswith("/"):
        raise ValueError("needs a target, an absolute path in the container")
    for other in ("bind", "volume", "tmpfs"):
        if other != kind and f"{other.title()}Options" in mount:
            raise ValueError(f"has options {other}-… though its type is {kind}")
    if kind == "bind":
        mount["Source"] = host.path(mount.get("Source", ""))
        if not mount["Source"].startswith("/"):
            raise ValueError("needs a source, a path on the host")
    return [mount]
