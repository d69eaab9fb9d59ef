"""The variables, the labels and the Secret of an attempt, and the way of its code."""

import base64
import json
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_parts import GIT, LABELS, NAME, WAYS, accept, build, main_of, read_by_client
from kubernetes_refusals import Refusal
from kubernetes_schema import JOBS, SECRETS

from mlproj_core.backends.kubernetes.code import GitCode, ImageCode, choose_code, git_code
from mlproj_core.backends.kubernetes.config import KubernetesConfig
from mlproj_core.backends.kubernetes.labels import labels_of
from mlproj_core.backends.kubernetes.manifest import work_directory
from mlproj_core.backends.kubernetes.names import is_label_value, is_variable, label_value
from mlproj_core.backends.kubernetes.secret import LIMIT, RESERVE, SecretContent, build_secret
from mlproj_core.claim import Claim
from mlproj_core.errors import UserError


class TestLabels:
    @given(st.text(max_size=100))
    def test_are_valid_whatever_they_are_made_of(self, text):
        value = label_value(text)
        assert is_label_value(value)
        assert is_label_value(text) is (value == text)

    @given(st.text(), st.text())
    def test_of_two_texts_are_two(self, one, other):
        assert (label_value(one) == label_value(other)) is (one == other)

    def test_can_be_read(self):
        assert label_value("wine_quality") == "wine_quality"
        assert label_value("manual__2026-01-01T00:00:00+00:00").startswith("manual__2026-01-01T00-00-00-00-00-")
        assert label_value("/////") == label_value("/////").lower()

    def test_name_the_attempt_the_project_and_the_engines_task(self):
        claim = Claim("key", 2, None, "f")
        tags = {
            "airflow.dag_id": "weekly", "airflow.task_id": "train", "airflow.dag_run_id": "manual__2026-01-01T00:00:00",
            "prefect.flow_run_id": "5d", "mlflow.user": "me",
        }  # fmt: skip
        found = labels_of(claim, project="Wine & cheese", entry_point="main", tags=tags)
        run = found.labels["mlproj/airflow-run"]
        assert found.labels == {
            "app.kubernetes.io/managed-by": "mlproj",
            "mlproj/key": claim.tag.rpartition("-")[0],
            "mlproj/attempt": claim.tag,
            "mlproj/project": label_value("Wine & cheese"),
            "mlproj/entry-point": "main",
            "mlproj/airflow-dag": "weekly",
            "mlproj/airflow-task": "train",
            "mlproj/airflow-run": run,
            "mlproj/prefect-flow-run": "5d",
        }
        assert found.annotations == {
            "mlproj/project": "Wine & cheese",
            "mlproj/airflow-run": "manual__2026-01-01T00:00:00",
        }
        accept(JOBS, build(labels=found.labels, pod_annotations=found.annotations))


def secret(content):
    body = build_secret(name=NAME, namespace="ml", labels=LABELS, owner_uid="u-1", content=content)
    return accept(SECRETS, body), body


class TestVariables:
    def test_that_are_visible_and_secret_are_secret(self):
        main = main_of(build(variables={"A": "public", "B": "public"}, secrets=("A",)))
        assert [one for one in main["env"] if one["name"] in "AB"] == [
            {"name": "B", "value": "public"},
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": NAME, "key": "A"}}},
        ]

    @pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "ä", "..a", "launcher.py", "git-password"])
    def test_of_names_that_cannot_be_are_refused(self, name):
        with pytest.raises(UserError, match="cannot have the name"):
            build(variables={name: "x"})
        with pytest.raises(UserError, match="cannot have the name"):
            SecretContent({name: "x"}).data()

    @given(st.text(max_size=20))
    def test_of_any_other_name_are_taken(self, name):
        if is_variable(name):
            accept(JOBS, build(variables={name: "x"}))
            secret(SecretContent({name: "x"}))


class TestTheSecret:
    def test_belongs_to_the_job_and_holds_what_the_pod_refers_to(self):
        content = SecretContent({"MLFLOW_RUN_ID": "7"}, b"\x1f\x8b", "print()", "{}", ("me", "geheim"))
        kept, body = secret(content)
        assert body["metadata"] == {
            "name": NAME, "namespace": "ml", "labels": LABELS,
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": NAME, "uid": "u-1"}],
        }  # fmt: skip
        assert kept["immutable"] is True
        assert {name: base64.b64decode(value) for name, value in kept["data"].items()} == {
            "MLFLOW_RUN_ID": b"7", "code.tar.gz": b"\x1f\x8b", "launcher.py": b"print()", "plan.json": b"{}",
            "git-username": b"me", "git-password": b"geheim",
        }  # fmt: skip
        assert read_by_client(body, "V1Secret") == body
        assert "geheim" not in repr(content)
        for way in WAYS.values():
            job = json.dumps(build(**way))
            assert all(f'"key": "{key}"' not in job or key in kept["data"] for key in ("code.tar.gz", "git-username"))

    def test_may_hold_one_mebibyte_and_no_more(self):
        assert secret(SecretContent(archive=bytes(LIMIT)))
        with pytest.raises(UserError) as caught:
            secret(SecretContent({"A": "x" * 2048}, archive=bytes(LIMIT)))
        text = str(caught.value)
        assert "The project's code has 1024 KiB compressed" in text
        assert "1022 KiB are left" in text
        for way in (".dockerignore", "'code': \"git\"", "'repository-uri'", "mlproj build-image", "docker_args"):
            assert way in text
        with pytest.raises(Refusal):  # as the server would have it
            accept(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"},
                             "data": {"a": base64.b64encode(bytes(LIMIT + 1)).decode()}})  # fmt: skip

    def test_is_not_too_large_for_the_code_where_a_variable_is(self):
        with pytest.raises(UserError, match=r"The largest, BIG, has 1025 KiB"):
            secret(SecretContent({"BIG": "x" * (LIMIT + 1024)}, archive=b"x"))

    def test_has_room_for_what_comes_later(self):
        assert SecretContent(archive=bytes(LIMIT - RESERVE)).fits()
        assert not SecretContent(archive=bytes(LIMIT - RESERVE + 1)).fits()
        assert not SecretContent(archive=bytes(LIMIT + 1)).fits()


class TestTheWayOfTheCode:
    @pytest.mark.parametrize(
        ("config", "given", "way"),
        [
            ({}, {}, "secret"),
            ({}, {"archive_fits": False}, "git"),
            ({}, {"prebuilt": True}, "image"),
            ({"repository-uri": "registry/x"}, {}, "build"),
            ({"repository-uri": "registry/x"}, {"prebuilt": True}, "image"),
            ({"repository-uri": "registry/x"}, {"prebuilt": True, "build": True}, "build"),
            ({"repository-uri": "registry/x", "code": "secret"}, {}, "secret"),
            ({"code": "git"}, {}, "git"),
            ({"code": "secret"}, {"prebuilt": True}, "secret"),
            ({"code": "image"}, {}, "image"),
        ],
    )
    def test_is_chosen_by_what_is_there(self, config, given, way):
        standard = {"prebuilt": False, "build": False, "archive_fits": True, "git": GIT}
        assert choose_code(KubernetesConfig.read(config, {}), **{**standard, **given}) == way

    @pytest.mark.parametrize(
        ("config", "given", "word"),
        [
            ({"code": "git"}, {"git": "it is a local directory"}, "but it is a local directory"),
            ({}, {"git": "it is a local directory", "archive_fits": False}, "and it is a local directory"),
            ({}, {"build": True}, "'repository-uri'"),
            ({"code": "image"}, {"build": True}, "build_image is asked for"),
        ],
    )
    def test_that_cannot_be_is_refused(self, config, given, word):
        standard = {"prebuilt": False, "build": False, "archive_fits": True, "git": GIT}
        with pytest.raises(UserError, match=word):
            choose_code(KubernetesConfig.read(config, {}), **{**standard, **given})

    def test_leaves_the_code_of_an_image_to_be_seen(self):
        assert work_directory(ImageCode()) == "/tmp/mlproj"
        paths = [one["mountPath"] for one in main_of(build(**WAYS["launcher, image"]))["volumeMounts"]]
        assert paths == ["/tmp", "/mlproj"]

    def test_by_git_takes_a_url_without_credentials_and_a_commit(self):
        for wrong in ({"url": f"https://me:{quote('geheim')}@host/x"}, {"commit": "main"}, {"subdirectory": "../x"}):
            with pytest.raises(ValueError, match=r"credentials|commit|leads out"):
                replace(GIT, **wrong)
        assert GIT.host == "git.example.com"

    def test_by_git_is_for_what_was_fetched_from_a_repository(self, tmp_path):
        def checkout(uri, **given):
            standard = {"commit": "a" * 40, "owned": tmp_path, "subdirectory": ""}
            return SimpleNamespace(uri=uri, **{**standard, **given})

        found = git_code(checkout("git+https://host/x.git@v1#subdirectory=a/b", subdirectory="a/b"), login=True)
        assert found == GitCode("https://host/x.git", "a" * 40, "a/b", login=True)
        (tmp_path / "bare").mkdir()
        for uri, other, word in (
            ("https://host/x", {"owned": None}, "a local directory"),
            ("https://host/x.tar.gz", {}, "no Git repository"),
            (f"git+file://{tmp_path}/bare", {}, "a directory of this host"),
            ("git@host:x", {}, "by ssh"),
            ("ssh://git@host/x", {}, "by ssh"),
            ("https://host/x?private_token=abc", {}, "a secret in its query"),
        ):
            assert word in git_code(checkout(uri, **other), login=False)
