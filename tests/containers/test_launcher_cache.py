"""What launchers share and fetch: a cache of environments that many pods use at once, and data."""

import hashlib
import os

import pytest
from data_world import DataServer
from launcher_world import WHERE, own_package
from launcher_world import index as index
from launcher_world import world as world
from package_world import PackageIndex, until


class TestACache:
    """A directory that outlives the pod, and is shared by many."""

    @pytest.fixture
    def slow(self, index, world):
        """An index of its own, that can hold its answers back."""
        slow = PackageIndex(index.directory)
        world.variables["PIP_INDEX_URL"] = slow.url()
        yield slow
        slow.close()

    def prefix(self, launched):
        return launched.output().splitlines()[-1].split(") ")[1].split()[0]

    def test_gives_the_next_pod_the_environment(self, world, slow):
        prefixes = []
        for number in range(2):
            launched, code = world.run(
                "python main.py", {"main.py": f"{WHERE}; {number}"}, packages=["greeting"], cache=True
            )
            assert code == 0, launched.output()
            prefixes.append(self.prefix(launched))
            asked, slow.asked = slow.asked, []
        assert prefixes[0] == prefixes[1]
        assert prefixes[0].startswith("/mlproj-cache/envs/")
        assert asked == []
        assert "found ready in /mlproj-cache" in launched.output()

    def test_tells_environments_apart_by_all_that_decides_them(self, world):
        prefixes = set()
        base = {"main.py": WHERE, "requirements.txt": "greeting"}
        for files, packages, variables in (
            (base, ["-r requirements.txt"], {}),
            ({**base, "main.py": f"{WHERE}; 1"}, ["-r requirements.txt"], {}),  # the same as the first one
            ({**base, "requirements.txt": "greeting\ntool"}, ["-r requirements.txt"], {}),
            (base, ["greeting==1.0"], {}),
            (base, ["greeting==1.0"], {"UV_NO_BINARY_PACKAGE": "nothing"}),
            (base, ["greeting==1.0"], {"UV_HTTP_TIMEOUT": "100"}),  # the same as the one but one before
        ):
            launched, code = world.run("python main.py", files, packages=packages, variables=variables, cache=True)
            assert code == 0, launched.output()
            prefixes.add(self.prefix(launched))
        assert len(prefixes) == 4

    def test_that_two_ask_for_the_same_at_once_makes_it_once(self, world, slow):
        slow.hold = "greeting"
        first = world.start("python main.py", {"main.py": WHERE}, packages=["greeting"], cache=True)
        until(slow.held.is_set, 60)
        second = world.start("python main.py", {"main.py": WHERE}, packages=["greeting"], cache=True)
        second.until("waiting for another one that makes it")
        slow.release.set()
        assert (first.wait(), second.wait()) == (0, 0)
        assert self.prefix(first) == self.prefix(second)
        assert "found ready" in second.output()

    def test_outlives_the_death_of_a_builder(self, world, slow):
        slow.hold = "greeting"
        first = world.start("python main.py", {"main.py": WHERE}, packages=["greeting"], cache=True)
        until(slow.held.is_set, 60)
        first.kill("KILL")
        assert first.wait() == 137
        slow.release.set()
        second, code = world.run("python main.py", {"main.py": WHERE}, packages=["greeting"], cache=True)
        assert code == 0, second.output()
        assert "no sign of life" in second.output()
        half_made = [
            path.parent for path in world.cache.glob("envs/*/*/beat") if path.parent.name not in self.prefix(second)
        ]
        assert len(half_made) == 1

    def test_is_left_tidy_by_a_builder_that_is_told_to_end(self, world, slow):
        slow.hold = "greeting"
        launched = world.start("true", packages=["greeting"], cache=True)
        until(slow.held.is_set, 60)
        launched.kill("TERM")
        assert launched.wait() == 143
        assert "ended by SIGTERM before the project was started" in launched.output()
        assert list(world.cache.glob("envs/*/*")) == []
        slow.release.set()
        launched, code = world.run("true", packages=["greeting"], cache=True)
        assert (code, "no sign of life" in launched.output()) == (0, False)

    def test_that_cannot_be_written_is_left_aside_aloud(self, world):
        world.cache.chmod(0o755)
        launched, code = world.run("python main.py", {"main.py": WHERE}, packages=["greeting"], cache=True)
        assert code == 0, launched.output()
        assert "[mlproj] warning: the cache cannot be written by user 1000" in launched.output()
        assert self.prefix(launched).startswith("/mlflow/projects/")

    def test_shares_no_environment_that_points_at_the_project(self, world):
        files = {f"own/{name}": text for name, text in own_package().items()}
        launched, code = world.run("python -c 'import own'", files, packages=["-e own"], cache=True)
        assert code == 0, launched.output()
        assert list(world.cache.glob("envs/*")) == []


class TestADownload:
    @pytest.fixture
    def server(self):
        server = DataServer()
        yield server
        server.close()

    def run(self, world, uri, command="sha256sum < /mlflow/projects/data/x/file", **options):
        data = {"parameter": "data", "uri": uri, "path": "/mlflow/projects/data/x/file"}
        return world.run(command, downloads=[data], variables={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}, **options)

    def test_goes_on_where_the_connection_was_cut(self, world, server):
        content = os.urandom(3_000_000)
        launched, code = self.run(world, server.serve("/file", content, cuts=[1_000_000, 1_000_000]))
        assert (code, launched.output().split()[-2]) == (0, hashlib.sha256(content).hexdigest())
        assert [one.get("range") for one in server.asked("/file")] == [None, "bytes=1000000-", "bytes=2000000-"]

    @pytest.mark.parametrize("how", [{"etag": None}, {"etag": 'W/"1"'}, {"ranges": False}, {"swap": b"new"}])
    def test_begins_anew_where_it_cannot_go_on(self, world, server, how):
        content = os.urandom(1_000_000)
        launched, code = self.run(world, server.serve("/file", content, cuts=[500_000], **how))
        expected = hashlib.sha256(how.get("swap", content)).hexdigest()
        assert (code, launched.output().split()[-2]) == (0, expected)

    def test_that_cannot_be_had_is_the_reason(self, world, server):
        launched, code = self.run(world, f"{server.uri}/nothing?sig=geheim")
        reason = launched.reason()
        assert (code, reason["code"], reason["retryable"]) == (70, "data", False)
        assert reason["message"] == f"{server.uri}/nothing cannot be read: HTTP 404 Not Found"
        assert "geheim" not in launched.output()
        launched, code = self.run(world, server.serve("/busy", b"x", statuses=[503] * 9))
        assert (code, launched.reason()["retryable"]) == (70, True)
        assert "HTTP 503 Service Unavailable (3 tries)" in launched.reason()["message"]

    def test_of_another_scheme_needs_a_library_in_the_environment(self, world):
        launched, code = self.run(world, "s3://bucket/file")
        assert (code, launched.reason()["code"]) == (70, "data")
        assert "needs s3fs or mlflow in the project's environment" in launched.reason()["message"]
