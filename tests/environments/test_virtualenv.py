"""Environments made by venv and pip: what is in them, pip's own settings, and builds cut off."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from missing import missing
from package_world import PackageIndex, builders, clean_host, package, processes_naming, until, wheel

from mlproj_core.environments import build_request, environment_manager, list_environments, prune_environments
from mlproj_core.environments.environment import MARKER_NAME
from mlproj_core.environments.interpreters import Search, running
from mlproj_core.environments.recipe import Recipe
from mlproj_core.environments.virtualenv_manager import VirtualenvManager
from mlproj_core.errors import EnvironmentBuildError, UserError
from mlproj_core.spec import load_project


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_host(monkeypatch, tmp_path)


@pytest.fixture
def packages(tmp_path):
    """A directory with alpha 1.0 and 2.0 and beta 1.0."""
    folder = tmp_path / "packages"
    wheel(folder, "alpha", "1.0")
    wheel(folder, "alpha", "2.0")
    wheel(folder, "beta", "1.0", requires=["alpha"])
    return folder


@pytest.fixture
def wheels(packages, monkeypatch):
    """The packages as the only ones in this world, and no network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    return packages


@pytest.fixture
def index(packages, monkeypatch):
    """The packages on a server that wants a password."""
    index = PackageIndex(packages, "me", "s3cr3t")
    monkeypatch.setenv("PIP_INDEX_URL", index.url())
    yield index
    index.close()


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def build(tmp_path, project):
    """Starts builders."""
    with builders(tmp_path) as start:
        yield lambda *lines, **how: start(build_request("virtualenv", Recipe(dependencies=lines), project), **how)


def ensure(recipe, directory, said=None):
    return environment_manager("virtualenv").ensure(recipe, directory, (said if said is not None else []).append)


def key(recipe, directory):
    return VirtualenvManager().key(recipe, directory)


def recipe(*dependencies, **other):
    return Recipe(dependencies=dependencies, **other)


def run(environment, code):
    """What a program prints that is run in an environment, as a run of a project would run it."""
    path = os.pathsep.join([*environment.path_prefix, os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", 'python -c "$0"', code],
        env={**os.environ, **environment.variables, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def environments(tmp_path):
    """Names below the cache's directory of environments, the locks left out."""
    return sorted(path.name for path in (tmp_path / "cache" / "envs").iterdir() if path.name != ".locks")


class TestAnEnvironmentMadeByPip:
    def test_holds_what_the_file_lists_for_the_python_it_names_and_the_pip_of_that_python(self, project, wheels):
        others = [
            one for one in Search(os.environ).found()
            if one.implementation == "cpython" and (3, 8) <= tuple(map(int, one.version.split(".")[:2])) < (3, 12)
            if one.version.split(".")[:2] != running().version.split(".")[:2]
        ] or missing("no second CPython (3.8 to 3.11) on this host, such as one of pyenv")  # fmt: skip
        (project / "python_env.yaml").write_text(
            f'python: "{others[0].version}"\nbuild_dependencies: [alpha==1.0]\ndependencies: [-r requirements.txt]\n'
        )
        (project / "requirements.txt").write_text("beta\n")
        environment = ensure(load_project(project).environment, project)
        code = (
            "import sys, ensurepip, alpha, beta, importlib.metadata as m\n"
            "print('%d.%d.%d' % sys.version_info[:3], alpha.version, beta.version, sys.prefix)\n"
            "print(m.version('pip') == ensurepip.version(), sorted(d.metadata['name'] for d in m.distributions()))"
        )
        assert run(environment, code).splitlines() == [
            f"{others[0].version} 1.0 1.0 {environment.prefix}",
            "True ['alpha', 'beta', 'pip', 'setuptools']",
        ]
        assert not environment.hit
        assert environment.manager == "virtualenv"

    def test_gets_its_build_dependencies_first_and_what_the_dependencies_need_then(self, project, wheels):
        said = []
        environment = ensure(recipe("alpha>=2", build_dependencies=("alpha==1.0",)), project, said)
        assert run(environment, "import alpha; print(alpha.version)") == "2.0"
        assert [line for line in said if line.startswith("Successfully installed")] == [
            "Successfully installed alpha-1.0", "Successfully installed alpha-2.0"
        ]  # fmt: skip

    def test_takes_nested_requirements_constraints_and_local_packages_from_the_project(self, project, wheels):
        (project / "requirements").mkdir()
        (project / "requirements" / "base.txt").write_text("-c pins.txt\nalpha  # any\n./lib\n")
        (project / "requirements" / "pins.txt").write_text("alpha<2\n")
        package(project / "lib", "gamma", code="x = 'from the project'")
        package(project / "editable", "delta")
        before = sorted(path.name for path in project.rglob("*"))
        environment = ensure(recipe("-r requirements/base.txt", "beta", "-e ./editable"), project)
        code = "import alpha, gamma, delta; print(alpha.version, gamma.x, delta.__file__)"
        assert run(environment, code) == f"1.0 from the project {project}/editable/delta.py"
        assert [one.editable for one in list_environments()] == [(str(project / "editable"),)]
        assert (
            sorted(path.name for path in project.rglob("*") if path.suffix != ".pyc" and "cache" not in path.name)
            == before
        )

    def test_is_found_again_in_milliseconds_without_a_process(self, project, wheels, monkeypatch):
        wanted = recipe("alpha")
        made = ensure(wanted, project)

        def forbidden(*arguments, **options):
            raise AssertionError("find must do without")

        monkeypatch.setattr(subprocess, "Popen", forbidden)
        monkeypatch.setattr(socket, "socket", forbidden)
        spent = []
        for _ in range(20):
            began = time.perf_counter()
            found = environment_manager("virtualenv").find(wanted, project)
            spent.append(time.perf_counter() - began)
        assert found.hit
        assert found.prefix == made.prefix
        assert min(spent) < 0.02
        assert environment_manager("uv").find(wanted, project) is None
        assert [one.key for one in prune_environments()] == [made.key]

    def test_is_what_a_run_gets_by_default(self, world, wheels):
        (world.project / "python_env.yaml").write_text("dependencies: [alpha==1.0]\n")
        world.project_runs("python -m pip list --format=freeze; python -c 'import alpha; print(alpha.version)'")
        made = world.submit(env_manager=None)
        assert made.wait(), "".join(made.logs())
        text = "".join(made.logs())
        assert "alpha==1.0\n" in text
        assert "pip==" in text
        assert "environment: virtualenv" in text
        assert "(made for this run)" in text
        again = world.submit(env_manager=None)
        assert again.wait()
        assert "(found ready)" in "".join(again.logs())

    def test_is_not_led_astray_by_the_environment_mlproj_runs_in(self, project, wheels, monkeypatch, tmp_path):
        wheel(tmp_path, "alpha", "9.0")
        with_alpha = tmp_path / "path"
        shutil.unpack_archive(tmp_path / "alpha-9.0-py3-none-any.whl", with_alpha, "zip")
        monkeypatch.setenv("PYTHONPATH", str(with_alpha))
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON"):
            monkeypatch.setenv(name, str(tmp_path / "misleading"))
        environment = ensure(recipe("alpha"), project)
        assert list((environment.prefix / "lib").glob("python*/site-packages/alpha-2.0.dist-info"))

    def test_that_cannot_be_made_shows_pips_own_words_and_leaves_nothing(self, project, wheels, tmp_path):
        with pytest.raises(EnvironmentBuildError, match="No matching distribution found for alpha==9") as caught:
            ensure(recipe("alpha==9", path="python_env.yaml"), project)
        assert str(caught.value).startswith("pip could not install the dependencies of python_env.yaml.")
        assert caught.value.reason.code == "environment"
        assert not caught.value.reason.retryable
        assert environments(tmp_path) == []

    def test_is_worth_a_retry_when_the_index_was_out_of_reach(self, project, monkeypatch):
        with socket.socket() as closed:
            closed.bind(("localhost", 0))
            monkeypatch.setenv("PIP_INDEX_URL", f"http://localhost:{closed.getsockname()[1]}/simple")
            monkeypatch.setenv("PIP_RETRIES", "1")
            with pytest.raises(EnvironmentBuildError) as caught:
                ensure(recipe("alpha"), project)
        assert caught.value.reason.retryable


class TestAPythonWithoutAPipOfItsOwn:
    """As Debian's without python3-venv."""

    @pytest.fixture
    def bare_python(self, tmp_path):
        """The running Python less its ensurepip."""
        real = Path(running().path)
        lib = Path(sysconfig.get_path("stdlib", vars={"base": "", "installed_base": ""}).lstrip("/"))
        stdlib = Path(sysconfig.get_path("stdlib"))
        prefix = tmp_path / "bare"
        (prefix / "bin").mkdir(parents=True)
        python = prefix / "bin" / real.name
        shutil.copy(real, python)
        (prefix / lib).mkdir(parents=True)
        for path in stdlib.iterdir():
            if path.name not in ("ensurepip", "site-packages", "EXTERNALLY-MANAGED"):
                (prefix / lib / path.name).symlink_to(path)
        code = "import sys, venv; print(sys.base_prefix); import ensurepip"
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
        if "No module named 'ensurepip'" not in done.stderr or done.stdout.strip() != str(prefix):
            missing(f"this Python cannot be had without its ensurepip: {done.stdout}{done.stderr}")
        return python

    def test_gets_the_newest_from_the_index_and_one_line_says_so(self, bare_python, project, wheels):
        wheel(wheels, "pip", "99.0")
        wheel(wheels, "setuptools", "99.0")
        said = []
        environment = ensure(recipe(python=str(bare_python)), project, said)
        (line,) = [line for line in said if "ensurepip" in line]
        assert line == f"{bare_python} brings no pip along (no ensurepip): the newest is taken from the package index"
        assert run(environment, "import importlib.metadata as m; print(m.version('pip'))") == "99.0"


class TestPipsOwnSettings:
    def test_are_read_by_pip_itself_passwords_included_and_show_nowhere(
        self, project, packages, home, monkeypatch, tmp_path
    ):
        index = PackageIndex(packages, "me", "s3cr3t")
        index.watch_for = "s3cr3t"
        monkeypatch.delenv("PIP_CONFIG_FILE")
        (home / ".config" / "pip").mkdir(parents=True)
        (home / ".config" / "pip" / "pip.conf").write_text(
            f"[global]\nindex-url = {index.url()}\nprefer-binary = yes\n"
        )
        said = []
        wheel(tmp_path / "more", "gamma")
        more = PackageIndex(tmp_path / "more", "me", "0th3r")
        environment = ensure(recipe("beta", "gamma", f"--extra-index-url {more.url()}"), project, said)
        index.close()
        more.close()
        assert run(environment, "import alpha, gamma; print(alpha.version, gamma.version)") == "2.0 1.0"
        assert "/files/beta-1.0-py3-none-any.whl" in index.asked
        assert index.seen == []
        kept = environment.marker.read_text() + "\n".join(said) + environment.key
        assert "s3cr3t" not in kept
        assert "0th3r" not in kept
        for path in (tmp_path / "cache").rglob("*"):
            assert path.is_dir() or b"0th3r" not in path.read_bytes()

    @pytest.mark.parametrize("name", ["target", "prefix", "root", "python", "user", "dry-run"])
    def test_that_would_install_elsewhere_are_refused_before_any_work(self, project, monkeypatch, tmp_path, name):
        variable = f"PIP_{name.upper().replace('-', '_')}"
        monkeypatch.setenv(variable, "1" if name in ("user", "dry-run") else str(tmp_path / "elsewhere"))
        for call in (key, ensure):
            with pytest.raises(UserError, match=rf"pip's setting {name} \(the variable {variable}\) the environment"):
                call(recipe(), project)
        assert not (tmp_path / "cache" / "envs").exists()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("INDEX_URL", "https://a.example/simple"), ("EXTRA_INDEX_URL", "https://a.example/simple"), ("PRE", "1"),
         ("NO_BINARY", ":all:"), ("FIND_LINKS", "/wheels"), ("PREFER_BINARY", "1"), ("USE_DEPRECATED", "x")],
    )  # fmt: skip
    def test_count_in_the_key_where_they_change_what_is_installed(self, project, monkeypatch, name, value):
        before = key(recipe("alpha"), project)
        monkeypatch.setenv(f"PIP_{name}", value)
        assert key(recipe("alpha"), project) != before

    @pytest.mark.parametrize(
        ("name", "value"),
        [("PIP_TIMEOUT", "3"), ("PIP_CERT", "/x"), ("PIP_PROXY", "http://p"), ("PIP_CACHE_DIR", "/x"),
         ("UV_DEFAULT_INDEX", "https://a.example"), ("UV_NO_INDEX", "1")],
    )  # fmt: skip
    def test_do_not_count_otherwise_and_uvs_never(self, project, monkeypatch, name, value):
        before = key(recipe("alpha"), project)
        monkeypatch.setenv(name, value)
        assert key(recipe("alpha"), project) == before

    def test_count_by_the_content_of_a_constraints_file_and_without_passwords(self, project, monkeypatch, wheels):
        (project / "pins.txt").write_text("alpha<2\n")
        monkeypatch.setenv("PIP_CONSTRAINT", str(project / "pins.txt"))
        before = key(recipe("alpha"), project)
        assert run(ensure(recipe("alpha"), project), "import alpha; print(alpha.version)") == "1.0"
        (project / "pins.txt").write_text("alpha<3\n")
        assert key(recipe("alpha"), project) != before
        keys = []
        for password in ("old", "new"):
            monkeypatch.setenv("PIP_INDEX_URL", f"https://me:{password}@index.example/simple")
            keys.append(key(recipe("alpha"), project))
        assert keys[0] == keys[1]

    def test_of_the_environment_that_mlproj_runs_in_do_not_reach_the_new_one(self, project, monkeypatch, tmp_path):
        monkeypatch.delenv("PIP_CONFIG_FILE")
        before = key(recipe("alpha"), project)
        (tmp_path / "active").mkdir()
        (tmp_path / "active" / "pip.conf").write_text("[global]\nindex-url = https://a.example/simple\n")
        monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "active"))
        assert key(recipe("alpha"), project) == before


class TestBuildersAtOnceAndCutOff:
    def test_five_processes_that_want_the_same_environment_build_it_once(self, build, index, tmp_path):
        index.hold = "/files/"
        builds = [build("alpha", name=f"build-{number}") for number in range(5)]
        assert index.held.wait(30)
        until(lambda: sum("waiting for environment" in one.log() for one in builds) == 4, 30)
        index.release.set()
        results = [one.wait() for one in builds]
        assert sorted(answer["environment"]["hit"] for _, answer in results) == [False] + [True] * 4
        assert len(environments(tmp_path)) == 1
        assert "s3cr3t" not in "".join(one.log() for one in builds)

    @pytest.mark.parametrize("moment", ["making the virtual environment", "downloading"])
    def test_one_ended_by_term_ends_pip_and_leaves_nothing(self, build, index, tmp_path, moment):
        index.hold = "/files/"
        one = build("alpha")
        if moment == "downloading":
            assert index.held.wait(30)
            assert processes_naming(f"{tmp_path}/cache/envs")
        else:
            until(lambda: list((tmp_path / "cache" / "envs").glob("*/pyvenv.cfg")))
        one.process.terminate()
        status, answer = one.wait(15)
        assert status == 128 + signal.SIGTERM
        assert answer["error"]["code"] == "cancelled"
        assert processes_naming(f"{tmp_path}/cache/envs") == []
        assert environments(tmp_path) == []

    def test_one_that_was_killed_is_never_taken_for_a_whole_one(self, build, index, project, tmp_path):
        index.hold = "/files/"
        one = build("alpha")
        assert index.held.wait(30)
        one.process.kill()
        one.process.wait()
        index.release.set()
        until(lambda: not processes_naming(f"{tmp_path}/cache/envs"))
        assert not list((tmp_path / "cache" / "envs").glob(f"*/{MARKER_NAME}"))
        assert environment_manager("virtualenv").find(recipe("alpha"), project) is None
        status, answer = build("alpha", name="again").wait()
        assert (status, answer["environment"]["hit"]) == (0, False)


class TestTheCommandLine:
    def test_builds_the_environment_that_a_run_finds_ready(self, project, wheels, tmp_path):
        (project / "MLproject").write_text("entry_points:\n  main:\n    command: python -c 'import alpha'\n")
        (project / "python_env.yaml").write_text("dependencies: [alpha]\n")
        environ = {**os.environ, "MLPROJ_TRACKING": "off", "MLPROJ_STATE_DIR": str(tmp_path / "state")}

        def mlproj(*arguments):
            command = [Path(sys.executable).with_name("mlproj"), *arguments]
            return subprocess.run(command, env=environ, cwd=project, capture_output=True, text=True)

        built = mlproj("envs", "build", ".")
        assert built.returncode == 0, built.stderr
        assert Path(built.stdout.strip(), "bin", "pip").exists()
        ran = mlproj("run", ".")
        assert ran.returncode == 0, ran.stderr
        assert "(found ready)" in ran.stderr
        (entry,) = json.loads(mlproj("envs", "list", "--json").stdout)
        assert (entry["manager"], entry["complete"]) == ("virtualenv", True)
