"""Files of a Databricks workspace (DBFS), through the databricks SDK.

The API gives a megabyte at a time (https://docs.databricks.com/api/workspace/dbfs/read), so this is no fast way.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from mlproj_core.data.content import Body, Item, Known, Outdated, Passing, Store, checked_name, failure

__all__ = ["dbfs_store"]

_T = TypeVar("_T")

BLOCK = 1 << 20
PATIENCE = 60
"""Seconds that the SDK itself spends on a workspace that is unwell."""


class _Dbfs(Store):
    """What a path on DBFS names."""

    def __init__(self, workspace: Any, path: str) -> None:
        self._dbfs = workspace.dbfs
        self._host = workspace.config.host
        self._path = path

    def items(self) -> Sequence[Item]:
        """See `Store.items`."""
        status = self._call(lambda: self._dbfs.get_status(self._path))
        items = list(self._files(status)) if status.is_dir else [self._item("", status)]
        if not items:
            raise failure(f"dbfs:{self._path} is an empty directory. Check the URI.")
        return items

    def _files(self, directory: Any) -> Iterator[Item]:
        for info in self._call(lambda: list(self._dbfs.list(directory.path))):
            if info.is_dir:
                yield from self._files(info)
            else:
                yield self._item(checked_name(posixpath.relpath(info.path, self._path), f"dbfs:{self._path}"), info)

    def _item(self, name: str, info: Any) -> Item:
        version = None if info.modification_time is None else f"modified {info.modification_time} size {info.file_size}"
        path = posixpath.join(self._path, name) if name else self._path
        return Item(name, f"dbfs:{path} {self._host}", info.file_size, version)

    def open(self, item: Item, known: Known) -> Body | None:
        """See `Store.open`."""
        if item.version is not None and known.cached == item.version:
            return None
        start = known.length if known.part is not None and known.part == item.version else 0
        return Body(self._chunks(item, start), start, item.size, item.version)

    def _chunks(self, item: Item, start: int) -> Generator[bytes, None, None]:
        path = posixpath.join(self._path, item.name) if item.name else self._path
        size = item.size or 0
        at = start
        while at < size:
            answer = self._call(partial(self._dbfs.read, path, offset=at, length=min(BLOCK, size - at)))
            if not answer.bytes_read:
                break
            chunk = base64.b64decode(answer.data)
            at += len(chunk)
            yield chunk
        if size > BLOCK or start:
            now = self._item(item.name, self._call(lambda: self._dbfs.get_status(path)))
            if (now.version, now.size) != (item.version, item.size):
                raise Outdated(f"dbfs:{path} was changed while it was read")

    def _call(self, action: Callable[[], _T]) -> Any:
        errors = import_module("databricks.sdk.errors")
        try:
            return action()
        except errors.NotFound:
            raise failure(f"dbfs:{self._path} does not exist in {self._host}. Check the URI.") from None
        except (errors.PermissionDenied, errors.Unauthenticated) as error:
            raise failure(f"dbfs:{self._path} may not be read in {self._host}: {error}.") from None
        except Exception as error:
            raise Passing(f"dbfs:{self._path} cannot be read in {self._host}: {error}") from None


def dbfs_store(path: str) -> Store:
    """What a path on DBFS names, in the workspace that the databricks SDK finds (DATABRICKS_HOST, a profile).

    Raises:
        DataError: it finds none.
    """
    sdk = import_module("databricks.sdk")
    try:
        workspace = sdk.WorkspaceClient(config=sdk.core.Config(retry_timeout_seconds=PATIENCE))
    except ValueError as error:
        words = " ".join(str(error).split())[:500]
        raise failure(
            f"dbfs:{path} cannot be read: {words}. Set DATABRICKS_HOST and DATABRICKS_TOKEN, or a profile in "
            "~/.databrickscfg."
        ) from None
    return _Dbfs(workspace, path.rstrip("/") or "/")
