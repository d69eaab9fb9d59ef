"""A project that is submitted to a workspace of the tests, whose tasks do what a script says."""

import json

import pytest

import mlproj_core
from mlproj_core.backends.databricks import backend, poll
from mlproj_core.backends.databricks.connect import forget_workspaces

CLUSTER = "1128-120000-aaaaaaaa"


def said(**value):
    """The launcher's word, as a task prints it."""
    return json.dumps({"mlproj": value}) + "\n"


class Steps:
    """Submits one project, untracked if nothing else is said."""

    def __init__(self, workspace, directory):
        self.workspace, self.directory = workspace, directory
        directory.mkdir()
        (directory / "MLproject").write_text("name: steps\nentry_points:\n  main:\n    command: echo hello\n")
        workspace.add_cluster(CLUSTER)

    def arguments(self, backend_config=None, **more):
        return {
            "uri": str(self.directory),
            "env_manager": "local",
            "backend": "databricks",
            "backend_config": {"existing_cluster_id": CLUSTER, **(backend_config or {})},
            "report": lambda _: None,
            **more,
        }

    def submit(self, **more):
        return mlproj_core.submit(**self.arguments(**more))

    def run(self, submitted):
        """What the workspace has of a run."""
        return self.workspace.runs.of_token(submitted.handle.name)

    def come_to(self, submitted, life):
        """Wait until a run's task is in a state."""
        self.workspace.runs.wait_until(lambda: self.run(submitted).task.life == life)


@pytest.fixture
def steps(workspace, tmp_path, monkeypatch):
    """A project to submit, and waiting that is not slow."""
    monkeypatch.setenv("MLPROJ_TRACKING", "off")
    monkeypatch.setattr(poll, "SHORTEST", 0.05)
    monkeypatch.setattr(poll, "TOGETHER", 0.02)
    monkeypatch.setattr(backend, "FOLLOWING", (0.05, 0.2))
    monkeypatch.setattr(backend, "LOOK_INTERVAL", 0.05)
    yield Steps(workspace, tmp_path / "project")
    workspace.faults.clear()
    poll.stop_polling()
    forget_workspaces()
