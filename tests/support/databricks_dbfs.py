"""The Databricks file system (https://docs.databricks.com/api/workspace/dbfs)."""

import base64
import binascii
import itertools

from databricks_disk import Tree
from databricks_refusals import Refusal, absent, denied, invalid
from databricks_schema import check_fields

BLOCK = 1 << 20
"""Bytes that one request may carry."""


class Dbfs:
    """Its files.

    Args:
        directory: of the host, for their contents; clusters have it as /dbfs.

    Attributes:
        allowed: whether the workspace lets people use it.
    """

    def __init__(self, directory):
        self._tree = Tree(directory)
        self._handles, self._numbers = {}, itertools.count(7349210986)
        self.allowed = True

    @property
    def directory(self):
        return self._tree.directory

    def put(self, body):
        check_fields(body, path=str, contents=str, overwrite=bool)
        data = _block(body.get("contents"))
        self._tree.write(self._free(body), data)

    def create(self, body):
        check_fields(body, path=str, overwrite=bool)
        path, handle = self._free(body), next(self._numbers)
        self._handles[handle] = (path, bytearray())
        self._tree.write(path, b"")
        return {"handle": handle}

    def add_block(self, body):
        check_fields(body, handle=int, data=str)
        self._open(body)[1].extend(_block(body.get("data")))

    def close(self, body):
        check_fields(body, handle=int)
        path, data = self._open(body)
        del self._handles[body["handle"]]
        self._tree.write(path, bytes(data))

    def read(self, query):
        path = self._there(query)
        if self._tree.at(path).is_dir():
            raise invalid(f"{path} is a directory.")
        offset, length = int(query.get("offset") or 0), int(query.get("length") or BLOCK)
        if offset < 0 or not 0 <= length <= BLOCK:
            code = "MAX_READ_SIZE_EXCEEDED" if length > BLOCK else "INVALID_PARAMETER_VALUE"
            raise Refusal(400, code, "No more than 1 MB can be read at once.")
        data = self._tree.at(path).read_bytes()[offset : offset + length]
        return {"bytes_read": len(data), "data": base64.b64encode(data).decode()}

    def status(self, query):
        return self._status(self._there(query))

    def list(self, query):
        path = self._there(query)
        if not self._tree.at(path).is_dir():
            return {"files": [self._status(path)]}
        return {"files": [self._status(child) for child in self._tree.children(path)]}

    def make_directories(self, body):
        check_fields(body, path=str)
        self._tree.at(self._path(body)).mkdir(parents=True, exist_ok=True)

    def delete(self, body):
        """What is not there is deleted already."""
        check_fields(body, path=str, recursive=bool)
        path = self._path(body)
        target = self._tree.at(path)
        if target.is_dir() and self._tree.children(path) and not body.get("recursive"):
            raise Refusal(400, "IO_ERROR", f"{path} is non-empty")
        if target.exists():
            self._tree.delete(path)

    def move(self, body):
        check_fields(body, source_path=str, destination_path=str)
        source = self._there({"path": body.get("source_path")})
        target = self._tree.at(self._path({"path": body.get("destination_path")}))
        if target.exists():
            raise Refusal(
                400, "RESOURCE_ALREADY_EXISTS", f"A file or directory already exists at the input path {target.name}."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        self._tree.at(source).rename(target)

    def _status(self, path):
        target = self._tree.at(path)
        size = 0 if target.is_dir() else target.stat().st_size
        when = self._tree.modified(path)
        return {"path": path, "is_dir": target.is_dir(), "file_size": size, "modification_time": when}

    def _open(self, body):
        if body.get("handle") not in self._handles:
            raise absent(f"No stream with the handle {body.get('handle')} exists.")
        return self._handles[body["handle"]]

    def _free(self, body):
        path = self._path(body)
        target = self._tree.at(path)
        if target.is_dir() or (target.exists() and not body.get("overwrite")):
            raise Refusal(
                400, "RESOURCE_ALREADY_EXISTS", f"A file or directory already exists at the input path {path}."
            )
        return path

    def _there(self, query):
        path = self._path(query)
        if not self._tree.at(path).exists():
            raise absent(f"No file or directory exists on path {path}.")
        return path

    def _path(self, given):
        path = (given.get("path") or "").removeprefix("dbfs:")
        self._tree.at(path)
        if path.startswith("/Volumes"):
            raise denied("No operations allowed on this path")  # the service's own words
        if not self.allowed:
            raise denied(f"Public DBFS root is disabled. Access is denied on path: {path}")
        return path.rstrip("/") or "/"


def _block(text):
    try:
        data = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        raise invalid("The data is not base64.") from None
    if len(data) > BLOCK:
        raise Refusal(400, "MAX_BLOCK_SIZE_EXCEEDED", f"The block has {len(data)} bytes, which is more than {BLOCK}.")
    return data
