"""The flow from what the user asks to a submitted run: fetch, load, bind, submit, attach."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from mlproj_core.claim import read_turn
from mlproj_core.errors import UserError
from mlproj_core.handle import RunHandle, key_digest
from mlproj_core.launch import Launch, visible
from mlproj_core.locations import state_dir
from mlproj_core.report import Report, log
from mlproj_core.request import RunRequest, read_backend_config
from mlproj_core.runs import SubmittedRun, attach
from mlproj_core.status import RunStatus

if TYPE_CHECKING:
    from mlproj_core.backends import Backend
    from mlproj_core.containers import Container
    from mlproj_core.data.remote import Download
    from mlproj_core.sources import Checkout, Upstream
    from mlproj_core.tracking import Tracking

__all__ = ["run", "submit", "submit_request"]

DETACH = "detach"

ELSEWHERE = "/tmp/mlproj-data"  # noqa: S108 - of a pod's own
"""Where data is put on another machine, if the caller does not say."""

DIGEST_TAG = "mlproj.source.sha256"
"""The tag with the digest of the archive that a project came in."""

IMAGE_TAG = "mlflow.docker.image.uri"
"""`MLFLOW_DOCKER_IMAGE_URI` of `mlflow/utils/mlflow_tags.py`."""


def run(
    uri: str | os.PathLike[str],
    entry_point: str = "main",
    version: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    docker_args: Mapping[str, Any] | None = None,
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    backend: str | Backend = "local",
    backend_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    storage_dir: str | None = None,
    synchronous: bool = True,
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
    git_token: str | None = None,
    withhold: Sequence[str] = (),
    reuse_finished: bool = False,
    report: Report = log,
) -> SubmittedRun:
    """Run an MLflow project; the arguments are those of `mlflow.projects.run`, with the same meaning.

    A synchronous run streams the project's output to this process's standard output, and is *tethered*: it ends
    when this process ends, however that happens. `backend_config={"detach": True}` lets it live on. Ctrl-C cancels
    the run.

    Args:
        uri: the project: a local directory, an archive or a Git URI, each with `#subdirectory` if need be.
        entry_point: name of an entry point, or a `.py`, `.sh` or `.R` file of the project.
        version: for a Git project a branch, tag or commit.
        parameters: values by parameter name; names that the entry point does not declare become `--name value`. A
            secret parameter may be given in `env_vars` too, or be there as a variable of this process.
        docker_args: flags of `docker run` by their names, for projects that run in a container: `{"gpus": "all",
            "memory": "4g", "env": ["A=1", "TOKEN"], "volume": ["/data:/data:ro"]}`. `image` names another image, or one
            for a project without docker_env. See docs/containers.md.
        experiment_name: the experiment to record the run in, created if it does not exist; or
        experiment_id: its id.
        backend: where to run: "local", a backend that is installed, or a `Backend` itself, such as one that was given a
            client of its own.
        backend_config: the backend's own settings: a dict, or the path to a `.json` file. Local: `detach` (bool),
            `find_containers` (bool: whether runs in containers that other hosts have started are found by key too),
            `grace` (seconds between TERM and KILL when the run is ended; default 10) and `max_runs` (how many of the
            runs that give it work on this host at once; the others wait in the phase `queued`, outside their
            `timeout`). The variable MLPROJ_MAX_RUNS limits all local runs of this host in the same way.
        storage_dir: directory for data that is fetched for parameters of type path, where the project runs; each run
            has a directory of its own in it. By default one beside the runs' own, in a pod one in /tmp.
        synchronous: whether to wait for the end. If not, the run is detached: it outlives this process.
        run_id: an existing MLflow run to use instead of creating one.
        run_name: name of the MLflow run.
        env_manager: "virtualenv", "uv", "conda" or "local" (the environment of this process); by default what MLflow
            takes for the project's kind of environment. See docs/environments.md.
        build_image: whether to build an image that holds the project's code on top of the container's image, instead of
            copying the code into the container.
        docker_auth: credentials for a Docker registry, as for `docker.login`: username, password, registry.
        env_vars: environment variables for the project. They may be secret: they are passed on, never written down.
        tags: tags for the MLflow run.
        parent_run_id: id of the MLflow run that this one is nested in.
        tracking_uri: the tracking server or store; by default MLFLOW_TRACKING_URI.
        timeout: seconds after which the run is ended as FAILED, whoever is still there to see it.
        git_token: password or token for the project's Git repository.
        withhold: patterns such as "AIRFLOW__*" (fnmatch) of this process's variables that the project is not to see.
        reuse_finished: whether an earlier run of the experiment that FINISHED with the same commit, entry point and
            parameters is returned instead of running again, if the work tree is clean. Data is not compared.
        report: is given one line of text for each thing worth telling.

    Raises:
        UserError: what was given cannot be run; nothing was started.
        ExecutionException: the run did not finish (synchronous only); its `reason` says why.
        TrackingError: the tracking server is out of reach; nothing was started.
    """
    asked = locals()
    request = RunRequest(**{name: asked[name] for name in RunRequest.__dataclass_fields__})
    submitted = submit_request(request, tethered=synchronous, report=report)
    return _see_through(submitted, report) if synchronous else submitted


def submit(
    uri: str | os.PathLike[str],
    entry_point: str = "main",
    version: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    docker_args: Mapping[str, Any] | None = None,
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    backend: str | Backend = "local",
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
    git_token: str | None = None,
    withhold: Sequence[str] = (),
    reuse_finished: bool = False,
    key: str | None = None,
    turn: int | list[int] | tuple[int, ...] | None = None,
    fresh_after: int | list[int] | tuple[int, ...] = 0,
    handle: RunHandle | None = None,
    report: Report = log,
) -> SubmittedRun:
    """Submit a run, or find the one that is already at it: returns as soon as the work is durable.

    The arguments are those of `run`. The run is detached by default; `backend_config={"detach": False}` tethers it.

    Args:
        key: names one step of one pipeline run: all that submit under it get the same run. By default a random one.
        turn: which try of the step is asking, an integer or a list compared in order; later is larger. A later turn may
            start a new attempt where the last one failed; an earlier one raises `Superseded`.
        fresh_after: what was claimed at this turn or before is disowned, since the step was cleared. 0: nothing is.
        handle: the handle that an earlier try of the step stored, if it is at hand.

    Raises:
        ContactLost: the newest attempt of the key cannot be reached; nothing was started.
        Superseded: a later turn has claimed the work.
    """
    asked = locals()
    request = RunRequest(**{name: asked[name] for name in RunRequest.__dataclass_fields__})
    return submit_request(request, key=key, turn=turn, fresh_after=fresh_after, handle=handle, report=report)


def submit_request(
    request: RunRequest,
    *,
    tethered: bool | Callable[[Container | None], bool] = False,
    key: str | None = None,
    turn: int | list[int] | tuple[int, ...] | None = None,
    fresh_after: int | list[int] | tuple[int, ...] = 0,
    handle: RunHandle | None = None,
    exposed: bool = False,
    report: Report = log,
) -> SubmittedRun:
    """As `submit`, with the arguments that say what to run in one value.

    Args:
        request: what to run.
        tethered: whether the run ends with this process, unless `backend_config["detach"]` says otherwise; or what
            decides that once it is known in what container the project runs, if in any. It may refuse by a `UserError`.
        key: see `submit`; so too for turn, fresh_after, handle and report.
        exposed: whether others can read the request's `parameters`, as on a command line: secret ones are refused.
    """
    from mlproj_core import protocol
    from mlproj_core.backends import choose_backend
    from mlproj_core.sources import fetch
    from mlproj_core.sources.workspace import workspace

    config = read_backend_config(request.backend_config)
    backend = choose_backend(request.backend, config)
    if DETACH in config:
        tethered = not config[DETACH]
    asker = protocol.Asker(
        key=key if key is not None else os.urandom(16).hex(),
        turn=read_turn(turn),
        fresh_after=read_turn(fresh_after) if fresh_after else None,
        stored=handle,
        unique=key is None,
    )
    with workspace() as into:
        checkout = fetch(os.fspath(request.uri), request.version, into=into, token=request.git_token, report=report)
        launch = _launch(
            request, checkout, backend, config, key=asker.key, tethered=tethered, exposed=exposed, report=report
        )
        if request.reuse_finished:
            from mlproj_core import reuse

            if (finished := reuse.find(backend, launch, asker, report)) is not None:
                return attach(finished, report, backend)
        return attach(protocol.submit(backend, launch, asker, report), report, backend)


def _launch(
    request: RunRequest,
    checkout: Checkout,
    backend: Backend,
    config: Mapping[str, Any],
    *,
    key: str,
    tethered: bool | Callable[[Container | None], bool],
    exposed: bool,
    report: Report,
) -> Launch:
    """From a project's files to what a backend starts: load, bind, choose the environment, meet the tracking server."""
    from mlproj_core.containers import wanted_container
    from mlproj_core.environments import build_request, choose_manager, environment_manager
    from mlproj_core.parameters import bind
    from mlproj_core.spec import load_project
    from mlproj_core.tracking import NewRun, connect, system_tags

    project = load_project(checkout.directory)
    variables = {str(name): str(value) for name, value in (request.env_vars or {}).items()}
    # A directory of the key's own: each try of a step has the same command, and no two steps have the same files.
    storage = _storage(request.storage_dir, backend) / key_digest(key)
    bound = bind(
        project.entry_point(request.entry_point),
        request.parameters or {},
        storage_dir=storage,
        check_local_paths=backend.runs_here,
        variables={**visible(os.environ, request.withhold), **variables},
        exposed=exposed,
    )
    variables.update(bound.secrets)
    for warning in (*project.warnings, *bound.warnings):
        report(f"warning: {warning}")
    wanted_manager = request.env_manager or os.environ.get("MLPROJ_ENV_MANAGER") or None
    # The host's own environment needs no environment file, and MLflow does not look at a faulty one then.
    unread = wanted_manager == "local" and project.environment_source.kind != "docker"
    environment = None if unread else project.environment_of(request.entry_point)
    container = wanted_container(
        request,
        project.environment_source.docker,
        directory=checkout.directory,
        environ={**visible(os.environ, request.withhold), **variables},
    )
    plan: dict[str, Any] = {"ready": None, "request": None}
    if container is not None:
        manager = "docker"
    else:
        manager, remarks = choose_manager(environment, wanted_manager, here=backend.runs_here)
        overlooked = None if unread else project.environment_remark(request.entry_point)
        for remark in filter(None, (*remarks, overlooked)):
            report(remark)
    if backend.runs_here and container is None:
        ready = environment_manager(manager).find(environment, checkout.directory)
        plan["ready"] = ready.to_dict() if ready is not None else None
        plan["request"] = build_request(manager, environment, checkout.directory)
    tracking = connect(request.tracking_uri)
    if tracking.notice:
        report(tracking.notice)
    _check_downloads(bound.downloads, tracking)
    parent = request.parent_run_id or _enclosing_run()
    system = system_tags(
        source_name=checkout.source_name,
        entry_point=request.entry_point,
        commit=checkout.commit,
        branch=checkout.branch,
        repo_url=checkout.repo_url,
        backend=backend.name,
        env_manager=manager,
        parent_run_id=parent,
    )
    if container is not None and not container.build:
        system[IMAGE_TAG] = container.image
    if checkout.digest is not None:
        system[DIGEST_TAG] = checkout.digest
    # For whoever comes later with reuse_finished. Whether what is run in place is clean only git knows, and to ask it
    # takes longer than all else here.
    if checkout.owned is not None or request.reuse_finished:
        from mlproj_core.reuse import reuse_tags

        system |= reuse_tags(checkout, request.entry_point, bound.parameters)
    if wanted_manager:  # so that a project which starts further projects starts them in the same way
        variables.setdefault("MLPROJ_ENV_MANAGER", wanted_manager)
    return Launch(
        checkout=checkout,
        project_name=project.name,
        entry_point=request.entry_point,
        command=bound.command,
        parameters=bound.values,
        env_manager=manager,
        environment=plan,
        tracking=tracking,
        new_run=NewRun(
            start_time=time.time(),
            experiment_id=request.experiment_id,
            experiment_name=request.experiment_name,
            run_name=request.run_name,
            tags={**system, **(request.tags or {})},
            parameters=bound.parameters,
            parent_run_id=parent,
        ),
        run_id=request.run_id,
        variables=variables,
        secrets=tuple(sorted(bound.secrets)),
        timeout=request.timeout,
        backend_config=config,
        tethered=tethered(container) if callable(tethered) else tethered,
        withhold=request.withhold,
        downloads=bound.downloads,
        container=container,
        spec=environment,
        upstream=_upstream(request, backend, checkout),
    )


def _upstream(request: RunRequest, backend: Backend, checkout: Checkout) -> Upstream | None:
    """Where a backend that runs elsewhere can clone the project from."""
    if backend.runs_here or checkout.owned is None or checkout.commit is None:
        return None
    from mlproj_core.sources import Upstream

    return Upstream.of(os.fspath(request.uri), request.git_token)


def _storage(given: str | None, backend: Backend) -> PurePath:
    """Where data is put: on this host, or where the backend runs.

    Raises:
        UserError: a place elsewhere is named by what only means something here.
    """
    if backend.runs_here:
        return Path(given or state_dir() / "data").expanduser().absolute()
    place = PurePosixPath(given or ELSEWHERE)
    if not place.is_absolute():
        raise UserError(
            f"storage_dir is {given!r}: with backend {backend.name!r} it is a directory where the project runs, and "
            "has to be an absolute path there."
        )
    return place


def _check_downloads(downloads: Sequence[Download], tracking: Tracking) -> None:
    """Refuse what only a tracking server could give where there is none; no server is asked yet."""
    if not downloads or tracking.name != "untracked":
        return
    from mlproj_core.data.remote import TRACKED

    for download in downloads:
        scheme = download.uri.partition(":")[0]
        if scheme in TRACKED:
            raise UserError(
                f"parameter {download.parameter!r}: {download.uri} is known to a tracking server only, and this run "
                "has none. Set MLFLOW_TRACKING_URI (or tracking_uri), or give the URI of the store itself."
            )


def _see_through(submitted: SubmittedRun, report: Report) -> SubmittedRun:
    """Stream a run's output to its end, and raise if it did not finish."""
    try:
        for text in submitted.logs(follow=True):
            sys.stdout.write(text)
            sys.stdout.flush()
        submitted.wait()
    except KeyboardInterrupt:
        report(f"interrupted: cancelling run {submitted.handle.tag}")
        submitted.cancel()
        report(f"run {submitted.handle.tag} was cancelled")
        raise
    if submitted.get_status() is not RunStatus.FINISHED:
        raise submitted.failure()
    return submitted


def _enclosing_run() -> str | None:
    """The MLflow run that is active where a further run is asked for, as in a project of several steps."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and hasattr(mlflow, "active_run") and (active := mlflow.active_run()) is not None:
        return str(active.info.run_id)
    if "MLPROJ_ATTEMPT" not in os.environ:
        return None
    # MLflow takes its variable away when a script begins with the run, and knows the active run in that thread alone.
    return os.environ.get("MLFLOW_RUN_ID") or os.environ.get("MLPROJ_RUN_ID")
