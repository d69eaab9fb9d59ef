"""The real SDK's client of a workspace of the tests."""

import contextlib

from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config


@contextlib.contextmanager
def client_of(workspace, patience=10, **configuration):
    """A client, closed at the end.

    Args:
        patience: seconds for which it asks again where the workspace is unwell.
        configuration: of the SDK; by default the workspace's token.
    """
    configuration = configuration or {"token": workspace.token}
    client = WorkspaceClient(
        config=Config(host=workspace.host, retry_timeout_seconds=patience, http_timeout_seconds=30, **configuration)
    )
    try:
        yield client
    finally:
        close(client)


def close(client):
    """Close a client's connections, for which the SDK has no word."""
    api = client.api_client
    api._api_client._session.close()
    for name in ("_cached_cloud_provider_session", "_cached_authenticated_session"):
        session = getattr(client.files, name, None)
        if session is not None:
            session.close()


def task(file="dbfs:/main.py", *parameters, **more):
    """The one task of a submission, on a new cluster unless another compute is given."""
    compute = {"new_cluster": {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 1}}
    if any(name in more for name in ("new_cluster", "existing_cluster_id", "environment_key")):
        compute = {}
    python = {"python_file": file, "parameters": list(parameters), **more.pop("python", {})}
    return {"task_key": "main", "spark_python_task": python, **compute, **more}


def submit(client, one=None, **body):
    """Submit a run by a bare request, for which the SDK leaves no field out. Returns: its run_id."""
    body = {"run_name": "train", "tasks": [one or task()], **body}
    return client.api_client.do("POST", "/api/2.2/jobs/runs/submit", body=body)["run_id"]
