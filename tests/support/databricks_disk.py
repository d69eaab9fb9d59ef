"""A tree of files of a workspace, which lies on the host's disk, where a cluster's containers can have it too."""

import shutil
from pathlib import Path, PurePosixPath

from databricks_refusals import invalid


class Tree:
    """Files and directories by absolute paths, such as `/Users/me/x`.

    Args:
        directory: where they lie.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)

    def at(self, path):
        """Where a path lies. Raises: Refusal, if it is not absolute, or leads out of the tree."""
        if not isinstance(path, str) or not path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise invalid(f"Path must be absolute: {path}")
        return self.directory / path.strip("/")

    def write(self, path, data):
        """Write a file as a whole: who reads it meanwhile has the old one or the new one."""
        target = self.at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_name(f".half-{target.name}")
        half.write_bytes(data)
        half.replace(target)

    def delete(self, path):
        target = self.at(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    def children(self, path):
        """The paths right below one, sorted."""
        found = sorted(child for child in self.at(path).iterdir() if not child.name.startswith(".half-"))
        return [f"{path.rstrip('/')}/{child.name}" for child in found]

    def modified(self, path):
        """When it was last changed, in milliseconds since the epoch."""
        return int(self.at(path).stat().st_mtime * 1000)
