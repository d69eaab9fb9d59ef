"""One task's work on a run: it is submitted or found, followed, and concluded; or ended, if the task is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import copy_context
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.blocks.system import Secret
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Running
from prefect.tasks import Task
from prefect.utilities.engine import emit_task_run_state_change_event
from prefect.utilities.urls import url_for

# By the thread that imports the flow. Threads of tasks that import a package for the first time at once, one its parts
# and one the whole, can find it half made.
import mlproj_core.parameters
import mlproj_core.spec  # noqa: F401
from mlproj_core.errors import MlprojError, Superseded, UserError
from mlproj_core.request import RunRequest, read_backend_config
from mlproj_core.runs import attach
from mlproj_core.status import Phase, RunStatus
from mlproj_core.tracking.surroundings import OF_A_SERVER
from prefect_mlproj.access import Access, registry_login
from prefect_mlproj.artifacts import Gallery, Intent
from prefect_mlproj.calls import flow_run_here, key_of, path_of, place_of, tries_of
from prefect_mlproj.results import ProjectResult
from prefect_mlproj.states import completed, ended
from prefect_mlproj.watcher import CANCELLED, watcher

if TYPE_CHECKING:
    from mlproj_core.backends import Backend
    from mlproj_core.handle import RunHandle
    from mlproj_core.runs import SubmittedRun

__all__ = ["PREFECTS_OWN", "Step", "Submission", "Waiting", "comes_of_termination", "in_thread", "project_name"]

PREFECTS_OWN = ("PREFECT_*", "PREFECT__*")
"""Patterns of variables that are Prefect's, with its secrets among them: no business of a project."""

DETACH = "detach"
"""The setting of the local backend by which a run outlives the process that asked for it."""

_PHASES = {
    Phase.QUEUED: "queued",
    Phase.IMAGE: "its image is being fetched or built",
    Phase.ENVIRONMENT: "its environment is being built",
    Phase.DATA: "its data is being fetched",
    Phase.RUNNING: "the project runs",
}


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a thread of its own: the loop's pool of threads is small, and others wait in it."""
    from anyio import CapacityLimiter, to_thread

    return await to_thread.run_sync(function, *args, limiter=CapacityLimiter(1), abandon_on_cancel=True)


def project_name(uri: str | os.PathLike[str]) -> str:
    """A project's short name, out of its URI: the last part of the path, or of the subdirectory in it."""
    path, _, subdirectory = os.fspath(uri).partition("#")
    last = (subdirectory.strip("/") or path.rstrip("/")).rpartition("/")[2].rpartition(":")[2]
    return last.removesuffix(".git") or path


class Step(ABC):
    """A task's work on one run: what `Submission` and `Waiting` have in common.

    Args:
        name: what the task is called, such as `wine_quality/train`.
        access: the blocks by which the run is reached.

    Attributes:
        was_ended: whether the run was ended since the task was.
    """

    def __init__(self, name: str, access: Access) -> None:
        context = TaskRunContext.get()
        if context is None:
            raise RuntimeError("A step is the work of a Prefect task; it has no other place.")
        self.name = name
        self.task: Task[..., Any] = context.task
        self.task_run: TaskRun = context.task_run
        self.flow_run = flow_run_here()
        self.place = place_of(self.flow_run) if self.flow_run is not None else None
        self.logger = get_run_logger()
        self.access = access
        self._context = copy_context()
        self.gallery = Gallery(name, self.say)
        self._preparing = True
        self._said_end = False
        self.was_ended = False

    @property
    def flow_run_id(self) -> UUID | None:
        """The flow run that it belongs to; None outside a flow."""
        return self.flow_run.id if self.flow_run is not None else None

    @property
    @abstractmethod
    def tethered(self) -> bool:
        """Whether the run ends with this process, however that ends."""

    @abstractmethod
    def obtain(self) -> SubmittedRun:
        """The run, submitted or found."""

    @abstractmethod
    def is_to_follow(self, run: SubmittedRun) -> bool:
        """Whether the run's output is to be seen here."""

    @abstractmethod
    def _cancel(self) -> None:
        """End the run, or see to it that none begins."""

    # -- what a task does with it

    @contextlib.contextmanager
    def watched(self, until_over: bool = False) -> Iterator[None]:
        """While this lasts, the run is ended when its flow run is cancelled, or when this task is ended.

        Args:
            until_over: whether its flow run is followed until that is over, whoever waits for the run meanwhile.
        """
        with self._followed(until_over):
            try:
                yield
            except BaseException as error:
                if self._is_to_end(error):
                    self.end()
                    self.was_ended = True
                raise

    @contextlib.asynccontextmanager
    async def watched_async(self) -> AsyncIterator[None]:
        """As `watched`; several that are ended at once do not wait for one another."""
        with self._followed():
            try:
                yield
            except BaseException as error:
                if await in_thread(self._is_to_end, error):
                    await asyncio.shield(in_thread(self.end))
                    self.was_ended = True
                raise

    @contextlib.contextmanager
    def _followed(self, until_over: bool = False) -> Iterator[None]:
        with self.access.lent():
            self._context = copy_context()
            watcher.add(self)
            try:
                yield
            except BaseException:
                until_over = False
                raise
            finally:
                if not until_over:
                    watcher.remove(self)

    @property
    def comes_too_late(self) -> bool:
        """Whether the flow run is known to be cancelled, so that nothing is to be begun."""
        return watcher.knows_cancelled(self.flow_run_id)

    def not_begun(self) -> State[Any]:
        """The state of a task that comes too late."""
        return Cancelled(message="The flow run is cancelled: nothing was started.")

    def interrupted(self) -> State[Any]:
        """The state of a task that was ended, and its run with it."""
        return Cancelled(message="The task was ended, and its run with it.")

    def hear(self, run: SubmittedRun, line: str) -> None:
        """Log a line of the run's output, and take notice of what it tells of the run's phase."""
        self._log(line)
        if not self._preparing:
            return
        phase = run.phase
        if phase is Phase.ENVIRONMENT:
            self.gallery.show_progress(line)
        self.announce(run, phase)

    def conclude(self, run: SubmittedRun) -> State[Any]:
        """The task's state, for a run that is over."""
        state = self._conclusion(run)
        self.gallery.finish()
        return state

    def _conclusion(self, run: SubmittedRun) -> State[Any]:
        if run.get_status() is not RunStatus.FINISHED:
            return ended(run, self.task, self.task_run)
        result = ProjectResult.of(run)
        self.gallery.show_table(run.request.get("parameters", {}), result)
        self._materialize(result)
        return completed(result, f"FINISHED: run {result.run_id}")

    def end(self) -> None:
        """End the run, or see to it that none begins. Called by the watcher, and for a task that is ended."""
        self._context.copy().run(self._end)

    def say(self, line: str) -> None:
        """Log one of mlproj's own lines."""
        self._log(f"[mlproj] {line}")

    # --

    def _end(self) -> None:
        if not self._said_end:  # both the watcher and a signal may ask for it
            self._said_end = True
            self.say("ending the run")
        try:
            self._cancel()
        except (Superseded, UserError) as error:
            self.say(str(error))
        except MlprojError as error:
            self.say(f"warning: the run could not be ended from here: {error}")

    def _is_to_end(self, error: BaseException) -> bool:
        """Whether the run is to end with a task that ends by this error."""
        if isinstance(error, (TimeoutError, KeyboardInterrupt)):
            return True
        if isinstance(error, Exception):  # the run goes on: the next try finds it
            return False
        if self.tethered or watcher.knows_cancelled(self.flow_run_id):
            return True
        if isinstance(error, asyncio.CancelledError) and not comes_of_termination(error):
            return True
        return self._is_cancelled()

    def _is_cancelled(self) -> bool:
        """Whether the flow run is cancelled, by the server's word; if it cannot be asked, it is not."""
        from prefect.client.orchestration import get_client

        if self.flow_run_id is None:
            return False
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(self.flow_run_id).state
        except Exception as error:
            self.say(f"Prefect's server could not be asked whether the flow run is cancelled: {error}")
            return False
        return state is not None and state.type in CANCELLED

    def announce(self, run: SubmittedRun, phase: Phase | None = None) -> None:
        """Let the task run's state say in which phase its run is."""
        phase = run.phase if phase is None else phase
        message = f"{_PHASES[phase]} ({run.handle.tag})" if phase in _PHASES else None
        if phase is Phase.RUNNING or phase is Phase.ENDED:
            self._preparing = False
            self.gallery.finish_progress("The environment is ready.")
        before = self.task_run.state
        if message is None or before is None or message == before.message:
            return
        state: State[Any] = Running(message=message)
        state.state_details.task_run_id = self.task_run.id
        state.state_details.flow_run_id = self.task_run.flow_run_id
        self.task_run.total_run_time += state.timestamp - before.timestamp
        self.task_run.state, self.task_run.state_id = state, state.id
        self.task_run.state_type, self.task_run.state_name = state.type, state.name
        emit_task_run_state_change_event(task_run=self.task_run, initial_state=before, validated_state=state)

    def _materialize(self, result: ProjectResult) -> None:
        """Tell of the run in the metadata of the assets that the task makes (`with_options(assets=…)`)."""
        from prefect.assets import add_asset_metadata

        for asset in getattr(self.task, "assets", ()):
            facts: dict[str, Any] = {"mlflow.run_id": result.run_id, **result.metrics}
            if result.tracking_url:
                facts["mlflow.url"] = result.tracking_url
            add_asset_metadata(asset, facts)

    def _log(self, line: str) -> None:
        (self.logger.warning if line.startswith("[mlproj] warning") else self.logger.info)(line)


class Submission(Step):
    """A task that is to have a run of a project.

    Args:
        arguments: those of the task, by name.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        name = f"{project_name(arguments['uri'])}/{arguments['entry_point']}"
        super().__init__(name, Access(arguments["mlflow_credentials"], arguments["kubernetes_credentials"]))
        self._arguments = arguments
        self.key = key_of(arguments.get("call"), arguments, self.place)
        around = (*(self.place.run_counts if self.place is not None else (1,)), *tries_of(arguments.get("call")))
        self.turn = (*around, self.task_run.run_count)

    @cached_property
    def backend(self) -> Backend:
        """Where it is to be run; not bound to the request's configuration yet.

        Raises:
            UserError: there is no such backend, or a block that it has no use for.
        """
        return self.access.backend(self._arguments["backend"])

    @cached_property
    def request(self) -> RunRequest:
        """What is to be run.

        Raises:
            UserError: it cannot be.
        """
        given = {name: value for name, value in self._arguments.items() if name in RunRequest.__dataclass_fields__}
        if isinstance(given["parameters"], Mapping):
            values = given["parameters"].items()
            given["parameters"] = {name: one.value if isinstance(one, Secret) else one for name, one in values}
        given["backend"] = self.backend
        given["backend_config"] = read_backend_config(given["backend_config"])
        given["tags"] = {**self._tags(), **(given["tags"] or {})}
        given["withhold"] = PREFECTS_OWN
        if (variables := self.access.variables()) is not None:
            if given["tracking_uri"]:
                raise UserError(
                    "Give tracking_uri or mlflow_credentials, not both: the credentials are for a server of their own."
                )
            given["env_vars"] = {**variables, **(given["env_vars"] or {})}
            given["withhold"] = (*PREFECTS_OWN, *OF_A_SERVER, "MLPROJ_TRACKING")
        if (git := self._arguments["git_credentials"]) is not None:
            given["git_token"] = git.token_for(os.fspath(given["uri"]))
        if (login := self._arguments["docker_credentials"]) is not None:
            if given["docker_auth"]:
                raise UserError("Give docker_auth or docker_credentials, not both: each is a registry's login.")
            given["docker_auth"] = registry_login(login)
        if (limit := self.task.timeout_seconds) is not None:  # in a worker thread Prefect itself can end nothing
            given["timeout"] = min(limit, given["timeout"] or limit)
        return RunRequest(**given)

    @property
    def tethered(self) -> bool:
        """A run of this host is, unless the request says otherwise; one that is elsewhere never is."""
        return self.backend.runs_here and not self._settings.get(DETACH, False)

    def obtain(self) -> SubmittedRun:
        """Submit the run, or find the one that is at it, and show it in Prefect."""
        from mlproj_core.runner import submit_request

        # Of a call's parameters its key holds a digest, which tells who guesses that a guess was right.
        request = self.request
        if not self.backend.runs_here:
            self.gallery.show_intent(Intent(self.key, self.backend.name, self._settings, self.access.names()))
        run = submit_request(
            request, tethered=self.tethered, key=self.key, turn=self.turn, exposed=True, report=self.say
        )
        self.gallery.show_link(run, self.access.names())
        return run

    def is_to_follow(self, run: SubmittedRun) -> bool:
        """Not if it was over before this try, which then only takes its result."""
        if run.turn == self.turn or run.get_status() is RunStatus.RUNNING:
            return True
        self.say(
            f"the run was over before this try ({run.get_status()}); its output is in the logs of the try that saw it"
        )
        return False

    def _cancel(self) -> None:
        from mlproj_core.protocol import cancel_key

        cancel_key(self.backend.configure(self._settings), self.key, self.turn, self.say)

    @property
    def _settings(self) -> dict[str, Any]:
        return read_backend_config(self.request.backend_config)

    def _tags(self) -> dict[str, str]:
        """Tags by which a run in MLflow leads back to its task run."""
        tags = {
            "prefect.task_run_id": str(self.task_run.id),
            "prefect.task_run_name": self.task_run.name,
            "prefect.run_count": str(self.task_run.run_count),
        }
        if self.flow_run is not None:
            tags["prefect.flow_run_id"] = str(self.flow_run.id)
            tags["prefect.flow_run_name"] = self.flow_run.name
        context = FlowRunContext.get()
        if context is not None and context.flow is not None:
            tags["prefect.flow_name"] = context.flow.name
        if url := url_for(self.task_run):
            tags["prefect.task_run_url"] = url
        return tags


class Waiting(Step):
    """A task that waits for a run which another one has submitted.

    Args:
        handle: the run's.
        access: the blocks by which the run is reached.
    """

    def __init__(self, handle: RunHandle, access: Access) -> None:
        super().__init__(handle.tag, access)
        self.handle = handle

    @property
    def tethered(self) -> bool:
        """It is another task's."""
        return False

    def obtain(self) -> SubmittedRun:
        """Find the run."""
        run = self._run()
        request = run.request
        if request:
            self.name = self.gallery.name = f"{project_name(request['uri'])}/{request['entry_point']}"
        return run

    def is_to_follow(self, run: SubmittedRun) -> bool:
        """It always is: the task that submitted the run did not see its output."""
        return True

    def _is_to_end(self, error: BaseException) -> bool:
        """Only if somebody ends the flow run: a limit of the waiting says nothing of the run."""
        if isinstance(error, Exception):
            return False
        return isinstance(error, KeyboardInterrupt) or self.comes_too_late or self._is_cancelled()

    def _cancel(self) -> None:
        path = path_of(self.handle.key)
        if path is None or self.place is None or path[0] != self.place.path[0]:
            self.say("the run is not this flow run's: it goes on")
            return
        self._run().cancel()

    def _run(self) -> SubmittedRun:
        return attach(self.handle, self.say, self.access.backend(self.handle.backend))


def comes_of_termination(error: BaseException) -> bool:
    """Whether a coroutine is cancelled because a signal ends its event loop, and not by anybody's wish."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TerminationSignal):
            return True
        cause = cause.__context__
    return False
