"""Unity Catalog volumes by the Files API (https://docs.databricks.com/api/workspace/files)."""

import email.utils

from databricks_disk import Tree
from databricks_refusals import Refusal, absent, denied, invalid

LARGEST = 5 << 30
"""Bytes of a file that comes in one request."""


class Volumes:
    """The volumes.

    Args:
        directory: of the host, for their files; clusters have it as /Volumes.

    Attributes:
        allowed: whether the workspace has Unity Catalog at all.
        writable: whether the user may write to volumes.
    """

    def __init__(self, directory):
        self._tree, self._volumes = Tree(directory), set()
        self.allowed = self.writable = True

    @property
    def directory(self):
        return self._tree.directory

    def add(self, catalog, schema, volume):
        """Make a volume, as `CREATE VOLUME` does. Returns: its path."""
        path = f"/{catalog}/{schema}/{volume}"
        self._tree.at(path).mkdir(parents=True, exist_ok=True)
        self._volumes.add(path)
        return f"/Volumes{path}"

    # -- files

    def put(self, path, query, data):
        path = self._inside(path, write=True)
        target = self._tree.at(path)
        if target.is_dir():
            raise Refusal(409, "ALREADY_EXISTS", f"The path is a directory: /Volumes{path}")
        if len(data) > LARGEST:
            raise Refusal(413, "REQUEST_TOO_LARGE", "Uploaded files cannot exceed 5 gigabytes.")
        if target.exists() and query.get("overwrite") != "true":
            raise Refusal(409, "ALREADY_EXISTS", "The file being created already exists.")
        self._tree.write(path, data)

    def get(self, path):
        """Returns: the bytes of a file, and headers."""
        path = self._inside(path)
        target = self._tree.at(path)
        if not target.is_file():
            raise absent("The file being accessed is not found.", "NOT_FOUND")
        when = email.utils.formatdate(target.stat().st_mtime, usegmt=True)
        return target.read_bytes(), {"Content-Type": "application/octet-stream", "Last-Modified": when}

    def delete(self, path):
        path = self._inside(path, write=True)
        if not self._tree.at(path).is_file():
            raise absent("The file being accessed is not found.", "NOT_FOUND")
        self._tree.delete(path)

    # -- directories

    def make_directory(self, path):
        path = self._inside(path, write=True)
        if self._tree.at(path).is_file():
            raise Refusal(409, "ALREADY_EXISTS", f"The path is a file: /Volumes{path}")
        self._tree.at(path).mkdir(parents=True, exist_ok=True)

    def check_directory(self, path):
        if not self._tree.at(self._inside(path)).is_dir():
            raise absent("The directory being accessed is not found.", "NOT_FOUND")

    def list_directory(self, path, query):
        self.check_directory(path)
        path = self._inside(path)
        children = self._tree.children(path)
        size, begin = int(query.get("page_size") or 1000), int(query.get("page_token") or 0)
        answer = {"contents": [self._entry(child) for child in children[begin : begin + size]]}
        if begin + size < len(children):
            answer["next_page_token"] = str(begin + size)
        return answer

    def _entry(self, path):
        target = self._tree.at(path)
        entry = {"path": f"/Volumes{path}", "name": target.name, "is_directory": target.is_dir()}
        if not target.is_dir():
            entry |= {"file_size": target.stat().st_size, "last_modified": self._tree.modified(path)}
        return entry

    def delete_directory(self, path):
        self.check_directory(path)
        path = self._inside(path, write=True)
        if path in self._volumes:
            raise invalid(f"A volume's root cannot be deleted: /Volumes{path}")
        if self._tree.children(path):
            raise Refusal(400, "FILES_API_DIRECTORY_IS_NOT_EMPTY", f"The directory is not empty: /Volumes{path}")
        self._tree.delete(path)

    def _inside(self, path, write=False):
        if not path.startswith("/Volumes/"):
            raise invalid(f"Invalid path: {path} must begin with /Volumes/")
        if not self.allowed:
            raise absent("No metastore assigned for the current workspace.", "METASTORE_DOES_NOT_EXIST")
        path = path.removeprefix("/Volumes").rstrip("/")
        volume = "/".join(path.split("/")[:4])
        name = ".".join(volume.strip("/").split("/"))
        if volume not in self._volumes:
            raise absent(f"Volume '{name}' does not exist.", "NOT_FOUND")
        if write and not self.writable:
            raise denied(f"User does not have WRITE VOLUME on Volume '{name}'.")
        return path
