"""The commands that read a project (validate, describe, schema) and those over its environments."""

import json
import subprocess
from pathlib import Path

import pytest
from cli_world import CommandLine

MESSY = """\
name: wine
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.5}
      data: path
    command: "python train.py {alpha} {data}"
  broken:
    command: "echo {nothing}"
"""
GOOD = """\
name: wine
python_env: python_env.yaml
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.5}
      data: path
    command: "python train.py {alpha} {data}"
  "no parameters":
    command: "true"
"""


@pytest.fixture
def mlproj(tmp_path):
    line = CommandLine(tmp_path)
    yield line
    line.close()


@pytest.fixture
def project(tmp_path):
    directory = tmp_path / "wine"
    directory.mkdir()
    (directory / "MLproject").write_text(GOOD)
    (directory / "python_env.yaml").write_text("python: '3.11'\ndependencies: [numpy==2.0, pandas]\n")
    return directory


class TestValidate:
    def test_a_good_project_has_no_errors(self, mlproj, project):
        done = mlproj("validate", str(project))
        assert (done.returncode, done.stdout) == (0, "")
        assert "0 errors, 0 warnings" in done.stderr

    def test_each_problem_is_one_line_that_an_editor_can_jump_to(self, mlproj, project):
        (project / "MLproject").write_text(MESSY)
        done = mlproj("validate", str(project))
        assert done.returncode == 2
        (line,) = [line for line in done.stdout.splitlines() if ": error: " in line]
        place, _, text = line.partition(": error: ")
        file, row, column = place.rsplit(":", 2)
        assert Path(file) == project / "MLproject"
        source = MESSY.splitlines()[int(row) - 1]
        assert source[int(column) - 1 :].startswith("{nothing}")
        assert "nothing" in text

    def test_json_has_the_same_problems(self, mlproj, project):
        (project / "MLproject").write_text(MESSY)
        done = mlproj("validate", str(project), "--json")
        assert done.returncode == 2
        problems = json.loads(done.stdout)
        assert [problem["severity"] for problem in problems].count("error") == 1
        assert set(problems[0]) == {"severity", "file", "line", "column", "message", "remedy"}

    def test_warnings_alone_are_no_failure(self, mlproj, project):
        (project / "MLproject").write_text(GOOD.replace("type: float", "type: number"))
        done = mlproj("validate", str(project))
        assert done.returncode == 0
        assert ": warning: " in done.stdout

    def test_a_missing_directory_is_a_users_mistake(self, mlproj, tmp_path):
        done = mlproj("validate", str(tmp_path / "missing"))
        assert done.returncode == 2
        assert done.stderr.startswith("mlproj: error: ")


class TestDescribe:
    def test_a_table_shows_entry_points_parameters_and_the_environment(self, mlproj, project):
        done = mlproj("describe", str(project))
        assert done.returncode == 0
        rows = [line.split() for line in done.stdout.splitlines()]
        assert ["main", "alpha", "float", "0.5"] in rows
        assert ["data", "path", "(required)"] in rows
        assert ["no", "parameters"] in rows
        assert ["environment", "python", "python_env.yaml"] in rows
        assert ["dependencies", "numpy==2.0,", "pandas"] in rows

    def test_json_says_the_same(self, mlproj, project):
        described = json.loads(mlproj("describe", str(project), "--json").stdout)
        assert described["name"] == "wine"
        assert described["file"] == "MLproject"
        assert described["entry_points"]["main"]["parameters"]["alpha"]["default"] == 0.5
        assert described["entry_points"]["main"]["parameters"]["data"]["required"] is True
        assert described["environment"]["dependencies"] == ["numpy==2.0", "pandas"]

    def test_a_git_project_is_described_at_a_version_and_leaves_no_files(self, mlproj, project):
        def git(*arguments):
            command = ["git", "-c", "user.name=n", "-c", "user.email=e@localhost", "-C", str(project), *arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        git("init", "--quiet", "--initial-branch", "main")
        git("add", ".")
        git("commit", "--quiet", "--message", "one")
        commit = git("rev-parse", "HEAD")
        (project / "MLproject").write_text(GOOD.replace("wine", "beer"))
        git("commit", "--quiet", "--all", "--message", "two")
        done = mlproj("describe", f"file://{project}", "-v", commit[:10], "--json")
        assert done.returncode == 0, done.stderr
        described = json.loads(done.stdout)
        assert (described["name"], described["commit"]) == ("wine", commit)
        assert list((mlproj.state / "checkouts").iterdir()) == []

    def test_a_directory_without_an_mlproject_says_that_scripts_can_be_run(self, mlproj, project):
        (project / "MLproject").unlink()
        done = mlproj("describe", str(project))
        assert done.returncode == 0
        assert "No entry points are declared" in done.stdout


class TestSchema:
    def test_it_is_a_json_schema_of_an_entry_points_parameters(self, mlproj, project):
        schema = json.loads(mlproj("schema", str(project), "-e", "main").stdout)
        assert schema["type"] == "object"
        assert schema["properties"]["alpha"] == {"type": "number", "default": 0.5}
        assert schema["required"] == ["data"]

    def test_an_unknown_entry_point_is_a_users_mistake(self, mlproj, project):
        done = mlproj("schema", str(project), "-e", "mian")
        assert done.returncode == 2
        assert "main" in done.stderr


class TestEnvironments:
    @pytest.fixture
    def bare(self, project):
        """A project whose environment is a Python and nothing else."""
        (project / "python_env.yaml").unlink()
        (project / "MLproject").write_text("entry_points:\n  main:\n    command: echo $VIRTUAL_ENV\n")
        return str(project)

    def test_one_that_was_built_beforehand_is_found_ready_by_a_run(self, mlproj, bare):
        built = mlproj("envs", "build", bare, "--env-manager", "uv")
        assert built.returncode == 0, built.stderr
        prefix = built.stdout.strip()
        done = mlproj("run", bare, "--env-manager", "uv")
        assert done.stdout.strip() == prefix
        assert "(found ready)" in done.stderr
        assert mlproj("envs", "build", bare, "--env-manager", "uv").stdout.strip() == prefix

    def test_they_are_listed_and_pruned(self, mlproj, bare):
        assert "there are no environments" in mlproj("envs", "list").stderr
        mlproj("envs", "build", bare, "--env-manager", "uv")
        header, row = mlproj("envs", "list").stdout.splitlines()
        assert header.startswith("ENVIRONMENT")
        (listed,) = json.loads(mlproj("envs", "list", "--json").stdout)
        assert row.startswith(listed["key"][:12])
        assert (listed["manager"], listed["complete"], listed["in_use"]) == ("uv", True, False)
        assert "deleted 0 environments" in mlproj("envs", "prune", "--older-than", "1h").stderr
        assert Path(listed["prefix"]).exists()
        assert "deleted 1 environment\n" in mlproj("envs", "prune").stderr
        assert not Path(listed["prefix"]).exists()

    def test_the_hosts_own_is_not_made(self, mlproj, bare):
        done = mlproj("envs", "build", bare, "--env-manager", "local")
        assert (done.returncode, done.stdout) == (0, "")
        assert "nothing to make" in done.stderr
