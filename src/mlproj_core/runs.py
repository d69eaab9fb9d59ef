"""A run that was submitted: its status, output, result and end, from any process that has its handle."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlproj_core import protocol
from mlproj_core.errors import ContactLost, ExecutionException, MlprojError, TrackingError, TrackingRefused, UserError
from mlproj_core.handle import RunHandle
from mlproj_core.lines import Lines
from mlproj_core.report import Report, log
from mlproj_core.status import Phase, Reason, RunStatus

if TYPE_CHECKING:
    from mlproj_core.backends.backend import Backend, Sighting
    from mlproj_core.claim import Record, Turn

__all__ = ["LocalSubmittedRun", "RunResult", "SubmittedRun", "attach", "deliver", "settle_all"]


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        run_id: the MLflow run's id.
        status: the run's status.
        experiment_id: the experiment's id; None when untracked.
        artifact_uri: root of the run's artifacts; None when untracked.
        tracking_url: the run's page, None if there is none.
        metrics: the latest value of each metric; empty when untracked.
        result: the JSON object that the project left at MLPROJ_RESULT, None if it left none.
    """

    run_id: str
    status: RunStatus
    experiment_id: str | None = None
    artifact_uri: str | None = None
    tracking_url: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None


class SubmittedRun:
    """A run of a project, wherever it is; the names are those of `mlflow.projects.SubmittedRun`.

    It holds no process and no connection: everything is asked of the backend by the handle, so that two of them
    in two processes say the same. A backend out of reach raises `ContactLost` from every method: that is no status.
    """

    def __init__(self, handle: RunHandle, backend: Backend, report: Report = log) -> None:
        self._handle = handle
        self._backend = backend
        self._report = report

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._handle.tag} on {self._handle.backend}>"

    @property
    def handle(self) -> RunHandle:
        """The value by which `attach` finds this run again."""
        return self._handle

    @property
    def run_id(self) -> str:
        """The MLflow run's id; one of mlproj's own when the run is untracked."""
        return self._handle.run_id

    @property
    def request(self) -> Mapping[str, Any]:
        """What was asked for, without secrets: `uri`, `commit`, `entry_point`, `command`, `parameters` and more.

        Empty for a run of which nothing is left, and for one that was cancelled before it was submitted.
        """
        claim = self._observe().claim
        return claim.request if claim is not None else {}

    @property
    def record(self) -> Record | None:
        """The MLflow run, known as soon as this one is submitted; None for a run of which nothing is left."""
        return self._observe().record

    @property
    def turn(self) -> Turn | None:
        """The turn at which the attempt was claimed: an earlier one than the caller's is that of an earlier try."""
        claim = self._observe().claim
        return claim.turn if claim is not None else None

    @property
    def page(self) -> str | None:
        """The run's page where it runs, such as a Databricks workspace; None if there is none."""
        return self._backend.page(self._handle)

    @property
    def phase(self) -> Phase:
        """Where the run is on its way."""
        return self._observe().phase

    @property
    def reason(self) -> Reason | None:
        """Why the run ended; None while it lives, and when it finished."""
        outcome = self._observe().outcome
        return outcome.reason if outcome else None

    def get_status(self) -> RunStatus:
        """RUNNING, FINISHED, FAILED or KILLED."""
        return _status(self._observe())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the run's end.

        Args:
            timeout: seconds to wait at most; None waits for as long as it takes.

        Returns:
            Whether the run finished. False also when the timeout passed: `get_status` tells.
        """
        self._backend.wait(self._handle, timeout)
        return self.get_status() is RunStatus.FINISHED

    def cancel(self) -> None:
        """End the run and wait until nothing is left of it; a run that is over stays as it is."""
        protocol.cancel(self._backend, self._handle, self._report)

    def result(self, patience: float = 0.0) -> RunResult:
        """What the run left: metrics, and the JSON object at MLPROJ_RESULT.

        Args:
            patience: seconds for which a tracking server that does not answer is asked again and again.

        Raises:
            ExecutionException: the run is not over, or did not finish.
            TrackingError: the tracking server does not give the metrics.
        """
        sighting = self._observe()
        status = _status(sighting)
        if status is not RunStatus.FINISHED:
            raise self.failure(sighting)
        record = sighting.record
        metrics: Mapping[str, float] = {}
        if record is not None and record.tracked:
            metrics = self._metrics(record, patience)
        return RunResult(
            run_id=self.run_id,
            status=status,
            experiment_id=record.experiment_id if record else None,
            artifact_uri=record.artifact_uri if record else None,
            tracking_url=record.url if record else None,
            metrics=metrics,
            result=self._backend.read_result(self._handle),
        )

    def _metrics(self, record: Record, patience: float) -> Mapping[str, float]:
        import time

        from mlproj_core.tracking import connect

        give_up, pause = time.monotonic() + patience, 1.0
        while True:
            try:
                return connect(record.tracking_uri).metrics(record.run_id)
            except TrackingRefused:
                raise
            except TrackingError as error:
                if time.monotonic() >= give_up:
                    raise
                self._report(f"the run finished, but the tracking server does not give its metrics; again: {error}")
                time.sleep(pause)
                pause = min(2 * pause, 15.0)

    def failure(self, sighting: Sighting | None = None) -> ExecutionException:
        """The exception that tells of this run's failure: its reason and the last lines of its output."""
        sighting = sighting or self._observe()
        status, outcome = _status(sighting), sighting.outcome
        reason = outcome.reason if outcome else None
        if reason is None:
            return ExecutionException(f"Run {self._handle.tag} is {status}", handle=self._handle)
        text = f"Run {self._handle.tag} (MLflow run ID '{self.run_id}') {status}: {reason.message}"
        if reason.output:
            text += "\nLast lines of its output:\n" + "\n".join(f"  {line}" for line in reason.output)
        return ExecutionException(text, reason=reason, handle=self._handle)

    def logs(self, follow: bool = False, cursor: int = 0) -> Iterator[str]:
        """The run's output, as text in pieces as they come (not lines).

        Args:
            follow: go on until the run is over, instead of ending at what there is.
            cursor: offset in bytes to begin at.
        """
        for text, _cursor in self.read_logs(follow=follow, cursor=cursor):
            yield text

    def read_logs(self, follow: bool = False, cursor: int = 0) -> Iterator[tuple[str, int]]:
        """As `logs`, each piece with the cursor after it: begin there to go on, without loss or repetition."""
        decode = _Decoder()
        for data, after in self._chunks(follow, cursor):
            cursor = after
            if text := decode(data):
                yield text, cursor - decode.pending
        if rest := decode.finish():
            yield rest, cursor

    def read_lines(self, follow: bool = False, cursor: int = 0) -> Iterator[tuple[str, int]]:
        """As `read_logs`, in whole lines without their ends; a progress bar's line as a terminal would show it."""
        lines = Lines()
        for data, after in self._chunks(follow, cursor):
            cursor = after
            yield from lines.feed(data, cursor)
        yield from lines.finish(cursor)

    def _chunks(self, follow: bool, cursor: int) -> Iterator[tuple[bytes, int]]:
        if follow:
            yield from self._backend.follow_output(self._handle, cursor)
            return
        while (chunk := self._backend.read_output(self._handle, cursor))[0]:
            yield chunk
            cursor = chunk[1]

    # -- for event loops, such as Airflow's triggerer

    async def wait_async(self, timeout: float | None = None) -> bool:
        """As `wait`, without blocking the event loop."""
        await self._backend.wait_async(self._handle, timeout)
        return await self.get_status_async() is RunStatus.FINISHED

    async def get_status_async(self) -> RunStatus:
        """As `get_status`, without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.get_status)

    async def cancel_async(self) -> None:
        """As `cancel`, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.cancel)

    async def result_async(self) -> RunResult:
        """As `result`, without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.result)

    async def read_logs_async(self, follow: bool = False, cursor: int = 0) -> AsyncGenerator[tuple[str, int], None]:
        """As `read_logs`, without blocking the event loop; following takes no thread, however many runs are followed.

        Whoever leaves before the end closes it (`contextlib.aclosing`), or what it watches with is kept until later.
        """
        if not follow:
            import asyncio

            for piece in await asyncio.to_thread(lambda: list(self.read_logs(cursor=cursor))):
                yield piece
            return
        from contextlib import aclosing

        decode = _Decoder()
        async with aclosing(self._backend.follow_output_async(self._handle, cursor)) as chunks:
            async for data, after in chunks:
                cursor = after
                if text := decode(data):
                    yield text, cursor - decode.pending
        if rest := decode.finish():
            yield rest, cursor

    async def read_lines_async(self, cursor: int = 0) -> AsyncGenerator[tuple[str, int], None]:
        """As `read_lines` with following, without blocking the event loop; to be closed as `read_logs_async`."""
        from contextlib import aclosing

        lines = Lines()
        async with aclosing(self._backend.follow_output_async(self._handle, cursor)) as chunks:
            async for data, after in chunks:
                cursor = after
                for line in lines.feed(data, cursor):
                    yield line
        for line in lines.finish(cursor):
            yield line

    def _observe(self) -> Sighting:
        return protocol.observe(self._backend, self._handle, self._report)


class LocalSubmittedRun(SubmittedRun):
    """A run on the local backend; the name is MLflow's."""


def attach(
    handle: RunHandle | str | Mapping[str, Any], report: Report = log, backend: Backend | None = None
) -> SubmittedRun:
    """The run of a handle, in any process, at any time, wherever its backend can be reached.

    Args:
        handle: a `RunHandle`, its JSON text, or that text's value.
        report: is given one line of text for each thing worth telling.
        backend: the backend that the handle names, where it needs a client that only the caller has; None loads it.

    Raises:
        UserError: it is no handle, or its backend is not installed.
    """
    from mlproj_core.backends import load_backend

    if isinstance(handle, str):
        handle = RunHandle.from_json(handle)
    elif not isinstance(handle, RunHandle):
        if not isinstance(handle, Mapping):
            raise UserError(f"Not a run handle: {handle!r}. Give a RunHandle, its JSON text, or its dict.")
        handle = RunHandle.from_dict(handle)
    kind = LocalSubmittedRun if handle.backend == "local" else SubmittedRun
    if backend is None or backend.name != handle.backend:
        backend = load_backend(handle.backend)
    return kind(handle, backend, report)


def _status(sighting: Sighting) -> RunStatus:
    return sighting.outcome.status if sighting.outcome is not None else RunStatus.RUNNING


class _Decoder:
    """Bytes in any pieces to text, without tearing a character apart at a piece's end."""

    def __init__(self) -> None:
        import codecs

        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, data: bytes) -> str:
        return self._decoder.decode(data)

    @property
    def pending(self) -> int:
        """Bytes taken in of a character that is not complete."""
        return len(self._decoder.getstate()[0])

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def settle_all(report: Report = log) -> set[str]:
    """See to it that the ends of this host's runs are on record, and known to their tracking servers.

    A server that does not answer is asked once.

    Returns:
        Tags of the attempts whose outcome a server may yet take, and did not take now.
    """
    from mlproj_core.backends.backend import State
    from mlproj_core.backends.local import LocalBackend

    backend = LocalBackend()
    silent: set[str | None] = set()
    undelivered: set[str] = set()
    for handle in backend.handles():
        while (sighting := backend.look(handle)).state is State.LOST:
            backend.bury(handle)
        record = sighting.record
        if sighting.state is not State.ENDED or sighting.settled or record is None or not record.tracked:
            continue
        if record.tracking_uri not in silent:
            try:
                protocol.deliver(backend, handle, sighting, report)
                continue
            except TrackingRefused as error:
                report(f"warning: the outcome of {handle.tag} will never be delivered: {error}")
                continue
            except MlprojError as error:
                report(f"warning: the outcome of {handle.tag} is not delivered yet: {error}")
                silent.add(record.tracking_uri)
        undelivered.add(handle.tag)
    return undelivered


def deliver(directory: str) -> None:
    """Deliver a local run's outcome, again and again until the tracking server has it.

    This is what a run's supervisor leaves behind when nobody waits for the run. What it cannot deliver in
    six hours is delivered when the run is next looked at.
    """
    import time

    from mlproj_core.backends.local import LocalBackend

    backend = LocalBackend.of(directory)
    handle = backend.handle_of(directory)
    give_up, pause = time.monotonic() + protocol.DELIVERY_PATIENCE, 1.0
    while time.monotonic() < give_up:
        try:
            sighting = backend.look(handle)
            if sighting.outcome is not None and not sighting.settled:
                protocol.deliver(backend, handle, sighting, log)
        except (ContactLost, TrackingRefused):
            return
        except TrackingError:
            time.sleep(pause)
            pause = min(2 * pause, 60.0)
        else:
            return
