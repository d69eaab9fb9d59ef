"""What leads to a run beside its handle: the tracking server's credentials, and the cluster's."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.blocks.core import Block

from mlproj_core.backends import load_backend
from mlproj_core.errors import UserError
from mlproj_core.tracking.surroundings import lend

if TYPE_CHECKING:
    from mlproj_core.backends import Backend
    from prefect_mlproj.blocks import MLflowCredentials

__all__ = ["Access", "registry_login"]

KUBERNETES = "kubernetes"
"""The backend that `kubernetes_credentials` are for."""

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
    """

    mlflow: MLflowCredentials | None = None
    kubernetes: Any = None

    def backend(self, name: str) -> Backend:
        """A backend, with a client of its own if a block says where the cluster is.

        Raises:
            UserError: there is no such backend, it has no use for the block, or that leads to no cluster.
        """
        if self.kubernetes is None:
            return load_backend(name)
        if name != KUBERNETES:
            raise UserError(
                f"kubernetes_credentials are for runs on Kubernetes, and this one is to be on the backend {name!r}: "
                f"add backend={KUBERNETES!r}, or leave them out."
            )
        from mlproj_core.backends.kubernetes import KubernetesBackend

        return KubernetesBackend(api_client=_client_of(self.kubernetes))

    def variables(self) -> dict[str, str] | None:
        """The variables that name the tracking server, with its secrets; None for those of this process."""
        return self.mlflow.variables() if self.mlflow is not None else None

    def lent(self) -> AbstractContextManager[None]:
        """While this lasts, the tracking server is the one of the block."""
        variables = self.variables()
        return lend(variables) if variables is not None else nullcontext()

    def names(self) -> dict[str, str]:
        """By which names another process can load the blocks; of those only that were saved."""
        blocks = {"mlflow": self.mlflow, KUBERNETES: self.kubernetes}
        return {
            what: f"{block.get_block_type_slug()}/{name}"
            for what, block in blocks.items()
            if isinstance(block, Block) and (name := block._block_document_name)
        }

    @classmethod
    def named(cls, names: Mapping[str, str], say: Callable[[str], None]) -> Access:
        """The blocks of these names, loaded from Prefect's server.

        Args:
            names: as `names` gave them.
            say: is given a line for a block that cannot be loaded; the run may be reached without it.
        """
        blocks: dict[str, Any] = {}
        for what in ("mlflow", KUBERNETES):
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
    fields = {name: getattr(block, name, None) for name in ("username", "password", "registry_url")}
    if not all(fields.values()):
        raise UserError(
            "docker_credentials must be a block DockerRegistryCredentials of prefect-docker, with username, password "
            f"and registry_url; got {type(block).__name__}"
        )
    password = fields["password"]
    return {
        "username": str(fields["username"]),
        "password": str(getattr(password, "get_secret_value", lambda: password)()),
        "registry": str(fields["registry_url"]),
    }


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
