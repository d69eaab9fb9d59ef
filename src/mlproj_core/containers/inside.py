"""What a project in a container needs so that its MLflow client finds the tracking server and the artifacts."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlproj_core.containers.container import OWN
from mlproj_core.errors import UserError
from mlproj_core.tracking.artifacts import local_root
from mlproj_core.tracking.uris import is_http, scheme_of, without_credentials

__all__ = ["Inside", "inside"]

HOST_ALIAS = "host.docker.internal"
"""The host's name in a container of Docker Desktop, whose engine is in a machine of its own."""

_SERVER_FILES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH")
_SERVER_SETTINGS = (
    "MLFLOW_WORKSPACE",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD",
)


@dataclass(frozen=True)
class _Store:
    """What clients of an artifact store read from their surroundings.

    Attributes:
        secrets: variables that hold a secret.
        settings: variables that hold none.
        files: variables that name a file, which goes into the container too.
        defaults: files below the home directory that are read where such a variable is not set.
    """

    secrets: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)


# MLflow passes a part of these on (mlflow/projects/backend/local.py, _get_docker_artifact_storage_cmd_and_envs): with
# temporary credentials of AWS the token is needed as well, and a profile lies in files.
_S3 = _Store(
    secrets=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    settings=(
        "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
        "MLFLOW_S3_ENDPOINT_URL", "MLFLOW_S3_IGNORE_TLS", "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE",
        "MLFLOW_S3_UPLOAD_EXTRA_ARGS", "MLFLOW_S3_EXPECTED_BUCKET_OWNER",
    ),
    files=("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE"),
    defaults={"AWS_SHARED_CREDENTIALS_FILE": ".aws/credentials", "AWS_CONFIG_FILE": ".aws/config"},
)  # fmt: skip
_AZURE = _Store(
    secrets=("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY", "AZURE_CLIENT_SECRET"),
    settings=("AZURE_TENANT_ID", "AZURE_CLIENT_ID"),
)
_STORES = {
    "s3": _S3,
    "r2": _S3,
    "wasb": _AZURE,
    "wasbs": _AZURE,
    "abfss": _AZURE,
    "gs": _Store(
        settings=("GOOGLE_CLOUD_PROJECT", "STORAGE_EMULATOR_HOST", "MLFLOW_GCS_DEFAULT_TIMEOUT"),
        files=("GOOGLE_APPLICATION_CREDENTIALS",),
        defaults={"GOOGLE_APPLICATION_CREDENTIALS": ".config/gcloud/application_default_credentials.json"},
    ),
    "hdfs": _Store(
        settings=("MLFLOW_KERBEROS_USER", "MLFLOW_PYARROW_EXTRA_CONF"), files=("MLFLOW_KERBEROS_TICKET_CACHE",)
    ),
    "databricks": _Store(
        secrets=("DATABRICKS_TOKEN", "DATABRICKS_PASSWORD", "DATABRICKS_CLIENT_SECRET"),
        settings=("DATABRICKS_HOST", "DATABRICKS_USERNAME", "DATABRICKS_CLIENT_ID", "DATABRICKS_CONFIG_PROFILE"),
        files=("DATABRICKS_CONFIG_FILE",),
        defaults={"DATABRICKS_CONFIG_FILE": ".databrickscfg"},
    ),
}
"""By the scheme of an artifact's or a tracking store's URI."""


@dataclass(frozen=True)
class Inside:
    """What tracking needs inside a container.

    Attributes:
        variables: that anybody may see.
        secrets: variables that nobody may see.
        mounts: directories of this host, as for `docker run -v`. Not each of them need be there yet.
        files: of this host, and where they go in the container. They may hold secrets.
        host_network: whether the container must be in the host's network, unless the user wants it in another.
        remarks: what people should know of it.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    mounts: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    host_network: bool = False
    remarks: tuple[str, ...] = ()


def inside(
    tracking_uri: str | None,
    artifact_uri: str | None,
    environ: Mapping[str, str],
    *,
    local: bool,
    desktop: bool = False,
    network: str | None = None,
) -> Inside:
    """What a container needs for a run that is recorded there.

    Args:
        tracking_uri: absolute, without credentials; None for a run that is not tracked.
        artifact_uri: the root of the run's artifacts; None if there is none, or it is not known yet.
        environ: the caller's variables, by which its own client finds server and stores.
        local: whether the engine is on this host, so that its directories can be mounted.
        desktop: whether that engine is Docker Desktop's.
        network: the network that the user chose; None for none.

    Raises:
        UserError: no container of this engine can reach the tracking store.
    """
    if tracking_uri is None:
        return Inside()
    found = _Finding(environ)
    scheme, host = scheme_of(tracking_uri), _host_of(tracking_uri)
    if scheme == "sqlite" or (scheme == "file" and not host):
        path = _path_of(tracking_uri)
        if not local:
            raise UserError(
                f"The tracking store {tracking_uri} is in files of this host, and the Docker engine is on another: no "
                "container of it can see them. Set MLFLOW_TRACKING_URI to a tracking server, or use an engine here."
            )
        # A database's journal stands beside it, so that it is its directory that has to be there.
        found.mount(path.parent if scheme == "sqlite" else path)
    elif host is not None and _is_loopback(host):
        _reach_loopback(found, tracking_uri, local=local, desktop=desktop, network=network)
    if is_http(tracking_uri):
        _log_in(found, tracking_uri, host or "")
    found.take(_STORES.get(scheme))
    if artifact_uri is not None:
        root = local_root(artifact_uri)
        if root is None:
            found.take(_STORES.get(scheme_of(artifact_uri)))
        elif local and root.is_absolute() and root != root.parent:
            found.mount(root)
        else:
            found.remarks.append(f"the artifacts of the run are in {root}, which no container of this engine can see")
    return found.result()


class _Finding:
    """An `Inside` in the making."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.variables: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.mounted: list[Path] = []
        self.files: dict[str, str] = {}
        self.host_network = False
        self.remarks: list[str] = []

    def mount(self, directory: Path) -> None:
        """Mount a directory at its own path, unless one above it is mounted."""
        if directory == directory.parent:
            raise UserError(
                f"The tracking store is in {directory}, the root of this host, which is not mounted into a container. "
                "Move it to a directory of its own."
            )
        if not any(directory.is_relative_to(each) for each in self.mounted):
            self.mounted.append(directory)

    def take(self, store: _Store | None) -> None:
        """Pass on what the clients of a store read from their surroundings."""
        if store is None:
            return
        self.settings(store.settings)
        self.secrets.update({name: self.environ[name] for name in store.secrets if self.environ.get(name)})
        home = Path(self.environ.get("HOME") or Path.home())
        for name in store.files:
            path = self.environ.get(name)
            if path is None and name in store.defaults and (home / store.defaults[name]).is_file():
                path = str(home / store.defaults[name])
            self.file(name, path)

    def settings(self, names: tuple[str, ...]) -> None:
        """Pass on variables that hold no secret."""
        self.variables.update({name: self.environ[name] for name in names if self.environ.get(name)})

    def file(self, variable: str, path: str | None) -> None:
        """Give the container a file of this host, and its name in a variable."""
        if not path:
            return
        source = Path(path.removeprefix("FILE:")).expanduser()
        if not source.is_file():
            self.remarks.append(f"{variable} names {path}, which is no file of this host: not passed on")
            return
        self.variables[variable] = self.files[str(source)] = f"{OWN}/{variable.lower()}"

    def result(self) -> Inside:
        return Inside(
            variables=self.variables,
            secrets=self.secrets,
            mounts=tuple(f"{path}:{path}" for path in self.mounted),
            files=tuple(self.files.items()),
            host_network=self.host_network,
            remarks=tuple(self.remarks),
        )


def _reach_loopback(found: _Finding, tracking_uri: str, *, local: bool, desktop: bool, network: str | None) -> None:
    if not local:
        raise UserError(
            f"The tracking server {tracking_uri} listens on this host's loopback, and the Docker engine is on another "
            "host: no container of it can reach it. Give the server's address as that host sees it."
        )
    if desktop:
        parts = urlsplit(tracking_uri)
        place = HOST_ALIAS if parts.port is None else f"{HOST_ALIAS}:{parts.port}"
        found.variables["MLFLOW_TRACKING_URI"] = parts._replace(netloc=place).geturl()
        found.remarks.append(f"the tracking server is {HOST_ALIAS} in the container: Docker Desktop's engine is apart")
    elif network is None:
        found.host_network = True
        found.remarks.append("the container is in the host's network, since the tracking server listens on loopback")
    elif network != "host":
        found.remarks.append(
            f"warning: the tracking server listens on loopback, which the container's network {network!r} does not have"
        )


def _log_in(found: _Finding, tracking_uri: str, host: str) -> None:
    """Pass on who asks the server, by the variables that MLflow's client in the container reads."""
    from mlproj_core.tracking.credentials import Credentials

    own = found.environ.get("MLFLOW_TRACKING_URI", "")
    place, userinfo = without_credentials(own.rstrip("/"))
    authorization = Credentials.from_environment(
        host, userinfo if place == tracking_uri else None, found.environ
    ).authorization
    kind, _, text = (authorization or "").partition(" ")
    if kind == "Basic":
        user, _, password = base64.b64decode(text).decode().partition(":")
        found.secrets.update(MLFLOW_TRACKING_USERNAME=user, MLFLOW_TRACKING_PASSWORD=password)
    elif kind == "Bearer":
        found.secrets["MLFLOW_TRACKING_TOKEN"] = text
    found.settings(_SERVER_SETTINGS)
    for name in _SERVER_FILES:
        found.file(name, found.environ.get(name))


def _host_of(uri: str) -> str | None:
    try:
        return urlsplit(uri).hostname
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or host.startswith("127.") or host == "::1"


def _path_of(uri: str) -> Path:
    path = uri.partition(":///")[2].partition("?")[0] if scheme_of(uri) == "sqlite" else unquote(urlsplit(uri).path)
    return Path(os.path.normpath("/" + path.lstrip("/")))
