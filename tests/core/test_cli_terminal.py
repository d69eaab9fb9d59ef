"""What `mlproj run` looks like to a person: on a terminal, and where there is none."""

import pytest
from cli_world import CommandLine, Terminal
from package_world import package

GATED = """
import os, time
print("counting to a million", flush=True)
while not os.path.exists({gate!r}):
    time.sleep(0.02)
"""


@pytest.fixture
def mlproj(tmp_path):
    line = CommandLine(tmp_path)
    yield line
    line.close()


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


@pytest.fixture
def slow_project(mlproj, gate, tmp_path):
    """A project whose environment takes until the gate opens: it needs a package that is built from source."""
    mlproj.environment["MLPROJ_ENV_MANAGER"] = "uv"
    project = mlproj.project("echo trained", **{"python_env.yaml": "dependencies: [./slow]\n"})
    slow = package(tmp_path / "project-1" / "slow", "slow")
    backend = (slow / "backend.py").read_text()
    (slow / "backend.py").write_text(GATED.format(gate=str(gate)) + backend)
    return project


def started(mlproj, *arguments, **variables):
    return Terminal({**mlproj.environment, **variables}, *arguments)


def test_a_spinner_says_what_is_being_done_until_the_project_starts(mlproj, slow_project, gate):
    terminal = started(mlproj, "run", slow_project)
    terminal.until(b"environment")
    terminal.until("⠙".encode())
    gate.touch()
    assert terminal.end() == 0
    before, _, after = terminal.sent.partition(b"trained\r\n")
    assert "⠙".encode() in before
    assert before.endswith(b"\n") or before.endswith(b"\x1b[2K")
    assert "⠙".encode() not in after
    assert b"\x1b[?25h" in terminal.sent  # the cursor is back
    assert b"[mlproj] FINISHED" in after


def test_ctrl_c_while_the_environment_is_built_ends_the_building(mlproj, slow_project):
    import os
    import signal

    terminal = started(mlproj, "run", slow_project)
    terminal.until("⠙".encode())
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 130
    assert b"SIGINT: cancelling run" in terminal.sent
    assert b"KILLED: the run was cancelled" in terminal.sent
    assert terminal.sent.rfind(b"\x1b[?25h") > terminal.sent.rfind(b"\x1b[?25l")
    assert mlproj.runs()[0]["reason"]["code"] == "cancelled"


def test_an_environment_that_cannot_be_made_is_told_of_in_the_installers_own_words(mlproj, slow_project, tmp_path):
    backend = tmp_path / "project-1" / "slow" / "backend.py"
    backend.write_text("import time; time.sleep(0.5)\nraise RuntimeError('the moon is in the wrong phase')\n")
    terminal = started(mlproj, "run", slow_project)
    assert terminal.end() == 1
    assert terminal.sent.count(b"FAILED") == 1
    assert b"the moon is in the wrong phase" in terminal.sent


def test_a_progress_bar_of_the_project_moves_on_its_own_line(mlproj):
    terminal = started(mlproj, "run", mlproj.project(r"printf '10%%\r20%%\r30%%\n'"))
    assert terminal.end() == 0
    assert b"10%\r20%\r30%\r\n" in terminal.sent


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "TERM=dumb"])
def test_who_wants_plain_lines_gets_them(mlproj, variables):
    terminal = started(mlproj, "run", mlproj.project("sleep 0.5; echo done"), **variables)
    assert terminal.end() == 0
    assert b"\x1b" not in terminal.sent
    assert b"done\r\n" in terminal.sent


def test_a_table_on_a_terminal_has_rules_and_elsewhere_is_plain(mlproj):
    mlproj("wait", mlproj.submit("true"))
    terminal = started(mlproj, "runs", "list")
    assert terminal.end() == 0
    assert "─".encode() in terminal.sent
    assert "─" not in mlproj("runs", "list").stdout


def test_json_on_a_terminal_is_indented_for_people(mlproj):
    handle = mlproj.submit("true")
    terminal = started(mlproj, "status", handle, "--json")
    assert terminal.end() == 0
    assert b'{\r\n  "tag"' in terminal.sent


class TestWithoutATerminal:
    def test_what_the_builder_says_goes_to_standard_error_not_among_the_projects_output(
        self, mlproj, slow_project, gate
    ):
        gate.touch()
        done = mlproj("run", slow_project)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "trained\n"
        assert "slow" in done.stderr
        assert "\x1b" not in done.stderr
        assert "⠋" not in done.stderr

    def test_an_environment_that_cannot_be_made_leaves_standard_output_empty(self, mlproj, slow_project, tmp_path):
        backend = tmp_path / "project-1" / "slow" / "backend.py"
        backend.write_text("raise RuntimeError('the moon is in the wrong phase')\n")
        done = mlproj("run", slow_project)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "the moon is in the wrong phase" in done.stderr
        assert done.stderr.count("FAILED") == 1
