"""One run's container from its making to its end, on the side of the client process."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.local.contained import MADE
from mlproj_core.backends.local.container_body import Body, make_body, secrets_text
from mlproj_core.backends.local.container_end import found, lost, refused
from mlproj_core.backends.local.container_files import bring_result, note_begin, put_code, put_data, put_own
from mlproj_core.backends.local.container_output import Copying, attached, logged, pieces, say_to
from mlproj_core.backends.local.directory import RunDirectory
from mlproj_core.claim import Claim, Record
from mlproj_core.containers.engine import connect, in_contact
from mlproj_core.errors import ContactLost, ExecutionException
from mlproj_core.report import Report
from mlproj_core.status import Reason, ReasonCode

if TYPE_CHECKING:
    from docker import APIClient

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
        directory: RunDirectory,
        claim: Claim,
        record: Record,
        prepared: Mapping[str, Any],
        *,
        visible: Mapping[str, str],
        secret: Mapping[str, str],
        auth: Mapping[str, str] | None,
        report: Report,
        begin: Callable[[], int],
    ) -> None:
        self.directory = directory
        self.claim, self.record, self.prepared = claim, record, prepared
        self.visible, self.secret, self.auth = visible, secret, auth
        self.say = report
        self.begin = begin
        self.request = claim.request
        self.asked: Mapping[str, Any] = claim.request["container"]
        self.name, self.engine = self.asked["name"], self.asked["engine"]
        self.stopping = False
        self.stop_signal = "SIGTERM"
        self.kill_at: float | None = None
        self.engine_was_away = False
        self.bell, self.bell_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.client = self._connected()

    # -- the course

    def through(self) -> dict[str, Any]:
        """Make the container, start it and follow it to its end; see `container_end.found` for the result.

        Raises:
            ExecutionException: it could not be made or started; the reason says why.
        """
        try:
            image = self._image()
            body = make_body(self.claim, self.record, self.prepared, self.visible, self.secret, image)
            self.stop_signal = (
                body.create.get("StopSignal") or (image.get("Config") or {}).get("StopSignal") or "SIGTERM"
            )
            for remark in (*self.prepared["remarks"], *body.remarks):
                self.say(remark)
            signal.set_wakeup_fd(self.bell_end, warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, self._on_signal)
            with in_contact(self.engine):
                return self._made(body)
        except ContactLost as error:
            raise ExecutionException(str(error), reason=Reason(ReasonCode.LOST, str(error), retryable=True)) from error

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _connected(self) -> APIClient:
        try:
            return connect(self.engine)
        except ContactLost as error:
            raise ExecutionException(str(error), reason=Reason(ReasonCode.LOST, str(error), retryable=True)) from error

    def _image(self) -> Mapping[str, Any]:
        """What the engine knows of the image, which is pulled or built if need be."""
        from docker.errors import APIError, NotFound

        from mlproj_core.containers.auth import auth_for, log_in, read_docker_auth
        from mlproj_core.containers.image import ensure_image

        reference, platform = self.asked["image"], self.asked["arguments"]["platform"]
        if not self.asked["build"] and self.auth is None and platform is None:
            with suppress(NotFound, APIError):  # of which ensure_image tells
                there: Mapping[str, Any] = self.client.inspect_image(reference)
                self.say(f"image: {reference} (found on the engine, {there['Id'][7:19]})")
                return there
        login = read_docker_auth(self.auth)
        if login is not None:
            log_in(self.client, login)
        image = ensure_image(
            self.client, reference, auth=auth_for(reference, login), platform=platform, report=self.say
        )
        made = image.id
        if self.asked["build"]:
            from mlproj_core.containers.build import build_project_image

            made = build_project_image(
                self.client,
                image,
                Path(self.request["directory"]),
                repository=_repository(self.request["project"]),
                commit=self.request["commit"],
                platform=platform,
                report=self.say,
            )
        value: Mapping[str, Any] = self.client.inspect_image(made)
        return value

    def _made(self, body: Body) -> dict[str, Any]:
        from docker.errors import APIError

        (self.directory.path / MADE).touch()
        platform = self.asked["arguments"]["platform"]
        try:
            container = self.client.create_container_from_config(body.create, self.name, platform)["Id"]
        except APIError as error:
            if error.status_code == 409 and "already in use" in str(error.explanation):
                return self._joined(body)
            self._forget()
            return self._judged(error, body)
        return self._started(container, body)

    def _started(self, container: str, body: Body) -> dict[str, Any]:
        """Fill a container and start it."""
        from docker.errors import APIError
        from requests.exceptions import RequestException

        try:
            files = [(source, target) for source, target in self.prepared["files"]]
            put_own(self.client, container, body.root, files, code=body.code)
            if body.code:
                put_code(self.client, container, Path(self.request["directory"]), self.say)
            for download in self.request.get("downloads", ()):
                path = Path(download["path"])
                put_data(self.client, container, path, str(path.parent) if body.root != "/" else "/")
            if self.stopping:
                self._drop(container)
                raise self._cancelled()
            note_begin(self.client, container, body.root, self.begin())
            socket = attached(self.client, container, stdin=bool(self.secret))
        except APIError as error:
            self._drop(container)
            return self._judged(error, body)
        try:
            self.client.start(container)
        except APIError as error:
            self._drop(container)
            return self._judged(error, body)
        except RequestException:  # the engine went down over it: whether it was started is to be seen
            return self._followed(container, Copying((), self.bell_end))
        os.kill(os.getppid(), signal.SIGUSR1)  # to the supervisor: the project is at work
        if self.secret:
            with suppress(OSError):  # it has ended already, and its exit code tells why
                say_to(socket, secrets_text(self.secret, self.claim.tag))
        return self._followed(container, Copying(pieces(socket), self.bell_end))

    def _judged(self, error: Any, body: Body) -> dict[str, Any]:
        judged = refused(error, body, self.secret)
        if isinstance(judged, ExecutionException):
            raise judged from error
        return judged

    def _drop(self, container: str) -> None:
        """Remove a container that was never started."""
        self.client.remove_container(container, v=True, force=True)
        self._forget()

    def _forget(self) -> None:
        with suppress(FileNotFoundError):
            (self.directory.path / MADE).unlink()

    def _cancelled(self) -> ExecutionException:
        return ExecutionException("stopped", reason=Reason(ReasonCode.CANCELLED, "stopped before it began"))

    # -- a container that is there already

    def _joined(self, body: Body) -> dict[str, Any]:
        """Of a container with this name: this run's, or one that another host has made for the same attempt."""
        from docker.errors import NotFound

        try:
            seen = self.client.inspect_container(self.name)
        except NotFound:  # removed this moment
            return self._made(body)
        state, label = seen["State"]["Status"], (seen["Config"]["Labels"] or {}).get("mlproj.claim", "{}")
        own = json.loads(label).get("created_at") == self.claim.created_at
        over = state in ("exited", "dead")
        if not own and over and seen["State"]["ExitCode"] != 0:
            self.say(f"a container {self.name} of an earlier claim has failed, and makes room for this one")
            self.client.remove_container(seen["Id"], v=True, force=True)
            return self._made(body)
        if own and state == "created":
            return self._started(seen["Id"], body)
        self.say(f"attached to the container {self.name}, which is there already ({state})")
        os.kill(os.getppid(), signal.SIGUSR1)
        return self._followed(seen["Id"], Copying(logged(self.client, seen["Id"], 0), self.bell_end))

    # -- following

    def _followed(self, container: str, copying: Copying) -> dict[str, Any]:
        """Wait for the end of a container, whatever becomes of the engine meanwhile."""
        from docker.errors import NotFound

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
                    bring_result(self.client, container, self.directory.path / "result.json")
                    return found(seen, engine_was_away=self.engine_was_away)
            except NotFound:
                return lost(REMOVED_BY_SOMEBODY)
            except ContactLost as error:
                self._await_engine(error)
                continue
            # The connection was cut, or the project has closed its output: the engine's own log goes on from there.
            copying = Copying(logged(self.client, container, copying.copied), self.bell_end, copying.copied)
            self._rest(time.monotonic() + FIRST_PAUSE)

    def _copy_rest(self, container: str, copied: int) -> None:
        """Copy what a container that has ended printed while nobody listened."""
        rest = Copying(logged(self.client, container, copied), self.bell_end, copied)
        while not rest.done:
            self._rest(time.monotonic() + MOMENT)

    def _seen(self, container: str) -> Mapping[str, Any]:
        """What the engine says of a container whose output has ended, and which does so itself in a moment."""
        from requests.exceptions import RequestException

        with in_contact(self.engine):
            with suppress(RequestException):
                self.client.wait(container, timeout=MOMENT)
            seen: Mapping[str, Any] = self.client.inspect_container(container)
            return seen

    def _tend(self, container: str) -> None:
        """When the run is to end: tell its container once, and end it when its grace period is over."""
        from docker.errors import APIError

        if not self.stopping or (self.kill_at is not None and time.monotonic() < self.kill_at):
            return
        last = self.kill_at is not None
        self.kill_at = time.monotonic() + (MOMENT if last else float(self.request["grace"]))
        # It has ended by itself, or the engine is away: what copies the output finds that out.
        with suppress(APIError, ContactLost), in_contact(self.engine):
            if last:
                with suppress(APIError):  # it is not paused, as hardly any ever is
                    self.client.unpause(container)
            self.client.kill(container, signal="SIGKILL" if last else self.stop_signal)

    def _await_engine(self, error: ContactLost) -> None:
        """Wait until the engine is back; while it is away the container may be at work.

        Raises:
            ContactLost: it is not back in time for a run that is to end.
        """
        from docker.errors import APIError

        self.engine_was_away = True
        self.say(f"warning: {error} The run waits for it.")
        pause, give_up = FIRST_PAUSE, None
        while True:
            if self.stopping:
                give_up = give_up or time.monotonic() + STOPPING_PATIENCE
                if time.monotonic() > give_up:
                    raise error
            self._rest(time.monotonic() + pause)
            with suppress(ContactLost, APIError), in_contact(self.engine):
                self.client.ping()
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


def _repository(project: str | None) -> str | None:
    """The name of a project's images: the project's, as under MLflow, in letters that such a name may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", (project or "").lower()).strip("-._") or None
