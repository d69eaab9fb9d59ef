"""`max_runs` and MLPROJ_MAX_RUNS: limits on the runs that are at work on this host, kept by locks that die with their
holders."""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.local import LocalBackend, inotify
from mlproj_core.backends.local.directory import locate
from mlproj_core.backends.local.slots import Slots


def config(limit=1, **more):
    return {"grace": 0.5, "max_runs": limit, **more}


def output_of(run):
    return "".join(run.logs())


def is_queued(run):
    return run.phase == "queued" and "waiting: " in output_of(run)


def status_of(pid):
    """The kernel's words on a process, by name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def work_of(pid):
    """What a process has done so far: how often it went to sleep, and its CPU time in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return status_of(pid)["voluntary_ctxt_switches"], fields[11], fields[12]


@pytest.fixture
def gate(world):
    """What projects wait at until it is touched."""
    gate = world.directory / "gate"
    world.project_runs(f"until test -e {gate}; do sleep 0.02; done")
    return gate


@pytest.fixture
def working(world, gate):
    """A run that is at work and has the only slot."""
    run = world.submit(backend_config=config())
    until(world.starts)
    return run


class TestTheLimit:
    def test_three_runs_of_which_one_may_be_at_work_never_overlap(self, world):
        stamps = world.directory / "stamps"
        world.project_runs(f"echo begun >> {stamps}; sleep 0.2; echo ended >> {stamps}")
        runs = [world.submit(backend_config=config()) for _ in range(3)]
        assert [run.wait() for run in runs] == [True] * 3
        assert stamps.read_text().split() == ["begun", "ended"] * 3

    def test_of_four_runs_two_may_be_at_work(self, world, gate):
        runs = [world.submit(backend_config=config(2)) for _ in range(4)]
        until(lambda: world.starts() == 2)
        until(lambda: sum(map(is_queued, runs)) == 2)
        time.sleep(0.3)
        assert world.starts() == 2
        gate.touch()
        assert [run.wait() for run in runs] == [True] * 4
        assert world.starts() == 4

    def test_the_output_says_that_it_waits_for_how_many_and_when_it_goes_on(self, world, gate):
        runs = [world.submit(backend_config=config(2)) for _ in range(2)]
        until(lambda: world.starts() == 2)
        waiting = world.submit(backend_config=config(2))
        until(lambda: is_queued(waiting))
        assert "[mlproj] waiting: 2 runs are at work on this host, its limit (max_runs)\n" in output_of(waiting)
        time.sleep(0.5)
        gate.touch()
        for run in (*runs, waiting):
            assert run.wait()
        assert "s; another run has ended, and this one goes on\n" in output_of(waiting)
        assert LocalBackend().look(waiting.handle).outcome.phases["queued"] >= 0.5

    def test_who_does_not_wait_says_nothing_of_it(self, world):
        run = world.submit(backend_config=config())
        assert run.wait()
        assert not any(word in output_of(run) for word in ("waiting: ", "waited "))

    def test_runs_without_a_limit_neither_wait_nor_count(self, world, working, gate):
        free = world.submit()
        until(lambda: world.starts() == 2)
        gate.touch()
        assert free.wait()
        assert working.wait()
        gate.unlink()
        free = world.submit()
        until(lambda: world.starts() == 3)
        limited = world.submit(backend_config=config())
        until(lambda: world.starts() == 4)
        gate.touch()
        assert limited.wait()
        assert free.wait()
        assert not any(word in output_of(limited) for word in ("waiting: ", "waited "))

    def test_it_is_one_for_each_state_directory(self, world, working, gate, monkeypatch):
        monkeypatch.setenv("MLPROJ_STATE_DIR", str(world.state / "other"))
        run = world.submit(backend_config=config())
        until(lambda: world.starts() == 2)
        gate.touch()
        assert run.wait()

    @pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2", None])
    def test_a_limit_that_is_no_number_of_runs_is_refused(self, world, limit):
        with pytest.raises(mlproj_core.UserError, match="whole number, 1 or more"):
            world.submit(backend_config={"max_runs": limit})
        assert LocalBackend().handles() == []

    def test_its_name_is_among_those_that_are_known(self, world):
        with pytest.raises(mlproj_core.UserError, match=r"Did you mean 'max_runs'\?.*detach.*grace.*max_runs"):
            world.submit(backend_config={"maxruns": 1})


class TestAQueuedRun:
    @pytest.fixture
    def waiting(self, world, working):
        """A run that waits for the one that is at work."""
        run = world.submit(backend_config=config())
        until(lambda: is_queued(run))
        return run

    def test_is_running_in_the_phase_queued(self, world, waiting):
        assert (waiting.get_status(), waiting.phase) == ("RUNNING", "queued")
        assert world.starts() == 1

    def test_is_cancelled_at_once_and_never_started(self, world, working, waiting):
        began = time.monotonic()
        waiting.cancel()
        assert time.monotonic() - began < 2
        assert (waiting.get_status(), waiting.reason.code) == ("KILLED", "cancelled")
        assert "KILLED: the run was cancelled" in output_of(waiting)  # its supervisor's own word
        assert working.get_status() == "RUNNING"
        assert world.starts() == 1

    def test_ends_with_the_process_that_asked_for_it(self, world, working):
        world.asker(arguments={"key": "k", "backend_config": config(detach=False)}, linger=True)
        asker = world.processes[-1]
        run = mlproj_core.attach(until(lambda: LocalBackend().find("k")))
        until(lambda: is_queued(run))
        asker.kill()
        assert not run.wait(timeout=10)
        assert (run.get_status(), run.reason.code) == ("KILLED", "lost")
        assert world.starts() == 1

    def test_ends_when_its_supervisor_is_told_to(self, world, waiting):
        os.kill(world.supervisor(waiting.handle), signal.SIGTERM)
        assert not waiting.wait(timeout=10)
        assert (waiting.get_status(), waiting.reason.code) == ("KILLED", "lost")
        assert world.starts() == 1

    def test_leaves_its_place_to_others_when_it_is_cancelled(self, world, gate, waiting):
        another = world.submit(backend_config=config())
        until(lambda: is_queued(another))
        waiting.cancel()
        gate.touch()
        assert another.wait()

    def test_has_its_time_limit_from_the_start_of_its_work(self, world, working, gate):
        # A second for the work would long be over when it begins.
        run = world.submit(backend_config=config(), timeout=1.0)
        until(lambda: is_queued(run))
        time.sleep(1.5)
        world.project_runs("true")
        gate.touch()
        assert run.wait()
        world.project_runs("sleep 1000")
        late = world.submit(backend_config=config(), timeout=0.5)
        assert not late.wait()
        assert late.reason.code == "timeout"

    def test_sleeps(self, world, waiting):
        supervisor = world.supervisor(waiting.handle)
        time.sleep(0.3)
        before = work_of(supervisor)
        time.sleep(1.5)
        assert work_of(supervisor) == before

    def test_sleeps_also_beside_others_that_wait(self, world, waiting):
        others = [world.submit(backend_config=config()) for _ in range(5)]
        until(lambda: all(map(is_queued, others)))
        others.pop().cancel()
        time.sleep(3)  # the looks after an event have come to an end
        supervisors = [world.supervisor(run.handle) for run in (waiting, *others)]
        before = [work_of(pid) for pid in supervisors]
        time.sleep(1)
        assert [work_of(pid) for pid in supervisors] == before

    def test_has_a_small_supervisor(self, world, working, waiting):
        for run in (working, waiting):
            assert int(status_of(world.supervisor(run.handle))["VmRSS"].split()[0]) < 15 * 1024

    def test_goes_on_when_the_supervisor_at_work_is_killed_whatever_outlives_that(self, world):
        # The grandchild has all that the supervisor let it have.
        world.project_runs(f"setsid sleep 1000 & echo $! > {world.directory}/grandchild; wait")
        working = world.submit(backend_config=config())
        until(world.starts)
        noted = world.directory / "grandchild"
        grandchild = int(until(lambda: noted.exists() and noted.read_text()))
        world.project_runs("true")
        waiting = world.submit(backend_config=config())
        until(lambda: is_queued(waiting))
        world.kill_supervisor(working.handle)
        assert waiting.wait(timeout=10)
        assert status_of(grandchild)["Name"] == "sleep"
        assert working.get_status() == "FAILED"
        assert working.reason.code == "lost"

    def test_goes_on_though_a_run_that_was_started_by_the_one_at_work_lives_on(self, world):
        inner = world.directory / "inner"
        inner.mkdir()
        (inner / "MLproject").write_text("name: inner\nentry_points:\n  main:\n    command: sleep 1000\n")
        arguments = {"uri": str(inner), "env_manager": "local", "key": "inner"}
        world.project_runs(f'{sys.executable} -c "import mlproj_core; mlproj_core.submit(**{arguments!r})"')
        outer = world.submit(backend_config=config())
        assert outer.wait(), output_of(outer)
        world.project_runs("true")
        assert world.submit(backend_config=config()).wait(timeout=10)
        inner = mlproj_core.attach(LocalBackend().find("inner"))
        assert inner.get_status() == "RUNNING"
        inner.cancel()

    def test_goes_on_while_the_outcome_of_the_one_before_it_is_delivered(self, world):
        _, go_on = world.paused_asker(
            "after the record", arguments={"key": "k", "backend_config": config(detach=False)}, linger=True
        )
        directory = locate(LocalBackend().find("k"))
        nowhere = {"tracked": True, "tracking_uri": "http://127.0.0.1:9"}
        directory.write("record.json", {**directory.read("record.json"), **nowhere})
        go_on()
        # What is left of the supervisor waits half a minute for its asker to deliver the outcome.
        until(lambda: directory.has("end.json"))
        assert world.submit(backend_config=config()).wait(timeout=10)

    def test_is_lost_when_its_supervisor_is_killed_and_holds_nobody_up(self, world, gate, waiting):
        another = world.submit(backend_config=config())
        until(lambda: is_queued(another))
        world.kill_supervisor(waiting.handle)
        gate.touch()
        assert another.wait(timeout=10)
        assert (waiting.get_status(), waiting.reason.code) == ("FAILED", "lost")
        assert world.starts() == 2


class TestTheLimitOfTheHost:
    """MLPROJ_MAX_RUNS."""

    @pytest.fixture
    def host_limit(self, monkeypatch):
        monkeypatch.setenv("MLPROJ_MAX_RUNS", "1")

    def test_holds_for_all_runs(self, world, gate, host_limit):
        working = world.submit()
        until(world.starts)
        waiting = [world.submit(), world.submit(backend_config=config(5))]
        until(lambda: all(map(is_queued, waiting)))
        assert all((run.get_status(), run.phase) == ("RUNNING", "queued") for run in waiting)
        assert "waiting: 1 run is at work on this host, its limit (MLPROJ_MAX_RUNS)\n" in output_of(waiting[0])
        assert world.starts() == 1
        gate.touch()
        assert [run.wait() for run in (working, *waiting)] == [True] * 3

    def test_comes_on_top_of_max_runs(self, world, gate, monkeypatch):
        monkeypatch.setenv("MLPROJ_MAX_RUNS", "2")
        working = world.submit(backend_config=config(1))
        until(world.starts)
        waiting = world.submit(backend_config=config(1))
        until(lambda: is_queued(waiting))
        assert "its limit (max_runs)" in output_of(waiting)
        free = world.submit()
        until(lambda: world.starts() == 2)
        gate.touch()
        assert [run.wait() for run in (working, waiting, free)] == [True] * 3

    def test_a_queued_run_is_cancelled_at_once(self, world, gate, host_limit):
        working = world.submit()
        until(world.starts)  # either could be first else
        waiting = world.submit()
        until(lambda: is_queued(waiting))
        waiting.cancel()
        assert (waiting.get_status(), waiting.reason.code) == ("KILLED", "cancelled")
        gate.touch()
        assert working.wait()
        assert world.starts() == 1

    def test_a_run_inside_a_run_is_part_of_it(self, world, host_limit):
        # It would wait for the run that waits for it.
        inner = world.directory / "inner"
        inner.mkdir()
        (inner / "MLproject").write_text("name: inner\nentry_points:\n  main:\n    command: echo inner\n")
        arguments = {"uri": str(inner), "env_manager": "local"}
        world.project_runs(f'{sys.executable} -c "import mlproj_core; mlproj_core.run(**{arguments!r})"')
        outer = world.submit()
        assert outer.wait(timeout=30), output_of(outer)
        assert "inner\n" in output_of(outer)

    @pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
    def test_what_is_no_number_of_runs_is_refused(self, world, monkeypatch, text):
        monkeypatch.setenv("MLPROJ_MAX_RUNS", text)
        with pytest.raises(mlproj_core.UserError, match=f"MLPROJ_MAX_RUNS must be a whole number.*'{text}'"):
            world.submit()
        assert LocalBackend().handles() == []

    def test_an_empty_one_is_none(self, world, monkeypatch):
        monkeypatch.setenv("MLPROJ_MAX_RUNS", "")
        assert world.submit().wait()


class TestTheOrder:
    def test_who_came_first_is_served_first(self, world, working, gate):
        served = world.directory / "served"
        waiting = []
        for number in range(6):
            # Each submits what it is to do, and waits before the next one comes.
            world.project_runs(f"until test -e {gate}; do sleep 0.02; done")
            (world.project / f"{number}.sh").write_text(f"echo {number} >> {served}")
            waiting.append(world.submit(entry_point=f"{number}.sh", backend_config=config()))
            until(lambda: is_queued(waiting[-1]))
        gate.touch()
        assert [run.wait() for run in waiting] == [True] * 6
        assert served.read_text().split() == list("012345")

    def test_one_that_is_killed_while_it_waits_holds_nobody_up(self, world, working, gate):
        waiting = [world.submit(backend_config=config()) for _ in range(2)]
        until(lambda: all(map(is_queued, waiting)))
        for run in waiting:
            world.kill_supervisor(run.handle)
        last = world.submit(backend_config=config())
        gate.touch()
        assert last.wait(timeout=10)
        assert [path.name for path in (world.state / "slots").iterdir()] == ["0"]


class TestSlots:
    @pytest.fixture
    def directory(self, tmp_path):
        return str(tmp_path / "slots")

    @pytest.fixture
    def users(self, directory):
        """Makes one more who uses so many slots."""
        made = []

        def make(number):
            made.append(Slots(directory, number))
            return made[-1]

        yield make
        for slots in made:
            slots.hush()
            slots.leave()

    def test_there_are_as_many_as_asked_for(self, directory, users):
        slots = [users(2) for _ in range(3)]
        assert [one.take() for one in slots] == [True, True, False]
        slots[0].leave()
        assert slots[2].take()
        assert sorted(path.name for path in Path(directory).iterdir()) == ["0", "1"]

    def test_go_to_whoever_has_waited_longest(self, directory, users):
        holder, first, second, late = (users(1) for _ in range(4))
        assert holder.take()
        first.queue()
        second.queue()
        holder.leave()
        assert not late.take()
        assert not second.take()
        assert first.take()
        assert not second.take()
        first.leave()
        assert second.take()
        assert [path.name for path in Path(directory).iterdir()] == ["0"]

    def test_whoever_waits_no_more_lets_the_next_one_hear_of_it(self, users):
        first, second = users(1), users(1)
        first.queue()
        second.queue()
        second.listen()
        assert not second.take()
        assert list(inotify.events(second.bell)) == []
        first.leave()
        assert list(inotify.events(second.bell)) != []
        assert second.take()

    def test_one_that_is_left_rings_the_bell_after_it_is_free(self, users):
        holder, waiting = users(1), users(1)
        assert holder.take()
        waiting.listen()
        assert not waiting.take()
        assert waiting.pause() is None
        holder.leave()
        waiting.hear()
        assert waiting.take()

    def test_looking_at_them_rings_no_bell(self, users):
        holder, waiting, another = (users(2) for _ in range(3))
        assert holder.take()
        assert another.take()
        waiting.listen()
        for _ in range(3):
            assert not waiting.take()
        assert list(inotify.events(waiting.bell)) == []

    def test_after_the_bell_there_are_some_looks_and_then_none(self, directory, users):
        # The kernel tells that a dead holder's file is closed before it frees the lock.
        holder, waiting = users(1), users(1)
        assert holder.take()
        waiting.listen()
        (Path(directory) / "0").write_text("")
        waiting.hear()
        pauses = [waiting.pause() for _ in range(20)]
        looks = [pause for pause in pauses if pause is not None]
        assert looks[0] <= 0.01
        assert 1 < sum(looks) < 5
        assert pauses == [*looks, *[None] * (20 - len(looks))]

    def test_without_events_there_is_a_look_every_half_second(self, users, monkeypatch):
        monkeypatch.setattr(inotify, "instance", lambda: None)
        waiting = users(1)
        waiting.listen()
        assert [waiting.pause() for _ in range(3)] == [0.5, 0.5, 0.5]
        waiting.hear()

    def test_nothing_stays_open(self, users):
        before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
        holder, waiting, *others = (users(3) for _ in range(4))
        assert holder.take()
        assert [one.take() for one in others] == [True, True]
        waiting.listen()
        assert not waiting.take()
        waiting.hush()
        for one in (holder, waiting, *others):
            one.leave()
        assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before

    def test_a_program_that_is_started_has_none_of_it(self, users):
        holder = users(1)
        assert holder.take()
        if (child := os.fork()) == 0:
            os.execvp("sleep", ["sleep", "1000"])
        try:
            until(lambda: status_of(child)["Name"] == "sleep")
            os.close(holder._taken)  # as its death does: without giving it up for all who have it
            holder._taken = None
            other = users(1)
            assert other.take()
            assert fcntl.fcntl(other._taken, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
