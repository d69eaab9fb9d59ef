"""What leads to a run beside its handle: the credentials of the tracking server, and of the cluster or workspace."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from prefect.blocks.core import Block

from mlproj_core.backends import load_backend
from mlproj_core.errors import UserError
from mlproj_core.tracking.surroundings import lend

if TYPE_CHECKING:
    from mlproj_core.backends import Backend
    from mlproj_core.backends.databricks.credentials import Credentials
    from prefect_mlproj.blocks import MLflowCredentials

__all__ = ["Access", "registry_login", "workspace_credentials"]

KUBERNETES = "kubernetes"
"""The backend that `kubernetes_credentials` are for."""

DATABRICKS = "databricks"
"""The backend that `databricks_credentials` are for."""

_clients: dict[str, Any] = {}
"""A client for each cluster that blocks have named in this process."""

_lock = threading.Lock()


@dataclass(frozen=True)
class Access:
    """The blocks by which a run is reached. They hold secrets, and stay in the process.

    Attributes:
        mlflow: names the run's tracking server; None for the one of this process's variables.
        kubernetes: a block `KubernetesCredentials` of prefect-kubernetes, which names the cluster; None leaves it to
            the backend where the cluster is.
        databricks: a block `DatabricksCredentials` of prefect-databricks, which names the workspace; None leaves it to
            the backend where that is.
    """

    mlflow: MLflowCredentials | None = None
    kubernetes: Any = None
    databricks: Any = None

    def backend(self, name: str) -> Backend:
        """A backend, with a client of its own if a block says where the cluster or the workspace is.

        Raises:
            UserError: there is no such backend, it has no use for the block, or that leads nowhere.
            ContactLost: the workspace is out of reach.
        """
        for block, wanted in ((self.kubernetes, KUBERNETES), (self.databricks, DATABRICKS)):
            if block is not None and name != wanted:
                raise UserError(
                    f"{wanted}_credentials are for runs on {wanted.capitalize()}, and this one is to be on the backend "
                    f"{name!r}: add backend={wanted!r}, or leave them out."
                )
        if self.kubernetes is not None:
            from mlproj_core.backends.kubernetes import KubernetesBackend

            return KubernetesBackend(api_client=_client_of(self.kubernetes))
        if self.databricks is not None:
            from mlproj_core.backends.databricks import DatabricksBackend

            credentials = workspace_credentials(self.databricks)
            return DatabricksBackend(client=credentials.client("The block databricks_credentials"))
        return load_backend(name)

    def variables(self) -> dict[str, str] | None:
        """The variables that name the tracking server, with its secrets; None for those of this process."""
        return self.mlflow.variables() if self.mlflow is not None else None

    def lent(self) -> AbstractContextManager[None]:
        """While this lasts, the tracking server is the one of the block."""
        variables = self.variables()
        return lend(variables) if variables is not None else nullcontext()

    def names(self) -> dict[str, str]:
        """By which names another process can load the blocks; of those only that were saved."""
        blocks = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            what: f"{block.get_block_type_slug()}/{name}"
            for what, block in blocks.items()
            if isinstance(block, Block) and (name := block._block_document_name)
        }

    @classmethod
    def given(cls, arguments: Mapping[str, Any]) -> Access:
        """The blocks among a task's arguments."""
        return cls(**{field.name: arguments[f"{field.name}_credentials"] for field in fields(cls)})

    @classmethod
    def named(cls, names: Mapping[str, str], say: Callable[[str], None]) -> Access:
        """The blocks of these names, loaded from Prefect's server.

        Args:
            names: as `names` gave them.
            say: is given a line for a block that cannot be loaded; the run may be reached without it.
        """
        blocks: dict[str, Any] = {}
        for what in [field.name for field in fields(cls)]:
            if what in names:
                try:
                    blocks[what] = Block.load(names[what], _sync=True)  # type: ignore[call-arg]
                except Exception as error:
                    say(f"warning: the block {names[what]} could not be loaded: {error}")
        return cls(**blocks)


def registry_login(block: Any) -> dict[str, str]:
    """The login of a block `DockerRegistryCredentials` of prefect-docker, as `docker_auth` takes it. It is secret.

    Raises:
        UserError: it is no such block.
    """
    given = {name: getattr(block, name, None) for name in ("username", "password", "registry_url")}
    if not all(given.values()):
        raise UserError(
            "docker_credentials must be a block DockerRegistryCredentials of prefect-docker, with username, password "
            f"and registry_url; got {type(block).__name__}"
        )
    return {
        "username": str(given["username"]),
        "password": _plain(given["password"]) or "",
        "registry": str(given["registry_url"]),
    }


def workspace_credentials(block: Any) -> Credentials:
    """The workspace of a block `DatabricksCredentials` of prefect-databricks, and what lets us in. They are secret.

    Raises:
        UserError: it is no such block.
    """
    from mlproj_core.backends.databricks.credentials import Credentials

    host = getattr(block, "databricks_instance", None)
    token, client_id, secret, tenant_id = (
        getattr(block, name, None) for name in ("token", "client_id", "client_secret", "tenant_id")
    )
    if not host or not (token or (client_id and secret)):
        raise UserError(
            "databricks_credentials must be a block DatabricksCredentials of prefect-databricks, with "
            "databricks_instance, and either token or client_id and client_secret; "
            f"got {type(block).__name__}"
        )
    return Credentials(str(host), _plain(token), client_id, _plain(secret), tenant_id)


def _plain(secret: Any) -> str | None:
    """What a pydantic `SecretStr` keeps, or what is plain text anyway."""
    value = getattr(secret, "get_secret_value", lambda: secret)()
    return str(value) if value else None


def _client_of(block: Any) -> Any:
    """The client for the cluster that a block names, one for all runs there; None leaves it to the backend."""
    if not hasattr(block, "cluster_config"):
        raise UserError(
            "kubernetes_credentials must be a block KubernetesCredentials of prefect-kubernetes; "
            f"got {type(block).__name__}"
        )
    cluster = block.cluster_config
    if cluster is None:  # as prefect-kubernetes has it: the cluster that this is in, else the one of the kubeconfig
        return None
    try:
        from kubernetes.config import ConfigException, new_client_from_config_dict
    except ImportError as error:
        raise UserError("The backend 'kubernetes' needs its client: pip install 'mlproj[kubernetes]'") from error
    connect: Any = new_client_from_config_dict
    text = json.dumps([cluster.config, cluster.context_name], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with _lock:
        if digest not in _clients:
            try:
                _clients[digest] = connect(dict(cluster.config), context=cluster.context_name)
            except ConfigException as error:
                raise UserError(f"kubernetes_credentials lead to no cluster: {error}") from error
        return _clients[digest]
