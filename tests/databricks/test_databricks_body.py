"""The request that submits a run, as the API's own fields have it."""

import inspect

import pytest
from databricks.sdk.service import jobs

from mlproj_core.backends.databricks.body import submit_body
from mlproj_core.backends.databricks.names import attempt_in, run_name
from mlproj_core.handle import attempt_name, key_digest

ATTEMPT = attempt_name("a key", 12)


def body(**more):
    given = {
        "title": "train",
        "python_file": "/Volumes/main/ml/code/launcher.py",
        "parameters": ["--mlproj", "abc"],
        "compute": {"existing_cluster_id": "1128-1"},
        "settings": {},
    }
    return submit_body(ATTEMPT, **{**given, **more})


class TestTheBody:
    def test_has_no_field_that_the_api_lacks(self):
        made = body(
            settings={"queue": {"enabled": True}, "timeout_seconds": 60},
            compute={"new_cluster": {"spark_version": "16.4.x-scala2.12", "num_workers": 1}},
            git_source={"git_url": "https://github.com/a/b", "git_provider": "gitHub", "git_commit": "c" * 40},
        )
        assert set(made) <= set(inspect.signature(jobs.JobsAPI.submit).parameters)
        assert jobs.SubmitTask.from_dict(made["tasks"][0]).as_dict() == made["tasks"][0]
        assert jobs.GitSource.from_dict(made["git_source"]).as_dict() == made["git_source"]

    def test_has_the_attempt_for_its_idempotency_token(self):
        assert body()["idempotency_token"] == ATTEMPT
        assert len(attempt_name("k", 10**20)) <= 64

    def test_is_never_tried_again_by_databricks(self):
        assert body()["tasks"][0]["max_retries"] == 0

    @pytest.mark.parametrize(
        ("setting", "timeout", "seconds"),
        [(None, None, None), (60, None, 60), (None, 1.5, 2), (60, 30, 30), (60, 90, 60)],
    )
    def test_has_the_shorter_timeout(self, setting, timeout, seconds):
        settings = {} if setting is None else {"timeout_seconds": setting}
        assert body(settings=settings, timeout=timeout).get("timeout_seconds") == seconds


class TestTheName:
    def test_ends_with_the_attempt(self):
        name = run_name("train [1]", ATTEMPT)
        assert name == f"train [1] [{ATTEMPT}]"
        assert attempt_in(name, key_digest("a key")) == 12
        assert attempt_in(name, f"{key_digest('a key')}-12") == 12

    def test_is_cut_at_the_apis_limit_and_not_at_the_attempt(self):
        name = run_name("ä" * 4000, ATTEMPT)
        assert len(name.encode()) <= 4096
        assert attempt_in(name, key_digest("a key")) == 12

    @pytest.mark.parametrize("name", ["train", f"[{ATTEMPT}] train", f"train [{ATTEMPT}] ", "None"])
    def test_of_another_run_is_no_attempts(self, name):
        assert attempt_in(name, key_digest("a key")) is None

    def test_of_another_key_is_not_this_ones(self):
        assert attempt_in(run_name("train", ATTEMPT), key_digest("another")) is None
        assert attempt_in(run_name("train", ATTEMPT), f"{key_digest('a key')}-1") is None
