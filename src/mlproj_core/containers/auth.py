"""Credentials for registries: the caller's `docker_auth`, and what the user's own `docker login` has left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlproj_core.containers.sdk import require_docker
from mlproj_core.errors import ImageError, UserError
from mlproj_core.status import Reason, ReasonCode

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["Login", "auth_for", "log_in", "read_docker_auth", "registry_of"]

HUB: Final = "docker.io"
"""The registry of an image whose name has none."""

_KEYS: Final = ("username", "password", "registry", "email", "reauth", "dockercfg_path")
"""The arguments of `docker.DockerClient.login`, to which MLflow gives docker_auth."""


@dataclass(frozen=True)
class Login:
    """A login at one registry.

    Attributes:
        username: the account's name.
        registry: the registry's host and port; docker.io where none is named.
        address: the registry as it was given, for the engine; None for Docker Hub.
        password: its password or token; None to take it from the user's configuration file.
        email: the account's address, which old registries ask for.
        reauth: whether the engine asks the registry even if the configuration file has this user.
        dockercfg_path: the configuration file to look at instead of the user's own.
    """

    username: str
    registry: str = HUB
    address: str | None = None
    password: str | None = field(default=None, repr=False)
    email: str | None = None
    reauth: bool = False
    dockercfg_path: str | None = None


def read_docker_auth(docker_auth: Mapping[str, Any] | None) -> Login | None:
    """What a caller's `docker_auth` says; None if there is none.

    Its keys are those of `docker.DockerClient.login`: username, password, registry, email, reauth, dockercfg_path.

    Raises:
        UserError: it is no mapping, has an unknown key or a value of another kind, or names no user. No message holds
            the password.
    """
    if docker_auth is None:
        return None
    if not isinstance(docker_auth, Mapping):
        raise UserError(f"docker_auth must be a mapping with {', '.join(_KEYS)}; got a {type(docker_auth).__name__}.")
    for key in docker_auth:
        if key not in _KEYS:
            from difflib import get_close_matches

            near = get_close_matches(str(key), _KEYS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(_KEYS)}."
            raise UserError(f"docker_auth has an unknown key {key!r}. {hint}")
    for key, value in docker_auth.items():
        kind = bool if key == "reauth" else str
        if value is not None and not isinstance(value, kind):
            raise UserError(f"docker_auth: {key} must be {'true or false' if kind is bool else 'text'}.")
    username, address = docker_auth.get("username"), docker_auth.get("registry") or None
    if not username:
        raise UserError(
            "docker_auth names no user: give username and password, and the registry unless it is docker.io."
        )
    return Login(
        username=username,
        registry=_registry_name(address),
        address=address,
        password=docker_auth.get("password"),
        email=docker_auth.get("email"),
        reauth=bool(docker_auth.get("reauth")),
        dockercfg_path=docker_auth.get("dockercfg_path"),
    )


def registry_of(image: str) -> str:
    """The registry that an image's name says it is in: "docker.io", "ghcr.io", "localhost:5000".

    Raises:
        UserError: it is no image's name.
    """
    require_docker()
    from docker.auth import resolve_repository_name
    from docker.errors import InvalidRepository

    try:
        return str(resolve_repository_name(image)[0])
    except InvalidRepository as error:
        raise UserError(f"{image!r} is no image's name: {error}. Write it as for `docker pull`.") from error


def log_in(client: APIClient, login: Login) -> None:
    """Try a login, as MLflow does: the engine asks the registry.

    As with `docker.DockerClient.login`, nobody is asked when the configuration file has a password of this user's,
    unless `reauth` is set.

    Raises:
        ImageError: the registry refused it, or is out of reach.
    """
    from docker.errors import APIError, DockerException

    try:
        client.login(
            username=login.username,
            password=login.password,
            email=login.email,
            registry=login.address,
            reauth=login.reauth,
            dockercfg_path=login.dockercfg_path,
        )
    except APIError as error:
        from mlproj_core.containers.trouble import image_error

        said = _masked(str(error.explanation or error), login)
        doing = f"The login of {login.username!r} at the registry {login.registry}"
        raise image_error(doing, said, status=error.status_code) from error
    except DockerException as error:  # a credential helper's
        raise _helper_failed(login.registry, error) from error


def auth_for(image: str, login: Login | None = None) -> dict[str, Any]:
    """The credentials to send to an image's registry, as the Engine API takes them; empty if there are none.

    Those of the caller count for the registry they name only. For any other it is what `docker login` has left in the
    user's configuration file (DOCKER_CONFIG, ~/.docker), or a credential helper that the file names. It may be secret.

    Raises:
        UserError: it is no image's name, or the configuration file cannot be read.
        ImageError: a credential helper failed.
    """
    from docker.auth import load_config
    from docker.errors import DockerException, InvalidConfigFile

    registry = registry_of(image)
    here = login if login is not None and login.registry == registry else None
    if here is not None and here.password is not None:
        fields = {
            "username": here.username,
            "password": here.password,
            "email": here.email,
            "serveraddress": here.address or registry,
        }
        return {name: value for name, value in fields.items() if value is not None}
    import warnings

    try:
        config = load_config(here.dockercfg_path if here is not None else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a helper that is not installed, which is an error next
            return dict(config.resolve_authconfig(registry) or {})
    except InvalidConfigFile as error:
        raise UserError(
            f"Docker's configuration file cannot be used: {error}. Log in anew: docker login {registry}"
        ) from error
    except DockerException as error:
        raise _helper_failed(registry, error) from error


def _registry_name(address: str | None) -> str:
    """A registry's host and port, of an address such as `https://index.docker.io/v1/`."""
    if address is None:
        return HUB
    host = address.partition("://")[2] or address
    host = host.partition("/")[0]
    return HUB if host == f"index.{HUB}" else host


def _masked(text: str, login: Login) -> str:
    return text.replace(login.password, "***") if login.password else text


def _helper_failed(registry: str, error: Exception) -> ImageError:
    message = (
        f"The credential helper that Docker's configuration file names for {registry} failed: {error}. "
        "Give docker_auth, or mend credsStore and credHelpers in config.json."
    )
    return ImageError(message, reason=Reason(ReasonCode.IMAGE, message))
