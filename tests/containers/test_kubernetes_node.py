"""The tests' own cluster runs Jobs: by scripts, and really, on a Docker engine."""

import json
import re
import threading
import time

import pytest
from docker_world import PYTHON, SHELL
from kubernetes_cluster import Cluster
from kubernetes_docker import DockerRuntime
from kubernetes_logs import Log
from kubernetes_recordings import ask, recording
from kubernetes_runtime import Script, ScriptedRuntime
from waiting import wait_for

MERGE = "application/merge-patch+json"
JOBS, PODS = "/apis/batch/v1/namespaces/ml/jobs", "/api/v1/namespaces/ml/pods"


def start(cluster, name, container=None, spec=None, **job):
    """Create a Job of one container `main`."""
    given = {
        "name": "main",
        "image": SHELL,
        **({"command": ["sh", "-c", container]} if isinstance(container, str) else container or {}),
    }
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [given], **(spec or {})}
    body = {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": {"spec": pod}, **job}}
    status, _, answer = ask(cluster, "POST", JOBS, body=body)
    assert status == 201, answer
    return answer


def add_secret(cluster, name, kind="Opaque", **data):
    body = {"metadata": {"name": name}, "type": kind, "stringData": data}
    assert ask(cluster, "POST", "/api/v1/namespaces/ml/secrets", body=body)[0] == 201


def patch(cluster, name, body):
    status, _, answer = ask(cluster, "PATCH", f"{JOBS}/{name}", body=body, content_type=MERGE)
    assert status == 200, answer


def conditions(job):
    return {c["type"]: c["status"] for c in job["status"].get("conditions", ())}


def reasons(cluster, name):
    """The reasons of the events about a Job or a pod, in order."""
    path = "/api/v1/namespaces/ml/events"
    items = ask(cluster, "GET", path, {"fieldSelector": f"involvedObject.name={name}"})[2]["items"]
    return [item["reason"] for item in sorted(items, key=lambda item: int(item["metadata"]["resourceVersion"]))]


def log(cluster, name, **query):
    """A Job's log, of its newest pod."""
    pod = cluster.pods(name)[-1]["metadata"]["name"]
    return ask(cluster, "GET", f"{PODS}/{pod}/log", query)[2]


def state(pod, container="main"):
    """What state a container is in, and the state."""
    statuses = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
    return next(iter(next(s["state"] for s in statuses if s["name"] == container).items()), None)


def waits_for(cluster, job, reason):
    def there():
        found = [state(pod) for pod in cluster.pods(job) if pod["status"].get("containerStatuses")]
        return found and found[0][1].get("reason") == reason and cluster.pods(job)[0]

    return wait_for(there, lambda: json.dumps(cluster.pods(job), indent=1), 30, bool)


class TestJobController:
    def test_a_suspended_job_has_no_pods_until_it_is_resumed(self, cluster):
        start(cluster, "train", suspend=True)
        job = wait_for(lambda: conditions(cluster.job("train")) and cluster.job("train"), "no condition", 10, bool)
        assert conditions(job) == {"Suspended": "True"}
        assert "startTime" not in job["status"]
        assert cluster.pods("train") == []
        patch(cluster, "train", {"spec": {"suspend": False}})
        job = cluster.wait_for_job("train")
        assert conditions(job) == {"Suspended": "False", "SuccessCriteriaMet": "True", "Complete": "True"}
        assert reasons(cluster, "train") == ["Suspended", "Resumed", "SuccessfulCreate", "Completed"]

    def test_to_suspend_one_that_runs_ends_its_pods_and_is_no_failure(self, cluster):
        cluster.runtime.script(Script(exit_code=None))
        start(cluster, "train")
        cluster.wait_for_pod("train")
        patch(cluster, "train", {"spec": {"suspend": True}})
        wait_for(lambda: not cluster.pods("train"), "the pod stays", 10, bool)
        wait_for(lambda: "active" not in cluster.job("train")["status"], "still active", 10, bool)
        assert conditions(cluster.job("train")) == {"Suspended": "True"}
        assert "failed" not in cluster.job("train")["status"]

    def test_a_pod_that_is_refused_is_told_of_and_tried_again(self, cluster):
        cluster.refuse_pods("exceeded quota: compute, requested: pods=1, used: pods=10, limited: pods=10")
        start(cluster, "train")
        wait_for(lambda: reasons(cluster, "train"), "no event", 10, bool)
        assert reasons(cluster, "train")[0] == "FailedCreate"
        assert "active" not in cluster.job("train")["status"]
        cluster.refuse_pods(None)
        cluster.wait_for_job("train")

    @pytest.mark.parametrize(
        ("spec", "why"),
        [
            ({"serviceAccountName": "nobody"},
             'error looking up service account ml/nobody: serviceaccount "nobody" not found'),
            ({"priorityClassName": "high"}, "no PriorityClass with name high was found"),
        ],
    )  # fmt: skip
    def test_what_a_pod_names_and_is_not_there_keeps_it_from_being(self, cluster, spec, why):
        start(cluster, "train", spec=spec)
        wait_for(lambda: reasons(cluster, "train"), "no event", 10, bool)
        said = ask(cluster, "GET", "/api/v1/namespaces/ml/events")[2]["items"][0]["message"]
        assert re.sub(r"train-\w{5}", "train-x", said) == f'Error creating: pods "train-x" is forbidden: {why}'

    def test_a_restricted_namespace_takes_only_pods_that_are(self, cluster):
        cluster.label_namespace(enforce="restricted")
        start(cluster, "loose")
        wait_for(lambda: reasons(cluster, "loose"), "no event", 10, bool)
        said = ask(cluster, "GET", "/api/v1/namespaces/ml/events")[2]["items"][0]["message"]
        assert re.sub(r"loose-\w{5}", "loose-x", said) == (
            'Error creating: pods "loose-x" is forbidden: violates PodSecurity "restricted:latest":'
            ' allowPrivilegeEscalation != false (container "main" must set'
            " securityContext.allowPrivilegeEscalation=false), unrestricted capabilities"
            ' (container "main" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true'
            ' (pod or container "main" must set securityContext.runAsNonRoot=true), seccompProfile'
            ' (pod or container "main" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
        )
        context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
        pod = {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
        start(cluster, "strict", {"securityContext": context}, pod)
        cluster.wait_for_job("strict")

    def test_containers_that_are_restarted_count_against_the_limit(self, cluster):
        cluster.runtime.script(Script(exit_code=1))
        start(cluster, "train", spec={"restartPolicy": "OnFailure"}, backoffLimit=1)
        job = cluster.wait_for_job("train")
        assert conditions(job)["Failed"] == "True"

    def test_an_evicted_pod_says_why(self, cluster):
        cluster.runtime.script(Script(exit_code=None))
        start(cluster, "train")
        pod = cluster.wait_for_pod("train")["metadata"]["name"]
        cluster.node.evict("ml", pod)
        assert conditions(cluster.wait_for_job("train"))["Failed"] == "True"
        status = cluster.pods("train")[0]["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
        assert {c["type"]: c.get("reason") for c in status["conditions"]}["DisruptionTarget"] == "TerminationByKubelet"

    def test_the_end_is_said_after_the_pod_was_let_go(self, cluster):
        """As in the recordings: count, take the finalizer off, end; each a version of its own."""
        start(cluster, "train")
        cluster.wait_for_job("train")
        here = order((resource.plural, item) for _, resource, _, item, _ in cluster.store.history)
        recorded = recording("success")["watch"]
        events = [(kind, event["event"]["object"]) for kind in ("jobs", "pods") for event in recorded[kind]]
        assert here == order(sorted(events, key=lambda event: int(event[1]["metadata"]["resourceVersion"])))

    def test_a_paused_controller_leaves_jobs_as_they_are(self, cluster):
        cluster.controllers.paused = True
        start(cluster, "train")
        time.sleep(0.3)
        assert (cluster.job("train")["status"], cluster.pods()) == ({}, [])


def order(changes):
    """When the steps of a Job's end came: its conditions, and its pod's finalizer."""
    steps = []
    for kind, item in changes:
        if kind == "jobs":
            step = [c["type"] for c in item.get("status", {}).get("conditions", ())]
        elif kind == "pods":
            step = bool(item["metadata"].get("finalizers"))
        else:
            continue
        if (kind, step) not in steps:
            steps.append((kind, step))
    return steps


class TestScripts:
    def test_a_script_is_a_life(self, cluster):
        script = Script(output=[(0, "one\n"), (0.05, "two\n")], exit_code=3, message="bad data")
        cluster.runtime.script(script, job="train")
        start(cluster, "train")
        cluster.wait_for_job("train")
        ended = state(cluster.pods("train")[0])[1]
        assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "bad data")
        assert log(cluster, "train") == "one\ntwo\n"

    def test_one_that_lives_ends_when_it_is_told(self, cluster):
        cluster.runtime.script(Script(exit_code=None))
        start(cluster, "train")
        cluster.wait_for_pod("train")
        cluster.runtime.say("train", "halfway\n")
        cluster.runtime.end("train", 0)
        cluster.wait_for_job("train")
        assert log(cluster, "train") == "halfway\n"

    def test_one_that_was_killed_for_its_memory(self, cluster):
        cluster.runtime.script(Script(oom=True))
        start(cluster, "train")
        cluster.wait_for_job("train")
        ended = state(cluster.pods("train")[0])[1]
        assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")

    def test_variables_of_a_secret_reach_it(self, cluster):
        ask(
            cluster, "POST", "/api/v1/namespaces/ml/secrets", body={"metadata": {"name": "s"}, "stringData": {"K": "v"}}
        )
        start(cluster, "train", {"envFrom": [{"secretRef": {"name": "s"}}]})
        cluster.wait_for_job("train")
        assert cluster.runtime.containers["train", "main"].environment["K"] == "v"

    def test_a_pod_that_asks_for_too_much_waits(self, cluster):
        start(cluster, "train", {"resources": {"requests": {"nvidia.com/gpu": "1"}}})
        pod = wait_for(lambda: cluster.pods("train") and cluster.pods("train")[0]["status"].get("conditions") and
                       cluster.pods("train")[0], "no condition", 10, bool)  # fmt: skip
        assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        assert "1 Insufficient nvidia.com/gpu" in pod["status"]["conditions"][0]["message"]

    def test_a_secret_that_comes_later_lets_it_start(self, cluster):
        variable = {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "K"}}}
        start(cluster, "train", {"env": [variable]})
        waits_for(cluster, "train", "CreateContainerConfigError")
        ask(
            cluster, "POST", "/api/v1/namespaces/ml/secrets", body={"metadata": {"name": "s"}, "stringData": {"K": "v"}}
        )
        cluster.wait_for_job("train")


class SlowRuntime(ScriptedRuntime):
    """Takes half a second to start a container; like an engine, it does not stop one that it has not started."""

    def __init__(self):
        super().__init__()
        self.starts = threading.Event()
        self.script(Script(exit_code=None))

    def create(self, pod, container, log):
        made = super().create(pod, container, log)
        start = made.start

        def slowly():
            self.starts.set()
            time.sleep(0.5)
            made._code = None
            start()

        made.start = slowly
        return made


class TestDeletion:
    def test_while_a_container_starts_stops_it_all_the_same(self):
        with Cluster(SlowRuntime(), pace=0.05) as cluster:
            start(cluster, "train")
            assert cluster.runtime.starts.wait(30)
            ask(cluster, "DELETE", f"{JOBS}/train", {"propagationPolicy": "Foreground"})
            wait_for(lambda: cluster.job("train") is None, lambda: json.dumps(cluster.pods(), indent=1), 15, bool)


class TestLogs:
    def test_a_log_is_followed_to_its_end(self, cluster):
        cluster.runtime.script(Script(output=[(0.05, f"{i}\n") for i in range(10)]))
        start(cluster, "train")
        cluster.wait_for_pod("train")
        assert log(cluster, "train", follow="true") == "".join(f"{i}\n" for i in range(10))

    def test_followers_can_be_cut(self, cluster):
        cluster.runtime.script(Script(exit_code=None))
        start(cluster, "train")
        cluster.wait_for_pod("train")
        caught = []

        def follow():
            try:
                log(cluster, "train", follow="true")
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        wait_for(lambda: cluster.server.cut_watches(), "nobody follows", 10, bool)
        thread.join()
        assert "IncompleteRead" in str(caught[0]) or "Connection" in str(caught[0])

    def test_what_was_rotated_away_is_gone(self, cluster):
        cluster.runtime.script(Script(output=[(0, f"{i}\n") for i in range(10)], exit_code=None))
        start(cluster, "train")
        pod = cluster.wait_for_pod("train")["metadata"]["name"]
        wait_for(lambda: "9" in log(cluster, "train"), "no output", 10, bool)
        cluster.node.rotate_logs("ml", pod, keep=2)
        assert log(cluster, "train") == "8\n9\n"

    def test_one_that_was_removed_is_told_of_in_its_place(self, cluster):
        start(cluster, "train")
        cluster.wait_for_job("train")
        cluster.node.lose_logs("ml", cluster.pods("train")[0]["metadata"]["name"])
        assert log(cluster, "train").startswith("unable to retrieve container logs for containerd://")

    def test_a_container_that_waits_has_none(self, cluster):
        cluster.runtime.script(Script(image_problem="no such host"))
        start(cluster, "train")
        pod = waits_for(cluster, "train", "ErrImagePull")["metadata"]["name"]
        status, _, body = ask(cluster, "GET", f"{PODS}/{pod}/log")
        assert status == 400
        assert body["message"] == (
            f'container "main" in pod "{pod}" is waiting to start: trying and failing to pull image'
        )

    def test_one_of_several_containers_must_be_named(self, cluster):
        more = {"containers": [{"name": name, "image": SHELL} for name in ("main", "side")]}
        start(cluster, "train", spec=more)
        cluster.wait_for_job("train")
        pod = cluster.pods("train")[0]["metadata"]["name"]
        status, _, body = ask(cluster, "GET", f"{PODS}/{pod}/log")
        assert status == 400
        assert body["message"] == (
            f"a container name must be specified for pod {pod}, choose one of: [main side]"
        )  # fmt: skip
        assert ask(cluster, "GET", f"{PODS}/{pod}/log", {"container": "side"})[0] == 200

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ({}, "a\nb\nc"), ({"tailLines": "2"}, "b\nc"), ({"tailLines": "0"}, ""), ({"limitBytes": "3"}, "a\nb"),
            ({"sinceTime": "2026-11-23T16:00:01Z"}, "b\nc"), ({"sinceTime": "2026-11-23T16:00:01.5Z"}, "b\nc"),
            ({"timestamps": "true", "tailLines": "1"}, "2026-11-23T16:00:02.000000000Z c"),
        ],
    )  # fmt: skip
    def test_a_part_can_be_asked_for(self, query, text):
        kept, second = Log(), 1795449600 * 10**9
        for i, line in enumerate((b"a\n", b"b\n", b"c")):
            kept.write(line, second + i * 10**9)
        assert b"".join(kept.read(query)).decode() == text

    def test_the_log_of_the_container_before_is_kept(self, cluster):
        cluster.runtime.script(Script(output=[(0, "again\n")], exit_code=1))
        start(cluster, "train", spec={"restartPolicy": "OnFailure"}, backoffLimit=3)
        wait_for(lambda: cluster.pods("train") and cluster.pods("train")[0]["status"].get("containerStatuses", [{}])[0]
                 .get("restartCount"), "no restart", 30, bool)  # fmt: skip
        assert log(cluster, "train", previous="true") == "again\n"


class TestContainers:
    """Pods that really run."""

    def run(self, cluster, name, *args, **kwargs):
        """The newest pod of a Job that has ended."""
        start(cluster, name, *args, **kwargs)
        cluster.wait_for_job(name)
        return cluster.pods(name)[-1]

    def test_variables_and_words_are_expanded(self, live_cluster):
        env = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(NO)$$(A)"},
               {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]  # fmt: skip
        pod = self.run(live_cluster, "train", {"command": ["echo", "$(B)"], "args": ["$(POD)"], "env": env})
        assert log(live_cluster, "train") == f"1$(NO)$(A) {pod['metadata']['name']}\n"

    def test_volumes_of_all_kinds_are_there(self, live_cluster, tmp_path):
        for kind in ("secrets", "configmaps"):
            body = {"metadata": {"name": "some"}, ("stringData" if kind == "secrets" else "data"): {"key": kind}}
            assert ask(live_cluster, "POST", f"/api/v1/namespaces/ml/{kind}", body=body)[0] == 201
        live_cluster.add_claim("kept")
        (tmp_path / "host").mkdir()
        (tmp_path / "host/file").write_text("of the host")
        volumes = {
            "s": {"secret": {"secretName": "some", "items": [{"key": "key", "path": "a/b", "mode": 0o400}]}},
            "c": {"configMap": {"name": "some"}}, "e": {"emptyDir": {}},
            "p": {"persistentVolumeClaim": {"claimName": "kept"}}, "h": {"hostPath": {"path": f"{tmp_path}/host"}},
            "j": {"projected": {"sources": [{"secret": {"name": "some"}}]}},
        }  # fmt: skip
        mounts = [{"name": name, "mountPath": f"/v/{name}"} for name in volumes]
        command = (
            "cat /v/s/a/b /v/c/key /v/j/key /v/h/file && echo kept > /v/p/file"
            " && stat -L -c %a /v/s/a/b /v/e && readlink /v/c/key"
        )
        main = {"command": ["sh", "-c", command], "volumeMounts": mounts}
        self.run(live_cluster, "train", main, {"volumes": [{"name": k, **v} for k, v in volumes.items()]})
        assert log(live_cluster, "train") == "secretsconfigmapssecretsof the host400\n777\n..data/key\n"
        assert (live_cluster.runtime.claim_directory("kept") / "file").read_text() == "kept\n"

    def test_init_containers_come_first_and_sidecars_go_last(self, live_cluster):
        share = {"image": SHELL, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        inits = [
            {"name": "code", "command": ["sh", "-c", "echo code > /v/code"], **share},
            {"name": "side", "command": ["sh", "-c", "trap exit TERM; echo up > /v/side; while :; do sleep 0.1; done"],
             "restartPolicy": "Always", **share},
        ]  # fmt: skip
        main = {**share, "command": ["sh", "-c", "while ! test -e /v/side; do sleep 0.1; done; cat /v/code"]}
        pod = self.run(live_cluster, "train", main, {"initContainers": inits, "volumes": [{"name": "v"}]})
        assert log(live_cluster, "train", container="main") == "code\n"
        assert pod["status"]["phase"] == "Succeeded"
        assert state(pod, "side")[0] == "terminated"

    def test_an_init_container_that_fails_ends_the_pod(self, live_cluster):
        inits = [{"name": "code", "image": SHELL, "command": ["sh", "-c", "exit 9"]}]
        pod = self.run(live_cluster, "train", {"command": ["true"]}, {"initContainers": inits})
        assert pod["status"]["phase"] == "Failed"
        assert state(pod, "code")[1]["exitCode"] == 9
        assert state(pod) == ("waiting", {"reason": "PodInitializing"})

    def test_a_termination_message_is_brought_back(self, live_cluster):
        self.run(live_cluster, "told", "printf '{\"a\": 1}' > /dev/termination-log")
        command = {"command": ["sh", "-c", "echo boom; exit 1"], "terminationMessagePolicy": "FallbackToLogsOnError"}
        self.run(live_cluster, "fell", command)
        said = [state(live_cluster.pods(name)[0])[1]["message"] for name in ("told", "fell")]
        assert said == ['{"a": 1}', "boom\n"]

    def test_a_restricted_pod_runs_as_it_must(self, live_cluster):
        live_cluster.label_namespace(enforce="restricted")
        context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
        of_pod = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 1002}
        of_pod["seccompProfile"] = {"type": "RuntimeDefault"}
        main = {"command": ["sh", "-c", "id -u; id -G; touch /x; touch /v/x && echo ok"], "securityContext": context,
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}  # fmt: skip
        self.run(live_cluster, "train", main, {"securityContext": of_pod, "volumes": [{"name": "v"}]})
        assert sorted(log(live_cluster, "train").splitlines()) == sorted(
            ["1000", "1001 1002", "touch: /x: Read-only file system", "ok"]
        )

    def test_root_is_no_user_of_a_pod_that_must_not_be_root(self, live_cluster):
        start(live_cluster, "train", {"securityContext": {"runAsNonRoot": True}})
        pod = waits_for(live_cluster, "train", "CreateContainerConfigError")
        assert "container has runAsNonRoot and image will run as root" in state(pod)[1]["message"]

    def test_an_image_is_pulled_from_a_registry(self, live_cluster, registry):
        reference = f"{registry.address}/team/image:1"
        with live_cluster.runtime.client() as client:
            client.tag(PYTHON, f"{registry.address}/team/image", "1")
            client.push(reference)
            client.remove_image(reference)
        pod = self.run(live_cluster, "train", {"image": reference, "command": ["python3", "-c", "print(6 * 7)"]})
        assert log(live_cluster, "train") == "42\n"
        assert "Pulling" in reasons(live_cluster, pod["metadata"]["name"])

    def test_a_login_is_taken_from_a_pull_secret(self, live_cluster, closed_registry):
        reference = f"{closed_registry.address}/team/image:1"
        login = {"username": "me", "password": "geheim"}
        with live_cluster.runtime.client() as client:
            client.tag(SHELL, f"{closed_registry.address}/team/image", "1")
            client.push(reference, auth_config=login)
            client.remove_image(reference)
        start(live_cluster, "closed", {"image": reference, "command": ["true"]})
        assert "basic auth" in state(waits_for(live_cluster, "closed", "ErrImagePull"))[1]["message"]
        secret = {"metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson"}
        secret["stringData"] = {".dockerconfigjson": json.dumps({"auths": {closed_registry.address: login}})}
        assert ask(live_cluster, "POST", "/api/v1/namespaces/ml/secrets", body=secret)[0] == 201
        self.run(
            live_cluster, "open", {"image": reference, "command": ["true"]}, {"imagePullSecrets": [{"name": "login"}]}
        )

    def test_no_container_is_left_when_the_cluster_stops(self, engine, tmp_path):
        with Cluster(DockerRuntime(engine, tmp_path), pace=0.05) as cluster:
            start(cluster, "train", "sleep 100")
            cluster.wait_for_pod("train")
            assert engine.containers()
        assert engine.containers() == []
