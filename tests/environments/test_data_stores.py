"""Data in object stores, on DBFS and among MLflow's artifacts, from servers that speak their protocols."""

import base64
import json
import os
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from data_world import Fetched
from missing import missing
from mlflow_world import free_port

from mlproj_core.data import buckets, dbfs
from mlproj_core.data.cache import Slot
from mlproj_core.data.content import checked_name
from mlproj_core.errors import DataError

CONTENT = os.urandom(1 << 20) * 3


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("MLFLOW_", "AWS_", "DATABRICKS_", "MLPROJ_TRACKING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


@pytest.fixture
def get(tmp_path):
    return Fetched(tmp_path / "storage")


def tree(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def moto():
    """The address of an S3 API."""
    try:
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError:
        missing("moto[server] or s3fs is not installed: mlproj[s3]")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto, monkeypatch):
    """A client of the S3 API, with an empty bucket `data`; the environment points there."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    client.create_bucket(Bucket="data")
    yield client
    for item in client.list_objects_v2(Bucket="data").get("Contents", ()):
        client.delete_object(Bucket="data", Key=item["Key"])
    client.delete_bucket(Bucket="data")


class TestAnObject:
    def test_is_a_file(self, s3, get):
        s3.put_object(Bucket="data", Key="in/train 1.csv", Body=CONTENT)
        file = get("s3://data/in/train 1.csv")
        assert file.name == "train 1.csv"
        assert file.read_bytes() == CONTENT

    def test_is_read_where_mlflows_variable_points(self, s3, get, monkeypatch, moto):
        s3.put_object(Bucket="data", Key="x", Body=b"x")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", moto)
        assert get("s3://data/x").read_bytes() == b"x"

    def test_is_read_again_only_when_it_was_changed(self, s3, get, monkeypatch):
        s3.put_object(Bucket="data", Key="x", Body=CONTENT)
        get("s3://data/x")
        with monkeypatch.context() as patch:
            patch.setattr(buckets._Bucket, "_chunks", None)
            assert get("s3://data/x").read_bytes() == CONTENT
        assert "from the cache" in get.said[-1]
        s3.put_object(Bucket="data", Key="x", Body=b"new")
        assert get("s3://data/x").read_bytes() == b"new"

    def test_is_gone_on_with(self, s3, get, monkeypatch):
        s3.put_object(Bucket="data", Key="x", Body=CONTENT)
        monkeypatch.setattr(buckets, "BLOCK", 1 << 20)
        chunks, starts = buckets._Bucket._chunks, []

        def cut(store, item, start):
            starts.append(start)
            for number, chunk in enumerate(chunks(store, item, start)):
                if number == 1 and len(starts) == 1:
                    raise buckets.Passing("cut")
                yield chunk

        monkeypatch.setattr(buckets._Bucket, "_chunks", cut)
        assert get("s3://data/x").read_bytes() == CONTENT
        assert starts == [0, 1 << 20]

    def test_that_is_changed_while_it_is_read_is_the_new_content_alone(self, s3, get, monkeypatch):
        s3.put_object(Bucket="data", Key="x", Body=CONTENT)
        monkeypatch.setattr(buckets, "BLOCK", 1 << 20)
        chunks = buckets._Bucket._chunks

        def change(store, item, start):
            for number, chunk in enumerate(chunks(store, item, start)):
                if number == 1:
                    monkeypatch.setattr(buckets._Bucket, "_chunks", chunks)
                    s3.put_object(Bucket="data", Key="x", Body=CONTENT[::-1])
                yield chunk

        monkeypatch.setattr(buckets._Bucket, "_chunks", change)
        reason = get.refusal("s3://data/x")
        assert reason.retryable
        assert get("s3://data/x").read_bytes() == CONTENT[::-1]

    def test_that_is_not_there_is_refused(self, s3, get):
        assert get.refusal("s3://data/none").message == (
            "s3://data/none does not exist: there is no such object, and none below it. Check the URI."
        )

    def test_whose_name_fsspec_reads_as_several_is_refused(self, s3, get):
        assert "has a :: in its path" in get.refusal("s3://data/x::file:///etc/passwd").message

    def test_is_found_by_a_scheme_in_capitals(self, s3, get):
        s3.put_object(Bucket="data", Key="x", Body=b"x")
        assert get("S3://data/x").read_bytes() == b"x"

    def test_in_a_bucket_that_is_not_there_is_refused(self, s3, get):
        assert "s3://nowhere/x does not exist" in get.refusal("s3://nowhere/x").message

    def test_without_credentials_is_refused(self, s3, get, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        reason = get.refusal("s3://data/x")
        assert "cannot be read without credentials" in reason.message
        assert not reason.retryable

    def test_of_a_store_that_is_down_may_be_there_later(self, s3, get, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        reason = get.refusal("s3://data/x")
        assert reason.retryable
        assert "127.0.0.1:1" in reason.message


class TestAPrefix:
    def test_is_a_directory_with_all_below_it(self, s3, get):
        files = {f"part-{number}.csv": os.urandom(1000 + number) for number in range(20)} | {
            "a/b/c.csv": b"",
            "a/d": b"d",
        }
        for name, content in files.items():
            s3.put_object(Bucket="data", Key=f"set/{name}", Body=content)
        s3.put_object(Bucket="data", Key="set/a/", Body=b"")  # as consoles make directories
        s3.put_object(Bucket="data", Key="setting", Body=b"another")
        for uri in ("s3://data/set/", "s3a://data/set"):
            directory = get(uri)
            assert directory.name == "set"
            assert tree(directory) == files
        assert "22 files, " in get.said[-1]

    def test_with_a_slash_is_not_the_object_of_that_name(self, s3, get):
        s3.put_object(Bucket="data", Key="both", Body=b"object")
        s3.put_object(Bucket="data", Key="both/file", Body=b"file")
        assert get("s3://data/both").read_bytes() == b"object"
        assert tree(get("s3://data/both/")) == {"file": b"file"}

    @pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a//b", "/evil", "./x"])
    def test_with_a_name_that_leads_out_is_refused(self, s3, get, name, tmp_path):
        s3.put_object(Bucket="data", Key="set/good", Body=b"")
        s3.put_object(Bucket="data", Key=f"set/{name}", Body=b"")
        assert "cannot be a file's path in a directory" in get.refusal("s3://data/set/").message
        assert not list(tmp_path.rglob("evil"))

    def test_that_no_disk_can_hold_is_refused(self, s3, get):
        for name in ("set/a", "set/a/b"):
            s3.put_object(Bucket="data", Key=name, Body=b"")
        assert "'a' is a file and a directory in the store" in get.refusal("s3://data/set/").message

    def test_is_there_as_a_whole_or_not_at_all(self, s3, get, monkeypatch):
        for number in range(30):
            s3.put_object(Bucket="data", Key=f"set/{number}", Body=b"x")
        chunks = buckets._Bucket._chunks

        def fail(store, item, start):
            if item.name == "7":
                raise buckets.failure("s3://data/set/7 is out of reach")
            yield from chunks(store, item, start)

        monkeypatch.setattr(buckets._Bucket, "_chunks", fail)
        assert get.refusal("s3://data/set/").message == "s3://data/set/7 is out of reach"


class TestGoogleCloudStorage:
    @pytest.fixture
    def put(self, monkeypatch):
        """Puts an object into the bucket `data` of an emulated Google Cloud Storage."""
        # gcsfs would ask for the kind of bucket by gRPC, which the emulator does not speak; read at its import.
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        try:
            import gcsfs  # noqa: F401
            from gcp_storage_emulator.server import create_server
        except ImportError:
            missing("gcsfs or gcp-storage-emulator is not installed: mlproj[gs]")
        server = create_server("127.0.0.1", port := free_port(), in_memory=True, default_bucket="data")
        server.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")

        def put(name, content):
            query = urlencode({"uploadType": "media", "name": name})
            url = f"http://127.0.0.1:{port}/upload/storage/v1/b/data/o?{query}"
            with urllib.request.urlopen(urllib.request.Request(url, content, method="POST"), timeout=20) as answer:
                assert answer.status == 200

        yield put
        server.stop()

    def test_is_a_store(self, put, get):
        files = {"a.csv": b"a", "below/b.csv": CONTENT}
        for name, content in files.items():
            put(f"set/{name}", content)
        assert tree(get("gs://data/set")) == files
        assert get("gs://data/set/below/b.csv").read_bytes() == CONTENT
        assert "from the cache" in get.said[-1]
        assert "gs://data/none does not exist" in get.refusal("gs://data/none").message


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "/a", "a/../b", "a\0b"])
def test_a_name_that_leads_out_is_refused_from_every_store(name):
    with pytest.raises(DataError, match="cannot be a file's path"):
        checked_name(name, "x")


# MLflow

LOG = """
import json, sys
import mlflow
from pathlib import Path
directory = Path(sys.argv[1])
client = mlflow.MlflowClient()
run = client.create_run("0")
client.log_artifact(run.info.run_id, str(directory / "train 1.csv"))
client.log_artifacts(run.info.run_id, str(directory / "set"), "in/set")
client.create_registered_model("wine")
for number in (1, 2):
    client.create_model_version("wine", f"{run.info.artifact_uri}/in/set", run.info.run_id)
client.set_registered_model_alias("wine", "champion", "1")
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    client.transition_model_version_stage("wine", "2", "Production")
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> list[str]:
        return model_input
mlflow.set_experiment("models")
logged = mlflow.pyfunc.log_model(name="echo", python_model=Model(), pip_requirements=[])
print(json.dumps({"run_id": run.info.run_id, "root": run.info.artifact_uri, "model_id": logged.model_id}))
"""
FILES = {"a.csv": b"a", "below/b.csv": os.urandom(10_000)}


def log_artifacts(mlflow_python, mlflow_environment, tracking_uri, directory):
    """What a run and the registry were given in the store."""
    (directory / "set" / "below").mkdir(parents=True)
    (directory / "train 1.csv").write_bytes(CONTENT)
    for name, content in FILES.items():
        (directory / "set" / name).write_bytes(content)
    done = subprocess.run(
        [mlflow_python, "-c", LOG, str(directory)],
        env={**mlflow_environment, "MLFLOW_TRACKING_URI": tracking_uri}, cwd=directory,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def logged(mlflow_python, mlflow_environment, mlflow_server, tmp_path_factory):
    directory = tmp_path_factory.mktemp("artifacts")
    return log_artifacts(mlflow_python, mlflow_environment, mlflow_server, directory)


class TestAnArtifact:
    @pytest.fixture(autouse=True)
    def tracking(self, mlflow_server, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)

    def test_of_a_run_is_a_file(self, logged, get):
        file = get(f"runs:/{logged['run_id']}/train 1.csv")
        assert file.name == "train 1.csv"
        assert file.read_bytes() == CONTENT

    def test_is_fetched_once(self, logged, get):
        get(f"runs:/{logged['run_id']}/train 1.csv")
        get(f"runs:/{logged['run_id']}/train 1.csv")
        assert "from the cache" in get.said[-1]

    def test_is_gone_on_with(self, logged, get, mlflow_server):
        from mlproj_core.data.content import Known
        from mlproj_core.data.fetch import open_store

        store = open_store(f"runs:/{logged['run_id']}/train 1.csv")
        (item,) = store.items()
        body = store.open(item, Known())
        next(body.chunks)
        body.chunks.close()
        slot = Slot.of(item.address)
        slot.begin_part(body.version, body.total, "")
        slot.part.write_bytes(CONTENT[:1_000_000])
        assert get(f"runs:/{logged['run_id']}/train 1.csv").read_bytes() == CONTENT
        assert ", 2.1 MB fetched in " in get.said[-1]

    def test_directory_is_a_directory(self, logged, get):
        assert tree(get(f"runs:/{logged['run_id']}/in/set")) == FILES

    def test_root_of_a_run_is_a_directory(self, logged, get):
        files = {f"in/set/{name}": content for name, content in FILES.items()} | {"train 1.csv": CONTENT}
        directory = get(f"runs:/{logged['run_id']}")
        assert directory.name == logged["run_id"]
        assert tree(directory) == files

    def test_by_the_servers_own_uri(self, logged, get, mlflow_server):
        root = logged["root"]
        assert root.startswith("mlflow-artifacts:/")
        assert get(f"{root}/train 1.csv").read_bytes() == CONTENT
        assert tree(get(f"{root}/in/set/")) == FILES
        host = mlflow_server.removeprefix("http://")
        assert tree(get(f"mlflow-artifacts://{host}/{root.partition(':/')[2]}/in/set")) == FILES

    @pytest.mark.parametrize(
        "uri", ["models:/wine/1", "models:/wine@champion", "models:/wine/Production", "models:/wine/latest"]
    )
    def test_of_a_registered_model(self, logged, get, uri):
        assert tree(get(uri)) == FILES

    def test_file_of_a_registered_model(self, logged, get):
        assert get("models:/wine/2/below/b.csv").read_bytes() == FILES["below/b.csv"]
        assert get("models:/wine@champion/a.csv").read_bytes() == b"a"

    def test_of_a_logged_model(self, logged, get):
        assert {"MLmodel", "python_model.pkl"} <= set(tree(get(f"models:/{logged['model_id']}")))

    @pytest.mark.parametrize(
        ("uri", "why"),
        [
            ("runs:/{run_id}/none.csv", "does not exist: HTTP 404"),
            ("runs:/0123456789abcdef0123456789abcdef/x", "Run with id=0123456789abcdef0123456789abcdef not found"),
            ("models:/none/1", "none"),
            ("models:/wine/99", "99"),
            ("models:/wine@nobody", "nobody"),
            ("models:/wine/Staging", "has no version of the model 'wine', stage 'Staging'"),
            ("models:/m-0123456789abcdef0123456789abcdef", "m-0123456789abcdef0123456789abcdef"),
        ],
    )
    def test_that_is_not_there_is_refused(self, logged, get, uri, why):
        reason = get.refusal(uri.format(**logged))
        assert why in reason.message
        assert not reason.retryable

    def test_of_a_server_that_is_down_may_be_there_later(self, get, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        monkeypatch.setattr("mlproj_core.data.artifacts.PATIENCE", 0.1)
        reason = get.refusal("runs:/0123456789abcdef0123456789abcdef/x")
        assert reason.retryable
        assert "The tracking server http://127.0.0.1:1 cannot be reached" in reason.message

    def test_of_the_proxy_without_a_server_is_refused(self, get, monkeypatch):
        monkeypatch.setenv("MLPROJ_TRACKING", "off")
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        assert "Set MLFLOW_TRACKING_URI to that server's address" in get.refusal("mlflow-artifacts:/x").message
        assert "runs are not tracked here. Set MLFLOW_TRACKING_URI" in get.refusal("runs:/1/x").message
        assert "Set MLFLOW_TRACKING_URI" in get.refusal("models:/m/1").message


class TestAnArtifactBehindTheServer:
    """The server knows where it is, and each client fetches it from there itself."""

    @pytest.fixture
    def direct(self, mlflow_python, mlflow_environment, tmp_path, monkeypatch, request):
        from mlflow_world import MlflowServer

        def start(root):
            directory = tmp_path / "server"
            directory.mkdir()
            server = MlflowServer(
                mlflow_python, directory, mlflow_environment, "--no-serve-artifacts", "--default-artifact-root", root
            )
            request.addfinalizer(server.stop)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
            return server.uri

        return start

    def run_in(self, uri):
        from mlproj_core.tracking import NewRun, connect

        return connect(uri).create_run(NewRun(start_time=1.0))

    def test_in_a_bucket(self, direct, s3, get):
        run = self.run_in(direct("s3://data/mlflow"))
        assert run.artifact_uri.startswith("s3://data/mlflow/")
        key = run.artifact_uri.removeprefix("s3://data/")
        s3.put_object(Bucket="data", Key=f"{key}/in/x.csv", Body=CONTENT)
        assert get(f"runs:/{run.run_id}/in/x.csv").read_bytes() == CONTENT
        assert tree(get(f"runs:/{run.run_id}/in")) == {"x.csv": CONTENT}

    def test_in_a_directory_of_this_host(self, direct, get, tmp_path):
        run = self.run_in(direct(str(tmp_path / "artifacts")))
        root = Path(run.artifact_uri.removeprefix("file://"))
        (root / "in").mkdir(parents=True)
        (root / "in" / "x.csv").write_bytes(CONTENT)
        assert get(f"runs:/{run.run_id}/in/x.csv").read_bytes() == CONTENT
        assert tree(get(f"runs:/{run.run_id}/in")) == {"x.csv": CONTENT}
        assert "does not exist on this host" in get.refusal(f"runs:/{run.run_id}/y").message
        (root / "in" / "link").symlink_to("/etc/passwd")
        assert "holds a link that leads out of" in get.refusal(f"runs:/{run.run_id}/in").message


def test_the_artifacts_of_a_database_are_found_through_mlflow(mlflow_python, mlflow_environment, tmp_path):
    """In a process that has mlflow, as a project with such a store has it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logged = log_artifacts(mlflow_python, mlflow_environment, uri, tmp_path / "artifacts")
    code = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1])\n"
        "from mlproj_core.data.fetch import fetch; from mlproj_core.data.remote import Download\n"
        "for number, uri in enumerate(sys.argv[2:]):\n"
        f"    fetch(Download('data', uri, f'{tmp_path}/out/{{number}}/it'), print)\n"
    )
    import mlproj_core

    paths = [str(Path(mlproj_core.__file__).parents[1])]
    uris = [
        f"runs:/{logged['run_id']}/train 1.csv",
        *("models:/wine/1", "models:/wine@champion", "models:/wine/Production", "models:/wine/latest"),
        f"models:/{logged['model_id']}",
    ]
    done = subprocess.run(
        [mlflow_python, "-c", code, json.dumps(paths), *uris],
        env={**mlflow_environment, "MLFLOW_TRACKING_URI": uri, "MLPROJ_CACHE_DIR": str(tmp_path / "cache")},
        cwd=tmp_path / "artifacts", capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/0/it").read_bytes() == CONTENT
    for number in range(1, 5):
        assert tree(tmp_path / f"out/{number}/it") == FILES
    assert "MLmodel" in tree(tmp_path / "out/5/it")


# Databricks


class Workspace:
    """The DBFS API of a workspace (https://docs.databricks.com/api/workspace/dbfs)."""

    def __init__(self):
        self.files = {}
        self.reads = []
        world = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, value = world.answer(self.headers, parts.path, query)
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, headers, endpoint, query):
        if headers.get("Authorization") != "Bearer geheim":
            return 403, {"error_code": "PERMISSION_DENIED", "message": "Invalid access token."}
        path = query.get("path", "")
        if endpoint == "/api/2.0/dbfs/get-status":
            found = self.status(path)
            return (200, found) if found else (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"No {path}"})
        if endpoint == "/api/2.0/dbfs/list":
            below = {name[len(path) + 1 :].split("/")[0] for name in self.files if name.startswith(f"{path}/")}
            return 200, {"files": [self.status(f"{path}/{name}") for name in sorted(below)]}
        if endpoint == "/api/2.0/dbfs/read":
            offset, length = int(query["offset"]), int(query["length"])
            assert length <= 1 << 20, "the API gives a megabyte at most"
            self.reads.append((path, offset))
            data = self.files[path][offset : offset + length]
            return 200, {"bytes_read": len(data), "data": base64.b64encode(data).decode()}
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": endpoint}

    def status(self, path):
        if path in self.files:
            return {
                "path": path,
                "is_dir": False,
                "file_size": len(self.files[path]),
                "modification_time": 1_700_000_000_000,
            }
        if any(name.startswith(f"{path}/") for name in self.files):
            return {"path": path, "is_dir": True, "file_size": 0, "modification_time": 0}
        return None


@pytest.fixture
def workspace(monkeypatch):
    try:
        import databricks.sdk  # noqa: F401
    except ImportError:
        missing("databricks-sdk is not installed: mlproj[databricks]")
    workspace = Workspace()
    monkeypatch.setenv("DATABRICKS_HOST", workspace.uri)
    monkeypatch.setenv("DATABRICKS_TOKEN", "geheim")
    yield workspace
    workspace.server.shutdown()
    workspace.server.server_close()


class TestDbfs:
    def test_gives_a_file_a_megabyte_at_a_time(self, workspace, get):
        workspace.files["/in/x.csv"] = CONTENT
        assert get("dbfs:/in/x.csv").read_bytes() == CONTENT
        assert [offset for _, offset in workspace.reads] == [0, 1 << 20, 2 << 20]
        get("dbfs:/in/x.csv")
        assert len(workspace.reads) == 3
        assert "from the cache" in get.said[-1]

    def test_gives_a_directory(self, workspace, get):
        files = {"a.csv": b"a", "below/b.csv": b"b"}
        workspace.files = {f"/set/{name}": content for name, content in files.items()}
        assert tree(get("dbfs:/set/")) == files

    def test_goes_on_after_a_fault(self, workspace, get, monkeypatch):
        workspace.files["/x"] = CONTENT
        chunks, starts = dbfs._Dbfs._chunks, []

        def cut(store, item, start):
            starts.append(start)
            for number, chunk in enumerate(chunks(store, item, start)):
                if number == 1 and len(starts) == 1:
                    raise dbfs.Passing("cut")
                yield chunk

        monkeypatch.setattr(dbfs._Dbfs, "_chunks", cut)
        assert get("dbfs:/x").read_bytes() == CONTENT
        assert starts == [0, 1 << 20]

    def test_refuses_what_is_not_there(self, workspace, get):
        assert "dbfs:/none does not exist in http://127.0.0.1" in get.refusal("dbfs:/none").message

    def test_refuses_who_may_not(self, workspace, get, monkeypatch):
        monkeypatch.setenv("DATABRICKS_TOKEN", "wrong")
        reason = get.refusal("dbfs:/x")
        assert "dbfs:/x may not be read in http://127.0.0.1" in reason.message
        assert not reason.retryable

    def test_needs_a_workspace(self, get, monkeypatch, workspace):
        monkeypatch.delenv("DATABRICKS_HOST")
        monkeypatch.delenv("DATABRICKS_TOKEN")
        assert "Set DATABRICKS_HOST and DATABRICKS_TOKEN" in get.refusal("dbfs:/x").message
