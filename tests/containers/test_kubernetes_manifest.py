"""The Job of an attempt, as the API server is given it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_admission import violations
from kubernetes_configuration import expand
from kubernetes_parts import LABELS, NAME, WAYS, accept, build, main_of, parts, pod_of, read_by_client, template
from kubernetes_schema import JOBS

from mlproj_core.backends.kubernetes.code import ImageCode, escaped
from mlproj_core.backends.kubernetes.manifest import stock_image
from mlproj_core.errors import UserError


class TestTheJob:
    def test_of_a_project_without_an_image_is_this(self):
        job = build({"cache-volume": "envs"}, timeout=90.2, annotations={"mlproj/claim": "{}"})
        assert job == {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": NAME,
                "namespace": "ml",
                "labels": LABELS,
                "annotations": {"mlproj/claim": "{}", "mlproj/container": "mlproj"},
            },
            "spec": {
                "suspend": True,
                "parallelism": 1,
                "completions": 1,
                "completionMode": "NonIndexed",
                "backoffLimit": 0,
                "podReplacementPolicy": "Failed",
                "activeDeadlineSeconds": 91,
                "ttlSecondsAfterFinished": 604800,
                "template": {
                    "metadata": {
                        "labels": LABELS,
                        "annotations": {
                            "mlproj/container": "mlproj",
                            "kubectl.kubernetes.io/default-container": "mlproj",
                            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                            "karpenter.sh/do-not-disrupt": "true",
                        },
                    },
                    "spec": {
                        "restartPolicy": "Never",
                        "enableServiceLinks": False,
                        "automountServiceAccountToken": False,
                        "securityContext": {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"},
                        "containers": [
                            {
                                "name": "mlproj",
                                "image": "python:3.11-slim",
                                "command": ["python3", "-I", "/mlproj/launcher.py", "/mlproj/plan.json"],
                                "workingDir": "/mlflow/projects",
                                "env": [
                                    {"name": "MLPROJ_RESULT", "value": "/dev/termination-log"},
                                    {"name": "HOME", "value": "/tmp"},
                                    {"name": "USER", "value": "mlproj"},
                                    {"name": "LOGNAME", "value": "mlproj"},
                                    {
                                        "name": "MLFLOW_RUN_ID",
                                        "valueFrom": {"secretKeyRef": {"name": NAME, "key": "MLFLOW_RUN_ID"}},
                                    },
                                ],
                                "volumeMounts": [
                                    {"name": "mlproj-tmp", "mountPath": "/tmp"},
                                    {"name": "mlproj-work", "mountPath": "/mlflow/projects"},
                                    {"name": "mlproj-files", "mountPath": "/mlproj", "readOnly": True},
                                    {"name": "mlproj-cache", "mountPath": "/mlflow/cache"},
                                ],
                                "securityContext": {
                                    "runAsNonRoot": True,
                                    "runAsUser": 1000,
                                    "runAsGroup": 1000,
                                    "readOnlyRootFilesystem": True,
                                    "allowPrivilegeEscalation": False,
                                    "capabilities": {"drop": ["ALL"]},
                                    "seccompProfile": {"type": "RuntimeDefault"},
                                },
                            }
                        ],
                        "volumes": [
                            {"name": "mlproj-tmp", "emptyDir": {}},
                            {"name": "mlproj-work", "emptyDir": {}},
                            {
                                "name": "mlproj-files",
                                "secret": {
                                    "secretName": NAME,
                                    "defaultMode": 0o444,
                                    "items": [
                                        {"key": key, "path": key} for key in ("launcher.py", "plan.json", "code.tar.gz")
                                    ],
                                },
                            },
                            {"name": "mlproj-cache", "persistentVolumeClaim": {"claimName": "envs"}},
                        ],
                    },
                },
            },
        }

    def test_of_an_image_of_the_projects_own_honours_its_entrypoint(self):
        main = main_of(build(image="registry/wine", argv=("python", "train.py"), code=ImageCode()))
        assert main["args"] == ["python", "train.py"]
        assert "command" not in main
        assert "workingDir" not in main

    def test_has_another_entrypoint_if_it_is_asked_for(self):
        main = main_of(build(argv=("train.py",), entrypoint=("python", "-u"), working_dir="/app", code=ImageCode()))
        assert (main["command"], main["args"], main["workingDir"]) == (["python", "-u"], ["train.py"], "/app")

    @pytest.mark.parametrize("way", WAYS)
    def test_is_taken_by_a_strict_api_server_and_known_to_the_client(self, way):
        job = build({"cache-volume": "envs", "resources": {"cpu": 1, "memory": "1Gi"}, "grace": 5}, **WAYS[way])
        accept(JOBS, job)
        assert read_by_client(job, "V1Job") == job

    @pytest.mark.parametrize("way", WAYS)
    def test_passes_pod_security_restricted(self, way):
        assert violations(pod_of(build({"cache-volume": "envs"}, **WAYS[way]))) == ""

    @pytest.mark.parametrize("way", WAYS)
    def test_says_nothing_of_what_may_be_secret(self, way):
        job = build(secrets=("MLFLOW_RUN_ID", "TOKEN"), **WAYS[way])
        every = [
            v for c in [*pod_of(job)["containers"], *pod_of(job).get("initContainers", ())] for v in c.get("env", ())
        ]
        keys = {v["name"]: v["valueFrom"]["secretKeyRef"]["key"] for v in every if "valueFrom" in v}
        assert {"MLFLOW_RUN_ID": "MLFLOW_RUN_ID", "TOKEN": "TOKEN"}.items() <= keys.items()
        # As files there are only those that are meant to be.
        (files,) = [v["secret"]["items"] for v in pod_of(job)["volumes"] if "secret" in v] or [[]]
        assert {item["key"] for item in files} <= {"launcher.py", "plan.json", "code.tar.gz"}

    def test_is_kept_as_long_as_is_said(self):
        assert build({"ttl-seconds-after-finished": 5})["spec"]["ttlSecondsAfterFinished"] == 5
        assert build(template=template(ttlSecondsAfterFinished=7))["spec"]["ttlSecondsAfterFinished"] == 7
        both = build({"ttl-seconds-after-finished": "never"}, template(ttlSecondsAfterFinished=7))
        assert "ttlSecondsAfterFinished" not in accept(JOBS, both)["spec"]

    def test_ends_by_the_shorter_of_two_limits(self):
        assert "activeDeadlineSeconds" not in build()["spec"]
        assert build(timeout=0.1)["spec"]["activeDeadlineSeconds"] == 1
        limited = template(activeDeadlineSeconds=60)
        assert build(template=limited)["spec"]["activeDeadlineSeconds"] == 60
        assert build(template=limited, timeout=30)["spec"]["activeDeadlineSeconds"] == 30
        assert build(template=limited, timeout=90)["spec"]["activeDeadlineSeconds"] == 60

    def test_with_too_large_a_claim_is_refused_here(self):
        with pytest.raises(UserError, match="annotations have 300 KiB"):
            build(annotations={"mlproj/claim": "x" * (300 << 10)})


class TestTheSettings:
    def test_arrive_in_the_pod(self):
        job = build(
            {
                "image-pull-policy": "Always", "image-pull-secrets": ["login"], "service-account": "trainer",
                "resources": {"limits": {"memory": "4Gi"}}, "env-from": ["secret/store"], "grace": 60,
                "labels": {"team": "wine"}, "annotations": {"note": "a b"}, "node-selector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}], "run-as-user": 2000,
            },
            **WAYS["image of its own, archive"],
        )  # fmt: skip
        pod, main = pod_of(job), main_of(job)
        assert pod["serviceAccountName"] == "trainer"
        assert "automountServiceAccountToken" not in pod
        assert pod["imagePullSecrets"] == [{"name": "login"}]
        assert pod["terminationGracePeriodSeconds"] == 60
        assert pod["nodeSelector"] == {"pool": "gpu"}
        assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
        assert main["resources"] == {"limits": {"memory": "4Gi"}}
        assert main["envFrom"] == [{"secretRef": {"name": "store"}}]
        for container in (main, pod["initContainers"][0]):
            assert container["imagePullPolicy"] == "Always"
            assert container["securityContext"]["runAsUser"] == 2000
        for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
            assert metadata["labels"] == {"team": "wine", **LABELS}
            assert metadata["annotations"]["note"] == "a b"
        accept(JOBS, job)

    def test_add_to_those_of_the_template_and_go_before_them(self):
        given = template(
            {"resources": {"limits": {"memory": "1Gi", "cpu": "1"}}, "envFrom": [{"secretRef": {"name": "a"}}]},
            {"imagePullSecrets": [{"name": "a"}], "tolerations": [{"key": "a"}], "nodeSelector": {"a": "1", "b": "1"},
             "serviceAccount": "old"},
            metadata={"labels": {"team": "a", "kueue.x-k8s.io/queue-name": "q"}},
        )  # fmt: skip
        config = {
            "resources": {"limits": {"memory": "2Gi"}}, "env-from": ["secret/b"], "image-pull-secrets": ["a", "b"],
            "tolerations": [{"key": "b"}], "node-selector": {"b": "2"}, "labels": {"team": "b"},
            "service-account": "new",
        }  # fmt: skip
        job = build(config, given)
        pod, main = pod_of(job), main_of(job)
        assert main["resources"] == {"limits": {"memory": "2Gi", "cpu": "1"}}
        assert [one["secretRef"]["name"] for one in main["envFrom"]] == ["a", "b"]
        assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
        assert pod["tolerations"] == [{"key": "a"}, {"key": "b"}]
        assert pod["nodeSelector"] == {"a": "1", "b": "2"}
        assert (pod["serviceAccountName"], "serviceAccount" in pod) == ("new", False)
        assert job["metadata"]["labels"] == {"team": "b", "kueue.x-k8s.io/queue-name": "q", **LABELS}

    def test_may_leave_the_user_to_the_image(self):
        main = main_of(build({"run-as-user": "image"}))
        assert main["securityContext"] == {
            "seccompProfile": {"type": "RuntimeDefault"},
            "allowPrivilegeEscalation": False,
        }
        assert "HOME" not in [one["name"] for one in main["env"]]

    def test_choose_the_image_before_the_template_and_the_template_before_the_stock_one(self):
        plain, own = parts(template=template()), parts(template=template({"image": "own"}))
        assert stock_image(plain.config, plain.template, "wine", "3.11") == "python:3.11-slim"
        assert stock_image(own.config, own.template, "wine", "3.11") == "own"
        assert stock_image(replace(own.config, image="set"), own.template, "wine", "3.11") == "set"

    def test_let_only_the_stock_image_be_read_only(self):
        assert "readOnlyRootFilesystem" not in main_of(build({"image": "own"}))["securityContext"]
        assert "readOnlyRootFilesystem" not in main_of(build(argv=("x",)))["securityContext"]


class TestWords:
    """Kubernetes replaces `$(NAME)` in commands and variables; a project's are not its templates."""

    @given(st.text(alphabet="$()AB ", max_size=12))
    def test_arrive_as_they_are(self, text):
        job = build(argv=("sh", "-c", text), code=ImageCode(), variables={"A": text}, entrypoint=(text,))
        variables = {"A": "x", "B": "y", "": "z"}
        main = main_of(job)
        assert [expand(word, variables) for word in (*main["command"], *main["args"])] == [text, "sh", "-c", text]
        assert expand(next(one["value"] for one in main["env"] if one["name"] == "A"), variables) == text

    def test_of_a_shell_keep_their_dollar_signs(self):
        assert expand(escaped('echo $$ "$(A)" $(date)'), {"A": "x"}) == 'echo $$ "$(A)" $(date)'
