"""Runs of projects that take data from elsewhere: fetched by the run, with all that can happen to one meanwhile."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from data_world import DataServer
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.local import LocalBackend
from mlproj_core.backends.local.directory import locate
from mlproj_core.backends.local.keeping import prune, runs
from mlproj_core.errors import ExecutionException, InvalidParameters, UserError
from mlproj_core.handle import key_digest
from mlproj_core.housekeeping import collect

CONTENT = os.urandom(1 << 20) * 3

PROJECT = """
name: reader
entry_points:
  main:
    parameters:
      data: path
      note: {type: string, default: ""}
      link: {type: uri, default: "https://host/left/alone"}
    command: "bash main.sh {data} {link}"
  default:
    parameters:
      data: {type: path, default: DEFAULT}
    command: "bash main.sh {data} none"
"""
READ = """
echo "$1" "$2" >> "$STARTS"
printf '{"path": "%s", "link": "%s"}' "$1" "$2" > "$MLPROJ_RESULT"
cp -r "$1" "$OUT"
"""


@pytest.fixture
def server():
    server = DataServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def reader(world, monkeypatch, tmp_path):
    """The project reads its data."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STARTS", str(world.starts_file))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    (world.project / "MLproject").write_text(PROJECT)
    (world.project / "main.sh").write_text(READ)
    return world


def output(run):
    return "".join(run.logs())


def outcome(run):
    return LocalBackend().look(run.handle).outcome


def fetchers(world):
    """Pids of the processes of this world that fetch data."""
    return [pid for pid, command in world.survivors() if b"mlproj_core.data.fetch" in command]


def drafts(directory):
    return [str(path) for path in directory.rglob("*") if path.suffix in (".part", ".csv")]


class TestARun:
    def test_fetches_its_data_before_its_project_starts(self, world, server, tmp_path):
        url = server.serve("/train.csv", CONTENT)
        run = mlproj_core.run(**world.arguments(parameters={"data": url}))
        path = Path(run.result().result["path"])
        assert (tmp_path / "out").read_bytes() == CONTENT
        assert path == world.state / "data" / key_digest(run.handle.key) / "param_0" / "train.csv"
        assert path.read_bytes() == CONTENT
        assert f"parameter 'data': fetching {url}" in output(run)
        assert "3.1 MB fetched in" in output(run)
        assert list(outcome(run).phases) == ["queued", "data", "running"]

    def test_loses_its_data_to_house_keeping_once_it_is_over(self, world, server):
        url = server.serve("/train.csv", CONTENT, pause=0.2)
        first = mlproj_core.submit(**world.arguments(parameters={"data": url}), key="step")
        place = world.state / "data" / key_digest("step")
        until(lambda: first.phase == "data")
        (item,) = runs()
        assert item.in_use == "it is not over"
        first.wait()
        assert place.is_dir()
        (item,) = runs()
        assert item.measure() > len(CONTENT)
        tallies = collect(runs(), older_than=0, report=print)
        assert tallies["runs"].freed > len(CONTENT)
        assert not place.exists()
        assert mlproj_core.attach(first.handle).get_status() == "FINISHED"
        assert list(runs()) == []

    def test_is_submitted_without_asking_the_store(self, world, server):
        url = server.serve("/train.csv", CONTENT, pause=0.2)
        run = world.submit(parameters={"data": url})
        assert run.get_status() == "RUNNING"
        until(lambda: run.phase == "data")
        run.cancel()

    def test_records_the_value_as_it_was_given(self, world, server, mlflow_server):
        url = server.serve("/train.csv", CONTENT)
        run = mlproj_core.run(**world.arguments(parameters={"data": url}, tracking_uri=mlflow_server))
        from mlproj_core.tracking import connect

        assert connect(mlflow_server).get_run(run.run_id).parameters["data"] == url

    def test_takes_artifacts_of_the_server_it_is_recorded_on(self, world, mlflow_server, tmp_path):
        from mlproj_core.tracking import NewRun, connect

        source = connect(mlflow_server).create_run(NewRun(start_time=1.0))
        (tmp_path / "rows.csv").write_bytes(CONTENT)
        assert connect(mlflow_server).upload(source.run_id, tmp_path / "rows.csv", "in") is None
        uri = f"runs:/{source.run_id}/in"
        mlproj_core.run(**world.arguments(parameters={"data": uri}, tracking_uri=mlflow_server))
        assert (tmp_path / "out" / "rows.csv").read_bytes() == CONTENT

    def test_fetches_a_default_too(self, world, server, tmp_path):
        url = server.serve("/train.csv", CONTENT)
        (world.project / "MLproject").write_text(PROJECT.replace("DEFAULT", url))
        mlproj_core.run(**world.arguments(entry_point="default"))
        assert (tmp_path / "out").read_bytes() == CONTENT

    def test_leaves_a_uri_alone(self, world, server, tmp_path):
        url = server.serve("/train.csv", CONTENT)
        run = mlproj_core.run(**world.arguments(parameters={"data": str(world.project), "link": url}))
        assert run.result().result["link"] == url
        assert server.requests == []
        assert "data" not in outcome(run).phases

    def test_keeps_to_the_storage_directory(self, world, server, tmp_path):
        url = server.serve("/train.csv", CONTENT)
        storage = tmp_path / "storage with space"
        run = mlproj_core.run(**world.arguments(parameters={"data": url}, storage_dir=str(storage)))
        path = Path(run.result().result["path"])
        assert path == storage / key_digest(run.handle.key) / "param_0" / "train.csv"

    def test_may_write_into_its_data(self, world, server, tmp_path):
        url = server.serve("/train.csv", CONTENT)
        (world.project / "main.sh").write_text('echo more >> "$1"\n')
        mlproj_core.run(**world.arguments(parameters={"data": url}))
        (world.project / "main.sh").write_text(READ)
        mlproj_core.run(**world.arguments(parameters={"data": url}))
        assert (tmp_path / "out").read_bytes() == CONTENT
        assert server.asked("/train.csv")[1]["if-none-match"]

    def test_has_the_same_command_at_each_try(self, world, server, tmp_path):
        (world.project / "main.sh").write_text("exit 1\n")
        arguments = {"key": "k", "parameters": {"data": server.serve("/train.csv", CONTENT)}}
        first = world.submit(turn=1, **arguments)
        assert not first.wait()
        Path(locate(first.handle).read("claim.json")["request"]["downloads"][0]["path"]).write_bytes(b"damaged")
        (world.project / "main.sh").write_text(READ)
        second = world.submit(turn=2, **arguments)
        assert second.wait()
        claims = [locate(run.handle).read("claim.json") for run in (first, second)]
        assert claims[0]["request"]["command"] == claims[1]["request"]["command"]
        assert claims[0]["fingerprint"] == claims[1]["fingerprint"]
        assert (tmp_path / "out").read_bytes() == CONTENT

    def test_is_pruned_with_its_data(self, world, server):
        url = server.serve("/train.csv", CONTENT)
        (world.project / "main.sh").write_text("exit 1\n")
        runs = []
        for turn in (1, 2):
            runs.append(world.submit(key="k", turn=turn, parameters={"data": url}))
            runs[-1].wait()
        place = world.state / "data" / key_digest("k")
        assert prune(LocalBackend(), runs[0].handle)
        assert place.exists()
        assert prune(LocalBackend(), runs[1].handle)
        assert not place.exists()


class TestAFetch:
    def test_that_fails_ends_the_run_before_its_project_starts(self, world, server):
        with pytest.raises(ExecutionException) as caught:
            mlproj_core.run(**world.arguments(parameters={"data": f"{server.uri}/none.csv"}))
        reason = caught.value.reason
        assert (reason.code, reason.retryable) == ("data", False)
        assert "does not exist: HTTP 404" in reason.message
        assert world.starts() == 0
        assert not list((world.state / "data").iterdir())

    def test_that_fails_for_now_is_worth_a_retry(self, world, server):
        url = server.serve("/train.csv", CONTENT, statuses=[503] * 2)
        run = world.submit(key="k", turn=1, parameters={"data": url})
        assert not run.wait()
        assert (run.reason.code, run.reason.retryable) == ("data", True)
        assert world.submit(key="k", turn=2, parameters={"data": url}).wait()

    def test_that_is_killed_is_gone_on_with_by_the_next_run(self, world, server, tmp_path):
        url = server.serve("/train.csv", CONTENT, pause=0.05)
        run = world.submit(key="k", turn=1, parameters={"data": url})
        part = until(lambda: next((tmp_path / "cache").rglob("part"), None))
        until(lambda: part.stat().st_size > 500_000)
        (fetcher,) = fetchers(world)
        os.kill(fetcher, signal.SIGKILL)
        assert not run.wait()
        assert (run.reason.code, run.reason.retryable) == ("data", True)
        assert "was ended by SIGKILL" in run.reason.message
        assert not [path for path in drafts(world.state / "data") if path.endswith("train.csv")]
        have = part.stat().st_size
        assert 500_000 < have < len(CONTENT)
        server.files["/train.csv"].pause = 0
        assert world.submit(key="k", turn=2, parameters={"data": url}).wait()
        assert server.asked("/train.csv")[-1]["range"] == f"bytes={have}-"
        assert (tmp_path / "out").read_bytes() == CONTENT
        assert not [path for path in drafts(world.state / "data") if path.endswith(".part")]

    @pytest.mark.parametrize("how", ["cancel", "timeout", "supervisor"])
    def test_that_is_stopped_leaves_no_process_and_no_file(self, world, server, tmp_path, how):
        url = server.serve("/train.csv", CONTENT, pause=0.2)
        run = world.submit(parameters={"data": url}, **({"timeout": 2} if how == "timeout" else {}))
        part = until(lambda: next((tmp_path / "cache").rglob("part"), None))
        until(lambda: part.stat().st_size > 100_000)
        if how == "cancel":
            run.cancel()
        elif how == "supervisor":
            world.kill_supervisor(run.handle)
        assert not run.wait()
        assert str(run.reason.code) == {"cancel": "cancelled", "supervisor": "lost"}.get(how, "timeout")
        until(lambda: not world.survivors())
        assert world.starts() == 0
        if how != "supervisor":  # whoever is killed with its supervisor leaves a draft, under another name
            assert drafts(world.state / "data") == []
        assert not [path for path in drafts(world.state / "data") if path.endswith("train.csv")]

    def test_of_the_same_by_several_runs_happens_once(self, world, server, monkeypatch, tmp_path):
        url = server.serve("/train.csv", CONTENT, pause=0.05)
        (world.project / "main.sh").write_text('sha256sum < "$1"; echo >> "$STARTS" x\n')
        runs = [world.submit(parameters={"data": url}) for _ in range(3)]
        assert all(run.wait() for run in runs)
        assert [headers.get("if-none-match") for headers in server.asked("/train.csv")].count(None) == 1
        assert "another process is fetching it" in "".join(map(output, runs))
        paths = {locate(run.handle).read("data.json")["data"][0]["path"] for run in runs}
        assert len(paths) == 3
        assert all(Path(path).read_bytes() == CONTENT for path in paths)

    def test_has_credentials_by_inheritance_only(self, world, server, tmp_path, monkeypatch):
        import base64

        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password geheim\n")
        login = "Basic " + base64.b64encode(b"me:geheim").decode()
        url = server.serve("/train.csv", CONTENT, login=login)
        run = mlproj_core.run(**world.arguments(parameters={"data": url}, env_vars={"NETRC": str(tmp_path / "netrc")}))
        assert (tmp_path / "out").read_bytes() == CONTENT
        files = [path for path in locate(run.handle).path.rglob("*") if path.is_file()]
        assert not any(b"geheim" in path.read_bytes() for path in files)


class TestARefusal:
    """Before any work is done: nothing is claimed."""

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            (
                "https://me:geheim@host/x",
                "holds a user or password, which would be recorded with the run; leave it out",
            ),
            ("https://geheim@host/x", "into ~/.netrc"),
            ("s3://geheim:geheim@bucket/x", "where the store's own programs find it"),
            ("ftp://host/x", "is neither a local path nor in a store that data is fetched from (http, https, s3, "),
            ("name:with-colon", "write ./ before a local path with a colon in it"),
            ("file://host/x", "names a file of another host; mount it here and give its local path"),
            ("http:///x", "http: needs a host or bucket, as in http://name/path"),
            ("http://host:port/x", "is not a URI: Port could not be cast"),
            ("http://host/\n", "contains a control character"),
            ("s3://bucket", "names a whole bucket; expected s3://bucket/path"),
            ("s3://bucket/a/../b", "has a .. in its path"),
            ("dbfs:/", "names nothing on DBFS"),
            ("dbfs://profile@databricks/x", "DATABRICKS_HOST"),
            ("runs:/", "names nothing; expected runs:/<run id>/<path>"),
            ("runs:/1/%2e%2e/x", "has a .. in its path"),
            ("runs://profile@databricks/1/x", "names a tracking server of its own"),
            ("models:/", "names nothing; expected models:/<name>/<version>"),
            ("models:/@champion", "names no model"),
            ("mlflow-artifacts://me:geheim@host/x", "give it in MLFLOW_TRACKING_USERNAME"),
            ("runs:/0123456789abcdef0123456789abcdef/x", "Set MLFLOW_TRACKING_URI (or tracking_uri)"),
        ],
    )
    def test_says_what_is_wrong_and_how_to_mend_it(self, world, value, why):
        with pytest.raises(UserError) as caught:
            world.submit(parameters={"data": value})
        assert why in str(caught.value)
        assert "'data'" in str(caught.value)
        assert "geheim" not in str(caught.value)
        assert not (world.state / "runs").exists()

    @pytest.mark.parametrize(
        ("uri", "library", "extra"),
        [
            ("s3://bucket/x", "s3fs", "s3"),
            ("gs://bucket/x", "gcsfs", "gs"),
            ("abfss://container@account.dfs.core.windows.net/x", "adlfs", "abfs"),
            ("dbfs:/x", "databricks.sdk", "databricks"),
        ],
    )
    def test_names_the_extra_to_install(self, world, uri, library, extra):
        # In a process where the library is not to be found, whatever is installed beside the tests.
        code = (
            "import sys; sys.modules[sys.argv[1]] = None\n"
            "import mlproj_core\n"
            "try: mlproj_core.submit(sys.argv[2], parameters={'data': sys.argv[3]}, env_manager='local')\n"
            "except mlproj_core.UserError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, library, str(world.project), uri], capture_output=True, text=True, timeout=60
        )
        assert f"needs {library}, which is not installed: pip install 'mlproj[{extra}]'" in done.stdout, done.stderr
        assert not (world.state / "runs").exists()

    def test_comes_with_those_of_other_parameters(self, world):
        with pytest.raises(InvalidParameters) as caught:
            world.submit(parameters={"data": "ftp://x/y", "link": "nothing"})
        assert len(caught.value.problems) == 2

    def test_is_a_warning_where_a_signature_is_recorded(self, world, server):
        said = []
        server.serve("/train.csv", CONTENT)
        url = f"{server.uri}/train.csv?X-Amz-Signature=geheim"
        mlproj_core.submit(**world.arguments(parameters={"data": url}, report=said.append)).wait()
        assert any("holds 'X-Amz-Signature', which may be a secret, and is recorded" in line for line in said)
        assert not any("geheim" in line for line in said)


def test_the_fetcher_is_a_program(tmp_path, monkeypatch):
    """As the supervisor starts it: a request, a result, and lines of progress."""
    server = DataServer()
    path = tmp_path / "k" / "param_0" / "x"
    request, result = tmp_path / "request.json", tmp_path / "result.json"
    download = {"parameter": "data", "uri": server.serve("/x", CONTENT), "path": str(path)}
    request.write_text(json.dumps({"downloads": [download], "tracking_uri": None}))
    done = subprocess.run(
        [sys.executable, "-m", "mlproj_core.data.fetch", str(request), str(result)],
        env={**os.environ, "MLPROJ_CACHE_DIR": str(tmp_path / "cache")}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    server.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(result.read_text()) == {
        "data": [{"parameter": "data", "path": str(path), "files": 1, "bytes": len(CONTENT)}]
    }
    assert len(done.stdout.splitlines()) == 2
