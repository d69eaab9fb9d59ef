"""The Databricks backend's world: a workspace of the tests' own, and clusters that are processes."""

from databricks_processes import ProcessRuntime
from databricks_server import Workspace
from protocol_suite import World, until

from mlproj_core.backends.databricks import poll
from mlproj_core.backends.databricks.connect import forget_workspaces

CLUSTER = "1128-120000-aaaaaaaa"


class DatabricksWorld(World):
    backend = "databricks"
    patience = 240.0

    def __init__(self, directory, monkeypatch, tracking_uri=None):
        super().__init__(directory)
        self.workspace = Workspace(directory / "workspace", ProcessRuntime(directory / "clusters"))
        self.workspace.add_cluster(CLUSTER)
        self.backend_config = {"existing_cluster_id": CLUSTER}
        if tracking_uri is not None:  # a cluster could not reach this host's loopback
            self.backend_config["tracking_uri"] = tracking_uri
        for name, value in self.workspace.variables().items():
            monkeypatch.setenv(name, value)

    @property
    def runs(self):
        return self.workspace.runs

    def run(self, handle):
        """The run of an attempt, in the workspace; None if there is none."""
        return self.runs.of_token(handle.name)

    def survivors(self):
        return self.workspace.runtime.survivors()

    def forget(self, handle):
        run = self.run(handle)
        until(lambda: run.over)
        self.runs.forget(run.run_id)

    def close(self):
        super().close()
        poll.stop_polling()
        forget_workspaces()
        self.workspace.stop()
