"""Runs on Kubernetes: how they are claimed, started, cancelled and found again, by what the cluster keeps of them."""

import base64
import json
import subprocess
import sys
import threading
import time

import pytest
import yaml
from git_world import GitServer, git, published, repository
from kubernetes_cluster import Cluster
from kubernetes_runtime import Script, ScriptedRuntime
from kubernetes_schema import JOBS, SECRETS
from kubernetes_world import KubernetesWorld
from protocol_suite import until

import mlproj_core
from mlproj_core import UserError, protocol
from mlproj_core.backends.backend import State
from mlproj_core.backends.kubernetes import KubernetesBackend, backend, connect, hold
from mlproj_core.backends.kubernetes.connect import forget_clusters
from mlproj_core.backends.kubernetes.watch import stop_watching
from mlproj_core.errors import ContactLost
from mlproj_core.handle import RunHandle, attempt_name

IMAGE = {"image": "train:1"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A cluster whose containers live until they are told to end."""
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    world = KubernetesWorld(tmp_path, ScriptedRuntime())
    world.cluster.runtime.script(Script(exit_code=None))
    yield world
    world.close()


def submit(world, **more):
    return world.submit(**{"key": "k", "docker_args": IMAGE, **more})


def running(world, **more):
    run = submit(world, **more)
    world.cluster.wait_for_pod(run.handle.name)
    return run


def end(world, run, code=0):
    world.cluster.runtime.end(run.handle.name, code, "mlproj")


def secrets_of(world):
    return world.cluster.store.list(SECRETS, world.cluster.namespace)


class TestTheClaim:
    def test_is_a_suspended_job_that_has_no_pod(self, world):
        asker, go_on = world.paused_asker("after the claim", arguments={"key": "k", "docker_args": IMAGE})
        job = world.cluster.job(attempt_name("k", 1))
        assert job["spec"]["suspend"] is True
        claim = json.loads(job["metadata"]["annotations"]["mlproj/claim"])
        assert (claim["key"], claim["attempt"]) == ("k", 1)
        assert world.cluster.pods() == []
        assert secrets_of(world) == []
        go_on()
        world.answer(asker)

    def test_starts_with_the_secret_that_it_owns(self, world):
        run = running(world, env_vars={"TOKEN": "geheim"})
        (secret,) = secrets_of(world)
        job = world.job(run.handle)
        (owner,) = secret["metadata"]["ownerReferences"]
        assert (owner["name"], owner["uid"]) == (run.handle.name, job["metadata"]["uid"])
        assert secret["immutable"] is True
        assert base64.b64decode(secret["data"]["TOKEN"]) == b"geheim"
        assert world.cluster.runtime.containers[run.handle.name, "mlproj"].environment["TOKEN"] == "geheim"
        end(world, run)

    def test_that_is_half_made_is_completed_by_one_of_many(self, world):
        asker, _ = world.paused_asker("after the claim", arguments={"key": "k", "docker_args": IMAGE})
        asker.kill()
        asker.wait()
        cluster = KubernetesBackend()
        handle = cluster.find("k")
        until(lambda: cluster.look(handle).state is State.UNSTARTED)
        holds = [cluster.adopt(handle) for _ in range(5)]
        assert [one is not None for one in holds] == [True, False, False, False, False]
        assert cluster.look(handle).state is State.STARTING
        until(lambda: cluster.look(handle).state is State.UNSTARTED)  # the one may have died as well
        run = running(world)
        assert run.handle.attempt == 1
        end(world, run)

    def test_waits_for_a_job_of_its_name_that_is_being_deleted(self, world):
        world.cluster.runtime.script(Script(exit_code=None, on_term=None))
        first = running(world, backend_config={"grace": 2})
        world.cluster.store.delete(JOBS, "ml", first.handle.name, policy="Foreground")
        uid = world.job(first.handle)["metadata"]["uid"]
        again = submit(world)
        assert again.handle == first.handle.__class__(**{**first.handle.__dict__, "run_id": again.run_id})
        assert world.job(again.handle)["metadata"]["uid"] != uid
        world.cluster.wait_for_pod(again.handle.name)
        end(world, again)
        assert again.wait()

    def test_takes_its_own_job_for_its_own_when_the_answer_was_lost(self, world, monkeypatch):
        create = backend.Cluster.create

        def lose_the_answer(self, kind, body, **more):
            answer = create(self, kind, body, **more)
            if kind == "jobs":
                monkeypatch.setattr(backend.Cluster, "create", create)
                return self.create(kind, body)
            return answer

        monkeypatch.setattr(backend.Cluster, "create", lose_the_answer)
        run = running(world)
        end(world, run)
        assert run.wait()

    def test_a_secret_that_a_deleted_job_has_left_does_not_pass_for_ours(self, world, monkeypatch):
        name, create = attempt_name("k", 1), backend.Cluster.create
        stale = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "ml"}}
        world.cluster.core.create_namespaced_secret("ml", stale)

        def tidy_up_then(self, kind, body, **more):
            try:
                return create(self, kind, body, **more)
            except backend.Conflict:
                if kind == "secrets" and not more.get("dry_run"):
                    world.cluster.core.delete_namespaced_secret(name, "ml")
                raise

        monkeypatch.setattr(hold.Cluster, "create", tidy_up_then)
        run = running(world, env_vars={"A": "1"})
        assert [secret["metadata"]["name"] for secret in secrets_of(world)] == [name]
        assert "A" in secrets_of(world)[0]["data"]
        end(world, run)


class TestCancelling:
    def test_leaves_no_pod_and_a_job_that_says_how_it_ended(self, world):
        run = running(world)
        run.cancel()
        assert world.cluster.pods() == []
        job = world.job(run.handle)
        assert "mlproj/cancel" in job["metadata"]["annotations"]
        assert job["status"]["conditions"][-1]["type"] == "Failed"
        assert job["spec"]["ttlSecondsAfterFinished"] > 0, "it is deleted in due time"
        again = submit(world)
        assert (again.handle, str(again.get_status())) == (run.handle, "KILLED")

    def test_waits_for_a_pod_that_ignores_term(self, world):
        world.cluster.runtime.script(Script(exit_code=None, on_term=None))
        run = running(world, backend_config={"grace": 1})
        begun = time.monotonic()
        run.cancel()
        assert time.monotonic() - begun >= 1
        assert world.survivors() == []
        assert run.get_status() == "KILLED"

    def test_of_one_that_has_no_pod_yet_makes_none(self, world):
        world.cluster.controllers.paused = True
        run = submit(world)
        cancelling = threading.Thread(target=run.cancel)
        cancelling.start()
        until(lambda: world.job(run.handle)["spec"].get("activeDeadlineSeconds") == 0)
        assert run.get_status() == "RUNNING"
        world.cluster.controllers.paused = False
        world.cluster.controllers._enqueue(("ml", run.handle.name))
        cancelling.join()
        assert run.get_status() == "KILLED"
        assert world.cluster.runtime.containers == {}

    def test_of_one_that_ends_by_itself_meanwhile_changes_nothing(self, world):
        run = running(world)
        KubernetesBackend().mark_cancelled(run.handle)
        end(world, run)
        world.cluster.wait_for_job(run.handle.name)
        run.cancel()
        assert run.get_status() == "FINISHED"

    def test_by_kubectl_delete_is_one_too(self, world):
        run = running(world)
        world.cluster.store.delete(JOBS, "ml", run.handle.name, policy="Foreground")
        run.wait()
        assert (run.get_status(), run.reason.code) == ("FAILED", "forgotten")
        assert world.survivors() == []

    def test_a_tombstone_is_a_job_that_ends_without_a_pod(self, world):
        protocol.cancel_key(KubernetesBackend(), "k", (1,), print)
        job = world.cluster.wait_for_job(attempt_name("k", 1))
        assert job["spec"]["ttlSecondsAfterFinished"] > 0
        assert world.cluster.pods() == []
        assert world.cluster.runtime.containers == {}

    def test_says_when_a_node_does_not_answer(self, world, monkeypatch):
        run = running(world, backend_config={"grace": 0})
        world.cluster.controllers.paused = True
        monkeypatch.setattr(backend, "STOP_PATIENCE", 0.3)
        with pytest.raises(ContactLost, match="node may be down"):
            run.cancel()
        monkeypatch.setattr(backend, "STOP_PATIENCE", 60)
        world.cluster.controllers.paused = False
        world.cluster.controllers._enqueue(("ml", run.handle.name))
        run.cancel()
        assert run.get_status() == "KILLED"


class TestTheEnd:
    def test_is_on_the_job_when_its_pod_is_gone(self, world):
        run = running(world)
        end(world, run, 7)
        run.wait()
        assert run.reason.exit_code == 7
        for pod in world.cluster.pods(run.handle.name):
            world.cluster.core.delete_namespaced_pod(pod["metadata"]["name"], "ml")
        until(lambda: not world.cluster.pods(run.handle.name))
        assert run.reason.exit_code == 7

    def test_so_is_the_result(self, world):
        world.cluster.runtime.script(Script(message='{"accuracy": 0.9}'))
        run = submit(world)
        assert run.wait()
        for pod in world.cluster.pods(run.handle.name):
            world.cluster.core.delete_namespaced_pod(pod["metadata"]["name"], "ml")
        assert run.result().result == {"accuracy": 0.9}

    def test_a_result_that_is_no_json_says_so(self, world):
        world.cluster.runtime.script(Script(message='{"accuracy": 0.'))
        run = submit(world)
        run.wait()
        with pytest.raises(mlproj_core.ExecutionException, match=r"not JSON.*4096"):
            run.result()

    def test_comes_by_the_timeout(self, world):
        run = submit(world, timeout=1)
        run.wait()
        assert (run.get_status(), run.reason.code) == ("FAILED", "timeout")
        assert world.survivors() == []

    def test_by_the_timeout_says_what_the_pod_waited_for(self, world):
        run = submit(world, timeout=2, backend_config={"node-selector": {"gpu": "h100"}})
        run.wait()
        assert run.reason.code == "timeout"
        assert "didn't match Pod's node affinity/selector" in run.reason.message

    def test_is_forgotten_when_the_job_is_gone(self, world):
        run = submit(world, backend_config={"ttl-seconds-after-finished": 0})
        world.cluster.wait_for_pod(run.handle.name)
        end(world, run)
        until(lambda: world.job(run.handle) is None)
        assert (run.get_status(), run.reason.code) == ("FAILED", "forgotten")

    def test_of_an_early_failure_has_the_words_of_the_cluster(self, world):
        world.cluster.refuse_pods("exceeded quota: q, requested: cpu=9, used: cpu=0, limited: cpu=8")
        run = submit(world)
        run.wait()
        assert (run.get_status(), run.reason.code) == ("FAILED", "capacity")
        assert "limited: cpu=8" in run.reason.message
        job = world.cluster.wait_for_job(run.handle.name)
        assert "mlproj/outcome" in job["metadata"]["annotations"]


class TestAQuotaOfJobs:
    def test_is_no_mistake_of_the_caller_s(self, world, monkeypatch):
        from kubernetes_refusals import Refusal

        def refuse(*arguments):
            why = 'jobs.batch "x" is forbidden: exceeded quota: q, requested: jobs=1, used: jobs=5'
            raise Refusal(403, "Forbidden", why, {})

        monkeypatch.setattr(world.cluster.server.api, "create", refuse)
        with pytest.raises(mlproj_core.ExecutionException, match="exceeded quota") as caught:
            submit(world)
        assert not isinstance(caught.value, UserError)
        assert caught.value.reason.retryable


class TestKueue:
    QUEUED = {"labels": {"kueue.x-k8s.io/queue-name": "training"}}

    def admit(self, world, run):
        world.cluster.batch.patch_namespaced_job(run.handle.name, "ml", {"spec": {"suspend": False}})

    def test_starts_the_run_when_its_turn_comes(self, world):
        run = submit(world, backend_config=self.QUEUED)
        job = world.job(run.handle)
        assert job["spec"]["suspend"] is True
        assert "mlproj/started" in job["metadata"]["annotations"]
        assert (run.get_status(), run.phase) == ("RUNNING", "queued")
        self.admit(world, run)
        world.cluster.wait_for_pod(run.handle.name)
        until(lambda: run.phase == "running")
        end(world, run)
        assert run.wait()

    def test_runs_nothing_of_what_was_cancelled_in_the_queue(self, world):
        run = submit(world, backend_config=self.QUEUED)
        run.cancel()
        assert run.get_status() == "KILLED"
        assert world.job(run.handle)["spec"]["suspend"] is True
        self.admit(world, run)
        world.cluster.wait_for_job(run.handle.name)
        assert world.cluster.runtime.containers == {}
        assert run.get_status() == "KILLED"


class TestWhoMayWhat:
    @pytest.fixture
    def role(self):
        from importlib.resources import files

        text = files("mlproj_core.backends.kubernetes").joinpath("role.yaml").read_text()
        return next(part["rules"] for part in yaml.safe_load_all(text) if part["kind"] == "Role")

    def as_user(self, world, rules):
        token = world.cluster.add_user(rules=rules)
        world.cluster.server.closed = True
        world.cluster.write_kubeconfig(world.directory / "kubeconfig", token)

    def test_the_shipped_role_suffices(self, world, role):
        self.as_user(world, role)
        run = running(world, env_vars={"TOKEN": "geheim"})
        world.cluster.runtime.say(run.handle.name, "hello\n", "mlproj")
        assert "hello" in "".join(run.logs())
        end(world, run, 1)
        run.wait()
        assert run.reason.output == ("hello",)
        second = running(world, key="k2")
        second.cancel()
        assert second.get_status() == "KILLED"
        protocol.cancel_key(KubernetesBackend(), "k3", (1,), print)
        world.cluster.refuse_pods("exceeded quota: q, requested: cpu=9, used: cpu=0, limited: cpu=8")
        third = submit(world, key="k4")
        third.wait()
        assert third.reason.code == "capacity"

    @pytest.mark.parametrize(
        ("resource", "verb"), [("jobs", "create"), ("secrets", "create"), ("jobs", "list"), ("jobs", "patch")]
    )
    def test_what_is_not_allowed_is_said_before_anything_is_there(self, world, role, resource, verb):
        rules = [
            {**rule, "verbs": [one for one in rule["verbs"] if one != verb or resource not in rule["resources"]]}
            for rule in role
        ]
        self.as_user(world, rules)
        with pytest.raises(UserError, match=f"{verb} {resource}.*Role"):
            submit(world)
        assert world.cluster.store.list(JOBS, "ml") == []
        assert secrets_of(world) == []

    def test_who_is_not_known_is_told_so(self, world):
        world.cluster.server.closed = True
        with pytest.raises(UserError, match="does not know who asks"):
            submit(world)

    def test_a_namespace_that_is_not_there_is_named(self, world):
        with pytest.raises(UserError, match="no namespace 'nosuch'"):
            submit(world, backend_config={"namespace": "nosuch"})


class TestSecrets:
    def test_are_in_the_secret_and_nowhere_else(self, world):
        run = running(world, env_vars={"TOKEN": "geheim"})
        run.wait(0.1)
        everything = json.dumps([item for _, item in world.cluster.store.everything() if item["kind"] != "Secret"])
        encoded = base64.b64encode(b"geheim").decode()
        assert "geheim" not in everything
        assert encoded not in everything
        assert "geheim" not in run.handle.to_json()
        (secret,) = secrets_of(world)
        assert secret["data"]["TOKEN"] == encoded
        pod = world.cluster.pods(run.handle.name)[0]["spec"]["containers"][0]
        variable = next(one for one in pod["env"] if one["name"] == "TOKEN")
        assert set(variable["valueFrom"]) == {"secretKeyRef"}
        end(world, run)


class TestTheCluster:
    def test_is_found_by_a_handle_in_a_process_whose_context_has_another_name(self, world):
        run = running(world)
        kubeconfig = world.cluster.write_kubeconfig(world.directory / "other", context="elsewhere")
        code = "import sys, mlproj_core; print(mlproj_core.attach(sys.argv[1]).get_status())"
        done = subprocess.run(
            [sys.executable, "-c", code, run.handle.to_json()],
            env={"PATH": "/usr/bin:/bin", "KUBECONFIG": kubeconfig},
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == ["RUNNING"]
        end(world, run)

    def test_may_be_in_another_kubeconfig(self, world, monkeypatch):
        kubeconfig = world.cluster.write_kubeconfig(world.directory / "other", context="elsewhere")
        monkeypatch.setenv("KUBECONFIG", str(world.directory / "nothing"))
        run = running(world, backend_config={"kubeconfig": kubeconfig})
        assert mlproj_core.attach(run.handle.to_json()).get_status() == "RUNNING"
        end(world, run)
        assert run.wait()

    def test_that_nobody_here_knows_is_out_of_contact(self, world, tmp_path):
        handle = RunHandle(
            "kubernetes", "k", 1, "", {"namespace": "ml", "server": "https://10.1.2.3", "context": "gone"}
        )
        with pytest.raises(ContactLost, match=r"https://10\.1\.2\.3.*it has tests"):
            mlproj_core.attach(handle).get_status()

    def test_that_is_away_is_out_of_contact(self, world, monkeypatch):
        from mlproj_core.backends.kubernetes import client

        monkeypatch.setattr(client, "PATIENCE", 0.3)
        run = running(world)
        world.cluster.server.fail_next(503, 1000)
        with pytest.raises(ContactLost, match="503"):
            run.get_status()
        with pytest.raises(ContactLost):
            submit(world)
        world.cluster.server.stop_failing()
        end(world, run)

    def test_may_be_one_that_a_caller_has_a_client_for(self, world, tmp_path, monkeypatch):
        with Cluster(ScriptedRuntime(), pace=0.02) as other:
            given = KubernetesBackend(api_client=other.client())
            run = submit(world, backend=given, backend_config={"namespace": "ml"})
            assert run.wait()
            assert other.job(run.handle.name) is not None
            assert world.cluster.job(run.handle.name) is None
            stop_watching()

    @pytest.fixture
    def closed(self, tmp_path):
        """A cluster that speaks TLS and wants a token; and that token."""
        (tmp_path / "tls").mkdir()
        with Cluster(ScriptedRuntime(), pace=0.02, directory=tmp_path / "tls") as cluster:
            cluster.server.closed = True
            yield cluster, cluster.add_user()
            stop_watching()
            forget_clusters()

    def test_is_trusted_by_the_certificate_of_the_kubeconfig(self, world, closed):
        cluster, token = closed
        cluster.write_kubeconfig(world.directory / "kubeconfig", token)
        run = submit(world)
        assert run.wait()
        assert token not in run.handle.to_json()

    def test_of_the_pod_that_asks_is_found_by_its_service_account(self, world, closed, monkeypatch):
        from kubernetes.config import incluster_config

        cluster, token = closed
        account = world.directory / "account"
        account.mkdir()
        (account / "token").write_text(token)
        (account / "ca.crt").write_bytes(cluster.authority)
        (account / "namespace").write_text("ml")
        monkeypatch.setattr(connect, "ACCOUNT", account)
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", cluster.url.rpartition(":")[2])
        monkeypatch.setenv("KUBECONFIG", str(world.directory / "nothing"))
        run = submit(world)
        assert run.wait()
        assert run.handle.ref["namespace"] == "ml"
        assert mlproj_core.attach(run.handle.to_json()).get_status() == "FINISHED"
        with pytest.raises(UserError, match="there is no kubeconfig"):
            submit(world, backend_config={"kube-context": "tests"})

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"kube-context": "test"}, "Did you mean 'tests'"),
            ({"kubeconfig": "/no/such/file"}, "no kubeconfig /no/such/file"),
            ({"namespaces": "ml"}, "Did you mean 'namespace'"),
        ],
    )
    def test_that_is_not_configured_is_said_before_anything_is_done(self, world, config, words):
        with pytest.raises(UserError, match=words):
            submit(world, backend_config=config)

    def test_without_any_configuration_there_is_none(self, world, monkeypatch):
        monkeypatch.setenv("KUBECONFIG", str(world.directory / "nothing"))
        with pytest.raises(UserError, match="No cluster is configured"):
            submit(world)


class TestAGitProject:
    """Of a repository that asks for a login."""

    @pytest.fixture
    def server(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "srv").mkdir()
        with GitServer(tmp_path / "srv", login=("me", "geheim")) as server:
            project = "name: steps\nentry_points:\n  main:\n    command: 'true'\n"
            work = repository(tmp_path / "work", wine__MLproject=project)
            server.commit = git("rev-parse", "HEAD", cwd=work)
            published(work, tmp_path / "srv" / "projects")
            yield server

    def submit(self, world, server, **config):
        uri = f"{server.url('projects', login='me@')}#wine"
        return world.submit(key="k", uri=uri, git_token="geheim", backend_config=config)

    def test_is_cloned_with_the_login_that_fetched_it(self, world, server):
        run = self.submit(world, server, code="git")
        (container,) = world.job(run.handle)["spec"]["template"]["spec"]["initContainers"]
        variables = {one["name"]: one.get("value") for one in container["env"]}
        assert variables["MLPROJ_GIT_COMMIT"] == server.commit
        assert variables["MLPROJ_GIT_SUBDIRECTORY"] == "wine"
        assert variables["MLPROJ_ASKPASS_PASSWORD"] is None
        (secret,) = secrets_of(world)
        assert base64.b64decode(secret["data"]["git-password"]) == b"geheim"
        assert "code.tar.gz" not in secret["data"]
        assert "geheim" not in json.dumps(world.job(run.handle))
        run.cancel()

    def test_is_in_the_secret_if_nothing_is_said(self, world, server):
        run = self.submit(world, server)
        (secret,) = secrets_of(world)
        assert "code.tar.gz" in secret["data"]
        assert "git-password" not in secret["data"]
        run.cancel()

    def test_of_this_host_cannot_be_cloned_elsewhere(self, world):
        with pytest.raises(UserError, match="not run from a remote Git repository"):
            world.submit(key="k", backend_config={"code": "git"})


class TestPathsInAPod:
    def project(self, world):
        (world.project / "MLproject").write_text(
            "name: steps\nentry_points:\n  main:\n    parameters:\n      data: path\n      model: path\n"
            "    command: train {data} {model}\n"
        )

    def test_are_as_they_were_given_and_data_goes_where_the_pod_has_room(self, world):
        self.project(world)
        run = world.submit(key="k", parameters={"data": "/mnt/data", "model": "http://localhost:9/model"})
        command = run.request["command"]
        assert command.startswith("train /mnt/data /tmp/mlproj-data/")
        (secret,) = secrets_of(world)
        plan = json.loads(base64.b64decode(secret["data"]["plan.json"]))
        assert [download["uri"] for download in plan["downloads"]] == ["http://localhost:9/model"]
        assert plan["downloads"][0]["path"] in command
        run.cancel()

    def test_cannot_be_fetched_without_the_launcher(self, world):
        self.project(world)
        with pytest.raises(UserError, match="data of model"):
            submit(world, parameters={"data": "x", "model": "http://localhost:9/model"})


class TestWhatAPodCannotHave:
    def test_are_flags_of_docker_run(self, world):
        with pytest.raises(UserError, match=r"docker_args: gpus.*'resources'"):
            submit(world, docker_args={**IMAGE, "gpus": "all"})

    def test_is_a_tracking_server_of_this_host(self, world):
        with pytest.raises(UserError, match="'tracking-uri'"):
            submit(world, tracking_uri="http://127.0.0.1:9", backend_config={})
        assert world.cluster.store.list(JOBS, "ml") == []

    def test_is_data_in_a_relative_place(self, world):
        with pytest.raises(UserError, match="storage_dir"):
            submit(world, storage_dir="data")
