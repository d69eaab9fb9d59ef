"""Where runs are that are no processes of the tests' host: containers, Jobs of a cluster, runs of a workspace."""

import tempfile
import time
from pathlib import Path

import databricks_docker
import pytest
from databricks_server import Workspace
from docker_world import PYTHON
from kubernetes_cluster import Cluster
from kubernetes_docker import DockerRuntime
from kubernetes_schema import JOBS
from relay import Relay

LOGIN = {"username": "me", "password": "geheim"}
"""That of the closed registry."""

PRINCIPAL = ("3d2c1f9a-6a61-4b21-9a5e-3d0c4a7b5e11", "dosee0de0a1b2c3d4e5f6a7b8c9d0e1f2a3b")
"""Id and secret of a service principal of the workspace."""


class Elsewhere:
    """What runs there, whoever has started it.

    Args:
        engine: the engine.
        cluster: a Kubernetes cluster whose node is on it.
        workspace: a Databricks workspace whose clusters are on it.
    """

    def __init__(self, engine, cluster, workspace):
        self.engine, self.cluster, self.workspace = engine, cluster, workspace
        self.token = cluster.add_user()
        workspace.add_client(*PRINCIPAL)
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

    @property
    def secrets(self):
        """What nobody is to see."""
        return [self.token, self.workspace.token, PRINCIPAL[1], LOGIN["password"]]

    def runs(self, name=""):
        """The runs of the workspace whose name has this in it."""
        return [run for run in list(self.workspace.runs.by_id.values()) if name in run.name]

    def starts(self, handle):
        """How many containers, pods or tasks of the attempts of a handle's key were started."""
        from mlproj_core.handle import key_digest

        name = f"mlproj-{key_digest(handle['key'])}-"
        with self.engine.client() as client:
            events = client.events(self._since, int(time.time()) + 1, {"event": "start", "type": "container"}, True)
            started = [event["Actor"]["Attributes"] for event in events]
        if handle["backend"] == "databricks":
            tasks = {str(run.task.run_id) for run in self.runs(name)}
            return len([1 for each in started if each.get(databricks_docker.LABEL) in tasks])
        names = {(each.get("io.kubernetes.pod.name") or each["name"], each["name"]) for each in started}
        if handle["backend"] == "kubernetes":
            return len({pod for pod, container in names if pod.startswith(name) and pod != container})
        return len([1 for each in started if each["name"].startswith(name)])

    def living(self):
        """All that is at work: names of containers and pods, numbers of tasks."""
        with self.engine.client() as client:
            running = client.containers(filters={"label": "mlproj.key"})
        containers = [container["Names"][0].lstrip("/") for container in running]
        jobs = {job["metadata"]["name"] for job in self.jobs()}
        pods = [pod for pod in self.cluster.pods() if pod["metadata"]["labels"].get("job-name") in jobs]
        alive = [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
        return sorted([*containers, *alive, *map(str, self.workspace.runtime.running())])


@pytest.fixture(scope="session")
def elsewhere(shared_engine, tmp_path_factory):
    """A Docker engine; a Kubernetes cluster and a Databricks workspace whose nodes and clusters are on it."""
    drivers = databricks_docker.DockerRuntime(shared_engine, tmp_path_factory.mktemp("drivers"))
    with (
        Cluster(DockerRuntime(shared_engine, tmp_path_factory.mktemp("node")), pace=0.05) as cluster,
        Workspace(tmp_path_factory.mktemp("workspace"), drivers) as workspace,
    ):
        elsewhere = Elsewhere(shared_engine, cluster, workspace)
        yield elsewhere
        elsewhere.close()
    shared_engine.remove_containers()
