"""Conda environments made by a conda, mamba or micromamba, where py-rattler is not there.

The programs are played by tests/support/conda_stand_in.py: none of them can be had from the registries of the tests.
"""

import hashlib
import json
import shlex
import sys
from pathlib import Path

import conda_stand_in
import pytest
from conda_world import Package, clean_conda, index
from package_world import clean_host

from mlproj_core.environments import environment_manager, list_environments
from mlproj_core.environments.conda_manager import missing
from mlproj_core.environments.conda_program import find_program
from mlproj_core.errors import EnvironmentBuildError, UserError
from mlproj_core.spec import load_project


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    home = clean_host(monkeypatch, tmp_path)
    clean_conda(monkeypatch)
    monkeypatch.setattr("mlproj_core.environments.conda_program.find_spec", lambda name: None)
    monkeypatch.setenv("STAND_IN_NOTES", str(tmp_path / "notes.json"))
    monkeypatch.setenv("RATTLER_CACHE_DIR", str(tmp_path / "rattler-cache"))
    return home


@pytest.fixture
def install(tmp_path):
    """Puts a program of this name into a directory, and returns its path."""

    def install(folder, name):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, conda_stand_in.__file__, name]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o755)
        return path

    return install


@pytest.fixture
def channel(tmp_path):
    Package("tool", noarch="generic").file("share/tool", "here").file(
        "etc/conda/activate.d/tool.sh", "export TOOL=1\n"
    ).write(tmp_path / "channel")
    return index(tmp_path / "channel")


@pytest.fixture
def project(tmp_path, channel):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "conda.yaml").write_text(
        f"channels: [{channel}, nodefaults]\ndependencies:\n  - tool\n  - other  # [win]\nvariables: {{A: b}}\n"
    )
    return folder


def ensure(project, said=None):
    spec = load_project(project).environment
    return environment_manager("conda").ensure(spec, project, (said if said is not None else []).append)


def notes(tmp_path):
    return json.loads((tmp_path / "notes.json").read_text())


class TestTheProgram:
    def test_is_mlflows_then_that_of_the_shell_then_one_on_path(self, install, monkeypatch):
        found = {}
        assert find_program({"PATH": "/nowhere"}) is None
        environ = {"PATH": str(install("path", "micromamba").parent)}
        found["PATH"] = environ
        for variable, name in (("MAMBA_EXE", "mamba"), ("CONDA_EXE", "conda")):
            environ = {**environ, variable: str(install(variable, name))}
            found[variable] = environ
        install("home/bin", "mamba")
        home = install("home/bin", "conda").parent.parent
        found["MLFLOW_CONDA_HOME"] = {**environ, "MLFLOW_CONDA_HOME": str(home)}
        assert {name: find_program(one).origin for name, one in found.items()} == {name: name for name in found}
        assert find_program(found["PATH"]).name == "micromamba"
        mlflow = find_program({**found["MLFLOW_CONDA_HOME"], "MLFLOW_CONDA_CREATE_ENV_CMD": "mamba"})
        assert mlflow.path == str(home / "bin" / "mamba")

    def test_is_missing_with_a_remedy(self, project, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert "pip install 'mlproj[conda]'" in missing()
        with pytest.raises(EnvironmentBuildError, match=r"pip install 'mlproj\[conda\]'"):
            ensure(project)

    @pytest.mark.parametrize("name", ["conda", "mamba", "micromamba"])
    def test_makes_the_environment_of_the_file_for_this_platform(self, install, project, monkeypatch, tmp_path, name):
        monkeypatch.setenv("MAMBA_EXE" if name != "conda" else "CONDA_EXE", str(install("bin", name)))
        said = []
        environment = ensure(project, said)
        command = ["create", "--yes"] if name == "micromamba" else ["env", "create"]
        asked = notes(tmp_path)
        assert asked["arguments"][:-1] == [*command, "--prefix", str(environment.prefix), "--file"]
        assert asked["cwd"] == str(project)
        assert "tool" in asked["file"]
        assert "other" not in asked["file"]
        assert (environment.prefix / "share" / "tool").read_text() == "here"
        activation = environment.activation.read_text()
        assert "export A=b" in activation
        assert "activate.d/tool.sh" in activation
        assert any("py-rattler is not there" in line for line in said)
        assert "Collecting package metadata: done" in said
        assert not Path(asked["arguments"][-1]).exists()
        assert environment_manager("conda").find(load_project(project).environment, project).hit

    def test_is_given_locked_packages_as_an_explicit_list(self, install, project, channel, monkeypatch, tmp_path):
        monkeypatch.setenv("CONDA_EXE", str(install("bin", "conda")))
        path = channel / "noarch" / "tool-1.0-0.conda"
        line = f"{path.as_uri()}#{hashlib.md5(path.read_bytes()).hexdigest()}"
        (project / "conda.yaml").write_text(f"@EXPLICIT\n{line}\n")
        environment = ensure(project)
        assert notes(tmp_path)["file"] == f"@EXPLICIT\n{line}\n"
        assert notes(tmp_path)["arguments"][:2] == ["create", "--yes"]
        assert (environment.prefix / "share" / "tool").exists()

    def test_that_fails_shows_its_words_and_leaves_nothing(self, install, project, channel, monkeypatch, tmp_path):
        monkeypatch.setenv("CONDA_EXE", str(install("bin", "conda")))
        (project / "conda.yaml").write_text(f"channels: [{channel}]\ndependencies: [missing-from-here]\n")
        with pytest.raises(EnvironmentBuildError, match=r"LibMambaUnsatisfiableError.*missing-from-here"):
            ensure(project)
        assert list_environments() == []
        assert [path.name for path in (tmp_path / "cache" / "envs").iterdir()] == [".locks"]

    def test_is_given_no_password_in_a_file(self, install, project, monkeypatch):
        monkeypatch.setenv("CONDA_EXE", str(install("bin", "conda")))
        text = "channels: ['https://me:s3cr3t@channel.example/x']\ndependencies: [tool]\n"
        (project / "conda.yaml").write_text(text)
        with pytest.raises(UserError, match=r"~/\.netrc") as caught:
            ensure(project)
        assert "s3cr3t" not in str(caught.value)
