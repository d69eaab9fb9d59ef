"""Waiting for runs by one watch of Jobs and one of pods for all that a process waits for in a namespace."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.kubernetes.client import Cluster, Expired, Stream, Throttled
from mlproj_core.backends.kubernetes.labels import ATTEMPT
from mlproj_core.backends.kubernetes.objects import MANAGED, Object, is_finished, living_pods
from mlproj_core.backends.kubernetes.sight import pods_of
from mlproj_core.errors import ContactLost, MlprojError
from mlproj_core.handle import RunHandle

if TYPE_CHECKING:
    import asyncio

__all__ = ["Waiter", "loop_waiting", "stop_watching", "wait_in_loop", "waiting"]

LONGEST = 300
"""Seconds until a watch is begun anew. The server ends it then, so that both know."""

LINGER = 5.0
"""Seconds for which a watch goes on when nobody waits any more: whoever waited for a while often does so again."""

OUTAGE = 60.0
"""Seconds that a cluster may be out of reach until those who wait are told."""

_KINDS = ("jobs", "pods")


class Waiter:
    """One who waits for something to happen to an attempt.

    Args:
        wake: called, in the thread of a watch, when something did.
    """

    def __init__(self, watch: Watch, handle: RunHandle, wake: Callable[[], None]) -> None:
        self._watch = watch
        self.handle = handle
        self.wake = wake

    def seen(self) -> tuple[Object | None, list[Object]]:
        """The attempt's Job, None if there is none, and its pods, as they were when something was heard last.

        Raises:
            ContactLost: the cluster is out of reach, or does not let us look.
        """
        return self._watch.seen(self.handle)


@contextmanager
def waiting(cluster: Cluster, handle: RunHandle, wake: Callable[[], None]) -> Iterator[Waiter]:
    """Be woken whenever something happens to an attempt's Job or pods, as long as this lasts."""
    waiter = Waiter(_watch_of(cluster), handle, wake)
    waiter._watch.add(waiter)
    try:
        yield waiter
    finally:
        waiter._watch.remove(waiter)


@contextmanager
def loop_waiting(cluster: Cluster, handle: RunHandle) -> Iterator[tuple[Waiter, asyncio.Event]]:
    """As `waiting`, in the running event loop: the event is set whenever something happens."""
    import asyncio

    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed, and whoever waited with it
            loop.call_soon_threadsafe(woken.set)

    with waiting(cluster, handle, wake) as waiter:
        yield waiter, woken


async def wait_in_loop(woken: asyncio.Event, pause: float | None) -> None:
    """Return when the event is set, which it is not any more then, or after so many seconds."""
    import asyncio

    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(woken.wait(), pause)
    woken.clear()


def stop_watching() -> None:
    """End all watches of this process, and wait for their threads."""
    with _lock:
        watches = list(_watches.values())
        _watches.clear()
    for watch in watches:
        watch.stop()


_watches: dict[tuple[int, str, str], Watch] = {}
_lock = threading.Lock()


def _watch_of(cluster: Cluster) -> Watch:
    # By process: threads do not survive a fork.
    key = (os.getpid(), cluster.server, cluster.namespace)
    with _lock:
        if key not in _watches:
            _watches[key] = Watch(cluster)
        return _watches[key]


class Watch:
    """What is known of the Jobs and pods of a namespace, as long as somebody waits for one of them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._waiters: dict[str, list[Waiter]] = {}
        self._jobs: dict[str, Object] = {}
        self._pods: dict[str, dict[str, Object]] = {}
        self._followers: list[_Follower] = []
        self._idle: threading.Timer | None = None

    def add(self, waiter: Waiter) -> None:
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            self._waiters.setdefault(waiter.handle.tag, []).append(waiter)
            if not self._followers:
                self._followers = [_Follower(self, self._cluster, kind) for kind in _KINDS]

    def remove(self, waiter: Waiter) -> None:
        with self._lock:
            left = self._waiters[waiter.handle.tag]
            left.remove(waiter)
            if not left:
                del self._waiters[waiter.handle.tag]
            if not self._waiters and self._idle is None:
                self._idle = threading.Timer(LINGER, self._stop_if_idle)
                self._idle.daemon = True
                self._idle.start()

    def _stop_if_idle(self) -> None:
        with self._lock:
            if self._waiters:
                return
            followers = self._reset()
        for follower in followers:
            follower.stop()

    def stop(self) -> None:
        """End it, whoever waits."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            followers = self._reset()
        for follower in followers:
            follower.stop()
            follower.join()

    def _reset(self) -> list[_Follower]:
        followers, self._followers, self._idle = self._followers, [], None
        self._jobs, self._pods = {}, {}
        return followers

    def seen(self, handle: RunHandle) -> tuple[Object | None, list[Object]]:
        with self._lock:
            problems = [one.problem for one in self._followers if one.problem is not None]
            ready = all(one.ready for one in self._followers)
            job, pods = self._jobs.get(handle.tag), list(self._pods.get(handle.tag, {}).values())
        if problems:
            raise ContactLost(str(problems[0]))
        if ready and job is not None:
            return job, pods
        # Not listed yet, or over when it was.
        job = self._cluster.get("jobs", handle.name)
        return job, pods_of(self._cluster, handle) if job is not None else []

    # -- what followers tell

    def replace(self, kind: str, items: list[dict[str, Any]]) -> None:
        """All that there is of a kind."""
        for item in items:
            item["metadata"].pop("managedFields", None)  # half of its size, and nobody reads it
        with self._lock:
            if kind == "jobs":
                self._jobs = {tag: item for item in items if (tag := _tag(item)) and not is_finished(item)}
            else:
                self._pods = {}
                for item in items:
                    if _tag(item) in self._jobs or living_pods([item], time.time()):
                        self._pods.setdefault(_tag(item), {})[item["metadata"]["uid"]] = item
        self.wake_all()

    def take(self, kind: str, change: str, item: dict[str, Any]) -> None:
        """One event."""
        tag, uid = _tag(item), item["metadata"]["uid"]
        item["metadata"].pop("managedFields", None)
        with self._lock:
            if kind == "jobs":
                # What is over is asked for anew by those who want to know: they are few, and it stays for days.
                if change == "DELETED" or is_finished(item):
                    self._jobs.pop(tag, None)
                    self._pods.pop(tag, None)
                else:
                    self._jobs[tag] = item
            elif change == "DELETED" or (tag not in self._jobs and not living_pods([item], time.time())):
                self._pods.get(tag, {}).pop(uid, None)
            else:
                self._pods.setdefault(tag, {})[uid] = item
            waiters = list(self._waiters.get(tag, ()))
        for waiter in waiters:
            waiter.wake()

    def wake_all(self) -> None:
        with self._lock:
            waiters = [waiter for those in self._waiters.values() for waiter in those]
        for waiter in waiters:
            waiter.wake()


class _Follower:
    """A thread that lists the objects of a kind and then watches them, whatever happens to the connection."""

    def __init__(self, watch: Watch, cluster: Cluster, kind: str) -> None:
        self._watch, self._cluster, self._kind = watch, cluster, kind
        self._stopped = threading.Event()
        self._stream: Stream | None = None
        self._version = ""
        self._failing_since: float | None = None
        self.ready = False
        self.problem: MlprojError | None = None
        self._thread = threading.Thread(target=self._run, name=f"mlproj-watch-{kind}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if (stream := self._stream) is not None:
            stream.cut()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped.is_set():
            try:
                if not self._version:
                    items, self._version = self._cluster.list(self._kind, labels=MANAGED)
                    self._watch.replace(self._kind, items)
                self._follow()
                pause = 0.0
            except Expired:
                self._version = ""
                self._stopped.wait(0.1)
            except (Throttled, MlprojError) as error:
                pause = self._fails(error, pause)
                self._stopped.wait(pause)

    def _follow(self) -> None:
        """Take events until the watch ends."""
        seconds = LONGEST - random.randrange(LONGEST // 5)  # noqa: S311 - so that not all begin anew at once
        self._stream = stream = self._cluster.watch(self._kind, MANAGED, self._version, seconds)
        self._hears()
        try:
            if self._stopped.is_set():  # before there was a stream to cut
                return
            for line in stream:
                if self._stopped.is_set():
                    return
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise (Expired if status.get("code") == 410 else Throttled)(str(status.get("message")))
                self._version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._watch.take(self._kind, event["type"], event["object"])
        finally:
            self._stream = None
            stream.close()

    def _hears(self) -> None:
        self.ready, self._failing_since, self.problem = True, None, None

    def _fails(self, error: Exception, pause: float) -> float:
        """Take note of a failure: seconds until the next try."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        refused = isinstance(error, MlprojError) and not isinstance(error, ContactLost)
        if refused or now - self._failing_since > OUTAGE:
            self.problem = error if isinstance(error, MlprojError) else ContactLost(str(error))
            self._watch.wake_all()
        told = error.after if isinstance(error, Throttled) else None
        return told if told is not None else min(max(0.2, 2 * pause), 15.0) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def _tag(item: Object) -> str:
    return str(item["metadata"].get("labels", {}).get(ATTEMPT, ""))
