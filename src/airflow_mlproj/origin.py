"""Where a task's project comes from: the DAG's own bundle, or Git with a connection's credentials."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_mlproj.settings import check_uri
from airflow_mlproj.variables import changed_environment
from mlproj_core.errors import UserError

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["GIT_VARIABLES", "bundle_root", "git_login", "project_uri"]

GIT_VARIABLES = ("AIRFLOW_GIT_*", "GIT_CONFIG_*", "GIT_SSH_COMMAND", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE")
"""Patterns of the variables by which the Git provider's hook lends git a login: no business of the project."""


def bundle_root(context: Context) -> Path:
    """The root of the bundle that the running DAG came from, at the version of this DAG run."""
    ti: Any = context["ti"]
    if (bundle := getattr(ti, "bundle_instance", None)) is not None:
        return Path(bundle.path)
    # In `dag.test()` a task has no bundle: then the one that the DAG's file is in, or else the file's directory.
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    file = Path(context["dag"].fileloc)
    bundles = DagBundlesManager().get_all_dag_bundles()  # type: ignore[no-untyped-call]
    roots = [root for bundle in bundles if file.is_relative_to(root := Path(bundle.path))]
    return max(roots, key=lambda root: len(root.parts), default=file.parent)


def project_uri(uri: str, bundle: Path) -> str:
    """The URI to run: a relative one is looked up in the DAG's bundle, any other must be allowed.

    Args:
        uri: as the DAG gives it, after templating.
        bundle: root of the DAG's bundle, at the version of this DAG run.

    Raises:
        UserError: it leads out of the bundle, is not there, or is not allowed.
    """
    if not uri.strip():
        raise UserError("uri is empty: name the project, such as 'projects/train' in the DAG's bundle or a Git URL.")
    path, hash_sign, subdirectory = uri.partition("#")
    if not _is_relative(path):
        check_uri(uri)
        return uri
    place = Path(os.path.normpath(bundle / path))
    if not place.resolve().is_relative_to(bundle.resolve()):
        raise UserError(f"uri {uri!r} leads out of the DAG's bundle ({bundle}). Name a directory inside it.")
    if not place.is_dir():
        raise UserError(
            f"uri {uri!r} is relative, and so looked up in the DAG's bundle, but there is no directory {place}. "
            "Give the path from the bundle's root, an absolute path, or a Git URL."
        )
    return f"{place}{hash_sign}{subdirectory}"


def _is_relative(path: str) -> bool:
    # `host:path` is Git's short form of an ssh URL.
    return not (path.startswith(("/", "~")) or ":" in path.split("/", 1)[0])


@contextlib.contextmanager
def git_login(git_conn_id: str | None, uri: str) -> Iterator[None]:
    """Lend git, in this process and for now, the login of a connection of the type `git`.

    Raises:
        UserError: the Git provider is not installed, or the connection is for another host.
    """
    if git_conn_id is None:
        yield
        return
    try:
        from airflow.providers.git.hooks.git import GitHook
    except ImportError as error:
        raise UserError(
            "git_conn_id needs the Git provider, which is not installed: pip install apache-airflow-providers-git"
        ) from error
    url = uri.partition("#")[0].removeprefix("git+")
    home = GitHook(git_conn_id).repo_url
    if home and _host_of(home) != _host_of(url):
        raise UserError(
            f"The connection {git_conn_id!r} is for {_host_of(home)!r}, and the project is on {_host_of(url)!r}: its "
            "login is not sent there. Give the connection of that host."
        )
    hook = GitHook(git_conn_id, repo_url=url)
    with hook.configure_hook_env(), changed_environment(hook.env):
        yield


def _host_of(url: str) -> str:
    if "://" in url:
        return (urlsplit(url).hostname or "").lower()
    host, colon, _ = url.partition(":")
    return host.rpartition("@")[2].lower() if colon and "/" not in host else ""
