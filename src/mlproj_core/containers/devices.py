"""Devices and GPUs of the host, as `docker run` names them; readers as in `flag_values`."""

from __future__ import annotations

import re
from typing import Any

from mlproj_core.containers.flag_values import Reader, size, whole

__all__ = ["capped_rate", "capped_requests", "device", "device_rule", "gpus", "weighted_device"]

_CDI_DEVICE = re.compile(r"[\w.-]+/[\w.-]+=[\w.:-]+", re.ASCII)
_MODES = re.compile(r"(?!.*(.).*\1)[rwm]+")

_GPUS = 'must be "all", a number, or fields such as "device=0,1" and "capabilities=compute,utility"'

LISTS = ("device", "capabilities", "options")
"""Fields of a request for GPUs that are lists."""


def gpus(text: str) -> list[dict[str, Any]]:
    """GPUs: `all`, a count, or `device=0,1` and other fields `driver`, `count`, `capabilities` and `options`.

    Unlike for docker, a list needs no quotes of its own: `device=0,1` means both.
    """
    fields: dict[str, list[str]] = {}
    field = ""
    for part in text.replace('"', "").split(","):
        key, equals, value = part.partition("=")
        if equals and key in (*LISTS, "driver", "count"):
            if key in fields:
                raise ValueError(_GPUS)
            field, fields[key] = key, [value]
        elif field in LISTS:
            fields[field].append(part)
        elif not equals and "count" not in fields:
            fields["count"] = [part]
        else:
            raise ValueError(_GPUS)
    count = fields.get("count", ["0" if "device" in fields else "1"])[0]
    if not re.fullmatch(r"all|-1|\d+", count, re.ASCII) or ("count" in fields and "device" in fields):
        raise ValueError(_GPUS)
    options = [option.partition("=") for option in fields.get("options", [])]
    return [
        {
            "Driver": fields.get("driver", [""])[0],
            "Count": -1 if count == "all" else int(count),
            "DeviceIDs": fields.get("device"),
            "Capabilities": [[*fields.get("capabilities", []), "gpu"]],
            "Options": {key: value for key, _, value in options},
        }
    ]


def bind_device(text: str) -> dict[str, str]:
    """A device of the host, PATH, PATH:MODES, PATH:PATH or PATH:PATH:MODES."""
    parts = text.split(":")
    inside, modes = parts[0], "rwm"
    if len(parts) == 2 and not _MODES.fullmatch(parts[1]):
        inside = parts[1]
    elif len(parts) == 2:
        modes = parts[1]
    elif len(parts) == 3:
        inside, modes = parts[1:]
    if not parts[0] or len(parts) > 3 or not inside.startswith("/") or not _MODES.fullmatch(modes):
        raise ValueError("must be a path, PATH:PATH-IN-THE-CONTAINER or that with :rwm, as /dev/fuse:/dev/fuse:rw")
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": modes}


def device(text: str) -> dict[str, Any]:
    """A device of the host, or by its name under the Container Device Interface, VENDOR/CLASS=NAME."""
    if _CDI_DEVICE.fullmatch(text):
        return {"HostConfig": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [text]}]}}
    return {"HostConfig": {"Devices": [bind_device(text)]}}


def device_rule(text: str) -> list[str]:
    """A rule of the control group for devices, TYPE MAJOR:MINOR MODES."""
    if not re.fullmatch(r"[acb] (\d+|\*):(\d+|\*) [rwm]{1,3}", text, re.ASCII):
        raise ValueError("must be a rule such as c 1:3 rwm")
    return [text]


def _of_device(value: Reader, example: str) -> Reader:
    def read(text: str) -> tuple[str, int]:
        path, _, number = text.rpartition(":")
        try:
            if path.startswith("/dev/"):
                return path, int(value(number))
        except ValueError:
            pass
        raise ValueError(f"must be a device and a number, as {example}")

    return read


def capped_rate(text: str) -> list[dict[str, Any]]:
    """Bytes a second of a device."""
    path, rate = _of_device(size, "/dev/sda:10m")(text)
    return [{"Path": path, "Rate": rate}]


def capped_requests(text: str) -> list[dict[str, Any]]:
    """Requests a second of a device."""
    path, rate = _of_device(whole(0), "/dev/sda:1000")(text)
    return [{"Path": path, "Rate": rate}]


def weighted_device(text: str) -> list[dict[str, Any]]:
    """A device's share of input and output."""
    path, weight = _of_device(whole(10, 1000), "/dev/sda:200, the number from 10 to 1000")(text)
    return [{"Path": path, "Weight": weight}]
