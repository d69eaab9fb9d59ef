"""The caller's arguments for `docker run`, as MLflow has them: `docker_args`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlproj_core.containers.body import merged, placed
from mlproj_core.containers.flags import ACCEPTED, FLAGS, REFUSED, Flag
from mlproj_core.containers.host import Host
from mlproj_core.containers.mounts import placed_volumes
from mlproj_core.containers.networks import endpoints
from mlproj_core.errors import UserError
from mlproj_core.spec.document import kind
from mlproj_core.spec.problem import closest, shown

__all__ = ["DockerArguments", "read_docker_args"]


@dataclass(frozen=True)
class DockerArguments:
    """What a caller asks of a container, in the words of the Engine API.

    Attributes:
        image: the image that was named; None for the project's own.
        platform: as `linux/amd64`; None for the engine's.
        environment: pairs that define a variable, and names of variables to copy. Secret.
        volumes: as for `docker run -v`, with absolute paths.
        config: keys of the container-create body.
        host_config: keys of its `HostConfig`.
        networking: the settings in networks, by their names: its `NetworkingConfig.EndpointsConfig`.
    """

    image: str | None = None
    platform: str | None = None
    environment: tuple[tuple[str, str] | str, ...] = field(default=(), repr=False)
    volumes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    host_config: Mapping[str, Any] = field(default_factory=dict)
    networking: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self, *, secrets: bool) -> dict[str, Any]:
        """These arguments as a JSON value.

        Args:
            secrets: with the environment. Without, there are only the names of its variables, under `names`, and
                `from_dict` makes of that arguments without an environment.
        """
        value: dict[str, Any] = {
            "image": self.image,
            "platform": self.platform,
            "volumes": list(self.volumes),
            "config": self.config,
            "host_config": self.host_config,
            "networking": self.networking,
        }
        if secrets:
            value["environment"] = [item if isinstance(item, str) else list(item) for item in self.environment]
        else:
            value["names"] = [item if isinstance(item, str) else item[0] for item in self.environment]
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> DockerArguments:
        """What `to_dict` gave."""
        environment = (item if isinstance(item, str) else (item[0], item[1]) for item in value.get("environment", ()))
        return cls(
            image=value["image"],
            platform=value["platform"],
            environment=tuple(environment),
            volumes=tuple(value["volumes"]),
            config=value["config"],
            host_config=value["host_config"],
            networking=value["networking"],
        )

    def merged_into(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A container-create body with these arguments in it, but for image, platform and environment.

        Lists and mappings of both are joined; of what can be only once, these arguments have the last word.

        Args:
            body: what the caller of the Engine API has put together.
        """
        part: dict[str, Any] = {**self.config, "HostConfig": self.host_config}
        if self.networking:
            part["NetworkingConfig"] = {"EndpointsConfig": self.networking}
        return merged(merged(body, part), placed_volumes(self.volumes))


def read_docker_args(
    docker_args: Mapping[str, Any] | None,
    *,
    directory: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> DockerArguments:
    """Read `docker_args`, by the rules of docker's command line.

    Args:
        docker_args: values by the names of flags, without leading dashes; `_` stands for `-` as well. A value is text
            or a number; True for a flag without a value, False to leave a flag out; a list for one that is given
            several times; a mapping for what docker writes as NAME=VALUE or as SOURCE:TARGET.
        directory: where relative paths start: the project's. None: the current one.
        environ: the variables that paths may name (`$HOME/data`). None: this process's.

    Raises:
        UserError: a flag is unknown or has no place here, or a value is bad: all of them, each with its flag. Or the
            docker SDK is needed and not installed.
    """
    host = Host(Path(os.path.abspath(directory or ".")), os.environ if environ is None else environ)  # noqa: PTH100
    found: dict[str, Any] = {}
    problems: list[str] = []
    given: dict[str, str] = {}
    # As docker does: what stands in a file comes first, so that what is given itself overrides it.
    for name, value in sorted((docker_args or {}).items(), key=lambda item: not str(item[0]).endswith("file")):
        try:
            flag = _flag(name, value)
            if flag is None:
                continue
            if not flag.many and flag.name in given:
                raise ValueError(f"is another name of {given[flag.name]}, which is given as well")
            given[flag.name] = name
            for text in _texts(flag, value):
                found = merged(found, _part(flag, text, host))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if "no-healthcheck" in given and (others := [name for name in given if name.startswith("health-")]):
        problems.append(f"no-healthcheck: takes away what {' and '.join(others)} would set")
    try:
        found = _finished(found)
    except ValueError as error:
        problems.append(str(error))
    if len(problems) == 1:
        raise UserError(f"docker_args: {problems[0]}")
    if problems:
        raise UserError("\n".join([f"docker_args, {len(problems)} problems:", *(f"  {each}" for each in problems)]))
    return DockerArguments(
        image=found.get("image"),
        platform=found.get("platform"),
        environment=tuple(found.get("environment", ())),
        volumes=tuple(found.get("volumes", ())),
        config=found.get("Config", {}),
        host_config=found.get("HostConfig", {}),
        networking=found.get("endpoints", {}),
    )


def _flag(name: Any, value: Any) -> Flag | None:
    """The flag of a name; None if it is left out, or says what holds in any case."""
    if not isinstance(name, str):
        raise ValueError("must be the name of a flag, as text")
    plain = name.replace("_", "-")
    flag = FLAGS.get(plain)
    if flag is None and plain not in REFUSED:
        meant = closest(name, [*FLAGS, *REFUSED])
        raise ValueError("is no flag of docker run" + (f"; did you mean {meant}?" if meant else ""))
    if value is False or (flag is None and ACCEPTED.get(plain) == str(value).lower()):
        return None
    if flag is None:
        raise ValueError(REFUSED[plain])
    return flag


def _texts(flag: Flag, value: Any) -> Iterable[str]:
    """The texts of a value, one for each time that the flag is given."""
    if isinstance(value, Mapping):
        if flag.pair is None:
            raise ValueError("must be text, or a list of texts" if flag.many else "must be text or a number")
        if not all(isinstance(key, str) for key in value):
            raise ValueError("must have texts as keys")
        return [flag.pair(key, each) for key, each in value.items()]
    if not isinstance(value, list | tuple):
        return [_text(flag, value)]
    if not flag.many:
        raise ValueError("can be given once only, found a list")
    return [_text(flag, each) for each in value]


def _text(flag: Flag, value: Any) -> str:
    if flag.pair is not None and isinstance(value, list | tuple) and len(value) == 2:
        return flag.pair(str(value[0]), value[1])  # as docker_env has its variables
    if value is True and not flag.bare:
        raise ValueError("needs a value")
    if not isinstance(value, str | int | float):
        expected = "text, a number or a list of them" if flag.many else "text or a number"
        raise ValueError(f"must be {expected}, found {kind(value)}")
    return str(value)


def _part(flag: Flag, text: str, host: Host) -> dict[str, Any]:
    try:
        value = flag.read(text, host)
    except ValueError as error:
        raise ValueError(str(error) if flag.secret else f"{shown(text)} {error}") from None
    return placed(flag.place, value) if flag.place else value


def _finished(found: dict[str, Any]) -> dict[str, Any]:
    """What several flags say together.

    Raises:
        ValueError: they do not go together.
    """
    networks = found.get("networks", [])
    try:
        own = endpoints(networks, found.get("Endpoint", {}))
    except ValueError as error:
        raise ValueError(f"network: {error}") from None
    result = {key: value for key, value in found.items() if key not in ("networks", "Endpoint")}
    result["endpoints"] = own
    if networks:
        result = merged(result, placed("HostConfig.NetworkMode", networks[0]["name"]))
    if ulimits := result.get("HostConfig", {}).get("Ulimits"):  # of one limit the last holds, as for docker
        result["HostConfig"] = {**result["HostConfig"], "Ulimits": [ulimits[name] for name in sorted(ulimits)]}
    return result
