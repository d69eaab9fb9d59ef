"""Waiting for runs on Kubernetes and following their output, whatever happens to connections, nodes and logs."""

import asyncio
import threading
import time

import pytest
from kubernetes_runtime import Script, ScriptedRuntime
from kubernetes_world import KubernetesWorld
from protocol_suite import until

from mlproj_core.backends.kubernetes import KubernetesBackend, client, logs, watch
from mlproj_core.errors import ContactLost


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A cluster whose containers live until they are told to end."""
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(watch, "LINGER", 0.1)
    world = KubernetesWorld(tmp_path, ScriptedRuntime())
    world.cluster.runtime.script(Script(exit_code=None))
    yield world
    world.close()


class Waiting:
    """Somebody who waits for a run, in a thread."""

    def __init__(self, run, timeout=None):
        self.error = None
        self.thread = threading.Thread(target=self._wait, args=(run, timeout))
        self.thread.start()

    def _wait(self, run, timeout):
        try:
            KubernetesBackend().wait(run.handle, timeout)
        except Exception as error:
            self.error = error

    @property
    def is_over(self):
        return not self.thread.is_alive()


def running(world, key="k"):
    run = world.submit(key=key, docker_args={"image": "train:1"})
    world.cluster.wait_for_pod(run.handle.name)
    return run


def end(world, run, code=0):
    world.cluster.runtime.end(run.handle.name, code, "mlproj")


class TestWaiting:
    def test_ends_with_the_run(self, world):
        run = running(world)
        waiting = Waiting(run)
        until(lambda: world.cluster.server.watches == 2)
        assert not waiting.is_over
        end(world, run, 3)
        until(lambda: waiting.is_over)
        assert run.reason.exit_code == 3

    def test_ends_when_its_time_is_over(self, world):
        run = running(world)
        KubernetesBackend().wait(run.handle, 2.1)
        assert run.get_status() == "RUNNING"

    @pytest.mark.parametrize("status", [429, 500, 503, 410, 0])
    def test_goes_on_after_a_failure_of_the_server(self, world, status):
        run = running(world)
        waiting = Waiting(run)
        until(lambda: world.cluster.server.watches == 2)
        for verb in ("watch", "list"):
            world.cluster.server.fail_next(
                status, 3, verb=verb, headers={"Retry-After": "0"} if status == 429 else None
            )
        assert world.cluster.server.cut_watches() == 2
        until(lambda: world.cluster.server.watches == 2)
        end(world, run)
        until(lambda: waiting.is_over)
        assert waiting.error is None

    def test_misses_nothing_that_happened_while_it_was_cut_off(self, world):
        run = running(world)
        waiting = Waiting(run)
        until(lambda: world.cluster.server.watches == 2)
        world.cluster.server.fail_next(503, 2, verb="watch")
        world.cluster.server.cut_watches()
        end(world, run)
        until(lambda: waiting.is_over)

    def test_begins_anew_where_the_history_was_dropped(self, world):
        run = running(world)
        waiting = Waiting(run)
        until(lambda: world.cluster.server.watches == 2)
        lists = world.cluster.server.requests["list", "jobs"]
        world.cluster.server.fail_next(503, 2, verb="watch")
        world.cluster.server.cut_watches()
        end(world, run)
        world.cluster.wait_for_job(run.handle.name)
        world.cluster.server.compact()
        until(lambda: waiting.is_over)
        assert world.cluster.server.requests["list", "jobs"] <= lists + 1

    def test_takes_bookmarks(self, world):
        world.cluster.server.bookmark_interval = 0.05
        run = running(world)
        waiting = Waiting(run)
        time.sleep(0.3)
        world.cluster.server.cut_watches()
        end(world, run)
        until(lambda: waiting.is_over)

    def test_of_many_takes_one_watch_of_jobs_and_one_of_pods(self, world):
        runs = [world.submit(key=str(number), docker_args={"image": "train:1"}) for number in range(30)]
        for run in runs:
            world.cluster.wait_for_pod(run.handle.name)
        server = world.cluster.server

        async def wait_for_all():
            tasks = [asyncio.create_task(run.wait_async()) for run in runs]
            while server.watches < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            before, threads = sum(server.requests.values()), threading.active_count()
            await asyncio.sleep(1)
            assert sum(server.requests.values()) == before, "nobody asks while nothing happens"
            assert server.watches == 2
            names = [thread.name for thread in threading.enumerate()]
            assert len([name for name in names if name.startswith("mlproj-watch")]) == 2
            for run in runs:
                end(world, run)
            assert all(await asyncio.gather(*tasks))
            return threads

        asyncio.run(wait_for_all())
        until(lambda: server.watches == 0, 10)

    def test_leaves_nothing_behind_when_nobody_waits_any_more(self, world):
        run = running(world)
        waiting = Waiting(run)
        until(lambda: world.cluster.server.watches == 2)
        end(world, run)
        until(lambda: waiting.is_over)
        until(lambda: world.cluster.server.watches == 0)
        until(lambda: not [one for one in threading.enumerate() if one.name.startswith("mlproj-watch")])

    def test_tells_when_the_cluster_is_out_of_reach_for_long(self, world, monkeypatch):
        monkeypatch.setattr(watch, "OUTAGE", 0.3)
        run = running(world)
        waiting = Waiting(run)
        until(lambda: world.cluster.server.watches == 2)
        world.cluster.server.fail_next(503, 1000)
        world.cluster.server.cut_watches()
        until(lambda: waiting.is_over)
        assert isinstance(waiting.error, ContactLost)
        world.cluster.server.stop_failing()
        assert run.get_status() == "RUNNING"

    def test_tells_who_may_not_look(self, world):
        run = running(world)
        waiting = Waiting(run)
        until(lambda: world.cluster.server.watches == 2)
        world.cluster.server.fail_next(403, 1000, verb="watch")
        world.cluster.server.cut_watches()
        until(lambda: waiting.is_over)
        assert isinstance(waiting.error, ContactLost)
        assert "watch" in str(waiting.error)

    def test_an_end_that_waiting_cannot_avert_ends_it(self, world):
        run = world.submit(key="k", docker_args={"image": "Not:A:Name"})
        assert run.wait() is False
        assert run.reason.code == "image"
        assert "must be lowercase" in run.reason.message
        assert world.survivors() == []

    def test_so_does_following_what_will_never_run(self, world):
        run = world.submit(key="k", docker_args={"image": "Not:A:Name"})
        assert list(run.logs(follow=True)) == []
        assert run.wait() is False
        other = world.submit(key="other", docker_args={"image": "Not:A:Name"})

        async def follow():
            return [piece async for piece in other.read_logs_async(follow=True)]

        assert asyncio.run(follow()) == []


def say(world, run, text, container="mlproj"):
    world.cluster.runtime.say(run.handle.name, text, container)


def read(run, cursor=0):
    return "".join(text for text, _ in run.read_logs(cursor=cursor))


class Follower:
    """Somebody who follows a run's output, in a thread."""

    def __init__(self, run, cursor=0):
        self.pieces = []
        self.thread = threading.Thread(target=self._follow, args=(run, cursor))
        self.thread.start()

    def _follow(self, run, cursor):
        for piece in run.read_logs(follow=True, cursor=cursor):
            self.pieces.append(piece)

    @property
    def text(self):
        return "".join(text for text, _ in self.pieces)

    @property
    def is_over(self):
        return not self.thread.is_alive()


class TestTheOutput:
    def test_can_be_read_on_from_every_line(self, world):
        run = running(world)
        for number in range(20):
            say(world, run, f"line {number}\n")
        end(world, run)
        run.wait()
        pieces = list(run.read_logs(follow=True))
        whole = "".join(text for text, _ in pieces)
        assert whole == "".join(f"line {number}\n" for number in range(20))
        before = ""
        for text, cursor in pieces:
            before += text
            assert before + read(run, cursor) == whole

    def test_is_followed_from_before_the_container_runs(self, world):
        world.cluster.controllers.paused = True
        run = world.submit(key="k", docker_args={"image": "train:1"})
        follower = Follower(run)
        time.sleep(0.2)
        world.cluster.controllers.paused = False
        world.cluster.controllers._enqueue((world.cluster.namespace, run.handle.name))
        world.cluster.wait_for_pod(run.handle.name)
        say(world, run, "hello\n")
        until(lambda: follower.text == "hello\n")
        end(world, run)
        until(lambda: follower.is_over)

    def test_is_complete_once_however_often_the_connection_breaks(self, world):
        run = running(world)
        follower = Follower(run)
        for number in range(8):
            say(world, run, f"line {number}\nand its rest\n")
            if number % 2:
                until(lambda number=number: f"line {number}\n" in follower.text)
            world.cluster.server.cut_watches()
        end(world, run)
        until(lambda: follower.is_over)
        assert follower.text == "".join(f"line {number}\nand its rest\n" for number in range(8))

    def test_is_followed_on_when_a_connection_is_silent_for_long(self, world, monkeypatch):
        monkeypatch.setattr(client, "QUIET", 0.2)
        run = running(world)
        say(world, run, "one\n")
        follower = Follower(run)
        until(lambda: follower.text == "one\n")
        time.sleep(0.7)
        say(world, run, "two\n")
        until(lambda: follower.text == "one\ntwo\n")
        end(world, run)
        until(lambda: follower.is_over)
        assert follower.text == "one\ntwo\n"

    def test_is_followed_on_after_a_rotation(self, world):
        run = running(world)
        say(world, run, "one\ntwo\n")
        follower = Follower(run)
        until(lambda: follower.text == "one\ntwo\n")
        log = world.cluster.runtime.containers[run.handle.name, "mlproj"].log
        world.cluster.server.cut_watches()
        say(world, run, "three\n")
        log.rotate(keep=1)
        until(lambda: "three" in follower.text)
        log.rotate()
        say(world, run, "four\n")
        end(world, run)
        until(lambda: follower.is_over)
        assert follower.text == "one\ntwo\nthree\nfour\n"

    def test_is_followed_on_after_a_rotation_between_two_looks(self, world, monkeypatch):
        run = running(world)
        say(world, run, "one\ntwo\n")
        log = world.cluster.runtime.containers[run.handle.name, "mlproj"].log
        follow, looks = logs.Output.coming, []

        def rotated(*arguments):
            looks.append(1)
            if len(looks) == 1:
                say(world, run, "three\n")
                log.rotate(keep=1)
            return follow(*arguments)

        monkeypatch.setattr(logs.Output, "coming", rotated)
        follower = Follower(run)
        until(lambda: follower.text == "one\ntwo\nthree\n", 20)
        end(world, run)
        until(lambda: follower.is_over)
        assert follower.text == "one\ntwo\nthree\n"

    def test_a_cursor_holds_after_a_rotation(self, world):
        run = running(world)
        log = world.cluster.runtime.containers[run.handle.name, "mlproj"].log
        moment = time.time_ns()  # lines of one microsecond are told apart by their number, which a rotation changes
        for number, line in enumerate((b"one\n", b"two\n", b"three\n")):
            log.write(line, at=moment + number * 5000)
        cursors = [cursor for _, cursor in _lines(run)]
        log.rotate(keep=1)
        say(world, run, "four\n")
        assert [read(run, cursor) for cursor in cursors] == ["three\nfour\n", "three\nfour\n", "four\n"]
        end(world, run)

    def test_lines_of_one_moment_are_told_apart(self, world):
        run = running(world)
        log = world.cluster.runtime.containers[run.handle.name, "mlproj"].log
        moment = time.time_ns()
        log.write(b"a\nb\nc\n", at=moment)
        log.write(b"late, of a moment before\n", at=moment - 5000)
        log.write(b"d\n", at=moment)
        pieces = list(_lines(run))
        whole = "a\nb\nc\nlate, of a moment before\nd\n"
        assert "".join(text for text, _ in pieces) == whole
        before = ""
        for text, cursor in pieces:
            before += text
            assert before + read(run, cursor) == whole
        end(world, run)

    def test_in_an_event_loop_is_the_same(self, world):
        run = running(world)

        async def follow():
            found = []
            async for piece in run.read_logs_async(follow=True):
                found.append(piece)
                if "one" in piece[0]:
                    world.cluster.server.cut_watches()
                    say(world, run, "two: ä€😀\n")
                    end(world, run)
            return found

        say(world, run, "one\n")
        pieces = asyncio.run(follow())
        assert "".join(text for text, _ in pieces) == "one\ntwo: ä€😀\n"
        assert pieces[-1][1] == list(run.read_logs(follow=True))[-1][1]

    def test_many_are_followed_in_an_event_loop_by_a_few_threads(self, world):
        runs = [running(world, str(number)) for number in range(20)]

        async def follow(run):
            return "".join([text async for text, _ in run.read_logs_async(follow=True)])

        async def follow_all():
            tasks = [asyncio.create_task(follow(run)) for run in runs]
            await asyncio.sleep(0.5)
            for run in runs:
                say(world, run, f"{run.handle.key}\n")
                end(world, run)
            return await asyncio.gather(*tasks)

        assert asyncio.run(follow_all()) == [f"{number}\n" for number in range(20)]

    def test_is_of_every_container_and_says_of_which(self, world):
        template = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {
                "template": {
                    "spec": {
                        "initContainers": [
                            {"name": "prepare", "image": "tool:1"},
                            {"name": "proxy", "image": "tool:1", "restartPolicy": "Always"},
                        ],
                        "containers": [{"name": "main", "image": "train:1"}, {"name": "sidecar", "image": "tool:1"}],
                    }
                }
            },
        }
        script = world.cluster.runtime.script
        script(Script(output=[(0, "prepared\n")]), container="prepare")
        script(Script(output=[(0, "beside 1\n"), (0.3, "beside 2\n")]), container="sidecar")
        script(Script(output=[(0, "proxied\n")], exit_code=None), container="proxy")
        script(Script(output=[(0.1, "trained\n")]), container="main")
        run = world.submit(
            key="k", docker_args={"image": "train:1"}, backend_config={"job-template": template, "grace": 1}
        )
        follower = Follower(run)
        run.wait()
        until(lambda: follower.is_over)
        expected = "[prepare] prepared\ntrained\n[proxy] proxied\n[sidecar] beside 1\n[sidecar] beside 2\n"
        assert follower.text == expected
        before = ""
        for text, cursor in follower.pieces:
            before += text
            assert before + read(run, cursor) == expected

    def test_of_a_pod_that_is_gone_is_none(self, world):
        run = running(world)
        say(world, run, "one\n")
        run.cancel()
        assert read(run) == ""
        assert list(run.read_logs(follow=True)) == []

    def test_last_lines_are_in_the_reason(self, world):
        run = running(world)
        say(world, run, "working\n[mlproj] not the project's\n\nboom: bad data\n")
        end(world, run, 3)
        run.wait()
        assert run.reason.output == ("working", "boom: bad data")


def _lines(run):
    output = logs.Output(KubernetesBackend()._cluster_of(run.handle), run.handle, 0)
    return ((text.decode(), cursor) for text, cursor in logs._now(output))
