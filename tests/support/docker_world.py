"""A real Docker engine and a registry of the tests' own, and images that are made on the spot.

Nothing is pulled from outside: an image is imported from a tar of busybox, bash and a Python with its libraries.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from functools import cache
from pathlib import Path

import docker
import pytest
from missing import missing
from mlflow_world import free_port
from uv import find_uv_bin

BARE, SHELL, PYTHON = "mlproj-test/bare:1", "mlproj-test/shell:1", "mlproj-test/python:1"
"""Images that an engine of the tests has: a program without a shell, busybox with bash, and a Python beside them."""

UNWANTED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "site-packages", "__pycache__", "lib2to3"}
"""What the Python in an image goes without."""

APPLETS = """
    sh cat chmod chown cp cut date echo env expr false find grep gunzip gzip head hostname id
    kill ln ls mkdir mktemp mv nc printenv printf ps pwd readlink rm rmdir sed seq sha256sum sleep sort stat
    tail tar tee test timeout touch tr true uname uniq unzip vi wc wget which whoami xargs yes
""".split()  # noqa: SIM905


class Engine:
    """A dockerd with a socket, data and control groups of its own.

    Args:
        directory: an empty one for all it keeps. Its path must be short, since a socket's path is.
        options: further options of dockerd.
    """

    def __init__(self, directory, *options):
        self.directory = Path(directory)
        self._options = options
        self._process = None
        self.host = f"unix://{self.directory}/docker.sock"
        self.start()

    def start(self):
        if shutil.which("dockerd") is None:
            missing("dockerd is not installed: run scripts/system-packages.sh as root")
        if os.geteuid() != 0:
            missing("dockerd is started by root only")
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["dockerd", "--host", self.host, "--data-root", f"{self.directory}/data"]
        command += ["--exec-root", f"{self.directory}/exec", "--pidfile", f"{self.directory}/docker.pid"]
        command += ["--storage-driver=overlay2", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < end, (self.directory / "log").read_text()
            time.sleep(0.02)

    def _answers(self):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{self.directory}/docker.sock")
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)  # it listens before it answers
        return False

    @contextlib.contextmanager
    def client(self):
        """The low-level client of the SDK."""
        client = docker.APIClient(base_url=self.host, version="auto")
        try:
            yield client
        finally:
            client.close()

    def containers(self):
        """Every container, also those that have ended."""
        with self.client() as client:
            return client.containers(all=True)

    def remove_containers(self):
        with self.client() as client:
            for container in client.containers(all=True):
                try:
                    client.remove_container(container["Id"], force=True, v=True)
                except docker.errors.NotFound:
                    continue
                except docker.errors.APIError as error:
                    if error.status_code != 409:  # somebody is removing it already
                        raise

    def add_image(self, name, rootfs, changes=()):
        """Make an image of a tar's bytes."""
        with self.client() as client:
            repository, _, tag = name.rpartition(":")
            client.import_image_from_data(rootfs, repository=repository, tag=tag, changes=list(changes))

    def kill(self):
        """Kill it, with its containerd, as a crash would."""
        self._process.kill()
        self._process.wait()
        pid = self.directory / "exec/containerd/containerd.pid"
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)
        for path in (pid, self.directory / "docker.pid"):  # another process may have these numbers by now
            path.unlink()

    def stop(self):
        with contextlib.suppress(Exception):
            self.remove_containers()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
                break
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (target := line.split()[1]).startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", target], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def standard_engine(directory):
    """An engine that has the three images."""
    engine = Engine(directory)
    path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.add_image(BARE, bare_rootfs(), [path])
    engine.add_image(SHELL, shell_rootfs(), [path, 'CMD ["sh"]'])
    engine.add_image(PYTHON, python_rootfs(), [path, 'CMD ["python3"]'])
    return engine


@pytest.fixture(scope="session")
def shared_engine():
    """An engine with the standard images; its directory is short, since a socket's path must be."""
    engine = standard_engine(tempfile.mkdtemp(prefix="mlproj-"))
    yield engine
    engine.stop()


def docker_program():
    """The path of Docker's own command line, which tests compare with."""
    return shutil.which("docker") or missing("docker is not installed: run scripts/system-packages.sh as root")


class Registry:
    """A registry on loopback.

    Args:
        directory: an empty one for its blobs.
        login: a user's name and password, by basic authentication; None asks for none.
    """

    def __init__(self, directory, login=None):
        if shutil.which("docker-registry") is None:
            missing("docker-registry is not installed: run scripts/system-packages.sh as root")
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        auth = ""
        if login is not None:
            (directory / "htpasswd").write_text(f"{login[0]}:{_bcrypt(login[1])}\n")
            auth = f"auth:\n  htpasswd:\n    realm: tests\n    path: {directory}/htpasswd\n"
        (directory / "config.yml").write_text(
            f"version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {directory}/blobs}}\n"
            f"  delete: {{enabled: true}}\nhttp: {{addr: '{self.address}', secret: tests}}\n{auth}"
        )
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(directory / "config.yml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + 30
        while not _listens(port):
            assert self._process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def close(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def closed_registry(tmp_path_factory):
    """A registry that asks for the login `me` with the password `geheim`."""
    registry = Registry(tmp_path_factory.mktemp("registry"), login=("me", "geheim"))
    yield registry
    registry.close()


def _listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _bcrypt(password):
    import bcrypt

    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()


# -- file systems of images


class Rootfs:
    """A tar of a file system, in the making."""

    def __init__(self):
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w")  # noqa: SIM115
        self._have = set()
        for name in ("bin", "etc", "lib", "lib64", "proc", "sys", "dev", "root", "tmp", "usr", "usr/bin", "usr/local"):
            self._directory(name, 0o1777 if name == "tmp" else 0o755)
        self.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        self.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
        self.text("etc/hosts", "127.0.0.1 localhost\n")

    def _directory(self, name, mode=0o755):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(entry)

    def text(self, name, text, mode=0o644):
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(text.encode()), mode
        self._tar.addfile(entry, io.BytesIO(text.encode()))

    def link(self, name, target):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def file(self, name, path):
        if name not in self._have:
            self._have.add(name)
            entry = self._tar.gettarinfo(Path(path).resolve(), name)
            entry.uid = entry.gid = 0
            with Path(path).open("rb") as file:
                self._tar.addfile(entry, file)

    def program(self, name, path):
        """A program and the libraries that it is linked with."""
        self.file(name, path)
        self.libraries(path)

    def libraries(self, path):
        found = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", found):
            # Programs name their loader by its path; the loader looks for the rest in /lib, among other places.
            self.file(library.lstrip("/") if "ld-linux" in library else f"lib/{Path(library).name}", library)

    def done(self):
        self._tar.close()
        return self._bytes.getvalue()


def _busybox(rootfs):
    busybox = shutil.which("busybox")
    if busybox is None:
        missing("busybox is not installed: run scripts/system-packages.sh as root")
    rootfs.program("bin/busybox", busybox)
    for applet in APPLETS:
        rootfs.link(f"bin/{applet}", "busybox")
    rootfs.link("usr/bin/env", "/bin/busybox")


@cache
def bare_rootfs():
    """One program and no shell: `env`."""
    rootfs = Rootfs()
    rootfs.program("bin/env", shutil.which("busybox") or missing("busybox is not installed"))
    return rootfs.done()


@cache
def shell_rootfs():
    """Busybox and bash."""
    rootfs = Rootfs()
    _busybox(rootfs)
    rootfs.program("bin/bash", shutil.which("bash"))
    return rootfs.done()


@cache
def python_rootfs():
    """Busybox, bash, and the Python that runs the tests, without what is installed in it."""
    rootfs = Rootfs()
    _busybox(rootfs)
    rootfs.program("bin/bash", shutil.which("bash"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    rootfs.program(f"usr/local/bin/{version}", Path(sys.executable).resolve())
    for name in ("python3", "python"):
        rootfs.link(f"usr/local/bin/{name}", version)
    rootfs.libraries(find_uv_bin())  # libgcc_s, which any image has that a Python's wheels run in
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*")):
        relative = path.relative_to(library)
        if path.is_file() and not UNWANTED.intersection(relative.parts) and not relative.parts[0].startswith("config-"):
            rootfs.file(f"usr/local/lib/{version}/{relative}", path)
            if path.suffix == ".so":
                rootfs.libraries(path)
    return rootfs.done()
