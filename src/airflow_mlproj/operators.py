"""The operator: a project's entry point as a task."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset, BaseOperator, conf

from airflow_mlproj.links import LINKS, BackendLink, MLflowRunLink
from airflow_mlproj.withheld import Withheld

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_mlproj.step import Step
    from airflow_mlproj.vigil import Vigil
    from mlproj_core.backends import Backend
    from mlproj_core.containers import Container
    from mlproj_core.request import RunRequest
    from mlproj_core.runs import SubmittedRun

__all__ = ["MLProjectOperator"]

POLL_INTERVAL = 30.0
"""Seconds between looks at a run of which no news comes by itself."""

DEFER_AFTER = 10.0
"""Seconds that a task waits in its worker before it is deferred.

The scheduler hears some 5 s late that a task has left its worker. One that is back by then can be failed falsely, for a
state that does not match; so what ends within seconds is not deferred at all.
"""

LAST_WORDS = 10.0
"""Seconds for the rest of the output of a run that is over."""

LABEL_LENGTH = 250
"""Characters of a mapped task's label: Airflow's limit for `rendered_map_index`."""


class MLProjectOperator(BaseOperator):
    """Runs an entry point of an MLflow project.

    The project is run once for each task instance, however often Airflow starts the task: a retry finds the run of the
    try before it, and starts another only if that one has failed. Clearing the task runs it again.

    The return value is a mapping with the keys `run_id`, `status`, `experiment_id`, `artifact_uri`, `tracking_url`,
    `metrics`, `result` (what the project left at `MLPROJ_RESULT`) and `handle`; each is an XCom key of its own too.

    Args:
        uri: the project: a Git URL, an absolute path, or a path in the DAG's own bundle, from its root; each with
            `#subdirectory` if need be.
        entry_point: name of an entry point, or a `.py`, `.sh` or `.R` file of the project.
        version: for a Git project a branch, tag or commit.
        parameters: values by parameter name; not those of secret parameters, which belong in `env_vars`, since Airflow
            is shown what stands here.
        docker_args: arguments for `docker run`, for projects that run in a container.
        experiment_name: the experiment to record the run in, created if it does not exist; or
        experiment_id: its id.
        backend: where to run: "local", "kubernetes", or another backend that is installed.
        backend_config: the backend's own settings: a mapping, or the path to a `.json` file.
        storage_dir: directory for data that is fetched for parameters of type path.
        run_id: an existing MLflow run to use instead of creating one.
        run_name: name of the MLflow run.
        env_manager: "virtualenv", "uv", "conda" or "local" (the worker's environment); by default what MLflow takes
            for the project's kind of environment.
        build_image: whether to build an image of the project, for projects that run in a container.
        docker_auth: credentials for a Docker registry. Airflow is not shown its values.
        env_vars: environment variables for the project. Airflow is not shown their values.
        tags: tags for the MLflow run, beside those that name the task.
        parent_run_id: id of the MLflow run that this one is nested in.
        tracking_uri: the tracking server or store; by default that of the connection, else of the worker's variables.
        timeout: seconds (or a timedelta) after which the backend ends the run, whoever is still there to see it.
        mlflow_conn_id: a connection of the type `mlflow`: the tracking server, for the task and for the project.
        git_conn_id: a connection of the type `git` (of the Git provider), for the project's repository.
        kubernetes_conn_id: a connection of the type `kubernetes` (of the Kubernetes provider): the cluster, for the
            backend "kubernetes"; by default the one of the worker's kubeconfig, or the one that the worker is in.
        docker_conn_id: a connection of the type `docker`: the login of the registry that images come from, instead of
            docker_auth.
        reuse_finished: whether an earlier run that FINISHED with the same commit, entry point and parameters is taken
            instead of running again, if the work tree is clean. Data is not compared. Clearing the task runs it.
        wait_for_completion: whether to wait for the run's end. If not, `MLProjectRunSensor` can.
        deferrable: whether to wait in the triggerer; by default what `[operators] default_deferrable` says. For the
            backend "local" only if it is given here, and the run can be found again from every host.
        poll_interval: seconds between looks at a run of which no news comes by itself; 30 by default.
        cancel_on_kill: whether the run is ended when the task is marked, cleared or timed out.
        durable: whether the tries of a task instance share a run. If not, every try starts one of its own.
        skip_on_exit_code: exit code, or codes, of the project that skip the task.
    """

    template_fields: Sequence[str] = (
        "uri",
        "entry_point",
        "version",
        "parameters",
        "docker_args",
        "experiment_name",
        "experiment_id",
        "backend",
        "backend_config",
        "storage_dir",
        "run_id",
        "run_name",
        "env_manager",
        "docker_auth",
        "env_vars",
        "tags",
        "parent_run_id",
        "tracking_uri",
        "timeout",
        "mlflow_conn_id",
        "git_conn_id",
        "kubernetes_conn_id",
        "docker_conn_id",
        "commit",
        "command",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "parameters": "json",
        "docker_args": "json",
        "backend_config": "json",
        "docker_auth": "json",
        "env_vars": "json",
        "tags": "json",
        "command": "bash",
    }
    # The rendered fields show at the end which commit and which command were run.
    overwrite_rtif_after_execution = True
    operator_extra_links: Collection[BaseOperatorLink] = LINKS
    ui_color = "#e5f4fb"

    # What is not given stands here, once for all tasks: to set an attribute of a task is what a DAG's parse spends its
    # time on.
    version: str | None = None
    parameters: Mapping[str, Any] | None = None
    docker_args: Mapping[str, Any] | None = None
    experiment_name: str | None = None
    experiment_id: str | None = None
    backend_config: Mapping[str, Any] | str | None = None
    storage_dir: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    env_manager: str | None = None
    build_image: bool = False
    docker_auth: Withheld | None = None
    env_vars: Withheld | None = None
    tags: Mapping[str, str] | None = None
    parent_run_id: str | None = None
    tracking_uri: str | None = None
    timeout: float | timedelta | None = None
    reuse_finished: bool = False
    mlflow_conn_id: str | None = None
    git_conn_id: str | None = None
    kubernetes_conn_id: str | None = None
    docker_conn_id: str | None = None
    wait_for_completion: bool = True
    deferrable: bool | None = None
    poll_interval: float = POLL_INTERVAL
    cancel_on_kill: bool = True
    durable: bool = True
    skip_on_exit_code: tuple[int, ...] = ()
    # Known once the run is submitted.
    commit: str | None = None
    command: str | None = None
    pages: Mapping[str, str] = MappingProxyType({})
    _vigil: Vigil | None = None
    _killed: bool = False

    def __init__(
        self,
        *,
        uri: str,
        entry_point: str = "main",
        version: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        docker_args: Mapping[str, Any] | None = None,
        experiment_name: str | None = None,
        experiment_id: str | None = None,
        backend: str = "local",
        backend_config: Mapping[str, Any] | str | None = None,
        storage_dir: str | None = None,
        run_id: str | None = None,
        run_name: str | None = None,
        env_manager: str | None = None,
        build_image: bool = False,
        docker_auth: Mapping[str, str] | None = None,
        env_vars: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_run_id: str | None = None,
        tracking_uri: str | None = None,
        timeout: float | timedelta | None = None,
        reuse_finished: bool = False,
        mlflow_conn_id: str | None = None,
        git_conn_id: str | None = None,
        kubernetes_conn_id: str | None = None,
        docker_conn_id: str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool | None = None,
        poll_interval: float | None = None,
        cancel_on_kill: bool = True,
        durable: bool = True,
        skip_on_exit_code: int | Collection[int] | None = None,
        **kwargs: Any,
    ) -> None:
        # Each field of the return value is an XCom key of its own, for `train.output["run_id"]`.
        kwargs.setdefault("multiple_outputs", True)
        super().__init__(**kwargs)
        self.uri = uri
        self.entry_point = entry_point
        self.backend = backend
        if docker_auth:
            self.docker_auth = Withheld(docker_auth)
        if env_vars:
            self.env_vars = Withheld(env_vars)
        if not wait_for_completion:
            self.wait_for_completion = False
        if not cancel_on_kill:
            self.cancel_on_kill = False
        if not durable:
            self.durable = False
        if skip_on_exit_code is not None:
            codes = (skip_on_exit_code,) if isinstance(skip_on_exit_code, int) else skip_on_exit_code
            self.skip_on_exit_code = tuple(codes)
        given = {
            "version": version,
            "parameters": parameters,
            "docker_args": docker_args,
            "experiment_name": experiment_name,
            "experiment_id": experiment_id,
            "backend_config": backend_config,
            "storage_dir": storage_dir,
            "run_id": run_id,
            "run_name": run_name,
            "env_manager": env_manager,
            "build_image": build_image or None,
            "tags": tags,
            "parent_run_id": parent_run_id,
            "tracking_uri": tracking_uri,
            "timeout": timeout,
            "reuse_finished": reuse_finished or None,
            "mlflow_conn_id": mlflow_conn_id,
            "git_conn_id": git_conn_id,
            "kubernetes_conn_id": kubernetes_conn_id,
            "docker_conn_id": docker_conn_id,
            "deferrable": deferrable,
            "poll_interval": poll_interval,
        }
        for name, value in given.items():
            if value is not None:
                setattr(self, name, value)

    # -- what Airflow calls

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit the run, or find the one that is at it, and see it through."""
        from airflow_mlproj.hooks import tracking_variables
        from airflow_mlproj.outcome import airflow_words, underway
        from airflow_mlproj.placement import is_found_from_elsewhere
        from airflow_mlproj.request import request_of, settings_of
        from airflow_mlproj.step import Step

        self._label(context, self.parameters)
        limit = self.execution_timeout
        deadline = None if limit is None else time.time() + limit.total_seconds()
        with airflow_words(), tracking_variables(self.mlflow_conn_id):
            step = Step.of(context, durable=self.durable)
            backend, settings = self._backend(), settings_of(self)
            request = request_of(self, backend, settings, context)
            with self._watch(context, step, backend.configure(settings)) as vigil:
                run = self._submit(request, backend, settings, step, vigil)
                self._show(context, run)
                if not self.wait_for_completion:
                    return underway(run)
                defers = vigil.placement is not None and vigil.placement.defers
                while not vigil.keep(run, self.log.info, time.monotonic() + DEFER_AFTER if defers else None):
                    if is_found_from_elsewhere(run):
                        self._leave(context, run, vigil.cursor, deadline)
                return self._conclude(context, run, vigil)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], handle: Mapping[str, Any], deadline: float | None
    ) -> dict[str, Any]:
        """Go on where the trigger ended.

        Args:
            context: the task's.
            event: what `MLProjectRunTrigger` says.
            handle: the run's.
            deadline: when this try must have ended, in seconds since the epoch; None for no limit.
        """
        from airflow.sdk.exceptions import AirflowTaskTimeout

        from airflow_mlproj.hooks import tracking_variables
        from airflow_mlproj.outcome import airflow_words
        from airflow_mlproj.placement import Placement
        from airflow_mlproj.request import settings_of
        from airflow_mlproj.step import Step
        from mlproj_core.runs import attach

        with airflow_words(), tracking_variables(self.mlflow_conn_id):
            step = Step.of(context, durable=self.durable)
            backend = self._backend().configure(settings_of(self))
            run = attach(handle, self._say, backend)
            step = replace(step, key=run.handle.key)  # where tries share nothing, this one has a key already
            self._label(context, self.parameters or run.request.get("parameters"))
            self._show(context, run)
            with self._watch(context, step, backend, event["cursor"]) as vigil:
                vigil.placement = Placement(tethered=False, defers=False)
                # Airflow's own limit begins anew at every return to a worker.
                left = None if deadline is None else max(LAST_WORDS, deadline - time.time())
                is_over = vigil.keep(run, self.log.info, None if left is None else time.monotonic() + left)
                if event["timed_out"] or not is_over:
                    raise AirflowTaskTimeout(f"Run {run.handle.tag} was ended: it took longer than execution_timeout")
                return self._conclude(context, run, vigil)

    def on_kill(self) -> None:
        """Called in a signal handler, in the middle of anything: only leaves word for the thread that ends the run."""
        self._killed = True
        if self._vigil is not None:
            self._vigil.end_soon()

    # -- before the run

    def _backend(self) -> Backend:
        """The backend, with the client of the connection if there is one."""
        from airflow_mlproj.connections import backend_for

        return backend_for(self.backend, self.kubernetes_conn_id)

    def _submit(
        self, request: RunRequest, backend: Backend, settings: Mapping[str, Any], step: Step, vigil: Vigil
    ) -> SubmittedRun:
        from airflow_mlproj.origin import git_login
        from airflow_mlproj.placement import engine_is_remote, place
        from airflow_mlproj.settings import runs_on_one_host
        from mlproj_core.runner import submit_request

        def ends_with_task(findable: bool) -> bool:
            vigil.placement = place(
                runs_here=backend.runs_here,
                findable=findable,
                retry_remains=step.retry_remains,
                durable=self.durable,
                waits=self.wait_for_completion,
                deferrable=self.deferrable,
                defers_by_default=conf.getboolean("operators", "default_deferrable", fallback=False),
                detach=settings.get("detach"),
            )
            return vigil.placement.tethered

        tethered: bool | Callable[[Container | None], bool]
        if backend.runs_here and not runs_on_one_host() and engine_is_remote(os.environ):
            # Only the project's files say whether it runs in a container.
            def tethered(container: Container | None) -> bool:
                return ends_with_task(container is not None)
        else:
            tethered = ends_with_task(runs_on_one_host())
        with git_login(self.git_conn_id, str(request.uri)):
            run = submit_request(
                request,
                tethered=tethered,
                key=step.key,
                turn=step.turn,
                fresh_after=step.fresh_after,
                handle=step.store.handle,
                exposed=True,  # Airflow stores the rendered fields
                report=self._say,
            )
        step.store.handle = run.handle
        return run

    # -- while it runs, and after

    def _watch(self, context: Context, step: Step, backend: Backend, cursor: int | None = None) -> Vigil:
        from airflow_mlproj.vigil import Vigil

        self._vigil = Vigil(context["ti"], step, backend, self._say, ends_run=self.cancel_on_kill, cursor=cursor)
        if self._killed:  # before anybody could hear it
            self._vigil.end_soon()
        return self._vigil

    def _show(self, context: Context, run: SubmittedRun) -> None:
        """Show where the run is, and what it runs, from now on."""
        request, record = run.request, run.record
        self._mask(request.get("secrets", ()))
        self.commit, self.command = request.get("commit"), request.get("command")
        pages = {MLflowRunLink.xcom_key: record.url if record else None, BackendLink.xcom_key: run.page}
        self.pages = {key: url for key, url in pages.items() if url}
        # Whoever looks for the run while it runs, or after it failed, finds it by these.
        found = {"run_id": run.run_id, "handle": run.handle.to_dict(), **self.pages}
        for key, value in found.items():
            context["ti"].xcom_push(key=key, value=value)
        # At the end Airflow would push them again, and an empty one for each that there is not.
        self.operator_extra_links = ()

    def _mask(self, names: Iterable[str]) -> None:
        """Mask the project's secret parameters in this task's log, should the project print one."""
        from airflow.sdk.log import mask_secret

        known = {**os.environ, **(self.env_vars.values if self.env_vars else {})}
        for name in names:
            if name in known:
                mask_secret(str(known[name]))

    def _leave(self, context: Context, run: SubmittedRun, cursor: int, deadline: float | None) -> None:
        from airflow_mlproj.triggers import CURSOR_KEY, MLProjectRunTrigger, cursor_note

        handle = run.handle.to_dict()
        # A triggerer knows no secret, and could not mask one that the project prints.
        stream = not run.request.get("secrets")
        if not stream:
            self._say("the project has secret parameters: its output follows when the task is back in a worker")
        context["ti"].xcom_push(key=CURSOR_KEY, value=cursor_note(run.handle, cursor))
        self.defer(
            trigger=MLProjectRunTrigger(
                handle=handle,
                cursor=cursor,
                deadline=deadline,
                poll_interval=self.poll_interval,
                cancel_on_kill=self.cancel_on_kill,
                not_before=time.time() + DEFER_AFTER,
                stream=stream,
                mlflow_conn_id=self.mlflow_conn_id,
                kubernetes_conn_id=self.kubernetes_conn_id,
            ),
            method_name="execute_complete",
            kwargs={"handle": handle, "deadline": deadline},
        )

    def _conclude(self, context: Context, run: SubmittedRun, vigil: Vigil) -> dict[str, Any]:
        from airflow_mlproj.outcome import MLProjectFailed, MLProjectRefused, conclude

        try:
            value = conclude(run, self.skip_on_exit_code)
        except MLProjectRefused as refused:
            if vigil.is_ending:  # the worker shuts down: the run was not ended by anybody who wants no other
                raise MLProjectFailed(str(refused), reason=refused.reason, handle=refused.handle) from None
            raise
        told = {name: value[name] for name in ("run_id", "tracking_url", "artifact_uri", "metrics", "result")}
        for outlet in self.outlets:
            if isinstance(outlet, Asset):  # an alias stands for assets that the DAG adds itself
                context["outlet_events"][outlet].extra.update(told)
        return value

    def _label(self, context: Context, parameters: Any) -> None:
        """Name a mapped task by its parameters, unless the DAG names it."""
        index = context["ti"].map_index
        if index is None or index < 0:
            return
        # For a mapped task the template counts only when it stands in the context.
        named = parameters.items() if isinstance(parameters, Mapping) else ()
        label = ", ".join(f"{name}={value}" for name, value in named)[:LABEL_LENGTH]
        if template := self.map_index_template or ("{{ mlproj_label }}" if label else None):
            context["map_index_template"] = template
            context["mlproj_label"] = label  # type: ignore[typeddict-unknown-key]

    def _say(self, line: str) -> None:
        (self.log.warning if line.startswith("warning") else self.log.info)(f"[mlproj] {line}")
