"""The tests' own Kubernetes cluster says and refuses what a real one does."""

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from docker_world import shell_rootfs
from kubernetes_cluster import Cluster
from kubernetes_docker import DockerRuntime
from kubernetes_recordings import (
    SCENARIOS,
    Player,
    ask,
    comparable,
    difference,
    job_state,
    pod_state,
    recording,
    states,
    what_is_said,
)


@pytest.fixture(scope="module")
def played(shared_engine, tmp_path_factory):
    """Every scenario of the recordings, played at once to one cluster at the pace of a real one."""
    shared_engine.add_image("busybox:1.35", shell_rootfs(), ["ENV PATH=/bin"])
    runtime = DockerRuntime(shared_engine, tmp_path_factory.mktemp("node"))
    with Cluster(runtime, pace=1) as cluster, ThreadPoolExecutor(len(SCENARIOS)) as pool:
        players = {name: Player(cluster, name) for name in SCENARIOS}
        ends = {name: pool.submit(player.play) for name, player in players.items()}
        yield lambda name: ends[name].result() or players[name]
    shared_engine.remove_containers()


@pytest.mark.parametrize("name", SCENARIOS)
class TestRecording:
    """A scenario of a real cluster, and the same here."""

    def test_jobs_go_through_the_same_states(self, played, name):
        self._compare(played(name), "jobs", job_state)

    def test_pods_go_through_the_same_states(self, played, name):
        self._compare(played(name), "pods", pod_state)

    def _compare(self, player, kind, state_of):
        recorded = [event["event"] for event in player.recorded["watch"][kind]]
        here = getattr(player, kind)
        theirs, ours = states(recorded, state_of), states(here, state_of)
        same = [[s for s, _ in line] for line in theirs] == [[s for s, _ in line] for line in ours]
        assert same, difference(recorded, here, state_of)
        for their_line, our_line in zip(theirs, ours, strict=True):
            for (state, their), (_, our) in zip(their_line, our_line, strict=True):
                assert comparable(our) == comparable(their), state

    def test_the_same_events_are_said(self, played, name):
        player = played(name)
        recorded = what_is_said([event["event"] for event in player.recorded["watch"]["events"]])
        assert what_is_said(player.events) == recorded

    def test_requests_are_answered_alike(self, played, name):
        for exchange, status, headers, body in played(name).answers:
            recorded = exchange["response"]
            assert status == recorded["status"], body
            assert headers.get("Warning") == recorded["headers"].get("Warning")
            assert headers["Content-Type"] == recorded["headers"]["Content-Type"]
            if isinstance(recorded["body"], dict):
                ours = json.loads(body)
                for our, their in zip(
                    [ours, *ours.get("items", ())], [recorded["body"], *recorded["body"].get("items", ())], strict=True
                ):
                    our, their = ({k: v for k, v in one.items() if k != "items"} for one in (our, their))
                    assert comparable(our) == comparable(their)
            elif name != "oom-killed":  # which of its processes is killed, and who says so, is the shell's affair
                assert said(body.decode()) == said(recorded["body"])


def said(log):
    """The lines of a log without their times; those of the two streams may come in any order."""
    return sorted(line.partition(" ")[2] for line in log.splitlines())


class TestRefusals:
    def test_they_are_those_of_a_real_cluster(self, cluster):
        cluster.node.paused = True
        for exchange in recording("refusals")["exchanges"]:
            request, recorded = exchange["request"], exchange["response"]
            if "lines" in recorded:
                continue  # a watch of what the scenarios before have left
            body = request.get("body")
            if body and "binaryData" in body:
                body["binaryData"]["p"] = base64.b64encode(bytes(1_100_000)).decode()
            kind = "application/merge-patch+json" if request["method"] == "PATCH" else "application/json"
            ask_it = (request["method"], request["path"], request["query"], body)
            status, headers, ours = ask(cluster, *ask_it, content_type=kind)
            assert status == recorded["status"], ours
            assert headers.get("Warning") == recorded["headers"].get("Warning")
            assert strip(ours) == strip(recorded["body"])


def strip(body):
    """Without what is of one cluster only, and without the Go structure that an immutable field is shown as."""
    text = json.dumps(comparable(body))
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uid>", text)
    text = re.sub(r"spec\.template: Invalid value: .*?: field is immutable", "spec.template: field is immutable", text)
    text = re.sub(r'"Invalid value: \{.*?: field is immutable', '"field is immutable', text)
    text = re.sub(r"(continue key is not valid): [^\"]*", r"\1", text)
    return json.loads(text)
