"""Follows the states of flow runs from within their process, and ends their runs when one is cancelled.

A thread in which a submitted task waits gets no signal, and a flow that is not served gets none in any thread: the
state on the server is all that tells of a cancellation in every case.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Protocol
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import ObjectNotFound
from prefect.logging.loggers import get_logger
from prefect.states import Cancelled

__all__ = ["Watched", "Watcher", "watcher"]

LOOK_INTERVAL = 10.0
"""Seconds between looks at the states of flow runs beside the server's events, which Prefect does not warrant."""

CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)

_EVENTS = ["prefect.flow-run.Cancelling", "prefect.flow-run.Cancelled"]


class Watched(Protocol):
    """A step of a flow run, at work in this process."""

    @property
    def flow_run_id(self) -> UUID | None:
        """The flow run that it belongs to; None outside a flow."""

    def end(self) -> None:
        """End its run, since its flow run was cancelled. Called once, in a thread of its own."""


class Watcher:
    """Follows the flow runs whose steps are at work in this process, all in one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: set[Watched] = set()
        self._ended: set[Watched] = set()
        self._cancelled: set[UUID] = set()
        self._to_finish: set[UUID] = set()
        self._seen: set[UUID] = set()
        self._parents: dict[UUID, UUID | None] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None

    def add(self, step: Watched) -> None:
        """Follow the step's flow run from now on, until `remove`."""
        if step.flow_run_id is None:
            return
        with self._lock:
            self._steps.add(step)
            if self._thread is None:
                context = copy_context()  # Prefect's settings, with the server's address, are in it
                self._thread = threading.Thread(
                    target=lambda: context.run(asyncio.run, self._follow()), name="mlproj-watcher", daemon=True
                )
                self._thread.start()
            elif step.flow_run_id not in self._seen:
                self._wake()

    def remove(self, step: Watched) -> None:
        """The step is over; harmless if it was not followed."""
        with self._lock:
            self._steps.discard(step)
            self._ended.discard(step)

    def knows_cancelled(self, flow_run_id: UUID | None) -> bool:
        """Whether this flow run is known to be cancelled, so that nothing more is to be begun in it."""
        return flow_run_id in self._cancelled

    def _finish_at_exit(self, flow_run_id: UUID) -> None:
        """Of a flow that is not served nobody says that it was cancelled: it would be Cancelling for ever."""
        if flow_run_id not in self._to_finish:
            self._to_finish.add(flow_run_id)
            atexit.register(_finish, flow_run_id)

    def _wake(self) -> None:
        if self._loop is not None and self._news is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all that there was to follow
                self._loop.call_soon_threadsafe(self._news.set)

    # -- in the watcher's own thread

    async def _follow(self) -> None:
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._loop, self._news = loop, news
        events = asyncio.create_task(self._hear(news))
        try:
            async with get_client() as client:
                while True:
                    news.clear()
                    await self._survive(lambda: self._look(client))
                    try:
                        await asyncio.wait_for(news.wait(), LOOK_INTERVAL)
                    except asyncio.TimeoutError:  # nothing has happened for a while
                        if self._retires(loop):
                            return
        finally:
            events.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await events
            self._retires(loop, at_once=True)

    def _retires(self, loop: asyncio.AbstractEventLoop, at_once: bool = False) -> bool:
        """Whether this thread has nothing more to follow, so that the next step begins another."""
        with self._lock:
            if self._loop is not loop:
                return True
            if self._steps and not at_once:
                return False
            self._thread = self._loop = self._news = None
            self._seen.clear()
            return True

    async def _hear(self, news: asyncio.Event) -> None:
        """Have a look taken whenever the server tells of a cancellation."""
        names = EventFilter(event=EventNameFilter(name=_EVENTS))
        while True:
            await self._survive(lambda: self._hear_until_silence(names, news))
            await asyncio.sleep(LOOK_INTERVAL)

    async def _hear_until_silence(self, names: EventFilter, news: asyncio.Event) -> None:
        async with get_events_subscriber(filter=names) as events:
            news.set()  # for what was told before anybody listened
            async for _ in events:
                news.set()

    async def _survive(self, what: Callable[[], Awaitable[None]]) -> None:
        """Do something, and again later if the server is away just now."""
        try:
            await what()
        except Exception as error:  # whatever it is, cancellation must work once the server is back
            get_logger("mlproj").debug("Prefect's server does not answer the watcher of flow runs: %s", error)

    async def _look(self, client: PrefectClient) -> None:
        with self._lock:
            steps = self._steps - self._ended
        over: set[UUID] = set()
        for flow_run_id in {step.flow_run_id for step in steps if step.flow_run_id is not None}:
            self._seen.add(flow_run_id)
            found = await self._end_around(client, flow_run_id)
            if found is None or found.state is None or found.state.type not in CANCELLED:
                self._cancelled.discard(flow_run_id)
                if found is not None:
                    over.add(flow_run_id)
                continue
            self._cancelled.add(flow_run_id)
            if found.deployment_id is None:  # else a runner or worker takes care of its end
                self._finish_at_exit(found.id)
        for step in steps:
            if step.flow_run_id in self._cancelled:
                self._ended.add(step)
                threading.Thread(target=step.end, name="mlproj-canceller", daemon=True).start()
            elif step.flow_run_id in over:  # nobody of it waits for anything any more
                self.remove(step)

    async def _end_around(self, client: PrefectClient, flow_run_id: UUID) -> FlowRun | None:
        """The flow run itself if it is cancelled or over, or one that it is a part of; None if none is."""
        wanted: UUID | None = flow_run_id
        while wanted is not None:
            try:
                flow_run = await client.read_flow_run(wanted)
            except ObjectNotFound:  # deleted, which Prefect does not take for a cancellation
                return None
            if flow_run.state is not None and (flow_run.state.type in CANCELLED or flow_run.state.is_final()):
                return flow_run
            if wanted not in self._parents:
                task_run_id = flow_run.parent_task_run_id
                parent = await client.read_task_run(task_run_id) if task_run_id is not None else None
                self._parents[wanted] = parent.flow_run_id if parent is not None else None
            wanted = self._parents[wanted]
        return None


def _finish(flow_run_id: UUID) -> None:
    """This process, and the flow run with it, is at its end: what was Cancelling is Cancelled."""
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        if state is not None and state.type is StateType.CANCELLING:
            client.set_flow_run_state(flow_run_id, Cancelled(message="The flow run was cancelled."))


watcher = Watcher()
"""The one of this process."""
