"""Conda packages for tests: real `.conda` and `.tar.bz2` files, a Python among them, in channels on disk or HTTP."""

import asyncio
import base64
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from package_world import PackageIndex, command_lines

from mlproj_core.environments.conda_platform import host_platform

PLATFORM = host_platform()
PYTHON = ".".join(map(str, sys.version_info[:3]))
MINOR = ".".join(map(str, sys.version_info[:2]))
PLACEHOLDER = "/opt/anaconda1anaconda2anaconda3/" + "placehold_" * 20
"""A prefix long enough for any other in its place, as conda-build bakes it into packages."""


class Package:
    """A conda package: its files, and what it says of itself."""

    def __init__(self, name, version="1.0", depends=(), noarch=None, build="0", constrains=()):
        self.index = {
            "name": name,
            "version": version,
            "build": build,
            "build_number": 0,
            "depends": list(depends),
            "constrains": list(constrains),
            "subdir": "noarch" if noarch else PLATFORM,
        }
        if noarch:
            self.index["noarch"] = noarch
        self.files, self.links, self.modes, self.entry_points = {}, {}, {}, []
        self.file_name = f"{name}-{version}-{build}"

    def file(self, path, content, mode=0o644):
        """Add a file; where the placeholder stands in it, the prefix will."""
        self.files[path] = content.encode() if isinstance(content, str) else content
        self.modes[path] = mode
        return self

    def link(self, path, target):
        """Add a symbolic link."""
        self.links[path] = target
        return self

    def write(self, channel, kind="conda"):
        """Write the package into a channel's directory, and return its path."""
        path = channel / self.index["subdir"] / f"{self.file_name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "tar.bz2":
            with tarfile.open(path, "w:bz2", compresslevel=1) as archive:
                self._put(archive, self._info())
                self._put(archive, self.files, self.links)
            return path
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
            archive.writestr(f"pkg-{self.file_name}.tar.zst", self._zst(self.files, self.links))
            archive.writestr(f"info-{self.file_name}.tar.zst", self._zst(self._info()))
        return path

    def _info(self):
        paths = [self._entry(path, content) for path, content in sorted(self.files.items())]
        paths += [
            {"_path": path, "path_type": "softlink", "sha256": hashlib.sha256(b"").hexdigest(), "size_in_bytes": 0}
            for path in sorted(self.links)
        ]
        info = {
            "info/index.json": json.dumps(self.index),
            "info/files": "".join(f"{path}\n" for path in sorted([*self.files, *self.links])),
            "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
        }
        if self.index.get("noarch") == "python":
            noarch = {"type": "python", "entry_points": self.entry_points}
            info["info/link.json"] = json.dumps({"noarch": noarch, "package_metadata_version": 1})
        return {path: text.encode() for path, text in info.items()}

    @staticmethod
    def _entry(path, content):
        entry = {
            "_path": path,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_in_bytes": len(content),
        }
        if PLACEHOLDER.encode() in content:
            mode = "binary" if b"\0" in content else "text"
            entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": mode}
        return entry

    def _put(self, archive, files, links=None):
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), self.modes.get(path, 0o644)
            archive.addfile(member, io.BytesIO(content))
        for path, target in (links or {}).items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)

    def _zst(self, files, links=None):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            self._put(archive, files, links)
        return stored_as_zstandard(buffer.getvalue())


def stored_as_zstandard(data):
    """A Zstandard frame (RFC 8878) of blocks that are not compressed, which needs no library to be written."""
    parts = [b"\x28\xb5\x2f\xfd", bytes([0xA0]), len(data).to_bytes(4, "little")]
    size = 128 * 1024
    for start in range(0, len(data), size):
        block = data[start : start + size]
        last = start + size >= len(data)
        parts += [(last | len(block) << 3).to_bytes(3, "little"), block]
    return b"".join(parts)


def library(name, version="1.0", code="", depends=("python",), build="0"):
    """A Python package of one module, for any platform."""
    package = Package(name, version, depends, noarch="python", build=build)
    package.file(f"site-packages/{name}.py", f"version = {version!r}\norigin = 'conda'\n{code}")
    info = f"site-packages/{name}-{version}.dist-info"
    package.file(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    record = f"{name}.py,,\n{name}-{version}.dist-info/METADATA,,\n{name}-{version}.dist-info/RECORD,,\n"
    package.file(f"{info}/RECORD", record)
    return package.file(f"{info}/INSTALLER", "conda")


def python_package():
    """The Python that runs the tests, made fit to be put anywhere."""
    base = Path(sys.base_prefix)
    stdlib = Path(sysconfig.get_path("stdlib"))
    package = Package("python", PYTHON)
    program = (base / "bin" / f"python{MINOR}").read_bytes()
    libraries = [path for path in (base / "lib").glob(f"libpython{MINOR}*.so*") if not path.is_symlink()]
    for path in libraries:
        package.file(f"lib/{path.name}", _findable(path.read_bytes(), base), 0o755)
    package.file(f"bin/python{MINOR}", _findable(program, base), 0o755)
    for name in ("python", "python3"):
        package.link(f"bin/{name}", f"python{MINOR}")
    left_out = {
        "site-packages",
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtledemo",
        "lib2to3",
        "__pycache__",
        "ensurepip",
    }
    for folder, folders, names in os.walk(stdlib):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith("config-")]
        for name in names:
            path = Path(folder, name)
            content = path.read_bytes()
            if name.startswith("_sysconfigdata"):
                content = content.replace(str(base).encode(), PLACEHOLDER.encode())
            mode = stat.S_IMODE(path.stat().st_mode)
            package.file(f"lib/python{MINOR}/{path.relative_to(stdlib)}", content, mode)
    package.file(f"lib/python{MINOR}/site-packages/README.txt", "for third-party packages\n")
    return package


def _findable(binary, base):
    """A program that finds its libraries beside itself, as conda's do, in place of where they were built."""
    search, relative = f"{base}/lib".encode(), b"$ORIGIN/../lib"
    return binary.replace(search + b"\0", relative.ljust(len(search), b"\0") + b"\0")


def pip_package():
    """The pip that comes with Python, as a conda package."""
    import ensurepip

    (path,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    package = Package("pip", path.name.split("-")[1], ["python"], noarch="python")
    package.entry_points = ["pip = pip._internal.cli.main:main"]
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                package.file(f"site-packages/{name}", archive.read(name))
    return package


def activated_package():
    """A package that wants to be activated."""
    package = Package("activated", noarch="generic")
    package.file("etc/conda/activate.d/10-first.sh", 'export FIRST="$CONDA_PREFIX:$GREETING:$#"\n')
    package.file("etc/conda/activate.d/20-second.sh", "echo activating; not_exported=1; export SECOND=$FIRST; false\n")
    package.file("etc/conda/deactivate.d/10-first.sh", "unset FIRST\nexport DEACTIVATED=$CONDA_PREFIX\n")
    return package.file("etc/conda/env_vars.d/activated.json", '{"GREETING": "from the package", "OF_PACKAGE": "1"}')


def index(channel):
    """Write what a channel has to say of its packages."""
    from rattler.index import index_fs

    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(channel))
    return channel


def make_channel(directory):
    """A channel with a Python and what the tests need, as large as it must be and no larger."""
    python_package().write(directory)
    pip_package().write(directory)
    library("alpha", "1.0").write(directory)
    library("alpha", "2.0").write(directory, "tar.bz2")
    library("beta", "1.0", depends=["python", "alpha <2"]).write(directory)
    library("impossible", "1.0", depends=["python", "alpha >=3"]).write(directory)
    activated_package().write(directory, "tar.bz2")
    Package("where").file("share/where.txt", f"{PLACEHOLDER}/share\n").file(
        "share/where.bin", b"\0" + PLACEHOLDER.encode() + b"/share\0\0"
    ).write(directory)
    Package("linked").file("bin/.linked-post-link.sh", '#!/bin/sh\ntouch "$PREFIX/linked"\n', 0o755).write(directory)
    return index(directory)


class CondaServer(PackageIndex):
    """A channel over HTTP on localhost that may want a user and password, or a token in its address."""

    def __init__(self, directory, user=None, password=None, token=None):
        self.token = token
        super().__init__(directory, user, password)

    def url(self, *, credentials=True):
        who = f"{self.user}:{self.password}@" if self.user and credentials else ""
        token = f"/t/{self.token}" if self.token and credentials else ""
        return f"http://{who}localhost:{self.port}{token}/channel"

    def admits(self, request):
        """Whether a request has what this server wants, and the path without a token."""
        path = urlsplit(request.path).path  # a proxy is asked for whole addresses
        if self.token:
            if not path.startswith(f"/t/{self.token}/"):
                return None
            path = path.removeprefix(f"/t/{self.token}")
        if self.user:
            right = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if request.headers.get("Authorization") != right:
                return None
        return path.removeprefix("/channel/")

    def answer(self, request):
        path = self.admits(request)
        if path is None:
            self.refused += 1
            return self.send(request, 403 if self.token else 401, b"", {"WWW-Authenticate": 'Basic realm="channel"'})
        self.asked.append(path)
        if self.watch_for:
            self.seen += [line for line in command_lines() if self.watch_for in line]
        if self.hold and self.hold in path:
            self.held.set()
            self.release.wait(30)
        file = self.directory / path
        if not file.is_file():
            return self.send(request, 404, b"", {})
        return self.send(request, 200, file.read_bytes(), {})


def clean_conda(monkeypatch):
    """No conda around: none of its variables, and no programs of it on PATH."""
    for name in list(os.environ):
        if name.startswith(("CONDA", "MAMBA", "RATTLER", "MLFLOW_CONDA")) or name in ("NETRC", "REQUESTS_CA_BUNDLE"):
            monkeypatch.delenv(name)
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not shutil.which("conda", path=folder)]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
