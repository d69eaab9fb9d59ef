"""The flags of `docker run`: how each is read, and where it goes in the Engine API's container-create body."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlproj_core.containers.devices import capped_rate, capped_requests, device, device_rule, gpus, weighted_device
from mlproj_core.containers.flag_values import (
    Reader,
    absolute,
    any_text,
    capability,
    choice,
    clean,
    cpus,
    duration,
    in_a_list,
    key_value,
    option,
    platform,
    size,
    size_or_unlimited,
    switch,
    sysctl,
    tmpfs,
    ulimit,
    whole,
)
from mlproj_core.containers.host import Host
from mlproj_core.containers.key_value_file import read_key_values
from mlproj_core.containers.mounts import read_mount, read_volume, volume_of_pair
from mlproj_core.containers.networks import add_host, address, expose, link, network, publish

__all__ = ["ACCEPTED", "FLAGS", "REFUSED", "Flag"]


@dataclass(frozen=True)
class Flag:
    """A flag of `docker run`.

    Attributes:
        name: its name, without dashes.
        place: where its value goes, as `body.placed` has it. The first key is `Config` or `HostConfig`; `Endpoint` for
            what is set in the first network; or the name of an attribute of `DockerArguments`. Empty where the reader
            itself gives a part with several places.
        read: its value from its text. Raises ValueError that says what is wrong, without the text.
        also: its other names.
        many: whether it can be given several times.
        bare: whether it is a flag without a value.
        pair: for a flag that can be given as a mapping: the text of one key and its value.
        secret: whether no message may show its value.
    """

    name: str
    place: str
    read: Callable[[str, Host], Any]
    also: tuple[str, ...] = ()
    many: bool = False
    bare: bool = False
    pair: Callable[[str, Any], str] | None = None
    secret: bool = False


def _joined(joint: str, key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must have texts or numbers as values")
    return f"{key}{joint}{value}"


_with_equals = partial(_joined, "=")
_with_colon = partial(_joined, ":")


def _plain(read: Reader) -> Callable[[str, Host], Any]:
    return lambda text, _: read(text)


def _one(name: str, place: str, read: Reader, *also: str) -> Flag:
    return Flag(name, place, _plain(read), also)


def _many(name: str, place: str, read: Reader, *also: str, pair: Callable[[str, Any], str] | None = None) -> Flag:
    return Flag(name, place, _plain(read), also, many=True, pair=pair)


def _bare(name: str, place: str, *also: str, read: Reader = switch) -> Flag:
    return Flag(name, place, _plain(read), also, bare=True)


# -- readers that are for one flag only


def _variable(text: str) -> list[tuple[str, str] | str]:
    name, equals, value = text.partition("=")
    if not name or "\0" in text:
        raise ValueError("must be NAME=VALUE, or the NAME of a variable to copy")
    return [(name, value) if equals else name]


def _variables_of_file(text: str, host: Host) -> list[tuple[str, str] | str]:
    return [name if value is None else (name, value) for name, value in read_key_values(host.file(text))]


def _volume(text: str, host: Host) -> list[str]:
    return [read_volume(text, host)]


def _label(text: str) -> dict[str, str]:
    label = key_value(text)
    if next(iter(label)).lstrip().startswith("mlproj."):
        raise ValueError("is of mlproj's own: it finds its containers by such labels")
    return label


def _labels_of_file(text: str, host: Host) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name, value in read_key_values(host.file(text)):
        labels |= _label(f"{name}={value or ''}")
    return labels


def _security(text: str, host: Host) -> dict[str, Any]:
    """A security option; a seccomp profile's file is sent by its content, and the system's paths are lists."""
    name, _, value = text.partition("=" if "=" in text or text == "no-new-privileges" else ":")
    if name != "no-new-privileges" and not value:
        raise ValueError("must be NAME=VALUE, or no-new-privileges")
    if text == "systempaths=unconfined":
        return {"HostConfig": {"MaskedPaths": [], "ReadonlyPaths": []}}
    if name == "seccomp" and value not in ("builtin", "unconfined"):
        try:
            profile = json.loads(host.file(value).read_text())
        except OSError as error:
            raise ValueError(f"names a profile that cannot be read: {error.strerror}") from None
        except ValueError:
            raise ValueError("names a profile that is not JSON") from None
        text = f"seccomp={json.dumps(profile, separators=(',', ':'))}"
    return {"HostConfig": {"SecurityOpt": [text]}}


def _log_driver(text: str) -> str:
    if text == "none":
        raise ValueError("would leave no output that mlproj could follow")
    return text


def _health_command(text: str) -> list[str]:
    return ["CMD-SHELL", text]


def _no_health_check(text: str) -> dict[str, Any]:
    return {"Config": {"Healthcheck": {"Test": ["NONE"]}}} if switch(text) else {}


_FLAGS = (
    # The image
    _one("image", "image", clean),
    _one("platform", "platform", platform),
    _one("entrypoint", "Config.Entrypoint", in_a_list),
    _one("workdir", "Config.WorkingDir", absolute, "w"),
    _one("user", "Config.User", any_text, "u"),
    _many("group-add", "HostConfig.GroupAdd", in_a_list),
    # Variables, labels, files
    Flag("env", "environment", _plain(_variable), ("e", "environment"), many=True, pair=_with_equals, secret=True),
    Flag("env-file", "environment", _variables_of_file, many=True),
    _many("label", "Config.Labels", _label, "l", pair=_with_equals),
    Flag("label-file", "Config.Labels", _labels_of_file, many=True),
    Flag("volume", "volumes", _volume, ("v", "volumes"), many=True, pair=volume_of_pair),
    Flag("mount", "HostConfig.Mounts", read_mount, many=True),
    _many("tmpfs", "HostConfig.Tmpfs", tmpfs, pair=_with_colon),
    _many("volumes-from", "HostConfig.VolumesFrom", in_a_list),
    _one("volume-driver", "HostConfig.VolumeDriver", any_text),
    _many("storage-opt", "HostConfig.StorageOpt", option, pair=_with_equals),
    _bare("read-only", "HostConfig.ReadonlyRootfs"),
    # Memory
    _one("memory", "HostConfig.Memory", size, "m"),
    _one("memory-reservation", "HostConfig.MemoryReservation", size),
    _one("memory-swap", "HostConfig.MemorySwap", size_or_unlimited),
    _one("memory-swappiness", "HostConfig.MemorySwappiness", whole(-1, 100)),
    _one("shm-size", "HostConfig.ShmSize", size),
    _bare("oom-kill-disable", "HostConfig.OomKillDisable"),
    _one("oom-score-adj", "HostConfig.OomScoreAdj", whole(-1000, 1000)),
    # Processors and devices
    _one("cpus", "HostConfig.NanoCpus", cpus),
    _one("cpu-shares", "HostConfig.CpuShares", whole(0), "c"),
    _one("cpu-period", "HostConfig.CpuPeriod", whole(0)),
    _one("cpu-quota", "HostConfig.CpuQuota", whole(-1)),
    _one("cpu-rt-period", "HostConfig.CpuRealtimePeriod", whole(0)),
    _one("cpu-rt-runtime", "HostConfig.CpuRealtimeRuntime", whole(0)),
    _one("cpuset-cpus", "HostConfig.CpusetCpus", any_text),
    _one("cpuset-mems", "HostConfig.CpusetMems", any_text),
    _many("gpus", "HostConfig.DeviceRequests", gpus),
    _many("device", "", device),
    _many("device-cgroup-rule", "HostConfig.DeviceCgroupRules", device_rule),
    _many("device-read-bps", "HostConfig.BlkioDeviceReadBps", capped_rate),
    _many("device-write-bps", "HostConfig.BlkioDeviceWriteBps", capped_rate),
    _many("device-read-iops", "HostConfig.BlkioDeviceReadIOps", capped_requests),
    _many("device-write-iops", "HostConfig.BlkioDeviceWriteIOps", capped_requests),
    _one("blkio-weight", "HostConfig.BlkioWeight", whole(0, 1000)),
    _many("blkio-weight-device", "HostConfig.BlkioWeightDevice", weighted_device),
    # The network
    _many("network", "networks", network, "net"),
    _many("network-alias", "Endpoint.Aliases", in_a_list, "net-alias"),
    _one("ip", "Endpoint.IPAMConfig.IPv4Address", address),
    _one("ip6", "Endpoint.IPAMConfig.IPv6Address", address),
    _many("link-local-ip", "Endpoint.IPAMConfig.LinkLocalIPs", lambda text: [address(text)]),
    _many("link", "", link),
    _one("hostname", "Config.Hostname", any_text, "h"),
    _one("domainname", "Config.Domainname", any_text),
    _many("add-host", "HostConfig.ExtraHosts", add_host, pair=_with_colon),
    _many("dns", "HostConfig.Dns", lambda text: [address(text)]),
    _many("dns-option", "HostConfig.DnsOptions", in_a_list, "dns-opt"),
    _many("dns-search", "HostConfig.DnsSearch", lambda text: [clean(text)]),
    _many("publish", "", publish, "p"),
    _bare("publish-all", "HostConfig.PublishAllPorts", "P"),
    _many("expose", "Config.ExposedPorts", expose),
    # Namespaces and rights
    _one("ipc", "HostConfig.IpcMode", choice("none", "private", "shareable", "host", prefixes=("container:",))),
    _one("pid", "HostConfig.PidMode", choice("host", prefixes=("container:",))),
    _one("uts", "HostConfig.UTSMode", choice("host")),
    _one("userns", "HostConfig.UsernsMode", choice("host")),
    _one("cgroupns", "HostConfig.CgroupnsMode", choice("host", "private")),
    _one("cgroup-parent", "HostConfig.CgroupParent", any_text),
    _bare("privileged", "HostConfig.Privileged"),
    _many("cap-add", "HostConfig.CapAdd", capability),
    _many("cap-drop", "HostConfig.CapDrop", capability),
    Flag("security-opt", "", _security, many=True),
    _many("ulimit", "HostConfig.Ulimits", ulimit, pair=_with_equals),
    _one("pids-limit", "HostConfig.PidsLimit", whole(-1)),
    _many("sysctl", "HostConfig.Sysctls", sysctl, pair=_with_equals),
    # Its life
    _bare("init", "HostConfig.Init"),
    _one("runtime", "HostConfig.Runtime", any_text),
    _one("stop-signal", "Config.StopSignal", any_text),
    _one("stop-timeout", "Config.StopTimeout", whole(-1)),
    _one("log-driver", "HostConfig.LogConfig.Type", _log_driver),
    _many("log-opt", "HostConfig.LogConfig.Config", key_value, pair=_with_equals),
    _one("health-cmd", "Config.Healthcheck.Test", _health_command),
    _one("health-interval", "Config.Healthcheck.Interval", duration),
    _one("health-timeout", "Config.Healthcheck.Timeout", duration),
    _one("health-start-period", "Config.Healthcheck.StartPeriod", duration),
    _one("health-retries", "Config.Healthcheck.Retries", whole(0)),
    _bare("no-healthcheck", "", read=_no_health_check),
)  # fmt: skip

FLAGS = {name: flag for flag in _FLAGS for name in (flag.name, *flag.also)}
"""Each flag that can be given, by each of its names."""

ACCEPTED = {"detach": "true", "d": "true", "rm": "true", "restart": "no", "pull": "missing"}
"""Flags with the one value that says what mlproj does in any case."""

_OWN_INPUT = "mlproj gives the container no input of the caller's, who may be gone"
_NAME = "mlproj names the container itself, so that it can be found again"
_END = "mlproj removes the container itself, once its end is on record"
_DETACHED = "mlproj's containers are always detached, and it follows their output itself"
_PULL = "mlproj pulls an image that is not there, and writes the progress to the run's log"
_WINDOWS = "it is for containers of Windows only"
_NEWER = "older engines ignore it, and something else would run than was asked for"

REFUSED = {
    "attach": _DETACHED,
    "a": _DETACHED,
    "annotation": _NEWER,
    "cidfile": _NAME,
    "cpu-count": _WINDOWS,
    "cpu-percent": _WINDOWS,
    "d": _DETACHED,
    "detach": _DETACHED,
    "detach-keys": _DETACHED,
    "disable-content-trust": "docker has given up content trust",
    "health-start-interval": _NEWER,
    "help": "see `docker run --help`",
    "i": _OWN_INPUT,
    "interactive": _OWN_INPUT,
    "io-maxbandwidth": _WINDOWS,
    "io-maxiops": _WINDOWS,
    "isolation": _WINDOWS,
    "kernel-memory": "Linux no longer has such a limit; give memory",
    "mac-address": "engines differ in where they take it",
    "name": _NAME,
    "pull": _PULL,
    "q": _PULL,
    "quiet": _PULL,
    "restart": "mlproj records the end of a run; to start it again is the retry of the step",
    "rm": _END,
    "sig-proxy": "mlproj ends the container itself when the run is cancelled",
    "t": "mlproj keeps the output as it is written, and a terminal would change it",
    "tty": "mlproj keeps the output as it is written, and a terminal would change it",
    "use-api-socket": "mount the engine's socket by volumes, if the project must have it",
}
"""Flags of `docker run` that have no place here, and why."""
