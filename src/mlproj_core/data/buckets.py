"""Objects of S3, Google Cloud Storage and Azure, through fsspec."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from mlproj_core.data.content import Body, Item, Known, Outdated, Passing, Store, checked_name, failure

__all__ = ["bucket_store"]

_T = TypeVar("_T")

BLOCK = 16 << 20
"""Bytes of one request: an interrupted one is all that is lost."""

_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError", "ProfileNotFound")


class _Bucket(Store):
    """What a URI of an fsspec file system names.

    Args:
        file_system: as fsspec makes it.
        path: as that file system names it.
        uri: the same as a URI, for messages and as the files' address.
        endpoint: the server that is asked instead of the provider's own, "" for that.
        is_directory: whether the URI ends with a slash: then a file of that name is not meant.
    """

    def __init__(self, file_system: Any, path: str, uri: str, endpoint: str, is_directory: bool) -> None:
        self._fs = file_system
        self._path = path
        self._uri = uri
        self._endpoint = endpoint
        self._is_directory = is_directory

    def items(self) -> Sequence[Item]:
        """See `Store.items`: what lies below a prefix is a directory."""
        if not self._is_directory:
            info = self._call(lambda: self._info(self._path), missing_ok=True)
            if info is not None and info["type"] == "file":
                return [self._item("", info)]
        found = self._call(lambda: self._fs.find(self._path, detail=True), missing_ok=True) or {}
        items = []
        for path, info in sorted(found.items()):
            name = path.removeprefix(self._path)[1:]  # after the slash
            if not name or (name.endswith("/") and not info.get("size")) or info.get("type") == "directory":
                continue  # the marker of a directory
            items.append(self._item(checked_name(name, self._uri), info))
        if not items:
            raise failure(f"{self._uri} does not exist: there is no such object, and none below it. Check the URI.")
        return items

    def open(self, item: Item, known: Known) -> Body | None:
        """See `Store.open`."""
        if item.version is not None and known.cached == item.version:
            return None
        start = known.length if known.part is not None and known.part == item.version else 0
        return Body(self._chunks(item, start), start, item.size, item.version)

    def _chunks(self, item: Item, start: int) -> Generator[bytes, None, None]:
        path = f"{self._path}/{item.name}" if item.name else self._path
        size = item.size or 0
        file = self._call(lambda: self._fs.open(path, "rb", block_size=BLOCK, cache_type="none"))
        try:
            at = start
            self._call(lambda: file.seek(start))
            while at < size and (chunk := self._call(partial(file.read, min(BLOCK, size - at)))):
                at += len(chunk)
                yield chunk
        finally:
            file.close()
        # One request reads one content. Several may have read two, unless it is the same before and after.
        if size > BLOCK or start:
            now = self._item(item.name, self._call(lambda: self._info(path)))
            if (now.version, now.size) != (item.version, item.size):
                raise Outdated(f"{self._uri} was changed while it was read")

    def _info(self, path: str) -> Mapping[str, Any]:
        self._fs.invalidate_cache()
        info: Mapping[str, Any] = self._fs.info(path)
        return info

    def _item(self, name: str, info: Mapping[str, Any]) -> Item:
        size = info.get("size")
        tag = info.get("ETag") or info.get("etag")
        changed = next(
            (info[key] for key in ("LastModified", "last_modified", "updated", "mtime") if key in info), None
        )
        version = str(tag) if tag else f"modified {changed} size {size}" if changed and size is not None else None
        address = f"{self._uri.rstrip('/')}/{name}" if name else self._uri
        return Item(name, f"{address} {self._endpoint}".rstrip(), size, version)

    def _call(self, action: Callable[[], _T], *, missing_ok: bool = False) -> Any:
        try:
            return action()
        except FileNotFoundError:
            if missing_ok:
                return None
            raise failure(f"{self._uri} does not exist. Check the URI.") from None
        except Exception as error:
            # gcsfs and adlfs tell the HTTP status, s3fs makes a PermissionError of it.
            status = getattr(error, "status_code", None) or getattr(error, "code", None)
            if isinstance(error, PermissionError) or status in (401, 403):
                raise failure(
                    f"{self._uri} may not be read: {_words(error)}. Check the credentials of this host and what they "
                    "allow (docs/data.md)."
                ) from None
            if type(error).__name__ in _NO_CREDENTIALS:
                raise failure(
                    f"{self._uri} cannot be read without credentials: {_words(error)}. Set them up as for the store's "
                    "own programs (docs/data.md)."
                ) from None
            if isinstance(error, (ValueError, TypeError)):
                raise failure(f"{self._uri} cannot be read: {_words(error)}.") from None
            raise Passing(f"{self._uri} cannot be read: {_words(error)}") from None


def bucket_store(uri: str) -> Store:
    """What a URI of S3, Google Cloud Storage or Azure names. Its library looks for credentials in its own way.

    MLFLOW_S3_ENDPOINT_URL and MLFLOW_S3_IGNORE_TLS hold as in MLflow.

    Raises:
        DataError: the URI, or a setting beside it, cannot be used.
    """
    if "::" in uri:  # fsspec would take it for several URLs in one
        raise failure(f"{uri} cannot be read: it has a :: in its path. Give the object another name.")
    options: dict[str, Any] = {}
    endpoint = ""
    if uri.startswith(("s3:", "s3a:")):
        endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL", "")
        if endpoint:
            options["endpoint_url"] = endpoint
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        if os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("true", "1"):
            options["client_kwargs"] = {"verify": False}
    try:
        file_system, path = import_module("fsspec.core").url_to_fs(
            uri, skip_instance_cache=True, use_listings_cache=False, **options
        )
    except (ImportError, ValueError, TypeError, OSError) as error:
        raise failure(f"{uri} cannot be read: {_words(error)}.") from None
    return _Bucket(file_system, path.rstrip("/"), uri, endpoint, is_directory=uri.endswith("/"))


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__
