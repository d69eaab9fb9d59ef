"""From what is asked for to the submission of an attempt."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from mlproj_core.backends.databricks.body import submit_body
from mlproj_core.backends.databricks.code import PLANS, TASKS, Upload, archive_of, default_roots, text_file
from mlproj_core.backends.databricks.code import upload as upload_files
from mlproj_core.backends.databricks.compute import Cluster, Compute
from mlproj_core.backends.databricks.config import DatabricksConfig
from mlproj_core.backends.databricks.repository import Repository, repository_of
from mlproj_core.backends.databricks.secrets import Variables, check_cluster, check_text, sort_variables
from mlproj_core.backends.databricks.task import VARIABLE, fits, pack, write_arguments, write_value
from mlproj_core.backends.databricks.workspace import Workspace
from mlproj_core.claim import Claim, Record
from mlproj_core.errors import UserError
from mlproj_core.launch import Launch
from mlproj_core.report import log
from mlproj_core.tracking.surroundings import OF_A_SERVER

__all__ = ["Work", "prepare"]

_SHELL: Final = re.compile(r"[$`\\;&|<>(){}*?\[\]~#!\n]")
"""What a shell would make something else of."""


@dataclass(frozen=True)
class Work:
    """What an attempt's submission is made of.

    Attributes:
        launch: what is asked for, with the caller's secrets.
        config: the caller's settings.
        compute: where it runs.
        workspace: the workspace.
        variables: the project's, but for those that are known with the record only.
        environment: how the launcher makes the project's environment; None for the cluster's own.
        script: file and arguments of a Databricks Spark job; None for any other project.
        archive: the code; None if the task is run from a repository.
        repository: the repository; None if the code is uploaded.
    """

    launch: Launch = field(repr=False)
    config: DatabricksConfig
    compute: Compute
    workspace: Workspace
    variables: Variables
    environment: Mapping[str, Any] | None = field(repr=False)
    script: tuple[str, tuple[str, ...]] | None
    archive: Upload | None
    repository: Repository | None

    def body(self, claim: Claim, record: Record) -> dict[str, Any]:
        """The body that submits the attempt. What it names is uploaded first.

        Raises:
            UserError: the workspace takes the run's files nowhere.
            ContactLost: it is out of reach.
        """
        variables = self._variables(claim, record)
        if self.repository is not None and self.script is not None:
            # The arguments are the project's own here, so that what is read back stands among the variables.
            settings = {**variables.plain, **variables.as_cluster_s(), VARIABLE: write_value(claim, record)}
            return self._submission(
                claim,
                python_file=self.repository.path_of(self.script[0]),
                parameters=self.script[1],
                variables=settings,
                git_source=self.repository.source(),
            )
        by_cluster = variables.as_cluster_s() if isinstance(self.compute, Cluster) else {}
        task, arguments = self._upload(claim, record, variables, by_cluster)
        return self._submission(claim, python_file=task, parameters=arguments, variables=by_cluster)

    def _variables(self, claim: Claim, record: Record) -> Variables:
        own = _of_record(self.launch, self.config, record)
        own |= {"MLPROJ_ATTEMPT": claim.tag, "PYTHONUNBUFFERED": "1"}
        references = {name: found for name, found in self.variables.references.items() if name not in own}
        return Variables({**self.variables.plain, **own}, references)

    def _upload(
        self, claim: Claim, record: Record, variables: Variables, by_cluster: Mapping[str, str]
    ) -> tuple[str, list[str]]:
        """Upload what the task needs; the path of its Python file, and its arguments."""
        from mlproj_core.launcher import task_source

        assert self.archive is not None  # noqa: S101 - there is a repository or an archive
        roots = self.config.root or default_roots(self.workspace)
        files = [self.archive, text_file(TASKS, task_source(), "py")]
        archive, task = upload_files(self.workspace, roots, files)
        plan = pack(self._plan(claim, archive, variables, by_cluster))
        arguments = write_arguments(claim, record, plan)
        if not fits(arguments):
            root = archive.removesuffix(f"/{self.archive.name}")
            (path,) = upload_files(self.workspace, [root], [text_file(PLANS, plan, "plan")])
            arguments = write_arguments(claim, record, f"@{path}")
        return task, arguments

    def _plan(self, claim: Claim, archive: str, variables: Variables, by_cluster: Mapping[str, str]) -> dict[str, Any]:
        """The plan of `launcher.program.task`."""
        plan: dict[str, Any] = {
            "version": 1,
            "name": claim.name,
            "code": archive,
            "variables": dict(variables.plain),
            "secrets": {name: list(where) for name, where in variables.references.items() if name not in by_cluster},
            "isolated": self.environment is not None,
        }
        if self.script is not None:
            file, arguments = self.script
            return {**plan, "spark": {"file": file, "arguments": list(arguments)}}
        return {
            **plan,
            "launcher": {
                "version": 1,
                "environment": self.environment and dict(self.environment),
                "command": self.launch.command,
                "downloads": [one.to_dict() for one in self.launch.downloads],
            },
        }

    def _submission(
        self,
        claim: Claim,
        *,
        python_file: str,
        parameters: list[str] | tuple[str, ...],
        variables: Mapping[str, str],
        git_source: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        job = self.launch.spark_job
        libraries = [str(one) for one in job.python_libraries] if job is not None else []
        title = self.config.run_name or self.launch.new_run.run_name
        return submit_body(
            claim.name,
            title=title or f"{self.launch.project_name or 'project'}: {self.launch.entry_point}",
            python_file=python_file,
            parameters=parameters,
            compute=self.compute.of_task(libraries, self.config.tags, variables),
            settings={**self.config.settings, **self.compute.of_run(libraries)},
            timeout=self.launch.timeout,
            git_source=git_source,
        )


def prepare(claim: Claim, launch: Launch, config: DatabricksConfig, workspace: Workspace) -> Work:
    """See that an attempt can be submitted, and make all that it needs but what is uploaded.

    Raises:
        UserError: it cannot be run there.
    """
    compute = config.compute
    if compute is None:
        raise UserError(
            "backend_config does not say where on Databricks the project is to run: give a cluster specification "
            "('new_cluster', or its fields), an 'existing_cluster_id', a 'job_cluster', or 'serverless'. See "
            "docs/databricks.md."
        )
    if launch.container is not None:
        raise UserError(
            "A project with a docker_env, or docker_args, cannot run on Databricks. A cluster of an image of your own "
            "is asked for by 'docker_image' in the cluster's specification, and needs Databricks' own software in it."
        )
    if isinstance(compute, Cluster):
        check_cluster(compute.spec)
    _check_tracking(launch, config, workspace)
    variables = _sorted(launch, config)
    environment = _environment(launch)
    script = _script(launch)
    write_value(claim, Record(run_id="0" * 32, tracked=True))
    repository = repository_of(launch, config, compute, script[0]) if script is not None else None
    if script is None and config.code == "git":
        raise UserError(
            "backend_config: 'code' is \"git\", which is for a Databricks Spark job: Databricks runs a file of the "
            "repository then, and what makes an environment is not in it. Leave it out."
        )
    archive = archive_of(launch.checkout.directory) if repository is None else None
    return Work(launch, config, compute, workspace, variables, environment, script, archive, repository)


def _script(launch: Launch) -> tuple[str, tuple[str, ...]] | None:
    """File and arguments of a Databricks Spark job; None for any other project."""
    if launch.spark_job is None:
        return None
    for library in launch.spark_job.python_libraries:
        if not isinstance(library, str):
            raise UserError(f"databricks_spark_job: python_libraries holds requirements as text; got {library!r}")
        check_text(library, "python_libraries")
    words = shlex.split(launch.command)
    unquoted = re.sub(r"'[^']*'", "", launch.command)
    if len(words) < 2 or words[0] not in ("python", "python3") or words[1].startswith("-") or _SHELL.search(unquoted):
        raise UserError(
            "A Databricks Spark job is a Python file that runs in the process of the Spark session: the command of its "
            f"entry point must be 'python FILE' with arguments, and nothing of a shell; got {launch.command!r}"
        )
    return words[1], tuple(words[2:])


def _environment(launch: Launch) -> dict[str, Any] | None:
    if launch.spark_job is not None:
        return None
    import json

    from mlproj_core.environments.portable import portable_environment

    environment = portable_environment(launch.env_manager, launch.spec, launch.checkout.directory)
    if environment is not None:
        check_text(json.dumps(environment["recipe"]), "The project's environment")
    return environment


def _sorted(launch: Launch, config: DatabricksConfig) -> Variables:
    """The project's variables; what is secret among them only as a reference."""
    given = dict(launch.variables)
    if _is_of_workspace(config.tracking_uri or launch.tracking.uri):
        # The session's own token lets the project in. What lets in whoever has the server's address is not for it.
        given = {name: value for name, value in given.items() if name not in OF_A_SERVER}
        return sort_variables(given, launch.secrets)
    for name, value in launch.tracking.child_secrets.items():
        if name == "MLFLOW_TRACKING_USERNAME":
            given.setdefault(name, value)
        elif name not in given:
            raise UserError(
                f"The tracking server's {name.lower().rpartition('_')[2]} would stand where others of the workspace "
                "can read it. Keep it in a secret scope (databricks secrets put-secret mlproj mlflow), and give a "
                f"reference: env_vars={{{name!r}: '{{{{secrets/mlproj/mlflow}}}}'}}."
            )
    if urlsplit(launch.tracking.uri).scheme in ("http", "https"):
        for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
            if os.environ.get(name) and name not in given and not launch.tracking.child_secrets:
                log(
                    f"warning: {name} of this process does not go to Databricks. If the tracking server asks for it, "
                    f"give a reference: env_vars={{{name!r}: '{{{{secrets/SCOPE/KEY}}}}'}}"
                )
    return sort_variables(given, launch.secrets)


def _of_record(launch: Launch, config: DatabricksConfig, record: Record) -> dict[str, str]:
    """The variables that tell the project of its MLflow run."""
    variables = dict(launch.tracking.child_variables(record.run_id, record.experiment_id or ""))
    if "MLFLOW_TRACKING_URI" in variables:
        uri = variables["MLFLOW_TRACKING_URI"]
        # A profile is of this host; the workspace that a run is in needs none.
        variables["MLFLOW_TRACKING_URI"] = config.tracking_uri or ("databricks" if _is_of_workspace(uri) else uri)
    if launch.tracking.name != "untracked":
        variables["MLPROJ_RUN_ID"] = record.run_id
    return variables


def _check_tracking(launch: Launch, config: DatabricksConfig, workspace: Workspace) -> None:
    if launch.tracking.name == "untracked" or config.tracking_uri is not None:
        return
    uri = launch.tracking.uri
    parts = urlsplit(uri)
    if _is_of_workspace(uri):
        _check_workspace(parts.netloc.partition(":")[0], uri, workspace)
        return
    if parts.scheme in ("http", "https"):
        if parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            return
        what = "is an address of this host itself"
    elif parts.scheme in ("postgresql", "mysql", "mssql"):
        return
    else:
        what = "is a file of this host"
    raise UserError(
        f"The tracking server {uri} {what}, which a cluster cannot reach. Use the workspace's own (tracking_uri="
        "'databricks'), or say how the server is reached from the cluster: backend_config={'tracking_uri': "
        "'https://mlflow.example.com'}."
    )


def _is_of_workspace(uri: str) -> bool:
    """Whether a tracking URI is of the workspace that the run is in, where it needs no login."""
    return uri == "databricks" or urlsplit(uri).scheme == "databricks"


def _check_workspace(profile: str, uri: str, workspace: Workspace) -> None:
    """See that a run records in the workspace that it runs in, where it needs no login."""
    from mlproj_core.backends.databricks.connect import host_of_profile, is_same

    host = host_of_profile(profile) if profile else None
    if host is not None and not is_same(host, workspace.host):
        raise UserError(
            f"The tracking URI {uri} is of the workspace {host}, and the run is to be in {workspace.host}, where it "
            f"has no login for the other. Run it there (backend_config={{'profile': {profile!r}}}), or record it here."
        )
