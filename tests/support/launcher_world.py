"""Launchers at work in containers of a real engine, as a pod would have them."""

import base64
import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
from package_world import PackageIndex, package, wheel
from uv import find_uv_bin

from mlproj_core.launcher import Plan, source

WORK = "/mlflow/projects"
WHERE = "import os, sys, greeting; print(greeting.version, sys.version_info[:2], sys.prefix, os.environ['HOME'])"
"""A program that says what it runs in."""
RECIPE = {"python": None, "build_dependencies": [], "dependencies": [], "path": "python_env.yaml", "script": None}


def pythons():
    """Directories of the Pythons of this host, by version: those from 3.8 on that pyenv has."""
    versions = Path(os.environ.get("PYENV_ROOT", "/nowhere"), "versions")
    found = {path.name: path for path in versions.glob("3.*") if (path / "bin" / "python").exists()}
    return {name: path for name, path in sorted(found.items()) if int(name.split(".")[1]) >= 8}


def installed_wheel(directory, name):
    """The wheel of a package that is installed here, so that no index of the world is asked for it."""
    distribution = importlib.metadata.distribution(name)
    stem = f"{name.replace('-', '_')}-{distribution.version}"
    tag = next(line[5:] for line in distribution.read_text("WHEEL").splitlines() if line.startswith("Tag: "))
    path, record = directory / f"{stem}-{tag}.whl", []
    with zipfile.ZipFile(path, "w") as wheel:
        for file in distribution.files:
            name, content = str(file), file.locate().read_bytes()
            if name.endswith((".pyc", "RECORD", "INSTALLER", "REQUESTED")):
                continue
            if "/bin/" in name:
                name = f"{stem}.data/scripts/{file.name}"
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16
            wheel.writestr(entry, content)
        info = f"{stem}.dist-info/RECORD"
        wheel.writestr(info, "".join([*record, f"{info},,\n"]))
    return path


def archive(files, entries=()):
    """A compressed tar of texts, and of entries made by hand."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
        for entry in entries:
            tar.addfile(entry)
    return made.getvalue()


class Launched:
    """A container that a launcher is the init of."""

    def __init__(self, client, container, log):
        self.client, self.container, self.log = client, container, log

    def output(self):
        return self.client.logs(self.container).decode()

    def wait(self, timeout=120):
        """The exit code."""
        return self.client.wait(self.container, timeout=timeout)["StatusCode"]

    def until(self, text, seconds=60):
        """Wait until it has printed a text."""
        end = time.monotonic() + seconds
        while text not in self.output():
            assert time.monotonic() < end, self.output()
            assert self.client.inspect_container(self.container)["State"]["Running"], self.output()
            time.sleep(0.02)

    def kill(self, name):
        self.client.kill(self.container, signal=name)

    def processes(self):
        """Their command lines."""
        return [line[-1] for line in self.client.top(self.container)["Processes"]]

    def reason(self):
        """What the launcher wrote into the termination log, if it failed itself."""
        return json.loads(self.log.read_text())["mlproj"]["error"]


class LauncherWorld:
    """Starts launchers.

    Args:
        engine: the engine, which has the image PYTHON.
        directory: an empty one for plans and archives.
        variables: what every launcher gets, such as the address of a package index.
    """

    def __init__(self, engine, directory, variables):
        self.engine, self.directory, self.variables = engine, directory, variables
        self.cache = directory / "cache"
        self.cache.mkdir(mode=0o777)
        self.cache.chmod(0o777)
        self._clients = contextlib.ExitStack()
        self._count = 0

    def close(self):
        self._clients.close()

    def start(
        self, command, files=None, *, packages=None, code=None, user="1000:1000", read_only=True, image=None,
        python="python3", binds=(), with_uv=True, network="host", cache=False, host_config=None, variables=None,
        replaced=None, **plan
    ):  # fmt: skip
        """Start a launcher as a pod would: nobody's user, and a root file system that cannot be written.

        Args:
            command: of the entry point.
            files: the project's, by name.
            with_uv: whether the image has uv.
            packages: requirement lines, for an environment with them; None for none but the image's.
            code: bytes of the code's archive, instead of files.
            variables: of the container.
            replaced: what stands in the plan's file instead.
            plan: further parts of the plan.
        """
        from docker_world import PYTHON  # other tests run launchers without an engine

        self._count += 1
        place = self.directory / str(self._count)
        place.mkdir()
        (place / "launcher.py").write_text(source())
        (place / "code.tar.gz").write_bytes(archive(files or {"empty": ""}) if code is None else code)
        if packages is not None:
            plan["environment"] = {"manager": "virtualenv", "recipe": {**RECIPE, "dependencies": list(packages)}}
        if cache:
            plan["cache"] = "/mlproj-cache"
        written = json.loads(Plan(command, **{"archive": "/mlproj/code.tar.gz", **plan}).to_json())
        (place / "plan.json").write_text(json.dumps({**written, **(replaced or {})}))
        if with_uv:
            binds = [*binds, f"{find_uv_bin()}:/bin/uv:ro"]
        log = place / "termination-log"
        log.touch()
        log.chmod(0o666)
        client = self._clients.enter_context(self.engine.client())
        config = client.create_host_config(
            binds=[f"{place}:/mlproj:ro", f"{log}:/dev/termination-log", f"{self.cache}:/mlproj-cache", *binds],
            read_only=read_only, network_mode=network, tmpfs={WORK: "rw,exec,mode=1777"}, **(host_config or {}),
        )  # fmt: skip
        container = client.create_container(
            image or PYTHON, [python, "-I", "/mlproj/launcher.py", "/mlproj/plan.json"],
            user=user, environment={**self.variables, **(variables or {})}, host_config=config,
        )  # fmt: skip
        client.start(container)
        return Launched(client, container, log)

    def run(self, command, files=None, **options):
        """Start a launcher and wait for its end; the launched, and the exit code."""
        launched = self.start(command, files, **options)
        return launched, launched.wait()


def own_package():
    """The files of a package that a project brings along, by name."""
    with tempfile.TemporaryDirectory() as folder:
        made = package(Path(folder) / "own", "own", code="x = 41\n")
        return {path.name: path.read_text() for path in made.iterdir()}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A package index that the containers reach by the host's network."""
    directory = tmp_path_factory.mktemp("index")
    wheel(directory, "greeting")
    wheel(directory, "tool", code="version = 'tool'\n")
    wheel(directory, "clash", requires=["greeting<1"])
    installed_wheel(directory, "uv")
    index = PackageIndex(directory)
    yield index
    index.close()


@pytest.fixture
def world(engine, tmp_path, index):
    world = LauncherWorld(engine, tmp_path, {"PIP_INDEX_URL": index.url(), "NO_PROXY": "localhost"})
    yield world
    world.close()
