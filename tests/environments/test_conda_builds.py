"""Building conda environments: cut off at any moment, many at once."""

import signal
from pathlib import Path

import pytest
from conda_world import CondaServer, Package, clean_conda, index
from package_world import builders, clean_host, processes_naming, until

from mlproj_core.environments import build_request, environment_manager, list_environments
from mlproj_core.environments.conda_cache import stored
from mlproj_core.environments.environment import MARKER_NAME
from mlproj_core.housekeeping import collect
from mlproj_core.spec import load_project


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    home = clean_host(monkeypatch, tmp_path)
    clean_conda(monkeypatch)
    return home


@pytest.fixture
def server(tmp_path):
    """A channel over HTTP with two packages, one of which takes long to finish its installation if it is told to."""
    channel = tmp_path / "channel"
    Package("quick", noarch="generic").file("share/quick", "quick").write(channel)
    slow = f'touch "{tmp_path}/reached"; while [ -e "{tmp_path}/slow" ]; do sleep 0.05; done\n'
    Package("slow").file("bin/.slow-post-link.sh", f"#!/bin/sh\n{slow}", 0o755).write(channel, "tar.bz2")
    server = CondaServer(index(channel))
    yield server
    server.close()


@pytest.fixture
def project(tmp_path, server):
    folder = tmp_path / "code"
    folder.mkdir()
    text = f"channels: [{server.url()}, nodefaults]\ndependencies: [quick, slow]\n"
    (folder / "conda.yaml").write_text(text)
    return folder


@pytest.fixture
def build(tmp_path, project):
    """Starts builders."""
    with builders(tmp_path) as start:
        yield lambda **how: start(build_request("conda", load_project(project).environment, project), **how)


def environments(tmp_path):
    """Names below the cache's directory of environments, the locks left out."""
    return sorted(path.name for path in (tmp_path / "cache" / "envs").iterdir() if path.name != ".locks")


class TestBuildsAtOnce:
    def test_ten_processes_that_want_the_same_environment_build_it_once(self, build, server, tmp_path):
        server.hold = "quick-1.0"
        builds = [build(name=f"build-{number}") for number in range(10)]
        assert server.held.wait(60)
        until(lambda: sum("waiting for environment" in one.log() for one in builds) == 9, 60)
        server.release.set()
        results = [one.wait(60) for one in builds]
        assert {status for status, _ in results} == {0}
        assert sum("building conda environment" in one.log() for one in builds) == 1
        assert sorted(answer["environment"]["hit"] for _, answer in results) == [False] + [True] * 9
        assert len({answer["environment"]["key"] for _, answer in results}) == 1
        assert len(environments(tmp_path)) == 1
        assert sum("quick-1.0" in path for path in server.asked) == 1


class TestTheSharedPackages:
    def test_are_left_while_they_are_installed_and_removed_after_that(self, build, server, project, tmp_path):
        server.hold = "quick-1.0"
        one = build()
        assert server.held.wait(60)
        kept = []
        assert collect(stored(), older_than=0, report=kept.append)["packages"].removed == []
        assert "packages of it are being installed" in kept[-1]
        server.release.set()
        status, answer = one.wait(60)
        assert status == 0
        tally = collect(stored(), older_than=0, report=print)["packages"]
        assert tally.freed > 0
        assert not (tmp_path / "cache" / "conda" / "pkgs").exists()
        assert (Path(answer["environment"]["prefix"]) / "share" / "quick").read_text() == "quick"
        assert list(stored()) == []


class TestABuildCutOff:
    MOMENTS = ("solving", "downloading", "finishing a package")

    def stop_at(self, moment, build, server, tmp_path):
        """A builder that has come as far as the moment, and cannot go on by itself."""
        if moment == "finishing a package":
            (tmp_path / "slow").touch()
            one = build()
            until((tmp_path / "reached").exists, 60)
            return one
        server.hold = "repodata" if moment == "solving" else "quick-1.0"
        one = build()
        assert server.held.wait(60)
        return one

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_by_a_kill_is_never_taken_for_a_whole_one(self, build, server, project, tmp_path, moment):
        one = self.stop_at(moment, build, server, tmp_path)
        one.process.kill()
        assert one.process.wait() == -signal.SIGKILL
        server.release.set()
        (tmp_path / "slow").unlink(missing_ok=True)
        assert not list((tmp_path / "cache" / "envs").glob(f"*/{MARKER_NAME}"))
        assert not one.result_path.exists()
        assert environment_manager("conda").find(load_project(project).environment, project) is None
        status, answer = build(name="again").wait(60)
        assert status == 0
        assert not answer["environment"]["hit"]
        assert len(environments(tmp_path)) == 1

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_by_term_ends_all_that_was_started_and_leaves_nothing(self, build, server, tmp_path, moment):
        one = self.stop_at(moment, build, server, tmp_path)
        one.process.terminate()
        status, answer = one.wait(30)
        assert status == 128 + signal.SIGTERM
        assert answer["error"]["code"] == "cancelled"
        assert processes_naming(f"{tmp_path}/cache/envs") == []
        assert environments(tmp_path) == []
        assert [info.key for info in list_environments()] == []


class TestABuildWithASecret:
    def test_reads_it_from_the_project_itself_and_shows_it_nowhere(self, build, project, server, tmp_path):
        server.token = server.watch_for = "tk-0123-456"
        (project / "conda.yaml").write_text(f"channels: [{server.url()}, nodefaults]\ndependencies: [quick]\n")
        one = build()
        status, answer = one.wait(60)
        assert status == 0, one.log()
        assert server.asked
        assert server.seen == []
        assert "tk-0123-456" not in one.log() + str(answer) + (tmp_path / "build-request.json").read_text()


class TestABuildThatFails:
    def test_leaves_the_solvers_words_in_the_result(self, build, project, server, tmp_path):
        (project / "conda.yaml").write_text(f"channels: [{server.url()}, nodefaults]\ndependencies: [quick >2]\n")
        status, answer = build().wait(60)
        assert status == 1
        assert answer["error"]["code"] == "environment"
        assert not answer["error"]["retryable"]
        assert "No candidates were found for quick >2" in answer["error"]["message"]
        assert environments(tmp_path) == []

    def test_by_a_package_that_is_not_what_its_channel_says(self, build, server, tmp_path):
        path = server.directory / "noarch" / "quick-1.0-0.conda"
        path.write_bytes(path.read_bytes() + b"more")
        status, answer = build().wait(60)
        assert status == 1
        assert "quick-1.0" in answer["error"]["message"]
        assert environments(tmp_path) == []

    def test_by_a_mistake_of_the_user_says_so(self, build, monkeypatch):
        monkeypatch.setenv("CONDA_CHANNEL_PRIORITY", "highest")
        status, answer = build().wait(60)
        assert status == 2
        assert answer["error"]["code"] == "user_input"
        assert "the variable CONDA_CHANNEL_PRIORITY" in answer["error"]["message"]
