"""A run in a container, asked for where its run directory is out of reach: on another host that has the engine too."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from mlflow_world import MlflowServer
from protocol_suite import ASKER, until

import mlproj_core
from mlproj_core import protocol
from mlproj_core.backends.local.backend import LocalBackend
from mlproj_core.backends.local.container_attempt import ContainerAttempt

WAITS = """
echo begun; touch /seen/up
while [ ! -e /seen/go ]; do sleep 0.05; done
echo '{"a": 1}' > $MLPROJ_RESULT; echo over
"""


@pytest.fixture
def world(container_world):
    return container_world


def far(run):
    """The run as a process of another host sees it."""
    handle = replace(run.handle, ref={**run.handle.ref, "host": "another-host"})
    return mlproj_core.attach(handle)


def at_work(world, command=WAITS, **more):
    world.project_runs(command)
    run = world.submit(key="k", **more)
    until((world.directory / "seen" / "up").exists)
    return run


def go(world):
    (world.directory / "seen" / "go").touch()


class TestARun:
    def test_that_lives_is_seen_waited_for_and_read(self, world):
        run = at_work(world)
        seen = far(run)
        assert (seen.get_status(), seen.phase) == ("RUNNING", "running")
        assert seen.request["command"] == "bash main.sh"
        assert seen.record.run_id == run.run_id
        assert not seen.wait(0.1)
        assert list(seen.logs()) == ["begun\n"]
        go(world)
        assert "".join(seen.logs(follow=True)) == "begun\nover\n"
        assert seen.wait()
        assert seen.result().result == {"a": 1}

    def test_is_read_on_from_where_it_was_read_on_its_own_host(self, world):
        run = at_work(world, "echo before; touch /seen/up; while [ ! -e /seen/go ]; do sleep 0.05; done; echo after")
        until(lambda: any(line == "before" for line, _ in run.read_lines()))
        *_, (line, cursor) = run.read_lines()
        assert line == "before"
        go(world)
        *_, (_, end) = rest = list(far(run).read_lines(follow=True, cursor=cursor))
        assert [line for line, _ in rest] == ["after"]
        run.wait()
        assert [line.split()[:2] for line, _ in run.read_lines(cursor=end)] == [["[mlproj]", "FINISHED"]]

    def test_is_followed_in_an_event_loop(self, world):
        async def follow(run):
            return "".join([text async for text, _ in run.read_logs_async(follow=True)]), await run.wait_async()

        run = at_work(world)
        go(world)
        assert asyncio.run(follow(far(run))) == ("begun\nover\n", True)

    def test_that_failed_is_judged_by_its_exit_code(self, world):
        world.project_runs("echo last words; exit 7")
        run = world.submit(key="k")
        run.wait()
        reason = far(run).reason
        assert (reason.code, reason.exit_code, reason.output) == ("project_code", 7, ("last words",))

    def test_that_is_cancelled_there_is_cancelled_everywhere(self, world):
        run = at_work(world, "trap 'exit 0' TERM; touch /seen/up; while :; do sleep 0.05; done")
        far(run).cancel()
        assert far(run).get_status() == "KILLED"
        run.wait()
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")
        assert world.survivors() == []

    def test_is_ended_by_whoever_looks_when_it_is_far_over_its_timeout(self, world, monkeypatch):
        run = at_work(world, timeout=600)
        os.kill(world.supervisor(run.handle), 9)  # with its host
        monkeypatch.setattr("mlproj_core.backends.local.container_attempt.LATENESS", -600)
        seen = far(run)
        assert seen.get_status() == "FAILED"
        assert world.survivors() == []

    def test_of_which_there_is_no_container_yet_is_out_of_contact(self, world):
        world.project_runs("true", "127.0.0.1:1/no/such:1")
        run = world.submit(key="k")
        with pytest.raises(mlproj_core.ContactLost, match="not made yet"):
            far(run).get_status()
        run.wait()

    def test_that_has_no_engine_is_out_of_contact(self, world):
        run = world.submit(key="k")
        run.wait()
        ref = {**run.handle.ref, "host": "another-host", "container": {"engine": "unix:///none.sock", "name": "x"}}
        with pytest.raises(mlproj_core.ContactLost, match="cannot be reached"):
            mlproj_core.attach(replace(run.handle, ref=ref)).get_status()


class TestARetryOnAnotherHost:
    """Another state directory, another name of the host, another space of processes; the same engine."""

    def elsewhere(self, world, **arguments):
        order = {"call": "submit", "arguments": world.arguments(**arguments)}
        script = 'hostname another-host && exec "$0" "$@"'
        other_host = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c", script]
        done = subprocess.run(
            [*other_host, sys.executable, str(ASKER), json.dumps(order)],
            env={**os.environ, "MLPROJ_STATE_DIR": str(world.directory / "another-state")},
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    def test_attaches_to_what_lives_and_starts_no_twin(self, world):
        run = at_work(world)
        answer = self.elsewhere(world, key="k", turn=2, handle=run.handle.to_dict())
        assert answer["handle"]["attempt"] == 1, answer
        assert any("attached" in line for line in answer["said"])
        go(world)
        assert run.wait()
        assert world.starts() == 1

    def test_finds_it_by_its_key_if_it_is_to_look_for_containers(self, world):
        run = at_work(world)
        config = {**world.backend_config, "find_containers": True}
        answer = self.elsewhere(world, key="k", turn=2, backend_config=config)
        assert answer["handle"]["attempt"] == 1, answer
        assert answer["handle"]["run_id"] == run.run_id
        go(world)
        assert run.wait()
        assert world.starts() == 1

    def test_cancels_it_by_its_key(self, world, monkeypatch):
        run = at_work(world)
        monkeypatch.setattr("mlproj_core.backends.local.directory.host_name", lambda: "another-host")
        monkeypatch.setenv("MLPROJ_STATE_DIR", str(world.directory / "another-state"))
        backend = LocalBackend(find_containers=True)
        protocol.cancel_key(backend, "k", None, print)
        monkeypatch.undo()
        run.wait()
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")

    def test_returns_what_has_finished(self, world):
        run = at_work(world)
        go(world)
        run.wait()
        answer = self.elsewhere(world, key="k", turn=2, handle=run.handle.to_dict())
        assert (answer["handle"]["attempt"], world.starts()) == (1, 1)

    def test_starts_anew_what_has_failed(self, world):
        world.project_runs("exit 3")
        run = world.submit(key="k", turn=1)
        run.wait()
        answer = self.elsewhere(world, key="k", turn=2, handle=run.handle.to_dict())
        assert answer["handle"]["attempt"] == 2  # which ends with its host, as this test's second host does

    def test_of_a_tethered_run_that_is_gone_with_its_host_starts_anew(self, world):
        world.project_runs(WAITS)
        asker = world.asker(call="run", arguments={})
        until((world.directory / "seen" / "up").exists)
        handle = LocalBackend().handles()[0]
        asker.kill()
        asker.wait()
        until(lambda: not world.containers())
        answer = self.elsewhere(world, key=handle.key, turn=2, handle=handle.to_dict())
        assert answer["handle"]["attempt"] == 2, answer
        go(world)


class TestWhatIsRemoved:
    def test_is_judged_by_the_tracking_servers_tag(
        self, world, mlflow_python, mlflow_environment, tmp_path, monkeypatch
    ):
        (tmp_path / "server").mkdir()
        server = MlflowServer(mlflow_python, tmp_path / "server", mlflow_environment)
        monkeypatch.delenv("MLPROJ_TRACKING")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        world.project_runs("exit 7")
        run = world.submit(key="k")
        run.wait()
        until(lambda: not world.containers())  # delivered, and so removed
        assert ContainerAttempt(run.handle).absent()
        seen = far(run)
        assert (seen.get_status(), seen.reason.exit_code) == ("FAILED", 7)
        server.stop()
