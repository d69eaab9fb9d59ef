"""Following output in an event loop: all of it, once, by the kernel's events alone, and nothing kept afterwards."""

import asyncio
import fcntl
import gc
import os
import selectors
import signal
import threading
import time
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.backend import State
from mlproj_core.backends.local import LocalBackend, inotify
from mlproj_core.backends.local.directory import locate
from mlproj_core.backends.local.hold import tether_of
from mlproj_core.backends.local.watch import LoopOutputWatch


class Gate:
    """What projects wait at, without polling, until it is opened."""

    def __init__(self, path):
        self.wait = f"flock -s {path} true"
        self.file = path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def open(self):
        self.file.close()


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


def output_of(run):
    return "".join(run.logs())


def descriptors():
    """What this process has open, by descriptor."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found[int(link.name)] = str(link.readlink())
    return found


@pytest.fixture
def instances():
    """How many inotify instances this process has more than before the test."""

    def count():
        return list(descriptors().values()).count("anon_inode:inotify")

    before = count()
    return lambda: count() - before


class Follow:
    """A follow under way in a task of the running loop."""

    def __init__(self, run, cursor=0):
        self.text, self.cursor = "", cursor
        self.task = asyncio.ensure_future(self._read(run))

    async def _read(self, run):
        async for text, cursor in run.read_logs_async(follow=True, cursor=self.cursor):
            self.text += text
            self.cursor = cursor

    async def sees(self, words):
        while words not in self.text:
            assert not self.task.done(), self.text
            await asyncio.sleep(0.005)

    async def cancelled(self):
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def whole(run, cursor=0):
    """The output to the end of the run."""
    return "".join([text async for text, _ in run.read_logs_async(follow=True, cursor=cursor)])


class Wakeups(selectors.DefaultSelector):
    """Counts how often the event loop has woken up."""

    count = 0

    def select(self, timeout=None):
        self.count += 1
        return super().select(timeout)


def in_counted_loop(main):
    """Run a coroutine function that is given the count of its loop's wake-ups."""
    wakeups = Wakeups()
    loop = asyncio.SelectorEventLoop(wakeups)
    try:
        return loop.run_until_complete(main(wakeups))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class TestAllOfItOnce:
    def test_many_small_writes_over_many_segments(self, world, monkeypatch):
        monkeypatch.setenv("MLPROJ_LOG_LIMIT", str(8 * 4096))
        world.project_runs("for i in $(seq 3000); do echo $i; done")
        run = world.submit()
        text = asyncio.run(whole(run))
        assert [line for line in text.splitlines() if line.isdecimal()] == [str(number) for number in range(1, 3001)]
        assert text == output_of(run)
        assert len(list((locate(run.handle).path / "output").iterdir())) > 3

    def test_it_comes_while_the_run_lives(self, world, gate):
        world.project_runs(f"echo begun; {gate.wait}; echo done")
        run = world.submit()

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            assert "done" not in follow.text
            gate.open()
            await follow.task
            return follow.text

        assert asyncio.run(main()) == output_of(run)

    def test_from_a_cursor_in_the_middle_of_a_living_run(self, world, gate):
        world.project_runs(f"seq 100; {gate.wait}; seq 100 200")
        run = world.submit()

        async def main():
            first = Follow(run)
            await first.sees("100\n")
            await first.cancelled()
            second = Follow(run, first.cursor)
            gate.open()
            await second.task
            return first.text, second.text

        first, second = asyncio.run(main())
        assert first + second == output_of(run)
        assert second.startswith("100\n101\n")

    def test_from_any_cursor_without_tearing_a_character(self, world):
        in_the_middle = r"printf 'a\xe2\x82'; sleep 0.05; printf '\xacb\xc3'; sleep 0.05; printf '\xa4'"
        world.project_runs(f"for i in 1 2 3 4; do {in_the_middle}; done; echo")
        run = world.submit()

        async def main():
            text, cursors = "", [(0, "")]
            async for piece, cursor in run.read_logs_async(follow=True):
                text += piece
                cursors.append((cursor, text))
            assert len(cursors) > 5
            return [before + await whole(run, cursor) for cursor, before in cursors]

        assert set(asyncio.run(main())) == {output_of(run)}
        assert "\n" + 4 * "a€bä" + "\n" in output_of(run)

    def test_a_run_whose_supervisor_is_killed_is_followed_to_there_and_not_buried(self, world):
        world.project_runs("echo begun; sleep 1000")
        run = world.submit()

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            world.kill_supervisor(run.handle)
            await asyncio.wait_for(follow.task, 10)
            return follow.text

        text = asyncio.run(main())
        assert LocalBackend().look(run.handle).state is State.LOST
        assert text == output_of(run)

    def test_a_run_that_is_cancelled_is_followed_to_its_last_words(self, world):
        world.project_runs("trap 'echo cleaned; exit' TERM; echo begun; sleep 1000 & wait")
        run = world.submit(backend_config={"grace": 10})

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            await run.cancel_async()
            await follow.task
            return follow.text

        text = asyncio.run(main())
        assert "cleaned\n" in text
        assert "KILLED: the run was cancelled" in text

    def test_a_run_is_followed_from_before_its_start(self, world):
        asker, go_on = world.paused_asker("after the claim", arguments={"key": "k"})
        run = mlproj_core.attach(LocalBackend().find("k"))

        async def main():
            follow = Follow(run)
            await asyncio.sleep(0.1)
            go_on()
            await follow.task
            return follow.text

        text = asyncio.run(main())
        asker.wait()
        assert "FINISHED" in text
        assert text == output_of(run)

    def test_a_tethered_run_leaves_its_nudges_to_who_follows_it_in_a_thread(self, world, gate):
        world.project_runs(f"echo begun; {gate.wait}")
        run = world.submit(backend_config={"detach": False})

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            assert tether_of(locate(run.handle).path)._nudges is not None
            in_thread = asyncio.ensure_future(asyncio.to_thread(lambda: "".join(run.logs(follow=True))))
            await asyncio.sleep(0.1)
            gate.open()
            await follow.task
            return follow.text, await in_thread

        first, second = asyncio.run(main())
        assert first == second == output_of(run)

    def test_several_followers_of_one_run_do_not_depend_on_each_other(self, world, gate):
        world.project_runs(f"echo begun; {gate.wait}; seq 1000")
        run = world.submit()

        async def main():
            follows = [Follow(run) for _ in range(3)]
            for follow in follows:
                await follow.sees("begun\n")
            await follows[0].cancelled()
            gate.open()
            await asyncio.gather(follows[1].task, follows[2].task)
            return follows[1].text, follows[2].text

        first, second = asyncio.run(main())
        assert first == second == output_of(run)

    def test_of_a_run_that_is_gone_there_is_nothing_in_either_way(self, world):
        run = world.submit()
        run.wait()
        world.forget(run.handle)
        assert asyncio.run(whole(run)) == ""
        assert list(run.logs(follow=True)) == []

    def test_a_run_that_is_deleted_while_it_lives_is_followed_to_its_supervisor_s_end(self, world, gate, instances):
        world.project_runs(f"echo begun; {gate.wait}")
        run = world.submit()

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            world.forget(run.handle)
            gate.open()
            await asyncio.wait_for(follow.task, 10)

        asyncio.run(main())
        assert instances() == 0

    def test_another_host_s_run_is_out_of_contact(self, world):
        run = world.submit()
        run.wait()
        elsewhere = mlproj_core.attach(replace(run.handle, ref={**run.handle.ref, "host": "another"}))
        with pytest.raises(mlproj_core.ContactLost, match="another"):
            asyncio.run(whole(elsewhere))


class TestWithoutTheKernelsWord:
    @pytest.fixture(params=["inotify", "a watch", "pidfd", "anything"])
    def blind(self, request, monkeypatch):
        """Quotas used up, or a kernel that knows no pidfds."""

        def refuse(*_):
            raise OSError

        if request.param in ("inotify", "anything"):
            monkeypatch.setattr(inotify, "instance", lambda: None)
        if request.param == "a watch":
            monkeypatch.setattr(inotify, "add_watch", lambda *_: None)
        if request.param in ("pidfd", "anything"):
            monkeypatch.setattr(os, "pidfd_open", refuse)

    def test_it_is_all_there_too(self, world, gate, blind):
        world.project_runs(f"echo begun; {gate.wait}; seq 1000")
        run = world.submit()
        before = descriptors()

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            gate.open()
            await follow.task
            return follow.text

        assert asyncio.run(main()) == output_of(run)
        assert descriptors().keys() <= before.keys()

    def test_the_end_of_a_killed_supervisor_is_seen_too(self, world, blind):
        world.project_runs("echo begun; sleep 1000")
        run = world.submit()

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            world.kill_supervisor(run.handle)
            await asyncio.wait_for(follow.task, 10)

        asyncio.run(main())


class TestManyInOneLoop:
    def test_two_hundred_runs_take_one_inotify_instance_and_no_thread(self, world, gate, instances):
        world.project_runs(f"echo mine is $MLPROJ_ATTEMPT; {gate.wait}; echo done")
        runs = [world.submit(report=lambda _: None) for _ in range(200)]
        before = len(descriptors())
        threads_before = set(threading.enumerate())

        async def main():
            follows = [Follow(run) for run in runs]
            for run, follow in zip(runs, follows, strict=True):
                await follow.sees(f"mine is {run.handle.tag}\n")
            counts = instances(), len(descriptors()) - before, set(threading.enumerate()) - threads_before
            gate.open()
            await asyncio.gather(*(follow.task for follow in follows))
            return counts, [follow.text for follow in follows]

        (inotifies, opened, threads), texts = asyncio.run(main())
        assert (inotifies, threads) == (1, set())
        assert opened <= 200 + 10  # a pidfd for each, and the loop's own
        assert all("\ndone\n" in text for text in texts)
        assert texts == [output_of(run) for run in runs]
        assert len(descriptors()) <= before

    def test_while_nothing_happens_nothing_wakes_up(self, world, gate):
        world.project_runs(f"echo begun; {gate.wait}")
        runs = [world.submit() for _ in range(20)]

        async def main(wakeups):
            follows = [Follow(run) for run in runs for _ in range(5)]
            for follow in follows:
                await follow.sees("begun\n")
            await asyncio.sleep(0.1)
            before = wakeups.count
            await asyncio.sleep(2)
            idle = wakeups.count - before
            gate.open()
            await asyncio.gather(*(follow.task for follow in follows))
            return idle

        assert in_counted_loop(main) <= 2  # that of the sleep itself

    def test_a_slow_reader_is_not_woken_again_and_again_by_an_end(self, world, gate):
        world.project_runs(f"echo begun; {gate.wait}")
        run = world.submit()

        async def main(wakeups):
            async with aclosing(run.read_logs_async(follow=True)) as pieces:
                text = ""
                while "begun" not in text:
                    text += (await anext(pieces))[0]
                gate.open()
                await run.wait_async()
                before = wakeups.count
                await asyncio.sleep(0.5)
                idle = wakeups.count - before
                return idle, text + "".join([piece async for piece, _ in pieces])

        idle, text = in_counted_loop(main)
        assert idle <= 5
        assert text == output_of(run)

    def test_events_that_the_kernel_has_dropped_are_made_up_for(self, tmp_path):
        mine, other = tmp_path / "mine", tmp_path / "other"
        mine.mkdir()
        other.mkdir()

        async def main():
            with LoopOutputWatch(str(mine)) as watch, LoopOutputWatch(str(other)):
                with (other / "1").open("wb", 0) as first, (other / "2").open("wb", 0) as second:
                    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 1):
                        first.write(b".")  # in turn, since two events alike become one
                        second.write(b".")
                (mine / "1").write_text("unheard")
                began = time.monotonic()
                await watch.wait(60)
                return time.monotonic() - began

        assert asyncio.run(main()) < 30

    def test_long_output_leaves_room_for_others_between_its_pieces(self, world):
        world.project_runs("head -c 4000000 /dev/zero | tr '\\0' x")
        run = world.submit()
        run.wait()

        async def main():
            turns, stop = 0, False

            async def another():
                nonlocal turns
                while not stop:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(another())
            sizes = [len(text) async for text, _ in run.read_logs_async(follow=True)]
            stop = True
            await task
            return turns, sizes

        turns, sizes = asyncio.run(main())
        assert sum(sizes) >= 4000000
        assert max(sizes) <= 65536
        assert turns >= len(sizes)

    def test_a_run_that_somebody_else_is_burying_is_waited_for_without_blocking_the_loop(self, world):
        world.project_runs("echo begun; sleep 1000")
        run = world.submit()
        supervisor = world.supervisor(run.handle)
        until(world.starts)
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
        lock = locate(run.handle).lock()

        async def main(wakeups):
            follow, wait = Follow(run), asyncio.ensure_future(run.wait_async())
            before = wakeups.count
            await asyncio.sleep(0.5)
            assert not follow.task.done()
            assert not wait.done()
            turns = wakeups.count - before
            os.close(lock)
            await asyncio.gather(follow.task, wait)
            return turns

        assert in_counted_loop(main) < 200


class TestNothingIsKept:
    @pytest.fixture
    def run(self, world, gate):
        """A run that has printed a line, and lives."""
        world.project_runs(f"echo begun; {gate.wait}")
        run = world.submit()
        until(lambda: "begun\n" in output_of(run))
        return run

    @pytest.fixture(autouse=True)
    def nothing_is_kept(self, run):
        """After the loop's end there is nothing that was not there before."""
        before = descriptors()
        yield
        gc.collect()
        assert descriptors() == before
        assert LocalBackend().look(run.handle).state is State.LIVING

    def test_by_a_task_that_is_cancelled(self, run):
        async def main():
            before = len(descriptors())
            follow = Follow(run)
            await follow.sees("begun\n")
            assert len(descriptors()) == before + 2
            await follow.cancelled()
            assert len(descriptors()) == before

        asyncio.run(main())

    def test_by_a_reader_that_leaves_in_the_middle(self, run):
        async def main():
            before = len(descriptors())
            async with aclosing(run.read_logs_async(follow=True)) as pieces:
                await anext(pieces)
                assert len(descriptors()) == before + 2
            assert len(descriptors()) == before

        asyncio.run(main())

    def test_by_a_reader_that_forgets_it(self, run):
        async def main():
            before = len(descriptors())
            await anext(run.read_logs_async(follow=True))
            until_closed = time.monotonic() + 10
            while len(descriptors()) > before:
                assert time.monotonic() < until_closed
                await asyncio.sleep(0.01)

        asyncio.run(main())

    def test_by_a_loop_that_ends_with_a_follow_under_way(self, run, instances):
        pieces = run.read_logs_async(follow=True)

        async def main():
            await anext(pieces)

        asyncio.run(main())
        assert instances() == 0

    def test_by_a_loop_that_is_closed_without_a_farewell(self, run):
        loop = asyncio.new_event_loop()

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            return follow.task

        task = loop.run_until_complete(main())
        task._log_destroy_pending = False  # that it is still pending is the point
        loop.close()

    def test_the_last_of_a_loop_closes_its_instance_and_the_next_one_opens_another(self, run, instances):
        async def main():
            first, second = Follow(run), Follow(run)
            await first.sees("begun\n")
            await second.sees("begun\n")
            await first.cancelled()
            assert instances() == 1
            await second.cancelled()
            assert instances() == 0
            third = Follow(run)
            await third.sees("begun\n")
            assert instances() == 1
            await third.cancelled()

        asyncio.run(main())

    def test_each_loop_has_an_instance_of_its_own(self, run, instances):
        begun, end = threading.Barrier(3, timeout=60), threading.Event()

        async def main():
            follow = Follow(run)
            await follow.sees("begun\n")
            begun.wait()
            await asyncio.to_thread(end.wait)
            await follow.cancelled()

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        both = instances()
        end.set()
        for thread in threads:
            thread.join()
        assert (both, instances()) == (2, 0)


def test_without_following_it_ends_at_what_there_is(world, gate):
    world.project_runs(f"echo begun; {gate.wait}")
    run = world.submit()
    until(lambda: "begun\n" in output_of(run))

    async def main():
        pieces = [piece async for piece in run.read_logs_async()]
        assert "".join(text for text, _ in pieces).endswith("begun\n")
        return [piece async for piece in run.read_logs_async(cursor=pieces[-1][1])]

    assert asyncio.run(main()) == []


def test_the_directory_of_output_is_made_for_who_comes_before_the_supervisor(world, instances):
    asker, _ = world.paused_asker("after the claim", arguments={"key": "k"})
    run = mlproj_core.attach(LocalBackend().find("k"))

    async def main():
        follow = Follow(run)
        await asyncio.sleep(0.05)
        assert instances() == 1
        await follow.cancelled()

    asyncio.run(main())
    assert Path(locate(run.handle).path / "output").is_dir()
    asker.kill()
