"""The command line explains itself, and does so at once."""

import json
import subprocess
import sys

import click
import pytest
from cli_world import CommandLine

from mlproj_core.cli import program
from mlproj_core.cli.lazy import LazyGroup


def commands(group=program, path=()):
    """Every command, by the words that call it."""
    yield path
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


HEAVY = (
    "asyncio", "concurrent", "email", "fcntl", "filelock", "hashlib", "http", "importlib.metadata", "json", "logging",
    "mlflow", "mlproj_core.backends", "mlproj_core.environments", "mlproj_core.protocol", "mlproj_core.runner",
    "mlproj_core.sources", "mlproj_core.spec", "mlproj_core.tracking", "pathlib", "platformdirs", "rich", "shutil",
    "socket", "ssl", "subprocess", "tempfile", "urllib", "uv", "yaml",
)  # fmt: skip

BARE = (
    "import sys, click; click.Command('bare').main(['--help'], standalone_mode=False); "
    "sys.stderr.write('\\n'.join(sys.modules))"
)


@pytest.fixture(scope="module")
def bare():
    """The modules that click itself needs to print a help."""
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split("\n"))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_is_printed_without_importing_what_the_work_needs(words, bare):
    code = (
        "import sys, mlproj_core.cli; status = mlproj_core.cli.main(sys.argv[1:]); "
        "sys.stderr.write('\\n'.join(sys.modules)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(" ".join(["Usage: mlproj", *words]))
    imported = set(done.stderr.split("\n")) - bare
    assert not [name for name in imported if name in HEAVY or name.startswith(tuple(f"{one}." for one in HEAVY))]


@pytest.mark.parametrize("words", [("envs",), ("runs",), ()], ids=" ".join)
def test_a_group_without_a_command_shows_its_help(tmp_path, words):
    done = CommandLine(tmp_path)(*words)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: mlproj")
    assert "Commands:" in done.stdout


def test_the_summaries_in_a_groups_help_are_those_of_its_commands():
    def groups(group):
        yield group
        for name in group.list_commands(None):
            if isinstance(group.get_command(None, name), LazyGroup):
                yield from groups(group.get_command(None, name))

    for group in groups(program):
        for name, (place, summary) in group.summaries.items():
            command = group.get_command(None, name)
            assert command.name == name, place
            assert len(summary) < 65
            assert summary.endswith(".")
            assert command.help


def test_a_mistyped_command_is_a_users_mistake_with_a_hint(tmp_path):
    done = CommandLine(tmp_path)("statsu", "x")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "mlproj: error: There is no command 'statsu'. Did you mean 'status'?" in done.stderr


def test_the_version_is_that_of_the_distribution(tmp_path):
    from importlib.metadata import version

    assert CommandLine(tmp_path)("--version").stdout == f"mlproj {version('mlproj')}\n"


def test_a_shell_can_complete_commands_and_runs(tmp_path):
    line = CommandLine(tmp_path)
    tag = json.loads(line("submit", line.project("true")).stdout) and line.runs()[0]["tag"]
    words = line(_MLPROJ_COMPLETE="bash_complete", COMP_WORDS="mlproj st", COMP_CWORD="1")
    assert words.stdout == "plain,status\n"
    words = line(_MLPROJ_COMPLETE="bash_complete", COMP_WORDS=f"mlproj logs {tag[:3]}", COMP_CWORD="2")
    assert words.stdout == f"plain,{tag[:12]}-1\n"


class TestTheOptionsOfMlflowRun:
    """A user of `mlflow run` changes one word."""

    OPTIONS = (
        ("--entry-point", "-e"), ("--version", "-v"), ("--param-list", "-P"), ("--docker-args", "-A"),
        ("--experiment-name",), ("--experiment-id",), ("--backend", "-b"), ("--backend-config", "-c"),
        ("--env-manager",), ("--storage-dir",), ("--run-id",), ("--run-name",), ("--build-image",),
    )  # fmt: skip

    def options(self, command):
        return {tuple(option.opts): option for option in program.get_command(None, command).params}

    @pytest.mark.parametrize("command", ["run", "submit"])
    @pytest.mark.parametrize("names", OPTIONS, ids=" ".join)
    def test_each_is_there_under_its_names(self, command, names):
        assert names in self.options(command)

    def test_they_are_those_of_mlflow_itself(self, mlflow_python, mlflow_environment):
        """Against the program: names, variables, and whether they take a value or can be given several times."""
        code = (
            "import json; from mlflow.cli import run; print(json.dumps([[o.opts, o.envvar, o.nargs, o.multiple, "
            "getattr(o, 'is_flag', False), o.default if isinstance(o.default, (str, bool)) else None] "
            "for o in run.params if o.opts != ['uri']]))"
        )
        done = subprocess.run(
            [mlflow_python, "-c", code], capture_output=True, text=True, check=True, timeout=120, env=mlflow_environment
        )
        theirs = {tuple(names): rest for names, *rest in json.loads(done.stdout.splitlines()[-1])}
        assert set(theirs) >= set(self.OPTIONS)
        ours = self.options("run")
        for names, rest in theirs.items():
            option = ours[names]
            default = option.default if isinstance(option.default, str | bool) else None
            assert [option.envvar, option.nargs, option.multiple, option.is_flag, default] == rest, names
