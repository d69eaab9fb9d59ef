"""Projects whose python_env is a pyproject.toml with a uv.lock: what `uv sync` makes of them, and what is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from missing import missing
from package_world import Build, PackageIndex, clean_host, package, processes_naming, until, wheel

from mlproj_core.environments import build_request, choose_manager, environment_manager
from mlproj_core.environments.interpreters import Search, running
from mlproj_core.environments.uv_manager import UvManager
from mlproj_core.environments.uv_program import find_uv
from mlproj_core.errors import EnvironmentBuildError, InvalidProject, UserError
from mlproj_core.spec import check_project, describe, load_project

PYPROJECT = """\
[project]
name = "shop"
version = "1.0"
requires-python = ">=3.8"
dependencies = [
    "beta",
    "alpha <2",
]
[dependency-groups]
dev = ["delta"]
[tool.uv]
no-index = true
find-links = ["packages"]
"""
PACKAGE = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_host(monkeypatch, tmp_path)


@pytest.fixture
def project(tmp_path):
    """A locked project with the packages it needs beside it."""
    folder = tmp_path / "project"
    for name, version, requires in (("alpha", "1.0", ()), ("alpha", "2.0", ()), ("beta", "1.0", ["alpha"])):
        wheel(folder / "packages", name, version, requires=requires)
    wheel(folder / "packages", "delta")
    (folder / "MLproject").write_text(
        "python_env: pyproject.toml\nentry_points:\n  main:\n    command: python main.py\n"
    )
    (folder / "main.py").write_text("import alpha, beta, delta; print('alpha', alpha.version)\n")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    lock(folder)
    return folder


@pytest.fixture
def packaged(project):
    """The same project as a package with a module of its own."""
    package(project, "shop", code="x = 1\n")
    (project / "pyproject.toml").write_text(PACKAGE + PYPROJECT)
    lock(project)
    return project


def lock(folder, *arguments):
    subprocess.run([find_uv(os.environ), "lock", *arguments], cwd=folder, check=True, capture_output=True)


def ensure(folder, said=None):
    spec = load_project(folder).environment
    return environment_manager("uv").ensure(spec, folder, (said if said is not None else []).append)


def key(folder):
    return UvManager().key(load_project(folder).environment, folder)


def run(environment, code):
    done = subprocess.run([environment.prefix / "bin" / "python", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestALockedEnvironment:
    def test_is_what_a_run_gets_with_the_versions_of_the_lock(self, world, project):
        wheel(world.project / "packages", "beta", "9.0", requires=["alpha"])
        before = sorted(world.project.rglob("*"))
        first = world.submit(env_manager=None)
        assert first.wait(), "".join(first.logs())
        text = "".join(first.logs())
        assert "alpha 1.0\n" in text
        assert "beta==1.0" in text
        assert "environment: uv" in text
        assert [path for path in sorted(world.project.rglob("*")) if path not in before] == []
        second = world.submit(env_manager=None)
        assert second.wait()
        assert "(found ready)" in "".join(second.logs())

    def test_holds_the_project_itself_as_a_copy_so_that_checkouts_share_it(self, packaged, tmp_path):
        environment = ensure(packaged)
        where = run(environment, "import shop; print(shop.__file__)")
        assert Path(where).is_relative_to(environment.prefix)
        shutil.copytree(packaged, tmp_path / "checkout")
        again = environment_manager("uv").find(load_project(tmp_path / "checkout").environment, tmp_path / "checkout")
        assert again.prefix == environment.prefix

    def test_has_the_changed_module_of_the_project(self, packaged):
        assert run(ensure(packaged), "import shop; print(shop.x)") == "1"
        (packaged / "shop.py").write_text("x = 2\n")
        assert run(ensure(packaged), "import shop; print(shop.x)") == "2"

    def test_holds_the_members_of_its_workspace(self, project):
        package(project / "member", "gamma", code="x = 3\n")
        (project / "pyproject.toml").write_text(
            PYPROJECT.replace('"beta"', '"beta", "gamma"')
            + "[tool.uv.workspace]\nmembers = ['member']\n[tool.uv.sources]\ngamma = { workspace = true }\n"
        )
        lock(project)
        before = key(project)
        assert run(ensure(project), "import gamma; print(gamma.x)") == "3"
        (project / "member" / "gamma.py").write_text("x = 4\n")
        assert key(project) != before
        assert run(ensure(project), "import gamma; print(gamma.x)") == "4"

    def test_has_the_python_that_uv_would_take(self, project):
        here = running().version.split(".")[:2]
        others = [
            one for one in Search(os.environ).found()
            if one.implementation == "cpython" and tuple(map(int, one.version.split("."))) >= (3, 8)
            if one.version.split(".")[:2] != here
        ] or missing("no second CPython (3.8 or later) on this host, such as one of pyenv")  # fmt: skip
        assert key(project) == key(project)
        (project / ".python-version").write_text(f"# ours\n{others[0].version}\n")
        code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
        assert run(ensure(project), code) == others[0].version
        (project / ".python-version").unlink()
        assert run(ensure(project), code) == running().version

    def test_is_found_again_in_milliseconds_without_a_process(self, project, monkeypatch):
        made = ensure(project)

        def forbidden(*arguments, **options):
            raise AssertionError("find must do without")

        monkeypatch.setattr(subprocess, "Popen", forbidden)
        spec = load_project(project).environment
        spent = []
        for _ in range(20):
            began = time.perf_counter()
            assert environment_manager("uv").find(spec, project).prefix == made.prefix
            spent.append(time.perf_counter() - began)
        assert min(spent) < 0.02

    def test_does_without_the_groups_that_uv_is_told_to_leave_out(self, project, monkeypatch):
        with_dev = ensure(project)
        monkeypatch.setenv("UV_NO_DEV", "1")
        without = ensure(project)
        assert with_dev.key != without.key
        assert list(with_dev.prefix.glob("lib/*/site-packages/delta.py"))
        assert not list(without.prefix.glob("lib/*/site-packages/delta.py"))

    @pytest.mark.parametrize("name", ["uv.lock", "pyproject.toml", "packages/beta-1.0-py3-none-any.whl"])
    def test_is_another_one_when_a_file_changes_that_it_is_made_of(self, project, name):
        before = key(project)
        with (project / name).open("ab") as file:
            file.write(b"\n# changed\n")
        assert key(project) != before

    def test_stays_the_same_when_only_the_code_changes_that_is_not_installed(self, project):
        before = key(project)
        (project / "main.py").write_text("print('changed')\n")
        assert key(project) == before

    def test_takes_from_a_private_index_what_the_lock_names(self, project, monkeypatch, tmp_path):
        index = PackageIndex(project / "packages", "me", "s3cr3t")
        (project / "pyproject.toml").write_text(PYPROJECT.partition("[tool.uv]")[0])
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url())
        lock(project)
        assert "s3cr3t" not in (project / "uv.lock").read_text()
        monkeypatch.delenv("UV_DEFAULT_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", index.url())
        monkeypatch.setenv("PIP_CONSTRAINT", "/no/such/file")
        monkeypatch.setenv("PIP_PREFER_BINARY", "1")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "another-cache"))
        index.watch_for = "s3cr3t"
        said = []
        environment = ensure(project, said)
        index.close()
        assert run(environment, "import alpha; print(alpha.version)") == "1.0"
        assert index.seen == []
        aside = [line for line in said if "left aside" in line]
        assert [line.split()[1] for line in aside] == ["constraint", "prefer-binary"]
        assert "s3cr3t" not in "\n".join(said) + environment.marker.read_text()

    def test_cut_off_leaves_nothing(self, project, tmp_path, monkeypatch):
        index = PackageIndex(project / "packages")
        (project / "pyproject.toml").write_text(PYPROJECT.partition("[tool.uv]")[0])
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url())
        lock(project)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "another-cache"))
        index.hold = "/files/"
        index.held.clear()
        one = Build(tmp_path, build_request("uv", load_project(project).environment, project))
        assert index.held.wait(20)
        one.process.terminate()
        status, answer = one.wait(15)
        index.close()
        assert (status, answer["error"]["code"]) == (128 + signal.SIGTERM, "cancelled")
        until(lambda: not processes_naming(f"{tmp_path}/cache/envs"))
        assert [path.name for path in (tmp_path / "cache" / "envs").iterdir()] == [".locks"]


class TestWhatIsRefused:
    """Each before any work, with the file and how to mend it."""

    def refused(self, project):
        with pytest.raises(InvalidProject) as caught:
            _ = load_project(project).environment
        errors = [str(problem) for problem in check_project(project) if problem.severity == "error"]
        assert list(caught.value.problems) == errors
        assert describe(load_project(project))["environment"]["problems"] == errors
        return "\n".join(errors)

    def test_a_pyproject_without_a_lock(self, project):
        (project / "uv.lock").unlink()
        assert self.refused(project) == (
            f"{project}/pyproject.toml: there is no uv.lock beside it, which says what to install — run `uv lock` in "
            f"{project} and keep uv.lock with the project; of a workspace name the root's"
        )

    def test_a_pyproject_without_a_project(self, project):
        (project / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
        assert f"{project}/pyproject.toml: there is no table [project], of which uv makes" in self.refused(project)

    def test_a_pyproject_that_is_no_toml(self, project):
        (project / "pyproject.toml").write_text('[project]\nname = "shop\n')
        assert f"{project}/pyproject.toml:2:13: this is no TOML: " in self.refused(project)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ('name = "shop"', "", ":1: [project] has no name — write name"),
            ('">=3.8"', "3.8", ":4: requires-python must be text, found a number — write requires-python ="),
            ('"beta",', "7,", ":5: dependencies must be a list of text, found [7, 'alpha <2'] — write dependencies ="),
        ],
    )
    def test_a_pyproject_with_faulty_values(self, project, old, new, words):
        (project / "pyproject.toml").write_text(PYPROJECT.replace(old, new))
        assert f"{project}/pyproject.toml{words}" in self.refused(project)

    def test_a_lock_that_lacks_a_dependency(self, project):
        (project / "pyproject.toml").write_text(PYPROJECT.replace('"delta"', '"delta", "Epsilon[x]>=2; os_name"'))
        assert self.refused(project) == (
            f"{project}/pyproject.toml:10: 'Epsilon[x]>=2; os_name' is not in {project}/uv.lock, which is out of date "
            "— run `uv lock`"
        )

    def test_a_lock_of_another_project(self, project):
        (project / "pyproject.toml").write_text(PYPROJECT.replace('"shop"', '"shed"'))
        words = f"{project}/pyproject.toml:2: {project}/uv.lock is the lock of another project: it does not have 'shed'"
        assert words in self.refused(project)

    def test_a_lock_that_is_no_toml(self, project):
        text = (project / "uv.lock").read_text()
        (project / "uv.lock").write_text(text.replace('source = { virtual = "." }', 'source = { virtual = "." }\nx ='))
        assert f"{project}/uv.lock:" in self.refused(project)

    def test_not_a_lock_for_other_versions_which_is_warned_of(self, project):
        (project / "pyproject.toml").write_text(PYPROJECT.replace("alpha <2", "alpha <3"))
        (problem,) = check_project(project)
        assert problem.severity == "warning"
        assert str(problem) == (
            f"{project}/pyproject.toml:7: {project}/uv.lock may be out of date: it was made for other versions than "
            "'alpha <3' — run `uv lock`"
        )
        assert choose_manager(load_project(project).environment, None) == ("uv", (f"warning: {problem}",))

    def test_the_manager_virtualenv(self, world, project):
        with pytest.raises(UserError, match=r"'virtualenv' cannot make .*pyproject\.toml: pip reads"):
            world.submit(env_manager="virtualenv")
        assert list((world.state / "runs").glob("*")) == []

    def test_a_python_that_is_not_to_be_had(self, project, tmp_path):
        (project / ".python-version").write_text("3.99\n")
        with pytest.raises(EnvironmentBuildError, match=r"asks for Python 3\.99, which is not on this host"):
            ensure(project)
        assert not list((tmp_path / "cache" / "envs").glob("[!.]*"))

    def test_a_python_that_the_project_does_not_run_on(self, project, tmp_path):
        (project / "pyproject.toml").write_text(PYPROJECT.replace(">=3.8", f">=3.8,!={running().version}"))
        lock(project)
        (project / ".python-version").write_text(f"{running().version}\n")
        with pytest.raises(EnvironmentBuildError, match="incompatible with the project's Python requirement"):
            ensure(project)
        assert [path.name for path in (tmp_path / "cache" / "envs").iterdir()] == [".locks"]


class TestDescribing:
    def test_tells_the_python_and_what_is_asked_for(self, project):
        environment = describe(load_project(project))["environment"]
        assert environment == {
            "kind": "uv", "path": str(project / "pyproject.toml"), "name": "shop", "python": ">=3.8",
            "dependencies": ["beta", "alpha <2"], "problems": [],
        }  # fmt: skip

    def test_needs_no_lock_where_no_environment_is_made(self, world, project):
        (world.project / "uv.lock").unlink()
        (world.project / "main.py").write_text("import sys; print('prefix', sys.prefix)\n")
        submitted = world.submit(env_manager="local")
        assert submitted.wait()
        assert f"prefix {sys.prefix}" in "".join(submitted.logs())
