"""Which cluster: by the kubeconfig's contexts, by a pod's service account, or by a client that somebody else made."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.kubernetes.client import Cluster
from mlproj_core.errors import ContactLost, UserError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

__all__ = ["Clusters", "forget_clusters"]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token of its service account, and its namespace."""

_known: dict[tuple[object, ...], Cluster] = {}
"""The clusters that this process is in touch with: their connections are used again."""

_lock = threading.Lock()


class Clusters:
    """The clusters that can be reached from here.

    Args:
        api_client: a client to use, whatever a kubeconfig says; None to find one.
    """

    def __init__(self, api_client: ApiClient | None = None) -> None:
        self._api_client = api_client

    def configured(self, context: str | None, namespace: str | None, kubeconfig: str | None = None) -> Cluster:
        """The cluster that a caller's configuration names.

        Args:
            context: the kubeconfig's context; None for the current one, or that of the pod this runs in.
            namespace: None for that of the context or the pod, else "default".
            kubeconfig: path of the kubeconfig; None for the usual one.

        Raises:
            UserError: no cluster is configured, or there is no such context.
        """
        if self._api_client is not None:
            if context is not None or kubeconfig is not None:
                raise UserError(
                    "backend_config names a kube-context or a kubeconfig, but the backend was given a client, which is "
                    "of one cluster already. Leave it out."
                )
            return Cluster(self._api_client, namespace or "default")
        _require_client()
        files = _kubeconfig() if kubeconfig is None else str(Path(kubeconfig).expanduser().absolute())
        if kubeconfig is not None and not Path(str(files)).exists():
            raise UserError(f"backend_config: there is no kubeconfig {kubeconfig}.")
        if files is None:
            if context is not None:
                raise UserError(
                    f"backend_config names the kube-context {context!r}, but there is no kubeconfig: {_looked_at()}"
                )
            return _cluster_of_pod(namespace)
        contexts, current = _contexts(files)
        wanted = context or current
        if wanted not in contexts:
            raise UserError(_no_such_context(context, contexts))
        namespace = namespace or contexts[wanted].get("namespace") or "default"
        return _cluster_of(files, wanted, namespace, usual=kubeconfig is None)

    def of_handle(self, ref: Mapping[str, Any]) -> Cluster:
        """The cluster that a run's handle names.

        Its context may have another name here: then the one of the same server counts.

        Raises:
            ContactLost: it cannot be told from here where that is.
        """
        namespace = str(ref["namespace"])
        if self._api_client is not None:
            return Cluster(self._api_client, namespace)
        context, server, kubeconfig = ref.get("context"), ref.get("server"), ref.get("kubeconfig")
        try:
            _require_client()
            files = str(kubeconfig) if kubeconfig and Path(kubeconfig).exists() else _kubeconfig()
            if files is None:
                return _cluster_of_pod(namespace)
            contexts, current = _contexts(files)
            servers = _servers(files)
            order = [name for name in dict.fromkeys((context, current, *contexts)) if name in contexts]
            same = [name for name in order if servers.get(contexts[name].get("cluster")) == server]
            # Else the same cluster by another address, as through a tunnel.
            for name in [*same, *([context] if context in contexts else [])]:
                return _cluster_of(files, str(name), namespace)
        except UserError as error:
            raise ContactLost(f"The run is in the cluster {server}, which is out of reach from here: {error}") from None
        raise ContactLost(
            f"The run is in the cluster {server} (context {context!r}), of which the kubeconfig here knows nothing: it "
            f"has {', '.join(sorted(contexts)) or 'no contexts'}. Ask where the run was submitted, or add the context."
        )


def forget_clusters() -> None:
    """Close the connections to all clusters."""
    with _lock:
        for cluster in _known.values():
            cluster.close()
        _known.clear()


def _require_client() -> None:
    try:
        import kubernetes  # noqa: F401
    except ImportError:
        raise UserError(
            "The backend 'kubernetes' needs the Kubernetes client: pip install 'mlproj[kubernetes]'."
        ) from None


def _config() -> Any:
    """The module, which has no types."""
    import kubernetes.config

    return kubernetes.config


def _kubeconfig() -> str | None:
    """The kubeconfig's files, as in KUBECONFIG; None if there are none."""
    text = os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = [str(Path(name).expanduser()) for name in text.split(os.pathsep) if name]
    there = [name for name in files if Path(name).exists()]
    return os.pathsep.join(there) or None


def _looked_at() -> str:
    return f"KUBECONFIG is {os.environ['KUBECONFIG']!r}." if os.environ.get("KUBECONFIG") else "~/.kube/config is none."


def _contexts(files: str) -> tuple[dict[str, dict[str, Any]], str | None]:
    config = _config()
    try:
        contexts, current = config.list_kube_config_contexts(config_file=files)
    except config.ConfigException as error:
        raise UserError(f"The kubeconfig {files} cannot be used: {error}") from None
    return {one["name"]: one.get("context") or {} for one in contexts or ()}, current["name"] if current else None


def _servers(files: str) -> dict[str | None, str]:
    """The address of each cluster in a kubeconfig; the first file that names one counts."""
    import yaml

    servers: dict[str | None, str] = {}
    for name in files.split(os.pathsep):
        for one in (yaml.safe_load(Path(name).read_text()) or {}).get("clusters") or ():
            servers.setdefault(one["name"], str(one["cluster"].get("server", "")).rstrip("/"))
    return servers


def _no_such_context(context: str | None, contexts: Mapping[str, Any]) -> str:
    from difflib import get_close_matches

    names = ", ".join(sorted(contexts)) or "none"
    if context is None:
        return f"The kubeconfig has no current context. Name one in backend_config, {{'kube-context': …}}: {names}."
    close = get_close_matches(context, contexts, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"backend_config: the kubeconfig has no context {context!r}.{hint} It has: {names}."


def _cluster_of(files: str, context: str, namespace: str, *, usual: bool = True) -> Cluster:
    def make() -> Cluster:
        config = _config()
        try:
            client = config.new_client_from_config(config_file=files, context=context, persist_config=False)
        except config.ConfigException as error:
            raise UserError(f"The context {context!r} of the kubeconfig {files} cannot be used: {error}") from None
        return Cluster(client, namespace, context, None if usual else files)

    # A kubeconfig that was written anew may have other credentials.
    stamps = tuple(Path(name).stat().st_mtime_ns for name in files.split(os.pathsep))
    return _cached((files, stamps, context, usual), make).at(namespace)


def _cluster_of_pod(namespace: str | None) -> Cluster:
    def make() -> Cluster:
        from kubernetes import client

        config, configuration = _config(), client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise UserError(
                f"No cluster is configured: {_looked_at()} Set KUBECONFIG, or run this in a pod that has a service "
                f"account. ({error})"
            ) from None
        return Cluster(client.ApiClient(configuration), "default")

    file = ACCOUNT / "namespace"
    own = file.read_text().strip() if file.exists() else ""
    return _cached(("pod",), make).at(namespace or own or "default")


def _cached(key: tuple[object, ...], make: Any) -> Cluster:
    # By process: a connection that a fork shares with its parent brings both each other's answers.
    key = (os.getpid(), *key)
    with _lock:
        if key not in _known:
            _known[key] = make()
        return _known[key]
