"""What fetches data as a run does, and a web server that does to a download whatever servers and networks do."""

import hashlib
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlproj_core.data.fetch import fetch
from mlproj_core.data.remote import Download, basename
from mlproj_core.errors import DataError


class Fetched:
    """Called with a URI, fetches it as a run does: the file or directory that it became.

    Attributes:
        home: where everything is put.
        said: the lines that were reported.
    """

    def __init__(self, home):
        self.home = home
        self.said = []

    def __call__(self, uri, name=None):
        path = self.home / "k" / "param_0" / (name or basename(uri))
        return Path(fetch(Download("data", uri, str(path)), self.said.append)["path"])

    def refusal(self, uri):
        """Why there is nothing, when nothing is left where it was to be."""
        with pytest.raises(DataError) as caught:
            self(uri)
        assert not (self.home / "k").exists()
        assert str(caught.value) == caught.value.reason.message
        return caught.value.reason


@dataclass
class Served:
    """A file, and how the server sends it.

    Attributes:
        content: its bytes.
        etag: its entity tag; None to send none.
        modified: its time, in seconds since the epoch; None to send none.
        ranges: whether a part of it can be asked for.
        cuts: after how many bytes each of the next answers is cut off.
        statuses: with which status the next requests are refused.
        headers: of every answer, beside or instead of the usual.
        length: what is said to be its length; None for the truth, -1 to say nothing.
        login: the value of the header Authorization that is asked for.
        location: where requests are redirected to.
        pause: seconds between two blocks of 64 KiB.
        stall: seconds for which nothing comes any more at the end of what is sent of the whole.
        swap: another content, that takes this one's place when an answer was cut off.
    """

    content: bytes = b""
    etag: str | None = ""
    modified: float | None = None
    ranges: bool = True
    cuts: list = field(default_factory=list)
    statuses: list = field(default_factory=list)
    headers: dict = field(default_factory=dict)
    length: int | None = None
    login: str | None = None
    location: str | None = None
    pause: float = 0.0
    stall: float = 0.0
    swap: bytes | None = None

    def __post_init__(self):
        if self.etag == "":
            self.etag = tag_of(self.content)


def tag_of(content):
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class DataServer:
    """Serves files over HTTP, and remembers what it was asked.

    Args:
        host: the address to listen on.
        certificate: a PEM file with a certificate and its key, to be spoken to by TLS.
    """

    def __init__(self, host="127.0.0.1", certificate=None):
        self.files = {}
        self.requests = []
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                world.answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # a client that goes away is what is tested
                pass

        self.server = Server((host, 0), Handler)
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.uri = f"{'http' if certificate is None else 'https'}://{host}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, path, content=b"", **how):
        """Serve a file from now on; its URL."""
        self.files[path] = Served(content, **how)
        return f"{self.uri}{path}"

    def asked(self, path):
        """The headers of the requests for a path, in lower case."""
        return [headers for asked, headers in self.requests if asked == path]

    def answer(self, request):
        path = request.path
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((path, headers))
        file = self.files.get(path) or self.files.get(path.split("?")[0])
        status = 404 if file is None else file.statuses.pop(0) if file.statuses else 200
        if status == 200 and file.login and headers.get("authorization") != file.login:
            status = 401
        if status == 200 and file.location:
            status = 302
        if status != 200:
            request.send_response(status)
            for name, value in (file.headers if file else {}).items():
                request.send_header(name, value)
            if status == 302:
                request.send_header("Location", file.location)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content, start = file.content, 0
        modified = formatdate(file.modified, usegmt=True) if file.modified is not None else None
        known = [file.etag, modified]
        if headers.get("if-none-match", "-") == file.etag or headers.get("if-modified-since", "-") == modified:
            request.send_response(304)
            request.end_headers()
            return
        if file.ranges and "range" in headers and headers.get("if-range", known[0] or modified) in known:
            start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                request.send_response(416)
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            status = 206
        request.send_response(status)
        if file.etag:
            request.send_header("ETag", file.etag)
        if modified:
            request.send_header("Last-Modified", modified)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        length = len(content) - start if file.length is None else file.length
        if length >= 0:
            request.send_header("Content-Length", str(length))
        else:
            request.send_header("Connection", "close")
            request.close_connection = True
        for name, value in file.headers.items():
            request.send_header(name, value)
        request.end_headers()
        cut = file.cuts.pop(0) if file.cuts else None
        body = content[start:] if cut is None else content[start : start + cut]
        for at in range(0, len(body), 65536):
            request.wfile.write(body[at : at + 65536])
            if file.pause:
                request.wfile.flush()
                time.sleep(file.pause)
        if file.stall and status == 200:
            request.wfile.flush()
            time.sleep(file.stall)
        if cut is not None or (file.length or 0) > 0:
            if file.swap is not None:
                file.content, file.etag, file.swap = file.swap, file.etag and tag_of(file.swap), None
            request.close_connection = True
