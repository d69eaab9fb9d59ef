"""`mlproj gc`: what mlproj keeps on a host, bounded by age and size; nothing in use is touched."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from cli_world import PROGRAM, CommandLine
from click import BadParameter
from filelock import FileLock
from git_world import published, repository
from missing import missing
from processes import command, living
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.local import LocalBackend
from mlproj_core.backends.local.directory import locate
from mlproj_core.cli.options import size
from mlproj_core.cli.printing import size as shown
from mlproj_core.environments.cache import Slot, list_environments
from mlproj_core.housekeeping import Item, collect, disk_usage
from mlproj_core.locks import exclusive
from mlproj_core.sources import fetch
from mlproj_core.sources.workspace import workspace

DAY = 86400.0


@pytest.fixture
def mlproj(tmp_path, monkeypatch):
    world = CommandLine(tmp_path)
    for name in ("MLPROJ_STATE_DIR", "MLPROJ_CACHE_DIR", "MLPROJ_TRACKING", "MLPROJ_ENV_MANAGER"):
        monkeypatch.setenv(name, world.environment[name])
    yield world
    world.close()


@pytest.fixture
def gc(mlproj):
    """Runs `mlproj gc`; what it removed, as JSON by kind. The exit status must be 0, or `status`."""

    def gc(*arguments, status=0):
        done = mlproj("gc", "--json", *arguments)
        assert done.returncode == status, done.stderr
        gc.said = done.stderr
        return json.loads(done.stdout)["kinds"]

    return gc


def directory_of(run):
    return locate(run.handle).path


def forget_delivery(directory):
    """As if nobody had told the tracking server of the end of the run in a directory."""
    # The supervisor sees to it as well, after the run is over, and must not do so once more in the test's midst.
    until(lambda: not [pid for pid, *_ in living() if str(directory) in command(pid)])
    (directory / "settled").unlink()


def ended_ago(run, seconds):
    """Let it have ended so long ago."""
    end = directory_of(run) / "end.json"
    end.write_text(json.dumps({**json.loads(end.read_text()), "ended_at": time.time() - seconds}))


def used_ago(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


def names(removed):
    return sorted(one["name"] for one in removed["removed"])


class World:
    """Runs, a mirror and an environment, as old as a test wants them."""

    def __init__(self, mlproj):
        self.mlproj = mlproj
        self.cache = mlproj.directory / "cache"

    def run(self, command="true", ended=40 * DAY, **more):
        run = mlproj_core.submit(self.mlproj.project(command), **more)
        run.wait()
        ended_ago(run, ended)
        return run

    def mirror(self, name="p", used=40 * DAY):
        """The mirror of a repository on this host."""
        work = repository(self.mlproj.directory / f"work-{name}", data=os.urandom(100_000))
        served = published(work, self.mlproj.directory / f"{name}.git")
        with workspace() as into:
            fetch(f"file://{served}", into=into)
        (mirror,) = (
            path
            for path in (self.cache / "git").iterdir()
            if path.is_dir() and str(served) in (path / "config").read_text()
        )
        used_ago(mirror / "last-used", used)
        return mirror

    def environment(self, name="e", used=40 * DAY):
        """An environment as the cache holds it: it is not the building that matters here."""
        slot = Slot((name * 64)[:64])
        slot.prefix.mkdir(parents=True)
        (slot.prefix / "data").write_bytes(os.urandom(100_000))
        slot.touch()
        slot.mark_complete({"manager": "uv", "python": "3.11.7", "purpose": name})
        used_ago(slot.in_use_lock, used)
        return slot


@pytest.fixture
def world(mlproj):
    return World(mlproj)


class TestWhatIsOld:
    def test_goes_after_thirty_days_and_what_is_younger_stays(self, gc, world):
        old_run, new_run = world.run(), world.run(ended=20 * DAY)
        old_mirror, new_mirror = world.mirror("old"), world.mirror("new", used=20 * DAY)
        old_environment, new_environment = world.environment("a"), world.environment("b", used=20 * DAY)
        kinds = gc()
        assert names(kinds["runs"]) == [old_run.handle.tag]
        assert names(kinds["mirrors"]) == [str(world.mlproj.directory / "old.git")]
        assert names(kinds["environments"]) == ["aaaaaaaaaaaa (a)"]
        assert [kinds[kind]["left"] for kind in ("runs", "mirrors", "environments")] == [1, 1, 1]
        assert kinds["mirrors"]["freed"] > 100_000
        assert kinds["environments"]["freed"] > 100_000
        assert not old_mirror.exists()
        assert not old_environment.prefix.exists()
        assert not (directory_of(old_run) / "output").exists()
        assert new_mirror.exists()
        assert new_environment.complete()
        assert (directory_of(new_run) / "output").exists()

    def test_is_what_the_user_says(self, gc, world):
        run = world.run(ended=2 * DAY)
        assert names(gc("--older-than", "3d")["runs"]) == []
        assert names(gc("--older-than", "36h")["runs"]) == [run.handle.tag]

    def test_is_looked_for_among_the_kinds_that_are_named(self, gc, world):
        world.run()
        world.mirror()
        world.environment()
        assert list(gc("--mirrors")) == ["mirrors"]
        assert list(gc("--runs", "--environments")) == ["runs", "environments"]
        assert list(gc()) == ["runs", "checkouts", "mirrors", "environments", "packages", "data"]

    def test_stays_in_a_dry_run_which_says_what_would_go(self, gc, world):
        run, mirror, slot = world.run(), world.mirror(), world.environment()
        before = disk_usage(world.mlproj.directory)
        kinds = gc("--dry-run")
        assert (names(kinds["runs"]), len(kinds["mirrors"]["removed"])) == ([run.handle.tag], 1)
        assert f"runs: would remove {run.handle.tag}" in gc.said
        assert mirror.exists()
        assert slot.complete()
        assert (directory_of(run) / "output").exists()
        assert disk_usage(world.mlproj.directory) == before

    def test_is_told_in_a_table(self, mlproj, world):
        world.environment()
        done = mlproj("gc")
        assert done.stdout.splitlines()[0].split() == ["KIND", "REMOVED", "FREED", "LEFT"]
        assert re.search(r"^environments +1 +1\d\d\.\d kB +0$", done.stdout, re.MULTILINE), done.stdout
        assert "[mlproj] environments: removed eeeeeeeeeeee (e)\n" in done.stderr
        assert "WOULD FREE" in mlproj("gc", "--dry-run").stdout

    def test_may_be_nothing_at_all(self, mlproj, gc):
        assert all(kind == {"removed": [], "freed": 0, "left": 0, "problems": []} for kind in gc().values())


class TestASize:
    def test_takes_what_was_used_the_longest_ago_of_all_kinds(self, gc, world):
        first = world.environment("a", used=30 * DAY)
        second = world.mirror("second", used=20 * DAY)
        third = world.environment("c", used=10 * DAY)
        kinds = gc("--mirrors", "--environments", "--max-size", "150kB")
        assert (first.prefix.exists(), second.exists(), third.complete()) == (False, False, True)
        assert sum(kind["left"] for kind in kinds.values()) == 1

    def test_takes_nothing_where_all_is_small_enough(self, gc, world):
        world.environment(used=300 * DAY)
        assert names(gc("--max-size", "1GB")["environments"]) == []

    def test_comes_after_the_age(self, gc, world):
        world.environment("a", used=30 * DAY)
        world.environment("b", used=5 * DAY)
        assert names(gc("--max-size", "1GB", "--older-than", "7d")["environments"]) == ["aaaaaaaaaaaa (a)"]

    def test_takes_nothing_that_was_used_within_the_hour(self, gc, world):
        run = world.run(ended=60)
        world.environment(used=60)
        kinds = gc("--max-size", "0")
        assert [names(kinds[kind]) for kind in ("runs", "environments")] == [[], []]
        assert (directory_of(run) / "output").exists()

    def test_counts_what_is_in_use(self, gc, world):
        used, idle = world.environment("a", used=30 * DAY), world.environment("b", used=2 * DAY)
        with held(used.in_use_lock, fcntl.LOCK_SH):
            kinds = gc("--environments", "--max-size", "150kB")
        assert names(kinds["environments"]) == ["bbbbbbbbbbbb (b)"]
        assert used.complete()
        assert not idle.prefix.exists()

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            *(("5", 5), ("5B", 5), ("2kB", 2000), ("2KiB", 2048), ("1.5G", 1_500_000_000)),
            *(("20 GB", 20 * 10**9), ("1TiB", 2**40)),
        ],
    )
    def test_has_a_unit(self, text, expected):
        assert size(text) == expected

    @pytest.mark.parametrize("text", ["", "GB", "-1", "5 apples", "1e9", "5PB"])
    def test_that_is_none_is_refused(self, mlproj, text):
        with pytest.raises(BadParameter, match="is no size"):
            size(text)
        done = mlproj("gc", "--max-size", text)
        assert done.returncode == 2
        assert "Give bytes, or a number with a unit: 500MB, 20GB, 1.5TiB." in done.stderr

    def test_is_shown_with_one(self):
        assert [shown(count) for count in (0, 999, 1500, 2e6, 3.25e9, 4e12)] == [
            *("0 B", "999 B", "1.5 kB", "2.0 MB", "3.2 GB", "4.0 TB"),
        ]

    def test_on_the_disk_counts_a_file_with_two_names_once(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d/a").write_bytes(b"x" * 100_000)
        before = disk_usage(tmp_path / "d")
        os.link(tmp_path / "d/a", tmp_path / "d/b")
        assert disk_usage(tmp_path / "d") == before
        assert 100_000 <= before < 120_000


@contextmanager
def held(path, kind):
    """Holds a lock of this kind, as another process does."""
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(f, int(sys.argv[2])); "
        "print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(int(kind))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield
        process.kill()


class TestWhatIsInUse:
    def test_a_run_that_lives_stays(self, gc, world, mlproj):
        run = mlproj_core.submit(mlproj.project("sleep 60"))
        until(lambda: run.phase == "running")
        assert names(gc("--older-than", "0")["runs"]) == []
        assert run.get_status() == "RUNNING"
        run.cancel()

    def test_a_run_whose_output_is_being_read_stays(self, gc, world):
        run = world.run("seq 100000")
        output = run.logs(follow=True)
        next(output)
        assert names(gc()["runs"]) == []
        assert f"left {run.handle.tag}: it is being read" in gc.said
        assert "".join(output).splitlines()[-2] == "100000"
        assert names(gc()["runs"]) == [run.handle.tag]

    def test_a_run_stays_while_one_that_it_started_works_in_its_files(self, gc, world, mlproj, tmp_path):
        work = repository(
            tmp_path / "outer",
            MLproject="entry_points:\n  main:\n    command: "
            f"{sys.executable} -c \"import mlproj_core; mlproj_core.submit('.', 'inner', key='inner')\"\n"
            "  inner:\n    command: sleep 60\n",
        )
        outer = mlproj_core.submit(f"git+file://{work}")
        assert outer.wait(), "".join(outer.logs())
        ended_ago(outer, 40 * DAY)
        inner = mlproj_core.attach(LocalBackend().find("inner"))
        until(lambda: inner.phase == "running")
        assert names(gc()["runs"]) == []
        assert "a run that was started by it works in its files" in gc.said
        assert (directory_of(outer) / "code/MLproject").exists()
        inner.cancel()
        assert names(gc()["runs"]) == [outer.handle.tag]
        assert not (directory_of(outer) / "code").exists()

    def test_a_mirror_that_is_fetched_into_stays(self, gc, world):
        mirror = world.mirror()
        with FileLock(f"{mirror}.lock"):
            assert names(gc()["mirrors"]) == []
        assert "a fetch is under way" in gc.said
        assert mirror.exists()

    def test_an_environment_that_a_run_uses_stays(self, gc, world):
        slot = world.environment()
        with held(slot.in_use_lock, fcntl.LOCK_SH):
            assert names(gc()["environments"]) == []
        assert slot.complete()
        assert names(gc()["environments"]) == ["eeeeeeeeeeee (e)"]

    def test_an_environment_that_is_being_built_stays(self, gc, world):
        slot = world.environment()
        slot.marker.unlink()
        with exclusive(slot.build_lock, None):
            assert names(gc("--dry-run")["environments"]) == []
            assert names(gc()["environments"]) == []
        assert slot.prefix.exists()
        assert names(gc()["environments"]) == ["eeeeeeeeeeee (never completed)"]

    def test_a_checkout_under_way_stays_and_one_of_a_dead_process_goes(self, gc, world, mlproj):
        with workspace() as used:
            dead = used.with_name("work-dead")
            (dead / "checkout-x").mkdir(parents=True)
            for path in (used, dead):
                used_ago(path, 2 * DAY)
            kinds = gc("--older-than", "365d")
            assert names(kinds["checkouts"]) == ["work-dead"]
            assert used.exists()
            assert not dead.exists()
        assert not used.exists()

    def test_runs_may_be_started_meanwhile(self, mlproj, world):
        with ThreadPoolExecutor(2) as pool:
            cleaning = [
                subprocess.Popen(
                    [PROGRAM, "gc", "--older-than", "0"],
                    env=mlproj.environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for _ in range(3)
            ]
            project = mlproj.project("true")
            runs = list(pool.map(lambda number: mlproj_core.submit(project, key=str(number % 5)), range(30)))
            assert [process.wait(60) for process in cleaning] == [0] * 3
        for run in runs:
            run.wait()
            assert run.get_status() == "FINISHED"


class TestAStep:
    """What is removed of a run must not start its step again."""

    def test_whose_run_no_server_knows_keeps_its_end_and_its_result(self, gc, world, mlproj):
        project = mlproj.project("echo '{\"rows\": 3}' > $MLPROJ_RESULT; echo once >> $PWD/starts")
        run = mlproj_core.submit(project, key="step", turn=1)
        run.wait()
        ended_ago(run, 40 * DAY)
        assert names(gc()["runs"]) == [run.handle.tag]
        assert disk_usage(directory_of(run)) < 60_000
        again = mlproj_core.submit(project, key="step", turn=2)
        assert (again.handle, again.get_status()) == (run.handle, "FINISHED")
        assert again.result().result == {"rows": 3}
        assert list(again.logs(follow=True)) == []
        assert "it was pruned" in mlproj("logs", run.handle.tag).stderr
        assert (mlproj.directory / "project-1/starts").read_text() == "once\n"
        # There is nothing more to take.
        assert names(gc("--older-than", "0")["runs"]) == []

    def test_is_forgotten_after_a_year(self, gc, world):
        run = world.run(ended=300 * DAY)
        gc()
        assert names(gc()["runs"]) == []
        ended_ago(run, 366 * DAY)
        assert names(gc()["runs"]) == [run.handle.tag]
        assert not directory_of(run).parent.exists()
        assert (run.get_status(), run.reason.code) == ("FAILED", "forgotten")

    def test_that_was_cancelled_before_it_began_stays_cancelled(self, gc, world, mlproj):
        assert mlproj("cancel", "--key", "step", "--turn", "1").returncode == 0
        tombstone = mlproj_core.attach(LocalBackend().find("step"))
        ended_ago(tombstone, 40 * DAY)
        gc()
        assert mlproj_core.submit(mlproj.project("true"), key="step", turn=1).get_status() == "KILLED"

    def test_keeps_of_several_attempts_the_newest(self, gc, world, mlproj):
        project = mlproj.project("exit 1")
        runs = []
        for turn in (1, 2):
            runs.append(mlproj_core.submit(project, key="step", turn=turn))
            runs[-1].wait()
        for run in runs:
            ended_ago(run, 40 * DAY)
        first, second = runs
        assert [run.handle.attempt for run in (first, second)] == [1, 2]
        gc()
        assert not directory_of(first).exists()
        assert LocalBackend().find("step").attempt == 2
        assert second.reason.code == "project_code"


class TestARunOnATrackingServer:
    @pytest.fixture
    def tracked(self, mlproj, mlflow_server, monkeypatch):
        monkeypatch.delenv("MLPROJ_TRACKING")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        del mlproj.environment["MLPROJ_TRACKING"]
        mlproj.environment["MLFLOW_TRACKING_URI"] = mlflow_server
        return mlproj

    def test_goes_as_a_whole_and_is_not_run_again(self, tracked, gc, world):
        project = tracked.project("echo once >> $PWD/starts")
        key = str(tracked.directory)
        run = mlproj_core.submit(project, key=key, turn=1)
        run.wait()
        ended_ago(run, 40 * DAY)
        assert names(gc()["runs"]) == [run.handle.tag]
        assert not directory_of(run).parent.exists()
        assert run.get_status() == "FINISHED"
        again = mlproj_core.submit(project, key=key, turn=2)
        assert (again.run_id, again.get_status()) == (run.run_id, "FINISHED")
        assert (tracked.directory / "project-1/starts").read_text() == "once\n"

    def test_stays_until_its_server_has_heard_of_its_end(self, tracked, gc, world):
        run = world.run()
        directory = directory_of(run)
        record = json.loads((directory / "record.json").read_text())
        (directory / "record.json").write_text(json.dumps({**record, "tracking_uri": "http://127.0.0.1:9"}))
        forget_delivery(directory)
        assert names(gc()["runs"]) == []
        assert "its tracking server has not heard of its end yet" in gc.said
        (directory / "record.json").write_text(json.dumps(record))
        assert names(gc()["runs"]) == [run.handle.tag]
        assert not directory.exists()

    def test_that_was_deleted_there_keeps_its_end_here(self, tracked, gc, world):
        from mlproj_core.tracking import connect

        run = world.run()
        directory = directory_of(run)
        connect(None)._session.post("/api/2.0/mlflow/runs/delete", {"run_id": run.run_id}, doing="delete it")
        forget_delivery(directory)
        assert names(gc()["runs"]) == [run.handle.tag]
        assert "will never be delivered" in gc.said
        assert not (directory / "output").exists()
        assert run.get_status() == "FINISHED"


class TestLogs:
    def test_are_taken_alone_when_only_they_are_named(self, gc, world, mlproj):
        run = world.run("seq 100000; echo '{\"rows\": 3}' > $MLPROJ_RESULT")
        kinds = gc("--logs", "--older-than", "7d")
        assert (list(kinds), names(kinds["logs"])) == (["logs"], [run.handle.tag])
        assert kinds["logs"]["freed"] > 500_000
        assert mlproj("logs", run.handle.tag).returncode == 2
        assert run.result().result == {"rows": 3}
        assert (directory_of(run) / "claim.json").exists()

    def test_are_the_runs_own_where_both_are_named(self, gc, world):
        world.run()
        assert list(gc("--logs", "--runs")) == ["runs"]


class TestWhatAKilledProcessLeft:
    def test_goes_whatever_its_age(self, gc, world, mlproj):
        run = world.run(ended=60)
        slot, mirror = world.environment(used=60), world.mirror(used=60)
        left = [
            directory_of(run).parent / ".claim-1",
            directory_of(run).parent / ".pruned-1",
            mirror.with_name(f"{mirror.name}.incoming-1"),
            mirror.with_name(f"{mirror.name}.doomed-1"),
            slot.prefix.with_name(f".removed-{slot.key}-1"),
        ]
        for path in left:
            (path / "data").mkdir(parents=True)
            used_ago(path, 2 * 3600)
        gc("--older-than", "365d")
        assert [path for path in left if path.exists()] == []
        assert mirror.exists()
        assert slot.complete()
        assert (directory_of(run) / "output").exists()

    def test_does_not_go_if_it_may_have_been_made_this_moment(self, gc, world):
        parent = directory_of(world.run()).parent
        (parent / ".claim-1").mkdir()
        gc("--older-than", "365d")
        assert (parent / ".claim-1").exists()


class TestTwoAtOnce:
    def test_share_the_work(self, mlproj, world):
        runs = [world.run() for _ in range(8)]
        slots = [world.environment(name) for name in "abcdef"]
        world.mirror()
        processes = [
            subprocess.Popen(
                [PROGRAM, "gc", "--json"], env=mlproj.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(3)
        ]
        answers = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0] * 3, answers
        assert not any(slot.prefix.exists() for slot in slots)
        assert not any((directory_of(run) / "output").exists() for run in runs)
        assert list_environments() == []
        assert [path.name for path in (world.cache / "git").iterdir() if path.is_dir()] == []


class TestWhatCannotBeRemoved:
    @pytest.fixture
    def unprivileged(self, mlproj):
        """A user to whom what root makes does not belong, where the tests run as root."""
        if os.geteuid() != 0:
            return []
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if subprocess.run([*words, PROGRAM, "--version"], capture_output=True).returncode != 0:
            missing("the tests run as root, and nobody else may run the program, so nothing can be forbidden to it")
        return words

    def test_is_told_and_the_rest_goes(self, mlproj, world, unprivileged):
        first, second = world.environment("a"), world.environment("b")
        mlproj.directory.chmod(0o777)
        for path in [mlproj.directory, *mlproj.directory.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o777 if path.is_dir() else 0o666)
        for parent in mlproj.directory.parents:
            if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        (first.prefix / "kept").mkdir()
        (first.prefix / "kept/file").write_text("x")
        (first.prefix / "kept").chmod(0o555)
        done = subprocess.run(
            [*unprivileged, PROGRAM, "gc", "--environments", "--json"],
            env={**mlproj.environment, "HOME": str(mlproj.directory)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        (first.prefix / "kept").exists() and (first.prefix / "kept").chmod(0o755)
        assert done.returncode == 1, done.stderr
        told = json.loads(done.stdout)["kinds"]["environments"]
        assert names(told) == ["bbbbbbbbbbbb (b)"]
        assert "ermission denied" in told["problems"][0]["error"]
        assert "Traceback" not in done.stderr
        assert not second.prefix.exists()


class TestCollect:
    """The rule by itself."""

    def item(self, name, idle, size=1, **more):
        gone = self.gone = getattr(self, "gone", [])
        return Item("things", name, time.time() - idle, lambda: size, lambda: gone.append(name), **more)

    def collect(self, *items, **limits):
        return collect(items, report=lambda line: None, **limits)["things"]

    def test_the_dead_go_first_then_the_oldest(self):
        items = [self.item("new", 5000), self.item("old", 9000), self.item("dead", 10, dead=True)]
        tally = self.collect(*items, max_size=1)
        assert self.gone == ["dead", "old"]
        assert (tally.left, tally.freed) == (1, 2)

    def test_what_says_no_stays_and_the_next_one_goes(self):
        no = Item("things", "no", 0.0, lambda: 1, lambda: "it is busy")
        tally = self.collect(no, self.item("next", 5000), max_size=1)
        assert self.gone == ["next"]
        assert tally.left == 1

    def test_an_error_is_told_and_the_rest_goes(self):
        def fail():
            raise PermissionError(13, "Permission denied")

        bad = Item("things", "bad", 0.0, lambda: 1, fail)
        tally = self.collect(bad, self.item("next", 5000), older_than=10)
        assert tally.problems == [("bad", "[Errno 13] Permission denied")]
        assert self.gone == ["next"]

    def test_without_a_limit_only_the_dead_go(self):
        self.collect(self.item("old", 1e9), self.item("dead", 0, dead=True))
        assert self.gone == ["dead"]
