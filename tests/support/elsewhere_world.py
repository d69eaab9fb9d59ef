"""Where runs are that are no processes of the tests' host: containers of an engine, and Jobs of a cluster on it."""

import tempfile
import time
from pathlib import Path

import pytest
from docker_world import PYTHON
from kubernetes_cluster import Cluster
from kubernetes_docker import DockerRuntime
from kubernetes_schema import JOBS
from relay import Relay

LOGIN = {"username": "me", "password": "geheim"}
"""That of the closed registry."""


class Elsewhere:
    """What runs there, whoever has started it.

    Args:
        engine: the engine.
        cluster: a cluster whose node is on it.
    """

    def __init__(self, engine, cluster):
        self.engine, self.cluster = engine, cluster
        self.token = cluster.add_user()
        self._relay = None
        self._since = int(time.time())

    def close(self):
        if self._relay is not None:
            self._relay.shut()

    @property
    def remote_host(self):
        """The engine's address over TCP, as other hosts reach it."""
        if self._relay is None:
            self._relay = Relay(self.engine.host)
        return f"tcp://127.0.0.1:{self._relay.port}"

    def kubeconfig(self):
        """The text of a kubeconfig of a user of the cluster's."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "config"
            self.cluster.write_kubeconfig(path, self.token)
            return path.read_text()

    def private_image(self, registry):
        """An image with a Python that stands in a closed registry only."""
        name = f"{registry.address}/private:1"
        with self.engine.client() as client:
            client.tag(PYTHON, name)
            lines = client.push(name, stream=True, decode=True, auth_config=LOGIN)
            assert not [line for line in lines if "error" in line]
            client.remove_image(name)
        return name

    def jobs(self):
        """The runs' Jobs."""
        managed = "app.kubernetes.io/managed-by"
        return [job for job in self.cluster.store.list(JOBS) if job["metadata"]["labels"].get(managed) == "mlproj"]

    def job(self, handle):
        """The Job of a handle."""
        return self.cluster.job(handle["ref"]["job"])

    def starts(self, handle):
        """How many containers, or pods, of the attempts of a handle's key were started."""
        from mlproj_core.handle import key_digest

        name = f"mlproj-{key_digest(handle['key'])}-"
        with self.engine.client() as client:
            events = client.events(self._since, int(time.time()) + 1, {"event": "start", "type": "container"}, True)
            started = [event["Actor"]["Attributes"] for event in events]
        names = {(each.get("io.kubernetes.pod.name") or each["name"], each["name"]) for each in started}
        if handle["backend"] == "kubernetes":
            return len({pod for pod, container in names if pod.startswith(name) and pod != container})
        return len([1 for each in started if each["name"].startswith(name)])

    def living(self):
        """All that is at work: names of containers and pods."""
        with self.engine.client() as client:
            running = client.containers(filters={"label": "mlproj.key"})
        containers = [container["Names"][0].lstrip("/") for container in running]
        jobs = {job["metadata"]["name"] for job in self.jobs()}
        pods = [pod for pod in self.cluster.pods() if pod["metadata"]["labels"].get("job-name") in jobs]
        alive = [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
        return sorted([*containers, *alive])


@pytest.fixture(scope="session")
def elsewhere(shared_engine, tmp_path_factory):
    """A Docker engine, and a Kubernetes cluster whose node is on it."""
    with Cluster(DockerRuntime(shared_engine, tmp_path_factory.mktemp("node")), pace=0.05) as cluster:
        elsewhere = Elsewhere(shared_engine, cluster)
        yield elsewhere
        elsewhere.close()
    shared_engine.remove_containers()
