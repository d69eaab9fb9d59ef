"""The workspace's own tree: folders, files and notebooks (https://docs.databricks.com/api/workspace/workspace)."""

import base64
import binascii
import zlib

from databricks_disk import Tree
from databricks_refusals import Refusal, absent, denied, invalid
from databricks_schema import check_fields

BY_JSON, BY_FORM = 10 << 20, 500 << 20
"""Bytes of a file that is imported as base64 in JSON, and of one that comes as a form."""
LANGUAGES = {".py": "PYTHON", ".r": "R", ".scala": "SCALA", ".sql": "SQL"}
NOTEBOOK = b"# Databricks notebook source"
FORMATS = ("AUTO", "DBC", "HTML", "JUPYTER", "RAW", "R_MARKDOWN", "SOURCE")


class Objects:
    """The objects.

    Args:
        directory: of the host, for their contents; clusters have it as /Workspace.
        user: whose home is there from the beginning.

    Attributes:
        writable: whether the user may write.
    """

    def __init__(self, directory, user):
        self._tree, self._notebooks = Tree(directory), {}
        self.writable = True
        self._tree.at(f"/Users/{user}").mkdir(parents=True)
        self._tree.at("/Shared").mkdir()

    @property
    def directory(self):
        return self._tree.directory

    def import_object(self, form, content, largest):
        """Import what came.

        Args:
            form: path, format, language, overwrite.
            content: bytes.
            largest: how many there may be.
        """
        check_fields(form, path=str, format=str, language=str, overwrite=bool, content=str)
        path, kind = self._path(form, write=True), form.get("format") or "SOURCE"
        if kind not in FORMATS:
            raise invalid(f"Unknown format {kind}")
        if kind not in ("AUTO", "RAW", "SOURCE"):
            raise Refusal(501, "NOT_IMPLEMENTED", f"This stand-in imports nothing of the format {kind}.")
        if len(content) > largest:
            said = f"File size imported is ({len(content)} bytes), exceeded max size ({largest} bytes)"
            raise Refusal(400, "BAD_REQUEST", said)
        language = form.get("language")
        if kind == "AUTO" and content.startswith(NOTEBOOK):
            stem, dot, suffix = path.rpartition(".")
            path, language = stem, LANGUAGES.get(f"{dot}{suffix}".lower(), "PYTHON")
        elif kind == "SOURCE" and not language:
            raise invalid("The language must be specified for the format SOURCE.")
        elif kind != "SOURCE":
            language = None
        parent = path.rpartition("/")[0]
        if parent and not self._tree.at(parent).is_dir():
            raise absent(f"The parent folder ({parent}) does not exist.")
        there = self._tree.at(path)
        if there.is_dir() or (there.exists() and form.get("overwrite") is not True):
            raise Refusal(400, "RESOURCE_ALREADY_EXISTS", f"Path ({path}) already exists.")
        self._tree.write(path, content)
        self._notebooks.pop(path, None)
        if language:
            self._notebooks[path] = language

    def import_json(self, body):
        check_fields(body, path=str, format=str, language=str, overwrite=bool, content=str)
        try:
            content = base64.b64decode(body.get("content") or "", validate=True)
        except binascii.Error:
            raise invalid("The content is not base64.") from None
        self.import_object(body, content, BY_JSON)

    def export(self, query):
        """Returns: the content."""
        path = self._there(query)
        if self._tree.at(path).is_dir():
            raise Refusal(501, "NOT_IMPLEMENTED", "This stand-in exports no folders.")
        content = self._tree.at(path).read_bytes()
        if len(content) > BY_JSON:
            said = f"File size imported is ({len(content)} bytes), exceeded max size ({BY_JSON} bytes)"
            raise Refusal(400, "BAD_REQUEST", said)
        return content

    def status(self, query):
        return self._status(self._there(query))

    def list(self, query):
        path = self._there(query)
        if not self._tree.at(path).is_dir():
            return {"objects": [self._status(path)]}
        found = [self._status(child) for child in self._tree.children(path)]
        since = int(query.get("notebooks_modified_after") or 0)
        return {"objects": [each for each in found if each.get("modified_at", since) >= since]}

    def make_directories(self, body):
        check_fields(body, path=str)
        path = self._path(body, write=True)
        target = self._tree.at(path)
        if any(each.is_file() for each in (target, *target.parents)):
            raise Refusal(400, "RESOURCE_ALREADY_EXISTS", f"Path ({path}) already exists and is no folder.")
        target.mkdir(parents=True, exist_ok=True)

    def delete(self, body):
        check_fields(body, path=str, recursive=bool)
        path = self._path(body, write=True)
        self._there(body)
        if self._tree.at(path).is_dir() and self._tree.children(path) and not body.get("recursive"):
            raise Refusal(400, "DIRECTORY_NOT_EMPTY", f"Folder ({path}) is not empty")
        self._tree.delete(path)
        self._notebooks = {
            name: language
            for name, language in self._notebooks.items()
            if name != path and not name.startswith(f"{path}/")
        }

    def is_notebook(self, path):
        return path.removeprefix("/Workspace") in self._notebooks

    def _status(self, path):
        target = self._tree.at(path)
        number = zlib.crc32(path.encode()) + 10**12
        status = {"path": path or "/", "object_id": number, "resource_id": str(number)}
        if target.is_dir():
            return {**status, "object_type": "DIRECTORY"}
        status |= {"created_at": self._tree.modified(path), "modified_at": self._tree.modified(path)}
        if path in self._notebooks:
            return {**status, "object_type": "NOTEBOOK", "language": self._notebooks[path]}
        return {**status, "object_type": "FILE", "size": target.stat().st_size}

    def _there(self, given):
        path = self._path(given)
        if not self._tree.at(path or "/").exists():
            raise absent(f"Path ({path}) doesn't exist.")
        return path

    def _path(self, given, write=False):
        """The path without /Workspace, by which people may begin it."""
        path = given.get("path")
        if not path:
            raise invalid("Missing required field: path")
        self._tree.at(path)
        path = path.removeprefix("/Workspace").rstrip("/")
        if write and not self.writable:
            raise denied(f"User does not have Edit permissions on {path}. Please contact the owner.")
        return path
