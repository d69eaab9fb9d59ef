"""The blocks of prefect-kubernetes and prefect-docker, told by their shape, since neither need be installed."""

import json

import kubernetes.client
import pytest
from kubernetes_cluster import Cluster
from prefect.blocks.core import Block
from pydantic import SecretStr

from mlproj_core.errors import UserError
from prefect_mlproj.access import Access, _client_of, registry_login
from prefect_mlproj.artifacts import Intent, intent_in


class ClusterConfig(Block):
    """As `KubernetesClusterConfig` of prefect-kubernetes 0.8."""

    config: dict
    context_name: str


class Credentials(Block):
    """As `KubernetesCredentials` of prefect-kubernetes 0.8."""

    cluster_config: ClusterConfig | None = None


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
        access = Access(kubernetes=(block := Credentials()))
        block._block_document_name = "prod"
        assert access.names() == {"kubernetes": "credentials/prod"}
        intent = Intent("a key", "kubernetes", {"namespace": "ml"}, access.names())
        assert intent_in(intent.text()) == intent
        assert intent_in("```json\n{}\n```") is None
