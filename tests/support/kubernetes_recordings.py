"""Recordings of a real cluster, played to the tests' own, and both compared: what is compared is the sequence of
significant states of each object, and every field of the object in each of them."""

import contextlib
import gzip
import json
import re
import threading
import time
import urllib.parse
from pathlib import Path

import urllib3
from waiting import wait_for

DATA = Path(__file__).parent.parent / "data/kubernetes"
SCENARIOS = sorted(path.name.removesuffix(".json.gz") for path in DATA.glob("*.gz") if "refusals" not in path.name)

VARIES = re.compile(
    r"(Time|At|Timestamp|uid|controller-uid|resourceVersion|containerID|imageID|ip|IP|reportingInstance|count|host)$"
)
"""Fields whose values are of one cluster; only whether they are there, and that they are no null, is compared."""


DEADLINE = 12
"""Seconds that a Job with a deadline has here: a busy machine needs longer to start what is to be too slow."""


def recording(name):
    """With the deadline that holds here, wherever it stands."""
    text = gzip.decompress((DATA / f"{name}.json.gz").read_bytes())
    return json.loads(re.sub(rb'"activeDeadlineSeconds":\d+', b'"activeDeadlineSeconds":%d' % DEADLINE, text))


def ask(cluster, method, path, query=None, body=None, token=None, content_type="application/json"):
    """A raw request: the status, the headers and the body of the answer."""
    headers = {"Content-Type": content_type, **({"Authorization": f"Bearer {token}"} if token else {})}
    with urllib3.PoolManager(retries=False, cert_reqs="CERT_NONE") as pool:
        answer = pool.request(
            method, f"{cluster.url}{path}?{urllib.parse.urlencode(query or {})}", headers=headers,
            body=None if body is None else json.dumps(body),
        )  # fmt: skip
        text = answer.data.decode()
    whole = text.startswith("{") and (query or {}).get("watch") is None
    return answer.status, answer.headers, json.loads(text) if whole else text


# -- what is significant


def job_state(kind, job):
    """Of a Job, but for what depends on when the controller looked: `ready` and `terminating`."""
    status, metadata = job.get("status", {}), job["metadata"]
    conditions = [f"{c['type']}={c['status']}" for c in status.get("conditions", ())]
    uncounted = {key: len(uids) for key, uids in status.get("uncountedTerminatedPods", {}).items()}
    counts = {key: status[key] for key in ("active", "succeeded", "failed") if key in status}
    deleted = [metadata.get("finalizers"), metadata["generation"]] if "deletionTimestamp" in metadata else None
    return [kind, conditions, uncounted, counts, deleted]


def pod_state(kind, pod):
    """Of a pod, but for its finalizer, which goes when the controller comes to it."""
    status, metadata = pod["status"], pod["metadata"]
    states = [
        [c["name"], *((key, state.get("reason")) for key, state in c["state"].items())]
        for c in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    ]
    conditions = [
        f"{c['type']}={c['status']} {c.get('reason')}" for c in status.get("conditions", ())
        if status["phase"] != "Pending" or c["type"] != "PodReadyToStartContainers"  # may stand before it is told of
    ]  # fmt: skip
    deleted = metadata.get("deletionGracePeriodSeconds") if "deletionTimestamp" in metadata else None
    return [kind, status["phase"], states, conditions, pod["spec"].get("nodeName"), deleted]


def states(events, state_of):
    """The last event of each significant state, by the object's name in the order of their coming."""
    found = {}
    for event in events:
        item = event["object"]
        line = found.setdefault(item["metadata"]["name"], [])
        state = state_of(event["type"], item)
        if line and line[-1][0] == state:
            line[-1] = (state, item)
        else:
            line.append((state, item))
    return list(found.values())


# -- every field


def fields(item, path=""):
    """Path to value of every field; elements of lists go by their name or type."""
    if isinstance(item, dict) and item:
        found = {}
        for key, value in item.items():
            found |= fields(value, f"{path}.{key}")
        return found
    if isinstance(item, list) and item:
        found = {}
        for i, value in enumerate(item):
            key = value.get("name") or value.get("type") or i if isinstance(value, dict) else i
            found |= fields(value, f"{path}[{key}]")
        return found
    return {path: item}


def comparable(item):
    """The fields of an object without what is of one cluster only."""
    metadata, leaving = item.get("metadata", {}), "deletionTimestamp" in item.get("metadata", {})
    random = None
    if "generateName" in metadata:
        random = re.compile(re.escape(metadata["generateName"]) + r"[a-z0-9]{5}")
    result = {}
    for path, value in fields(item).items():
        if "job-tracking" in str(value) or (leaving and "observedGeneration" in path):
            continue
        if path in (".status.ready", ".status.terminating") or path.startswith(".status.resources"):
            continue
        if "uncountedTerminatedPods" in path and value != {}:
            value = "<uid>"
        elif VARIES.search(path):
            value = None if value is None else "<varies>"
        elif isinstance(value, str):
            if random:
                value = random.sub("<pod>", value)
            value = re.sub(r"kube-api-access-\w{5}", "<token>", value)
            value = re.sub(r"(failed to resolve reference \S+: ).*", r"\1…", value, flags=re.S)
        result[re.sub(r"kube-api-access-\w{5}", "<token>", path)] = value
    return result


def what_is_said(events):
    """The events about each kind of object as (component, type, reason, message), each once, and their fields."""
    found = {}
    for event in events:
        item = event["object"]
        if item["reason"] == "MissingClusterDNS":
            continue
        message = re.sub(r"(pod: \S+-)[a-z0-9]{5}", r"\1<random>", item["message"])
        message = re.sub(r"(assigned ml/\S+-)[a-z0-9]{5}", r"\1<random>", message)
        message = re.sub(r"(failed to resolve reference \S+: ).*", r"\1…", message, flags=re.S)
        about = item["involvedObject"]
        key = (about["kind"], about.get("fieldPath"), item["type"], item["reason"], message)
        found.setdefault(key, {path for path in fields(item) if "count" not in path})
    return found


# -- playing


class Watch:
    """Every event of one resource, by a raw watch."""

    def __init__(self, url, path, query):
        self.events = []
        self._pool = urllib3.PoolManager(retries=False)
        self._answer = self._pool.request(
            "GET", url + path, fields={"watch": "true", **query}, preload_content=False, timeout=60
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        rest = b""
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError):
            while chunk := self._answer.read1():
                *lines, rest = (rest + chunk).split(b"\n")
                self.events += [json.loads(line) for line in lines]

    def close(self):
        self._answer.shutdown()
        self._thread.join()
        self._answer.close()
        self._pool.clear()


class Player:
    """Sends what was sent in a recording, when its objects have come to where they had come then.

    Args:
        cluster: the tests' cluster.
        name: of the scenario.
    """

    def __init__(self, cluster, name):
        self.recorded = recording(name)
        self._cluster, self._names = cluster, {}
        self.answers = []
        """(exchange, status, headers, body as the cluster gave it) of every request but watches."""
        self.jobs = self.pods = self.events = ()

    def play(self):
        selector = self.recorded["exchanges"][0]["request"]["query"]["labelSelector"]
        version = str(self._cluster.store.version)
        with contextlib.ExitStack() as stack:
            watches = {}
            for kind, path in (
                ("jobs", "/apis/batch/v1/namespaces/ml/jobs"),
                ("pods", "/api/v1/namespaces/ml/pods"),
                ("events", "/api/v1/namespaces/ml/events"),
            ):
                query = {"resourceVersion": version, **({} if kind == "events" else {"labelSelector": selector})}
                watches[kind] = Watch(self._cluster.url, path, query)
                stack.callback(watches[kind].close)
            for exchange in self.recorded["exchanges"]:
                self._await(exchange["t"] - 0.02, watches)
                if exchange["request"]["method"] == "DELETE":
                    time.sleep(0.5)  # a shell that traps signals has set its trap by then
                self._send(exchange, watches)
            self._await(float("inf"), watches)
            job = selector.partition("=")[2]
            expected = what_is_said([event["event"] for event in self.recorded["watch"]["events"]])
            wait_for(
                lambda: len(what_is_said(_about(job, watches["events"].events))) >= len(expected),
                lambda: f"{sorted(expected)} are to be said of {job}",
                30,
                bool,
            )
            time.sleep(0.2)  # what comes too much is to be seen as well
        self.jobs, self.pods = watches["jobs"].events, watches["pods"].events
        self.events = _about(job, watches["events"].events)

    def _await(self, moment, watches):
        """Wait until each stream has as many significant states as the recording had at that moment."""
        for kind, state_of in (("jobs", job_state), ("pods", pod_state)):
            then = [event["event"] for event in self.recorded["watch"][kind] if event["t"] < moment]
            count = sum(map(len, states(then, state_of)))
            wait_for(
                lambda kind=kind, state_of=state_of, count=count: (
                    sum(map(len, states(watches[kind].events, state_of))) >= count
                ),
                lambda then=then, kind=kind, state_of=state_of: difference(then, watches[kind].events, state_of),
                60,
                bool,
            )

    def _send(self, exchange, watches):
        request = exchange["request"]
        path, theirs = request["path"], states([e["event"] for e in self.recorded["watch"]["pods"]], pod_state)
        ours = states(watches["pods"].events, pod_state)
        for their, our in zip(theirs, ours, strict=False):
            path = path.replace(their[0][1]["metadata"]["name"], our[0][1]["metadata"]["name"])
        pool = urllib3.PoolManager(retries=False)
        query = "&".join(f"{key}={value}" for key, value in request["query"].items())
        answer = pool.request(
            request["method"], f"{self._cluster.url}{path}?{query}",
            body=None if request.get("body") is None else json.dumps(request["body"]),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        self.answers.append((exchange, answer.status, answer.headers, answer.data))
        pool.clear()


def _about(job, events):
    """The events about a Job and its pods."""
    names = re.compile(rf"{job}(-[a-z0-9]{{5}})?")
    return [event for event in events if names.fullmatch(event["object"]["involvedObject"]["name"])]


def difference(theirs, ours, state_of):
    """Both sequences of significant states, for whoever looks why they differ."""
    lines = []
    for title, events in (("recorded", theirs), ("here", ours)):
        for line in states(events, state_of):
            lines += [title, *(f"  {json.dumps(state)}" for state, _ in line)]
    return "\n".join(lines)
