"""What connections give a task: the client of a cluster or of a workspace, and the login of a registry."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import kubernetes.client
import pytest
from airflow.sdk import DAG, literal
from airflow.serialization.serialized_objects import DagSerialization
from databricks_scripted import Script as TaskScript
from databricks_scripted import ScriptedRuntime
from databricks_server import Workspace
from kubernetes_cluster import Cluster
from kubernetes_runtime import Script
from mlflow_world import free_port

from airflow_mlproj import MLProjectOperator, MLProjectRunSensor, MLProjectRunTrigger
from airflow_mlproj.connections import (
    _client_of,
    backend_for,
    cluster_namespace,
    registry_login,
    workspace_credentials,
)
from airflow_mlproj.plugin import _end
from airflow_mlproj.request import _docker_auth, settings_of
from mlproj_core import attach, submit
from mlproj_core.backends.databricks.connect import forget_workspaces
from mlproj_core.backends.databricks.credentials import Credentials
from mlproj_core.backends.databricks.poll import stop_polling
from mlproj_core.backends.kubernetes.watch import stop_watching
from mlproj_core.errors import ContactLost, UserError
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
        _end(begun.handle, None, "runs")
        assert begun.get_status() == "KILLED"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace, whose tasks print a line and run until its runtime's gate is set."""
    # What this process's variables say is of another one, and is not for the connection.
    for name, value in {"HOST": "https://other.example.com", "CLIENT_ID": "other", "CLIENT_SECRET": "other"}.items():
        monkeypatch.setenv(f"DATABRICKS_{name}", value)
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "other")
    runtime = ScriptedRuntime(TaskScript("a line\n"))
    runtime.gate.clear()
    with Workspace(tmp_path / "workspace", runtime) as workspace:
        workspace.add_client("principal", "geheim")
        yield workspace
        stop_polling()
        forget_workspaces()


@pytest.fixture
def leads_into(connection, workspace):
    """Defines a connection of the type `databricks` to the workspace."""

    def put(conn_id, **fields):
        host, port = workspace.server_address
        return connection(conn_id, conn_type="databricks", schema="http", host=host, port=port, **fields)

    return put


def client_of(conn_id):
    return workspace_credentials(conn_id).client("the connection")


PRINCIPAL = {"login": "principal", "password": "geheim"}


class TestAConnectionToAWorkspace:
    def test_lets_the_holder_of_a_token_in(self, workspace, leads_into):
        leads_into("by_password", password=workspace.token)
        leads_into("by_extra", extra={"token": workspace.token})
        names = [client_of(conn_id).current_user.me().user_name for conn_id in ("by_password", "by_extra")]
        assert names == ["me@example.org", "me@example.org"]

    def test_lets_a_service_principal_in(self, leads_into):
        leads_into("principal", **PRINCIPAL, extra={"service_principal_oauth": "true"})
        assert client_of("principal").current_user.me().user_name == "principal"

    def test_names_a_service_principal_of_azure(self, connection):
        extra = {
            "azure_tenant_id": "tenant",
            "azure_resource_id": "/subscriptions/1",
            "host": "https://adb-1.azure.net/",
        }
        connection("azure", conn_type="databricks", host="unused", **PRINCIPAL, extra=extra)
        found = Credentials(
            "https://adb-1.azure.net",
            client_id="principal",
            client_secret="geheim",
            tenant_id="tenant",
            resource_id="/subscriptions/1",
        )
        assert workspace_credentials("azure") == found
        assert "geheim" not in repr(found)

    def test_gives_one_client_for_all_runs_until_it_is_changed(self, workspace, leads_into):
        leads_into("shared", password=workspace.token)
        first = client_of("shared")
        assert client_of("shared") is first
        leads_into("shared", password=workspace.access.new_token("somebody@example.org"))
        assert client_of("shared").current_user.me().user_name == "somebody@example.org"

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({}, "has no credentials: give a token in the password"),
            (PRINCIPAL, "Databricks lets nobody in any more.*service_principal_oauth"),
            ({"login": "principal", "extra": {"service_principal_oauth": True}}, "its secret in the password"),
            ({"password": "x", "schema": "default"}, "has the schema 'default', which is no scheme"),
            ({"password": "x", "host": ""}, "has no host: give the workspace's address"),
            ({"password": "x", "extra": {"proxies": {"https": "http://proxy"}}}, "set HTTPS_PROXY"),
            ({"extra": {"use_azure_managed_identity": True}}, "asks for use_azure_managed_identity"),
            ({"login": "federated_k8s", "extra": {"client_id": "x"}}, "asks for federated_k8s"),
        ],
    )
    def test_that_cannot_be_used_is_refused_with_its_name(self, connection, fields, said):
        connection("wrong", **{"conn_type": "databricks", "host": "dbc-1.cloud.databricks.com", **fields})
        with pytest.raises(UserError, match=f"'wrong'.* {said}"):
            workspace_credentials("wrong")

    def test_whose_credentials_are_refused_says_so(self, workspace, leads_into):
        leads_into("expired", password="dapi-expired")
        backend = backend_for("databricks", databricks_conn_id="expired").configure({})
        with pytest.raises(UserError, match="Invalid access token") as caught:
            backend.find("a key")
        assert "dapi-expired" not in str(caught.value)

    def test_whose_workspace_is_out_of_reach_says_nothing_of_the_run(self, connection, monkeypatch):
        monkeypatch.setattr("mlproj_core.backends.databricks.connect.PATIENCE", 1)
        place = {"schema": "http", "host": "127.0.0.1", "port": free_port()}
        connection("away", conn_type="databricks", **place, **PRINCIPAL, extra={"service_principal_oauth": True})
        with pytest.raises(ContactLost, match="out of reach"):
            backend_for("databricks", databricks_conn_id="away")

    def test_is_for_the_backend_databricks_only(self):
        with pytest.raises(UserError, match=r"is for runs on Databricks.*add backend='databricks'"):
            backend_for("kubernetes", databricks_conn_id="prod")

    def test_says_itself_where_the_workspace_is(self, workspace, leads_into):
        leads_into("placed", password=workspace.token)
        backend = backend_for("databricks", databricks_conn_id="placed")
        with pytest.raises(UserError, match="names a profile or another host"):
            backend.configure({"profile": "prod"})

    def test_is_named_by_a_trigger_which_holds_no_secret(self, workspace, leads_into):
        leads_into("triggered", password=workspace.token)
        handle = RunHandle("databricks", "k", 1, "a1", {"host": workspace.host}).to_dict()
        stored = json.dumps(MLProjectRunTrigger(handle, databricks_conn_id="triggered").serialize())
        assert '"databricks_conn_id": "triggered"' in stored
        assert workspace.token not in stored

    def test_goes_with_references_to_secrets_that_airflow_does_not_render(self):
        reference = "{{secrets/mlproj/key}}"
        given = {
            "backend_config": {"spark_env_vars": {"KEY": literal(reference)}},
            "env_vars": {"KEY": literal(reference)},
        }
        with DAG("d") as dag:
            task = MLProjectOperator(task_id="t", uri="p", backend="databricks", **given)
        assert DagSerialization.to_dict(dag)
        task.render_template_fields({"task": task, "dag": dag})
        assert task.env_vars.values == {"KEY": reference}
        assert settings_of(task) == {"spark_env_vars": {"KEY": reference}}

    def test_needs_neither_the_provider_nor_for_a_parse_the_sdk(self, connection):
        connection("plain", conn_type="databricks", host="dbc-1.cloud.databricks.com", password="x")
        program = """
import sys
from airflow_mlproj import MLProjectOperator, MLProjectRunSensor
from airflow_mlproj.connections import workspace_credentials

MLProjectOperator(task_id="t", uri="p", backend="databricks", databricks_conn_id="plain")
MLProjectRunSensor(task_id="s", run_id="r", databricks_conn_id="plain")
assert not [name for name in sys.modules if name.startswith(("databricks", "mlproj_core.backends"))]
assert workspace_credentials("plain").host == "https://dbc-1.cloud.databricks.com"
assert not [name for name in sys.modules if name.startswith(("databricks", "airflow.providers.databricks.hooks"))]
"""
        subprocess.run([sys.executable, "-c", program], check=True)


class TestARunInAWorkspace:
    """A run that ends once its workspace lets it; asked for as a task would."""

    @pytest.fixture
    def begun(self, workspace, leads_into, tmp_path, monkeypatch):
        leads_into("runs", **PRINCIPAL, extra={"service_principal_oauth": True})
        monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setenv("MLPROJ_TRACKING", "off")
        project = tmp_path / "project"
        project.mkdir()
        (project / "MLproject").write_text("entry_points: {main: {command: 'true'}}\n")
        backend = backend_for("databricks", databricks_conn_id="runs")
        settings = {"existing_cluster_id": workspace.add_cluster("1128-1")}
        run = submit(project, backend=backend, backend_config=settings, env_manager="local")
        workspace.runs.wait_until(lambda: workspace.runtime.jobs)
        return run

    def test_is_the_service_principals(self, workspace, begun):
        assert workspace.runs.newest().user == "principal"

    def test_is_followed_by_a_trigger(self, workspace, begun):
        trigger = MLProjectRunTrigger(begun.handle.to_dict(), databricks_conn_id="runs")

        async def follow():
            waiting = asyncio.create_task(anext(trigger.run()))
            while not trigger.cursor:  # it has seen the line
                await asyncio.sleep(0.05)
            workspace.runtime.gate.set()
            return (await waiting).payload

        assert asyncio.run(asyncio.wait_for(follow(), 60)) == {"cursor": trigger.cursor, "timed_out": False}
        assert begun.get_status() == "FINISHED"

    def test_is_waited_for_with_what_the_connection_says_now(self, workspace, leads_into, begun):
        def attached():
            return attach(begun.handle, backend=backend_for("databricks", databricks_conn_id="runs"))

        assert not attached().wait(timeout=2.5)
        leads_into("runs", password=workspace.token)
        workspace.access.clients.clear()
        for token in [token for token, user in workspace.access.tokens.items() if user == "principal"]:
            del workspace.access.tokens[token]
        workspace.runtime.gate.set()
        assert attached().wait(timeout=60)

    def test_is_waited_for_by_a_sensor(self, workspace, begun):
        sensor = MLProjectRunSensor(task_id="s", handle=begun.handle.to_dict(), databricks_conn_id="runs")
        assert sensor.poke({}) is False
        workspace.runtime.gate.set()
        workspace.runs.wait_until(lambda: workspace.runs.newest().over)
        assert sensor.poke({}).xcom_value["status"] == "FINISHED"

    def test_is_ended_by_the_api_server_for_a_task_that_was_marked(self, begun):
        _end(begun.handle, None, None, "runs")
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
        connection("registry", **self.LOGIN)
        with DAG("d") as dag:
            task = MLProjectOperator(task_id="t", uri="p", docker_conn_id="registry")
        assert _docker_auth(task)["password"] == "hunter2"
        assert "hunter2" not in json.dumps(DagSerialization.to_dict(dag))
        assert "hunter2" not in repr(vars(task))
