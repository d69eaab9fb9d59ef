"""The Docker engine: where it is, by the rules of Docker's own program, and a connection to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlproj_core.containers.sdk import require_docker
from mlproj_core.errors import ContactLost, UserError

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["DEFAULT_HOST", "OLDEST_API", "connect", "engine_host", "in_contact", "is_local"]

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
"""The engine of a host where nothing says otherwise."""

OLDEST_API: Final = (1, 40)
"""Version of the Engine API that is needed: that of Docker 19.03, the first with `--gpus`."""

TIMEOUT: Final = 60
"""Seconds for one answer of the engine, those that stream excepted."""

_DEFAULT_CONTEXT: Final = "default"


def engine_host(environ: Mapping[str, str]) -> str:
    """The address of the engine that `docker` itself would ask; nothing is contacted.

    As in Docker's program (`resolveContextName` of its cli/command/cli.go): DOCKER_HOST, else the context that
    DOCKER_CONTEXT or the configuration file's `currentContext` names, else the host's own socket.

    Args:
        environ: the caller's environment.

    Raises:
        UserError: the context does not exist, or its file cannot be read.
    """
    if host := environ.get("DOCKER_HOST"):
        return host
    directory = _config_directory(environ)
    name = environ.get("DOCKER_CONTEXT") or _current_context(directory / "config.json")
    if name == _DEFAULT_CONTEXT:
        return DEFAULT_HOST
    endpoint = _read_endpoint(directory, _identity(name))
    if endpoint is None:
        raise UserError(
            f"There is no Docker context {name!r} in {directory}, though "
            f"{'DOCKER_CONTEXT' if environ.get('DOCKER_CONTEXT') else 'currentContext of its config.json'} names it. "
            "`docker context ls` lists those there are; DOCKER_HOST names an engine without one."
        )
    return endpoint.host or DEFAULT_HOST


def is_local(host: str) -> bool:
    """Whether an engine is on this host, by its address: one with a unix socket can mount this host's directories."""
    return host.startswith(("unix://", "http+unix://", "/"))


def connect(host: str | None = None, environ: Mapping[str, str] | None = None) -> APIClient:
    """A connection to an engine; it is the caller's to close, and closes itself as a context manager.

    Over TCP it is secured as `docker` does: by DOCKER_TLS_VERIFY and DOCKER_CERT_PATH when DOCKER_HOST is this host,
    else by the TLS files of the context that has this host.

    Args:
        host: the engine's address, as in DOCKER_HOST; None for `engine_host`.
        environ: the caller's environment; None for this process's.

    Raises:
        UserError: Docker's SDK is not installed, the address is none, the engine may not be used or is too old.
        ContactLost: nobody answers there.
    """
    environ = os.environ if environ is None else environ
    host = host or engine_host(environ)
    require_docker()
    from docker.errors import DockerException

    try:
        with in_contact(host):
            _knock(host)
            client = _client_class()(
                base_url=host,
                version="auto",
                timeout=TIMEOUT,
                tls=_tls(host, environ) or False,
                use_ssh_client=host.startswith("ssh://"),  # as Docker's program; it knows the user's ~/.ssh/config
            )
    except DockerException as error:
        raise _refusal(host, error) from error
    version = str(client.api_version)
    if tuple(int(part) for part in version.split(".")) < OLDEST_API:
        client.close()
        raise _too_old(host, version)
    return client


@contextmanager
def in_contact(host: str) -> Iterator[None]:
    """Say what to do when the connection to an engine fails within the block.

    Args:
        host: the engine's address, for the message.

    Raises:
        ContactLost: nobody answers there any more.
        UserError: this user may not use the engine's socket.
    """
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except APIError:
        raise  # it has answered
    except (DockerException, RequestException, OSError) as error:
        trouble = _trouble(error)
        if trouble is None:
            raise
        if isinstance(trouble, PermissionError):
            raise UserError(
                f"You may not use the Docker engine at {host}: permission denied. Is this user in the group docker? "
                "(sudo usermod -aG docker USER, and log in again; or set DOCKER_HOST to an engine of your own.)"
            ) from error
        raise ContactLost(
            f"The Docker engine at {host} cannot be reached: {_words(trouble)}. {_remedy(host)}"
        ) from error


def _knock(host: str) -> None:
    """Open the engine's socket and close it again: when that fails, the SDK would leave a socket open."""
    if host.startswith("unix://"):
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(TIMEOUT)
            one.connect(f"/{host.removeprefix('unix://').lstrip('/')}")


def _client_class() -> type[APIClient]:
    import docker

    class Client(docker.APIClient):  # type: ignore[misc]
        def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            # REQUESTS_CA_BUNDLE is for the web; requests would have it count for more than the engine's own authority.
            verify = self.verify if verify is None else verify
            return super().merge_environment_settings(url, proxies, stream, verify, cert)

    return Client


def _trouble(error: BaseException) -> BaseException | None:
    """The failure of a connection that an error of the SDK or of requests stems from; None if it stems from another."""
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import Timeout

    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.append(one)
        waiting += [part for part in (one.__cause__, one.__context__, *one.args) if isinstance(part, BaseException)]
    # The operating system's own error says most; those of requests are OSErrors without a number.
    for each in seen:
        if isinstance(each, OSError) and each.errno is not None:
            return each
    return next((each for each in seen if isinstance(each, (Unreachable, Timeout))), None)


def _words(trouble: BaseException) -> str:
    if isinstance(trouble, OSError) and trouble.errno is not None:
        if trouble.errno == errno.ENOENT:
            return "there is no such socket"
        return str(trouble.strerror or trouble).lower()
    return str(trouble)


def _remedy(host: str) -> str:
    if is_local(host):
        return "Is the daemon running? (sudo systemctl start docker, or set DOCKER_HOST.)"
    return "Is the daemon running there, and the network up? `docker -H HOST version` tries the same."


def _refusal(host: str, error: Exception) -> UserError:
    from docker.errors import InvalidVersion

    if isinstance(error, InvalidVersion):
        return _too_old(host, None)
    if "paramiko" in str(error):
        return UserError(f"To reach the Docker engine at {host} by SSH takes a library: pip install 'docker[ssh]'")
    said = str(error).rstrip(".")
    return UserError(f"No Docker engine can be used at {host}: {said}. Is DOCKER_HOST right, as in {DEFAULT_HOST}?")


def _too_old(host: str, version: str | None) -> UserError:
    oldest = ".".join(map(str, OLDEST_API))
    has = f"speaks version {version} of its API" if version else "speaks a version of its API that is too old"
    return UserError(f"The Docker engine at {host} {has}, and {oldest} (Docker 19.03) or later is needed: update it.")


# -- contexts


@dataclass(frozen=True)
class _Endpoint:
    """An engine of a context.

    Attributes:
        host: its address; None for the host's own socket.
        skip_verify: whether its certificate is taken unseen.
        files: the directory of the context's TLS files.
    """

    host: str | None
    skip_verify: bool
    files: Path


def _config_directory(environ: Mapping[str, str]) -> Path:
    if directory := environ.get("DOCKER_CONFIG"):
        return Path(directory)
    return Path(environ.get("HOME") or Path.home()) / ".docker"


def _current_context(file: Path) -> str:
    value = _read_json(file)
    name = value.get("currentContext") if isinstance(value, dict) else None
    return name if isinstance(name, str) and name else _DEFAULT_CONTEXT


def _identity(name: str) -> str:
    """The name of a context's directories."""
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


def _read_endpoint(directory: Path, identity: str) -> _Endpoint | None:
    value = _read_json(directory / "contexts" / "meta" / identity / "meta.json")
    if value is None:
        return None
    try:
        endpoint = value["Endpoints"]["docker"]
        host, skip_verify = endpoint.get("Host"), bool(endpoint.get("SkipTLSVerify", False))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory}/contexts/meta/{identity}/meta.json names no Docker engine. Mend it with "
            "`docker context update`, or set DOCKER_HOST."
        ) from error
    return _Endpoint(host, skip_verify, directory / "contexts" / "tls" / identity / "docker")


def _read_json(file: Path) -> Any:
    """The value in a file; None if there is no such file."""
    import json

    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}, a file of Docker's, cannot be read: {error}. Mend it, or set DOCKER_HOST.") from error


def _tls(host: str, environ: Mapping[str, str]) -> Any:
    """How a connection over TCP is secured; None if it is not."""
    if is_local(host) or host.startswith("ssh://"):
        return None
    directory = _config_directory(environ)
    if environ.get("DOCKER_HOST") == host:
        verify, certificates = bool(environ.get("DOCKER_TLS_VERIFY")), environ.get("DOCKER_CERT_PATH")
        if not verify and not certificates:
            return None
        return _tls_config(Path(certificates) if certificates else directory, verify=verify)
    with_host = []
    if (metas := directory / "contexts" / "meta").is_dir():
        endpoints = (_read_endpoint(directory, path.name) for path in sorted(metas.iterdir()))
        with_host = [endpoint for endpoint in endpoints if endpoint is not None and endpoint.host == host]
    for endpoint in with_host:
        if endpoint.files.is_dir() or host.startswith("https://"):
            return _tls_config(endpoint.files, verify=not endpoint.skip_verify)
    return None


def _tls_config(directory: Path, *, verify: bool) -> Any:
    from docker.errors import TLSParameterError
    from docker.tls import TLSConfig

    authority, certificate, key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
    try:
        return TLSConfig(
            client_cert=(str(certificate), str(key)) if certificate.exists() or key.exists() else None,
            ca_cert=str(authority) if authority.exists() else None,
            verify=verify,
        )
    except TLSParameterError as error:
        raise UserError(
            f"The TLS files of the Docker engine in {directory} cannot be used: {error.msg}. There must be ca.pem, "
            "cert.pem and key.pem."
        ) from error
