"""Git for tests: repositories, a web server in front of `git http-backend` that counts and can stall, a clean host."""

import base64
import os
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

AUTHOR = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
BIG = 400_000
"""Bytes of a file that no compression makes smaller."""


def git(*arguments, cwd):
    """Run git and return what it prints; an error ends the test."""
    done = subprocess.run(["git", *AUTHOR, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(work, message="a change", **files):
    """Write files into a work tree, commit everything, and return the commit's name."""
    for name, content in files.items():
        path = Path(work) / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git("add", "-A", cwd=work)
    git("commit", "-q", "--allow-empty", "-m", message, cwd=work)
    return git("rev-parse", "HEAD", cwd=work)


def repository(directory, **files):
    """A work tree with one commit; its first remote is given to nobody."""
    Path(directory).mkdir(parents=True)
    git("init", "-q", "-b", "main", ".", cwd=directory)
    commit(directory, "first", **(files or {"MLproject": "name: test\n"}))
    return Path(directory)


def history(directory):
    """A work tree with three commits: a big file that was deleted later, a big one that stayed, a small change."""
    work = repository(directory, old=os.urandom(BIG), sub__MLproject="name: x")
    (work / "old").unlink()
    commit(work, "second", data=os.urandom(BIG))
    commit(work, "third", sub__f="3")
    return work


def published(work, directory):
    """A bare copy of a work tree with all its branches and tags."""
    git("clone", "-q", "--mirror", work, directory, cwd=work)
    git("remote", "remove", "origin", cwd=directory)
    return Path(directory)


def clean_environment(monkeypatch, home):
    """No settings, credentials or proxies of whoever runs the tests; the cache of mirrors below `home`."""
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(("GIT_", "SSH_", "MLPROJ_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(home / "cache"))
    return home


def mirror(home):
    """The one mirror in the cache below `home`."""
    return next(path for path in (home / "cache/git").iterdir() if path.is_dir())


def leftovers(home, into):
    """What a fetch left in the cache besides mirrors and their locks, and below `into` besides checkouts."""
    cache = [path.name for path in (home / "cache/git").iterdir() if "." in path.name and path.suffix != ".lock"]
    return cache + [path.name for path in into.iterdir() if not path.name.startswith("checkout-")]


@dataclass
class GitServer:
    """A web server that serves the bare repositories below a directory.

    Attributes:
        root: the directory.
        login: user and password that it wants; None lets everybody in.
        protocol: version of Git's protocol it knows at most: 2, or 0.
        redirect: host and port to send every request to.
        status: HTTP status to answer everything with.
        stalled: set when the server has sent half of a pack and waits for `resume`, if `stall` is set.
    """

    root: Path
    login: tuple[str, str] | None = None
    protocol: int = 2
    redirect: str | None = None
    status: int | None = None
    stall: bool = False
    stalled: threading.Event = field(default_factory=threading.Event)
    resume: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    sent: int = 0

    @property
    def handler(self):
        """What answers a request."""
        return GitHandler

    def __enter__(self):
        world = self

        class Handler(self.handler):
            server_world = world

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.resume.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, name, host="localhost", login=""):
        return f"http://{login}{host}:{self.port}/{name}"

    @property
    def fetches(self):
        """How many packs were asked for."""
        return sum("fetch" in request for request in self.requests)

    def forget(self):
        self.requests.clear()
        self.logins.clear()
        self.sent = 0


class GitHandler(BaseHTTPRequestHandler):
    server_world: GitServer

    def log_message(self, *arguments):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.body())

    def body(self):
        """What was sent."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers["Content-Length"]))

    def turned_away(self):
        """Whether the request was answered already: by a failure, a redirect, or a question for the login."""
        world = self.server_world
        given = self.headers.get("Authorization", "")
        if given:
            world.logins.append(base64.b64decode(given.partition(" ")[2]).decode())
        if world.status is not None:
            self.plain(world.status)
        elif world.redirect is not None:
            self.plain(302, Location=f"http://{world.redirect}{self.path}")
        elif world.login is not None and (not given or world.logins[-1] != ":".join(world.login)):
            self.plain(401, **{"WWW-Authenticate": 'Basic realm="git"'})
        else:
            return False
        return True

    def _answer(self, body):
        world = self.server_world
        if self.turned_away():
            return
        path, _, query = self.path.partition("?")
        raw = body
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            raw = gzip.decompress(body)
        is_fetch = b"command=fetch" in raw or (b"want " in raw and b"command=" not in raw)
        world.requests.append(f"{self.command} {self.path}{' fetch' if is_fetch else ''}")
        variables = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(world.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        if world.protocol == 2:
            variables["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
        answer = subprocess.run(["git", "http-backend"], input=body, env=variables, capture_output=True).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        world.sent += len(content)
        if is_fetch and world.stall:
            half = len(content) // 2
            self.wfile.write(content[:half])
            self.wfile.flush()
            world.stalled.set()
            world.resume.wait(30)
            content = content[half:]
        self.wfile.write(content)
        return

    def plain(self, status, **headers):
        self.server_world.requests.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
