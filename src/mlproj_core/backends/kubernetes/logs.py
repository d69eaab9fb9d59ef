"""A run's output: what the containers of its pod print, one container after the other, from any line on.

A cursor is a place in that: which container, the time of the last line that was given out, and which of the lines of
that microsecond it was. So it holds in any process, also when the node has dropped what is before it (a node keeps the
last 10 MiB or so of a container's output) and when the connection broke. Lines are found again by their times, which
the node adds to them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from mlproj_core.backends.backend import State
from mlproj_core.backends.kubernetes.client import QUIET, Cluster, Stream, Throttled
from mlproj_core.backends.kubernetes.ending import terminated
from mlproj_core.backends.kubernetes.objects import Object, living_pods, main_container, newest, seconds, status_of
from mlproj_core.backends.kubernetes.sight import pods_of, verdict_on
from mlproj_core.backends.kubernetes.watch import loop_waiting, wait_in_loop, waiting
from mlproj_core.handle import RunHandle
from mlproj_core.status import Outcome

__all__ = ["follow", "follow_async", "read", "termination_message", "with_last_lines"]

TAIL_LINES = 20
"""Lines of output in the reason of a failure."""

_SECOND = 1_000_000
"""Microseconds; within one, a node may write lines in another order than their times have."""

_REMEMBERED = 4096
"""Moments of which it is remembered how many lines they had: those of the last second or so."""

_PAUSES = (0.2, 5.0)
"""Seconds between looks for new output in an event loop: at first, and at most, while nothing comes."""

_RECALLED = 1.0
"""Seconds in which a node has given out what it has of a container's output."""

_WAIT = 2.0
"""Seconds between looks for a container that has not begun."""


@dataclass(frozen=True)
class Place:
    """A place in a run's output: after a line.

    Attributes:
        container: the number of the container, in the order that they are given out in.
        time: of the line, in microseconds since the Job was created.
        line: which of the lines of that time, from 1; 0: before the first line.
    """

    container: int = 0
    time: int = 0
    line: int = 0

    @classmethod
    def read(cls, cursor: int) -> Place:
        """The place of a cursor. Up to 3 less than a cursor is still its place: a torn character was held back."""
        return cls(cursor >> 56, (cursor >> 8) & ((1 << 48) - 1), -(-(cursor & 255) // 4))

    @property
    def cursor(self) -> int:
        """This place as a number: larger ones are later, and it fits into 63 bits."""
        return self.container << 56 | self.time << 8 | min(self.line, 63) * 4


class Output:
    """The output of one run, and how far it was given out."""

    def __init__(self, cluster: Cluster, handle: RunHandle, cursor: int) -> None:
        self._cluster, self._handle = cluster, handle
        self.place = Place.read(cursor)
        self._origin: int | None = None

    def look(self) -> tuple[Object | None, bool]:
        """The run's newest pod, None if there is none; and whether the run is over, or will come to nothing."""
        job = self._cluster.get("jobs", self._handle.name)
        if job is None:
            return None, True
        self._origin = int((seconds(job["metadata"]["creationTimestamp"]) or 0.0) * _SECOND)
        pods = pods_of(self._cluster, self._handle)
        state = verdict_on(self._cluster, job, pods).state
        return newest(pods), state in (State.ENDED, State.GONE, State.LOST)

    def new(self, pod: Object, name: str, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """Lines of a container after the place, as far as there are any now."""
        stream = self._cluster.log(pod["metadata"]["name"], name, since=self._since())
        return self._lines(stream, prefix)

    def coming(self, pod: Object, name: str, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """As `new`, and then as they come, until the container or the connection ends."""
        stream = self._cluster.log(pod["metadata"]["name"], name, since=self._since(), follow=True)
        return self._lines(stream, prefix)

    def _since(self) -> str | None:
        """The second before the place, as the API takes it: it gives lines from then on."""
        if not self.place.line or self._origin is None:
            return None
        moment = datetime.fromtimestamp((self._origin + self.place.time) // _SECOND - 1, timezone.utc)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _lines(self, stream: Stream | None, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """The lines that come after the place, with the cursor after each."""
        anchor, passed = self.place, self.place.line == 0
        held: list[tuple[Place, bytes]] = []
        counts: dict[int, int] = {}
        for line in stream or ():
            at, text = self._parse(line)
            # How many of that moment there are is counted in what the node has, and it gives all of a second or none.
            counts[at] = counts.get(at, 0) + 1
            place = replace(anchor, time=at, line=counts[at])
            if len(counts) > _REMEMBERED:
                counts = dict(list(counts.items())[-_REMEMBERED // 2 :])
            if passed:
                yield self._given(place, prefix + text)
                continue
            if place == anchor:
                # Whatever is before it in the file was given out before it.
                passed, held = True, []
            elif at > anchor.time:
                held.append((place, prefix + text))
                if at > anchor.time + _SECOND:  # the line of the place was dropped
                    passed = True
                    yield from (self._given(*one) for one in held)
                    held = []
            if stream is not None:  # either the line of the place comes at once, or it was dropped this moment
                stream.expect_within(_RECALLED if held else QUIET)
        if not passed:
            yield from (self._given(*one) for one in held)

    def _parse(self, line: bytes) -> tuple[int, bytes]:
        """A line's time, and the line."""
        stamp, space, text = line.partition(b" ")
        at = _microseconds(stamp.decode("ascii", "replace")) if space else None
        if at is None:  # what the node itself has to say
            return self.place.time, line
        return max(0, at - (self._origin or 0)), text

    def _given(self, place: Place, text: bytes) -> tuple[bytes, int]:
        self.place = place
        return text, place.cursor

    def next_container(self) -> None:
        """Go on with the one after it."""
        self.place = Place(self.place.container + 1)


def containers(pod: Object) -> list[str]:
    """A pod's containers in the order that their output is given out in.

    What runs before the project comes before it; what runs beside it comes after it, so that nothing of either is mixed
    into the other, and a cursor has one meaning.
    """
    main = main_container(pod)
    inits = pod["spec"].get("initContainers") or ()
    before = [one["name"] for one in inits if one.get("restartPolicy") != "Always"]
    beside = [one["name"] for one in [*inits, *pod["spec"]["containers"]] if one["name"] not in (main, *before)]
    return [*before, main, *beside]


def read(cluster: Cluster, handle: RunHandle, cursor: int) -> tuple[bytes, int]:
    """All output after a cursor that there is now, and the cursor after it."""
    output = Output(cluster, handle, cursor)
    pieces = list(_now(output))
    return b"".join(text for text, _ in pieces), pieces[-1][1] if pieces else cursor


def follow(cluster: Cluster, handle: RunHandle, cursor: int) -> Iterator[tuple[bytes, int]]:
    """Output after a cursor as it comes, until the run is over."""
    output, woken = Output(cluster, handle, cursor), threading.Event()
    with waiting(cluster, handle, woken.set):
        while True:
            woken.clear()
            pod, over = output.look()
            if pod is None:
                if over:
                    return
                woken.wait(_WAIT)
                continue
            names = containers(pod)
            if output.place.container >= len(names):
                return
            name = names[output.place.container]
            prefix = _prefix(pod, name)
            ended, begun = terminated(pod, name) is not None, _has_begun(pod, name)
            try:
                # First what there is: only at its end it is known that the line of the cursor is not there any more.
                yield from output.new(pod, name, prefix)
                if ended or _never(pod, begun, over):
                    output.next_container()
                elif begun:
                    yield from output.coming(pod, name, prefix)
                else:
                    woken.wait(_WAIT)
            except Throttled as error:
                woken.wait(error.after if error.after is not None else 0.5)


async def follow_async(cluster: Cluster, handle: RunHandle, cursor: int) -> AsyncGenerator[tuple[bytes, int], None]:
    """As `follow`; each look is made in a thread of the loop's pool, so that hundreds are followed by a few."""
    import asyncio

    output, pause = Output(cluster, handle, cursor), _PAUSES[0]
    with loop_waiting(cluster, handle) as (_, woken):
        while True:
            pieces, over = await asyncio.to_thread(_look, output)
            for piece in pieces:
                yield piece
            if over:
                return
            pause = _PAUSES[0] if pieces else min(1.5 * pause, _PAUSES[1])
            await wait_in_loop(woken, pause)


def _look(output: Output) -> tuple[list[tuple[bytes, int]], bool]:
    """What is new, and whether that was all that will ever be."""
    pieces: list[tuple[bytes, int]] = []
    try:
        over = _collect(_now(output), pieces)
    except Throttled as error:
        time.sleep(min(error.after or 0.5, 5.0))
        return pieces, False
    return pieces, over


def _collect(source: Any, into: list[tuple[bytes, int]]) -> bool:
    """Collect what a generator gives, also what it gave before it failed; and what it returns."""
    while True:
        try:
            into.append(next(source))
        except StopIteration as end:
            return bool(end.value)


def _now(output: Output) -> Any:
    """Go through the containers as far as they have got; returns whether there will be no more."""
    pod, over = output.look()
    if pod is None:
        return over
    names = containers(pod)
    while output.place.container < len(names):
        name = names[output.place.container]
        yield from output.new(pod, name, _prefix(pod, name))
        if terminated(pod, name) is None and not _never(pod, _has_begun(pod, name), over):
            return False
        output.next_container()
    return True


def _prefix(pod: Object, name: str) -> bytes:
    return b"" if name == main_container(pod) else f"[{name}] ".encode()


def _has_begun(pod: Object, name: str) -> bool:
    state = status_of(pod, name).get("state") or {}
    return "running" in state or "terminated" in state


def _never(pod: Object, begun: bool, over: bool) -> bool:
    """Whether a container that has not ended will not do so: its pod is over without it."""
    return not living_pods([pod], time.time()) or (not begun and over)


def with_last_lines(cluster: Cluster, handle: RunHandle, outcome: Outcome) -> Outcome:
    """The outcome of a failure with the last lines that the project printed, if there are any."""
    pod = newest(pods_of(cluster, handle))
    if pod is None or outcome.reason is None or outcome.reason.output:
        return outcome
    try:
        lines = list(cluster.log(pod["metadata"]["name"], main_container(pod), tail=TAIL_LINES) or ())
    except Throttled:
        return outcome
    texts = [line.partition(b" ")[2].decode("utf-8", "replace").rstrip() for line in lines]
    shown = tuple(text.rpartition("\r")[2] for text in texts if text and not text.startswith("[mlproj] "))
    return replace(outcome, reason=replace(outcome.reason, output=shown))


def termination_message(cluster: Cluster, handle: RunHandle) -> str:
    """What the project's container left at /dev/termination-log; "" if it left nothing, or is gone."""
    pod = newest(pods_of(cluster, handle))
    ended = terminated(pod, main_container(pod)) if pod is not None else None
    return str(ended.get("message") or "") if ended is not None else ""


def _microseconds(stamp: str) -> int | None:
    """A line's time (RFC 3339 with up to nine digits of a second) in microseconds since the epoch."""
    whole, point, rest = stamp.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    offset = rest[len(digits) :] if point else ""
    if not point:
        whole, offset = (whole[:19], whole[19:])
    try:
        moment = datetime.fromisoformat(whole + offset.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return int(moment.timestamp()) * _SECOND + int(f"{digits:0<6}"[:6])
