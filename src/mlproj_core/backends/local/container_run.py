"""One run's container from its making to its end, on the side of the client process."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from mlproj_core.backends.local.contained import MADE
from mlproj_core.backends.local.container_body import Body, make_body, secrets_text
from mlproj_core.backends.local.container_end import found, lost, refused
from mlproj_core.backends.local.container_files import bring_result, put_data, put_files
from mlproj_core.backends.local.container_output import Copying, attached, logged
from mlproj_core.backends.local.directory import RunDirectory
from mlproj_core.claim import Claim
from mlproj_core.containers.wire import EngineRefusal, Wire
from mlproj_core.errors import ContactLost, ExecutionException
from mlproj_core.report import Report
from mlproj_core.status import Reason, ReasonCode

__all__ = ["ContainerRun"]

REMOVED_BY_SOMEBODY = "the run's container was removed by somebody while the run was at work"

MOMENT = 2.0
"""Seconds in which what is about to end does so."""

FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0
"""Seconds between two looks for an engine that has gone away, the first and the longest."""

STOPPING_PATIENCE = 8.0
"""Seconds for which an engine that is away is waited for when the run is to end."""


class ContainerRun:
    """Makes a run's container and follows it."""

    def __init__(
        self,
        wire: Wire,
        directory: RunDirectory,
        claim: Claim,
        prepared: Mapping[str, Any],
        *,
        visible: Mapping[str, str],
        secret: Mapping[str, str],
        auth: Mapping[str, str] | None,
        report: Report,
        begin: Callable[[], int],
    ) -> None:
        self.wire, self.directory = wire, directory
        self.claim, self.prepared = claim, prepared
        self.visible, self.secret, self.auth = visible, secret, auth
        self.say, self.begin = report, begin
        self.request = claim.request
        self.asked: Mapping[str, Any] = claim.request["container"]
        self.name: str = self.asked["name"]
        self.platform: str | None = self.asked["arguments"]["platform"]
        self.stopping = False
        self.stop_signal = "SIGTERM"
        self.kill_at: float | None = None
        self.engine_was_away = False
        self.bell, self.bell_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # -- the course

    def through(self) -> dict[str, Any]:
        """Make the container, start it and follow it to its end; see `container_end.found` for the result.

        Raises:
            ExecutionException: it could not be made or started; the reason says why.
            ContactLost: the engine cannot be reached.
        """
        image = self._image()
        body = make_body(self.claim, self.prepared["create"], self.visible, self.secret, image)
        own = image.get("Config") or {}
        self.stop_signal = body.create.get("StopSignal") or own.get("StopSignal") or "SIGTERM"
        for remark in (*self.prepared["remarks"], *body.remarks):
            self.say(remark)
        signal.set_wakeup_fd(self.bell_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        return self._made(body)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _image(self) -> Mapping[str, Any]:
        """What the engine knows of the image, which is pulled or built if need be."""
        if not self.asked["build"] and self.auth is None and self.platform is None:
            with suppress(EngineRefusal):  # of which `image_for` tells
                image = self.wire.image(self.asked["image"])
                self.say(f"image: {self.asked['image']} (found on the engine, {image['Id'][7:19]})")
                return image
        from mlproj_core.backends.local.container_image import image_for

        return self.wire.image(image_for(self.claim, self.auth, self.say))

    def _made(self, body: Body) -> dict[str, Any]:
        (self.directory.path / MADE).touch()
        try:
            container = self.wire.create(body.create, self.name, self.platform)
        except EngineRefusal as refusal:
            if refusal.status == 409 and "already in use" in refusal.said:
                return self._joined(body)
            self._forget()
            return self._judged(refusal, body)
        return self._started(container, body)

    def _started(self, container: str, body: Body) -> dict[str, Any]:
        """Fill a container and start it."""
        try:
            files = [(source, target) for source, target in self.prepared["files"]]
            code = Path(self.request["directory"]) if body.code else None
            put_files(self.wire, container, body.root, files, code=code, report=self.say, begin=self.begin)
            for download in self.request.get("downloads", ()):
                path = Path(download["path"])
                put_data(self.wire, container, path, str(path.parent) if body.root != "/" else "/")
            if self.stopping:
                self._drop(container)
                raise self._cancelled()
            connection = self.wire.attach(container, stdin=bool(self.secret))
            try:
                self.wire.start(container)
            except ContactLost:  # the engine went down over it: whether it was started is to be seen
                connection.close()
                return self._followed(container, Copying((), self.bell_end))
        except EngineRefusal as refusal:
            self._drop(container)
            return self._judged(refusal, body)
        os.kill(os.getppid(), signal.SIGUSR1)  # to the supervisor: the project is at work
        if self.secret:
            with suppress(OSError):  # it has ended already, and its exit code tells why
                connection.sendall(secrets_text(self.secret, self.claim.tag))
        return self._followed(container, Copying(attached(connection), self.bell_end))

    def _judged(self, refusal: EngineRefusal, body: Body) -> dict[str, Any]:
        judged = refused(refusal, body, self.secret)
        if isinstance(judged, ExecutionException):
            raise judged from refusal
        return judged

    def _drop(self, container: str) -> None:
        """Remove a container that was never started."""
        with suppress(EngineRefusal):
            self.wire.remove(container)
        self._forget()

    def _forget(self) -> None:
        with suppress(FileNotFoundError):
            (self.directory.path / MADE).unlink()

    def _cancelled(self) -> ExecutionException:
        return ExecutionException("stopped", reason=Reason(ReasonCode.CANCELLED, "stopped before it began"))

    # -- a container that is there already

    def _joined(self, body: Body) -> dict[str, Any]:
        """Of a container with this name: this run's, or one that another host has made for the same attempt."""
        while True:
            try:
                seen = self.wire.container(self.name)
            except EngineRefusal:  # removed this moment
                return self._made(body)
            state, label = seen["State"]["Status"], (seen["Config"]["Labels"] or {}).get("mlproj.claim", "{}")
            own = json.loads(label).get("created_at") == self.claim.created_at
            if own or state != "created":
                break
            if self.stopping:
                raise self._cancelled()
            self._rest(time.monotonic() + FIRST_PAUSE)  # the other host is about to start it
        over = state in ("exited", "dead")
        if not own and over and seen["State"]["ExitCode"] != 0:
            self.say(f"a container {self.name} of an earlier claim has failed, and makes room for this one")
            self.wire.remove(seen["Id"])
            return self._made(body)
        if own and state == "created":
            return self._started(seen["Id"], body)
        self.say(f"attached to the container {self.name}, which is there already ({state})")
        os.kill(os.getppid(), signal.SIGUSR1)
        return self._followed(seen["Id"], Copying(logged(self.wire, seen["Id"], 0), self.bell_end))

    # -- following

    def _followed(self, container: str, copying: Copying) -> dict[str, Any]:
        """Wait for the end of a container, whatever becomes of the engine meanwhile."""
        while True:
            while not copying.done:
                self._tend(container)
                self._rest(self.kill_at)
            try:
                seen = self._seen(container)
                if seen["State"]["Status"] in ("removing", "dead"):
                    return lost(REMOVED_BY_SOMEBODY)
                if seen["State"]["Status"] == "created":
                    self._drop(container)
                    return lost("the Docker engine went down before the run's container was started")
                if not seen["State"]["Running"]:
                    if self.engine_was_away:
                        self._copy_rest(container, copying.copied)
                    bring_result(self.wire, container, self.directory.path / "result.json")
                    return found(seen, engine_was_away=self.engine_was_away)
            except EngineRefusal as refusal:
                if refusal.is_missing:
                    return lost(REMOVED_BY_SOMEBODY)
                self._await_engine(ContactLost(f"The Docker engine fails: {refusal.said}."))
                continue
            except ContactLost as error:
                self._await_engine(error)
                continue
            # The connection was cut, or the project has closed its output: the engine's own log goes on from there.
            self.engine_was_away = False
            copying = Copying(logged(self.wire, container, copying.copied), self.bell_end, copying.copied)
            self._rest(time.monotonic() + FIRST_PAUSE)

    def _copy_rest(self, container: str, copied: int) -> None:
        """Copy what a container that has ended printed while nobody listened."""
        rest = Copying(logged(self.wire, container, copied), self.bell_end, copied)
        while not rest.done:
            self._rest(time.monotonic() + MOMENT)

    def _seen(self, container: str) -> Mapping[str, Any]:
        """What the engine says of a container whose output has ended, and which does so itself in a moment."""
        with suppress(ContactLost):  # it has not ended; or the engine is away, which the next call finds
            self.wire.wait(container, MOMENT)
        return self.wire.container(container)

    def _tend(self, container: str) -> None:
        """When the run is to end: tell its container once, and end it when its grace period is over."""
        if not self.stopping or (self.kill_at is not None and time.monotonic() < self.kill_at):
            return
        last = self.kill_at is not None
        self.kill_at = time.monotonic() + (MOMENT if last else float(self.request["grace"]))
        # It has ended by itself, or the engine is away: what copies the output finds that out.
        with suppress(EngineRefusal, ContactLost):
            if last:
                with suppress(EngineRefusal):  # it is not paused, as hardly any ever is
                    self.wire.unpause(container)
            self.wire.kill(container, "SIGKILL" if last else self.stop_signal)

    def _await_engine(self, error: ContactLost) -> None:
        """Wait until the engine is back; while it is away the container may be at work.

        Raises:
            ContactLost: it is not back in time for a run that is to end.
        """
        self.engine_was_away = True
        self.say(f"warning: {error} The run waits for it.")
        pause, give_up = FIRST_PAUSE, None
        while True:
            if self.stopping:
                give_up = give_up or time.monotonic() + STOPPING_PATIENCE
                if time.monotonic() > give_up:
                    raise error
            self._rest(time.monotonic() + pause)
            with suppress(ContactLost, EngineRefusal):
                self.wire.ping()
                break
            pause = min(2 * pause, LAST_PAUSE)
        self.say("the Docker engine is back")

    def _rest(self, until: float | None) -> None:
        """Sleep until a signal comes, output ends, or the time given has come."""
        poll = select.poll()
        poll.register(self.bell, select.POLLIN)
        if poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000):
            with suppress(BlockingIOError):
                while os.read(self.bell, 4096):
                    pass
