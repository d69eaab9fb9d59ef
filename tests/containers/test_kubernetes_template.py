"""A job template: read, checked before anything is created, and rid of what mlproj decides itself."""

import copy
import re
import subprocess
import sys
from textwrap import dedent

import kubernetes
import pytest
from kubernetes.client import models

from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.schema import misfits
from mlproj_core.backends.kubernetes.template import JobTemplate, read_template
from mlproj_core.errors import UserError

MLFLOWS = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: "{replaced with MLflow Project name}"
  namespace: mlflow
spec:
  ttlSecondsAfterFinished: 100
  backoffLimit: 0
  template:
    spec:
      containers:
      - name: "{replaced with MLflow Project name}"
        image: "{replaced with URI of Docker image created during Project execution}"
        command: ["{replaced with MLflow Project entry point command}"]
        env: ["{appended with MLFLOW_TRACKING_URI, MLFLOW_RUN_ID and MLFLOW_EXPERIMENT_ID}"]
        resources:
          limits:
            memory: 512Mi
          requests:
            memory: 256Mi
      restartPolicy: Never
"""
"""The example of https://mlflow.org/docs/latest/ml/projects/#run-an-mlflow-project-on-kubernetes."""


def job(pod=None, metadata=None, **spec):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata or {},
        "spec": {**spec, "template": {"spec": pod or {"containers": [{"name": "mlproj"}]}}},
    }


def read(template):
    return read_template(KubernetesConfig.read({"job-template": template}, {}))


def refusal(template):
    with pytest.raises(UserError) as caught:
        read(template)
    return str(caught.value)


@pytest.fixture
def in_file(tmp_path):
    """Reads a template from a file; its name stands for the path."""

    def read_text(text):
        path = tmp_path / "job.yaml"
        path.write_text(dedent(text))
        return read_template(KubernetesConfig.read({"kube-job-template-path": str(path)}, {}))

    return read_text


class TestATemplate:
    def test_that_is_not_given_is_empty(self):
        assert read_template(KubernetesConfig()) == JobTemplate()
        assert JobTemplate().container("wine") == {}
        assert JobTemplate().namespace is None

    def test_of_mlflows_documentation_is_one(self, in_file):
        template = in_file(MLFLOWS)
        assert template.warnings == ()
        assert template.namespace == "mlflow"
        assert template.job["spec"]["ttlSecondsAfterFinished"] == 100
        assert template.container("wine") == {
            "resources": {"limits": {"memory": "512Mi"}, "requests": {"memory": "256Mi"}}
        }

    def test_is_not_changed_where_it_came_from(self):
        given = job(suspend=True, metadata={"name": "x"})
        before = copy.deepcopy(given)
        read(given)
        assert given == before

    def test_may_be_what_kubectl_prints_of_a_job(self):
        controller = {"batch.kubernetes.io/job-name": "old", "controller-uid": "1", "job-name": "old", "team": "wine"}
        printed = job(
            metadata={
                "name": "old", "namespace": "ml", "uid": "1", "resourceVersion": "7", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": dict(controller),
            },
            backoffLimit=0, completionMode="NonIndexed", completions=1, parallelism=1, manualSelector=False,
            podReplacementPolicy="Failed",
        )  # fmt: skip
        printed["spec"]["template"]["metadata"] = {"creationTimestamp": None, "labels": dict(controller)}
        printed["status"] = {"active": 1}
        template = read(printed)
        assert template.warnings == ()
        assert template.job["metadata"] == {"namespace": "ml", "labels": {"team": "wine"}}
        assert template.job["spec"]["template"]["metadata"] == {"labels": {"team": "wine"}}
        assert "status" not in template.job

    def test_needs_nothing_but_its_kind(self):
        assert read({"apiVersion": "batch/v1", "kind": "Job"}).pod == {}


class TestTheProjectsContainer:
    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["proxy", "mlproj", "wine"], 1),
            (["proxy", "wine"], 1),
            (["proxy", "{replaced with MLflow Project name}"], 1),
            (["proxy", None], 1),
            (["anything"], 0),
            (["first", "second"], 0),
        ],
    )
    def test_is_found_by_its_name(self, names, found):
        template = read(job({"containers": [{"name": name, "image": "x"} for name in names]}))
        assert template.index("wine") == found

    def test_of_a_project_without_a_name(self):
        assert read(job({"containers": [{"name": "proxy"}, {"name": "mlproj"}]})).index(None) == 1


class TestTheModelsOfTheClient:
    def test_are_of_types_that_the_check_understands(self):
        """Else it would pass over what is wrong. All fields below a Job are looked at."""
        seen, new = set(), {"V1Job"}
        while new:
            seen |= new
            types = {kind for model in new for kind in getattr(models, model).openapi_types.values()}
            inner = {re.sub(r"^([Ll]ist\[|[Dd]ict[\[(]str, )|[\])]$", "", kind) for kind in types}
            inner = {re.sub(r"^[Ll]ist\[|\]$", "", kind) for kind in inner}
            new = {kind for kind in inner if hasattr(models, kind)} - seen
            assert inner - seen - new <= {"str", "int", "bool", "float", "object", "datetime"}
        assert {"V1Container", "V1Toleration", "V1SecretKeySelector"} <= seen

    @pytest.mark.parametrize("value", [3, True, "x", [], {}, 2.5])
    @pytest.mark.parametrize("model", ["V1Job", "list[V1Toleration]", "dict(str, str)", "str", "int", "bool"])
    def test_refuse_what_is_of_another_kind(self, model, value):
        fitting = {
            "V1Job": dict,
            "list[V1Toleration]": list,
            "dict(str, str)": dict,
            "str": str,
            "int": int,
            "bool": bool,
        }
        assert bool(list(misfits(value, model))) is (type(value) is not fitting[model])

    def test_are_loaded_only_where_there_is_something_to_check(self):
        """Importing them takes longer than a whole submit."""
        code = (
            "from mlproj_core.backends.kubernetes.config import KubernetesConfig as C;"
            "import sys; C.read({'namespace': 'ml'}); print('kubernetes' in sys.modules)"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert answer.stdout == "False\n"


class TestWhatCannotBe:
    def test_is_anything_but_a_job(self, in_file):
        assert "must be Job, and is 'Pod'" in refusal({"kind": "Pod", "apiVersion": "v1"})
        assert "batch/v1beta1" in refusal({"kind": "Job", "apiVersion": "batch/v1beta1"})
        with pytest.raises(UserError, match="must be a Job, and is a list"):
            in_file("- a\n")

    def test_is_a_file_that_is_not_there(self):
        with pytest.raises(UserError, match=r"kube-job-template-path: nowhere/job\.yaml: cannot be read: No such file"):
            read_template(KubernetesConfig.read({"kube-job-template-path": "nowhere/job.yaml"}, {}))

    def test_is_no_yaml_and_said_with_its_line(self, in_file):
        with pytest.raises(UserError, match=r"job\.yaml:2:\d+: not valid YAML.*tabs"):
            in_file("kind: Job\n\tspec: {}\n")

    def test_is_a_field_that_kubernetes_does_not_know(self, in_file):
        with pytest.raises(UserError) as caught:
            in_file(
                """\
                apiVersion: batch/v1
                kind: Job
                spec:
                  template:
                    spec:
                      containers:
                        - name: mlproj
                          resource:
                            limits: {memory: 1Gi}
                          env:
                            - name: DEPTH
                              value: 3
                      tolerations:
                        key: gpu
                """
            )
        lines = str(caught.value).split("\n")
        assert lines[0].endswith("3 problems:")
        assert "job.yaml:8:11: spec.template.spec.containers[0].resource: Kubernetes knows no field" in lines[1]
        assert "did you mean 'resources'?" in lines[1]
        assert "job.yaml:12:22: spec.template.spec.containers[0].env[0].value: must be text" in lines[2]
        assert "quote it" in lines[2]
        assert "job.yaml:14:9: spec.template.spec.tolerations: must be a list" in lines[3]

    @pytest.mark.parametrize(
        ("spec", "field"),
        [
            ({"parallelism": 2}, "spec.parallelism"),
            ({"completions": 3}, "spec.completions"),
            ({"completionMode": "Indexed"}, "spec.completionMode"),
            ({"selector": {"matchLabels": {"a": "b"}}}, "spec.selector"),
            ({"manualSelector": True}, "spec.manualSelector"),
            ({"backoffLimitPerIndex": 1}, "spec.backoffLimitPerIndex"),
            ({"successPolicy": {"rules": []}}, "spec.successPolicy"),
            ({"ttlSecondsAfterFinished": "1h"}, "spec.ttlSecondsAfterFinished"),
            ({"pod": {"containers": [{"name": "a"}, {"name": "a"}]}}, "spec.template.spec.containers[1]"),
            ({"pod": {"containers": [{}, {}]}}, "spec.template.spec.containers[1]"),
            ({"pod": {"initContainers": [{"image": "x"}]}}, "spec.template.spec.initContainers[0]"),
            ({"pod": {"volumes": [{"name": "mlproj-work"}]}}, "spec.template.spec.volumes[0].name"),
            ({"pod": {"volumes": [{"name": "x", "emptyDir": {"sizeLimit": "big"}}]}}, "emptyDir.sizeLimit"),
            ({"metadata": {"namespace": "A_B"}}, "metadata.namespace"),
        ],
    )
    def test_is_said_with_its_field(self, spec, field):
        assert field in refusal(job(**spec))

    def test_may_be_newer_than_the_client(self):
        text = refusal(job(quantumPolicy="x"))
        assert (
            f"the package kubernetes {kubernetes.__version__}, which must be as new as a new field is, has active"
            in text
        )


class TestWhatDoesNotCount:
    @pytest.mark.parametrize(
        ("spec", "word"),
        [
            ({"suspend": False}, "spec.suspend"),
            ({"backoffLimit": 6}, "spec.backoffLimit"),
            ({"podFailurePolicy": {"rules": []}}, "spec.podFailurePolicy"),
            ({"podReplacementPolicy": "TerminatingOrFailed"}, "spec.podReplacementPolicy"),
            ({"pod": {"restartPolicy": "OnFailure"}}, "restartPolicy"),
            ({"metadata": {"generateName": "x-"}}, "metadata.generateName"),
        ],
    )
    def test_is_a_warning(self, spec, word):
        (warning,) = read(job(**spec)).warnings
        assert warning.startswith("job-template: ")
        assert word in warning

    def test_is_what_a_second_key_of_the_same_name_hides(self, in_file):
        (warning,) = in_file("apiVersion: batch/v1\nkind: Job\nkind: Job\n").warnings
        assert "job.yaml:3:1" in warning
