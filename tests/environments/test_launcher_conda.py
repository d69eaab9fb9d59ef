"""Conda environments made by a launcher, on this host: by py-rattler that it fetches for itself, or a program."""

import json
import os
import shlex
import subprocess
import sys

import conda_stand_in
import pytest
import yaml
from conda_world import clean_conda
from launcher_world import archive, installed_wheel
from package_world import PackageIndex, clean_host, wheel

from mlproj_core.environments import portable_environment
from mlproj_core.launcher import Plan, source
from mlproj_core.spec import load_project

SHOW = "import os, alpha, greeting; print(alpha.version, greeting.version, os.environ['TOPIC'], os.environ['FIRST'])"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    directory = tmp_path_factory.mktemp("index")
    wheel(directory, "greeting")
    for name in ("uv", "py-rattler"):
        installed_wheel(directory, name)
    index = PackageIndex(directory)
    yield index
    index.close()


@pytest.fixture
def launch(monkeypatch, tmp_path, index):
    """Runs a launcher on the project in `code`; what it printed, and its exit code."""
    clean_host(monkeypatch, tmp_path)
    clean_conda(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", index.url())
    monkeypatch.delenv("UV_CACHE_DIR")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "MLproject").write_text("name: demo\nconda_env: conda.yaml\n")
    (tmp_path / "launcher.py").write_text(source())

    def launch(command, **variables):
        directory = tmp_path / "code"
        files = {path.name: path.read_text() for path in directory.iterdir()}
        (tmp_path / "code.tar.gz").write_bytes(archive(files))
        plan = Plan(
            command, archive=str(tmp_path / "code.tar.gz"), work=str(tmp_path / "work"), cache=str(tmp_path / "volume"),
            environment=portable_environment("conda", load_project(directory).environment, directory),
            termination_log=str(tmp_path / "termination-log"),
        )  # fmt: skip
        (tmp_path / "plan.json").write_text(plan.to_json())
        ended = subprocess.run(
            [sys.executable, "-I", tmp_path / "launcher.py", tmp_path / "plan.json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **variables},
        )  # fmt: skip
        return ended.stdout, ended.returncode

    return launch


def write(tmp_path, channel, *, packages=("python", "alpha <2", "activated"), variables="TOPIC: tests"):
    text = f"channels: ['{channel}', nodefaults]\nvariables: {{{variables}}}\ndependencies:\n"
    text += "".join(f"  - {one}\n" for one in packages)
    (tmp_path / "code" / "conda.yaml").write_text(f"{text}  - pip\n  - pip: [greeting]\n")


class TestALauncher:
    def test_makes_what_the_file_asks_for(self, launch, tmp_path, conda_channel):
        write(tmp_path, conda_channel)
        output, code = launch(f'python -c "{SHOW}"')
        assert code == 0, output
        prefix = next(str(path) for path in (tmp_path / "volume" / "envs").glob("*/*/env"))
        assert output.splitlines()[-1] == f"1.0 1.0 tests {prefix}:from the package:0"
        output, code = launch(f'python -c "{SHOW}"')
        assert (code, "found ready in" in output, "solved" in output) == (0, True, False)

    def test_says_why_there_is_no_solution(self, launch, tmp_path, conda_channel):
        write(tmp_path, conda_channel, packages=("python", "impossible"))
        output, code = launch("true")
        reason = json.loads((tmp_path / "termination-log").read_text())["mlproj"]["error"]
        assert (code, reason["code"], reason["retryable"]) == (70, "environment", False), output
        assert "alpha" in reason["message"]

    def test_installs_what_is_locked(self, launch, tmp_path, conda_channel):
        packages = [*conda_channel.glob("linux-64/python-*.conda"), *conda_channel.glob("noarch/alpha-2*")]
        locked = [
            {"name": path.name, "manager": "conda", "platform": "linux-64", "url": path.as_uri(), "version": "1",
             "hash": {}} for path in packages
        ]  # fmt: skip
        (tmp_path / "code" / "MLproject").write_text("name: demo\nconda_env: conda-lock.yml\n")
        (tmp_path / "code" / "conda-lock.yml").write_text(
            yaml.safe_dump({"version": 1, "metadata": {}, "package": locked})
        )
        output, code = launch('python -c "import alpha; print(alpha.version)"')
        assert code == 0, output
        assert output.splitlines()[-1] == "2.0"

    def test_uses_the_program_that_is_there(self, launch, tmp_path, conda_channel):
        write(tmp_path, conda_channel)
        program = tmp_path / "bin" / "micromamba"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nexec {shlex.join([sys.executable, conda_stand_in.__file__, "micromamba"])} "$@"\n'
        )
        program.chmod(0o755)
        path = f"{program.parent}:{os.environ['PATH']}"
        output, code = launch(f'python -c "{SHOW}"', PATH=path, STAND_IN_NOTES=str(tmp_path / "notes.json"))
        assert code == 0, output
        assert f"by {program}" in output
        assert output.splitlines()[-1].startswith("1.0 1.0 tests ")
