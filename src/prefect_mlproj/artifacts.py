"""What Prefect's UI shows of a run: a link to it, its parameters and metrics, how its environment is made."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import asdict, dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.artifacts import Artifact, LinkArtifact, MarkdownArtifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.utilities.context import get_task_and_flow_run_ids

from mlproj_core.handle import RunHandle

if TYPE_CHECKING:
    from mlproj_core.runs import SubmittedRun
    from prefect_mlproj.results import ProjectResult

__all__ = ["Gallery", "Intent", "handle_in", "intent_in", "names_in"]

_HANDLE = re.compile(r"```json\n(.*?)\n```", re.DOTALL)

_NAMES = re.compile(r"```json blocks\n(.*?)\n```", re.DOTALL)

_INTENT = re.compile(r"```json intent\n(.*?)\n```", re.DOTALL)

PROGRESS_INTERVAL = 1.0
"""Seconds between two updates of a progress artifact at least."""

_MILESTONES = (("Resolved", 25.0), ("Downloading", 35.0), ("Prepared", 65.0), ("Installed", 95.0))
"""First words of uv's messages, with the percentage that stands for them."""


@dataclass(frozen=True)
class Intent:
    """That a run is about to be submitted where nobody but its backend knows of it.

    A process that dies after that has shown no handle yet; whoever comes later looks for the key.

    Attributes:
        key: what it is submitted under.
        backend: the backend's name.
        settings: the backend's, which say where it looks for a key. No secrets.
        names: names of the blocks by which the run is reached; see `Access.names`.
    """

    key: str
    backend: str
    settings: Mapping[str, Any]
    names: Mapping[str, str]

    def text(self) -> str:
        """This intent in an artifact's text, which `intent_in` reads again."""
        return f"```json intent\n{json.dumps(asdict(self))}\n```\n"


class Gallery:
    """What a task shows in Prefect's UI, sent by one thread of the process while the runs go on.

    Prefect's server may take seconds to store an artifact, above all with sqlite, and a run is not to wait for that.
    Its task does, at the end (`finish`): Prefect itself sends nothing any more once the process is about to end.

    Args:
        name: what the task is called, such as `wine_quality/train`.
        say: is given a line for what could not be shown: that is worth no run.
    """

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name = name
        self._say = say
        self._task_run_id, self._flow_run_id = get_task_and_flow_run_ids()
        self._progress_id: UUID | None = None
        self._intent_id: UUID | None = None
        self._shown = 0.0
        self._percent = 0.0
        self._sent: list[threading.Event] = []

    def show_intent(self, intent: Intent) -> None:
        """Show that a run is about to be submitted, until its link is shown, and wait until that is stored."""
        shown = MarkdownArtifact(markdown=f"The run is being submitted.\n\n{intent.text()}")
        self._create("submission", shown, "what is about to be submitted")
        self.finish()

    def show_link(self, run: SubmittedRun, names: Mapping[str, str]) -> None:
        """Show a link to the run in MLflow, with the run's handle, which `handle_in` finds again.

        Args:
            run: the run.
            names: names of the blocks by which it is reached, which `names_in` finds again.
        """
        record = run.record
        url = record.url if record is not None else None
        handle = (
            f"Run `{run.run_id}` of {self.name}. "
            "Its handle, for `mlproj status`, `mlproj logs` and `mlproj cancel`:\n\n"
            f"```json\n{run.handle.to_json()}\n```\n"
        )
        if names:
            handle += f"It is reached by these blocks:\n\n```json blocks\n{json.dumps(names)}\n```\n"
        if url is not None:
            shown: Artifact = LinkArtifact(link=url, link_text=f"{self.name} in MLflow", description=handle)
        else:
            shown = MarkdownArtifact(markdown=handle, description=f"{self.name}, untracked")
        self._create("run", shown, "a link to the run")
        if self._intent_id is not None:
            self._send(partial(_delete, self._intent_id), "that the run is submitted")
            self._intent_id = None

    def show_table(self, parameters: Mapping[str, Any], result: ProjectResult) -> None:
        """Show the parameters and metrics of a finished run.

        Args:
            parameters: the values it was run with, by name.
            result: what it left.
        """
        rows = [{"kind": "parameter", "name": key, "value": str(value)} for key, value in parameters.items()]
        rows += [{"kind": "metric", "name": key, "value": f"{each:g}"} for key, each in sorted(result.metrics.items())]
        if rows:
            shown = TableArtifact(table=rows, description=f"{self.name}: {result.run_id}")
            self._create("values", shown, "the run's parameters and metrics")

    def show_progress(self, line: str) -> None:
        """Show what the builder of an environment says, at most once a second."""
        begins = self._percent == 0.0
        self._percent = max([self._percent, 5.0, *(at for word, at in _MILESTONES if line.lstrip().startswith(word))])
        now = time.monotonic()
        if not begins and now - self._shown < PROGRESS_INTERVAL:
            return
        self._shown = now
        if begins:
            self._create("environment", ProgressArtifact(progress=self._percent, description=line), "the progress")
        else:
            self._update(line)

    def finish_progress(self, line: str) -> None:
        """The environment is there; nothing is shown if none had to be built."""
        if 0.0 < self._percent < 100.0:
            self._percent = 100.0
            self._update(line)

    def finish(self) -> None:
        """Wait until all is sent."""
        for sent in self._sent:
            sent.wait()

    def _create(self, what: str, artifact: Artifact, words: str) -> None:
        request = ArtifactCreate(
            type=artifact.type,
            key=_key(self.name, what),
            description=artifact.description,
            data=artifact.format(_sync=True),  # type: ignore[call-arg]
            task_run_id=self._task_run_id,
            flow_run_id=self._flow_run_id,
        )

        def work() -> None:
            created = _client().create_artifact(request)
            if what == "environment":
                self._progress_id = created.id
            elif what == "submission":
                self._intent_id = created.id

        self._send(work, words)

    def _update(self, line: str) -> None:
        percent = self._percent

        def work() -> None:
            if self._progress_id is not None:
                _client().update_artifact(self._progress_id, ArtifactUpdate(data=percent, description=line))

        self._send(work, "the progress")

    def _send(self, work: Callable[[], None], words: str) -> None:
        sent = threading.Event()

        def careful() -> None:
            try:
                work()
            except Exception as error:
                self._say(f"warning: {words} could not be shown: {error}")
            finally:
                sent.set()

        self._sent.append(sent)
        _sender.put(careful)


class _Sender:
    """A thread that sends one artifact after the other; it does not keep the process from ending."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Context, Callable[[], None]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, work: Callable[[], None]) -> None:
        """Have this called by the thread, in a copy of the context here."""
        self._queue.put((copy_context(), work))
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # the first time, and after a fork
                self._thread = threading.Thread(target=self._send, name="mlproj-artifacts", daemon=True)
                self._thread.start()

    def _send(self) -> None:
        while True:
            context, work = self._queue.get()
            context.run(work)


_sender = _Sender()
_clients: dict[str | None, SyncPrefectClient] = {}


def _client() -> SyncPrefectClient:
    """A client of its own: that of a task is closed when the task is over."""
    url = PREFECT_API_URL.value()
    if url not in _clients:
        # Settings, though none are set, keep Prefect from giving the task's client.
        _clients[url] = get_client(httpx_settings={}, sync_client=True)
    return _clients[url]


def handle_in(text: str) -> RunHandle | None:
    """The handle in an artifact's text that `show_link` wrote; None if there is none."""
    found = _HANDLE.search(text)
    return RunHandle.from_json(found.group(1)) if found is not None else None


def names_in(text: str) -> dict[str, str]:
    """The names of the blocks in an artifact's text that `show_link` wrote."""
    found = _NAMES.search(text)
    return dict(json.loads(found.group(1))) if found is not None else {}


def intent_in(text: str) -> Intent | None:
    """The intent in an artifact's text that `show_intent` wrote; None if there is none."""
    found = _INTENT.search(text)
    return Intent(**json.loads(found.group(1))) if found is not None else None


def _delete(artifact_id: UUID) -> None:
    with suppress(ObjectNotFound):
        _client().delete_artifact(artifact_id)


def _key(name: str, what: str) -> str:
    """A key as Prefect admits it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{name}-{what}".lower()).strip("-")
