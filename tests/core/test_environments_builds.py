"""Environments under many hands: builds at once, builds cut off at any moment, and pruning beside use."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from package_world import Build, PackageIndex, builders, clean_host, package, processes_naming, until, wheel

from mlproj_core.environments import (
    build_request,
    environment_manager,
    list_environments,
    prune_environments,
    still_there,
)
from mlproj_core.environments.cache import network_file_system
from mlproj_core.environments.environment import MARKER_NAME
from mlproj_core.environments.recipe import Recipe


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    return clean_host(monkeypatch, tmp_path)


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index with alpha, the only one in this world."""
    wheel(tmp_path / "packages", "alpha")
    index = PackageIndex(tmp_path / "packages")
    monkeypatch.setenv("PIP_INDEX_URL", index.url())
    yield index
    index.close()


@pytest.fixture
def build(tmp_path, project):
    """Starts builders."""
    with builders(tmp_path) as start:
        yield lambda *lines, **how: start(build_request("uv", Recipe(dependencies=lines), project), **how)


def environments(tmp_path):
    """Names below the cache's directory of environments, the locks left out."""
    return sorted(path.name for path in (tmp_path / "cache" / "envs").iterdir() if path.name != ".locks")


def ensure(directory, *dependencies):
    return environment_manager("uv").ensure(Recipe(dependencies=dependencies), directory, lambda line: None)


class TestBuildsAtOnce:
    def test_ten_processes_that_want_the_same_environment_build_it_once(self, build, index, tmp_path):
        index.hold = "/files/"
        builds = [build("alpha", name=f"build-{number}") for number in range(10)]
        assert index.held.wait(20)
        until(lambda: sum("waiting for environment" in one.log() for one in builds) == 9, 20)
        index.release.set()
        results = [one.wait() for one in builds]
        assert {status for status, _ in results} == {0}
        assert sum("building environment" in one.log() for one in builds) == 1
        assert sorted(answer["environment"]["hit"] for _, answer in results) == [False] + [True] * 9
        assert len({answer["environment"]["key"] for _, answer in results}) == 1
        assert len(environments(tmp_path)) == 1

    def test_different_environments_are_built_in_parallel(self, build, index, tmp_path):
        wheel(tmp_path / "packages", "beta")
        index.hold = "/simple/"
        builds = [build("alpha", name="one"), build("beta", name="two")]
        until(lambda: {"/simple/alpha/", "/simple/beta/"} <= set(index.asked))
        assert not index.release.is_set()
        index.release.set()
        assert [one.wait()[0] for one in builds] == [0, 0]
        assert len(environments(tmp_path)) == 2

    def test_threads_of_one_process_build_it_once_too(self, project, tmp_path):
        package(project / "lib", "gamma")
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: ensure(project, "./lib"), range(4)))
        assert sorted(one.hit for one in made) == [False, True, True, True]


INTERRUPTED = """
import os, pathlib, signal, subprocess, threading
from mlproj_core.environments.program import run_program

class Stopped(BaseException):
    pass

def stop(number, frame):
    raise Stopped

def interrupted(*arguments, **more):
    answer = original(*arguments, **more)
    os.kill(os.getpid(), signal.SIGTERM)
    return answer

original = {instant}
{instant} = interrupted
signal.signal(signal.SIGTERM, stop)
here = pathlib.Path.cwd()
try:
    run_program(
        ["bash", "-c", "sleep 60; : of " + str(here)], environment=os.environ, directory=here, secrets=(), report=print
    )
except Stopped:
    print("stopped")
"""


class TestABuildCutOff:
    MOMENTS = ("no environment yet", "a bare virtual environment", "resolving", "downloading", "building a package")

    def stop_at(self, moment, build, index, project, tmp_path):
        """A builder that has come as far as the moment, and cannot go on by itself."""
        if moment == "building a package":
            package(project / "lib", "gamma")
            backend = project / "lib" / "backend.py"
            reached = tmp_path / "reached"
            pause = f"import time\nopen({str(reached)!r}, 'w').close()\ntime.sleep(60 if {{}} else 0)\n"
            wait = f"__import__('os').path.exists({str(tmp_path / 'slow')!r})"
            backend.write_text(pause.format(wait) + backend.read_text())
            (tmp_path / "slow").touch()
            one = build("./lib")
            until(reached.exists)
            return one
        index.hold = "/files/" if moment == "downloading" else "/simple/"
        one = build("alpha")
        folder = tmp_path / "cache" / "envs"
        if moment == "no environment yet":
            until(lambda: folder.exists() or "building" in one.log())
        elif moment == "a bare virtual environment":
            until(lambda: list(folder.glob("*/pyvenv.cfg")))
        else:
            assert index.held.wait(20)
        return one

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_by_a_kill_is_never_taken_for_a_whole_one(self, build, index, project, tmp_path, moment):
        one = self.stop_at(moment, build, index, project, tmp_path)
        one.process.kill()
        assert one.process.wait() == -signal.SIGKILL
        index.release.set()
        (tmp_path / "slow").unlink(missing_ok=True)
        until(lambda: not processes_naming(f"{tmp_path}/cache/envs"))
        assert not list((tmp_path / "cache" / "envs").glob(f"*/{MARKER_NAME}"))
        assert not one.result_path.exists()
        wanted = ["./lib"] if moment == "building a package" else ["alpha"]
        assert environment_manager("uv").find(Recipe(dependencies=tuple(wanted)), project) is None
        for process in filter(None, [self.left_behind(tmp_path)]):
            os.kill(process, signal.SIGKILL)  # it holds the lock until it ends, which a test need not wait for
        status, answer = build(*wanted, name="again").wait()
        assert status == 0
        assert not answer["environment"]["hit"]
        assert len(environments(tmp_path)) == 1

    @staticmethod
    def left_behind(tmp_path):
        """The process of a package's own build, an orphan since uv was killed."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "cwd").readlink() == tmp_path / "project" / "lib":
                    return int(path.name)
            except OSError:
                continue
        return None

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_by_term_ends_the_whole_installer_and_leaves_nothing(self, build, index, project, tmp_path, moment):
        one = self.stop_at(moment, build, index, project, tmp_path)
        if moment in ("resolving", "downloading"):
            assert processes_naming(f"{tmp_path}/cache/envs")
        one.process.terminate()
        status, answer = one.wait(15)
        assert status == 128 + signal.SIGTERM
        assert answer["error"]["code"] == "cancelled"
        assert "SIGTERM" in answer["error"]["message"]
        assert processes_naming(f"{tmp_path}/cache/envs") == []
        assert self.left_behind(tmp_path) is None
        assert environments(tmp_path) == []

    @pytest.mark.parametrize("instant", ["subprocess.Popen._execute_child", "threading.Thread.start"])
    def test_by_term_in_the_moment_an_installer_begins_ends_it(self, tmp_path, instant):
        script = tmp_path / "script.py"
        script.write_text(INTERRUPTED.format(instant=instant))
        told = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert (told.stdout, told.stderr) == ("stopped\n", "")
        assert processes_naming(f"of {tmp_path}") == []

    def test_by_the_end_of_a_waiting_process_disturbs_nobody(self, build, index):
        index.hold = "/files/"
        builder = build("alpha", name="builder")
        assert index.held.wait(20)
        waiter = build("alpha", name="waiter")
        until(lambda: "waiting for environment" in waiter.log())
        waiter.process.terminate()
        assert waiter.wait()[0] == 128 + signal.SIGTERM
        index.release.set()
        assert builder.wait()[0] == 0

    def test_is_taken_up_by_one_that_waited(self, build, index):
        index.hold = "/files/"
        first = build("alpha", name="first")
        assert index.held.wait(20)
        second = build("alpha", name="second")
        until(lambda: "waiting for environment" in second.log())
        first.process.kill()
        index.release.set()
        status, answer = second.wait()
        assert status == 0
        assert not answer["environment"]["hit"]


class TestABuildThatFails:
    def test_leaves_uvs_words_in_the_result_and_in_the_log(self, build, index, tmp_path):
        one = build("alpha==9")
        status, answer = one.wait()
        assert status == 1
        assert answer["error"]["code"] == "environment"
        assert "no version of alpha==9" in answer["error"]["message"]
        assert "no version of alpha==9" in one.log()
        assert environments(tmp_path) == []

    def test_by_a_mistake_of_the_user_says_so(self, build, index):
        status, answer = build("-r missing.txt").wait()
        assert status == 2
        assert answer["error"]["code"] == "user_input"

    def test_because_the_cache_cannot_be_written_is_no_traceback(self, build, tmp_path):
        (tmp_path / "file").touch()
        one = build(MLPROJ_CACHE_DIR=str(tmp_path / "file"))
        status, answer = one.wait()
        assert status == 1
        assert "Not a directory" in answer["error"]["message"] or "File exists" in answer["error"]["message"]
        assert "Traceback" not in one.log()

    def test_reads_lines_with_a_password_from_the_project_itself(self, build, index, project, tmp_path):
        line = f"--extra-index-url http://me:s3cr3t@localhost:{index.port}/simple/"
        (project / "python_env.yaml").write_text(f"dependencies:\n  - {line}\n  - alpha==9\n")
        request = build_request("uv", Recipe(dependencies=(line, "alpha==9")), project)
        one = Build(tmp_path, request, "secret")
        _, answer = one.wait()
        assert "no version of alpha==9" in answer["error"]["message"]
        assert "s3cr3t" not in one.log() + str(answer) + str(request)


class TestPruning:
    def hold(self, environment):
        """Hold an environment as a run does, from another process."""
        code = (
            "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); "
            "print('held', flush=True); time.sleep(60)"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, environment.in_use_lock], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout.readline() == "held\n"
        return holder

    def test_takes_what_nobody_uses_and_leaves_what_is_in_use(self, project):
        package(project / "lib", "gamma")
        used, unused = ensure(project), ensure(project, "./lib")
        said = []
        with self.hold(used) as holder:
            assert {one.key: one.in_use for one in list_environments()} == {used.key: True, unused.key: False}
            assert [one.key for one in prune_environments(report=said.append)] == [unused.key]
            holder.kill()
        assert still_there(used)
        assert not still_there(unused)
        assert not unused.prefix.exists()
        assert any(used.key[:12] in line and "in use" in line for line in said)
        assert [one.key for one in prune_environments()] == [used.key]
        assert list_environments() == []

    def test_takes_what_was_idle_for_long_enough(self, project):
        package(project / "lib", "gamma")
        old, new = ensure(project), ensure(project, "./lib")
        long_ago = time.time() - 3600
        os.utime(old.in_use_lock, (long_ago, long_ago))
        assert [one.key for one in list_environments()] == [new.key, old.key]
        assert [one.key for one in prune_environments(older_than=1800)] == [old.key]
        assert still_there(new)

    def test_counts_every_find_as_a_use(self, project):
        environment = ensure(project)
        long_ago = time.time() - 3600
        os.utime(environment.in_use_lock, (long_ago, long_ago))
        assert environment_manager("uv").find(None, project) is not None
        assert prune_environments(older_than=1800) == []

    def test_takes_what_was_cut_off_and_leaves_what_is_being_built(self, build, index, tmp_path):
        index.hold = "/files/"
        one = build("alpha")
        assert index.held.wait(20)
        assert [info.complete for info in list_environments()] == [False]
        assert prune_environments(older_than=0) == []
        one.process.kill()
        until(lambda: not processes_naming(f"{tmp_path}/cache/envs"))
        assert len(until(lambda: prune_environments(older_than=3600))) == 1
        assert environments(tmp_path) == []

    def test_takes_one_whose_editable_package_is_gone(self, tmp_path):
        checkout = tmp_path / "checkout"
        package(checkout / "lib", "gamma")
        environment = ensure(checkout, "-e ./lib")
        assert list_environments()[0].editable == (str(checkout / "lib"),)
        assert prune_environments(older_than=3600) == []
        (checkout / "lib").rename(tmp_path / "gone")
        assert [one.key for one in prune_environments(older_than=3600)] == [environment.key]

    def test_finishes_a_removal_that_was_cut_off(self, project, tmp_path):
        ensure(project)
        left = tmp_path / "cache" / "envs" / ".removed-abc-1"
        left.mkdir()
        prune_environments(older_than=3600)
        assert not left.exists()

    def test_between_the_making_and_the_lock_is_noticed_by_the_user(self, project):
        environment = ensure(project)
        prune_environments()
        with environment.in_use_lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            assert not still_there(environment)
        assert not ensure(project).hit

    def test_and_making_at_once_end_in_a_usable_environment(self, project):
        package(project / "lib", "gamma")
        stop = threading.Event()

        def prune():
            while not stop.is_set():
                prune_environments()

        pruner = threading.Thread(target=prune)
        pruner.start()
        try:
            for _ in range(5):
                while True:
                    environment = ensure(project, "./lib")
                    with environment.in_use_lock.open() as lock:
                        fcntl.flock(lock, fcntl.LOCK_SH)
                        if still_there(environment):
                            done = subprocess.run([environment.prefix / "bin" / "python", "-c", "import gamma"])
                            assert done.returncode == 0
                            break
        finally:
            stop.set()
            pruner.join()

    def test_can_tell_what_each_environment_is_for_and_how_large(self, project):
        made = ensure(project)
        (info,) = list_environments()
        assert info.purpose == str(project)
        assert info.manager == "uv"
        assert info.python == ".".join(map(str, sys.version_info[:3]))
        assert info.created <= info.last_used <= time.time()
        assert info.size() > (made.prefix / MARKER_NAME).stat().st_size > 0


class TestANetworkFileSystem:
    MOUNTS = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "23 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw\n"
        "24 23 0:41 / /home/me/with\\040space rw - tmpfs tmpfs rw\n"
        "25 22 0:42 / /homely rw - cifs //server/share rw\n"
    )

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/var/cache", None),
            ("/home/me/.cache/mlproj", "nfs4"),
            ("/home/me/with space/cache", None),
            ("/homely/x", "cifs"),
        ],
    )
    def test_is_known_by_the_mount_that_the_cache_lies_on(self, tmp_path, path, kind):
        mounts = tmp_path / "mountinfo"
        mounts.write_text(self.MOUNTS)
        assert network_file_system(Path(path), mounts) == kind

    def test_is_warned_of_when_an_environment_is_built_there(self, project, monkeypatch):
        monkeypatch.setattr("mlproj_core.environments.cache.network_file_system", lambda path: "nfs4")
        said = []
        environment_manager("uv").ensure(None, project, said.append)
        assert "nfs4" in next(line for line in said if line.startswith("warning"))
        said.clear()
        environment_manager("uv").ensure(None, project, said.append)
        assert said == []
