"""Packages for tests: wheels and source directories made on the spot, an index server that watches, a clean host."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BACKEND = """
import pathlib, zipfile

NAME, VERSION = {name!r}, {version!r}
INFO = f"{{NAME}}-{{VERSION}}.dist-info"

def _write(directory, files):
    path = pathlib.Path(directory) / f"{{NAME}}-{{VERSION}}-py3-none-any.whl"
    files[f"{{INFO}}/METADATA"] = f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n"
    files[f"{{INFO}}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{{INFO}}/RECORD"] = "".join(f"{{name}},,\\n" for name in [*files, f"{{INFO}}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path.name

def build_wheel(directory, config_settings=None, metadata_directory=None):
    return _write(directory, {{f"{{NAME}}.py": pathlib.Path(f"{{NAME}}.py").read_text()}})

def build_editable(directory, config_settings=None, metadata_directory=None):
    return _write(directory, {{f"{{NAME}}.pth": str(pathlib.Path.cwd())}})
"""


def wheel(directory, name, version="1.0", code="", requires=()):
    """Write a wheel with one module, named as the package, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path, info = directory / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"version = {version!r}\n{code}",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def package(directory, name, version="1.0", code="x = 1\n"):
    """Write a source directory of a package with a build backend of its own, which needs no network."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.joinpath(f"{name}.py").write_text(code)
    directory.joinpath("backend.py").write_text(BACKEND.format(name=name, version=version))
    directory.joinpath("pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    return directory


class PackageIndex:
    """A package index on localhost that keeps what it was asked, may want a password, and may hold its answers back.

    Attributes:
        asked: path of each request that was let in, in order.
        refused: number of requests without the right password.
        hold: a request whose path contains this text is answered only after `release` is set.
        seen: command lines that held `watch_for` while a request was being answered.
    """

    def __init__(self, directory, user=None, password=None):
        self.directory, self.user, self.password = directory, user, password
        self.asked, self.refused, self.seen = [], 0, []
        self.hold, self.watch_for = None, None
        self.held, self.release = threading.Event(), threading.Event()
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                index.answer(self)

            def do_HEAD(self):
                index.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("localhost", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, *, credentials=True):
        who = f"{self.user}:{self.password}@" if self.user and credentials else ""
        return f"http://{who}localhost:{self.port}/simple/"

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        if self.user:
            right = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if request.headers.get("Authorization") != right:
                self.refused += 1
                return self.send(request, 401, b"", {"WWW-Authenticate": 'Basic realm="packages"'})
        self.asked.append(request.path)
        if self.watch_for:
            self.seen += [line for line in command_lines() if self.watch_for in line]
        if self.hold and self.hold in request.path:
            self.held.set()
            self.release.wait(30)
        kind, _, name = request.path.strip("/").partition("/")
        if kind == "files" and (self.directory / name).is_file():
            return self.send(request, 200, (self.directory / name).read_bytes(), {})
        files = sorted(path.name for path in self.directory.glob(f"{name.replace('-', '_')}-*.whl"))
        if kind == "simple" and files:
            page = "".join(f'<a href="/files/{file}">{file}</a>\n' for file in files)
            return self.send(request, 200, page.encode(), {"Content-Type": "text/html"})
        return self.send(request, 404, b"", {})

    @staticmethod
    def send(request, status, body, headers):
        with contextlib.suppress(OSError):  # the one who asked may be gone
            request.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                request.send_header(name, value)
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(body)


def command_lines():
    """Command line of every process of this host."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines


def processes_naming(text):
    """Command lines of the processes that mention a text."""
    return [line for line in command_lines() if text in line]


def clean_host(monkeypatch, directory):
    """An empty home, no settings of pip or uv from outside, and caches of its own."""
    home = directory / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "XDG_")) or name in ("VIRTUAL_ENV", "PYTHONPATH", "CONDA_PREFIX"):
            monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(directory / "no-such-directory"))
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(directory / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(directory / "uv-cache"))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    # The host's own files are kept out; tests of those files unset it.
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return home


class Build:
    """`python -m mlproj_core.environments.build` in a process of its own."""

    def __init__(self, directory, request, name="build", **variables):
        self.result_path = directory / f"{name}-result.json"
        self.log_path = directory / f"{name}.log"
        request_path = directory / f"{name}-request.json"
        request_path.write_text(json.dumps(request))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlproj_core.environments.build", request_path, self.result_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **variables},
            )

    def log(self):
        return self.log_path.read_text()

    def wait(self, timeout=30):
        status = self.process.wait(timeout)
        return status, json.loads(self.result_path.read_text())


@contextlib.contextmanager
def builders(directory):
    """Starts builders, given what `Build` is given; ends those that a test leaves."""
    started = []

    def start(request, name="build", **variables):
        started.append(Build(directory, request, name, **variables))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def until(true, seconds=10.0):
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)
    return answer
