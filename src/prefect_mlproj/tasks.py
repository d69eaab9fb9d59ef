"""The tasks: a project's entry point as a task of a flow."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture, PrefectFutureList
from prefect.tasks import MaterializingTask
from prefect.utilities.annotations import NotSet, unmapped
from prefect.utilities.callables import expand_mapping_parameters, get_call_parameters

from mlproj_core.errors import MlprojError
from mlproj_core.runs import attach
from prefect_mlproj.access import Access
from prefect_mlproj.calls import call_of, called_by
from prefect_mlproj.runs import ProjectRun
from prefect_mlproj.states import completed, only_if_it_can_help, refused, value_of
from prefect_mlproj.step import Step, Submission, Waiting, comes_of_termination, in_thread, project_name

if TYPE_CHECKING:
    from mlproj_core.runs import SubmittedRun
    from prefect_mlproj.blocks import GitCredentials, MLflowCredentials

__all__ = ["ProjectTask", "run_project", "submit_project", "wait_for_project"]


class ProjectTask(MaterializingTask[..., Any]):
    """A task whose state mirrors a run, for sync and async flows alike.

    In an async flow or task a call gives a coroutine, to be awaited; `.submit` and `.map` are the same everywhere. A
    call raises what the run's end calls for, also where the flow ignores the result.

    Args:
        fn: the task's work.
        afn: the same as a coroutine function.
        options: those of every Prefect task.
    """

    def __init__(self, fn: Callable[..., Any], afn: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> None:
        super().__init__(fn, assets=options.pop("assets", ()), materialized_by="mlflow", **options)
        self._afn = afn

    def with_options(self, **options: Any) -> ProjectTask:  # type: ignore[override]
        """A task with other options: those of every Prefect task, and `assets` that it materializes."""
        policy = options.get("cache_policy", NotSet)
        if isinstance(policy, CachePolicy) and policy != NO_CACHE:
            options["cache_policy"] = policy - "call"  # two equal calls have equal results, though not the same run
        clone = copy.copy(self)
        clone.__dict__.update(super().with_options(**options).__dict__)
        return clone

    def __call__(  # type: ignore[override]
        self, *args: Any, return_state: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run the project and return what it left.

        Raises:
            ExecutionException: the run failed, with its reason and the last lines of its output.
            CancelledRun: it was cancelled.
            CrashedRun: it was lost.
        """
        run_sync = kwargs.pop("_sync", None)
        parameters = self._named(args, kwargs)
        if (not _in_async_context()) if run_sync is None else run_sync:
            with _interruptions():
                value = super().__call__(return_state=return_state, wait_for=wait_for, **parameters)
            return value_of(value) if isinstance(value, State) and not return_state else value
        return self._awaited(return_state, wait_for, parameters)

    async def _awaited(self, return_state: bool, wait_for: Iterable[Any] | None, parameters: dict[str, Any]) -> Any:
        twin = copy.copy(self)
        twin.fn, twin.isasync = self._afn, True
        with _interruptions():
            value = await super(ProjectTask, twin).__call__(return_state=return_state, wait_for=wait_for, **parameters)
        return value_of(value) if isinstance(value, State) and not return_state else value

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Submit the task to the flow's task runner; its future."""
        options = {name: kwargs.pop(name) for name in ("return_state", "wait_for") if name in kwargs}
        return super().submit(**self._named(args, kwargs), **options)

    def map(self, *args: Any, return_state: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any) -> Any:
        """Submit the task once for each element of the lists among the arguments.

        A mapping, such as one set of parameters or tags, is one value; a list of mappings is mapped over.
        """
        if "deferred" in kwargs:
            return super().map(*args, return_state=return_state, wait_for=wait_for, **kwargs)
        given = get_call_parameters(self.fn, args, kwargs, apply_defaults=False)
        given = {name: _over(value) for name, value in given.items()}
        calls = expand_mapping_parameters(self.fn, given)
        futures: PrefectFutureList[Any] = PrefectFutureList(  # type: ignore[abstract]
            self.submit(**parameters, wait_for=wait_for) for parameters in calls
        )
        if return_state:
            futures.wait()
            return [future.state for future in futures]
        return futures

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, and among them the name of this call in the flow."""
        parameters = get_call_parameters(self.fn, args, kwargs)
        if parameters.get("call", "") is None:
            parameters["call"] = call_of(parameters)
        return parameters


def _over(value: Any) -> Any:
    """A mapping is not mapped over; what another task is yet to give is, once it is there."""
    if isinstance(value, Mapping):
        return unmapped(value)
    if isinstance(value, PrefectFuture):
        return value.result()
    return value


def _in_async_context() -> bool:
    """Whether a call is to give a coroutine: by the task or flow that it is made in, else by whether a loop runs."""
    task_context, flow_context = TaskRunContext.get(), FlowRunContext.get()
    if task_context is not None:
        return task_context.task.isasync
    if flow_context is not None and flow_context.flow is not None:
        return flow_context.flow.isasync
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _task_run_name(parameters: dict[str, Any]) -> str:
    return f"{project_name(parameters['uri'])}/{parameters['entry_point']}"


def _waiting_name(parameters: dict[str, Any]) -> str:
    try:
        handle = attach(ProjectRun.handle_in(parameters["handle"])).handle
    except MlprojError:  # it will be told when the task begins
        return "wait for no run"
    called = called_by(handle.key)
    return f"wait for {project_name(called[0])}/{called[1]}" if called is not None else f"wait for {handle.tag}"


def _run_project(
    uri: str | os.PathLike[str],
    entry_point: str = "main",
    version: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    docker_args: Mapping[str, Any] | None = None,
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    backend: str = "local",
    backend_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    storage_dir: str | None = None,
    run_id: str | None = None,
    run_name: str | None = None,
    env_manager: str | None = None,
    build_image: bool = False,
    docker_auth: Mapping[str, str] | None = None,
    *,
    env_vars: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
    tracking_uri: str | None = None,
    timeout: float | None = None,
    reuse_finished: bool = False,
    mlflow_credentials: MLflowCredentials | None = None,
    git_credentials: GitCredentials | None = None,
    kubernetes_credentials: Any = None,
    docker_credentials: Any = None,
    call: str | None = None,
) -> Any:
    """Run an entry point of an MLflow project as a task, whose state mirrors the run.

    Args:
        uri: the project: a local directory, an archive or a Git URI, each with `#subdirectory` if need be.
        entry_point: name of an entry point, or a `.py`, `.sh` or `.R` file of the project.
        version: for a Git project a branch, tag or commit.
        parameters: values by parameter name; names that the entry point does not declare become `--name value`. That of
            a secret parameter is a `Secret` block or a pydantic `SecretStr`.
        docker_args: arguments for `docker run`, for projects that run in a container.
        experiment_name: the experiment to record the run in, created if it does not exist; or
        experiment_id: its id.
        backend: where to run: "local", "kubernetes", or another backend that is installed.
        backend_config: the backend's own settings: a mapping, or the path to a `.json` file. A local run ends with the
            flow's process, unless `{"detach": True}` is among them.
        storage_dir: directory for data that is fetched for parameters of type path.
        run_id: an existing MLflow run to use instead of creating one.
        run_name: name of the MLflow run.
        env_manager: "virtualenv", "uv", "conda" or "local" (the flow's environment); by default what MLflow takes
            for the project's kind of environment.
        build_image: whether to build an image of the project, for projects that run in a container.
        docker_auth: credentials for a Docker registry.
        env_vars: environment variables for the project. They may be secret.
        tags: tags for the MLflow run, beside those that name the flow run and the task run.
        parent_run_id: id of the MLflow run that this one is nested in.
        tracking_uri: the tracking server or store; by default MLFLOW_TRACKING_URI.
        timeout: seconds after which the run is ended as FAILED, whoever is still there to see it.
        reuse_finished: whether an earlier run that FINISHED with the same commit, entry point and parameters is taken
            instead of running again, if the work tree is clean. Data is not compared.
        mlflow_credentials: a block that names the tracking server, for the task and for the project.
        git_credentials: a block with the login for the project's repository.
        kubernetes_credentials: a block `KubernetesCredentials` of prefect-kubernetes: the cluster, for the backend
            "kubernetes"; by default the one of the kubeconfig, or the one that this process is in.
        docker_credentials: a block `DockerRegistryCredentials` of prefect-docker: the login of the registry that images
            come from, instead of docker_auth.
        call: set by the task itself: the name of this call in the flow.
    """
    return _see_through(Submission(locals()))


@wraps(_run_project)
async def _arun_project(*args: Any, **kwargs: Any) -> Any:
    return await _asee_through(Submission(get_call_parameters(_run_project, args, kwargs)))


@wraps(_run_project)
def _submit_project(*args: Any, **kwargs: Any) -> Any:
    return _begin(Submission(get_call_parameters(_run_project, args, kwargs)))


_submit_project.__doc__ = """Submit a run and do not wait for it: `wait_for_project` does.

The arguments are those of `run_project`. A local run ends with the flow's process here too, unless
`backend_config={"detach": True}`; whoever cancels the flow run ends it in both cases.

Returns:
    A `ProjectRun`.
"""


@wraps(_run_project)
async def _asubmit_project(*args: Any, **kwargs: Any) -> Any:
    return await in_thread(_begin, Submission(get_call_parameters(_run_project, args, kwargs)))


def _wait_for_project(
    handle: ProjectRun | Mapping[str, Any] | str,
    *,
    mlflow_credentials: MLflowCredentials | None = None,
    kubernetes_credentials: Any = None,
) -> Any:
    """Wait for a run that was submitted here or elsewhere; the state mirrors it, as that of `run_project` does.

    Cancelling the flow run ends the run if it is this flow run's own.

    Args:
        handle: what `submit_project` gave, a run's handle, or the JSON text of one.
        mlflow_credentials: a block that names the run's tracking server.
        kubernetes_credentials: a block `KubernetesCredentials` of prefect-kubernetes, which names the run's cluster.
    """
    try:
        step = _waiting(handle, Access(mlflow_credentials, kubernetes_credentials))
    except MlprojError as error:
        return refused(error)
    return _see_through(step)


@wraps(_wait_for_project)
async def _await_for_project(*args: Any, **kwargs: Any) -> Any:
    given = get_call_parameters(_wait_for_project, args, kwargs)
    try:
        step = _waiting(given["handle"], Access(given["mlflow_credentials"], given["kubernetes_credentials"]))
    except MlprojError as error:
        return refused(error)
    return await _asee_through(step)


def _waiting(handle: Any, access: Access) -> Waiting:
    return Waiting(attach(ProjectRun.handle_in(handle)).handle, access)


# -- the work of the tasks, for sync and async ones


def _see_through(step: Step) -> State[Any]:
    try:
        with step.watched():
            if step.comes_too_late:
                return step.not_begun()
            run = step.obtain()
            step.announce(run)
            if step.is_to_follow(run):
                for line, _ in run.read_lines(follow=True):
                    step.hear(run, line)
                run.wait()
            return step.conclude(run)
    except MlprojError as error:
        return refused(error)
    except (TerminationSignal, KeyboardInterrupt) as interruption:
        return _put_off(interruption, step)


async def _asee_through(step: Step) -> State[Any]:
    try:
        async with step.watched_async():
            if step.comes_too_late:
                return step.not_begun()
            run: SubmittedRun = await in_thread(step.obtain)
            step.announce(run)
            if step.is_to_follow(run):
                async with aclosing(run.read_lines_async()) as lines:
                    async for line, _ in lines:
                        step.hear(run, line)
                await run.wait_async()
            state: State[Any] = await in_thread(step.conclude, run)
            return state
    except MlprojError as error:
        return refused(error)
    except (TerminationSignal, KeyboardInterrupt, asyncio.CancelledError) as interruption:
        return _put_off(interruption, step)


_put_off_here: ContextVar[list[BaseException] | None] = ContextVar("mlproj_interruptions", default=None)
"""Where a call of a task that is at work here wants to find what has interrupted it."""


@contextmanager
def _interruptions() -> Iterator[None]:
    """Let a task that is interrupted have the state that its run has, before the interruption goes on its way.

    Prefect takes every interruption for a crash of the task.
    """
    found: list[BaseException] = []
    token = _put_off_here.set(found)
    try:
        yield
    finally:
        _put_off_here.reset(token)
    if found:
        raise found[0]


def _put_off(interruption: BaseException, step: Step) -> State[Any]:
    """The state of an interrupted task whose run was ended; any other interruption goes on at once."""
    found = _put_off_here.get()
    if isinstance(interruption, asyncio.CancelledError) and not comes_of_termination(interruption):
        raise interruption  # it belongs to whoever cancels, such as Prefect's own time limit
    if found is None or not step.was_ended:
        raise interruption
    found.append(interruption)
    return step.interrupted()


def _begin(step: Submission) -> State[Any]:
    try:
        with step.watched(until_over=True):
            if step.comes_too_late:
                return step.not_begun()
            run = step.obtain()
            step.gallery.finish()
            return completed(ProjectRun.of(run, step.access), f"submitted: run {run.run_id}")
    except MlprojError as error:
        return refused(error)


_OPTIONS: dict[str, Any] = {
    # No tags of their own: of a tagged task Prefect asks its server for a place before it begins, which takes seconds
    # where that is busy.
    # The run itself is what is found again: a cache of Prefect's would be a second opinion.
    "cache_policy": NO_CACHE,
    "persist_result": True,
    "retry_condition_fn": only_if_it_can_help,
    "viz_return_value": "a run",
}

run_project = ProjectTask(_run_project, _arun_project, name="run_project", task_run_name=_task_run_name, **_OPTIONS)
submit_project = ProjectTask(
    _submit_project, _asubmit_project, name="submit_project", task_run_name=_task_run_name, **_OPTIONS
)
wait_for_project = ProjectTask(
    _wait_for_project, _await_for_project, name="wait_for_project", task_run_name=_waiting_name, **_OPTIONS
)
