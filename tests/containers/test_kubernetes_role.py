"""The permissions that are shipped for the Kubernetes backend."""

import subprocess
import sys

import pytest
import yaml
from kubernetes_parts import read_by_client

from mlproj_core.backends.kubernetes.role import role
from mlproj_core.errors import UserError


def documents(*options):
    command = [
        sys.executable,
        "-c",
        "import sys, mlproj_core.cli as c; sys.exit(c.main())",
        "kubernetes",
        "role",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


class TestTheRole:
    def test_is_for_the_namespace_and_whom_it_is_asked_for(self):
        granted, binding = documents("-n", "team-a", "--service-account", "airflow:worker")
        assert granted["metadata"] == binding["metadata"] == {"name": "mlproj-submitter", "namespace": "team-a"}
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "worker", "namespace": "airflow"}]
        assert binding["roleRef"]["name"] == "mlproj-submitter"

    def test_is_of_the_default_namespace_unless_another_is_named(self):
        granted, binding = documents()
        assert granted["metadata"]["namespace"] == "default"
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "mlproj-submitter", "namespace": "default"}]

    @pytest.mark.parametrize("name", ["ml", "mlproj-submitter", "x"])
    def test_confuses_no_names(self, name):
        granted, binding = yaml.safe_load_all(role(name, f"a:{name}"))
        assert granted["metadata"]["namespace"] == binding["metadata"]["namespace"] == name
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "a"}]

    def test_is_what_the_client_knows(self):
        granted, binding = documents()
        assert read_by_client(granted, "V1Role") == granted
        assert read_by_client(binding, "V1RoleBinding") == binding

    def test_lets_nobody_read_a_secret_or_do_anything_at_will(self):
        granted, _ = documents()
        verbs = {resource: rule["verbs"] for rule in granted["rules"] for resource in rule["resources"]}
        assert set(verbs) == {"jobs", "pods", "pods/log", "events", "secrets"}
        assert not {"get", "list", "watch"} & set(verbs["secrets"])
        assert not [one for one in verbs.values() if "*" in one or "deletecollection" in one]

    @pytest.mark.parametrize(
        ("namespace", "account"), [("A", "x"), ("a.b", "x"), ("a", "x y"), ("a", "B:x"), ("a", "")]
    )
    def test_is_for_names_only(self, namespace, account):
        with pytest.raises(UserError, match=r"is no (namespace|name) as Kubernetes takes it"):
            role(namespace, account)
