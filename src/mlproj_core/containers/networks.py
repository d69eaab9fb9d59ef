"""Networks and ports of a container, as `docker run` takes them."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlproj_core.containers.body import merged
from mlproj_core.containers.flag_values import clean, fields, key_value
from mlproj_core.containers.sdk import require_docker

__all__ = ["add_host", "address", "endpoints", "expose", "link", "network", "publish"]

_FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "alias": lambda value: {"Aliases": [value]},
    "ip": lambda value: {"IPAMConfig": {"IPv4Address": address(value)}},
    "ip6": lambda value: {"IPAMConfig": {"IPv6Address": address(value)}},
    "link-local-ip": lambda value: {"IPAMConfig": {"LinkLocalIPs": [address(value)]}},
    "driver-opt": lambda value: {"DriverOpts": key_value(value)},
}
"""The fields of a network beside its name, and what they are of an endpoint (`opts/network.go` of docker/cli)."""


def address(text: str) -> str:
    """An IP address in its normal form."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be an IP address") from None


def add_host(text: str) -> list[str]:
    """A line of /etc/hosts, NAME:ADDRESS or NAME=ADDRESS."""
    name, found, target = text.partition("=" if "=" in text else ":")
    target = target.removeprefix("[").removesuffix("]")
    if not found or not name or ":" in name:
        raise ValueError("must be NAME:ADDRESS, as db:10.0.0.7 or host.docker.internal:host-gateway")
    if target != "host-gateway":
        address(target)
    return [f"{name}:{target}"]


def link(text: str) -> dict[str, Any]:
    """A container, NAME or NAME:ALIAS, for the default network and for one of the user's own."""
    if not text or text.count(":") > 1:
        raise ValueError("must be CONTAINER or CONTAINER:ALIAS")
    return {"HostConfig": {"Links": [text]}, "Endpoint": {"Links": [text]}}


def network(text: str) -> list[dict[str, Any]]:
    """A network by its name, or by fields `name=NAME,alias=ALIAS`."""
    if "=" not in text:
        return [{"name": clean(text), "endpoint": {}}]
    name, endpoint = "", dict[str, Any]()
    for field in fields(text):
        key, _, value = field.partition("=")
        if key == "name":
            name = clean(value)
        elif key in _FIELDS:
            endpoint = merged(endpoint, _FIELDS[key](value))
        else:
            raise ValueError(f"has the field {field!r}; known are name, {', '.join(_FIELDS)}")
    if not name:
        raise ValueError("has fields, but none is name=NETWORK")
    return [{"name": name, "endpoint": endpoint}]


def endpoints(networks: Sequence[Mapping[str, Any]], common: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of each network that has any.

    Args:
        networks: as `network` reads them.
        common: settings that were given as flags of their own: they are for the first network.

    Raises:
        ValueError: the networks cannot be had together, or have no such settings.
    """
    names = [str(each["name"]) for each in networks] or ["default"]
    if len(set(names)) < len(names):
        raise ValueError("names a network twice")
    own = [_is_users_own(name) for name in names]
    if len(names) > 1 and not all(own):
        raise ValueError(f"names several networks, of which {names[own.index(False)]} can only be the single one")
    if not own[0]:  # there, links are no matter of an endpoint
        common = {key: value for key, value in common.items() if key != "Links"}
    settings = [dict(each["endpoint"]) for each in networks] or [{}]
    settings[0] = merged(settings[0], common)
    if settings[0] and not own[0]:
        raise ValueError("must name a network of your own, for network-alias, ip and the like")
    return {name: each for name, each in zip(names, settings, strict=True) if each or len(names) > 1}


def _is_users_own(name: str) -> bool:
    return name not in ("default", "bridge", "host", "none") and not name.startswith("container:")


def publish(text: str) -> dict[str, Any]:
    """Ports that the host shows, [[ADDRESS:]PORT:]PORT[/PROTOCOL], each a single one or a range."""
    bindings = _bindings(text.lower())
    return {"Config": {"ExposedPorts": {port: {} for port in bindings}}, "HostConfig": {"PortBindings": bindings}}


def expose(text: str) -> dict[str, Any]:
    """Ports of the container, PORT[/PROTOCOL], a single one or a range."""
    if ":" in text:
        raise ValueError("must be a port or a range of ports in the container, as 8080 or 8000-8010/udp")
    return {port: {} for port in _bindings(text.lower())}


def _bindings(text: str) -> dict[str, list[dict[str, str]]]:
    require_docker()
    from docker.utils import convert_port_bindings
    from docker.utils.ports import build_port_bindings

    too_long = re.search(r"\d{6}", text.rpartition("]")[2])  # a range of millions of ports takes its time
    bindings: dict[str, list[dict[str, str]]] = {}
    if not too_long:
        with contextlib.suppress(ValueError):
            bindings = convert_port_bindings(build_port_bindings([text]))
    numbers = [port.partition("/")[0] for port in bindings]
    for each in bindings.values():
        if each[0]["HostIp"]:
            address(each[0]["HostIp"])
        numbers += each[0]["HostPort"].split("-")
    if not bindings or any(int(number or 0) > 65535 for number in numbers):
        raise ValueError("must be [[ADDRESS:]PORT:]PORT[/PROTOCOL], as 8080:80 or 127.0.0.1:8000-8010:8000-8010/udp")
    return bindings
