"""Artifacts of runs and models: found by the tracking server, and read from wherever they are kept."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mlproj_core.data.content import Body, Item, Known, Passing, Store, checked_name, failure
from mlproj_core.data.web import Web
from mlproj_core.errors import TrackingError, TrackingRefused, UserError
from mlproj_core.tracking import Tracking, connect
from mlproj_core.tracking.artifacts import local_root
from mlproj_core.tracking.models import read_model_uri
from mlproj_core.tracking.server import TrackingServer
from mlproj_core.tracking.session import Session
from mlproj_core.tracking.uris import is_http, scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["artifact_store"]

PATIENCE = 30.0
"""Seconds for a tracking server that is down: the run can wait longer than whoever submits it."""

_DEEPEST = 5
"""Links from one URI to the next: a model's files may be said to be in a run, whose artifacts are in a bucket."""


def artifact_store(uri: str, tracking_uri: str | None, open_store: Callable[[str], Store]) -> Store:
    """Where the artifacts of a `runs:`, `models:` or `mlflow-artifacts:` URI are.

    Args:
        uri: what is asked for.
        tracking_uri: the server to ask, without credentials; by default as in `connect`.
        open_store: opens the stores that no tracking server is needed for.

    Raises:
        DataError: the server knows no such thing, or keeps it where it cannot be read from here.
        Passing: the server cannot be asked now.
    """
    try:
        tracking = connect(tracking_uri, patience=PATIENCE)
        root, path = _root_of(uri, tracking)
    except (TrackingRefused, UserError) as error:
        raise failure(f"{uri} cannot be found: {error}") from None
    except TrackingError as error:
        raise Passing(f"{uri} cannot be found: {error}") from None
    if (directory := local_root(root)) is not None:
        return _Local(directory, path, uri)
    if scheme_of(root) == "mlflow-artifacts":
        return _Proxied(tracking, root, path, uri)
    return open_store(f"{root.rstrip('/')}/{path}" if path else root)


def _root_of(uri: str, tracking: Tracking) -> tuple[str, str]:
    """The URI of a store that needs no server to be found, and the path below it."""
    path = ""
    for _ in range(_DEEPEST):
        scheme = scheme_of(uri)
        if scheme == "runs":
            run_id, _, below = urlsplit(uri).path.strip("/").partition("/")
            if (root := tracking.get_run(run_id).artifact_uri or "") == "":
                raise UserError("runs are not tracked here. Set MLFLOW_TRACKING_URI.")
        elif scheme == "models":
            model = read_model_uri(uri)
            below = model.path
            registry = os.environ.get("MLFLOW_REGISTRY_URI")
            root = (connect(registry, patience=PATIENCE) if registry else tracking).model_location(model)
        else:
            return uri, path
        uri, path = root, posixpath.join(below, path) if path else below
    raise UserError("the server sends from one place to the next without end.")


class _Proxied(Store):
    """What a tracking server gives out on behalf of its own artifact store.

    Args:
        tracking: the tracking server.
        root: an `mlflow-artifacts:` URI.
        path: below it.
        uri: what was asked for, for messages.
    """

    def __init__(self, tracking: Tracking, root: str, path: str, uri: str) -> None:
        parts = urlsplit(root)
        self._server = _server(tracking, parts.netloc, uri)
        self._path = posixpath.join(unquote(parts.path).strip("/"), path).rstrip("/")
        self._uri = uri

    def items(self) -> Sequence[Item]:
        """See `Store.items`: what has nothing below it is a file, as for MLflow."""
        return list(self._below("")) or [self._item("", None)]

    def _below(self, directory: str) -> Iterator[Item]:
        try:
            listed = self._server.list_artifacts(posixpath.join(self._path, directory).rstrip("/"))
        except (TrackingRefused, UserError) as error:
            raise failure(f"{self._uri} cannot be listed: {error}") from None
        except TrackingError as error:
            raise Passing(f"{self._uri} cannot be listed: {error}") from None
        for file in listed:
            # The server names files relative to their directory; an earlier one did so from its root.
            name = checked_name(str(file.get("path", "")), self._uri).rpartition("/")[2]
            name = f"{directory}/{name}" if directory else name
            if file.get("is_dir"):
                yield from self._below(name)
            else:
                # JSON of protobuf: an int64 is text there.
                yield self._item(name, int(file["file_size"]) if "file_size" in file else None)

    def _item(self, name: str, size: int | None) -> Item:
        return Item(name, self._server.artifact_door(posixpath.join(self._path, name).rstrip("/")).url, size)

    def open(self, item: Item, known: Known) -> Body | None:
        """See `Store.open`."""
        door = self._server.artifact_door(posixpath.join(self._path, item.name).rstrip("/"))
        remedy = (
            f"It was asked for by {door.who}. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, or ask for the permission."
        )
        return Web(door.headers, door.tls, remedy).open(door.url, known)


def _server(tracking: Tracking, netloc: str, uri: str) -> TrackingServer:
    if not is_http(tracking.uri):
        raise failure(
            f"{uri} is kept by a tracking server, and the tracking URI {tracking.uri} names none. Set "
            "MLFLOW_TRACKING_URI to that server's address."
        )
    own = urlsplit(tracking.uri)
    if netloc and netloc != own.netloc:
        # Another server than the one whose credentials these are: it gets none of them.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING_")}
        address = f"{own.scheme}://{netloc}"
        return TrackingServer(Session(address, patience=PATIENCE, environ=environ), mlflow_uri=address)
    if not isinstance(tracking, TrackingServer):
        raise failure(
            f"{uri} is kept by the tracking server {tracking.uri}, and its artifacts cannot be read through mlflow. "
            "Unset MLPROJ_TRACKING, MLFLOW_TRACKING_AUTH and MLFLOW_TRACKING_AWS_SIGV4, or give the URI of the store "
            "behind it (s3://…)."
        )
    return tracking


class _Local(Store):
    """Artifacts in a directory of this host, as those of a local store are."""

    def __init__(self, root: Path, path: str, uri: str) -> None:
        self._root = root.resolve()
        self._place = self._root / path
        self._uri = uri

    def items(self) -> Sequence[Item]:
        """See `Store.items`."""
        if not self._place.exists():
            raise failure(f"{self._uri} does not exist on this host: there is no {self._place}.")
        if self._place.is_file():
            return [self._item(self._place, "")]
        files = sorted(Path(directory) / name for directory, _, names in os.walk(self._place) for name in names)
        items = [self._item(file, checked_name(str(file.relative_to(self._place)), self._uri)) for file in files]
        if not items:
            raise failure(f"{self._uri} is an empty directory on this host: {self._place}.")
        return items

    def _item(self, file: Path, name: str) -> Item:
        real = file.resolve()
        if not real.is_relative_to(self._root):
            raise failure(f"{self._uri} holds a link that leads out of {self._root}: {file}.")
        return Item(name, str(real), real.stat().st_size, local=real)

    def open(self, item: Item, known: Known) -> Body | None:
        """Never called: what is on this host is copied from where it is."""
        raise AssertionError(f"{item.name} is on this host, and copied from where it is")
