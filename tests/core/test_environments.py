"""Environments: which manager a project gets, what uv installs for it, and when an environment is the same one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest
from missing import missing
from package_world import clean_host, package, wheel

import mlproj_core
from mlproj_core.environments import Environment, build_request, choose_manager, environment_manager, still_there
from mlproj_core.environments.interpreters import Search, running
from mlproj_core.environments.recipe import Recipe
from mlproj_core.environments.uv_manager import UvManager
from mlproj_core.errors import EnvironmentBuildError, UserError
from mlproj_core.spec import (
    CondaEnvSpec,
    DockerEnvSpec,
    InlineScriptSpec,
    Problem,
    PythonEnvSpec,
    UvProjectSpec,
    load_project,
)

PYTHON = PythonEnvSpec(path=None, python=None, build_dependencies=(), dependencies=())


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_host(monkeypatch, tmp_path)


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A directory with alpha 1.0 and 2.0 and beta 1.0, the only packages in this world."""
    folder = tmp_path / "wheels"
    wheel(folder, "alpha", "1.0")
    wheel(folder, "alpha", "2.0")
    wheel(folder, "beta", "1.0", requires=["alpha"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def other_python():
    """A CPython of another minor version than the one that runs the tests."""
    others = [
        one
        for one in Search(os.environ).found()
        if one.implementation == "cpython" and one.version.split(".")[:2] != running().version.split(".")[:2]
        if tuple(map(int, one.version.split("."))) >= (3, 8)
    ]
    if not others:
        missing("no second CPython (3.8 or later) on this host, such as one of pyenv")
    return others[0]


def ensure(recipe, directory, said=None):
    return environment_manager("uv").ensure(recipe, directory, (said if said is not None else []).append)


def find(recipe, directory):
    return environment_manager("uv").find(recipe, directory)


def key(recipe, directory):
    """The key of an environment, built or not."""
    return UvManager().key(recipe, directory)


def run(environment, code):
    """What a program prints that is run in an environment, as a run of a project would run it."""
    variables = {name: value for name, value in os.environ.items() if name not in environment.unset}
    path = os.pathsep.join([*environment.path_prefix, os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", 'python -c "$0"', code],
        env={**variables, **environment.variables, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def recipe(*dependencies, **other):
    return Recipe(dependencies=dependencies, **other)


CONDA = CondaEnvSpec(
    path=Path("conda.yaml"), conda_packages=("python=3.10", "numpy=1.26", "libgomp"), left_out=("numpy=1.26", "libgomp")
)
LOCKED = UvProjectSpec(Path("pyproject.toml"), "pyproject.toml", "shop")
SCRIPT = InlineScriptSpec(Path("train.py"), "train.py", dependencies=("alpha",))
SCRIPT_FOR_UV = replace(SCRIPT, tool_uv=("sources",))
LEFT_OUT = (
    "warning: these conda packages of conda.yaml are left out, since only its pip part can be installed: "
    "numpy=1.26, libgomp"
)


@pytest.fixture
def conda(monkeypatch):
    """Conda environments can be made here, until it is said why they cannot."""
    why = [None]
    monkeypatch.setattr("mlproj_core.environments.conda_manager.missing", lambda: why[-1])
    return why


class TestTheManagerThatAProjectGets:
    @pytest.mark.parametrize("name", ["virtualenv", "uv", "local"])
    @pytest.mark.parametrize("environment", [PYTHON, None])
    def test_is_the_one_asked_for(self, environment, name):
        assert choose_manager(environment, name) == (name, ())

    def test_is_virtualenv_by_default_as_under_mlflow(self, project):
        assert choose_manager(PYTHON, None) == ("virtualenv", ())
        assert choose_manager(load_project(project).environment, None) == ("virtualenv", ())

    def test_is_the_host_s_own_for_a_databricks_spark_job_as_under_mlflow(self, project):
        (project / "MLproject").write_text("databricks_spark_job: {python_file: job.py}")
        assert choose_manager(load_project(project).environment, None) == ("local", ())

    def test_is_conda_for_a_conda_yaml_by_default_as_under_mlflow(self, conda):
        assert choose_manager(CONDA, None) == ("conda", ())

    def test_is_uv_for_a_conda_yaml_where_conda_is_not_to_be_had_and_lines_say_so(self, conda):
        conda.append("neither py-rattler nor conda is installed")
        name, notes = choose_manager(CONDA, None)
        assert name == "uv"
        assert notes == (
            "environment manager uv is used instead of conda, MLflow's default here: neither py-rattler nor conda is "
            "installed",
            LEFT_OUT,
        )
        assert choose_manager(replace(CONDA, left_out=()), None) == ("uv", notes[:1])

    @pytest.mark.parametrize("name", ["virtualenv", "uv"])
    def test_leaves_out_conda_packages_with_a_warning_when_it_is_asked_to_do_without_conda(self, conda, name):
        assert choose_manager(CONDA, name) == (name, (LEFT_OUT,))
        assert choose_manager(CONDA, "local") == ("local", ())

    def test_is_uv_for_what_mlflow_does_not_know(self):
        assert choose_manager(LOCKED, None) == ("uv", ())
        for script in (SCRIPT, SCRIPT_FOR_UV):
            name, (note,) = choose_manager(script, None)
            assert name == "uv"
            assert note == "train.py runs in the environment that its inline metadata asks for"
            assert choose_manager(script, "local") == ("local", ())
        assert choose_manager(SCRIPT, "virtualenv")[0] == "virtualenv"

    def test_warns_of_a_lock_that_may_be_out_of_date(self):
        odd = replace(LOCKED, problems=(Problem("uv.lock may be out of date", severity="warning"),))
        assert choose_manager(odd, None) == ("uv", ("warning: uv.lock may be out of date",))

    @pytest.mark.parametrize("environment", [LOCKED, SCRIPT_FOR_UV, replace(SCRIPT, locked=True)])
    def test_is_never_virtualenv_for_what_only_uv_can_make(self, environment):
        words = f"'virtualenv' cannot make the environment of {environment.path}: pip reads neither .* Set env_manager"
        with pytest.raises(UserError, match=words):
            choose_manager(environment, "virtualenv")
        with pytest.raises(UserError, match=f"Only uv can make the environment of {environment.path}"):
            environment_manager("virtualenv").recipe(environment)

    @pytest.mark.parametrize("environment", [PYTHON, None, LOCKED, SCRIPT])
    def test_is_never_conda_for_a_python_env(self, environment):
        with pytest.raises(UserError, match="python_env project cannot be executed using conda"):
            choose_manager(environment, "conda")

    def test_is_refused_with_a_hint_when_misspelt(self):
        with pytest.raises(UserError, match="Did you mean 'local'"):
            choose_manager(PYTHON, "locla")
        with pytest.raises(UserError, match="There is no environment manager 'VIRTUALENV'"):
            choose_manager(PYTHON, "VIRTUALENV")

    @pytest.mark.parametrize("name", [None, "local", "uv"])
    def test_is_none_for_a_container(self, name):
        with pytest.raises(UserError, match="docker_env"):
            choose_manager(DockerEnvSpec(image="x", volumes=(), environment=()), name)

    def test_does_not_change_because_an_environment_of_another_is_ready(self, project):
        ensure(PYTHON, project)
        assert choose_manager(PYTHON, None)[0] == "virtualenv"
        assert environment_manager("virtualenv").find(PYTHON, project) is None


class TestTheLocalManager:
    def test_changes_nothing(self, project):
        for environment in (
            environment_manager("local").find(PYTHON, project),
            environment_manager("local").ensure(PYTHON, project, print),
        ):
            assert environment == Environment(manager="local")
            assert environment.prefix is None
            assert still_there(environment)


class TestAnEnvironmentMadeByUv:
    def test_holds_what_the_file_lists_for_the_python_it_names(self, project, wheels, other_python):
        minor = ".".join(other_python.version.split(".")[:2])
        (project / "python_env.yaml").write_text(
            f'python: "{minor}"\nbuild_dependencies:\n  - alpha==1.0\ndependencies:\n  - -r requirements.txt\n'
        )
        (project / "requirements.txt").write_text("beta\n")
        environment = ensure(load_project(project).environment, project)
        code = "import sys, alpha, beta; print('%d.%d' % sys.version_info[:2], alpha.version, beta.version, sys.prefix)"
        assert run(environment, code) == f"{minor} 1.0 1.0 {environment.prefix}"
        assert not environment.hit

    def test_of_a_project_without_one_has_the_running_python_and_nothing_else(self, project):
        environment = ensure(None, project)
        code = "import sys, importlib.metadata as m; print('%d.%d.%d' % sys.version_info[:3], list(m.distributions()))"
        assert run(environment, code) == f"{'.'.join(map(str, sys.version_info[:3]))} []"

    def test_gets_its_build_dependencies_first_and_what_the_dependencies_need_then(self, project, wheels):
        said = []
        environment = ensure(recipe("alpha>=2", build_dependencies=("alpha==1.0",)), project, said)
        assert run(environment, "import alpha; print(alpha.version)") == "2.0"
        assert [line.strip() for line in said if "alpha==" in line] == [
            "+ alpha==1.0", "- alpha==1.0", "+ alpha==2.0"
        ]  # fmt: skip

    def test_takes_nested_requirements_constraints_and_local_packages_from_the_project(self, project, wheels):
        (project / "requirements").mkdir()
        (project / "requirements" / "base.txt").write_text("-c pins.txt\nalpha  # any\n./lib\n")
        (project / "requirements" / "pins.txt").write_text("alpha<2\n")
        package(project / "lib", "gamma", code="x = 'from the project'")
        environment = ensure(recipe("-r requirements/base.txt", "beta"), project)
        assert run(environment, "import alpha, gamma; print(alpha.version, gamma.x)") == "1.0 from the project"

    def test_has_the_changed_module_of_a_local_package(self, project):
        package(project / "lib", "gamma", code="x = 1")
        assert run(ensure(recipe("./lib"), project), "import gamma; print(gamma.x)") == "1"
        (project / "lib" / "gamma.py").write_text("x = 2")
        assert run(ensure(recipe("./lib"), project), "import gamma; print(gamma.x)") == "2"

    def test_with_an_editable_package_sees_the_project_and_belongs_to_its_directory(self, project, tmp_path):
        package(project / "lib", "gamma", code="x = 1")
        package(tmp_path / "elsewhere" / "lib", "gamma", code="x = 1")
        environment = ensure(recipe("-e ./lib"), project)
        assert run(environment, "import gamma; print(gamma.__file__)") == str(project / "lib" / "gamma.py")
        assert find(recipe("-e ./lib"), tmp_path / "elsewhere") is None

    def test_goes_to_and_from_json(self, project):
        environment = ensure(recipe(), project)
        assert Environment.from_dict(json.loads(json.dumps(environment.to_dict()))) == environment
        assert Path(environment.to_dict()["marker"]).is_file()

    def test_of_a_conda_yaml_has_its_python_and_pip_part(self, project, wheels):
        version = ".".join(map(str, sys.version_info[:2]))
        (project / "conda.yaml").write_text(
            f"dependencies:\n  - python={version}\n  - numpy\n  - pip:\n    - alpha==1.0\n"
        )
        environment = ensure(load_project(project).environment, project)
        assert run(environment, "import alpha; print(alpha.version)") == "1.0"

    def test_is_refused_before_any_work_when_a_file_is_missing(self, project, tmp_path):
        for call in (find, ensure):
            with pytest.raises(UserError, match=r"refers to missing\.txt, but .*project/missing\.txt cannot be read"):
                call(recipe("-r missing.txt", path="python_env.yaml"), project)
        assert not (tmp_path / "cache" / "envs").exists()

    def test_that_cannot_be_made_shows_uvs_own_words_and_leaves_nothing(self, project, wheels, tmp_path):
        with pytest.raises(EnvironmentBuildError, match="no version of alpha==9") as caught:
            ensure(recipe("alpha==9", path="python_env.yaml"), project)
        assert "dependencies of python_env.yaml" in str(caught.value)
        assert caught.value.reason.code == "environment"
        assert not caught.value.reason.retryable
        assert [path.name for path in (tmp_path / "cache" / "envs").iterdir()] == [".locks"]

    def test_is_worth_a_retry_when_the_index_was_out_of_reach(self, project, monkeypatch):
        with socket.socket() as closed:
            closed.bind(("localhost", 0))
            monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://localhost:{closed.getsockname()[1]}/simple")
            monkeypatch.setenv("UV_HTTP_RETRIES", "0")
            with pytest.raises(EnvironmentBuildError) as caught:
                ensure(recipe("alpha"), project)
        assert caught.value.reason.retryable

    def test_does_not_follow_the_configuration_of_a_directory_above(self, tmp_path, wheels):
        project = tmp_path / "above" / "project"
        project.mkdir(parents=True)
        (tmp_path / "above" / "pyproject.toml").write_text("[tool.uv]\nconstraint-dependencies = ['alpha<2']\n")
        assert run(ensure(recipe("alpha"), project), "import alpha; print(alpha.version)") == "2.0"

    def test_follows_the_projects_own_configuration_of_uv(self, project, wheels):
        before = key(recipe("alpha"), project)
        (project / "pyproject.toml").write_text("[tool.uv]\nconstraint-dependencies = ['alpha<2']\n")
        assert key(recipe("alpha"), project) != before
        assert run(ensure(recipe("alpha"), project), "import alpha; print(alpha.version)") == "1.0"

    def test_is_not_led_astray_by_the_environment_mlproj_runs_in(self, project, wheels, monkeypatch, tmp_path):
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT", "PYTHONHOME", "UV_PROJECT"):
            monkeypatch.setenv(name, str(tmp_path / "misleading"))
        monkeypatch.setenv("UV_PYTHON", "3.99")
        environment = ensure(recipe("alpha"), project)
        assert list((environment.prefix / "lib").glob("python*/site-packages/alpha.py"))


class TestFindingAReadyEnvironment:
    def test_starts_no_process_opens_no_connection_and_takes_milliseconds(self, project, wheels, monkeypatch):
        (project / "requirements.txt").write_text("alpha\n")
        wanted = recipe("-r requirements.txt")
        assert find(wanted, project) is None
        made = ensure(wanted, project)

        def forbidden(*arguments, **options):
            raise AssertionError("find must do without")

        monkeypatch.setattr(subprocess, "Popen", forbidden)
        monkeypatch.setattr(os, "fork", forbidden)
        monkeypatch.setattr(socket, "socket", forbidden)
        assert find(wanted, project) == replace(made, hit=True)
        spent = []
        for _ in range(20):
            began = time.perf_counter()
            find(wanted, project)
            spent.append(time.perf_counter() - began)
        assert min(spent) < 0.02

    def test_gives_none_for_an_interpreter_that_was_never_asked(self, project, other_python, monkeypatch):
        monkeypatch.setenv("PATH", f"{Path(other_python.path).parent}{os.pathsep}{os.environ['PATH']}")
        wanted = recipe(python=".".join(other_python.version.split(".")[:2]))
        assert find(wanted, project) is None
        made = ensure(wanted, project)
        assert find(wanted, project) == replace(made, hit=True)

    def test_passes_over_one_without_its_marker(self, project):
        environment = ensure(recipe(), project)
        environment.marker.unlink()
        assert find(recipe(), project) is None
        assert not still_there(environment)
        assert not ensure(recipe(), project).hit


class TestTheKey:
    """Every byte that could change what is installed counts, and nothing else does."""

    @pytest.fixture
    def files(self, project, wheels):
        (project / "requirements.txt").write_text("-r nested/more.txt\nalpha\n")
        (project / "nested").mkdir()
        (project / "nested" / "more.txt").write_text("-c pins.txt\nbeta\n")
        (project / "nested" / "pins.txt").write_text("alpha<3\n")
        package(project / "lib", "gamma")
        wheel(project / "vendored", "delta")
        return project

    WANTED = recipe(
        "-r requirements.txt", "./lib", "./vendored/delta-1.0-py3-none-any.whl", "epsilon @ file:lib", "-f vendored"
    )

    def changed(self, files, change):
        before = key(self.WANTED, files)
        change()
        return key(self.WANTED, files) != before

    @pytest.mark.parametrize(
        "name",
        ["requirements.txt", "nested/more.txt", "nested/pins.txt", "lib/gamma.py", "lib/pyproject.toml",
         "vendored/delta-1.0-py3-none-any.whl"],
    )  # fmt: skip
    def test_changes_with_every_file_referred_to(self, files, name):
        def edit():
            with (files / name).open("ab") as file:
                file.write(b"\n# zeta==2\nzeta\n")

        assert self.changed(files, edit)

    def test_changes_with_a_new_file_in_a_local_package(self, files):
        assert self.changed(files, lambda: (files / "lib" / "more.py").write_text(""))

    def test_changes_with_a_new_wheel_in_a_directory_that_the_project_brings_along(self, files):
        assert self.changed(files, lambda: wheel(files / "vendored", "delta", "2.0"))

    def test_changes_with_what_a_local_package_takes_from_beside_it(self, files):
        package(files / "common", "eta")
        with (files / "lib" / "pyproject.toml").open("a") as file:
            file.write('[tool.uv.sources]\neta = { path = "../common" }\n')
        assert self.changed(files, lambda: (files / "common" / "eta.py").write_text("x = 2"))

    @pytest.mark.parametrize(
        "other",
        [
            replace(WANTED, dependencies=WANTED.dependencies[:-1]),
            replace(WANTED, dependencies=("alpha==1.0", *WANTED.dependencies)),
            replace(WANTED, build_dependencies=("alpha",)),
            replace(WANTED, dependencies=(), build_dependencies=WANTED.dependencies),
        ],
    )
    def test_changes_with_the_lines(self, files, other):
        assert key(other, files) != key(self.WANTED, files)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PIP_FIND_LINKS", "https://other.example/links"),
            ("PIP_PRE", "1"),
            ("PIP_NO_BINARY", "alpha"),
            ("UV_DEFAULT_INDEX", "https://index.example/simple"),
            ("UV_INDEX", "https://index.example/simple"),
            ("UV_EXCLUDE_NEWER", "2024-01-01"),
            ("UV_RESOLUTION", "lowest"),
            ("UV_TORCH_BACKEND", "cpu"),
            ("CFLAGS", "-O3"),
        ],
    )
    def test_changes_with_a_setting_that_changes_what_is_installed(self, files, monkeypatch, name, value):
        assert self.changed(files, lambda: monkeypatch.setenv(name, value))

    @pytest.mark.parametrize("name", ["UV_CONSTRAINT", "UV_OVERRIDE", "PIP_CONSTRAINT"])
    def test_changes_with_the_content_of_files_that_settings_name(self, files, monkeypatch, tmp_path, name):
        named = tmp_path / "named.txt"
        named.write_text("alpha==1.0\n")
        assert self.changed(files, lambda: monkeypatch.setenv(name, str(named)))
        assert self.changed(files, lambda: named.write_text("alpha==2.0\n"))

    def test_changes_with_the_users_own_configuration_of_uv(self, files, home):
        (home / ".config" / "uv").mkdir(parents=True)
        assert self.changed(files, lambda: (home / ".config/uv/uv.toml").write_text("prerelease = 'allow'"))

    def test_changes_with_a_variable_in_a_line(self, project, monkeypatch):
        wanted = recipe("alpha==${ALPHA_VERSION}")
        monkeypatch.setenv("ALPHA_VERSION", "1.0")
        before = key(wanted, project)
        monkeypatch.setenv("ALPHA_VERSION", "2.0")
        assert key(wanted, project) != before

    def test_changes_with_the_python(self, project, other_python):
        here, there = ensure(recipe(), project), ensure(recipe(python=other_python.version), project)
        assert here.key != there.key

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PIP_TIMEOUT", "3"),
            ("PIP_QUIET", "1"),
            ("UV_HTTP_TIMEOUT", "3"),
            ("UV_CACHE_DIR", "/elsewhere"),
            ("UV_CONCURRENT_DOWNLOADS", "1"),
            ("UV_INDEX_PRIVATE_PASSWORD", "secret"),
            ("VIRTUAL_ENV", "/elsewhere"),
        ],
    )
    def test_stays_with_a_setting_that_changes_nothing_in_what_is_installed(self, files, monkeypatch, name, value):
        assert not self.changed(files, lambda: monkeypatch.setenv(name, value))

    @pytest.mark.parametrize("name", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX"])
    def test_stays_when_the_password_of_an_index_changes(self, files, monkeypatch, name):
        monkeypatch.setenv(name, "https://me:old-password@index.example/simple")
        assert not self.changed(files, lambda: monkeypatch.setenv(name, "https://you:new@index.example/simple"))
        assert self.changed(files, lambda: monkeypatch.setenv(name, "https://me:new@other.example/simple"))

    def test_stays_when_the_password_in_a_line_changes(self, project):
        line = "--extra-index-url https://me:{}@index.example/simple"
        assert key(recipe(line.format("old")), project) == key(recipe(line.format("new")), project)

    def test_stays_with_what_builds_tests_and_tracking_leave_behind(self, files):
        def leave():
            for name in ("__pycache__/a.pyc", "gamma.egg-info/PKG-INFO", "build/x", ".git/HEAD", "mlruns/0/meta.yaml"):
                (files / "lib" / name).parent.mkdir(parents=True)
                (files / "lib" / name).write_text("left behind")

        assert not self.changed(files, leave)

    def test_stays_in_another_checkout_of_the_same_content(self, files, tmp_path):
        shutil.copytree(files, tmp_path / "checkout")
        os.utime(tmp_path / "checkout" / "lib" / "gamma.py", (1, 1))
        assert key(self.WANTED, tmp_path / "checkout") == key(self.WANTED, files)

    def test_stays_when_mlproj_runs_in_another_virtual_environment_of_the_same_python(self, project, tmp_path):
        code = (
            "from mlproj_core.environments.uv_manager import UvManager; import pathlib\n"
            "print(UvManager().key(None, pathlib.Path('.')))"
        )
        keys = set()
        path = os.pathsep.join(str(Path(one.__file__).parents[1]) for one in (mlproj_core, platformdirs))
        for name, options in (("one", []), ("two", ["--copies"])):
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", *options, tmp_path / name], check=True)
            done = subprocess.run(
                [tmp_path / name / "bin" / "python", "-c", code],
                env={**os.environ, "PYTHONPATH": path}, cwd=project, capture_output=True, text=True, check=True,
            )  # fmt: skip
            keys.add(done.stdout)
        assert keys == {key(recipe(), project) + "\n"}


class TestARequestToBuild:
    def test_holds_the_recipe_as_json(self, project):
        request = build_request("uv", recipe("alpha"), project)
        assert json.loads(json.dumps(request)) == {
            "manager": "uv",
            "directory": str(project),
            "spec": {
                "python": None, "build_dependencies": [], "dependencies": ["alpha"], "path": None, "script": None
            },
        }  # fmt: skip

    def test_holds_no_password(self, project):
        request = build_request("uv", recipe("--index-url https://me:s3cr3t@index.example/simple"), project)
        assert "s3cr3t" not in json.dumps(request)
        assert request["spec"] is None
