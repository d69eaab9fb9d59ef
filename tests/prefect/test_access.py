"""The blocks of other collections, told by their shape: of prefect-kubernetes, prefect-databricks, prefect-docker."""

import json

import kubernetes.client
import pytest
from databricks_server import Workspace
from kubernetes_cluster import Cluster
from prefect.blocks.core import Block
from pydantic import SecretStr

from mlproj_core.backends.databricks.connect import forget_workspaces
from mlproj_core.backends.databricks.credentials import Credentials as WorkspaceCredentials
from mlproj_core.errors import UserError
from prefect_mlproj.access import Access, _client_of, registry_login, workspace_credentials
from prefect_mlproj.artifacts import Intent, intent_in


class ClusterConfig(Block):
    """As `KubernetesClusterConfig` of prefect-kubernetes 0.8."""

    config: dict
    context_name: str


class Credentials(Block):
    """As `KubernetesCredentials` of prefect-kubernetes 0.8."""

    cluster_config: ClusterConfig | None = None


class DatabricksCredentials(Block):
    """As that of prefect-databricks 0.3; of an older one it has no more than the token."""

    databricks_instance: str
    token: SecretStr | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    tenant_id: str | None = None
    client_kwargs: dict | None = None


class RegistryCredentials(Block):
    """As `DockerRegistryCredentials` of prefect-docker 0.7."""

    username: str
    password: SecretStr
    registry_url: str


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def block(cluster, tmp_path):
    """Makes credentials for a user of the cluster's."""

    def make(user):
        path = tmp_path / "config"
        cluster.write_kubeconfig(path, cluster.add_user(user), context="there")
        return Credentials(cluster_config=ClusterConfig(config=json.loads(path.read_text()), context_name="there"))

    return make


class TestCredentialsOfACluster:
    def test_give_a_client_that_is_let_in(self, cluster, block):
        client = _client_of(block("me"))
        found = kubernetes.client.CoreV1Api(client).list_namespace()
        assert cluster.namespace in [one.metadata.name for one in found.items]
        client.rest_client.pool_manager.clear()

    def test_give_one_client_for_all_runs_there_and_another_elsewhere(self, block):
        one, other = block("one"), block("other")
        assert _client_of(one) is _client_of(one.model_copy(deep=True))
        assert _client_of(one) is not _client_of(other)

    def test_that_name_no_cluster_leave_it_to_the_backend(self):
        assert _client_of(Credentials()) is None

    def test_whose_context_is_not_there_are_refused(self, block):
        wrong = block("me")
        wrong.cluster_config.context_name = "elsewhere"
        with pytest.raises(UserError, match="lead to no cluster"):
            _client_of(wrong)

    def test_are_a_block_of_that_shape(self):
        with pytest.raises(UserError, match="must be a block KubernetesCredentials of prefect-kubernetes; got str"):
            _client_of("prod")

    def test_are_for_the_backend_kubernetes_only(self):
        with pytest.raises(UserError, match="add backend='kubernetes'"):
            Access(kubernetes=Credentials()).backend("local")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    # What this process's variables say is of another one, and is not for the block.
    for name, value in {"HOST": "https://other.example.com", "CLIENT_ID": "other", "CLIENT_SECRET": "other"}.items():
        monkeypatch.setenv(f"DATABRICKS_{name}", value)
    with Workspace(tmp_path / "workspace") as workspace:
        workspace.add_client("principal", "geheim")
        yield workspace
        forget_workspaces()


class TestCredentialsOfAWorkspace:
    def test_let_the_holder_of_a_token_in(self, workspace):
        block = DatabricksCredentials(databricks_instance=workspace.host, token=workspace.token)
        client = workspace_credentials(block).client("the block")
        assert client.current_user.me().user_name == "me@example.org"

    def test_let_a_service_principal_in(self, workspace):
        principal = {"client_id": "principal", "client_secret": "geheim"}
        block = DatabricksCredentials(databricks_instance=workspace.host, **principal)
        client = workspace_credentials(block).client("the block")
        assert client.current_user.me().user_name == "principal"

    def test_name_a_service_principal_of_azure(self):
        principal = {"client_id": "principal", "client_secret": "geheim", "tenant_id": "tenant"}
        block = DatabricksCredentials(databricks_instance="adb-1.azuredatabricks.net", **principal)
        assert workspace_credentials(block) == WorkspaceCredentials("adb-1.azuredatabricks.net", **principal)

    def test_give_one_client_for_all_runs_there(self, workspace):
        block = DatabricksCredentials(databricks_instance=workspace.host, token=workspace.token)
        clients = [workspace_credentials(one).client("the block") for one in (block, block.model_copy(deep=True))]
        assert clients[0] is clients[1]

    @pytest.mark.parametrize("given", ["prod", DatabricksCredentials(databricks_instance="x", client_id="x")])
    def test_are_a_block_of_that_shape(self, given):
        with pytest.raises(UserError, match="must be a block DatabricksCredentials of prefect-databricks"):
            workspace_credentials(given)

    def test_are_for_the_backend_databricks_only(self):
        with pytest.raises(UserError, match="add backend='databricks'"):
            Access(databricks=DatabricksCredentials(databricks_instance="x", token="x")).backend("kubernetes")


class TestCredentialsOfARegistry:
    def test_give_its_login(self):
        block = RegistryCredentials(username="me", password="hunter2", registry_url="registry.example.com")
        login = {"username": "me", "password": "hunter2", "registry": "registry.example.com"}
        assert registry_login(block) == login

    def test_are_a_block_of_that_shape(self):
        with pytest.raises(UserError, match="must be a block DockerRegistryCredentials of prefect-docker"):
            registry_login(Credentials())


class TestAnIntent:
    def test_is_read_as_it_was_written_and_holds_no_more_than_names(self):
        workspace = DatabricksCredentials(databricks_instance="x", token="geheim")
        access = Access(kubernetes=(block := Credentials()), databricks=workspace)
        block._block_document_name, workspace._block_document_name = "prod", "ml"
        assert access.names() == {"kubernetes": "credentials/prod", "databricks": "databrickscredentials/ml"}
        intent = Intent("a key", "kubernetes", {"namespace": "ml"}, access.names())
        assert intent_in(intent.text()) == intent
        assert intent_in("```json\n{}\n```") is None
