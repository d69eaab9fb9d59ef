"""The commands that find a run again, from any process: status, logs, wait, cancel, runs list, runs prune."""

import json
import os
import signal
import time

import pytest
from cli_world import CommandLine
from protocol_suite import until

from mlproj_core import RunHandle


@pytest.fixture
def mlproj(tmp_path):
    line = CommandLine(tmp_path)
    yield line
    line.close()


class TestWhichRunIsMeant:
    @pytest.fixture
    def handle(self, mlproj):
        return RunHandle.from_json(mlproj.submit("true", "--key", "pipeline/step 1", "--turn", "1"))

    @pytest.mark.parametrize(
        "name",
        [
            lambda handle: handle.to_json(),
            lambda handle: handle.tag,
            lambda handle: handle.name,
            lambda handle: handle.tag[:8],
            lambda handle: f"{handle.tag[:8]}-1",
            lambda handle: handle.key,
            lambda handle: handle.run_id,
        ],
        ids=["handle", "attempt's tag", "attempt's name", "beginning", "beginning with n", "key", "MLflow run id"],
    )
    def test_a_run_has_many_names(self, mlproj, handle, name):
        assert mlproj.status(name(handle))["handle"] == handle.to_dict()

    def test_a_handle_is_read_from_standard_input(self, mlproj, handle):
        assert json.loads(mlproj("status", "-", "--json", input=handle.to_json()).stdout)["tag"] == handle.tag

    def test_a_handle_is_read_from_a_file(self, mlproj, handle, tmp_path):
        (tmp_path / "handle.json").write_text(handle.to_json())
        assert mlproj.status(f"@{tmp_path}/handle.json")["tag"] == handle.tag

    def test_a_key_means_its_newest_attempt(self, mlproj, handle):
        mlproj("submit", mlproj.project("true"), "--key", handle.key, "--turn", "2", "--fresh-after", "1")
        assert mlproj.status(handle.key)["attempt"] == 2
        assert mlproj.status(handle.tag[:8])["attempt"] == 2
        assert mlproj.status(f"{handle.tag[:8]}-1")["attempt"] == 1

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no such run", "No run on this host matches 'no such run'; `mlproj runs list` shows those in"),
            ("", "No run on this host matches ''"),
            ("{}", "Not a run handle"),
            ("{nonsense", "the text is not JSON"),
            ("@missing.json", "Cannot read a run handle from 'missing.json'"),
        ],
        ids=["unknown", "empty", "no handle", "no JSON", "no file"],
    )
    @pytest.mark.parametrize("command", ["status", "logs", "wait", "cancel"])
    def test_what_means_no_run_is_a_users_mistake(self, mlproj, command, name, message):
        done = mlproj(command, name)
        assert done.returncode == 2
        assert done.stderr.startswith("mlproj: error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr

    def test_what_could_mean_several_runs_names_them(self, mlproj):
        by_digit = {}
        while not (same := [tags for tags in by_digit.values() if len(tags) > 1]):
            tag = RunHandle.from_json(mlproj.submit("true")).tag
            by_digit.setdefault(tag[0], []).append(tag)
        same = same[0]
        done = mlproj("status", same[0][0])
        assert done.returncode == 2
        assert "could mean several runs" in done.stderr
        assert all(tag[:12] in done.stderr for tag in same)

    def test_a_run_of_another_host_is_out_of_reach_not_lost(self, mlproj, handle):
        elsewhere = {**handle.to_dict(), "ref": {**handle.ref, "host": "elsewhere"}}
        done = mlproj("status", json.dumps(elsewhere))
        assert done.returncode == 1
        assert "mlproj: error: The local run" in done.stderr
        assert "elsewhere" in done.stderr


class TestStatus:
    def test_a_living_run_is_running_in_a_phase(self, mlproj):
        handle = mlproj.submit("sleep 60")
        until(lambda: mlproj.status(handle)["phase"] == "running")
        done = mlproj("status", handle)
        assert done.returncode == 0
        assert "RUNNING (running)" in done.stdout
        assert mlproj.status(handle)["reason"] is None

    def test_a_failed_run_has_a_reason_and_telling_of_it_is_no_failure(self, mlproj):
        handle = mlproj.submit("exit 3")
        mlproj("wait", handle)
        done = mlproj("status", handle)
        assert done.returncode == 0
        assert "the entry point exited with code 3 (project_code)" in done.stdout
        assert mlproj.status(handle)["reason"]["exit_code"] == 3


class TestLogs:
    def test_they_are_the_whole_log_byte_for_byte(self, mlproj):
        handle = mlproj.submit("printf '50%%\\r100%%\\n\\xff\\n'")
        mlproj("wait", handle)
        out, _ = mlproj.start("logs", handle).communicate(timeout=30)
        assert out.startswith(b"[mlproj] attempt ")
        assert b"50%\r100%\n\xff\n" in out
        assert b"[mlproj] FINISHED" in out.splitlines()[-1]

    def test_they_end_at_what_there_is(self, mlproj):
        handle = mlproj.submit("echo up; sleep 60")
        until(lambda: "up\n" in mlproj("logs", handle).stdout)
        assert mlproj.status(handle)["status"] == "RUNNING"

    def test_following_shows_them_as_they_come_until_the_end(self, mlproj, tmp_path):
        handle = mlproj.submit(f"echo one; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo two")
        follower = mlproj.start("logs", "-f", handle)
        while follower.stdout.readline() != b"one\n":
            pass
        assert follower.poll() is None
        (tmp_path / "go").touch()
        assert follower.stdout.readline() == b"two\n"
        assert follower.wait(30) == 0

    def test_ctrl_c_ends_the_following_not_the_run(self, mlproj, tmp_path):
        handle = mlproj.submit(f"echo one; until [ -e {tmp_path}/go ]; do sleep 0.01; done")
        follower = mlproj.start("logs", "-f", handle)
        while follower.stdout.readline() != b"one\n":
            pass
        os.killpg(follower.pid, signal.SIGINT)
        assert follower.wait(30) == 130
        assert b"Traceback" not in follower.stderr.read()
        (tmp_path / "go").touch()
        assert mlproj("wait", handle).returncode == 0

    @pytest.mark.parametrize(("count", "begins"), [(3, "8\n9\n[mlproj] FINISHED"), (0, ""), (1, "[mlproj] FINISHED")])
    def test_the_last_lines_can_be_had_alone(self, mlproj, count, begins):
        handle = mlproj.submit("seq 9")
        mlproj("wait", handle)
        out = mlproj("logs", "-n", str(count), handle).stdout
        assert out.startswith(begins)
        assert out.count("\n") == count

    def test_following_goes_on_after_the_last_lines(self, mlproj, tmp_path):
        handle = mlproj.submit(f"seq 9; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo ten")
        until(lambda: "9\n" in mlproj("logs", handle).stdout)
        follower = mlproj.start("logs", "-f", "-n", "2", handle)
        assert [follower.stdout.readline() for _ in range(2)] == [b"8\n", b"9\n"]
        (tmp_path / "go").touch()
        assert follower.stdout.readline() == b"ten\n"

    def test_who_reads_no_further_ends_the_command_quietly(self, mlproj):
        handle = mlproj.submit("seq 200000")
        mlproj("wait", handle)
        reader = mlproj.start("logs", handle)
        reader.stdout.readline()
        reader.stdout.close()
        assert reader.wait(30) == 141
        assert reader.stderr.read() == b""


class TestWait:
    @pytest.mark.parametrize(("command", "status"), [("true", 0), ("exit 7", 7), ("exit 2", 1)])
    def test_it_exits_as_the_run_did(self, mlproj, command, status):
        assert mlproj("wait", mlproj.submit(f"sleep 0.1; {command}")).returncode == status

    def test_it_tells_of_a_failure_with_the_last_lines_of_the_output(self, mlproj):
        done = mlproj("wait", mlproj.submit("echo the cause; exit 7"))
        assert "the entry point exited with code 7" in done.stderr
        assert "the cause" in done.stderr
        assert done.stdout == ""

    def test_a_time_that_has_passed_is_told_apart_from_a_failure(self, mlproj):
        handle = mlproj.submit("sleep 60")
        done = mlproj("wait", handle, "--timeout", "0.2s")
        assert done.returncode == 124
        assert "is not over after 0.2 s" in done.stderr
        assert mlproj.status(handle)["status"] == "RUNNING"

    def test_ctrl_c_ends_the_waiting_not_the_run(self, mlproj, tmp_path):
        handle = mlproj.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done")
        waiter = mlproj.start("wait", "@" + str(self.file(tmp_path, handle)))
        time.sleep(0.5)
        os.killpg(waiter.pid, signal.SIGINT)
        assert waiter.wait(30) == 130
        assert waiter.stderr.read() == b""
        (tmp_path / "go").touch()
        assert mlproj("wait", handle).returncode == 0

    def file(self, directory, text):
        (directory / "handle.json").write_text(text)
        return directory / "handle.json"

    def test_json_has_what_the_run_left(self, mlproj):
        done = mlproj("wait", "--json", mlproj.submit("""echo '{"rows": 3}' > $MLPROJ_RESULT"""))
        assert json.loads(done.stdout)["result"] == {"rows": 3}


class TestCancel:
    def test_it_ends_a_run_that_another_process_submitted(self, mlproj):
        handle = mlproj.submit("echo up; sleep 60")
        until(lambda: "up\n" in mlproj("logs", handle).stdout)
        done = mlproj("cancel", handle)
        assert done.returncode == 0
        assert "is KILLED: the run was cancelled" in done.stderr
        assert mlproj.status(handle)["reason"]["code"] == "cancelled"

    def test_a_run_that_is_over_stays_as_it_is(self, mlproj):
        handle = mlproj.submit("true")
        mlproj("wait", handle)
        done = mlproj("cancel", handle)
        assert done.returncode == 0
        assert "is FINISHED" in done.stderr

    def test_a_key_without_an_attempt_will_not_start_one(self, mlproj, tmp_path):
        assert mlproj("cancel", "--key", "step", "--turn", "1").returncode == 0
        handle = mlproj.submit(f"touch {tmp_path}/ran", "--key", "step", "--turn", "1")
        assert mlproj.status(handle)["status"] == "KILLED"
        assert not (tmp_path / "ran").exists()
        handle = mlproj.submit("true", "--key", "step", "--turn", "2")
        assert mlproj("wait", handle).returncode == 0

    @pytest.mark.parametrize("arguments", [(), ("x", "--key", "k"), ("x", "--turn", "1")], ids=" ".join)
    def test_it_takes_a_run_or_a_key(self, mlproj, arguments):
        assert mlproj("cancel", *arguments).returncode == 2


class TestRunsList:
    def test_it_shows_the_newest_first_with_what_became_of_each(self, mlproj):
        first = mlproj.submit("exit 3")
        mlproj("wait", first)
        second = mlproj.submit("sleep 60")
        until(lambda: mlproj.status(second)["phase"] == "running")
        header, *rows = mlproj("runs", "list").stdout.splitlines()
        assert header.split() == ["RUN", "STATUS", "PHASE/REASON", "ENTRY", "POINT", "PROJECT", "AGE", "TOOK"]
        assert [row.split()[:5] for row in rows] == [
            [short(second), "RUNNING", "running", "main", "example"],
            [short(first), "FAILED", "project_code", "main", "example"],
        ]

    def test_a_tag_as_it_is_listed_is_enough_for_other_commands(self, mlproj):
        mlproj.submit("true")
        listed = mlproj("runs", "list").stdout.splitlines()[1].split()[0]
        assert mlproj.status(listed)["tag"].startswith(listed.partition("-")[0])

    def test_json_has_all_and_a_key_picks_its_attempts(self, mlproj):
        mlproj("wait", mlproj.submit("true", "--key", "k", "--turn", "1"))
        mlproj("wait", mlproj.submit("true", "--key", "k", "--turn", "2", "--fresh-after", "1"))
        mlproj("wait", mlproj.submit("true", "--key", "other"))
        runs = json.loads(mlproj("runs", "list", "--json", "--key", "k").stdout)
        assert [(run["key"], run["attempt"], run["status"]) for run in runs] == [
            ("k", 2, "FINISHED"),
            ("k", 1, "FINISHED"),
        ]
        assert len(mlproj.runs()) == 3

    def test_a_run_whose_supervisor_was_killed_is_listed_as_failed(self, mlproj):
        handle = RunHandle.from_json(mlproj.submit("sleep 60"))
        supervisor = mlproj.state / "runs" / handle.tag.replace("-", "/") / "supervisor.json"
        until(lambda: mlproj.status(handle.tag)["phase"] == "running")
        os.kill(json.loads(supervisor.read_text())["pid"], signal.SIGKILL)
        until(lambda: mlproj.runs()[0]["status"] == "FAILED")
        assert mlproj.runs()[0]["reason"]["code"] == "lost"

    def test_no_runs_are_no_error(self, mlproj):
        done = mlproj("runs", "list")
        assert done.returncode == 0
        assert "there are no runs" in done.stderr
        assert mlproj.runs() == []


class TestRunsPrune:
    def test_it_deletes_what_ended_long_ago_and_nothing_else(self, mlproj):
        over, living = mlproj.submit("true"), mlproj.submit("sleep 60")
        mlproj("wait", over)
        assert "deleted 0 runs" in mlproj("runs", "prune", "--older-than", "1h").stderr
        assert "deleted 1 run\n" in mlproj("runs", "prune", "--older-than", "0").stderr
        assert mlproj.status(living)["status"] == "RUNNING"
        assert mlproj("logs", over).returncode == 2
        # Nobody else knows how it ended, so that stays.
        assert mlproj.status(over)["status"] == "FINISHED"
        assert "deleted 0 runs" in mlproj("runs", "prune", "--older-than", "0").stderr

    def test_a_dry_run_says_what_it_would_delete(self, mlproj):
        handle = mlproj.submit("true")
        mlproj("wait", handle)
        done = mlproj("runs", "prune", "--older-than", "0s", "--dry-run")
        assert f"would remove {RunHandle.from_json(handle).tag}\n" in done.stderr
        assert "would delete 1 run\n" in done.stderr
        assert len(mlproj.runs()) == 1

    def test_a_run_whose_end_the_tracking_server_has_not_heard_of_stays(self, mlproj):
        handle = RunHandle.from_json(mlproj.submit("true"))
        mlproj("wait", handle.tag)
        directory = mlproj.state / "runs" / handle.tag.replace("-", "/")
        record = json.loads((directory / "record.json").read_text())
        (directory / "record.json").write_text(
            json.dumps({**record, "tracked": True, "tracking_uri": "http://127.0.0.1:9", "experiment_id": "0"})
        )
        (directory / "settled").unlink(missing_ok=True)
        done = mlproj("runs", "prune", "--older-than", "0")
        assert "deleted 0 runs" in done.stderr
        assert "its tracking server has not heard of its end yet" in done.stderr
        assert directory.exists()

    def test_a_pruned_runs_log_is_told_to_be_gone(self, mlproj):
        handle = mlproj.submit("true")
        mlproj("wait", handle)
        mlproj("runs", "prune", "--older-than", "0")
        for arguments in (["logs", handle], ["logs", "-f", handle]):
            done = mlproj(*arguments)
            assert done.returncode == 2
            assert "Nothing is left" in done.stderr


def short(handle):
    tag = RunHandle.from_json(handle).tag
    return f"{tag[:12]}-{tag.partition('-')[2]}"
