"""Archives for tests: honest ones, hostile ones, and a web server that gives them out as it is told to."""

import base64
import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import threading
import time
import zipfile
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMPRESSIONS = {
    ".tar": lambda data: data,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


def zipped(*entries, compression=zipfile.ZIP_DEFLATED):
    """The bytes of a zip with entries (name, content), (name, content, mode) or (ZipInfo, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content, *mode in entries:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = compression
            if mode:
                info.create_system = 3
                info.external_attr = mode[0] << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def zip_link(name, target):
    """An entry of `zipped` that is a symbolic link."""
    return (name, target, stat.S_IFLNK | 0o777)


def tarred(*entries, format=tarfile.PAX_FORMAT):
    """The bytes of a tar with entries (name, content) or TarInfos."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def tar_entry(name, kind, target="", **attributes):
    """An entry of `tarred` that is no file."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def packed(name, **files):
    """The bytes of an archive of the kind that its name says, with files by name (`__` for a slash)."""
    entries = [(path.replace("__", "/"), content.encode()) for path, content in files.items()]
    if name.endswith(".zip"):
        return zipped(*entries)
    return COMPRESSIONS[next(suffix for suffix in COMPRESSIONS if name.endswith(suffix))](tarred(*entries))


def overlapping_zip(copies, size):
    """A zip whose entries are all the same bytes, as in the better zip bomb (no program writes such a one)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bytes(size)
    data = compressor.compress(content) + compressor.flush()
    crc = zlib.crc32(content)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(data), size, 1, 0) + b"a" + data
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(data), size, 1, 0, 0, 0, 0, 0, 0) + b"a"
    table = entry * copies
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, copies, copies, len(table), len(local), 0)
    return local + table + end


@dataclass
class FileServer:
    """A web server that gives out files, by their path.

    Attributes:
        files: the content of each path; or a URL to redirect to, or an HTTP status.
        login: user and password that it wants; None lets everybody in.
        cut: bytes after which the connection is closed; None sends all of a file.
        length: whether a file's length is announced.
        pause: seconds between pieces of a file.
        tls: the TLS settings of a server; None speaks plain HTTP.
    """

    files: dict[str, bytes | str | int] = field(default_factory=dict)
    login: tuple[str, str] | None = None
    cut: int | None = None
    length: bool = True
    pause: float = 0.0
    tls: object = None
    requests: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)
    sent: int = 0

    def __enter__(self):
        world = self

        class Handler(_Handler):
            server_world = world

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path, host="localhost", login=""):
        return f"http{'s' if self.tls else ''}://{login}{host}:{self.port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    server_world: FileServer

    def log_message(self, *arguments):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, OSError):
            self.close_connection = True

    def do_GET(self):
        world = self.server_world
        world.requests.append(self.path)
        given = self.headers.get("Authorization")
        world.logins.append(base64.b64decode(given.partition(" ")[2]).decode() if given else None)
        if world.login is not None and world.logins[-1] != ":".join(world.login):
            return self._plain(401)
        content = world.files.get(self.path.partition("?")[0].lstrip("/"), 404)
        if isinstance(content, int):
            return self._plain(content)
        if isinstance(content, str):
            return self._plain(302, Location=content)
        self.send_response(200)
        if world.length:
            self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        content = content[: world.cut]
        for start in range(0, len(content), 1 << 16):
            piece = content[start : start + (1 << 16)]
            self.wfile.write(piece)
            world.sent += len(piece)
            time.sleep(world.pause)
        self.close_connection = True
        return None

    def _plain(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
