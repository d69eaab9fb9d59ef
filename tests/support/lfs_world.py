"""Git LFS for tests: a server of its batch API that keeps files in memory, and repositories that use it.

The API: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md and basic-transfers.md.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field

from git_world import AUTHOR, GitHandler, GitServer, commit, git, repository
from missing import missing

POINTER = b"version https://git-lfs.github.com/spec/v1\n"


def require_git_lfs():
    """Skip on a laptop without git-lfs; fail in CI."""
    if shutil.which("git-lfs") is None:
        missing("git-lfs is not installed (as root: scripts/system-packages.sh)")


@dataclass
class LfsServer(GitServer):
    """A web server for repositories and their large files.

    Attributes:
        files: the large files, by their SHA-256.
        served: the SHA-256 of each file that was given out.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)

    @property
    def handler(self):
        return _LfsHandler


class _LfsHandler(GitHandler):
    def do_POST(self):  # noqa: N802 -- http.server wants it so
        if "/info/lfs/" not in self.path:
            return super().do_POST()
        body = self.body()
        if self.turned_away():
            return None
        if not self.path.endswith("/info/lfs/objects/batch"):
            return self.plain(404)
        asked = json.loads(body)
        answer = {"transfer": "basic", "objects": [self._found(asked["operation"], one) for one in asked["objects"]]}
        return self._send(json.dumps(answer).encode(), "application/vnd.git-lfs+json")

    def _found(self, operation, asked):
        known = asked["oid"] in self.server_world.files
        if operation == "download" and not known:
            return {**asked, "error": {"code": 404, "message": "Object does not exist on the server"}}
        if operation == "upload" and known:
            return asked
        href = f"http://{self.headers['Host']}/lfs-files/{asked['oid']}"
        return {**asked, "actions": {operation: {"href": href}}}

    def do_GET(self):  # noqa: N802 -- http.server wants it so
        if not self.path.startswith("/lfs-files/"):
            return super().do_GET()
        if self.turned_away():
            return None
        oid = self.path.rpartition("/")[2]
        self.server_world.served.append(oid)
        return self._send(self.server_world.files[oid], "application/octet-stream")

    def do_PUT(self):  # noqa: N802 -- http.server wants it so
        body = self.body()
        if self.turned_away():
            return
        self.server_world.files[self.path.rpartition("/")[2]] = body
        self._send(b"", "application/octet-stream")

    def _send(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def lfs_repository(directory, **files):
    """A work tree whose files named `*.bin` are large ones, as `git lfs track` makes it."""
    work = repository(directory)
    git("lfs", "install", "--local", "--skip-repo", cwd=work)
    git("lfs", "track", "*.bin", cwd=work)
    commit(work, "with large files", **files)
    return work


def pushed(work, url):
    """Give a work tree's large files to the server of a repository, by git-lfs itself."""
    done = subprocess.run(
        ["git", *AUTHOR, "lfs", "push", "--all", url],
        cwd=work, capture_output=True, text=True, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
