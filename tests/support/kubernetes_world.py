"""The Kubernetes backend's world: a cluster of the tests' own, by its kubeconfig, and pods that are processes."""

import os

from kubernetes_cluster import Cluster
from kubernetes_processes import ProcessRuntime
from kubernetes_schema import JOBS, PODS
from protocol_suite import World, until

from mlproj_core.backends.kubernetes.connect import forget_clusters
from mlproj_core.backends.kubernetes.watch import stop_watching


class KubernetesWorld(World):
    backend = "kubernetes"
    backend_config = {"grace": 1}
    patience = 240.0

    def __init__(self, directory, runtime=None, **more):
        super().__init__(directory)
        self.cluster = Cluster(runtime or ProcessRuntime(directory / "pods"), pace=0.02, **more)
        os.environ["KUBECONFIG"] = self.cluster.write_kubeconfig(directory / "kubeconfig")

    def job(self, handle):
        return self.cluster.job(handle.name)

    def survivors(self):
        """Pods in which something may still run."""
        return [
            pod["metadata"]["name"] for pod in self.cluster.pods() if pod["status"]["phase"] in ("Pending", "Running")
        ]

    def forget(self, handle):
        self.cluster.store.delete(JOBS, self.cluster.namespace, handle.name, policy="Background")
        until(lambda: self.job(handle) is None and not self.cluster.pods(handle.name))

    def close(self):
        super().close()
        stop_watching()
        forget_clusters()
        self.cluster.stop()


__all__ = ["PODS", "KubernetesWorld"]
