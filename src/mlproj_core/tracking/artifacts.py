"""Where an artifact of a run goes, by its artifact URI."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from mlproj_core.tracking.uris import scheme_of

__all__ = ["PROXY_PATH", "copy_to_local", "local_root", "proxied_path"]

PROXY_PATH = "/api/2.0/mlflow-artifacts/artifacts"
"""Path below a tracking server where it takes artifacts on behalf of its own store."""


def local_root(artifact_uri: str) -> Path | None:
    """The directory that a plain path or a file: URI names; None for any other."""
    scheme = scheme_of(artifact_uri)
    if scheme == "":
        return Path(artifact_uri)
    parts = urlsplit(artifact_uri)
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return None


def copy_to_local(path: Path, root: Path, artifact_dir: str) -> str | None:
    """Copy the file into a local artifact directory; None, or why it cannot be done."""
    import shutil

    try:
        target = root / artifact_dir
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)
    except OSError as error:
        return f"the artifact directory {root} cannot be written from this machine: {error.strerror or error}"
    return None


def proxied_path(artifact_uri: str, artifact_dir: str, name: str) -> str:
    """The server's path for an artifact below an mlflow-artifacts: URI without a host of its own."""
    tail = posixpath.join(unquote(urlsplit(artifact_uri).path).strip("/"), artifact_dir, name)
    return f"{PROXY_PATH}/{quote(tail)}"
