"""`mlproj build-image`: a project and its environment in an image, by an engine or by a Dockerfile."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import files, version

import pytest
from docker_world import PYTHON, SHELL, docker_program
from package_world import PackageIndex, wheel

VERSION = ".".join(map(str, sys.version_info[:3]))
PASSWORD = "geheim-und-lang"
CODE = "import alpha, beta\nprint('alpha', alpha.version, 'beta', beta.version)\n"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Wheels that an index has."""
    directory = tmp_path_factory.mktemp("packages")
    wheel(directory, "alpha", "1.0")
    wheel(directory, "alpha", "2.0")
    wheel(directory, "beta", "3.0", requires=["alpha"])
    uv_wheel(directory)
    return directory


@pytest.fixture(scope="module")
def index(packages):
    """One index for all, so that what a test has built another finds in the engine's cache."""
    index = PackageIndex(packages)
    yield index
    index.close()


@pytest.fixture
def closed_index(packages):
    index = PackageIndex(packages, "me", PASSWORD)
    yield index
    index.close()


def uv_wheel(directory):
    """The uv that mlproj brings along, as the wheel that it was installed from."""
    name = f"uv-{version('uv')}"
    with zipfile.ZipFile(directory / f"{name}-py3-none-any.whl", "w") as archive:
        for file in files("uv"):
            path = file.locate()
            if file.parts[0] in ("uv", f"{name}.dist-info") and file.name != "WHEEL" and "__pycache__" not in str(file):
                archive.write(path, str(file))
            elif file.name == "uv":
                archive.write(path, f"{name}.data/scripts/uv")
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{name}.dist-info/WHEEL", tag)


@pytest.fixture
def environ(engine, tmp_path, index):
    """Variables for the command: the tests' engine, and pip's settings for nothing but the tests' index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "MLPROJ"))}
    return {
        **kept,
        "HOME": str(tmp_path),
        "MLPROJ_STATE_DIR": str(tmp_path / "state"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index.url(),
        "NO_PROXY": "*",
    }


def write_project(directory, environment, files=None, kind="python_env"):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "MLproject").write_text(
        f"name: baked\n{kind}: {kind}.yaml\nentry_points:\n  main:\n    command: python train.py\n"
    )
    (directory / f"{kind}.yaml").write_text(json.dumps(environment))
    for name, text in {"train.py": CODE, **(files or {})}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def project(tmp_path):
    """A project whose file of requirements is named by its environment."""
    environment = {"python": VERSION, "build_dependencies": ["alpha==1.0"], "dependencies": ["-r requirements.txt"]}
    return write_project(tmp_path / "project", environment, {"requirements.txt": "beta ==3.0  # pinned\n"})


def mlproj(environ, *arguments, status=0):
    done = subprocess.run(
        [f"{sys.prefix}/bin/mlproj", *map(str, arguments)], env=environ, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done


def bake(environ, project, *options, **more):
    arguments = ["build-image", project, "--base-image", PYTHON, "--network", "host", *options]
    return mlproj(environ, *arguments, **more)


def run(engine, image, command):
    with engine.client() as client:
        container = client.create_container(image, command)
        client.start(container)
        client.wait(container)
        return client.logs(container).decode()


class TestABakedImage:
    def test_runs_the_projects_command_in_its_environment(self, engine, environ, project):
        done = bake(environ, project)
        assert done.stdout.startswith("docker-project:")
        image = done.stdout.strip()
        assert run(engine, image, ["python", "train.py"]) == "alpha 1.0 beta 3.0\n"
        assert run(engine, image, ["sh", "-c", "pwd; which python; echo $VIRTUAL_ENV"]).split() == [
            "/mlflow/projects/code", "/opt/mlproj/env/bin/python", "/opt/mlproj/env",
        ]  # fmt: skip
        assert run(engine, image, ["ls", "-a"]).split() == [
            ".", "..", "MLproject", "python_env.yaml", "requirements.txt", "train.py",
        ]  # fmt: skip

    def test_installs_in_mlflows_order(self, environ, project, index):
        (project / "requirements.txt").write_text("beta==3.0 # in another file than elsewhere here")
        before = len(index.asked)
        bake(environ, project, "-t", "ordered")
        fetched = [path for path in index.asked[before:] if path.startswith("/files/")]
        assert fetched == ["/files/alpha-1.0-py3-none-any.whl", "/files/beta-3.0-py3-none-any.whl"]

    def test_makes_no_environment_anew_for_a_change_of_code(self, engine, environ, project, index):
        first = bake(environ, project, "-t", "layers").stdout.strip()
        asked = len(index.asked)
        (project / "train.py").write_text("print('changed')")
        second = bake(environ, project, "-t", "layers").stdout.strip()
        assert second != first
        assert len(index.asked) == asked
        assert run(engine, second, ["python", "train.py"]) == "changed\n"
        (project / "requirements.txt").write_text("beta\n# changed\n")
        bake(environ, project, "-t", "layers")
        assert len(index.asked) > asked

    def test_is_not_built_again_for_the_same_project(self, environ, project):
        first = bake(environ, project, "-t", "again")
        second = bake(environ, project, "-t", "again")
        assert first.stdout == second.stdout
        assert "is there already" in second.stderr

    def test_is_pushed_and_named_by_its_digest(self, engine, environ, project, registry):
        done = bake(environ, project, "--push", "-t", f"{registry.address}/us/model")
        pinned = done.stdout.strip()
        assert pinned.startswith(f"{registry.address}/us/model@sha256:")
        assert run(engine, pinned, ["python", "train.py"]) == "alpha 1.0 beta 3.0\n"

    def test_has_packages_of_the_projects_own(self, engine, environ, tmp_path):
        from package_world import package

        directory = write_project(tmp_path / "project", {"dependencies": ["./lib/alpha", "-e ./beta"]})
        package(directory / "lib/alpha", "alpha", code="version = 'own'")
        package(directory / "beta", "beta", code="version = 'editable'")
        image = bake(environ, directory).stdout.strip()
        assert run(engine, image, ["python", "train.py"]) == "alpha own beta editable\n"

    def test_of_a_project_without_an_environment_is_its_base_with_the_code(self, engine, environ, tmp_path):
        (tmp_path / "project").mkdir()
        (tmp_path / "project/train.py").write_text("print('trained')")
        image = bake(environ, tmp_path / "project").stdout.strip()
        assert run(engine, image, ["python3", "train.py"]) == "trained\n"

    def test_of_a_project_with_an_image_is_that_image_with_the_code(self, engine, environ, tmp_path):
        directory = tmp_path / "project"
        directory.mkdir()
        (directory / "MLproject").write_text(f"name: it\ndocker_env:\n  image: {SHELL}\n")
        image = mlproj(environ, "build-image", directory).stdout.strip()
        assert run(engine, image, ["cat", "MLproject"]).startswith("name: it")

    def test_holds_no_password_of_a_package_index(self, engine, environ, project, closed_index):
        done = bake({**environ, "PIP_INDEX_URL": closed_index.url()}, project, "-t", "secrets")
        image = done.stdout.strip()
        assert run(engine, image, ["python", "train.py"]) == "alpha 1.0 beta 3.0\n"
        assert "geheim" not in done.stderr
        with engine.client() as client:
            assert PASSWORD not in json.dumps([client.history(image), client.inspect_image(image)])
            saved = b"".join(client.get_image(image))
        assert b"train.py" in saved
        assert PASSWORD.encode() not in saved

    def test_holds_no_token_of_a_requirement(self, engine, environ, tmp_path, closed_index):
        address = f"http://me:${{TOKEN}}@localhost:{closed_index.port}/files/alpha-2.0-py3-none-any.whl"
        directory = write_project(tmp_path / "project", {"dependencies": [f"alpha @ {address}", "beta"]})
        assert "set TOKEN" in bake(environ, directory, status=2).stderr
        done = bake({**environ, "TOKEN": PASSWORD}, directory, "-t", "tokens")
        image = done.stdout.strip()
        assert run(engine, image, ["python", "train.py"]) == "alpha 2.0 beta 3.0\n"
        with engine.client() as client:
            assert PASSWORD not in json.dumps(client.history(image)) + done.stderr
            assert PASSWORD.encode() not in b"".join(client.get_image(image))

    def test_is_refused_a_login_that_is_written_out(self, environ, tmp_path):
        for line in ("--extra-index-url https://me:geheim@index.example", "x @ https://me:geheim@files.example/x.whl"):
            directory = write_project(tmp_path / "project", {"dependencies": ["-r r.txt"]}, {"r.txt": line})
            done = bake(environ, directory, status=2)
            assert "Write a variable in its place" in done.stderr
            assert "geheim" not in done.stderr

    def test_wants_the_python_of_the_project(self, environ, tmp_path):
        directory = write_project(tmp_path / "project", {"python": "3.4.0", "dependencies": ["alpha"]})
        done = bake(environ, directory, status=1)
        assert f"wants Python 3.4.0, and the base image has {VERSION}" in done.stderr

    def test_wants_what_the_environment_is_made_of(self, environ, tmp_path):
        directory = write_project(tmp_path / "project", {"dependencies": ["-r ../other.txt"]})
        (tmp_path / "other.txt").write_text("alpha\n")
        assert "which is outside the project" in bake(environ, directory, status=2).stderr
        write_project(directory, {"dependencies": ["-r r.txt"]}, {"r.txt": "alpha", ".dockerignore": "*.txt"})
        assert "leaves out of the build" in bake(environ, directory, status=2).stderr

    def test_is_told_of_an_index_on_this_host(self, environ, project):
        environ = {**environ, "PIP_EXTRA_INDEX_URL": "file:///srv/wheels"}
        done = bake(environ, project, "-t", "local")
        assert "warning: pip's extra-index-url (the variable PIP_EXTRA_INDEX_URL) names a place on this" in done.stderr

    def test_says_what_pip_said_when_it_fails(self, environ, tmp_path):
        directory = write_project(tmp_path / "project", {"dependencies": ["nobody-has-this"]})
        done = bake(environ, directory, status=1)
        assert "No matching distribution found for nobody-has-this" in done.stderr.splitlines()[-1]


class TestAWrittenDockerfile:
    def write(self, environ, project, file, *options):
        return mlproj(environ, "build-image", project, "--dockerfile", file, "--base-image", PYTHON, *options)

    def docker_build(self, environ, project, file, *options):
        command = [
            docker_program(),
            "build",
            "-f",
            str(file),
            "-t",
            "written",
            "--network",
            "host",
            *options,
            str(project),
        ]
        subprocess.run(command, env={**environ, "DOCKER_BUILDKIT": "0"}, check=True, capture_output=True)
        return "written"

    def test_gives_the_same_image_by_docker_itself(self, engine, environ, project, tmp_path, index):
        self.write(environ, project, tmp_path / "Dockerfile")
        image = self.docker_build(
            environ, project, tmp_path / "Dockerfile", "--build-arg", f"PIP_INDEX_URL={index.url()}"
        )
        baked = bake(environ, project, "-t", "compared").stdout.strip()
        for command in ("python train.py", "find . /opt/mlproj/env | grep -v pyc | sort", "env | grep -v HOSTNAME"):
            shell = ["sh", "-c", command]
            assert run(engine, image, shell) == run(engine, baked, shell)

    def test_needs_no_engine(self, environ, project):
        done = self.write({**environ, "DOCKER_HOST": "unix:///nowhere"}, project, "-")
        assert f"FROM {PYTHON} AS environment" in done.stdout
        assert "docker build -f FILE -t IMAGE PROJECT_DIRECTORY" in done.stdout

    def test_starts_from_the_projects_python_by_default(self, environ, project):
        done = mlproj(environ, "build-image", project, "--dockerfile", "-")
        assert f"FROM python:{VERSION}-slim AS environment" in done.stdout

    def test_names_the_variables_that_it_needs_and_no_value(self, environ, tmp_path):
        line = "--extra-index-url https://me:${TOKEN}@index.example/simple"
        directory = write_project(tmp_path / "project", {"dependencies": [line]})
        done = self.write({**environ, "TOKEN": "geheim"}, directory, "-")
        assert "ARG TOKEN" in done.stdout
        assert "--build-arg TOKEN" in done.stdout
        assert "geheim" not in done.stdout

    def test_builds_nothing(self, environ, project):
        assert "--dockerfile builds nothing" in self.write_fails(environ, project, "--push", "-t", "x").stderr

    def write_fails(self, environ, project, *options):
        return mlproj(environ, "build-image", project, "--dockerfile", "-", *options, status=2)


class TestAnEnvironmentOfUv:
    def test_is_made_by_the_uv_that_pip_fetches(self, engine, environ, project):
        image = bake(environ, project, "--env-manager", "uv").stdout.strip()
        assert run(engine, image, ["python", "train.py"]) == "alpha 1.0 beta 3.0\n"
        assert run(engine, image, ["ls", "/opt/mlproj"]) == "env\n"

    def test_is_what_a_lock_file_says(self, engine, environ, tmp_path, index):
        directory = tmp_path / "project"
        directory.mkdir()
        (directory / "MLproject").write_text("name: locked\npython_env: pyproject.toml\n")
        (directory / "train.py").write_text(CODE)
        about = '[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.10"\n'
        (directory / "pyproject.toml").write_text(f'{about}dependencies = ["alpha<2", "beta"]\n')
        lock = [f"{sys.prefix}/bin/uv", "lock", "--default-index", index.url(), "--no-cache", "--no-config"]
        subprocess.run(lock, cwd=directory, env=environ, check=True, capture_output=True)
        image = bake(environ, directory).stdout.strip()
        assert run(engine, image, ["python", "train.py"]) == "alpha 1.0 beta 3.0\n"


class TestACondaEnvironment:
    ENVIRONMENT = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={VERSION}", "numpy>=1.26", "pip", {"pip": ["-r requirements.txt"]}],
        "variables": {"THREADS": "2"},
    }

    def test_is_made_by_micromamba(self, environ, tmp_path):
        files = {"requirements.txt": "beta"}
        directory = write_project(tmp_path / "project", self.ENVIRONMENT, files, kind="conda_env")
        text = mlproj(environ, "build-image", directory, "--dockerfile", "-").stdout
        create = (
            "RUN micromamba create --yes --prefix /opt/mlproj/env --override-channels --channel conda-forge "
            f"python={VERSION} 'numpy>=1.26' pip"
        )
        assert create in text.splitlines()
        assert "FROM mambaorg/micromamba:2 AS environment" in text
        assert "ENV CONDA_PREFIX=/opt/mlproj/env THREADS=2 PATH=/opt/mlproj/env/bin:$PATH" in text

    def test_has_what_conda_and_pip_install(self, engine, environ, tmp_path):
        """No image of micromamba can be had here: a script makes the prefix, and the rest is real."""
        stand_in = '#!/bin/sh\necho "$@" > /asked\nexec python3 -m venv "$4"\n'
        (tmp_path / "base").mkdir()
        (tmp_path / "base/micromamba").write_text(stand_in)
        (tmp_path / "base/micromamba").chmod(0o755)
        (tmp_path / "base/Dockerfile").write_text(f"FROM {PYTHON}\nCOPY micromamba /usr/local/bin/\n")
        build = [docker_program(), "build", "-t", "mlproj-test/micromamba", str(tmp_path / "base")]
        subprocess.run(build, env={**environ, "DOCKER_BUILDKIT": "0"}, check=True, capture_output=True)
        files = {"requirements.txt": "beta"}
        directory = write_project(tmp_path / "project", self.ENVIRONMENT, files, kind="conda_env")
        options = ["--base-image", "mlproj-test/micromamba", "--network", "host"]
        image = mlproj(environ, "build-image", directory, *options).stdout.strip()
        assert run(engine, image, ["python", "train.py"]) == "alpha 2.0 beta 3.0\n"
        assert run(engine, image, ["sh", "-c", "echo $THREADS"]) == "2\n"

    def test_is_refused_a_token_in_a_channel(self, environ, tmp_path):
        environment = {"channels": ["https://conda.example/t/geheim/main"], "dependencies": ["python=3.11"]}
        directory = write_project(tmp_path / "project", environment, kind="conda_env")
        done = mlproj(environ, "build-image", directory, "--dockerfile", "-", status=2)
        assert "token in the address of a channel" in done.stderr
        assert "geheim" not in done.stderr

    def test_can_be_left_to_pip(self, environ, tmp_path):
        directory = write_project(tmp_path / "project", self.ENVIRONMENT, {"requirements.txt": ""}, kind="conda_env")
        done = mlproj(environ, "build-image", directory, "--dockerfile", "-", "--env-manager", "virtualenv")
        assert "micromamba" not in done.stdout
        assert "left out" in done.stderr


class TestTheCommand:
    def test_refuses_what_makes_no_sense(self, environ, project):
        assert "--push needs --repository" in mlproj(environ, "build-image", project, "--push", status=2).stderr
        assert "leave it out" in mlproj(environ, "build-image", project, "-t", "us/model:1", status=2).stderr

    def test_says_so_when_no_daemon_is_running(self, environ, project, tmp_path):
        environ = {**environ, "DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}
        assert "Is the daemon running?" in mlproj(environ, "build-image", project, status=1).stderr

    def test_says_so_when_the_base_image_cannot_be_had(self, environ, project):
        done = mlproj(environ, "build-image", project, "--base-image", "127.0.0.1:1/none", status=1)
        assert "the registry is out of reach" in done.stderr
