"""Pythons on this host: what a request means, where they are found, and what happens when there is none."""

import os
import shutil
import subprocess
import sys

import pytest
from missing import missing
from package_world import clean_host

from mlproj_core.environments import environment_manager
from mlproj_core.environments.interpreters import Interpreter, Search, fits, running
from mlproj_core.environments.recipe import Recipe
from mlproj_core.environments.uv_program import find_uv
from mlproj_core.errors import EnvironmentBuildError


@pytest.fixture(scope="session")
def other():
    """A CPython of another minor version than the one that runs the tests."""
    for one in Search(os.environ).found():
        version = tuple(map(int, one.version.split(".")))
        if one.implementation == "cpython" and (3, 8) <= version[:2] != sys.version_info[:2]:
            return one
    return missing("no second CPython (3.8 or later) on this host, such as one of pyenv")


@pytest.fixture(autouse=True)
def home(other, monkeypatch, tmp_path):
    """A host that has the running Python alone: no PATH to speak of, no pyenv, no Pythons of uv."""
    home = clean_host(monkeypatch, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.setattr("mlproj_core.environments.interpreters._COMMON_PLACES", ())
    return home


def minor(interpreter):
    return ".".join(interpreter.version.split(".")[:2])


def install(place, interpreter):
    """Put an interpreter somewhere by a link, as version managers and distributions do."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(interpreter.path)


def search():
    return Search(os.environ)


class TestARequest:
    PYTHON = Interpreter("/python", "3.10.13", False, "cpython", "", "x86_64", "")

    @pytest.mark.parametrize(
        "wanted",
        ["3", "3.10", "3.10.13", ">=3.9", ">=3.9,<3.12", "==3.10.*", "~=3.10.2", "~=3.8", "!=3.10.12", ">3.10"],
    )
    def test_is_met_by_a_fitting_version(self, wanted):
        assert fits(wanted, self.PYTHON)

    @pytest.mark.parametrize(
        "wanted",
        ["2", "3.1", "3.11", "3.10.1", "3.10.9", "<3.10", ">=3.11", "==3.10", "~=3.9.1", "!=3.10.*", "3.9|3.10"],
    )
    def test_is_not_met_by_another(self, wanted):
        assert not fits(wanted, self.PYTHON)

    def test_for_a_version_is_not_met_by_another_implementation(self):
        assert not fits("3.10", Interpreter("/pypy", "3.10.13", False, "pypy", "", "x86_64", ""))

    def test_for_a_range_is_not_met_by_a_release_candidate(self):
        candidate = Interpreter("/python", "3.15.0", True, "cpython", "", "x86_64", "")
        assert not fits(">=3.10", candidate)
        assert fits("3.15", candidate)


class TestASearch:
    def test_takes_the_running_python_for_no_request_and_for_a_fitting_one(self):
        for request in (None, minor(running()), running().version, f">={minor(running())}"):
            assert search().without_asking(request) == running()

    def test_means_the_python_that_a_virtual_environment_was_made_from(self):
        assert running().path == os.path.realpath(sys.executable)

    @pytest.mark.parametrize("name", ["python{}", "python3", "python"])
    def test_finds_one_on_path(self, other, tmp_path, name):
        install(tmp_path / "bin" / name.format(minor(other)), other)
        assert search().asking(minor(other)) == other

    @pytest.mark.parametrize("where", ["PYENV_ROOT", "home"])
    def test_finds_pyenvs_versions_when_they_are_inactive(self, other, home, tmp_path, monkeypatch, where):
        root = home / ".pyenv"
        if where == "PYENV_ROOT":
            root = tmp_path / "pyenv"
            monkeypatch.setenv("PYENV_ROOT", str(root))
        install(root / "versions" / other.version / "bin" / "python", other)
        assert search().asking(minor(other)) == other
        assert search().asking(other.version) == other

    def test_finds_the_pythons_that_uv_manages(self, other, home):
        folder = home / ".local/share/uv/python" / f"cpython-{other.version}-linux-x86_64-gnu"
        install(folder / "bin" / "python", other)
        assert search().asking(minor(other)) == other

    def test_passes_over_a_shim_that_is_inactive(self, other, home, tmp_path):
        shim = tmp_path / "bin" / f"python{minor(other)}"
        shim.parent.mkdir()
        shim.write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
        shim.chmod(0o755)
        install(home / ".pyenv" / "versions" / other.version / "bin" / "python", other)
        assert search().asking(minor(other)) == other

    def test_passes_over_what_does_not_run(self, other, home, tmp_path):
        broken = tmp_path / "bin" / f"python{minor(other)}"
        broken.parent.mkdir()
        broken.write_bytes(b"\x7fELF and nothing more")
        broken.chmod(0o755)
        install(home / ".pyenv" / "versions" / other.version / "bin" / "python", other)
        assert search().asking(minor(other)) == other
        assert search().without_asking(minor(other)) == other

    def test_asks_each_interpreter_once(self, other, tmp_path, monkeypatch):
        install(tmp_path / "bin" / "python3", other)
        assert search().without_asking(minor(other)) is None
        assert search().asking(minor(other)) == other
        monkeypatch.setattr(subprocess, "run", None)
        assert search().without_asking(minor(other)) == other

    def test_asks_anew_when_another_interpreter_stands_there(self, other, tmp_path):
        place = tmp_path / "bin" / "python3"
        place.parent.mkdir()
        shutil.copy(other.path, place)
        assert search().asking(minor(other)).path == str(place)
        shutil.copy(running().path, place)
        assert search().asking(minor(other)) is None

    def test_survives_a_memory_that_is_no_json(self, other, tmp_path):
        install(tmp_path / "bin" / "python3", other)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "interpreters.json").write_text("{")
        assert search().asking(minor(other)) == other

    def test_keeps_to_uvs_own_setting_of_managed_pythons_only(self, other, tmp_path, monkeypatch):
        install(tmp_path / "bin" / "python3", other)
        monkeypatch.setenv("UV_PYTHON_PREFERENCE", "only-managed")
        assert search().asking(minor(other)) is None

    def test_leaves_what_is_no_version_to_uv(self, other, tmp_path):
        project = tmp_path / "project"
        project.mkdir()
        wanted = Recipe(python=other.path)
        manager = environment_manager("uv")
        assert manager.find(wanted, project) is None
        made = manager.ensure(wanted, project, lambda line: None)
        assert manager.find(wanted, project).key == made.key
        done = subprocess.run([made.prefix / "bin" / "python", "-V"], capture_output=True, text=True)
        assert done.stdout == f"Python {other.version}\n"


class TestAVersionThatIsNotThere:
    def ensure(self, tmp_path, python, said=None):
        project = tmp_path / "project"
        project.mkdir()
        report = said.append if said is not None else lambda line: None
        return environment_manager("uv").ensure(Recipe(python=python, path="python_env.yaml"), project, report)

    def test_is_an_error_that_lists_what_is_there_and_how_to_mend_it(self, other, home, tmp_path):
        install(home / ".pyenv" / "versions" / other.version / "bin" / "python", other)
        near = f"{minor(other)}.99"
        with pytest.raises(EnvironmentBuildError) as caught:
            self.ensure(tmp_path, near)
        message = str(caught.value)
        assert f"python_env.yaml asks for Python {near}" in message
        assert f"{other.version}  {other.path}" in message
        assert f"{running().version}  {running().path}" in message
        assert f"uv python install {near}" in message
        assert f'"{minor(other)}"' in message
        assert not (tmp_path / "cache" / "envs").exists()

    def test_is_asked_of_uv_unless_the_user_forbids_downloads(self, tmp_path, monkeypatch):
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "automatic")
        monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", (tmp_path / "no-mirror").as_uri())
        said = []
        with pytest.raises(EnvironmentBuildError, match="could not be had from uv"):
            self.ensure(tmp_path, "3.9.1", said)
        assert "no Python 3.9.1 on this host: asking uv to download it" in said

    def test_is_used_once_uv_has_it(self, other, home, tmp_path, monkeypatch):
        """uv's own download is stood in for by a program that puts an interpreter where uv would."""
        place = home / ".local/share/uv/python" / f"cpython-{other.version}-linux-x86_64-gnu" / "bin"
        stub, uv = tmp_path / "uv", find_uv(os.environ)
        stub.write_text(
            "#!/bin/bash\n"
            'arguments=("$@")\nif [ "$5" = python ]; then shift 4; fi\n'
            f'if [ "$1 $2" = "python install" ]; then mkdir -p {place}; ln -s {other.path} {place}/python; exit 0; fi\n'
            f'if [ "$1 $2" = "python find" ]; then [ -e {place}/python ] || exit 2; echo {place}/python; exit 0; fi\n'
            f'exec {uv} "${{arguments[@]}}"\n'
        )
        stub.chmod(0o755)
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "automatic")
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.setattr("mlproj_core.environments.uv_program.find_uv", lambda environ: str(stub))
        monkeypatch.setattr(Search, "_places", lambda self, request: iter(self._known))
        made = self.ensure(tmp_path, other.version)
        assert (made.prefix / "bin" / "python").exists()
        assert search().without_asking(other.version) == other
