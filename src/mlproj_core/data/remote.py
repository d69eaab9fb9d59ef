"""Which store the value of a path parameter names, as far as its text says. Nothing here asks the network."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["SCHEMES", "TRACKED", "Download", "basename", "fault", "missing_library", "signature_in", "without_query"]

_LIBRARIES = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "abfs": ("adlfs", "abfs"),
    "abfss": ("adlfs", "abfs"),
    "dbfs": ("databricks.sdk", "databricks"),
}
"""The library that reads a store, and the extra of mlproj that brings it."""

TRACKED = ("runs", "models", "mlflow-artifacts")
"""Schemes that mean something to a tracking server only."""

SCHEMES = ("http", "https", *_LIBRARIES, *TRACKED)
"""Schemes of the stores that data is fetched from."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Names under which the signed URLs of S3, Google Cloud Storage, Azure and their like carry their proof.
_SIGNATURE = re.compile(r"(?:^|&)(X-Amz-Signature|X-Goog-Signature|Signature|sig|token|access_token)=", re.IGNORECASE)
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Download:
    """Something to fetch for a parameter.

    Attributes:
        parameter: the parameter's name.
        uri: what to fetch. It holds no user and no password.
        path: the absolute path of the file or directory it becomes: what the command is given.
    """

    parameter: str
    uri: str
    path: str

    def to_dict(self) -> dict[str, str]:
        """This download as a JSON value."""
        return {"parameter": self.parameter, "uri": self.uri, "path": self.path}


def fault(uri: str) -> str | None:
    """Why nothing can be fetched from a URI, in the words that follow the value in a message; None if it may be there.

    Args:
        uri: a value that MLflow takes for remote: it has a scheme other than file:, or names a host.
    """
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is not a URI: {error}"
    scheme = parts.scheme
    if scheme == "file":
        return "names a file of another host; mount it here and give its local path"
    if scheme not in SCHEMES:
        return (
            f"is neither a local path nor in a store that data is fetched from ({', '.join(SCHEMES)}); write ./ before "
            "a local path with a colon in it, or declare the parameter as uri and let the code read it"
        )
    if _CONTROL.search(uri) or uri != uri.strip():
        return "is not a URI: it contains a control character, or begins or ends with a space"
    if scheme in TRACKED:
        return _fault_of_tracked(parts)
    if scheme == "dbfs":
        if parts.netloc or not parts.path.strip("/"):
            return "names nothing on DBFS; expected dbfs:/path, and the workspace in DATABRICKS_HOST"
        return _escape(parts.path)
    if "@" in parts.netloc and (not scheme.startswith("abfs") or ":" in parts.netloc.rpartition("@")[0]):
        return (
            "holds a user or password, which would be recorded with the run; leave it out, and put it "
            + ("into ~/.netrc" if scheme.startswith("http") else "where the store's own programs find it")
            + " (docs/data.md)"
        )
    if not host:
        return f"is not a URI: {scheme}: needs a host or bucket, as in {scheme}://name/path"
    if not scheme.startswith("http"):
        if not parts.path.strip("/"):
            return f"names a whole bucket; expected {scheme}://{parts.netloc}/path"
        return _escape(parts.path)
    return None


def _fault_of_tracked(parts: SplitResult) -> str | None:
    path = parts.path.strip("/")
    if parts.netloc and parts.scheme != "mlflow-artifacts":
        return (
            f"names a tracking server of its own; expected {parts.scheme}:/…, and the server in MLFLOW_TRACKING_URI "
            "(or tracking_uri)"
        )
    if "@" in parts.netloc:
        return "holds a user or password, which would be recorded with the run; give it in MLFLOW_TRACKING_USERNAME"
    if not path:
        forms = {"runs": "<run id>/<path>", "models": "<name>/<version>", "mlflow-artifacts": "<path>"}
        return f"names nothing; expected {parts.scheme}:/{forms[parts.scheme]}"
    if parts.scheme == "models":
        from mlproj_core.errors import UserError
        from mlproj_core.tracking.models import read_model_uri

        try:
            read_model_uri(parts.geturl())
        except UserError as error:
            return f"names no model: {error}"
    return _escape(parts.path)


def _escape(path: str) -> str | None:
    return "has a .. in its path, which no store has" if ".." in unquote(path).split("/") else None


def missing_library(uri: str) -> str | None:
    """What to install before a URI can be fetched, in the words that follow the value; None if all is there."""
    library, extra = _LIBRARIES.get(urlsplit(uri).scheme, ("", ""))
    if not library:
        return None
    from importlib.util import find_spec

    try:
        found = find_spec(library) is not None
    except ModuleNotFoundError:  # the package that it is a part of
        found = False
    return None if found else f"needs {library}, which is not installed: pip install 'mlproj[{extra}]'"


def signature_in(uri: str) -> str | None:
    """The name of the query's argument that looks like a secret; None without one."""
    found = _SIGNATURE.search(urlsplit(uri).query)
    return found[1] if found else None


def without_query(uri: str) -> str:
    """A URI fit for messages: a query may hold a signature."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if uri.startswith(("http:", "https:")) else uri


def basename(uri: str) -> str:
    """The name of the file or directory that a URI becomes: its last segment, made fit for a file system."""
    parts = urlsplit(uri)
    name = parts.path.rstrip("/").rpartition("/")[2]
    if parts.scheme.startswith("http"):
        name = unquote(name)
    name = name.replace("/", "_").replace("\0", "_")
    if name in ("", ".", ".."):
        return "data"
    octets = os.fsencode(name)
    return name if len(octets) <= _LONGEST_NAME else octets[-_LONGEST_NAME:].decode(errors="ignore")
