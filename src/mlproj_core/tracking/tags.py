"""The tags that MLflow itself gives the run of a project, by MLflow's names."""

from __future__ import annotations

import os

__all__ = ["local_user", "system_tags"]

# `mlflow run` sets mlflow.project.env for these alone: a host's own environment goes unnamed.
_NAMED_ENVIRONMENTS = ("virtualenv", "uv", "conda", "docker")


def system_tags(
    *,
    source_name: str,
    entry_point: str,
    backend: str,
    env_manager: str | None = None,
    commit: str | None = None,
    branch: str | None = None,
    repo_url: str | None = None,
    parent_run_id: str | None = None,
    user: str | None = None,
) -> dict[str, str]:
    """The tags that `mlflow run` leaves on a project's run (`mlflow/projects/utils.py`, `backend/local.py`).

    Args:
        source_name: where the project came from.
        entry_point: name of the entry point.
        backend: name of the backend.
        env_manager: "virtualenv", "uv", "conda" or "docker"; "local" and None are not tagged.
        commit: full id of the Git commit; None when the project is under no version control.
        branch: the branch that was asked for by name; None when none was.
        repo_url: URL of the Git repository.
        parent_run_id: id of the run this one is nested in.
        user: who runs it; None for the user of this process.
    """
    tags = {
        "mlflow.user": user or local_user(),
        "mlflow.source.name": source_name,
        "mlflow.source.type": "PROJECT",
        "mlflow.project.entryPoint": entry_point,
        "mlflow.project.backend": backend,
    }
    optional = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch,
        "mlflow.source.git.repoURL": repo_url,
        "mlflow.parentRunId": parent_run_id,
        "mlflow.project.env": env_manager if env_manager in _NAMED_ENVIRONMENTS else None,
    }
    tags.update({name: value for name, value in optional.items() if value is not None})
    return tags


def local_user() -> str:
    """The user of this process, by the rule of `getpass.getuser` (importing that module costs 2 ms).

    A container may run under a number that has no name: that is "unknown", MLflow's word for it.
    """
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if name := os.environ.get(variable):
            return name
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "unknown"
