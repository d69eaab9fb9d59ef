"""What containers wrote, as a kubelet keeps it and gives it out."""

import threading
import time
from datetime import datetime, timezone

import kubernetes_refusals as refusals


def stamp(nanoseconds):
    """RFC 3339 with nanoseconds."""
    moment = datetime.fromtimestamp(nanoseconds // 10**9, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"


def nanoseconds(text):
    """Of RFC 3339, with or without a fraction."""
    whole, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    moment = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 10**9 + int(f"{fraction:0<9}"[:9])


class Log:
    """The output of one container."""

    def __init__(self):
        self._changed = threading.Condition()
        self._pieces = []
        """(nanoseconds, bytes, whether a line begins here)."""
        self._dropped = 0
        self.ended = False
        self.lost = None
        """What a kubelet says in place of a log that it does not find any more."""

    def write(self, content, at=None):
        """Keep some output, which need not end with a line."""
        with self._changed:
            for piece in content.splitlines(keepends=True):
                begins = not self._pieces or self._pieces[-1][1].endswith(b"\n")
                self._pieces.append((at or time.time_ns(), piece, begins))
            self._changed.notify_all()

    def end(self):
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def rotate(self, keep=0):
        """Forget all but the last lines, as a kubelet that rotates its files does."""
        with self._changed:
            drop = max(0, len(self._pieces) - keep)
            del self._pieces[:drop]
            self._dropped += drop

    def content(self):
        with self._changed:
            return b"".join(piece for _, piece, _ in self._pieces)

    def read(self, query):
        """The bytes that a query asks for; with `follow` until the container has ended. b"" comes once a second."""
        if self.lost:
            yield self.lost.encode()
            return
        follow = query.get("follow", "").lower() in ("true", "1")
        timestamps = query.get("timestamps", "").lower() in ("true", "1")
        limit = int(query["limitBytes"]) if query.get("limitBytes") else None
        # The API server hands the time on to the kubelet without its fraction.
        since = nanoseconds(query["sinceTime"]) // 10**9 * 10**9 if query.get("sinceTime") else 0
        if query.get("sinceSeconds"):
            since = time.time_ns() - int(query["sinceSeconds"]) * 10**9
        with self._changed:
            index = self._dropped
            if query.get("tailLines"):
                index = self._tail(int(query["tailLines"]))
        while True:
            with self._changed:
                pieces = self._pieces[max(0, index - self._dropped) :]
                index, ended = self._dropped + len(self._pieces), self.ended
            for at, piece, begins in pieces:
                if at < since:
                    continue
                content = stamp(at).encode() + b" " + piece if timestamps and begins else piece
                if limit is not None:
                    content = content[:limit]
                    limit -= len(content)
                yield content
                if limit == 0:
                    return
            if ended or not follow:
                return
            with self._changed:
                if index == self._dropped + len(self._pieces) and not self.ended:
                    self._changed.wait(1)
            yield b""

    def _tail(self, lines):
        starts = [i for i, (_, _, begins) in enumerate(self._pieces) if begins]
        return self._dropped + (starts[-lines] if 0 < lines <= len(starts) else 0 if lines else len(self._pieces))


class Logs:
    """The logs of a node, by pod and container."""

    def __init__(self):
        self._logs = {}

    def new(self, pod, container):
        """The log of a container that is about to start (again)."""
        log = Log()
        self._logs.setdefault((pod["metadata"]["uid"], container), []).append(log)
        return log

    def of(self, pod, container):
        """The newest log of a container, or None."""
        return next(reversed(self._logs.get((pod["metadata"]["uid"], container), [])), None)

    def drop(self, pod, container):
        """A container was not made after all."""
        self._logs[pod["metadata"]["uid"], container].pop()

    def end_all(self):
        for logs in list(self._logs.values()):
            for log in logs:
                log.end()

    def forget(self, pod):
        for key in [key for key in self._logs if key[0] == pod["metadata"]["uid"]]:
            for log in self._logs.pop(key):
                log.end()

    def read(self, pod, query):
        """As `pods/log` answers.

        Raises:
            Refusal: no such container, one must be named, or it has not started.
        """
        name, spec = pod["metadata"]["name"], pod["spec"]
        names = [c["name"] for c in spec["containers"]]
        inits = [c["name"] for c in spec.get("initContainers", ())]
        container = query.get("container")
        if not container:
            if len(names) + len(inits) > 1:
                if inits:
                    said = f"choose one of: [{' '.join(names)}] or one of the init containers: [{' '.join(inits)}]"
                else:
                    said = f"choose one of: [{' '.join(names)}]"
                raise refusals.bad_request(f"a container name must be specified for pod {name}, {said}")
            container = names[0]
        if container not in names + inits:
            raise refusals.bad_request(f"container {container} is not valid for pod {name}")
        if "nodeName" not in spec:
            return iter(())
        logs = self._logs.get((pod["metadata"]["uid"], container), [])
        if query.get("previous", "").lower() in ("true", "1"):
            if len(logs) < 2:
                raise refusals.bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
            return logs[-2].read(query)
        if not logs:
            raise refusals.bad_request(
                f'container "{container}" in pod "{name}" is waiting to start: {_waits_for(pod, container)}'
            )
        return logs[-1].read(query)


def _waits_for(pod, container):
    status = pod.get("status", {})
    for one in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        if one["name"] == container and (reason := one["state"].get("waiting", {}).get("reason")):
            # https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/kubelet_pods.go
            return "trying and failing to pull image" if reason in ("ErrImagePull", "ImagePullBackOff") else reason
    return "ContainerCreating"
