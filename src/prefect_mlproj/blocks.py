"""The blocks: how to reach a tracking server and a project's repository, and a project as a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.blocks.abstract import CredentialsBlock, JobBlock
from prefect.blocks.core import Block
from prefect.context import FlowRunContext, TaskRunContext
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, SecretStr, field_validator

from mlproj_core.errors import UserError
from mlproj_core.tracking.surroundings import OF_A_SERVER, lend
from prefect_mlproj.access import Access
from prefect_mlproj.runs import ProjectRun

if TYPE_CHECKING:
    from mlproj_core.tracking import Tracking

__all__ = ["GitCredentials", "MLProject", "MLflowCredentials"]


class MLflowCredentials(CredentialsBlock):
    """An MLflow tracking server, and what it takes to be let in.

    Attributes:
        tracking_uri: the server's address, without credentials.
        username: the user, for basic authentication.
        password: the user's password.
        token: an access token, instead of user and password.
        workspace: the workspace on the server to record runs in.
        insecure_tls: whether the server's certificate is taken unchecked.
        server_cert_path: a file with the certificate authorities to trust, where the runs are.
        client_cert_path: a file with a client's certificate and its key, where the runs are.
    """

    _block_type_name = "MLflow Credentials"
    _block_type_slug = "mlflow-credentials"
    _description = "An MLflow tracking server, and the credentials for it."

    # An error would show all that was given, with the secrets.
    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    tracking_uri: str = Field(
        title="Tracking URI",
        description="The tracking server's address, such as https://mlflow.example.com. No credentials in it.",
    )
    username: str | None = Field(default=None, title="Username", description="The user, for basic authentication.")
    password: SecretStr | None = Field(default=None, title="Password", description="The user's password.")
    token: SecretStr | None = Field(
        default=None, title="Token", description="An access token, instead of user and password."
    )
    workspace: str | None = Field(
        default=None, title="Workspace", description="The workspace on the server; without it, the server's default."
    )
    insecure_tls: bool = Field(
        default=False, title="Insecure TLS", description="Take the server's certificate unchecked."
    )
    server_cert_path: str | None = Field(
        default=None,
        title="Server Certificate Path",
        description="A file with the certificate authorities to trust, on the host where runs are.",
    )
    client_cert_path: str | None = Field(
        default=None,
        title="Client Certificate Path",
        description="A file with a client's certificate and its key, on the host where runs are.",
    )

    @field_validator("tracking_uri")
    @classmethod
    def _is_an_address(cls, uri: str) -> str:
        from mlproj_core.sources import redact

        uri = uri.strip()
        if not uri:
            raise UserError(
                "tracking_uri is empty: give the tracking server's address, as in https://mlflow.example.com"
            )
        if redact(uri) != uri:
            # It would stand readable in the block, whose secrets only are encrypted.
            raise UserError("There are credentials in tracking_uri. Move them to username and password, or to token.")
        return uri

    def variables(self) -> dict[str, str]:
        """The variables by which MLflow's client, and so a project, finds the server. They hold its secrets."""
        texts = {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_TRACKING_USERNAME": self.username,
            "MLFLOW_TRACKING_PASSWORD": _shown(self.password),
            "MLFLOW_TRACKING_TOKEN": _shown(self.token),
            "MLFLOW_WORKSPACE": self.workspace,
            "MLFLOW_TRACKING_INSECURE_TLS": "true" if self.insecure_tls else None,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": self.server_cert_path,
            "MLFLOW_TRACKING_CLIENT_CERT_PATH": self.client_cert_path,
        }
        return {name: text for name, text in texts.items() if text}

    def get_client(self) -> Tracking:
        """The server, to be asked by mlproj's own small client; it closes with `close()`."""
        from mlproj_core.tracking import connect

        with lend(self.variables()):
            return connect(self.tracking_uri)


class GitCredentials(Block):
    """A token for the repositories that projects are in.

    Attributes:
        token: password or access token, for http(s) URLs.
        host: the only host, or `host:port`, that the token is sent to.
    """

    _block_type_name = "Git Credentials for MLflow Projects"
    _block_type_slug = "mlproj-git-credentials"
    _description = "A token for the Git repositories that MLflow Projects are in."

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    token: SecretStr = Field(
        title="Token", description="Password or access token that may read the repositories; for http(s) URLs."
    )
    host: str | None = Field(
        default=None,
        title="Host",
        description="The only host that the token is sent to, such as git.example.com. Without it, the project's own.",
    )

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str | None) -> str | None:
        host = (host or "").strip().lower()
        if "/" in host or "@" in host:
            raise UserError("host must be a host's name, such as git.example.com or git.example.com:8443.")
        return host or None

    def token_for(self, uri: str) -> str:
        """The token to send to a project's repository; empty where none is sent: to a local directory, and by ssh.

        Args:
            uri: the project's URI.

        Raises:
            UserError: the project is on another host than the one that the token is for.
        """
        url = urlsplit(uri.strip("'\"").partition("#")[0].removeprefix("git+"))
        if url.scheme.lower() not in ("http", "https"):
            return ""
        name = (url.hostname or "").lower()
        place = url.netloc.rpartition("@")[2].lower()
        if self.host is not None and self.host not in (name, place):
            raise UserError(
                f"The Git credentials are for {self.host!r}, and the project is on {place!r}: the token is not sent "
                "there. Give the credentials of that host."
            )
        return self.token.get_secret_value()


class MLProject(JobBlock):  # type: ignore[type-arg] # `JobBlock[...]` would be a block type of its own to Prefect
    """An entry point of an MLflow project, with all that is to be said of its runs.

    In a flow a run is a task, `submit_project`, of the flow run; it is found again when the flow run is executed again,
    ended when it is cancelled, and ends with the flow's process unless `backend_config` says `{"detach": true}`.
    Triggered elsewhere a run is detached: it outlives the process.

    Attributes:
        uri: the project: a local directory, an archive or a Git URI, each with `#subdirectory` if need be.
        entry_point: name of an entry point, or a `.py`, `.sh` or `.R` file of the project.
        version: for a Git project a branch, tag or commit.
        parameters: values by parameter name.
        experiment_name: the experiment to record runs in, created if it does not exist; or
        experiment_id: its id.
        run_name: name of the MLflow runs.
        tags: tags for the MLflow runs.
        backend: where to run: "local", or a backend that is installed.
        backend_config: the backend's own settings.
        env_manager: "virtualenv", "uv", "conda" or "local"; by default what MLflow takes for the project's kind of
            environment.
        env_vars: environment variables for the project, all of them secret.
        docker_args: arguments for `docker run`, for projects that run in a container.
        build_image: whether to build an image of the project, for projects that run in a container.
        storage_dir: directory for data that is fetched for parameters of type path.
        timeout: seconds after which a run is ended as FAILED.
        mlflow_credentials: the tracking server; by default MLFLOW_TRACKING_URI.
        git_credentials: the login for the project's repository.
    """

    _block_type_name = "MLflow Project"
    _block_type_slug = "mlflow-project"
    _description = "An entry point of an MLflow project, to be run as a job."

    uri: str = Field(
        title="URI", description="The project: a directory, or a Git URL; each with #subdirectory if need be."
    )
    entry_point: str = Field(
        default="main", title="Entry Point", description="The entry point, or a script of the project."
    )
    version: str | None = Field(default=None, title="Version", description="Of a Git project: a branch, tag or commit.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        title="Parameters",
        description="Values by parameter name; the others have their defaults.",
    )
    experiment_name: str | None = Field(
        default=None, title="Experiment Name", description="The experiment to record runs in, created if need be."
    )
    experiment_id: str | None = Field(
        default=None, title="Experiment ID", description="The experiment's id, instead of its name."
    )
    run_name: str | None = Field(default=None, title="Run Name", description="Name of the MLflow runs.")
    tags: dict[str, str] = Field(default_factory=dict, title="Tags", description="Tags for the MLflow runs.")
    backend: str = Field(default="local", title="Backend", description="Where to run.")
    backend_config: dict[str, Any] = Field(
        default_factory=dict, title="Backend Configuration", description="The backend's own settings."
    )
    env_manager: str | None = Field(
        default=None,
        title="Environment Manager",
        description="virtualenv, uv, conda or local; by default what MLflow takes for the project.",
    )
    env_vars: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Environment Variables",
        description="Environment variables for the project; their values are kept secret.",
    )
    docker_args: dict[str, Any] = Field(
        default_factory=dict,
        title="Docker Arguments",
        description="Arguments for docker run, for a project that runs in a container.",
    )
    build_image: bool = Field(
        default=False, title="Build Image", description="Build an image of the project, if it runs in a container."
    )
    storage_dir: str | None = Field(
        default=None, title="Storage Directory", description="For data that is fetched for parameters of type path."
    )
    timeout: float | None = Field(
        default=None, title="Timeout", description="Seconds after which a run is ended as failed.", gt=0
    )
    mlflow_credentials: MLflowCredentials | None = Field(
        default=None, title="MLflow Credentials", description="The tracking server; by default MLFLOW_TRACKING_URI."
    )
    git_credentials: GitCredentials | None = Field(
        default=None, title="Git Credentials", description="The login for the project's repository."
    )

    async def atrigger(self) -> ProjectRun:
        """As `trigger`, without blocking the event loop."""
        if _in_a_run():
            from prefect_mlproj.tasks import submit_project

            run: ProjectRun = await submit_project(**self._arguments(), _sync=False)
            return run
        import asyncio

        return await asyncio.to_thread(self._submit)

    @async_dispatch(atrigger)
    def trigger(self) -> ProjectRun:  # type: ignore[override]
        """Submit a run; in async code this is to be awaited.

        Raises:
            UserError: it cannot be run as the block says.
        """
        if _in_a_run():
            from prefect_mlproj.tasks import submit_project

            run: ProjectRun = submit_project(**self._arguments(), _sync=True)
            return run
        return self._submit()

    def _arguments(self) -> dict[str, Any]:
        """The block's fields as arguments of `run_project`."""
        arguments = {name: getattr(self, name) for name in MLProject.model_fields}
        return {**arguments, "env_vars": dict(self.env_vars.get_secret_value())}

    def _submit(self) -> ProjectRun:
        """Submit a run that belongs to no flow run."""
        from mlproj_core.request import RunRequest
        from mlproj_core.runner import submit_request
        from prefect_mlproj.step import PREFECTS_OWN

        arguments = self._arguments()
        block, git = arguments.pop("mlflow_credentials"), arguments.pop("git_credentials")
        arguments["withhold"] = PREFECTS_OWN
        if block is not None:
            arguments["env_vars"] = {**block.variables(), **arguments["env_vars"]}
            arguments["withhold"] = (*PREFECTS_OWN, *OF_A_SERVER, "MLPROJ_TRACKING")
        if git is not None:
            arguments["git_token"] = git.token_for(self.uri)
        access = Access(mlflow=block)
        with access.lent():
            return ProjectRun.of(submit_request(RunRequest(**arguments), exposed=True, report=self._say), access)

    def _say(self, line: str) -> None:
        (self.logger.warning if line.startswith("warning") else self.logger.info)(f"[mlproj] {line}")


def _in_a_run() -> bool:
    """Whether this is called in a flow or in a task, so that a run belongs to that."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
