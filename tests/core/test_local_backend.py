"""The local backend: what a project's process gets, how it is ended, and what is kept of it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.local import LocalBackend
from mlproj_core.backends.local.directory import locate
from mlproj_core.backends.local.keeping import prune
from mlproj_core.backends.local.output import Output, OutputReader


def output_of(run):
    return "".join(run.logs())


def own_lines(run):
    """The project's own lines, without mlproj's."""
    return [line for line in output_of(run).splitlines() if not line.startswith("[mlproj]")]


class TestWhatTheProjectGets:
    def test_no_input_no_descriptors_and_the_documented_variables(self, world):
        world.project_runs("readlink /proc/self/fd/0; ls /proc/self/fd; env")
        run = world.submit(env_vars={"MINE": "a b"})
        assert run.wait()
        lines = own_lines(run)
        assert lines[0] == "/dev/null"
        # The fourth is that of `ls` itself, on the directory it lists.
        assert lines[1:5] == ["0", "1", "2", "3"]
        variables = dict(line.split("=", 1) for line in lines[5:] if "=" in line)
        assert variables["PYTHONUNBUFFERED"] == "1"
        assert variables["MLPROJ_ATTEMPT"] == run.handle.tag
        assert variables["MINE"] == "a b"
        assert "MLFLOW_RUN_ID" not in variables

    def test_it_runs_in_the_project_directory(self, world):
        world.project_runs("pwd")
        run = world.submit()
        run.wait()
        assert own_lines(run) == [str(world.project)]

    def test_a_secret_in_env_vars_reaches_the_project_and_no_file(self, world):
        world.project_runs('test "$TOKEN" = s3cr3t-value')
        run = world.submit(env_vars={"TOKEN": "s3cr3t-value"})
        assert run.wait()
        assert "s3cr3t" not in run.handle.to_json()
        for path in world.state.rglob("*"):
            assert not path.is_file() or b"s3cr3t" not in path.read_bytes(), path

    def test_the_result_is_what_the_project_leaves_at_mlproj_result(self, world):
        world.project_runs("""echo '{"rmse": 0.5, "model": "x"}' > "$MLPROJ_RESULT" """)
        run = world.submit()
        assert run.wait()
        assert run.result().result == {"rmse": 0.5, "model": "x"}
        assert run.result().metrics == {}

    def test_a_result_that_is_no_json_object_is_an_error_that_names_the_file(self, world):
        world.project_runs('echo "[1]" > "$MLPROJ_RESULT"')
        run = world.submit()
        assert run.wait()
        with pytest.raises(mlproj_core.ExecutionException, match=r"not a JSON object: .*result\.json"):
            run.result()

    def test_signals_have_their_default_meaning(self, world):
        world.project_runs("grep SigIgn /proc/self/status; grep SigBlk /proc/self/status")
        run = world.submit()
        run.wait()
        # The C library's own two (32 and 33) stay ignored where make, for one, was started with them ignored.
        assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in own_lines(run)] == [0, 0]


class TestHowItEnds:
    @pytest.mark.parametrize(
        ("command", "exit_code", "number", "words"),
        [
            ("exit 3", 3, None, "exited with code 3"),
            ("no-such-command-here", 127, None, "not found"),
            ("kill -SEGV $$", None, signal.SIGSEGV, "SIGSEGV"),
            ("(kill -SEGV $BASHPID); exit $?", 139, signal.SIGSEGV, "SIGSEGV"),
        ],
    )
    def test_a_failure_has_its_reason(self, world, command, exit_code, number, words):
        world.project_runs(f"echo before; {command}")
        run = world.submit()
        assert not run.wait()
        reason = run.reason
        assert (reason.code, reason.exit_code, reason.signal) == ("project_code", exit_code, number)
        assert words in reason.message
        assert reason.output[0] == "before"

    def test_the_timeout_holds_though_the_asker_is_gone(self, world):
        world.project_is_stubborn()
        asker = world.asker(arguments={"key": "k", "timeout": 1.0})
        handle = world.answer(asker)["handle"]
        run = mlproj_core.attach(handle)
        assert not run.wait(timeout=60)
        assert (run.get_status(), run.reason.code) == ("FAILED", "timeout")
        assert world.survivors() == []

    def test_a_cancel_ends_stubborn_grandchildren_in_sessions_of_their_own(self, world):
        world.project_is_stubborn()
        run = world.submit()
        world.stubborn_project_is_up()
        assert len(world.survivors()) >= 5
        run.cancel()
        assert run.get_status() == "KILLED"
        assert world.survivors() == []

    def test_a_cancel_lets_the_project_clean_up_first(self, world):
        world.project_runs("trap 'echo cleaned; exit 0' TERM; touch up; sleep 100 & wait")
        run = world.submit(backend_config={"grace": 10})
        until((world.project / "up").exists)
        run.cancel()
        assert "cleaned" in own_lines(run)
        assert run.get_status() == "KILLED"

    def test_what_the_project_leaves_behind_is_ended_with_it(self, world):
        world.project_runs("(setsid sleep 1000 &) ; true")
        run = world.submit()
        assert run.wait()
        assert world.survivors() == []
        assert "left-over" in output_of(run)

    def test_a_supervisor_that_does_not_answer_is_ended_by_who_cancels(self, world):
        world.project_is_stubborn()
        world.backend_config = {"grace": 0}
        run = world.submit()
        world.stubborn_project_is_up()
        os.kill(world.supervisor(run.handle), signal.SIGSTOP)
        run.cancel()
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")
        assert world.survivors() == []

    def test_the_end_of_a_tethered_asker_s_thread_is_not_its_end(self, world):
        world.project_runs("sleep 0.5")
        code = (
            "import threading, mlproj_core, sys, json\n"
            "runs = []\n"
            "def ask(): runs.append(mlproj_core.submit(**json.loads(sys.argv[1])))\n"
            "thread = threading.Thread(target=ask); thread.start(); thread.join()\n"
            "print(runs[0].wait())\n"
        )
        arguments = json.dumps(world.arguments(backend_config={"detach": False}))
        done = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True, timeout=60)
        assert done.stdout == "True\n", done

    def test_a_tether_is_not_kept_by_a_fork_of_the_asker_that_lives_on(self, world):
        world.project_runs("sleep 100")
        code = (
            "import mlproj_core, sys, json, os, time\n"
            "run = mlproj_core.submit(**json.loads(sys.argv[1]))\n"
            "print(run.handle.to_json(), flush=True)\n"
            "if os.fork() == 0:\n"
            "    os.close(1); os.close(2); time.sleep(20)\n"
            "os._exit(0)\n"
        )
        arguments = json.dumps(world.arguments(backend_config={"detach": False, "grace": 0.5}))
        done = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True, timeout=60)
        run = mlproj_core.attach(done.stdout)
        assert not run.wait(timeout=10)
        assert (run.get_status(), run.reason.code) == ("KILLED", "lost")

    def test_one_key_in_two_state_directories_of_a_host_names_two_runs(self, world, monkeypatch):
        world.project_runs("sleep 100")
        mine = world.submit(key="k")
        monkeypatch.setenv("MLPROJ_STATE_DIR", str(world.state / "other"))
        theirs = world.submit(key="k")
        until(lambda: world.starts() == 2)
        world.kill_supervisor(mine.handle)
        mine.wait()
        assert mine.reason.code == "lost"
        assert theirs.get_status() == "RUNNING"
        theirs.cancel()


class TestFromElsewhere:
    def test_another_host_s_run_is_out_of_contact_never_lost_or_finished(self, world):
        run = world.submit(key="k")
        run.wait()
        elsewhere = replace(run.handle, ref={**run.handle.ref, "host": "another"})
        stranger = mlproj_core.attach(elsewhere)
        for ask in (stranger.get_status, stranger.wait, stranger.cancel, lambda: list(stranger.logs())):
            with pytest.raises(mlproj_core.ContactLost, match="another"):
                ask()

    def test_a_state_directory_of_the_same_path_behind_another_mount_is_out_of_contact(self, world):
        run = world.submit(key="k")
        run.wait()
        (world.state / "id").write_text("not the same directory")
        with pytest.raises(mlproj_core.ContactLost, match="mount"):
            run.get_status()

    def test_submit_never_claims_while_a_detached_run_of_another_host_may_live(self, world):
        run = world.submit(key="k", turn=1)
        run.wait()
        elsewhere = replace(run.handle, attempt=7, ref={**run.handle.ref, "host": "another"})
        with pytest.raises(mlproj_core.ContactLost):
            world.submit(key="k", turn=2, handle=elsewhere)
        assert world.starts() == 1

    def test_a_tethered_run_of_another_host_counts_as_killed(self, world):
        run = world.submit(key="k", turn=1, backend_config={"detach": False})
        run.wait()
        ref = {**run.handle.ref, "host": "another"}
        elsewhere = replace(run.handle, attempt=7, ref=ref)
        retried = world.submit(key="k", turn=2, handle=elsewhere)
        assert retried.wait()
        assert retried.handle.attempt == 8

    def test_another_host_s_later_turn_supersedes_too(self, world):
        run = world.submit(key="k", turn=3, backend_config={"detach": False})
        run.wait()
        elsewhere = replace(run.handle, attempt=7, ref={**run.handle.ref, "host": "another"})
        with pytest.raises(mlproj_core.Superseded):
            world.submit(key="k", turn=2, handle=elsewhere)


class TestOutput:
    def test_a_follower_sees_everything_once_and_as_it_comes(self, world):
        world.project_runs("for i in 1 2 3; do echo line $i; sleep 0.2; done")
        run = world.submit()
        seen = []
        for piece in run.logs(follow=True):
            seen.append((piece, run.get_status()))
        assert any("line 1" in piece and status == "RUNNING" for piece, status in seen)
        assert "".join(piece for piece, _ in seen) == output_of(run)

    def test_reading_on_from_a_cursor_loses_and_repeats_nothing(self, world):
        world.project_runs("seq 1 20000; printf 'ä€😀%.0s' $(seq 1 2000)")
        run = world.submit()
        run.wait()
        whole, text, cursor = output_of(run), "", 0
        while True:
            piece = next(run.read_logs(cursor=cursor), None)
            if piece is None:
                break
            text += piece[0]
            cursor = piece[1]
        assert text == whole

    def test_progress_bars_and_invalid_utf8_do_no_harm(self, world):
        world.project_runs(r"printf '10%%\r50%%\r100%%\n\xff\xfe broken\n'; exit 1")
        run = world.submit()
        run.wait()
        assert run.reason.output == ("100%", "\ufffd\ufffd broken")

    def test_long_output_keeps_its_head_and_its_end_and_says_what_was_dropped(self, world, monkeypatch):
        monkeypatch.setenv("MLPROJ_LOG_LIMIT", "65536")
        world.project_runs("echo the first; seq 1 100000; echo the last")
        run = world.submit()
        run.wait()
        text = output_of(run)
        assert "the first" in text
        assert "the last" in text
        assert "bytes of output were dropped here" in text
        assert len(text) < 3 * 65536

    def test_segments_add_up_to_what_was_written(self, tmp_path):
        output, reader = Output(str(tmp_path / "o"), 8 * 4096), OutputReader(str(tmp_path / "o"))
        written, read = b"", b""
        for number in range(200):
            data = bytes([65 + number % 26]) * 100
            output.write(data)
            written += data
            read += reader.read()
        assert read == written

    def test_the_first_and_last_lines_say_what_on_call_needs(self, world):
        world.project_runs("exit 9")
        run = world.submit(key="nightly/train")
        run.wait()
        lines = [line for line in output_of(run).splitlines() if line.startswith("[mlproj]")]
        head, tail = "\n".join(lines[:5]), "\n".join(lines[-2:])
        for word in (run.handle.tag, "nightly/train", run.run_id, str(world.project), "main"):
            assert word in head
        assert "FAILED: the entry point exited with code 9 (project_code" in tail
        assert f"mlproj logs {run.handle.tag}" in tail

    def test_output_on_a_full_disk_does_not_end_the_run(self, tmp_path):
        output = Output(str(tmp_path / "o"), 8 * 4096)
        os.close(output.file)
        output.file = os.open("/dev/full", os.O_WRONLY)
        output.write(b"lost\n")
        assert output.last_lines() == ["lost"]


class TestHouseKeeping:
    def test_a_living_run_is_not_pruned(self, world):
        world.project_runs("sleep 100")
        run = world.submit()
        until(world.starts)
        assert not prune(LocalBackend(), run.handle)
        run.cancel()
        assert prune(LocalBackend(), run.handle)
        assert not locate(run.handle).exists()

    def test_the_supervisor_is_small_while_the_project_runs(self, world):
        world.project_runs("sleep 100")
        run = world.submit()
        until(world.starts)
        status = Path(f"/proc/{world.supervisor(run.handle)}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        run.cancel()
        assert resident < 15 * 1024

    def test_runs_that_are_over_leave_no_zombie_in_a_long_lived_asker(self, world):
        for _ in range(3):
            world.submit().wait()
        time.sleep(0.1)
        world.submit().wait()
        zombies = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else ["", "0"]
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                zombies.append(entry.name)
        assert len(zombies) <= 1


class TestInAnEventLoop:
    def test_many_runs_are_waited_for_in_one_thread(self, world):
        import asyncio
        import threading

        gate = world.directory / "gate"
        world.project_runs(f"until test -e {gate}; do sleep 0.02; done")
        runs = [world.submit() for _ in range(10)]
        before = set(threading.enumerate())

        async def wait_for_all():
            waits = asyncio.gather(*(run.wait_async() for run in runs))
            await asyncio.sleep(0.1)
            threads = set(threading.enumerate()) - before
            gate.touch()
            return threads, await waits

        threads, finished = asyncio.run(wait_for_all())
        assert threads == set()
        assert finished == [True] * 10

    def test_a_wait_with_a_timeout_returns_and_leaves_the_run_alone(self, world):
        import asyncio

        world.project_runs("sleep 100")
        run = world.submit()
        assert asyncio.run(run.wait_async(timeout=0.1)) is False
        assert not run.wait(timeout=0.1)
        assert run.get_status() == "RUNNING"
        asyncio.run(run.cancel_async())
        assert asyncio.run(run.get_status_async()) == "KILLED"
