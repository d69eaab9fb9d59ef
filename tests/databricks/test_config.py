"""What a caller may say in `backend_config`, in all the forms that people have it in."""

import dataclasses
import json
import typing

import pytest
from databricks.sdk.service import compute as compute_service
from databricks.sdk.service import jobs

from mlproj_core.backends.databricks import fields
from mlproj_core.backends.databricks.compute import Cluster, ExistingCluster, Serverless
from mlproj_core.backends.databricks.config import GIT_PROVIDERS, OF_RUN, DatabricksConfig
from mlproj_core.errors import UserError

SPEC = {"spark_version": "16.4.x-cpu-ml-scala2.13", "node_type_id": "i3.xlarge", "num_workers": 1}
LIBRARIES = [{"pypi": {"package": "polars"}}]


def read(**config):
    return DatabricksConfig.read(config)


def refusal(**config):
    with pytest.raises(UserError) as caught:
        read(**config)
    return str(caught.value)


class TestACluster:
    @pytest.mark.parametrize(
        "config",
        [
            SPEC,
            {"new_cluster": SPEC},
            {"cluster_spec": SPEC},
            {"cluster_spec": {"new_cluster": SPEC}},
            {"job_cluster": {"new_cluster": SPEC}},
            {"job_cluster": {"job_cluster_key": "main", "new_cluster": SPEC}},
            {"job_cluster_key": "main", "job_clusters": [{"job_cluster_key": "main", "new_cluster": SPEC}]},
            {
                "job_cluster_key": "b",
                "job_clusters": [
                    {"job_cluster_key": "a", "new_cluster": {**SPEC, "num_workers": 9}},
                    {"job_cluster_key": "b", "new_cluster": SPEC},
                ],
            },
        ],
    )
    def test_may_be_given_in_any_of_these_forms(self, config):
        assert read(**config).compute == Cluster(SPEC)

    @pytest.mark.parametrize(
        "config",
        [
            {**SPEC, "libraries": LIBRARIES},
            {"new_cluster": SPEC, "libraries": LIBRARIES},
            {"cluster_spec": SPEC, "libraries": LIBRARIES},
            {"cluster_spec": {"new_cluster": SPEC, "libraries": LIBRARIES}},
        ],
    )
    def test_has_libraries(self, config):
        assert read(**config).compute == Cluster(SPEC, tuple(LIBRARIES))

    def test_is_of_a_pool_or_by_a_policy(self):
        pool = {"spark_version": "16.4.x-scala2.12", "instance_pool_id": "pool-1", "num_workers": 0}
        policy = {"policy_id": "E0631F5C0D0006D6", "apply_policy_default_values": True}
        assert read(**pool).compute == Cluster(pool)
        assert read(new_cluster=policy).compute == Cluster(policy)

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ({"node_type_id": "x", "num_workers": 1}, "needs a 'spark_version'"),
            ({"spark_version": "x", "num_workers": 1}, "needs a 'node_type_id'"),
            ({"spark_version": "x", "node_type_id": "y"}, "needs its size"),
            ({**SPEC, "autoscale": {"min_workers": 1, "max_workers": 2}}, "both 'num_workers' and 'autoscale'"),
            ({**SPEC, "instance_pool_id": "p"}, "both 'node_type_id' and 'instance_pool_id'"),
            ({**SPEC, "num_worker": 1}, "no field 'num_worker'. Did you mean 'num_workers'?"),
            ({**SPEC, "num_workers": "1"}, "new_cluster.num_workers must be a whole number; got '1'"),
            ({**SPEC, "num_workers": True}, "must be a whole number"),
            ({**SPEC, "spark_conf": {"spark.speculation": True}}, "['spark.speculation'] must be text: quote it"),
            (
                {**SPEC, "aws_attributes": {"zone": "auto"}},
                "aws_attributes has no field 'zone'. Did you mean 'zone_id'",
            ),
            ({**SPEC, "init_scripts": [{"workspaces": {}}]}, "init_scripts[0] has no field 'workspaces'"),
            ("i3.xlarge", "new_cluster must be a mapping"),
        ],
    )
    def test_that_cannot_be_is_refused(self, spec, expected):
        assert expected in refusal(new_cluster=spec)

    def test_of_the_task_has_tags_and_variables(self):
        cluster = Cluster({**SPEC, "custom_tags": {"team": "a"}, "spark_env_vars": {"A": "1"}}, tuple(LIBRARIES))
        task = cluster.of_task(["pandas==2"], {"team": "b", "cost": "c"}, {"TOKEN": "{{secrets/s/k}}"})
        assert task == {
            "new_cluster": {
                **SPEC,
                "custom_tags": {"team": "a", "cost": "c"},
                "spark_env_vars": {"A": "1", "TOKEN": "{{secrets/s/k}}"},
            },
            "libraries": [*LIBRARIES, {"pypi": {"package": "pandas==2"}}],
        }
        assert Cluster(SPEC).of_task() == {"new_cluster": SPEC}

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({"job_cluster_key": "main"}, "cannot use the cluster of a job that is defined elsewhere"),
            ({"job_cluster": "main"}, "cannot use the cluster of a job that is defined elsewhere"),
            ({"job_cluster": {"new_clusters": SPEC}}, "Did you mean 'new_cluster'?"),
            ({"job_cluster": {}}, "must have a 'new_cluster'"),
            (
                {"job_cluster_key": "b", "job_clusters": [{"job_cluster_key": "a", "new_cluster": SPEC}]},
                "must be that of one of the job clusters ('a'); got 'b'",
            ),
            ({**SPEC, "existing_cluster_id": "x"}, "are two places to run at"),
            ({"new_cluster": SPEC, "serverless": {"environment_version": "4"}}, "are two places to run at"),
            ({"libraries": LIBRARIES}, "and none is given"),
            ({**SPEC, "libraries": [{"pypi": {"package": "a"}, "whl": "b"}]}, "libraries[0] must have one of"),
            ({**SPEC, "libraries": [{"pypy": {"package": "a"}}]}, "Did you mean 'pypi'?"),
        ],
    )
    def test_that_is_nowhere_or_elsewhere_is_refused(self, config, expected):
        assert expected in refusal(**config)


class TestAnExistingCluster:
    def test_is_named_by_its_id(self):
        found = read(existing_cluster_id="0101-120000-abc", libraries=LIBRARIES).compute
        assert found == ExistingCluster("0101-120000-abc", tuple(LIBRARIES))
        assert found.of_task(["b"], {"t": "u"}) == {
            "existing_cluster_id": "0101-120000-abc",
            "libraries": [*LIBRARIES, {"pypi": {"package": "b"}}],
        }

    def test_needs_one(self):
        assert "must be a cluster's id" in refusal(existing_cluster_id=17)


class TestServerlessCompute:
    @pytest.mark.parametrize(
        "config",
        [
            {"serverless": {"environment_version": "4", "dependencies": ["polars"]}},
            {"serverless": True, "environment_version": "4", "dependencies": ["polars"]},
            {"environment_version": "4", "dependencies": ["polars"]},
        ],
    )
    def test_has_an_environment(self, config):
        found = read(**config).compute
        assert found == Serverless("default", {"environment_version": "4", "dependencies": ["polars"]})
        assert found.of_task(["b"]) == {"environment_key": "default"}
        spec = {"environment_version": "4", "dependencies": ["polars", "b"]}
        assert found.of_run(["b"]) == {"environments": [{"environment_key": "default", "spec": spec}]}

    @pytest.mark.parametrize(
        "config",
        [
            {"environment_key": "mine", "client": "2"},
            {"environment_key": "mine", "environments": [{"environment_key": "mine", "spec": {"client": "2"}}]},
            {"environments": [{"environment_key": "mine", "spec": {"client": "2"}}]},
        ],
    )
    def test_has_a_key(self, config):
        assert read(**config).compute == Serverless("mine", {"client": "2"})

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({"serverless": True}, "needs the version of its environment"),
            ({"serverless": False}, "can only be true"),
            ({"serverless": {"version": "4"}}, "serverless has no field 'version'"),
            ({"environment_version": 4}, "'environment_version' must be text: quote it"),
            ({"environment_version": "4", "client": "2"}, "is the old name"),
            ({"environment_key": "a", "environments": [{"environment_key": "b", "spec": {"client": "1"}}]}, "('b')"),
            ({"environment_version": "4", "serverless": {"client": "1"}}, "described twice"),
            ({"environment_version": "4", "libraries": LIBRARIES}, "takes 'dependencies'"),
        ],
    )
    def test_that_cannot_be_is_refused(self, config, expected):
        assert expected in refusal(**config)


class TestSettings:
    def test_are_those_of_the_api(self):
        settings = {
            "timeout_seconds": 3600,
            "email_notifications": {"on_failure": ["me@example.com"]},
            "webhook_notifications": {"on_success": [{"id": "0481e838-0a59-4eff-9541-a4ca6f149574"}]},
            "notification_settings": {"no_alert_for_canceled_runs": True},
            "access_control_list": [{"group_name": "users", "permission_level": "CAN_VIEW"}],
            "run_as": {"service_principal_name": "4711"},
            "budget_policy_id": "b",
        }
        config = read(**settings, queue=True, run_name="weekly", tags={"team": "ml"})
        assert config.settings == {**settings, "queue": {"enabled": True}}
        assert (config.run_name, config.tags, config.compute) == ("weekly", {"team": "ml"}, None)

    def test_come_from_a_file(self, tmp_path):
        path = tmp_path / "databricks.json"
        path.write_text(json.dumps({"cluster_spec": SPEC, "run-name": "weekly", "profile": None}))
        config = DatabricksConfig.read(str(path))
        assert (config.compute, config.run_name, config.profile) == (Cluster(SPEC), "weekly", None)

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({"new_clster": SPEC}, "there is no setting 'new_clster'. Did you mean 'new_cluster'?"),
            ({"run_nam": "a"}, "Did you mean 'run_name'?"),
            ({"quux": 1}, "The settings are profile, host"),
            ({"run_name": "a", "run-name": "b"}, "'run_name' and 'run-name' are the same setting"),
            ({"timeout_seconds": -1}, "a whole number of seconds"),
            ({"timeout_seconds": "60"}, "a whole number of seconds"),
            ({"email_notifications": {"on_fail": ["a"]}}, "Did you mean 'on_failure'?"),
            ({"email_notifications": {"on_failure": "a"}}, "on_failure must be a list"),
            ({"webhook_notifications": {"on_start": [{"id": str(n)} for n in range(4)]}}, "4 targets"),
            ({"queue": "yes"}, "must be true or false"),
            ({"access_control_list": [{"permission_level": "CAN_VIEW"}]}, "one of user_name"),
            ({"access_control_list": [{"user_name": "a", "permission_level": "VIEW"}]}, "must be one of CAN_MANAGE"),
            ({"tags": {"a": 1}}, "a mapping of names to texts"),
            ({"root": "/Volumes/a/b"}, "must be a directory for the code"),
            ({"root": "/Workspace/../x"}, "must be a directory for the code"),
            ({"root": "s3://bucket"}, "must be a directory for the code"),
            ({"code": "zip"}, "must be one of auto, archive, git"),
            ({"git_provider": "github"}, "Did you mean 'gitHub'?"),
            ({"host": "not a host"}, "a workspace's address"),
            ({"detach": False}, "a run outlives"),
        ],
    )
    def test_that_cannot_be_are_refused(self, config, expected):
        assert expected in refusal(**config)

    def test_are_all_told_at_once(self):
        said = refusal(quux=1, timeout_seconds=-1, new_cluster={"num_workers": 1})
        assert all(words in said for words in ("'quux'", "timeout_seconds", "spark_version", "node_type_id"))

    def test_name_roots(self):
        assert read(root="/Volumes/a/b/c/").root == ("/Volumes/a/b/c",)
        assert read(root=["/Workspace/Shared/x", "dbfs:/mlproj"]).root == ("/Workspace/Shared/x", "dbfs:/mlproj")


def shape_of(kind):
    """The shape of a dataclass of the SDK, as `fields` has it."""
    hints = typing.get_type_hints(kind)
    return {field.name: inner(hints[field.name]) for field in dataclasses.fields(kind)}


def inner(hint):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union:
        return inner(next(one for one in arguments if one is not type(None)))
    if origin is list:
        return [inner(arguments[0])]
    if origin is dict:
        return {str: inner(arguments[1])}
    if dataclasses.is_dataclass(hint):
        return shape_of(hint)
    return hint if hint in (str, int, float, bool) else str


class TestTheFields:
    """Those of the newest SDK: where it has more, they are added here."""

    @pytest.mark.parametrize(
        ("ours", "theirs", "without"),
        [
            (fields.CLUSTER, compute_service.ClusterSpec, ()),
            (fields.LIBRARY, compute_service.Library, ()),
            (fields.ENVIRONMENT, compute_service.Environment, ("project_environment",)),
            (fields.EMAIL, jobs.JobEmailNotifications, ("on_maintenance_complete", "on_maintenance_start")),
            (fields.WEBHOOKS, jobs.WebhookNotifications, ("on_maintenance_complete", "on_maintenance_start")),
            (fields.QUIET, jobs.JobNotificationSettings, ()),
        ],
    )
    def test_are_the_sdk_s(self, ours, theirs, without):
        expected = shape_of(theirs)
        assert dict(ours) == {name: shape for name, shape in expected.items() if name not in without}

    def test_of_the_rest_are_the_sdk_s(self):
        access = shape_of(jobs.JobAccessControlRequest)
        assert access.keys() == fields.ACCESS.keys()
        assert fields.ACCESS["permission_level"] == {one.value for one in jobs.JobPermissionLevel}
        assert set(GIT_PROVIDERS) == {one.value for one in jobs.GitProvider}
        taken = typing.get_type_hints(jobs.JobsAPI.submit)
        assert OF_RUN.keys() <= taken.keys()
