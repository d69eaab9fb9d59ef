"""A Kubernetes cluster of the tests' own: API server, controllers, and a node that runs pods or follows scripts."""

import base64
import json
import secrets as randomness
import subprocess
import uuid
from pathlib import Path

import kubernetes.client
from kubernetes_admission import User
from kubernetes_jobs import Controllers
from kubernetes_node import Node
from kubernetes_runtime import ScriptedRuntime
from kubernetes_schema import CLAIMS, JOBS, NAMESPACES, PODS, SERVICE_ACCOUNTS
from kubernetes_server import Server
from kubernetes_store import Store, is_finished, timestamp
from waiting import wait_for


class Cluster:
    """A cluster with one node and the namespace `ml`.

    Args:
        runtime: what runs containers; a `ScriptedRuntime` if none is given.
        pace: by what the seconds that a real cluster takes for its own work are multiplied. Deadlines, times to live
            and grace periods are not.
        directory: where certificates go, for a server that speaks TLS; None for plain HTTP.
        capacity: of the node, such as {"memory": "1Gi"}.
    """

    def __init__(self, runtime=None, *, pace=0.1, directory=None, namespace="ml", capacity=None):
        self.namespace = namespace
        self.store = Store()
        for name in ("default", "kube-system", namespace):
            self.add_namespace(name)
        tls = certificate(directory) if directory else None
        self.authority = Path(tls[0]).read_bytes() if tls else b""
        self.server = Server(self.store, tls)
        self.url = self.server.url
        self.runtime = runtime or ScriptedRuntime()
        self.runtime.authority, self.runtime.server = self.authority, self.server
        self.controllers = Controllers(self.server.api, pace)
        self.node = Node(self.store, self.runtime, pace, capacity)
        self.server.logs = self.node.logs
        self._clients = []

    def stop(self):
        for client in self._clients:
            client.rest_client.pool_manager.clear()
            client.close()
        self.node.stop()
        self.controllers.stop()
        self.server.stop()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.stop()

    # -- ways in

    def configuration(self, token=None):
        """Of the real client."""
        configuration = kubernetes.client.Configuration()
        configuration.host = self.url
        configuration.verify_ssl = False
        if token:
            configuration.api_key = {"authorization": f"Bearer {token}"}
        return configuration

    def client(self, token=None):
        """A `kubernetes.client.ApiClient`, closed with the cluster."""
        client = kubernetes.client.ApiClient(self.configuration(token))
        self._clients.append(client)
        return client

    @property
    def batch(self):
        return kubernetes.client.BatchV1Api(self.client())

    @property
    def core(self):
        return kubernetes.client.CoreV1Api(self.client())

    def add_user(self, name="system:serviceaccount:ml:submitter", rules=None, namespace=None):
        """Let a user in by a token, which is returned.

        Args:
            rules: as a Role has them; None may do everything.
            namespace: where the Role holds; the cluster's own if none is given.
        """
        token = randomness.token_hex(16)
        self.server.users[token] = User(name, None if rules is None else tuple(rules), namespace or self.namespace)
        return token

    def write_kubeconfig(self, path, token=None, context="tests", namespace=None):
        """Write a file for KUBECONFIG, with the certificate's authority if the server speaks TLS. Returns its path."""
        cluster = {"server": self.url}
        if self.authority:
            cluster["certificate-authority-data"] = base64.b64encode(self.authority).decode()
        user = {"token": token} if token else {}
        known = {"cluster": context, "user": context, "namespace": namespace or self.namespace}
        Path(path).write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": context, "cluster": cluster}], "users": [{"name": context, "user": user}],
            "contexts": [{"name": context, "context": known}],
        }))  # fmt: skip
        return str(path)

    def write_service_account(self, directory, token):
        """Write what a pod finds of its service account. Returns the variables that a pod has for it."""
        for name, content in (("token", token), ("namespace", self.namespace), ("ca.crt", self.authority.decode())):
            (Path(directory) / name).write_text(content)
        host, port = self.server.server_address
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}

    # -- what it has

    def add_namespace(self, name, labels=None):
        metadata = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": timestamp()}
        metadata["labels"] = {"kubernetes.io/metadata.name": name, **(labels or {})}
        item = {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata, "status": {"phase": "Active"}}
        self.store.create(NAMESPACES, item)
        account = {"name": "default", "namespace": name, "uid": str(uuid.uuid4()), "creationTimestamp": timestamp()}
        self.store.create(SERVICE_ACCOUNTS, {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": account})

    def add_claim(self, name):
        """A volume that pods can name by a claim."""
        metadata = {"name": name, "namespace": self.namespace, "uid": str(uuid.uuid4())}
        metadata["creationTimestamp"] = timestamp()
        item = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": metadata}
        self.store.create(CLAIMS, {**item, "status": {"phase": "Bound"}})

    def label_namespace(self, **labels):
        """Set labels, `enforce="restricted"` for Pod Security; None takes one away."""
        names = {"enforce": "pod-security.kubernetes.io/enforce", "warn": "pod-security.kubernetes.io/warn"}

        def edit(item):
            for key, value in labels.items():
                item["metadata"]["labels"][names.get(key, key)] = value
                if value is None:
                    del item["metadata"]["labels"][names.get(key, key)]

        self.store.change(NAMESPACES, None, self.namespace, edit)

    def refuse_pods(self, why="exceeded quota: compute, requested: pods=1, used: pods=10, limited: pods=10"):
        """Refuse every new pod with a sentence; None takes them again."""
        self.server.api.pod_refusal = why

    # -- looking

    def job(self, name):
        """A Job as it is kept, or None."""
        return self.store.find(JOBS, self.namespace, name)

    def pods(self, job=None):
        """The pods of a Job, or all."""
        found = self.store.list(PODS, self.namespace)
        return [pod for pod in found if job in (None, pod["metadata"].get("labels", {}).get("job-name"))]

    def wait_for_job(self, name, timeout=60):
        """The Job, once it has its last condition."""
        return self._wait(lambda: (job := self.job(name)) and is_finished(job) and job, timeout)

    def wait_for_pod(self, job, phase="Running", timeout=60):
        """A pod of a Job, once one is in that phase."""
        found = lambda: (pod for pod in self.pods(job) if pod["status"]["phase"] == phase)  # noqa: E731
        return self._wait(lambda: next(found(), None), timeout)

    def _wait(self, condition, timeout):
        return wait_for(condition, lambda: json.dumps([self.store.list(JOBS), self.pods()], indent=1), timeout, bool)


def certificate(directory):
    """A certificate of 127.0.0.1 and its key, as files."""
    certificate, key = f"{directory}/server.crt", f"{directory}/server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kubernetes",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
