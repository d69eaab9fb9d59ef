"""A caller's job template, merged with what a run needs."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes_admission import violations
from kubernetes_parts import WAYS, accept, build, main_of, pod_of, template
from kubernetes_schema import JOBS

from mlproj_core.errors import UserError


class TestATemplate:
    """What it says of the pod is still there."""

    def test_keeps_its_sidecars_init_containers_and_volumes(self):
        sidecar = {"name": "proxy", "image": "proxy", "securityContext": {"runAsUser": 0}, "args": ["$(X)"]}
        first = {"name": "first", "image": "busybox", "restartPolicy": "Always"}
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
        pod = {
            "initContainers": [first],
            "volumes": [volume],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "low",
        }
        given = template(
            {"volumeMounts": [{"name": "data", "mountPath": "/data"}], "ports": [{"containerPort": 1}]}, pod
        )
        given["spec"]["template"]["spec"]["containers"].insert(0, sidecar)
        job = build(template=given, **WAYS["image of its own, archive"])
        made, main = pod_of(accept(JOBS, job)), main_of(job)
        assert pod_of(job)["containers"] == [sidecar, main]
        assert pod_of(job)["initContainers"][0] == first
        assert [one["name"] for one in made["initContainers"]] == ["first", "mlproj-code"]
        assert made["volumes"][0] == volume
        assert main["volumeMounts"][0] == {"name": "data", "mountPath": "/data"}
        assert main["ports"] == [{"containerPort": 1}]
        assert (made["affinity"], made["priorityClassName"]) == ({"nodeAffinity": {}}, "low")

    def test_keeps_its_containers_name(self):
        given = template()
        given["spec"]["template"]["spec"]["containers"] = [{"name": "proxy"}, {"name": "wine"}]
        job = build(template=given, project_name="wine")
        assert main_of(job)["name"] == "wine"
        assert job["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "wine"

    @pytest.mark.parametrize("way", ["launcher, image", "image of its own, image"])
    def test_keeps_its_command_as_a_wrapper(self, way):
        given = template({"command": ["nice", "-n", "$(LEVEL)"], "args": ["--"]})
        main = main_of(build(template=given, **WAYS[way]))
        inner = (
            ["python3", "-I", "/mlproj/launcher.py", "/mlproj/plan.json"] if way[0] == "l" else ["python", "train.py"]
        )
        assert (main["command"], main["args"]) == (["nice", "-n", "$(LEVEL)"], ["--", *inner])

    def test_with_arguments_for_no_command_is_refused(self):
        with pytest.raises(UserError, match=r"job-template: .* has args, and no command"):
            build(template=template({"args": ["--"]}))

    def test_has_variables_of_its_own_that_may_refer_to_those_of_the_run(self):
        own = [{"name": "LOGS", "value": "/logs/$(MLFLOW_RUN_ID)"}, {"name": "DEPTH", "value": "1"},
               {"name": "MLFLOW_RUN_ID", "value": "mine"}, {"name": "HOME", "value": "/home/me"}]  # fmt: skip
        main = main_of(build(template=template({"env": own}), variables={"DEPTH": "2"}))
        names = [one["name"] for one in main["env"]]
        assert names == ["MLPROJ_RESULT", "DEPTH", "USER", "LOGNAME", "MLFLOW_RUN_ID", "LOGS", "HOME"]
        assert {one["name"]: one.get("value") for one in main["env"]}["DEPTH"] == "2"

    def test_mounts_volumes_of_its_own_where_ours_would_be(self):
        mounts = [
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "scratch", "mountPath": "/mlflow/projects/", "subPath": "x"},
        ]
        given = template({"volumeMounts": mounts}, {"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "9Gi"}}]})
        job = build(template=given, **WAYS["image of its own, git"])
        assert [one["name"] for one in pod_of(job)["volumes"]] == ["scratch"]
        assert pod_of(job)["initContainers"][0]["volumeMounts"] == mounts
        accept(JOBS, job)

    def test_cannot_mount_over_the_launcher(self):
        mounts = {"volumeMounts": [{"name": "x", "mountPath": "/mlproj"}]}
        with pytest.raises(UserError, match="the volume at /mlproj is mlproj's own"):
            build(template=template(mounts, {"volumes": [{"name": "x", "emptyDir": {}}]}))

    def test_keeps_its_own_service_account_and_its_token(self):
        assert "automountServiceAccountToken" not in pod_of(build(template=template(pod={"serviceAccountName": "x"})))
        assert pod_of(build(template=template(pod={"automountServiceAccountToken": True})))[
            "automountServiceAccountToken"
        ]

    def test_with_a_user_of_its_own_has_no_other_put_before_it(self):
        for one in (
            template({"securityContext": {"runAsUser": 7}}),
            template(pod={"securityContext": {"runAsUser": 7}}),
        ):
            job = build(template=one, **WAYS["image of its own, archive"])
            assert violations(pod_of(job)) == ""
            assert main_of(job)["securityContext"].get("runAsUser", 7) == 7
            assert pod_of(job)["initContainers"][0]["securityContext"].get("runAsUser", 7) == 7
            assert "HOME" not in [one["name"] for one in main_of(job)["env"]]

    def test_may_leave_the_user_to_the_image_and_still_be_restricted(self):
        job = build(template=template({"securityContext": {"runAsNonRoot": True}}), **WAYS["image of its own, archive"])
        assert violations(pod_of(job)) == ""
        for container in (main_of(job), *pod_of(job)["initContainers"]):
            assert "runAsUser" not in container["securityContext"]
        assert "HOME" not in [one["name"] for one in main_of(job)["env"]]

    @pytest.mark.parametrize(
        "context",
        [{"privileged": True}, {"runAsUser": 0}, {"capabilities": {"add": ["SYS_ADMIN"]}}, {"runAsNonRoot": False}],
    )
    def test_with_privileges_keeps_them_for_that_container(self, context):
        job = build(template=template({"securityContext": context}), **WAYS["image of its own, git"])
        assert context.items() <= main_of(job)["securityContext"].items()
        assert "privileged" not in pod_of(job)["initContainers"][0]["securityContext"]
        accept(JOBS, job)


NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
CONTAINERS = st.fixed_dictionaries(
    {"image": st.sampled_from(["a", "b:1"])},
    optional={
        "env": st.lists(st.builds(lambda name: {"name": name.upper(), "value": "$(X)"}, NAMES), max_size=3),
        "envFrom": st.just([{"configMapRef": {"name": "x"}}]),
        "command": st.just(["wrap"]),
        "resources": st.just({"limits": {"cpu": "1"}}),
        "volumeMounts": st.lists(
            st.sampled_from(["/tmp", "/data", "/mlflow/projects"]).map(lambda p: {"name": "own", "mountPath": p}),
            unique_by=lambda mount: mount["mountPath"],
        ),
        "securityContext": st.sampled_from(
            [{}, {"runAsUser": 3}, {"privileged": True}, {"capabilities": {"drop": ["ALL"]}}]
        ),
        "workingDir": st.just("/srv"),
    },
)


@st.composite
def templates(draw):
    """Templates with containers by various names, the project's among them."""
    names = draw(st.lists(NAMES, unique=True, max_size=2))
    names.insert(draw(st.integers(0, len(names))), "mlproj")
    pod = {
        "containers": [{"name": name, **draw(CONTAINERS)} for name in names],
        "volumes": [{"name": "own", "emptyDir": {}}],
    }
    pod |= draw(st.fixed_dictionaries({}, optional={
        "securityContext": st.sampled_from([{}, {"runAsUser": 4}, {"runAsNonRoot": True}, {"fsGroup": 5}]),
        "nodeSelector": st.just({"a": "b"}), "serviceAccountName": st.just("x"), "hostNetwork": st.booleans(),
        "terminationGracePeriodSeconds": st.integers(0, 9),
    }))  # fmt: skip
    spec = draw(
        st.fixed_dictionaries({}, optional={"ttlSecondsAfterFinished": st.integers(0, 9), "managedBy": st.just("x/y")})
    )
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": {**spec, "template": {"spec": pod}}}


class TestAnyTemplate:
    @given(templates(), st.sampled_from(sorted(WAYS)), st.booleans())
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_survives_and_is_taken(self, given, way, cached):
        job = build({"cache-volume": "envs"} if cached else {}, given, **WAYS[way])
        accept(JOBS, job)
        theirs, ours = given["spec"]["template"]["spec"], pod_of(job)
        for before, after in zip(theirs["containers"], ours["containers"], strict=True):
            if before["name"] != "mlproj":
                assert after == before
                continue
            for name, value in before.items():
                if name == "image":
                    assert after[name] == "python:3.11-slim"
                elif isinstance(value, list):
                    assert [one for one in after[name] if one in value] == value
                elif isinstance(value, dict):
                    assert value.items() <= after[name].items()
                else:
                    assert after[name] == value
        for name, value in theirs.items():
            if name not in ("containers", "volumes", "securityContext"):
                assert ours[name] == value
        assert ours["volumes"][0] == {"name": "own", "emptyDir": {}}
        assert theirs.get("securityContext", {}).items() <= ours.get("securityContext", {}).items()
        spec = {name: value for name, value in given["spec"].items() if name != "template"}
        assert spec.items() <= job["spec"].items()
        (main,) = [one for one in ours["containers"] if one["name"] == "mlproj"]
        assert [one["name"] for one in main["env"]].count("MLFLOW_RUN_ID") == 1
