"""Who dies while a container is at work, and what becomes of the run."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from container_world import ContainerWorld
from docker_world import SHELL, Engine, shell_rootfs
from processes import command, pids
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.local.directory import locate


@pytest.fixture
def world(container_world):
    return container_world


def client_of(world, handle):
    """Pid of the process that follows the run's container."""
    place = str(locate(handle).path)
    return until(lambda: [pid for pid in pids() if "container-request.json" in command(pid) and place in command(pid)])[
        0
    ]


WAITS = """
echo begun; touch /seen/up
while [ ! -e /seen/go ]; do sleep 0.05; done
echo '{"done": true}' > $MLPROJ_RESULT; echo over
"""


def at_work(world, last="", **more):
    world.project_runs(WAITS + last)
    run = world.submit(key="k", **more)
    until((world.directory / "seen" / "up").exists)
    until(lambda: run.phase == "running")  # the engine has said, and written down, that it was started
    return run


def go(world):
    (world.directory / "seen" / "go").touch()


class TestTheSubmitter:
    def test_is_killed_and_a_detached_run_goes_on(self, world):
        world.project_runs(WAITS)
        asker = world.asker(arguments={"key": "k"}, linger=True)
        until((world.directory / "seen" / "up").exists)
        asker.kill()
        asker.wait()
        go(world)
        run = world.submit(key="k")
        assert run.wait()
        assert run.result().result == {"done": True}
        assert world.starts() == 1

    def test_is_killed_and_a_tethered_run_ends_with_its_container(self, world):
        world.project_runs(WAITS)
        asker = world.asker(call="run", arguments={})
        until((world.directory / "seen" / "up").exists)
        asker.kill()
        asker.wait()
        until(lambda: not world.containers())
        until(lambda: not world.survivors())


class TestTheSupervisor:
    def test_is_killed_and_the_run_is_lost_with_its_container(self, world):
        run = at_work(world)
        world.kill_supervisor(run.handle)
        run.wait()
        assert (run.get_status(), run.reason.code, run.reason.retryable) == ("FAILED", "lost", True)
        assert world.survivors() == []
        go(world)
        again = world.submit(key="k", turn=2)
        assert again.wait()
        assert (again.handle.attempt, world.starts()) == (2, 2)

    def test_is_killed_after_the_container_has_ended_and_its_exit_code_counts(self, world):
        run = at_work(world)
        os.kill(client_of(world, run.handle), signal.SIGSTOP)  # so that the end is not on record
        go(world)
        until(lambda: world.inspect(run.handle)["State"]["Status"] == "exited")
        world.kill_supervisor(run.handle)
        run.wait()
        assert run.get_status() == "FINISHED"
        assert run.result().result == {"done": True}

    def test_is_told_to_end_and_ends_the_container(self, world):
        run = at_work(world)
        os.kill(world.supervisor(run.handle), signal.SIGTERM)
        run.wait()
        assert (run.get_status(), run.reason.code) == ("KILLED", "lost")
        assert world.survivors() == []


class TestTheContainersClient:
    def test_is_killed_and_the_run_is_lost_with_its_container(self, world):
        run = at_work(world)
        os.kill(client_of(world, run.handle), signal.SIGKILL)
        run.wait()
        assert (run.get_status(), run.reason.code, run.reason.retryable) == ("FAILED", "lost", True)
        assert world.survivors() == []

    def test_is_killed_after_the_container_has_ended_and_its_exit_code_counts(self, world):
        run = at_work(world)
        client = client_of(world, run.handle)
        os.kill(client, signal.SIGSTOP)
        go(world)
        until(lambda: world.inspect(run.handle)["State"]["Status"] == "exited")
        os.kill(client, signal.SIGKILL)
        assert run.wait(), run.failure()
        assert run.result().result == {"done": True}

    def test_hangs_and_a_cancel_ends_the_container_all_the_same(self, world):
        run = at_work(world, backend_config={"grace": 0.2})
        os.kill(client_of(world, run.handle), signal.SIGSTOP)
        run.cancel()
        assert run.get_status() == "KILLED"
        assert world.survivors() == []


class TestACancel:
    def test_of_a_container_that_ignores_it_kills_it_after_the_grace_period(self, world):
        world.project_runs("trap '' TERM; touch /seen/up; while :; do sleep 0.05; done")
        run = world.submit(key="k")
        until((world.directory / "seen" / "up").exists)
        run.cancel()
        assert run.get_status() == "KILLED"
        assert world.survivors() == []

    def test_of_a_paused_container_ends_it(self, world):
        run = at_work(world, backend_config={"grace": 0.2})
        with world.engine.client() as client:
            client.pause(run.handle.name)
        run.cancel()
        assert run.get_status() == "KILLED"
        assert world.survivors() == []


class TestTheEngine:
    @pytest.fixture
    def world(self, tmp_path, monkeypatch):
        """An engine of the test's own, that keeps containers alive over its own death, or does not."""
        worlds = []

        def make(*options):
            engine = Engine(tempfile.mkdtemp(prefix="mlproj-"), *options)
            engine.add_image(SHELL, shell_rootfs(), ["ENV PATH=/bin", 'CMD ["sh"]'])
            monkeypatch.setenv("DOCKER_HOST", engine.host)
            monkeypatch.setenv("DOCKER_CONFIG", str(engine.directory / "config"))
            monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
            monkeypatch.setenv("MLPROJ_TRACKING", "off")
            worlds.append(ContainerWorld(tmp_path, engine))
            return worlds[-1]

        yield make
        for world in worlds:
            world.close()
            world.engine.stop()

    def test_dies_and_comes_back_without_its_containers_which_loses_the_run(self, world):
        world = world()
        run = at_work(world)
        world.engine.kill()
        until(lambda: "The run waits for it" in "".join(run.logs()))
        assert run.get_status() == "RUNNING"
        world.engine.start()
        run.wait()
        assert (run.get_status(), run.reason.code, run.reason.retryable) == ("FAILED", "lost", True)
        assert "engine went down" in run.reason.message

    def test_dies_and_comes_back_with_its_containers_and_the_run_goes_on(self, world):
        world = world("--live-restore")
        run = at_work(world)
        world.engine.kill()
        until(lambda: "The run waits for it" in "".join(run.logs()))
        world.engine.start()
        until(lambda: "is back" in "".join(run.logs()))
        go(world)
        assert run.wait(), run.failure()
        assert "".join(run.logs()).count("over\n") == 1
        assert run.result().result == {"done": True}

    def test_dies_and_comes_back_and_the_project_fails_by_itself_later(self, world):
        world = world("--live-restore")
        run = at_work(world, "exit 3")
        world.engine.kill()
        until(lambda: "The run waits for it" in "".join(run.logs()))
        world.engine.start()
        until(lambda: "is back" in "".join(run.logs()))
        time.sleep(3)  # it is followed again
        go(world)
        run.wait()
        assert (run.reason.code, run.reason.exit_code) == ("project_code", 3)

    def test_is_away_when_the_run_is_cancelled(self, world):
        world = world()
        run = at_work(world, backend_config={"grace": 0.2})
        world.engine.kill()
        until(lambda: "The run waits for it" in "".join(run.logs()))
        run.cancel()
        assert run.get_status() == "KILLED"
        assert "could not be ended" in "".join(run.logs())
        world.engine.start()


def test_nothing_of_the_sdk_is_in_the_supervisor(world):
    run = at_work(world)
    maps = Path(f"/proc/{world.supervisor(run.handle)}/maps").read_text()
    assert "_ssl" not in maps
    go(world)
    run.wait()


def test_a_removed_state_directory_takes_over_a_container_of_the_same_key(world, monkeypatch):
    """As on another host that has the engine too: the name is taken, and the second follows the first's container."""
    first = at_work(world)
    monkeypatch.setenv("MLPROJ_STATE_DIR", str(world.directory / "elsewhere"))
    second = mlproj_core.submit(**world.arguments(key="k"))
    until(lambda: second.phase == "running")
    go(world)
    assert second.wait(), second.failure()
    assert first.wait()
    assert world.starts() == 1
    assert second.result().result == {"done": True}
