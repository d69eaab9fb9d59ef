"""A Git repository that Databricks checks out itself, for a task that runs a file of it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mlproj_core.backends.databricks.compute import Cluster, Compute
from mlproj_core.backends.databricks.config import DatabricksConfig
from mlproj_core.errors import UserError
from mlproj_core.launch import Launch

__all__ = ["Repository", "repository_of"]

_PROVIDERS: Final[Mapping[str, str]] = {
    "github.com": "gitHub",
    "gitlab.com": "gitLab",
    "bitbucket.org": "bitbucketCloud",
    "dev.azure.com": "azureDevOpsServices",
}
"""Whose repositories are those of a host."""

_BESIDE: Final = 14
"""The first major version of Databricks Runtime in which a file runs in its own directory."""


@dataclass(frozen=True)
class Repository:
    """A repository at a commit.

    Attributes:
        url: its https URL, without credentials.
        provider: who serves it, one of `config.GIT_PROVIDERS`.
        commit: the commit's full name.
        subdirectory: of the project in it; "" for the root.
    """

    url: str
    provider: str
    commit: str
    subdirectory: str = ""

    def path_of(self, file: str) -> str:
        """A file of the project, as the repository has it."""
        return posixpath.normpath(posixpath.join(self.subdirectory, file))

    def source(self) -> dict[str, str]:
        """The `git_source` of a run."""
        return {"git_url": self.url, "git_provider": self.provider, "git_commit": self.commit}


def repository_of(launch: Launch, config: DatabricksConfig, compute: Compute, file: str) -> Repository | None:
    """Where Databricks checks a project out itself; None if its code is to be uploaded.

    Only the variables of a new cluster tell such a task its MLflow run. Unless the caller asks for it (`code: git`),
    the repository must be one that anybody may read, and the file must run in the project's directory: Databricks takes
    the file's own, from Runtime 14 on.

    Args:
        launch: what is asked for.
        config: the caller's settings.
        compute: where it runs.
        file: the file of the project that is run.

    Raises:
        UserError: the caller wants it so, and it cannot be.
    """
    if config.code == "archive":
        return None
    upstream, commit = launch.upstream, launch.checkout.commit
    host = urlsplit(upstream.url).hostname if upstream is not None else None
    provider = config.git_provider or _PROVIDERS.get(host or "")
    if upstream is None or commit is None or launch.checkout.owned is None:
        why = "the project is not run from a remote Git repository"
    elif not upstream.url.startswith("https://"):
        why = f"Databricks clones by https, and the URL is {upstream.url}"
    elif provider is None:
        why = f"who serves {host} is not known: say so by 'git_provider'"
    elif not isinstance(compute, Cluster):
        why = "the run's variables can be given to a new cluster only"
    elif config.code == "git" or (upstream.login is None and "/" not in file and _runtime(compute) >= _BESIDE):
        return Repository(upstream.url, provider, commit, launch.checkout.subdirectory)
    else:
        return None
    if config.code == "git":
        raise UserError(f"backend_config: 'code' is \"git\", but {why}. Leave it out: the code is uploaded then.")
    return None


def _runtime(cluster: Cluster) -> int:
    """The major version of a cluster's runtime; 0 where a policy sets it."""
    found = re.match(r"(?:custom:)?(?:release__)?(\d+)\.", str(cluster.spec.get("spark_version") or ""))
    return int(found[1]) if found else 0
