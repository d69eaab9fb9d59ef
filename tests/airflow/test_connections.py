"""What connections give a task: the client of a cluster, and the login of a registry."""

import asyncio
import json
from pathlib import Path

import kubernetes.client
import pytest
from airflow.sdk import DAG
from kubernetes_cluster import Cluster
from kubernetes_runtime import Script

from airflow_mlproj import MLProjectOperator, MLProjectRunTrigger
from airflow_mlproj.connections import _client_of, backend_for, cluster_namespace, registry_login
from airflow_mlproj.plugin import _end
from airflow_mlproj.request import _docker_auth, settings_of
from mlproj_core import submit
from mlproj_core.backends.kubernetes.watch import stop_watching
from mlproj_core.errors import UserError
from mlproj_core.handle import RunHandle


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def connection(monkeypatch):
    """Defines a connection of Airflow's."""

    def put(conn_id, **fields):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        return conn_id

    return put


@pytest.fixture
def leads_to(connection, cluster, tmp_path):
    """Defines a connection of the type `kubernetes` to the cluster, for a user of the cluster's."""

    def put(conn_id, user="me", **extra):
        token = cluster.add_user(user)
        kubeconfig = Path(cluster.write_kubeconfig(tmp_path / "config", token)).read_text()
        connection(conn_id, conn_type="kubernetes", extra={"kube_config": kubeconfig, **extra})
        return token

    return put


class TestAConnectionToACluster:
    def test_gives_a_client_that_is_let_in(self, cluster, leads_to):
        leads_to("prod")
        found = kubernetes.client.CoreV1Api(_client_of("prod")).list_namespace()
        assert cluster.namespace in [one.metadata.name for one in found.items]
        _client_of("prod").rest_client.pool_manager.clear()

    def test_gives_one_client_for_all_runs_until_it_is_changed(self, leads_to):
        leads_to("shared")
        first = _client_of("shared")
        assert _client_of("shared") is first
        leads_to("shared", user="somebody else")
        assert _client_of("shared") is not first

    def test_gives_each_its_own_client(self, leads_to):
        tokens = {conn_id: leads_to(conn_id, user=conn_id) for conn_id in ("one", "other")}
        for conn_id, token in tokens.items():
            assert list(_client_of(conn_id).configuration.api_key.values()) == [f"Bearer {token}"]

    def test_names_the_namespace_that_a_task_does_not(self, leads_to):
        leads_to("spaced", namespace="ml")
        assert cluster_namespace("spaced") == "ml"
        task = {"task_id": "t", "uri": "p", "backend": "kubernetes", "kubernetes_conn_id": "spaced"}
        assert settings_of(MLProjectOperator(**task)) == {"namespace": "ml"}
        given = MLProjectOperator(**task, backend_config={"namespace": "mine"})
        assert settings_of(given) == {"namespace": "mine"}

    def test_that_leads_nowhere_is_refused_with_its_name(self, connection):
        connection("empty", conn_type="kubernetes", extra={"kube_config": "{}"})
        with pytest.raises(UserError, match="'empty' leads to no cluster"):
            _client_of("empty")

    def test_is_for_the_backend_kubernetes_only(self):
        with pytest.raises(UserError, match="add backend='kubernetes'"):
            backend_for("local", "prod")

    def test_is_named_by_a_trigger_which_holds_no_secret(self, leads_to):
        token = leads_to("triggered")
        handle = RunHandle("kubernetes", "k", 1, "a1", {"namespace": "ml"}).to_dict()
        trigger = MLProjectRunTrigger(handle, kubernetes_conn_id="triggered", mlflow_conn_id="mlflow")
        stored = json.dumps(trigger.serialize())
        assert '"kubernetes_conn_id": "triggered"' in stored
        assert token not in stored


class TestARunOfAConnection:
    """A run on the cluster, which finishes once its container is told to; asked for as a task would."""

    @pytest.fixture
    def begun(self, cluster, leads_to, tmp_path, monkeypatch):
        leads_to("runs", namespace=cluster.namespace)
        monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setenv("MLPROJ_TRACKING", "off")
        cluster.runtime.script(Script(output=[(0, "a line\n")], exit_code=None))
        (tmp_path / "MLproject").write_text("entry_points: {main: {command: 'true'}}\n")
        settings = {"namespace": cluster.namespace, "image": "python:3.11"}
        run = submit(tmp_path, backend=backend_for("kubernetes", "runs"), backend_config=settings, env_manager="local")
        cluster.wait_for_pod(run.handle.name)
        yield run
        stop_watching()
        _client_of("runs").rest_client.pool_manager.clear()

    def test_is_followed_by_a_trigger(self, cluster, begun):
        trigger = MLProjectRunTrigger(begun.handle.to_dict(), kubernetes_conn_id="runs")

        async def follow():
            waiting = asyncio.create_task(anext(trigger.run()))
            while not trigger.cursor:  # it has seen the line
                await asyncio.sleep(0.05)
            (pod,) = cluster.pods(begun.handle.name)
            cluster.runtime.end(begun.handle.name, container=pod["spec"]["containers"][0]["name"])
            return (await waiting).payload

        assert asyncio.run(asyncio.wait_for(follow(), 60)) == {"cursor": trigger.cursor, "timed_out": False}
        assert begun.get_status() == "FINISHED"

    def test_is_ended_by_the_api_server_for_a_task_that_was_marked(self, begun):
        _end(begun.handle, "runs", None)
        assert begun.get_status() == "KILLED"


class TestAConnectionToARegistry:
    LOGIN = {"conn_type": "docker", "host": "registry.example.com", "login": "me", "password": "hunter2"}

    def test_gives_its_login(self, connection):
        connection("registry", **self.LOGIN, port=5000)
        login = {"username": "me", "password": "hunter2", "registry": "registry.example.com:5000"}
        assert registry_login("registry") == login

    @pytest.mark.parametrize("lacking", ["host", "login", "password"])
    def test_that_is_not_complete_is_refused(self, connection, lacking):
        connection("registry", **{name: value for name, value in self.LOGIN.items() if name != lacking})
        with pytest.raises(UserError, match=f"'registry' lacks {lacking}"):
            registry_login("registry")

    def test_is_not_given_beside_another_login(self):
        task = MLProjectOperator(task_id="t", uri="p", docker_conn_id="registry", docker_auth={"password": "x"})
        with pytest.raises(UserError, match="Give docker_auth or docker_conn_id, not both"):
            _docker_auth(task)

    def test_leaves_no_secret_with_the_task(self, connection):
        from airflow.serialization.serialized_objects import DagSerialization

        connection("registry", **self.LOGIN)
        with DAG("d") as dag:
            task = MLProjectOperator(task_id="t", uri="p", docker_conn_id="registry")
        assert _docker_auth(task)["password"] == "hunter2"
        assert "hunter2" not in json.dumps(DagSerialization.to_dict(dag))
        assert "hunter2" not in repr(vars(task))
