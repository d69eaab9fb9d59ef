"""A project in a container finds the tracking server or store of its run, and its artifacts."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
from docker_world import PYTHON, SHELL
from mlflow_world import MlflowServer
from protocol_suite import until

import mlproj_core
from mlproj_core.containers.inside import inside

LOGS_A_METRIC = """
import base64, json, os, time, urllib.request

def call(path, value):
    request = urllib.request.Request(os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/" + path)
    if "MLFLOW_TRACKING_USERNAME" in os.environ:
        login = os.environ["MLFLOW_TRACKING_USERNAME"] + ":" + os.environ["MLFLOW_TRACKING_PASSWORD"]
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, json.dumps(value).encode()).read()

while not os.path.exists("/seen/go"):
    time.sleep(0.05)
call("runs/log-metric", {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "loss", "value": 0.25,
                         "timestamp": int(time.time() * 1000), "step": 0})
print("experiment", os.environ["MLFLOW_EXPERIMENT_ID"])
"""


def inspected(world, run):
    """What the engine shows of a run's container while it waits, which then goes on."""
    until(lambda: world.containers(running=True) or run.get_status() != "RUNNING")
    assert run.get_status() == "RUNNING", run.failure()
    seen = world.inspect(run.handle)
    go_on(world)
    return seen


def go_on(world):
    (world.directory / "seen" / "go").touch()


@pytest.fixture
def world(container_world, monkeypatch):
    monkeypatch.delenv("MLPROJ_TRACKING")
    (container_world.project / "main.py").write_text(LOGS_A_METRIC)
    container_world.project_is("python3 main.py", PYTHON)
    return container_world


@pytest.fixture(scope="module")
def closed_server(mlflow_python, mlflow_environment, tmp_path_factory):
    """A tracking server that asks for a login, which is admin's."""
    directory = tmp_path_factory.mktemp("closed-server")
    variables = {**mlflow_environment, "MLFLOW_FLASK_SERVER_SECRET_KEY": "key"}
    (directory / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{directory}/auth.db\n"
        "admin_username = admin\nadmin_password = geheim-und-lang\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    variables["MLFLOW_AUTH_CONFIG_PATH"] = str(directory / "auth.ini")
    server = MlflowServer(mlflow_python, directory, variables, "--app-name", "basic-auth")
    yield server.uri
    server.stop()


def tags(uri, run_id):
    with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/runs/get?run_id={run_id}") as answer:
        run = json.load(answer)["run"]
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


class TestAServerOnLoopback:
    def test_is_reached_from_the_container(self, world, mlflow_server, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        run = world.submit(run_name="in a container")
        assert inspected(world, run)["HostConfig"]["NetworkMode"] == "host"
        assert run.wait(), run.failure()
        assert run.result().metrics == {"loss": 0.25}
        assert "host's network" in "".join(run.logs())
        recorded = tags(mlflow_server, run.run_id)
        assert recorded["mlflow.project.env"] == "docker"
        assert recorded["mlflow.docker.image.uri"] == PYTHON
        assert json.loads(recorded["mlproj.outcome"])["status"] == "FINISHED"

    def test_is_told_who_asks(self, world, closed_server, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", closed_server)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim-und-lang")
        run = world.submit()
        assert "geheim" not in json.dumps(inspected(world, run))
        assert run.wait(), run.failure()
        assert run.result().metrics == {"loss": 0.25}

    def test_is_told_who_asks_by_its_uri(self, world, closed_server):
        uri = closed_server.replace("//", "//admin:geheim-und-lang@")
        go_on(world)
        run = mlproj_core.run(**world.arguments(tracking_uri=uri))
        assert run.get_status() == "FINISHED"

    def test_is_not_in_a_network_that_the_user_chose(self, world, mlflow_server, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        go_on(world)
        run = world.submit(docker_args={"network": "none"})
        assert not run.wait()
        assert "'none' does not have" in "".join(run.logs())


@pytest.mark.parametrize("kind", ["sqlite", "file"])
class TestAStoreInFiles:
    def test_is_mounted_with_its_artifacts(self, world, kind, mlflow_python, mlflow_environment):
        """The asker is a process with mlflow; the project writes where its variables say."""
        store = world.directory / "store"
        if kind == "sqlite":
            store.mkdir()
        uri = f"sqlite:///{store}/mlflow.db" if kind == "sqlite" else f"file://{store}"
        (world.project / "main.py").write_text(
            "import os, sqlite3\n"
            "uri = os.environ['MLFLOW_TRACKING_URI']; print(uri)\n"
            "if uri.startswith('sqlite'):\n"
            "    with sqlite3.connect(uri.removeprefix('sqlite:///')) as database:\n"
            "        database.execute(\"insert into metrics values ('loss', 0.25, 1, ?, 0, 0)\", "
            "(os.environ['MLFLOW_RUN_ID'],))\n"
            "        database.execute(\"insert into latest_metrics values ('loss', 0.25, 1, 0, 0, ?)\", "
            "(os.environ['MLFLOW_RUN_ID'],))\n"
            "else:\n"
            "    run = [each for each in os.popen('ls -d ' + uri.removeprefix('file://') + '/*/*').read().split()\n"
            "           if os.environ['MLFLOW_RUN_ID'] in each][0]\n"
            "    open(run + '/metrics/loss', 'w').write('1 0.25 0\\n')\n"
        )
        code = (
            "import json, sys, mlproj_core; run = mlproj_core.run(**json.loads(sys.argv[1])); "
            "print(json.dumps([dict(run.result().metrics), run.handle.to_dict()]))"
        )
        root = Path(mlproj_core.__file__).parents[1]
        site = next(Path(path) for path in os.sys.path if path.endswith("site-packages"))
        variables = {**mlflow_environment, "PYTHONPATH": f"{root}:{site}", "MLFLOW_TRACKING_URI": uri}
        variables |= {name: os.environ[name] for name in os.environ if name.startswith(("MLPROJ_", "DOCKER_"))}
        variables["MLFLOW_ALLOW_FILE_STORE"] = "true"
        done = subprocess.run(
            [mlflow_python, "-c", code, json.dumps(world.arguments())],
            env=variables, cwd=world.directory, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout.splitlines()[-1])[0] == {"loss": 0.25}
        assert uri in done.stdout


class TestCloudCredentials:
    """They reach the container as MLflow passes them; files are copied in, so that a far engine has them too."""

    @pytest.fixture
    def run_with(self, world, mlflow_python, mlflow_environment, tmp_path, monkeypatch):
        servers = []

        def run(root, command, **variables):
            directory = tmp_path / f"server-{len(servers)}"
            directory.mkdir()
            options = ["--no-serve-artifacts", "--default-artifact-root", root]
            servers.append(MlflowServer(mlflow_python, directory, mlflow_environment, *options))
            monkeypatch.setenv("MLFLOW_TRACKING_URI", servers[-1].uri)
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            world.project_is(f"while [ ! -e /seen/go ]; do sleep 0.05; done; {command}", SHELL)
            run = world.submit()
            seen = json.dumps(inspected(world, run))
            assert run.wait(), run.failure()
            return "".join(run.logs()), seen

        yield run
        for server in servers:
            server.stop()

    def test_of_s3_are_variables_and_files(self, run_with, tmp_path):
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = FROM-FILE\n")
        log, seen = run_with(
            "s3://bucket/root",
            'sh -c \'echo "$AWS_ACCESS_KEY_ID-$MLFLOW_S3_ENDPOINT_URL"; cat "$AWS_SHARED_CREDENTIALS_FILE"\'',
            HOME=str(tmp_path), AWS_ACCESS_KEY_ID="the-key", AWS_SECRET_ACCESS_KEY="the-secret",
            MLFLOW_S3_ENDPOINT_URL="http://minio:9000",
        )  # fmt: skip
        assert "the-key-http://minio:9000\n" in log
        assert "FROM-FILE" in log
        assert "the-key" not in seen
        assert "the-secret" not in seen

    def test_of_google_are_a_file(self, run_with, tmp_path):
        (tmp_path / "key.json").write_text('{"type": "service_account"}')
        log, seen = run_with(
            "gs://bucket/root", "sh -c 'cat $GOOGLE_APPLICATION_CREDENTIALS'",
            GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"),
        )  # fmt: skip
        assert "service_account" in log
        assert "service_account" not in seen

    def test_of_azure_are_variables(self, run_with):
        log, seen = run_with(
            "wasbs://box@account.blob.core.windows.net/root", "sh -c 'echo got $AZURE_STORAGE_ACCESS_KEY'",
            AZURE_STORAGE_ACCESS_KEY="azure-key",
        )  # fmt: skip
        assert "got azure-key" in log
        assert "azure-key" not in seen


class TestAnEngineOnAnotherHost:
    def test_cannot_see_a_store_in_files(self):
        with pytest.raises(mlproj_core.UserError, match="tracking server"):
            inside("sqlite:////data/mlflow.db", None, {}, local=False)

    def test_cannot_reach_a_server_on_loopback(self):
        with pytest.raises(mlproj_core.UserError, match="loopback"):
            inside("http://127.0.0.1:5000", None, {}, local=False)

    def test_has_the_host_under_a_name_where_it_is_docker_desktop(self):
        found = inside("http://127.0.0.1:5000/prefix", None, {}, local=True, desktop=True)
        assert found.variables["MLFLOW_TRACKING_URI"] == "http://host.docker.internal:5000/prefix"
        assert not found.host_network
