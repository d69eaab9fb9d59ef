"""Which workspace: by the SDK's own configuration, or by a client that somebody else made."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.errors import ContactLost, UserError

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

__all__ = ["Workspaces", "cached", "forget_workspaces", "host_of_profile", "is_same", "make_client"]

PATIENCE = 90
"""Seconds for which the SDK asks again: a workspace that throttles says itself when to come back."""

_known: dict[tuple[object, ...], Workspace] = {}
"""The workspaces that this process is in touch with: their connections are used again."""

_lock = threading.Lock()


class Workspaces:
    """The workspaces that can be reached from here.

    Args:
        client: a client to use, whatever is configured; None to make one.
    """

    def __init__(self, client: WorkspaceClient | None = None) -> None:
        self._client = client

    def configured(self, profile: str | None = None, host: str | None = None) -> Workspace:
        """The workspace that a caller's configuration names.

        Args:
            profile: a profile of ~/.databrickscfg; None: that of a tracking URI `databricks://PROFILE`, else what the
                SDK finds (DATABRICKS_HOST and its credentials, DATABRICKS_CONFIG_PROFILE, the profile DEFAULT).
            host: the workspace's address.

        Raises:
            UserError: no workspace is configured, or not this one.
        """
        if self._client is not None:
            workspace = Workspace(self._client)
            if profile is not None or (host is not None and not is_same(host, workspace.host)):
                raise UserError(
                    "backend_config names a profile or another host, but the backend was given a client, which is of "
                    f"{workspace.host} already. Leave it out."
                )
            return workspace
        if profile is None and host is None:
            profile = _profile_of_tracking()
        return _workspace(profile, host)

    def of_handle(self, ref: Mapping[str, Any], profile: str | None = None, host: str | None = None) -> Workspace:
        """The workspace that a run's handle names, with the credentials that are configured here for its address.

        No others are tried: a handle may come from anywhere, and its address must not be told this host's secrets.

        Args:
            ref: of the handle.
            profile: of the caller's configuration; so too host.
            host: see `configured`.

        Raises:
            ContactLost: it cannot be reached from here with what is configured.
        """
        wanted = str(ref["host"])
        if self._client is not None:
            workspace = Workspace(self._client)
            if not is_same(wanted, workspace.host):
                raise ContactLost(f"The run is in the workspace {wanted}, and the client is one of {workspace.host}.")
            return workspace
        problems: list[str] = []
        named = [(profile, host), (ref.get("profile"), None), (_profile_of_tracking(), None), (None, None)]
        # A profile may have another name here.
        for candidate in dict.fromkeys([*named, *((name, None) for name in _profiles_of(wanted))]):
            try:
                workspace = _workspace(*candidate)
            except UserError as error:
                problems.append(str(error))
                continue
            if is_same(workspace.host, wanted):
                return workspace
        raise ContactLost(
            f"The run is in the workspace {wanted}, for which nothing here has credentials. Set DATABRICKS_HOST and a "
            f"token, or add a profile to ~/.databrickscfg.{f' ({problems[-1]})' if problems else ''}"
        )


def forget_workspaces() -> None:
    """Close the connections to all workspaces."""
    with _lock:
        for workspace in _known.values():
            workspace.close()
        _known.clear()


def _workspace(profile: str | None, host: str | None) -> Workspace:
    def make() -> Workspace:
        named = {name: value for name, value in (("profile", profile), ("host", host)) if value is not None}
        try:
            return Workspace(make_client(named), profile)
        except ValueError as error:
            which = f"The Databricks profile {profile!r}" if profile else "No Databricks workspace is configured that"
            raise UserError(
                f"{which} cannot be used: {error}. Set DATABRICKS_HOST and DATABRICKS_TOKEN (or DATABRICKS_CLIENT_ID "
                "and DATABRICKS_CLIENT_SECRET), or name a profile of ~/.databrickscfg: backend_config={'profile': …}."
            ) from None

    return cached((profile, host, *_surroundings()), make)


def make_client(settings: Mapping[str, str]) -> WorkspaceClient:
    """A client by the SDK's own settings.

    Raises:
        ValueError: the SDK does not take them; it says why.
        UserError: the SDK is not installed.
        ContactLost: the workspace is out of reach, and is to be asked where tokens are to be had.
    """
    try:
        from databricks.sdk import WorkspaceClient
        from databricks.sdk.core import Config
        from databricks.sdk.errors.base import DatabricksError
        from requests.exceptions import RequestException
    except ImportError:
        raise UserError(
            "The backend 'databricks' needs the Databricks SDK: pip install 'mlproj[databricks]'."
        ) from None
    try:
        # Typed by the SDK as it is installed, and it is not the same in all versions.
        config: Any = Config(**settings, retry_timeout_seconds=PATIENCE)  # type: ignore[arg-type]
        if not config.host:
            raise ValueError("no host is configured")
        return WorkspaceClient(config=config)
    except (DatabricksError, RequestException, TimeoutError) as error:
        raise ContactLost(f"The Databricks workspace is out of reach: {error}") from error
    except ValueError as error:
        # The SDK takes silence for an answer, and says of the next thing that it does not fit.
        host = settings.get("host") or os.environ.get("DATABRICKS_HOST")
        if host and not _answers(host):
            raise ContactLost(f"The Databricks workspace {host} is out of reach.") from error
        raise ValueError(str(error).split("\n", 1)[0].partition(". Config:")[0].rstrip(".")) from error


def _answers(host: str) -> bool:
    """Whether anything answers at an address, whatever it says."""
    import requests

    try:
        requests.get(host if "://" in host else f"https://{host}", timeout=5).close()
    except requests.exceptions.RequestException:
        return False
    return True


def _surroundings() -> tuple[object, ...]:
    """What else decides which workspace it is, and who asks: variables, and when the configuration was written."""
    from pathlib import Path

    named = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("DATABRICKS_", "ARM_"))))
    path = Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser()
    return (named, path.stat().st_mtime_ns if path.exists() else None)


def _profile_of_tracking() -> str | None:
    """The profile of a tracking URI such as `databricks://PROFILE`; None if it names none."""
    from mlproj_core.tracking.surroundings import surroundings

    uri = urlsplit(surroundings().get("MLFLOW_TRACKING_URI") or "")
    # What follows a colon is the prefix of keys in a scope of secrets (`mlflow.utils.uri.get_db_info_from_uri`).
    return uri.netloc.partition(":")[0] or None if uri.scheme == "databricks" else None


def host_of_profile(profile: str) -> str | None:
    """The address of a profile's workspace; None if there is no such profile, or it has none."""
    return next((host for name, host in _profiles() if name == profile), None)


def _profiles_of(host: str) -> list[str]:
    """The profiles of a workspace."""
    return [name for name, address in _profiles() if is_same(address, host)]


def _profiles() -> list[tuple[str, str]]:
    """Name and host of every profile."""
    import configparser
    from pathlib import Path

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser())
    except configparser.Error:
        return []
    sections = [*parser.sections(), *(["DEFAULT"] if parser.defaults() else [])]
    return [(name, host) for name in sections if (host := parser[name].get("host"))]


def is_same(one: str, other: str) -> bool:
    """Whether two addresses are of one workspace."""
    return _bare(one) == _bare(other) != ""


def _bare(host: str) -> str:
    parts = urlsplit(host if "://" in host else f"https://{host}")
    return parts.netloc.lower().removesuffix(":443")


def cached(key: tuple[object, ...], make: Callable[[], Workspace]) -> Workspace:
    """The workspace that goes by this name in this process; it is made if there is none yet."""
    # By process: a connection that a fork shares with its parent brings both each other's answers.
    key = (os.getpid(), *key)
    with _lock:
        if key not in _known:
            _known[key] = make()
        return _known[key]
