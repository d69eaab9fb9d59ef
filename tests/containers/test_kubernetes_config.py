"""The settings of the Kubernetes backend: by MLflow's names and ours, checked before anything is done."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproj_core.backends.kubernetes.config import SETTINGS, KubernetesConfig
from mlproj_core.errors import UserError

VALUES = {
    "kube-context": "kind-ml",
    "kube-job-template-path": "job.yaml",
    "repository-uri": "registry.example.com:5000/team/wine",
    "kubeconfig": "/etc/kubeconfig",
    "namespace": "ml",
    "image": "python:3.12-slim",
    "image-pull-secrets": ["login"],
    "image-pull-policy": "Always",
    "service-account": "trainer",
    "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "4Gi", "nvidia.com/gpu": "1"}},
    "env-from": [{"secretRef": {"name": "store"}}],
    "ttl-seconds-after-finished": 60,
    "tracking-uri": "http://mlflow.ml:5000",
    "code": "git",
    "cache-volume": {"hostPath": {"path": "/var/cache"}},
    "labels": {"team": "wine"},
    "annotations": {"example.com/owner": "a b c"},
    "node-selector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "run-as-user": 2000,
    "grace": 60,
    "git-image": "registry.example.com/git",
    "unpack-image": "busybox",
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


def read(config, **environ):
    return KubernetesConfig.read(config, environ)


def refusal(config):
    with pytest.raises(UserError) as caught:
        read(config)
    return str(caught.value)


class TestSettings:
    def test_all_of_them_are_tried_here(self):
        assert set(VALUES) | {"job-template"} == set(SETTINGS)

    @pytest.mark.parametrize("name", VALUES)
    def test_arrive_under_hyphens_and_underscores(self, name):
        attribute, _ = SETTINGS[name]
        found = getattr(read({name: VALUES[name]}), attribute)
        assert (list(found) if isinstance(found, tuple) else found) == VALUES[name]
        assert read({name.replace("-", "_"): VALUES[name]}) == read({name: VALUES[name]})

    def test_none_are_needed(self):
        assert read({}) == KubernetesConfig()
        assert read({"namespace": None, "resources": None}) == KubernetesConfig()

    def test_of_mlflow_are_read_as_its_documentation_shows_them(self):
        config = read(
            {
                "kube-context": "docker-for-desktop",
                "repository-uri": "gcr.io/username/mlflow-kubernetes-example",
                "kube-job-template-path": "kubernetes_job_template.yaml",
            }
        )
        assert config.context == "docker-for-desktop"
        assert config.repository_uri == "gcr.io/username/mlflow-kubernetes-example"
        assert config.template_path == "kubernetes_job_template.yaml"

    def test_in_two_spellings_contradict_each_other(self):
        assert "the same setting" in refusal({"kube-context": "a", "kube_context": "b"})

    def test_that_are_unknown_are_refused_with_a_suggestion(self):
        assert "Did you mean 'service-account'?" in refusal({"service_acount": "x"})
        assert "Did you mean 'image-pull-secrets'?" in refusal({"imagePullSecret": "x"})
        assert "job-template" in refusal({"affinity": {}})

    def test_of_other_backends_are_taken_where_they_are_so_anyway(self):
        assert read({"detach": True}) == read({"detach": None}) == KubernetesConfig()
        assert "a Job outlives whoever asked for it" in refusal({"detach": False})

    def test_are_all_checked_at_once(self):
        text = refusal({"namespace": "ML", "grace": -1, "nope": 1})
        assert [word for word in ("'namespace'", "'grace'", "'nope'") if word in text] == [
            "'namespace'",
            "'grace'",
            "'nope'",
        ]

    @given(st.sampled_from(sorted(SETTINGS)), JSON)
    def test_of_any_value_are_read_or_refused_by_name(self, name, value):
        refused = None
        try:
            read({name: value})
        except UserError as error:
            refused = str(error)
        assert refused is None or f"'{name}'" in refused

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("namespace", "Team_A"), ("namespace", "a.b"), ("namespace", "a" * 64), ("namespace", 3),
            ("kube-context", ""), ("kube-context", 1),
            ("repository-uri", "https://registry.example.com/x"), ("repository-uri", "registry.example.com/x:latest"),
            ("repository-uri", "registry.example.com/X"),
            ("image", "a b"), ("image", ["a"]),
            ("image-pull-policy", "always"),
            ("image-pull-secrets", [{"nam": "x"}]), ("image-pull-secrets", ["A_B"]),
            ("service-account", "a_b"),
            ("resources", "4Gi"), ("resources", {"limits": "4Gi"}), ("resources", {"cpu": "two"}),
            ("resources", {"memory": True}), ("resources", {"limits": {"memory": "4 Gi"}}),
            ("env-from", "store"), ("env-from", "vault/store"), ("env-from", [{"secretref": {"name": "x"}}]),
            ("ttl-seconds-after-finished", "1h"), ("ttl-seconds-after-finished", -1), ("grace", True), ("grace", 2.5),
            ("code", "zip"), ("cache-volume", {"name": "x"}), ("cache-volume", {"hostPth": {}}),
            ("cache-volume", "A b"), ("labels", {"team": "a b"}), ("labels", {"team": 1}), ("labels", {"": "x"}),
            ("labels", {"mlproj/key": "x"}), ("annotations", {"a/b/c": "x"}), ("node-selector", ["gpu"]),
            ("tolerations", {"key": "x"}),
            ("tolerations", [{"ky": "x"}]), ("run-as-user", 0), ("run-as-user", "root"), ("job-template", "job.yaml"),
        ],
    )  # fmt: skip
    def test_of_a_wrong_value_are_refused_by_name(self, name, value):
        assert f"'{name}'" in refusal({name: value})

    def test_say_what_stands_in_the_way(self):
        assert "did you mean 'secretRef'?" in refusal({"env-from": [{"secretref": {"name": "x"}}]})
        assert "Did you mean 'secret'?" in refusal({"code": "secrt"})
        assert re.search(r"\[0\]\.ky: .*no field 'ky'.*did you mean 'key'", refusal({"tolerations": [{"ky": "x"}]}))


class TestShortForms:
    def test_of_resources_are_requests_and_limits(self):
        both = {"cpu": "2", "memory": "4Gi"}
        assert read({"resources": {"cpu": 2, "memory": "4Gi"}}).resources == {"requests": both, "limits": both}

    def test_of_a_cache_volume_is_a_claims_name(self):
        assert read({"cache-volume": "envs"}).cache_volume == {"persistentVolumeClaim": {"claimName": "envs"}}

    def test_of_pull_secrets_are_one_name_or_kubernetes_own_form(self):
        assert read({"image-pull-secrets": "login"}).image_pull_secrets == ("login",)
        assert read({"image-pull-secrets": [{"name": "login"}]}).image_pull_secrets == ("login",)

    def test_of_env_from_name_kind_and_object(self):
        assert read({"env-from": ["secret/store", "configmap/proxy"]}).env_from == (
            {"secretRef": {"name": "store"}},
            {"configMapRef": {"name": "proxy"}},
        )


class TestTheTrackingServersAddress:
    def test_may_be_the_variable_that_mlflow_reads(self):
        assert read({}, KUBE_MLFLOW_TRACKING_URI="http://mlflow").tracking_uri == "http://mlflow"
        assert (
            read({"tracking-uri": "http://own"}, KUBE_MLFLOW_TRACKING_URI="http://mlflow").tracking_uri == "http://own"
        )
        assert read({}, KUBE_MLFLOW_TRACKING_URI="").tracking_uri is None


class TestWhatGoesTogether:
    def test_is_one_template(self):
        assert "two templates" in refusal({"job-template": {}, "kube-job-template-path": "x"})

    def test_is_a_build_with_a_repository(self):
        assert "'repository-uri'" in refusal({"code": "build"})
        assert read({"code": "build", "repository-uri": "registry/x"}).code == "build"
