"""Scripts with inline metadata (PEP 723), run by their file names in the environment that they ask for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from missing import missing
from package_world import Build, clean_host, package, wheel

from mlproj_core.environments import build_request, environment_manager
from mlproj_core.environments.interpreters import Search, running
from mlproj_core.environments.uv_manager import UvManager
from mlproj_core.environments.uv_program import find_uv
from mlproj_core.errors import InvalidProject, UserError
from mlproj_core.spec import check_project, describe, load_project

BLOCK = '# /// script\n# requires-python = ">=3.8"\n# dependencies = ["alpha<2"]\n# ///\n'
CODE = "import sys, alpha; print('alpha', alpha.version, sys.prefix)\n"
FOR_UV = """\
# /// script
# dependencies = ["beta", "gamma"]
#
# [tool.uv]
# no-index = true
# find-links = ["../packages"]
# constraint-dependencies = ["alpha<2"]
#
# [tool.uv.sources]
# gamma = { path = "lib" }
# ///
import alpha, gamma
print("alpha", alpha.version, "gamma", gamma.x)
"""


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_host(monkeypatch, tmp_path)


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    for name, version, requires in (("alpha", "1.0", ()), ("alpha", "2.0", ()), ("beta", "1.0", ["alpha"])):
        wheel(folder, name, version, requires=requires)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def project(world, wheels):
    """A project with a declared entry point and no environment of its own."""
    return world.project


@pytest.fixture
def script_for_uv(project):
    """A script that names a local package in [tool.uv]."""
    package(project / "lib", "gamma", code="x = 1\n")
    (project / "train.py").write_text(FOR_UV)
    return project / "train.py"


def key(project, script="train.py"):
    return UvManager().key(load_project(project).environment_of(script), project)


def printed(run):
    """The lines that a run's script printed."""
    assert run.wait(), "".join(run.logs())
    return [line for line in "".join(run.logs()).splitlines() if line.startswith("alpha ")]


class TestAScriptRunByItsFileName:
    def test_gets_the_environment_it_asks_for_and_one_line_says_so(self, world, project, capsys):
        (project / "train.py").write_text(BLOCK + CODE)
        said = []
        run = world.submit(entry_point="train.py", env_manager=None, report=said.append)
        (line,) = printed(run)
        assert line.startswith(f"alpha 1.0 {os.environ['MLPROJ_CACHE_DIR']}/envs/")
        assert "environment: uv" in "".join(run.logs())
        assert "train.py runs in the environment that its inline metadata asks for" in said

    def test_gets_the_python_it_asks_for(self, world, project):
        others = [
            one for one in Search(os.environ).found()
            if one.implementation == "cpython" and tuple(map(int, one.version.split("."))) >= (3, 8)
            if one.version.split(".")[:2] != running().version.split(".")[:2]
        ] or missing("no second CPython (3.8 or later) on this host, such as one of pyenv")  # fmt: skip
        asked = f"=={'.'.join(others[0].version.split('.')[:2])}.*"
        (project / "train.py").write_text(BLOCK.replace(">=3.8", asked) + CODE.replace("sys.prefix", "sys.version"))
        (line,) = printed(world.submit(entry_point="train.py", env_manager=None))
        assert asked[2:-1] in line

    def test_needs_no_new_environment_when_only_its_code_changes(self, project, script_for_uv):
        for text in (BLOCK + CODE, FOR_UV):
            script_for_uv.write_text(text)
            before = key(project)
            script_for_uv.write_text(text + "print('more')\n")
            assert key(project) == before
            script_for_uv.write_text(text.replace("alpha<2", "alpha<3"))
            assert key(project) != before

    def test_gets_from_uv_what_its_table_for_uv_asks_for(self, world, project, script_for_uv):
        before = sorted(path.name for path in project.iterdir())
        assert printed(world.submit(entry_point="train.py", env_manager=None)) == ["alpha 1.0 gamma 1"]
        assert sorted(path.name for path in project.iterdir()) == before
        known = key(project)
        (project / "lib" / "gamma.py").write_text("x = 2\n")
        assert key(project) != known
        assert printed(world.submit(entry_point="train.py", env_manager=None)) == ["alpha 1.0 gamma 2"]

    def test_may_lie_in_a_directory_of_the_project(self, world, project, script_for_uv):
        (project / "tools").mkdir()
        (project / "tools" / "train.py").write_text(
            FOR_UV.replace("../packages", "../../packages").replace('"lib"', '"../lib"')
        )
        assert printed(world.submit(entry_point="tools/train.py", env_manager=None)) == ["alpha 1.0 gamma 1"]

    def test_gets_the_versions_of_its_lock_file(self, world, project, script_for_uv, wheels):
        subprocess.run([find_uv(os.environ), "lock", "--script", script_for_uv], check=True, capture_output=True)
        before, lock = key(project), (project / "train.py.lock").read_text()
        wheel(wheels, "beta", "9.0")
        run = world.submit(entry_point="train.py", env_manager=None)
        assert printed(run) == ["alpha 1.0 gamma 1"]
        assert "beta==1.0" in "".join(run.logs())
        assert (project / "train.py.lock").read_text() == lock
        (project / "train.py.lock").write_text(lock + "\n# changed\n")
        assert key(project) != before

    def test_is_made_by_pip_where_virtualenv_is_asked_for(self, world, project):
        (project / "train.py").write_text(BLOCK + CODE)
        run = world.submit(entry_point="train.py", env_manager="virtualenv")
        assert printed(run)[0].startswith("alpha 1.0")
        assert "environment: virtualenv" in "".join(run.logs())

    def test_runs_in_what_is_there_where_no_environment_is_made(self, world, project):
        (project / "train.py").write_text("# /// script\n# dependencies = 3\n# ///\nprint('alpha', 'none')\n")
        assert printed(world.submit(entry_point="train.py", env_manager="local")) == ["alpha none"]

    def test_of_a_project_with_a_lock_of_its_own_gets_what_it_asks_for_itself(self, project, wheels):
        (project / "MLproject").write_text("python_env: pyproject.toml\n")
        (project / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\n')
        (project / "train.py").write_text(BLOCK)
        (project / "plain.py").write_text("")
        loaded = load_project(project)
        assert loaded.environment_of("train.py").dependencies == ("alpha<2",)
        with pytest.raises(InvalidProject, match=r"no uv\.lock"):
            loaded.environment_of("plain.py")

    def test_may_have_a_password_in_its_metadata_which_is_never_handed_on(self, project, tmp_path, monkeypatch):
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        address = "alpha @ http://me:s3cr3t@localhost:9/alpha-1.0-py3-none-any.whl"
        (project / "train.py").write_text(BLOCK.replace("alpha<2", address))
        request = build_request("uv", load_project(project).environment_of("train.py"), project)
        assert request["spec"] is None
        one = Build(tmp_path, request)
        status, answer = one.wait()
        assert status == 1
        assert "localhost:9/alpha-1.0" in answer["error"]["message"]
        assert "s3cr3t" not in json.dumps(request) + one.log() + json.dumps(answer)


class TestWhatMlflowReads:
    """It keeps its meaning: MLflow does not look at inline metadata."""

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({"python_env.yaml": "dependencies: [alpha==2.0]\n"}, "python_env.yaml"),
            ({"conda.yaml": "dependencies: [{pip: [alpha==2.0]}]\n"}, "conda.yaml"),
        ],
    )
    def test_an_environment_that_the_project_names_counts_and_one_line_says_so(self, world, project, files, words):
        for name, text in files.items():
            (project / name).write_text(text)
        (project / "train.py").write_text(BLOCK + CODE + "# /// script\n")
        said = []
        run = world.submit(entry_point="train.py", env_manager="uv", report=said.append)
        assert printed(run)[0].startswith("alpha 2.0")
        (line,) = [line for line in said if "inline" in line]
        assert line == (
            f"train.py runs in the environment of {project}/{words}, as under MLflow; its inline metadata has no say"
        )
        assert check_project(project) == []

    def test_a_declared_entry_point_runs_in_the_environment_of_the_project(self, project):
        (project / "train.py").write_text(BLOCK + CODE)
        (project / "MLproject").write_text("entry_points:\n  train.py:\n    command: python train.py\n")
        loaded = load_project(project)
        assert loaded.environment_of("train.py") == loaded.environment
        assert loaded.environment.dependencies == ()

    def test_a_script_without_metadata_and_other_blocks_of_that_form_are_nothing_special(self, project):
        (project / "train.py").write_text("# /// pyproject\n# [project]\n# ///\n# an example: '# /// script'\n")
        loaded = load_project(project)
        assert loaded.environment_of("train.py") == loaded.environment
        assert describe(loaded)["scripts"] == {}


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("#!/usr/bin/env python\n# /// script\n# dependencies = []\nimport os\n",
             "2: the block of inline metadata that begins here has no end — each line of it begins with '#' and a"),
            ("# /// script\n#dependencies = []\n# ///\n", "1: the block of inline metadata that begins here has no"),
            (BLOCK + "\n" + BLOCK, "6: there is a second block of inline metadata — keep one block"),
            ("\n\n# /// script\n# dependencies = [\n# ///\n", "4"),
            ("# /// script\n# dependencies = [1]\n# ///\n",
             "2: dependencies must be a list of text, found [1] — write dependencies = "),
            ("# /// script\n# requires-python = 3\n# ///\n",
             "2: requires-python must be text, found a number — write requires-python = "),
        ],
    )  # fmt: skip
    def test_faulty_metadata_with_file_and_line_before_any_work(self, world, project, text, words):
        (project / "train.py").write_text(text)
        with pytest.raises(InvalidProject, match="The script's inline metadata cannot be used") as caught:
            world.submit(entry_point="train.py", env_manager=None)
        assert f"{project}/train.py:{words}" in str(caught.value)
        (problem,) = check_project(project)
        assert str(problem) == caught.value.problems[0]
        assert describe(load_project(project))["scripts"] == {"train.py": {"problems": [str(problem)]}}
        assert not (world.state / "runs").exists() or not list((world.state / "runs").iterdir())

    def test_metadata_in_another_encoding(self, world, project):
        (project / "train.py").write_bytes(b"# /// script\n# dependencies = []\n# ///\n# caf\xe9\n")
        with pytest.raises(
            InvalidProject, match=r"train\.py: the file is not text in UTF-8, as inline metadata must be"
        ):
            world.submit(entry_point="train.py", env_manager=None)

    def test_the_manager_virtualenv_for_what_only_uv_can_make(self, world, project, script_for_uv):
        with pytest.raises(UserError, match=r"'virtualenv' cannot make .*train\.py: pip reads neither .* \[tool\.uv\]"):
            world.submit(entry_point="train.py", env_manager="virtualenv")

    def test_windows_line_ends_are_no_fault(self, project):
        (project / "train.py").write_bytes((BLOCK + CODE).replace("\n", "\r\n").encode())
        assert load_project(project).environment_of("train.py").dependencies == ("alpha<2",)


class TestTheCommandLine:
    def test_describes_the_scripts_and_builds_their_environments(self, project, wheels):
        (project / "train.py").write_text(BLOCK + CODE)

        def mlproj(*arguments):
            command = [Path(sys.executable).with_name("mlproj"), *arguments]
            return subprocess.run(command, env=os.environ, cwd=project, capture_output=True, text=True)

        assert "train.py asks in its inline metadata for alpha<2." in mlproj("describe", ".").stdout
        described = json.loads(mlproj("describe", "--json", ".").stdout)["scripts"]
        assert described == {
            "train.py": {"python": ">=3.8", "dependencies": ["alpha<2"], "tool_uv": [], "locked": False}
        }
        built = mlproj("envs", "build", ".", "-e", "train.py")
        assert built.returncode == 0, built.stderr
        found = environment_manager("uv").find(load_project(project).environment_of("train.py"), project)
        assert str(found.prefix) == built.stdout.strip()
        assert mlproj("validate", ".").returncode == 0
