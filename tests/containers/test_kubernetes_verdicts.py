"""Is it over, and how: the verdict on a Job at every moment of a real cluster's life, and on what was not recorded."""

import copy
import json
from datetime import datetime

import pytest
from kubernetes_recordings import SCENARIOS, recording

from mlproj_core.backends.backend import State
from mlproj_core.backends.kubernetes.trouble import IMAGE_PATIENCE, NODE_PATIENCE, OBJECT_PATIENCE, REGISTRY_PATIENCE
from mlproj_core.backends.kubernetes.verdict import judge, needs_events
from mlproj_core.status import Outcome, Reason, ReasonCode, RunStatus


class Replay:
    """The objects of a recording at each of its moments, with what mlproj writes on a Job.

    Args:
        name: of the recording.
        annotations: further ones of the Job.
        until: seconds since the recording's beginning after which nothing happens any more.
    """

    def __init__(self, name, annotations=None, until=float("inf")):
        self.annotations = {"mlproj/started": "1", **(annotations or {})}
        self.events = sorted(
            (
                (event["t"], kind, event["event"])
                for kind, events in recording(name)["watch"].items()
                for event in events
                if event["t"] <= until
            ),
            key=lambda item: item[0],
        )
        t, _, first = next(event for event in self.events if event[1] == "jobs")
        self.start = _seconds(first["object"]["metadata"]["creationTimestamp"]) - t
        self.annotations["mlproj/claim"] = json.dumps({"created_at": self.start})
        self.job, self.pods, self.warnings, self.now = None, {}, {}, self.start

    def moments(self):
        """The verdict after each event."""
        for t, kind, event in self.events:
            item, self.now = copy.deepcopy(event["object"]), self.start + t
            uid = item["metadata"]["uid"]
            if kind == "jobs":
                item["metadata"]["annotations"] = self.annotations
                self.job = None if event["type"] == "DELETED" else item
            elif kind == "pods":
                self.pods.pop(uid, None)
                if event["type"] != "DELETED":
                    self.pods[uid] = item
            else:
                self.warnings[uid] = item
            if self.job is not None or kind == "jobs":
                yield t, self.verdict()

    def verdict(self, later=0.0):
        now, pods = self.now + later, list(self.pods.values())
        events = list(self.warnings.values()) if self.job and needs_events(self.job, pods, now) else []
        return judge(self.job, pods, events, now)

    def play(self):
        """All verdicts, as they change: state, phase, and the reason's code."""
        course = []
        for _, verdict in self.moments():
            entry = (verdict.state.name, str(verdict.phase), _code(verdict.outcome))
            if not course or course[-1] != entry:
                course.append(entry)
        return course


def _code(outcome):
    return outcome and (str(outcome.reason.code) if outcome.reason else str(outcome.status))


def _seconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def ended(name, annotations=None):
    """The outcome as it is first known."""
    return next(v.outcome for _, v in Replay(name, annotations).moments() if v.state is State.ENDED)


ON_ITS_WAY = [("LIVING", "queued", None), ("LIVING", "image", None), ("LIVING", "running", None)]
GONE = ("GONE", "ended", None)


class TestTheCourse:
    """Of every recording, from the Job's creation to its deletion."""

    COURSES = {
        "success": [*ON_ITS_WAY, ("ENDED", "ended", "FINISHED"), GONE],
        "ttl-after-finished": [*ON_ITS_WAY, ("ENDED", "ended", "FINISHED"), GONE],
        "failure-exit-3": [*ON_ITS_WAY, ("ENDED", "ended", "project_code"), GONE],
        "failure-with-one-retry": [*ON_ITS_WAY, *ON_ITS_WAY, ("ENDED", "ended", "project_code"), GONE],
        "command-not-found": [*ON_ITS_WAY, ("ENDED", "ended", "project_code"), GONE],
        "oom-killed": [*ON_ITS_WAY, ("ENDED", "ended", "oom"), GONE],
        "deadline-exceeded": [*ON_ITS_WAY, ("ENDED", "ended", "timeout"), GONE],
        "pod-deleted-underneath": [*ON_ITS_WAY, ("ENDED", "ended", "lost"), GONE],
        "image-pull-error": [*ON_ITS_WAY[:2], GONE],
        "missing-secret": [*ON_ITS_WAY[:2], GONE],
        "invalid-image-name": [*ON_ITS_WAY[:2], ("LOST", "image", "image"), GONE],
        "unschedulable": [ON_ITS_WAY[0], GONE],
        "cancel-foreground": [*ON_ITS_WAY, ON_ITS_WAY[0], GONE],
        "cancel-background-stubborn": [*ON_ITS_WAY, GONE],
        "delete-without-propagation": [*ON_ITS_WAY, GONE],
    }

    def test_every_recording_has_one(self):
        assert sorted(self.COURSES) == SCENARIOS

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_is_this(self, name):
        assert Replay(name).play() == self.COURSES[name]

    @pytest.mark.parametrize("name", ["success", "failure-exit-3", "oom-killed", "ttl-after-finished"])
    def test_is_never_taken_back(self, name):
        states = [verdict.state for _, verdict in Replay(name).moments()]
        assert State.LIVING not in states[states.index(State.ENDED) :]

    def test_is_known_before_the_last_condition(self):
        """SuccessCriteriaMet and FailureTarget come first, and `active` is absent for a moment before them."""
        for name, last in (("success", "Complete"), ("failure-exit-3", "Failed")):
            replay = Replay(name)
            first = next(verdict for _, verdict in replay.moments() if verdict.state is State.ENDED)
            assert first.outcome is not None
            assert last not in [one["type"] for one in replay.job["status"]["conditions"]]

    def test_of_a_deadline_waits_for_the_pod(self):
        replay = Replay("deadline-exceeded")
        for _, verdict in replay.moments():
            if verdict.state is State.ENDED:
                break
            terminating = any(pod["status"]["phase"] == "Running" for pod in replay.pods.values())
        assert terminating
        assert all(pod["status"]["phase"] == "Failed" for pod in replay.pods.values())


class TestTheReason:
    def test_has_the_exit_code(self):
        reason = ended("failure-exit-3").reason
        assert (reason.exit_code, reason.signal, reason.retryable) == (3, None, False)
        assert reason.message == "the project's process exited with status 3"

    def test_has_the_memory_limit_that_was_exceeded(self):
        reason = ended("oom-killed").reason
        assert "memory limit of 24Mi" in reason.message
        assert (reason.exit_code, reason.signal) == (137, 9)

    def test_has_the_words_of_a_runtime_that_could_not_start_the_command(self):
        reason = ended("command-not-found").reason
        assert 'exec: "/no/such/program"' in reason.message

    def test_has_the_deadline(self):
        replay = Replay("deadline-exceeded")
        outcome = next(verdict.outcome for _, verdict in replay.moments() if verdict.state is State.ENDED)
        assert f"timeout of {replay.job['spec']['activeDeadlineSeconds']} seconds" in outcome.reason.message

    def test_is_retryable_where_the_pod_was_taken_away(self):
        assert ended("pod-deleted-underneath").reason.retryable

    def test_of_a_cancelled_run_is_that(self):
        outcome = ended("deadline-exceeded", {"mlproj/cancel": "{}"})
        assert (outcome.status, outcome.reason.code) == (RunStatus.KILLED, ReasonCode.CANCELLED)

    def test_of_a_run_that_finished_before_its_cancellation_took_hold_is_none(self):
        assert ended("success", {"mlproj/cancel": "{}"}).status is RunStatus.FINISHED

    def test_phases_are_what_the_objects_tell(self):
        assert ended("success").phases == {"queued": 0, "image": 1, "running": 1}


class TestWhatKeepsAPodFromStarting:
    """Each until a moment of its recording, and then for as long as it is believed in."""

    @pytest.mark.parametrize(
        ("name", "until", "patience", "code", "words"),
        [
            ("image-pull-error", 5, REGISTRY_PATIENCE, "image", "no such host"),
            ("image-pull-error", 20, REGISTRY_PATIENCE, "image", "no such host"),
            ("missing-secret", 5, OBJECT_PATIENCE, "user_input", 'secret "nosuch" not found'),
            ("unschedulable", 5, NODE_PATIENCE, "capacity", "didn't match Pod's node affinity/selector"),
        ],
    )
    def test_ends_the_run_when_patience_is_over(self, name, until, patience, code, words):
        replay = Replay(name, until=until)
        replay.play()
        verdict = replay.verdict(later=patience - until - 2)
        assert verdict.state is State.LIVING
        assert 0 < verdict.again <= until + 4
        verdict = replay.verdict(later=patience + 1)
        assert verdict.state is State.LOST
        assert verdict.outcome.reason.code == code
        assert words in verdict.outcome.reason.message

    def test_ends_it_at_once_where_waiting_cannot_help(self):
        replay = Replay("invalid-image-name", until=5)
        replay.play()
        verdict = replay.verdict()
        assert verdict.state is State.LOST
        assert "must be lowercase" in verdict.outcome.reason.message
        assert not verdict.outcome.reason.retryable

    def test_an_image_that_the_registry_does_not_have_is_given_up_sooner(self):
        replay = Replay("image-pull-error", until=5)
        replay.play()
        waiting = next(iter(replay.pods.values()))["status"]["containerStatuses"][0]["state"]["waiting"]
        waiting["message"] = "rpc error: code = NotFound: manifest unknown"
        assert replay.verdict(later=IMAGE_PATIENCE - 8).state is State.LIVING
        verdict = replay.verdict(later=IMAGE_PATIENCE + 1)
        assert verdict.state is State.LOST
        assert not verdict.outcome.reason.retryable

    def test_a_node_without_room_is_waited_for(self):
        replay = Replay("unschedulable", until=5)
        replay.play()
        condition = next(iter(replay.pods.values()))["status"]["conditions"][0]
        condition["message"] = "0/3 nodes are available: 3 Insufficient cpu."
        assert replay.verdict(later=10 * NODE_PATIENCE).state is State.LIVING

    @pytest.mark.parametrize(
        ("said", "state", "code"),
        [
            ("exceeded quota: q, requested: cpu=2, used: cpu=7, limited: cpu=8", "LIVING", None),
            (
                "exceeded quota: q, requested: cpu=9,pods=1, used: cpu=0,pods=0, limited: cpu=8,pods=5",
                "LOST",
                "capacity",
            ),
            ("exceeded quota: q, requested: memory=9Gi, used: memory=0, limited: memory=8192Mi", "LOST", "capacity"),
            ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot', "LOST", "user_input"),
            ('admission webhook "policy" denied the request: no', "LOST", "user_input"),
        ],
    )
    def test_a_pod_that_cannot_be_made(self, said, state, code):
        replay = Replay("unschedulable", until=0.32)
        replay.play()
        replay.pods.clear()
        replay.job["status"] = {"startTime": replay.job["metadata"]["creationTimestamp"]}
        event = {"reason": "FailedCreate", "type": "Warning", "message": f"Error creating: {said}"}
        replay.warnings = {"x": {**event, "firstTimestamp": replay.job["metadata"]["creationTimestamp"]}}
        assert replay.verdict(later=1).again is not None, "events are asked in a while"
        verdict = replay.verdict(later=60)
        assert (verdict.state.name, _code(verdict.outcome)) == (state, code)

    def test_a_volume_of_a_secret_that_is_not_there(self):
        replay = Replay("success", until=0.4)
        replay.play()
        said = 'MountVolume.SetUp failed for volume "files" : secret "nosuch" not found'
        event = {"reason": "FailedMount", "type": "Warning", "message": said}
        replay.warnings = {"x": {**event, "firstTimestamp": replay.job["metadata"]["creationTimestamp"]}}
        assert replay.verdict(later=10).state is State.LIVING
        verdict = replay.verdict(later=OBJECT_PATIENCE + 5)
        assert (verdict.state.name, _code(verdict.outcome)) == ("LOST", "user_input")

    def test_does_not_end_what_is_being_cancelled_anyway(self):
        replay = Replay("invalid-image-name", {"mlproj/cancel": "{}"}, until=5)
        replay.play()
        assert replay.verdict().state is State.LIVING


def failed(**status):
    """A replay that stands at the end of a failure, of whose pod something else is said."""
    replay = Replay("failure-exit-3", until=5)
    replay.play()
    pod = next(iter(replay.pods.values()))
    pod["status"] |= status
    return replay, pod


class TestWhatEndsAPod:
    """What no recording has."""

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            ({"reason": "Evicted", "message": "The node was low on resource: memory."}, "capacity", "low on resource"),
            ({"reason": "OutOfcpu", "message": "Node didn't have enough resource"}, "capacity", "OutOfcpu"),
            ({"reason": "NodeLost", "message": "Node node-1 which was running"}, "lost", "node-1"),
            ({"reason": "Terminated", "message": "Pod was terminated due to node shutdown"}, "lost", "node shutdown"),
        ],
    )
    def test_is_the_node(self, status, code, words):
        replay, _ = failed(**status)
        reason = replay.verdict().outcome.reason
        assert (reason.code, reason.retryable) == (code, True)
        assert words in reason.message

    @pytest.mark.parametrize(
        ("why", "code"),
        [("PreemptionByScheduler", "capacity"), ("DeletionByTaintManager", "lost"), ("EvictionByEvictionAPI", "lost")],
    )
    def test_is_a_disruption(self, why, code):
        replay, pod = failed()
        pod["status"]["conditions"].append(
            {"type": "DisruptionTarget", "status": "True", "reason": why, "message": "had to go"}
        )
        reason = replay.verdict().outcome.reason
        assert (reason.code, reason.retryable) == (code, True)
        assert "had to go" in reason.message

    def test_is_a_signal(self):
        replay, pod = failed()
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] = 143
        reason = replay.verdict().outcome.reason
        assert (reason.code, reason.exit_code, reason.signal) == ("project_code", 143, 15)
        assert "SIGTERM" in reason.message

    def test_is_the_launcher_itself(self):
        replay, pod = failed()
        error = {"code": "environment", "message": "no matching distribution", "retryable": False}
        terminated = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        terminated |= {"exitCode": 70, "message": json.dumps({"mlproj": {"error": error}})}
        reason = replay.verdict().outcome.reason
        assert (reason.code, reason.message) == ("environment", "no matching distribution")

    def test_is_the_container_that_brings_the_code(self):
        replay, pod = failed()
        pod["spec"]["initContainers"] = [{"name": "mlproj-code", "image": "git"}]
        pod["status"]["initContainerStatuses"] = [
            {"name": "mlproj-code", "state": {"terminated": {"exitCode": 128, "reason": "Error", "message": "no repo"}}}
        ]
        pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "PodInitializing"}}
        reason = replay.verdict().outcome.reason
        assert reason.code == "source"
        assert "no repo" in reason.message

    def test_is_unknown(self):
        replay, pod = failed(reason="UnheardOf", message="who knows")
        pod["status"]["containerStatuses"] = []
        reason = replay.verdict().outcome.reason
        assert reason.code == "lost"
        assert "who knows" in reason.message


class TestWhatMlprojWroteOnAJob:
    def test_a_claim_that_is_young_is_left_to_whoever_made_it(self):
        replay = Replay("success", until=0.32)
        replay.play()
        del replay.annotations["mlproj/started"]
        assert replay.verdict().state is State.STARTING
        assert replay.verdict(later=10).state is State.UNSTARTED

    def test_a_job_that_was_started_and_is_suspended_is_queued(self):
        replay = Replay("success", until=0.32)
        replay.play()
        replay.job["spec"]["suspend"] = True
        verdict = replay.verdict(later=1e6)
        assert (verdict.state, verdict.phase) == (State.LIVING, "queued")

    def test_an_outcome_that_is_written_down_holds(self):
        outcome = Outcome(RunStatus.FAILED, Reason(ReasonCode.IMAGE, "no such image"))
        replay = Replay("success", {"mlproj/outcome": json.dumps(outcome.to_dict())})
        outcomes = [verdict.outcome for _, verdict in replay.moments() if verdict.state is State.ENDED]
        assert outcomes == len(outcomes) * [outcome]
        assert outcomes

    def test_it_is_not_over_while_a_pod_lives(self):
        outcome = Outcome(RunStatus.FAILED, Reason(ReasonCode.IMAGE, "no such image"))
        replay = Replay("image-pull-error", {"mlproj/outcome": json.dumps(outcome.to_dict())}, until=5)
        replay.play()
        assert replay.verdict().state is State.LOST
        replay.pods.clear()
        assert replay.verdict().state is State.ENDED

    def test_on_a_cluster_of_before_the_pod_of_a_failed_job_is_waited_for(self):
        """Before 1.31 a Job is Failed while its pods still end."""
        replay = Replay("deadline-exceeded", until=4)
        replay.play()
        condition = replay.job["status"]["conditions"][0]
        condition["type"] = "Failed"
        assert replay.verdict().state is State.LIVING
        later = replay.verdict(later=300)
        assert later.state is State.ENDED, "a node that does not answer is not waited for"
