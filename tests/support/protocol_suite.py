"""The suite that every backend has to pass: exactly one run for a key, whoever asks, dies or cancels.

A backend's test module makes a class of it and says where its world is:

    class TestLocalProtocol(ProtocolSuite):
        @pytest.fixture
        def world(self, tmp_path, monkeypatch): return LocalWorld(...)
"""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mlproj_core
from mlproj_core import protocol
from mlproj_core.backends import load_backend

ASKER = Path(__file__).with_name("asker.py")
INSTANTS = ("before the claim", "after the claim", "after the record", "after the start")


def until(condition, seconds=60.0, interval=0.005):
    """Wait for something that another process brings about; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(interval)
    return value


class World:
    """Where a project runs, how often it was started, and what is left of it."""

    backend = "local"
    backend_config = {}
    patience = 60.0
    """Seconds that twenty askers at once may take: each of them imports what its backend needs."""

    def __init__(self, directory):
        self.directory = directory
        self.key = str(directory)  # keys are known wherever a tracking server is shared
        self.project = directory / "project"
        self.project.mkdir()
        self.starts_file = directory / "starts"
        self.processes = []
        self.project_runs("true")

    def project_runs(self, command):
        """What the project does from now on, after it has left a mark that it started."""
        (self.project / "main.sh").write_text(f"echo $$ >> {self.starts_file}\n{command}\n")
        (self.project / "MLproject").write_text("name: steps\nentry_points:\n  main:\n    command: bash main.sh\n")

    def starts(self):
        """How often the project's process was started."""
        return len(self.starts_file.read_text().split()) if self.starts_file.exists() else 0

    def arguments(self, **more):
        return {
            "uri": str(self.project),
            "env_manager": "local",
            "backend": self.backend,
            "backend_config": self.backend_config,
            **more,
        }

    def submit(self, **more):
        """Submit in this process."""
        return mlproj_core.submit(**self.arguments(**more))

    def asker(self, call="submit", **order):
        """Submit in a process of its own."""
        arguments = self.arguments(**order.pop("arguments", {}))
        process = subprocess.Popen(
            [sys.executable, str(ASKER), json.dumps({"call": call, "arguments": arguments, **order})],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def paused_asker(self, instant, **order):
        """An asker that stands still at this instant; and how to let it go on."""
        marker, gate = (self.directory / f"{name}-{len(self.processes)}" for name in ("marker", "gate"))
        process = self.asker(pause=instant, marker=str(marker), gate=str(gate), **order)
        until(lambda: marker.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process, gate.touch

    def answer(self, process):
        """What an asker printed."""
        output, _ = process.communicate(timeout=self.patience)
        assert output, f"the asker died with {process.returncode}"
        return json.loads(output.splitlines()[-1])

    def survivors(self):
        """Pids that carry the mark of any of this world's runs, or whose command names its directory."""
        return []

    def forget(self, handle):
        """Delete all that the backend has of an attempt, as time or a house-keeper would."""
        raise AssertionError("a world says how its backend forgets")

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


class ProtocolSuite:
    """The protocol of keys, attempts and turns."""

    # -- the table of `submit`, line by line

    def test_a_new_key_claims_its_first_attempt(self, world):
        run = world.submit(key="k")
        assert run.wait()
        assert run.handle.attempt == 1
        assert world.starts() == 1

    def test_a_finished_run_is_returned_to_whoever_asks_again(self, world):
        first = world.submit(key="k", turn=1)
        first.wait()
        again = world.submit(key="k", turn=2)
        assert again.handle == first.handle
        assert again.get_status() == "FINISHED"
        assert world.starts() == 1

    def test_a_living_run_is_attached_to(self, world):
        world.project_runs("sleep 60")
        first = world.submit(key="k", turn=1)
        until(world.starts)
        answer = world.answer(world.asker(arguments={"key": "k", "turn": 2}))
        assert answer["handle"] == first.handle.to_dict()
        assert world.starts() == 1
        first.cancel()

    def test_a_failed_run_is_returned_at_the_same_turn(self, world):
        world.project_runs("exit 3")
        first = world.submit(key="k", turn=1)
        first.wait()
        again = world.submit(key="k", turn=1)
        assert again.handle == first.handle
        assert again.get_status() == "FAILED"
        assert again.reason.code == "project_code"
        assert world.starts() == 1

    def test_a_failed_run_is_followed_by_a_new_attempt_at_a_later_turn(self, world):
        world.project_runs("exit 3")
        first = world.submit(key="k", turn=1)
        first.wait()
        world.project_runs("exit 0")
        second = world.submit(key="k", turn=2)
        assert second.wait()
        assert (first.handle.attempt, second.handle.attempt) == (1, 2)
        assert first.get_status() == "FAILED"
        assert world.starts() == 2

    def test_turns_of_several_numbers_are_compared_in_order(self, world):
        world.project_runs("exit 3")
        world.submit(key="k", turn=[1, 2]).wait()
        second = world.submit(key="k", turn=[2, 1])
        second.wait()
        assert second.handle.attempt == 2
        with pytest.raises(mlproj_core.Superseded):
            world.submit(key="k", turn=[1, 9])

    def test_a_late_zombie_touches_nothing(self, world):
        world.project_runs("sleep 60")
        living = world.submit(key="k", turn=5)
        with pytest.raises(mlproj_core.Superseded, match="turn 5"):
            world.submit(key="k", turn=4)
        assert living.get_status() == "RUNNING"
        living.cancel()
        assert living.handle.attempt == load_backend(world.backend).find("k").attempt

    def test_clearing_a_finished_step_runs_it_again(self, world):
        first = world.submit(key="k", turn=1)
        first.wait()
        second = world.submit(key="k", turn=2, fresh_after=1)
        assert second.wait()
        assert second.handle.attempt == 2
        assert world.starts() == 2

    def test_clearing_a_living_step_ends_it_first(self, world):
        world.project_runs("sleep 60")
        first = world.submit(key="k", turn=1)
        until(world.starts)
        world.project_runs("true")
        second = world.submit(key="k", turn=2, fresh_after=1)
        assert first.get_status() == "KILLED"
        assert second.wait()
        assert world.starts() == 2
        assert world.survivors() == []

    def test_what_was_claimed_after_the_clearing_is_not_disowned(self, world):
        world.submit(key="k", turn=2).wait()
        again = world.submit(key="k", turn=2, fresh_after=1)
        assert again.handle.attempt == 1
        assert world.starts() == 1

    def test_a_cancelled_run_is_waited_for_and_then_counts_as_killed(self, world):
        world.project_runs("trap '' TERM; sleep 60 & wait; sleep 60")
        first = world.submit(key="k", turn=1)
        until(world.starts)
        load_backend(world.backend).mark_cancelled(first.handle)
        world.project_runs("true")
        second = world.submit(key="k", turn=2)
        assert first.get_status() == "KILLED"
        assert second.handle.attempt == 2
        assert second.wait()
        assert world.survivors() == []

    def test_a_different_request_under_a_key_is_attached_with_a_warning(self, world):
        first = world.submit(key="k", parameters={"a": "1"})
        said = []
        again = world.submit(key="k", parameters={"a": "2"}, report=said.append)
        assert again.handle == first.handle
        warning = next(line for line in said if line.startswith("warning"))
        assert "parameters" in warning
        first.wait()
        assert world.starts() == 1

    def test_without_a_key_every_call_is_another_run(self, world):
        first, second = world.submit(), world.submit()
        assert first.wait()
        assert second.wait()
        assert first.handle.key != second.handle.key
        assert world.starts() == 2

    # -- many at once

    @pytest.mark.parametrize(("command", "status"), [("sleep 0.3", "FINISHED"), ("exit 7", "FAILED")])
    def test_twenty_processes_that_submit_one_key_start_one_run(self, world, command, status):
        world.project_runs(command)
        # Each has seen that there is no attempt yet, and is about to claim the first one.
        gate, markers = world.directory / "gate", [world.directory / f"marker-{number}" for number in range(20)]
        askers = [
            world.asker(arguments={"key": "k", "turn": 1}, pause="before the claim", marker=str(marker), gate=str(gate))
            for marker in markers
        ]
        until(lambda: all(marker.exists() for marker in markers), world.patience)
        gate.touch()
        handles = [world.answer(asker)["handle"] for asker in askers]
        assert all(handle == handles[0] for handle in handles)
        run = mlproj_core.attach(handles[0])
        run.wait()
        assert run.get_status() == status
        assert world.starts() == 1

    # -- the submitter dies

    @pytest.mark.parametrize("instant", INSTANTS)
    @pytest.mark.parametrize("turn", [1, 2], ids=["the same turn", "a later turn"])
    def test_a_submitter_killed_at_any_instant_leaves_one_run_to_the_next(self, world, instant, turn):
        asker, _ = world.paused_asker(instant, arguments={"key": "k", "turn": 1})
        asker.send_signal(signal.SIGKILL)
        asker.wait()
        run = world.submit(key="k", turn=turn)
        assert run.wait()
        assert run.handle.attempt == 1
        assert world.starts() == 1

    @pytest.mark.parametrize("instant", INSTANTS[1:3])
    def test_a_second_submitter_waits_for_one_that_is_about_to_start_it(self, world, instant):
        first, go_on = world.paused_asker(instant, arguments={"key": "k", "turn": 1})
        second = world.asker(arguments={"key": "k", "turn": 1})
        time.sleep(0.3)
        assert second.poll() is None
        go_on()
        handle = world.answer(first)["handle"]
        assert world.answer(second)["handle"] == handle
        mlproj_core.attach(handle).wait()
        assert world.starts() == 1

    # -- cancelling

    def test_a_cancel_before_any_attempt_leaves_a_tombstone(self, world):
        protocol.cancel_key(load_backend(world.backend), "k", (1,), print)
        run = world.submit(key="k", turn=1)
        assert run.get_status() == "KILLED"
        assert run.reason.code == "cancelled"
        assert world.starts() == 0

    def test_a_tombstone_does_not_stop_a_later_turn(self, world):
        protocol.cancel_key(load_backend(world.backend), "k", (1,), print)
        run = world.submit(key="k", turn=2)
        assert run.wait()
        assert run.handle.attempt == 2

    def test_a_cancel_between_two_tries_lets_the_second_start_nothing(self, world):
        world.project_runs("exit 1")
        world.submit(key="k", turn=1).wait()
        protocol.cancel_key(load_backend(world.backend), "k", (2,), print)
        run = world.submit(key="k", turn=2)
        assert (run.get_status(), run.handle.attempt) == ("KILLED", 2)
        assert world.starts() == 1

    def test_a_cancel_by_a_later_try_ends_what_lives_and_starts_nothing(self, world):
        world.project_runs("sleep 60")
        first = world.submit(key="k", turn=1)
        until(world.starts)
        protocol.cancel_key(load_backend(world.backend), "k", (2,), print)
        assert first.get_status() == "KILLED"
        assert world.submit(key="k", turn=2).get_status() == "KILLED"
        assert world.starts() == 1
        assert world.survivors() == []

    def test_a_late_cancel_by_an_earlier_try_leaves_a_later_one_alone(self, world):
        world.project_runs("exit 1")
        world.submit(key="k", turn=1).wait()
        world.project_runs("sleep 60")
        second = world.submit(key="k", turn=2)
        with pytest.raises(mlproj_core.Superseded):
            protocol.cancel_key(load_backend(world.backend), "k", (1,), print)
        assert second.get_status() == "RUNNING"
        second.cancel()

    @pytest.mark.parametrize("instant", INSTANTS[1:3])
    def test_a_cancel_while_it_is_being_submitted_starts_nothing(self, world, instant):
        asker, go_on = world.paused_asker(instant, arguments={"key": "k", "turn": 1})
        backend = load_backend(world.backend)
        backend.mark_cancelled(backend.find("k"))
        go_on()
        run = mlproj_core.attach(world.answer(asker)["handle"])
        run.wait()
        assert run.get_status() == "KILLED"
        assert world.starts() == 0

    @pytest.mark.parametrize("instant", INSTANTS[1:3])
    def test_a_cancel_after_the_submitter_died_starts_nothing(self, world, instant):
        asker, _ = world.paused_asker(instant, arguments={"key": "k", "turn": 1})
        asker.kill()
        asker.wait()
        handle = protocol.cancel_key(load_backend(world.backend), "k", (1,), print)
        assert mlproj_core.attach(handle).get_status() == "KILLED"
        assert world.submit(key="k", turn=1).get_status() == "KILLED"
        assert world.starts() == 0

    def test_a_cancel_right_after_the_start_ends_it(self, world):
        world.project_runs("sleep 60")
        run = world.submit(key="k")
        run.cancel()
        assert run.get_status() == "KILLED"
        assert run.reason.code == "cancelled"
        assert world.survivors() == []

    def test_a_cancel_of_a_run_that_is_over_changes_nothing(self, world):
        run = world.submit(key="k")
        run.wait()
        run.cancel()
        assert run.get_status() == "FINISHED"

    def test_a_cancel_from_another_process_ends_it(self, world):
        world.project_runs("sleep 60")
        run = world.submit(key="k")
        until(world.starts)
        code = "import sys, mlproj_core; mlproj_core.attach(sys.argv[1]).cancel()"
        subprocess.run([sys.executable, "-c", code, run.handle.to_json()], check=True, timeout=60)
        assert run.get_status() == "KILLED"
        assert world.survivors() == []

    # -- what is found later

    def test_a_handle_finds_its_run_in_another_process(self, world):
        run = world.submit(key="k")
        code = "import sys, mlproj_core; r = mlproj_core.attach(sys.argv[1]); r.wait(); print(r.get_status(), r.run_id)"
        done = subprocess.run(
            [sys.executable, "-c", code, run.handle.to_json()], check=True, timeout=60, capture_output=True, text=True
        )
        assert done.stdout.split() == ["FINISHED", run.run_id]

    def test_the_stored_handle_counts_when_it_is_newer_than_what_is_found(self, world):
        world.project_runs("exit 1")
        world.submit(key="k", turn=1).wait()
        second = world.submit(key="k", turn=2)
        second.wait()
        world.forget(second.handle)
        third = world.submit(key="k", turn=3, handle=second.handle)
        third.wait()
        assert third.handle.attempt == 3

    def test_an_untracked_run_of_which_nothing_is_left_is_forgotten_never_finished(self, world):
        run = world.submit(key="k")
        assert run.wait()
        world.forget(run.handle)
        assert run.get_status() == "FAILED"
        assert run.reason.code == "forgotten"

    # -- its output

    def test_what_is_followed_in_an_event_loop_is_what_is_followed_in_a_thread(self, world):
        async def follow(run):
            return [piece async for piece in run.read_logs_async(follow=True)]

        world.project_runs("for i in 1 2 3; do printf 'line %s: ä€😀\\n' $i; sleep 0.1; done; exit 3")
        run = world.submit(key="k")
        pieces, again = asyncio.run(follow(run)), list(run.read_logs(follow=True))
        text = "".join(text for text, _ in pieces)
        assert [line for line in text.splitlines() if line.startswith("line")] == [
            f"line {number}: ä€😀" for number in (1, 2, 3)
        ]
        assert text == "".join(text for text, _ in again)
        assert pieces[-1][1] == again[-1][1]
