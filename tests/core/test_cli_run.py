"""`mlproj run` and `mlproj submit`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_world import PROGRAM, CommandLine
from protocol_suite import until

from mlproj_core.cli.screen import OwnLines


@pytest.fixture
def mlproj(tmp_path):
    line = CommandLine(tmp_path)
    yield line
    line.close()


class TestWhatIsPrinted:
    def test_the_projects_output_goes_to_standard_output_and_mlprojs_own_lines_to_standard_error(self, mlproj):
        done = mlproj("run", mlproj.project("echo to out; echo to err >&2"))
        assert done.returncode == 0
        assert done.stdout == "to out\nto err\n"
        lines = done.stderr.splitlines()
        assert all(line.startswith("[mlproj] ") for line in lines)
        assert lines[-1].startswith("[mlproj] FINISHED")

    def test_the_projects_output_is_the_same_byte_for_byte(self, mlproj):
        bar = b"10%\r20%\r30%\n[ml\n[mlpro\xff\xfe\x00\n\n[\n"
        project = mlproj.project("cat bar; head -c 300000 /dev/zero; echo; echo '[mlproj'")
        Path(project, "bar").write_bytes(bar)
        done = mlproj.start("run", project)
        out, _ = done.communicate(timeout=60)
        assert out == bar + b"\0" * 300000 + b"\n[mlproj\n"

    def test_output_is_shown_while_the_project_runs(self, mlproj):
        process = mlproj.start("run", mlproj.project("echo first; until [ -e go ]; do sleep 0.01; done"))
        assert process.stdout.readline() == b"first\n"
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)

    def test_nothing_is_said_twice(self, mlproj):
        done = mlproj("run", mlproj.project("exit 3"))
        assert done.stderr.count("exited with code 3") == 1
        assert done.stderr.count("attempt ") == 1
        assert done.stderr.count("FAILED") == 1

    def test_json_is_all_that_standard_output_gets_when_it_is_asked_for(self, mlproj):
        done = mlproj("run", "--json", mlproj.project("""echo hello; echo '{"rows": 3}' > $MLPROJ_RESULT"""))
        document = json.loads(done.stdout)
        assert "hello\n" in done.stderr
        assert document["status"] == "FINISHED"
        assert document["result"] == {"rows": 3}
        assert document["metrics"] is None  # the run is untracked
        assert document["entry_point"] == "main"
        assert document["handle"]["run_id"] == document["run_id"]

    def test_json_tells_of_a_failure_too(self, mlproj):
        done = mlproj("run", "--json", mlproj.project("echo no luck; exit 3"))
        document = json.loads(done.stdout)
        assert done.returncode == 3
        assert document["status"] == "FAILED"
        assert document["reason"]["code"] == "project_code"
        assert document["reason"]["exit_code"] == 3
        assert document["reason"]["output"] == ["no luck"]

    def test_who_reads_no_further_ends_the_run_as_a_pipe_ends_any_program(self, mlproj):
        project = mlproj.project("while echo line; do sleep 0.01; done")
        process = mlproj.start("run", project)
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 141
        assert b"Traceback" not in process.stderr.read()
        until(lambda: mlproj.runs()[0]["status"] == "KILLED")

    def test_a_tracked_run_ends_with_where_to_look(self, mlproj, mlflow_server):
        project = mlproj.project("true")
        done = mlproj("run", project, "--json", "--tracking-uri", mlflow_server, "--experiment-name", "from the shell")
        document = json.loads(done.stdout)
        assert done.stderr.splitlines()[-1] == f"[mlproj] run page: {document['tracking_url']}"
        assert document["tracking_url"].startswith(mlflow_server)
        assert document["run_id"] in document["tracking_url"]
        assert document["metrics"] == {}


class TestOwnLines:
    OUTPUT = (
        b"[mlproj] attempt\n[mlproj] environment: local\n10%\r20%\n[mlpro\n[mlproj] \nx[mlproj] not ours\n\n"
        b"\xff\xfe[\n[mlproj]\nno newline\n[mlproj] FINISHED\n[mlpro"
    )

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9, 10, 13, 1000])
    def test_they_are_told_from_the_projects_output_in_pieces_of_any_size(self, size):
        lines, own, foreign = OwnLines(), [], b""
        for start in range(0, len(self.OUTPUT), size):
            for ours, piece in lines.split(self.OUTPUT[start : start + size]):
                if ours:
                    own.append(piece)
                else:
                    foreign += piece
        foreign += lines.rest()
        assert own == [
            b"[mlproj] attempt\n", b"[mlproj] environment: local\n", b"[mlproj] \n", b"[mlproj] FINISHED\n",
        ]  # fmt: skip
        assert foreign == b"10%\r20%\n[mlpro\nx[mlproj] not ours\n\n\xff\xfe[\n[mlproj]\nno newline\n[mlpro"

    def test_what_the_project_prints_is_not_held_back(self):
        lines = OwnLines()
        assert list(lines.split(b"10%\r")) == [(False, b"10%\r")]
        assert list(lines.split(b"20%\r")) == [(False, b"20%\r")]
        assert list(lines.split(b"\n> ")) == [(False, b"\n> ")]


class TestExitStatus:
    @pytest.mark.parametrize(
        ("command", "status"),
        [("exit 0", 0), ("exit 1", 1), ("exit 3", 3), ("exit 125", 125), ("no-such-program", 127),
         ("exec bash -c 'kill -9 $$'", 137)],
    )  # fmt: skip
    def test_it_is_the_projects_own(self, mlproj, command, status):
        assert mlproj("run", mlproj.project(command)).returncode == status

    def test_a_projects_two_becomes_one_since_two_is_the_callers_mistake(self, mlproj):
        assert mlproj("run", mlproj.project("exit 2")).returncode == 1

    def test_a_timeout_is_a_failure(self, mlproj):
        done = mlproj("run", "--timeout", "0.2s", "-c", '{"grace": 0.2}', mlproj.project("sleep 60"))
        assert done.returncode == 1
        assert "FAILED: the run took longer than its timeout of 0.2 seconds" in done.stderr

    def test_a_run_that_another_process_cancels_is_a_failure(self, mlproj):
        process = mlproj.start("run", mlproj.project("echo up; sleep 60"))
        process.stdout.readline()
        assert mlproj("cancel", mlproj.runs()[0]["tag"]).returncode == 0
        assert process.wait(30) == 1
        assert b"[mlproj] KILLED: the run was cancelled" in process.stderr.read()

    def test_a_run_whose_supervisor_is_killed_is_told_of_in_full(self, mlproj):
        process = mlproj.start("run", mlproj.project("echo up; sleep 60"))
        process.stdout.readline()
        run = mlproj.runs()[0]
        supervisor = json.loads((mlproj.state / "runs" / run["tag"].replace("-", "/") / "supervisor.json").read_text())
        os.kill(supervisor["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert f"Run {run['tag']}".encode() in errors
        assert b"supervisor was killed" in errors


class TestUsersMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["-P", "alpha"], "Invalid format for -P: 'alpha'. Use -P name=value."),
            (["-P", "a=1", "-P", "a=2"], "-P 'a' is given more than once."),
            (["--experiment-name", "a", "--experiment-id", "1"], "not both"),
            (["-c", "{nonsense"], "--backend-config is neither the name of a .json file nor JSON"),
            (["-c", "[1]"], "must be a JSON object"),
            (["-c", "missing.json"], "cannot read missing.json"),
            (["--timeout", "soon"], "'soon' is no duration"),
            (["--timeout", "0"], "timeout must be a number of seconds above 0"),
            (["--env-var", "MLPROJ_NO_SUCH_VARIABLE"], "there is no variable MLPROJ_NO_SUCH_VARIABLE to copy"),
            (["--tag", "stage"], "Invalid format for --tag"),
            (["-b", "nowhere"], "There is no backend 'nowhere'"),
            (["-e", "mian"], "main"),
            (["-A", "gpus=all"], "container"),
            (["--no-such-option"], "--no-such-option"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_each_is_told_in_words_and_exits_with_two(self, mlproj, arguments, message):
        done = mlproj("run", mlproj.project("touch ran"), *arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "mlproj: error: " in done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert mlproj.runs() == []

    def test_a_traceback_is_shown_to_who_wants_one(self, mlproj):
        done = mlproj("run", mlproj.project("true"), "-b", "nowhere", MLPROJ_DEBUG="1")
        assert done.returncode == 2
        assert "Traceback" in done.stderr

    def test_an_uri_that_is_no_project_is_told_in_words(self, mlproj, tmp_path):
        done = mlproj("run", str(tmp_path / "missing"))
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("mlproj: error: ")
        assert str(tmp_path / "missing") in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_state_directory_that_cannot_be_written_is_told_in_words(self, mlproj, tmp_path):
        (tmp_path / "file").touch()
        done = mlproj("run", mlproj.project("true"), MLPROJ_STATE_DIR=str(tmp_path / "file" / "state"))
        assert done.returncode == 1
        assert "mlproj: error: " in done.stderr
        assert "Traceback" not in done.stderr


class TestOptions:
    def test_parameters_reach_the_command(self, mlproj, tmp_path):
        project = mlproj.project("")
        (tmp_path / "project-1" / "MLproject").write_text(
            "entry_points:\n  main:\n    parameters:\n      a: {type: float, default: 1}\n    command: echo {a}\n"
        )
        assert mlproj("run", project, "-P", "a=0.5", "-P", "more=x y").stdout == "0.5 --more x y\n"

    def test_a_variable_is_given_or_copied(self, mlproj):
        project = mlproj.project('echo "$GIVEN,$COPIED,$EMPTY,"')
        done = mlproj(
            "run", project, "--env-var", "GIVEN=a=b", "--env-var", "COPIED", "--env-var", "EMPTY=", COPIED="secret"
        )
        assert done.stdout == "a=b,secret,,\n"
        assert "secret" not in done.stderr

    def test_backend_settings_are_text_or_a_file(self, mlproj, tmp_path):
        settings = tmp_path / "settings.json"
        settings.write_text('{"grace": "long"}')
        for given in ('{"grace": "long"}', str(settings)):
            done = mlproj("run", mlproj.project("true"), "-c", given)
            assert done.returncode == 2
            assert "backend_config['grace']" in done.stderr

    def test_an_experiment_on_the_command_line_overrules_the_variable_for_the_other_kind(self, mlproj):
        done = mlproj("run", mlproj.project("true"), "--experiment-name", "mine", MLFLOW_EXPERIMENT_ID="7")
        assert done.returncode == 0, done.stderr

    def test_a_run_is_tethered_and_ends_with_the_process_that_asked_for_it(self, mlproj):
        process = mlproj.start("run", mlproj.project("echo up; sleep 60"))
        process.stdout.readline()
        process.kill()
        process.wait()
        until(lambda: mlproj.runs()[0]["status"] == "KILLED")
        assert mlproj.runs()[0]["reason"]["code"] == "lost"

    def test_a_detached_run_outlives_it(self, mlproj, tmp_path):
        process = mlproj.start(
            "run", "--detach", mlproj.project(f"echo up; until [ -e {tmp_path}/go ]; do sleep 0.01; done")
        )
        process.stdout.readline()
        process.kill()
        process.wait()
        (tmp_path / "go").touch()
        assert mlproj("wait", mlproj.runs()[0]["tag"]).returncode == 0


class TestInterrupting:
    TIDY = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("cleaning up"))
print("up", flush=True)
time.sleep(60)
"""

    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"]
    )
    def test_it_cancels_the_run_says_so_and_shows_what_the_project_says_meanwhile(self, mlproj, number, status):
        process = mlproj.start("run", mlproj.project(f"exec {sys.executable} tidy.py", **{"tidy.py": self.TIDY}))
        process.stdout.readline()
        os.killpg(process.pid, number)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == status
        assert out == b"cleaning up\n"
        tag = mlproj.runs()[0]["tag"]
        assert f"[mlproj] {number.name}: cancelling run {tag}\n".encode() in errors
        assert b"[mlproj] KILLED: the run was cancelled" in errors
        assert b"Traceback" not in errors
        assert mlproj.runs()[0]["reason"]["code"] == "cancelled"

    @pytest.mark.parametrize("how", ["--tethered", "--detach"])
    def test_a_second_one_leaves_at_once_and_the_run_ends_all_the_same(self, mlproj, how):
        project = mlproj.project("trap '' TERM; echo up; while true; do sleep 0.05; done")
        process = mlproj.start("run", project, how, "-c", '{"grace": 1.5}')
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        while b"cancelling" not in process.stderr.readline():
            pass
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 1.0
        assert process.returncode == 130
        assert b"leaving while run" in errors
        assert b"Traceback" not in errors
        until(lambda: mlproj.runs()[0]["status"] == "KILLED")

    def test_a_signal_that_a_shell_ignores_for_its_background_jobs_stays_ignored(self, mlproj):
        project = mlproj.project("echo up; sleep 0.3")
        process = mlproj.start("run", project, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0


class TestSubmit:
    def test_it_prints_the_handle_and_nothing_else(self, mlproj):
        done = mlproj("submit", mlproj.project("true"), "--key", "step", "--turn", "1.2")
        assert done.returncode == 0
        assert done.stdout.count("\n") == 1
        handle = json.loads(done.stdout)
        assert (handle["key"], handle["attempt"], handle["ref"]["turn"]) == ("step", 1, [1, 2])
        assert "[mlproj] submitted as attempt" in done.stderr

    def test_the_run_goes_on_by_itself(self, mlproj):
        handle = mlproj.submit("sleep 0.2; echo done")
        assert mlproj("wait", handle).returncode == 0
        assert "done\n" in mlproj("logs", handle).stdout

    def test_a_key_is_submitted_once(self, mlproj):
        project = mlproj.project("true")
        first, second = (mlproj("submit", project, "--key", "k", "--turn", "1") for _ in range(2))
        assert json.loads(first.stdout)["attempt"] == json.loads(second.stdout)["attempt"] == 1

    def test_a_cleared_step_is_started_anew(self, mlproj):
        project = mlproj.project("true")
        mlproj("submit", project, "--key", "k", "--turn", "1")
        again = mlproj("submit", project, "--key", "k", "--turn", "2", "--fresh-after", "1")
        assert json.loads(again.stdout)["attempt"] == 2

    def test_a_superseded_caller_is_told_so(self, mlproj):
        project = mlproj.project("true")
        mlproj("submit", project, "--key", "k", "--turn", "2")
        late = mlproj("submit", project, "--key", "k", "--turn", "1")
        assert late.returncode == 1
        assert late.stdout == ""
        assert "mlproj: error: Attempt" in late.stderr

    @pytest.mark.parametrize("how", [["--tethered"], ["-c", '{"detach": false}']], ids=["option", "setting"])
    def test_it_cannot_be_tethered_to_a_process_that_ends_at_once(self, mlproj, how):
        done = mlproj("submit", mlproj.project("true"), *how)
        assert done.returncode == 2
        assert "use mlproj run" in done.stderr

    def test_handles_go_from_one_command_to_the_next(self, mlproj):
        project = mlproj.project("exit 4")
        with subprocess.Popen(
            ["bash", "-c", f"{PROGRAM} submit {project} | {PROGRAM} wait -"], env=mlproj.environment
        ) as pipe:
            assert pipe.wait(30) == 4
