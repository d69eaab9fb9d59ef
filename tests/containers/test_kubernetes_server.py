"""The tests' own Kubernetes API server, as the real client meets it."""

import base64
import json
import threading

import kubernetes
import pytest
import urllib3
from kubernetes.client import ApiException
from kubernetes_recordings import ask
from kubernetes_runtime import Script
from waiting import wait_for

JOBS, PODS, SECRETS = (
    "/apis/batch/v1/namespaces/ml/jobs",
    "/api/v1/namespaces/ml/pods",
    "/api/v1/namespaces/ml/secrets",
)
MERGE = "application/merge-patch+json"


def a_job(name="train", *, labels=None, pod=None, **spec):
    container = {"name": "main", "image": "busybox:1.35", "command": ["true"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container], **(pod or {})}}
    metadata = {"name": name, "labels": labels or {}}
    return {"metadata": metadata, "spec": {"backoffLimit": 0, "template": template, **spec}}


def a_secret(name="keys", **data):
    return {"metadata": {"name": name}, "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}}


def refused(call, *args, **kwargs):
    """The Status that a call of the client fails with."""
    with pytest.raises(ApiException) as caught:
        call(*args, **kwargs)
    return json.loads(caught.value.body)


class TestObjects:
    def test_a_job_that_is_there_already_is_a_conflict(self, cluster):
        cluster.batch.create_namespaced_job("ml", a_job())
        status = refused(cluster.batch.create_namespaced_job, "ml", a_job())
        assert (status["code"], status["reason"]) == (409, "AlreadyExists")

    def test_of_twenty_at_once_one_creates(self, cluster):
        codes = []

        def create():
            codes.append(ask(cluster, "POST", JOBS, body=a_job(suspend=True))[0])

        threads = [threading.Thread(target=create) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(codes) == [201] + [409] * 19

    def test_a_change_of_what_was_changed_meanwhile_is_a_conflict(self, cluster):
        cluster.node.paused = True
        job = cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        wait_for(lambda: cluster.job("train")["status"], "its status", 10, bool)
        job.metadata.annotations = {"a": "b"}
        status = refused(cluster.batch.replace_namespaced_job, "train", "ml", job)
        assert status["message"] == (
            'Operation cannot be fulfilled on jobs.batch "train": the object has been modified; please apply your'
            " changes to the latest version and try again"
        )

    def test_patches_of_all_sorts_change_annotations(self, cluster):
        ask(cluster, "POST", JOBS, body=a_job(suspend=True))
        patches = {
            MERGE: {"metadata": {"annotations": {"mlproj/a": "1"}}},
            "application/strategic-merge-patch+json": {"metadata": {"annotations": {"mlproj/b": "2"}}},
            "application/json-patch+json": [{"op": "add", "path": "/metadata/annotations/mlproj~1c", "value": "3"}],
        }
        for kind, patch in patches.items():
            assert ask(cluster, "PATCH", f"{JOBS}/train", body=patch, content_type=kind)[0] == 200
        assert cluster.job("train")["metadata"]["annotations"] == {"mlproj/a": "1", "mlproj/b": "2", "mlproj/c": "3"}
        ask(
            cluster,
            "PATCH",
            f"{JOBS}/train",
            body={"metadata": {"annotations": {"mlproj/a": None}}},
            content_type=MERGE,
        )
        assert "mlproj/a" not in cluster.job("train")["metadata"]["annotations"]

    def test_a_patch_may_say_which_version_it_is_for(self, cluster):
        ask(cluster, "POST", JOBS, body=a_job(suspend=True))
        patch = {"metadata": {"resourceVersion": "1", "annotations": {"a": "b"}}}
        assert ask(cluster, "PATCH", f"{JOBS}/train", body=patch, content_type=MERGE)[0] == 409

    def test_the_client_patches_without_a_content_type_of_its_own(self, cluster):
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        job = cluster.batch.patch_namespaced_job("train", "ml", {"metadata": {"annotations": {"a": "b"}}})
        assert job.metadata.annotations == {"a": "b"}

    def test_an_object_whose_owner_is_gone_goes(self, cluster):
        job = cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": job.metadata.uid}
        secret = a_secret(a="b")
        secret["metadata"]["ownerReferences"] = [owner]
        cluster.core.create_namespaced_secret("ml", secret)
        cluster.batch.delete_namespaced_job("train", "ml", propagation_policy="Background")
        wait_for(lambda: not cluster.core.list_namespaced_secret("ml").items, "the Secret stays", 10, bool)
        cluster.core.create_namespaced_secret("ml", secret)  # of an owner that was there once
        wait_for(lambda: not cluster.core.list_namespaced_secret("ml").items, "the Secret stays", 10, bool)

    def test_a_finalizer_keeps_what_is_deleted(self, cluster):
        job = a_job(suspend=True)
        job["metadata"]["finalizers"] = ["tests/keep"]
        cluster.batch.create_namespaced_job("ml", job)
        cluster.batch.delete_namespaced_job("train", "ml", propagation_policy="Background")
        assert "deletionTimestamp" in cluster.job("train")["metadata"]
        ask(cluster, "PATCH", f"{JOBS}/train", body={"metadata": {"finalizers": None}}, content_type=MERGE)
        assert cluster.job("train") is None

    def test_preconditions_of_a_deletion_hold(self, cluster):
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        body = {"preconditions": {"uid": "another"}, "propagationPolicy": "Foreground"}
        status, _, answer = ask(cluster, "DELETE", f"{JOBS}/train", body=body)
        assert (status, answer["reason"]) == (409, "Conflict")

    def test_what_a_dry_run_creates_is_not_there(self, cluster):
        cluster.batch.create_namespaced_job("ml", a_job(), dry_run="All")
        assert cluster.job("train") is None

    def test_the_scheduling_of_a_job_that_never_started_may_change(self, cluster):
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        change = {"spec": {"template": {"spec": {"nodeSelector": {"gpu": "h100"}}}}}
        assert ask(cluster, "PATCH", f"{JOBS}/train", body=change, content_type=MERGE)[0] == 200
        change["spec"]["template"]["spec"] = {"terminationGracePeriodSeconds": 1}
        assert ask(cluster, "PATCH", f"{JOBS}/train", body=change, content_type=MERGE)[0] == 422


class TestSecrets:
    def test_text_is_kept_as_data(self, cluster):
        cluster.core.create_namespaced_secret("ml", {"metadata": {"name": "keys"}, "stringData": {"a": "geheim"}})
        kept = cluster.core.read_namespaced_secret("keys", "ml")
        assert (kept.data, kept.type) == ({"a": base64.b64encode(b"geheim").decode()}, "Opaque")

    def test_one_over_a_megabyte_is_refused(self, cluster):
        status = refused(cluster.core.create_namespaced_secret, "ml", a_secret(a="x" * (1 << 20) + "x"))
        assert status["code"] == 422
        assert status["message"] == 'Secret "keys" is invalid: data: Too long: may not be more than 1048576 bytes'

    def test_a_request_over_three_megabytes_is_refused(self, cluster):
        assert refused(cluster.core.create_namespaced_secret, "ml", a_secret(a="x" * (3 << 20)))["code"] == 413

    def test_an_immutable_one_stays_as_it_is(self, cluster):
        cluster.core.create_namespaced_secret("ml", {**a_secret(a="b"), "immutable": True})
        status = refused(cluster.core.patch_namespaced_secret, "keys", "ml", {"stringData": {"a": "c"}})
        assert "field is immutable when `immutable` is set" in status["message"]

    def test_data_must_be_base64(self, cluster):
        status = refused(cluster.core.create_namespaced_secret, "ml", {"metadata": {"name": "a"}, "data": {"a": "%"}})
        assert status["code"] == 400
        assert "illegal base64 data" in status["message"]


class TestValidation:
    def test_every_unknown_field_is_named(self, cluster):
        job = a_job(pod={"restartPolcy": "Never"}, backofLimit=1)
        job["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
        status = ask(cluster, "POST", JOBS, {"fieldValidation": "Strict"}, job)[2]
        for field in ("spec.backofLimit", "spec.template.spec.restartPolcy",
                      "spec.template.spec.containers[0].imagePulPolicy"):  # fmt: skip
            assert f'unknown field "{field}"' in status["message"]

    @pytest.mark.parametrize(
        ("pod", "said"),
        [
            ({"containers": [{"name": "main", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
             'spec.template.spec.containers[0].volumeMounts[0].name: Not found: "v"'),
            ({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]},
             'spec.template.spec.containers[1].name: Duplicate value: "a"'),
            ({"containers": [{"name": "main"}]}, "spec.template.spec.containers[0].image: Required value"),
            ({"containers": [{"name": "main", "image": "x", "resources": {
                "limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}}]},
             "must be less than or equal to memory limit of 1Gi"),
        ],
    )  # fmt: skip
    def test_a_pod_that_cannot_be_is_refused_with_its_job(self, cluster, pod, said):
        status = refused(cluster.batch.create_namespaced_job, "ml", a_job(pod=pod))
        assert status["code"] == 422
        assert said in status["message"]

    def test_an_object_that_is_too_large_for_etcd_is_refused(self, cluster):
        container = {"name": "main", "image": "x", "args": ["x" * 1_600_000]}
        status = refused(cluster.batch.create_namespaced_job, "ml", a_job(pod={"containers": [container]}))
        assert (status["code"], status["message"]) == (500, "etcdserver: request is too large")

    def test_a_quantity_that_is_none_is_refused(self, cluster):
        container = {"name": "main", "image": "x", "resources": {"limits": {"memory": "much"}}}
        status = refused(cluster.batch.create_namespaced_job, "ml", a_job(pod={"containers": [container]}))
        assert status["code"] == 400
        assert "quantities must match the regular expression" in status["message"]


class TestLists:
    @pytest.fixture
    def jobs(self, cluster):
        for i in range(5):
            labels = {"n": str(i), "kind": "even" if i % 2 == 0 else "odd"}
            cluster.batch.create_namespaced_job("ml", a_job(f"j{i}", labels=labels, suspend=True))

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ("kind=even", "j0 j2 j4"), ("kind!=even,n in (1, 4)", "j1"), ("n notin (0,1,2)", "j3 j4"),
            ("nosuch", ""), ("!nosuch,n==2", "j2"), ("kind", "j0 j1 j2 j3 j4"),
        ],
    )  # fmt: skip
    def test_labels_select(self, cluster, jobs, selector, names):
        found = cluster.batch.list_namespaced_job("ml", label_selector=selector).items
        assert " ".join(job.metadata.name for job in found) == names

    def test_fields_select(self, cluster, jobs):
        found = cluster.batch.list_namespaced_job("ml", field_selector="metadata.name=j3").items
        assert [job.metadata.name for job in found] == ["j3"]
        status = refused(cluster.batch.list_namespaced_job, "ml", field_selector="spec.suspend=true")
        assert (status["code"], status["message"]) == (400, "field label not supported: spec.suspend")

    def test_pages_are_of_one_moment(self, cluster, jobs):
        first = cluster.batch.list_namespaced_job("ml", limit=2)
        assert first.metadata.remaining_item_count == 3
        cluster.batch.delete_namespaced_job("j4", "ml", propagation_policy="Background")
        rest = cluster.batch.list_namespaced_job("ml", limit=10, _continue=first.metadata._continue)
        assert [job.metadata.name for job in first.items + rest.items] == ["j0", "j1", "j2", "j3", "j4"]
        assert rest.metadata.resource_version == first.metadata.resource_version

    def test_a_page_that_comes_too_late_has_expired(self, cluster, jobs):
        first = cluster.batch.list_namespaced_job("ml", limit=2)
        cluster.server.compact()
        status = refused(cluster.batch.list_namespaced_job, "ml", limit=2, _continue=first.metadata._continue)
        assert (status["code"], status["reason"]) == (410, "Expired")


class TestWatches:
    def watch(self, cluster, call, **options):
        """Every event of a watch of the real client until its end, as (type, name or code)."""
        return [
            (event["type"], event["object"].metadata.name)
            for event in kubernetes.watch.Watch().stream(call, "ml", timeout_seconds=1, **options)
        ]

    def test_one_from_an_old_version_replays_from_there(self, cluster):
        version = cluster.batch.list_namespaced_job("ml").metadata.resource_version
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        cluster.batch.delete_namespaced_job("train", "ml", propagation_policy="Background")
        events = self.watch(cluster, cluster.batch.list_namespaced_job, resource_version=version)
        assert events[0] == ("ADDED", "train")
        assert events[-1] == ("DELETED", "train")

    def test_one_from_no_version_begins_with_what_is_there(self, cluster):
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        assert self.watch(cluster, cluster.batch.list_namespaced_job)[0] == ("ADDED", "train")

    def test_what_comes_to_match_is_added_and_what_ceases_to_is_deleted(self, cluster):
        version = str(cluster.store.version)
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        for value in ("here", "there"):
            cluster.batch.patch_namespaced_job("train", "ml", {"metadata": {"labels": {"at": value}}})
        call = cluster.batch.list_namespaced_job
        events = self.watch(cluster, call, resource_version=version, label_selector="at=here")
        assert events == [("ADDED", "train"), ("DELETED", "train")]

    def test_one_from_a_forgotten_version_is_told_so(self, cluster):
        version = cluster.batch.list_namespaced_job("ml").metadata.resource_version
        cluster.server.compact()
        with pytest.raises(ApiException) as caught:
            self.watch(cluster, cluster.batch.list_namespaced_job, resource_version=version)
        assert caught.value.status == 410
        assert "too old resource version" in caught.value.reason

    def test_one_that_is_open_outlives_the_forgetting(self, cluster):
        events = []
        thread = threading.Thread(
            target=lambda: events.extend(self.watch(cluster, cluster.batch.list_namespaced_job))
        )  # fmt: skip
        thread.start()
        wait_for(lambda: cluster.server.watches, "no watch", 10, bool)
        cluster.server.compact()
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        thread.join()
        assert events[0] == ("ADDED", "train")

    def test_bookmarks_tell_how_far_it_is(self, cluster):
        cluster.server.bookmark_interval = 0.1
        cluster.batch.create_namespaced_job("ml", a_job(suspend=True))
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "1"}
        lines = [json.loads(line) for line in ask(cluster, "GET", JOBS, query)[2].splitlines()]
        bookmarks = [line["object"] for line in lines if line["type"] == "BOOKMARK"]
        assert bookmarks[-1]["metadata"]["resourceVersion"] == str(cluster.store.version)
        assert bookmarks[-1]["kind"] == "Job"

    def test_one_can_be_cut(self, cluster):
        ended = threading.Event()

        def watch():
            with pytest.raises(urllib3.exceptions.ProtocolError):
                ask(cluster, "GET", JOBS, {"watch": "true"})
            ended.set()

        thread = threading.Thread(target=watch)
        thread.start()
        wait_for(lambda: cluster.server.cut_watches(), "no watch", 10, bool)
        thread.join()
        assert ended.is_set()


class TestFailures:
    def test_as_many_requests_fail_as_asked_for_and_only_those(self, cluster):
        cluster.server.fail_next(503, 2, verb="list", resource="jobs")
        assert ask(cluster, "GET", PODS)[0] == 200
        assert [ask(cluster, "GET", JOBS)[0] for _ in range(3)] == [503, 503, 200]

    def test_one_that_asks_too_often_is_told_when_to_come_back(self, cluster):
        cluster.server.fail_next(429, verb="get")
        status, headers, body = ask(cluster, "GET", f"{JOBS}/train")
        assert (status, headers["Retry-After"], body["reason"]) == (429, "1", "TooManyRequests")

    def test_a_connection_can_be_dropped(self, cluster):
        cluster.server.fail_next(0)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            ask(cluster, "GET", JOBS)

    def test_requests_are_counted(self, cluster):
        for _ in range(3):
            ask(cluster, "GET", JOBS)
        ask(cluster, "GET", JOBS, {"watch": "true", "timeoutSeconds": "1"})
        assert (cluster.server.requests["list", "jobs"], cluster.server.requests["watch", "jobs"]) == (3, 1)


class TestPermissions:
    def test_a_role_lets_do_what_its_rules_say(self, cluster):
        rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"]}]
        token = cluster.add_user("system:serviceaccount:ml:submitter", rules)
        assert ask(cluster, "GET", JOBS, token=token)[0] == 200
        status, _, body = ask(cluster, "POST", JOBS, body=a_job(), token=token)
        assert (status, body["reason"]) == (403, "Forbidden")
        assert body["message"] == (
            'jobs.batch is forbidden: User "system:serviceaccount:ml:submitter" cannot create resource "jobs" in API'
            ' group "batch" in the namespace "ml"'
        )
        assert ask(cluster, "GET", "/apis/batch/v1/namespaces/default/jobs", token=token)[0] == 403

    def test_logs_are_a_resource_of_their_own(self, cluster):
        token = cluster.add_user("me", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}])
        status, _, body = ask(cluster, "GET", f"{PODS}/p/log", token=token)
        assert status == 403
        assert 'cannot get resource "pods/log"' in body["message"]

    def test_a_token_that_is_not_known_is_refused(self, cluster):
        status, _, body = ask(cluster, "GET", JOBS, token="wrong")
        assert (status, body["message"]) == (401, "Unauthorized")

    def test_one_may_ask_what_one_may(self, cluster):
        rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}]
        client = cluster.client(cluster.add_user("me", rules))
        reviews = kubernetes.client.AuthorizationV1Api(client)
        answers = []
        for verb in ("create", "delete"):
            attributes = {"namespace": "ml", "verb": verb, "group": "batch", "resource": "jobs"}
            review = reviews.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}})
            answers.append(review.status.allowed)
        assert answers == [True, False]


class TestWaysIn:
    def test_a_kubeconfig_leads_to_a_server_that_speaks_tls(self, tmp_path):
        from kubernetes_cluster import Cluster

        with Cluster(directory=tmp_path) as cluster:
            token = cluster.add_user("me")
            path = cluster.write_kubeconfig(tmp_path / "config", token)
            with kubernetes.config.new_client_from_config(path) as client:
                assert kubernetes.client.BatchV1Api(client).list_namespaced_job("ml").items == []
                client.rest_client.pool_manager.clear()

    def test_a_pod_finds_the_server_by_its_service_account(self, tmp_path):
        from kubernetes.config.incluster_config import InClusterConfigLoader
        from kubernetes_cluster import Cluster

        with Cluster(directory=tmp_path) as cluster:
            variables = cluster.write_service_account(tmp_path, cluster.add_user("me"))
            configuration = kubernetes.client.Configuration()
            loader = InClusterConfigLoader(
                token_filename=f"{tmp_path}/token", cert_filename=f"{tmp_path}/ca.crt", environ=variables
            )
            loader.load_and_set(configuration)
            with kubernetes.client.ApiClient(configuration) as client:
                assert kubernetes.client.BatchV1Api(client).list_namespaced_job("ml").items == []
                client.rest_client.pool_manager.clear()

    def test_nothing_is_left_of_a_cluster_that_was_stopped(self):
        from kubernetes_cluster import Cluster

        before = threading.active_count()
        with Cluster(pace=0.05) as cluster:
            cluster.runtime.script(Script(exit_code=None))
            cluster.batch.create_namespaced_job("ml", a_job())
            cluster.wait_for_pod("train")
        assert threading.active_count() == before
