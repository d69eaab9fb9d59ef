"""Any other store (a database, a directory, Databricks, a plugin's), through mlflow itself.

Importing mlflow takes seconds, so nothing is imported before the first call that needs the store.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from mlproj_core.errors import TrackingError, TrackingRefused, UserError
from mlproj_core.status import Outcome
from mlproj_core.tracking import artifacts, limits
from mlproj_core.tracking.experiments import experiment_id_of
from mlproj_core.tracking.record import ATTEMPT_TAG, OUTCOME_TAG, NewRun, RunRecord, run_page
from mlproj_core.tracking.uris import is_database, is_http, scheme_of, without_credentials

if TYPE_CHECKING:
    from mlproj_core.tracking.models import ModelReference

__all__ = ["MlflowStore", "default_uri", "is_installed", "upload_through_mlflow"]

_T = TypeVar("_T")

_PAGE = 100
"""Runs in one answer to a search."""

_REFUSALS = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_MISTAKES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE")


def is_installed(package: str = "mlflow") -> bool:
    """Whether a package can be imported; does not import it.

    A bare directory of that name (`./mlflow` of somebody's checkout) is not a package.
    """
    if package in sys.modules:
        return True
    from importlib.util import find_spec

    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def default_uri() -> str:
    """The URI of the store that the installed mlflow uses when it is told nothing."""
    return str(_import_mlflow("the default store").get_tracking_uri())


def _import_mlflow(what_for: str) -> Any:
    if not is_installed():
        raise UserError(
            f"mlflow is needed for {what_for}, and it is not installed: pip install 'mlproj[mlflow]'. A tracking "
            "server (http:// or https://) with a password or token needs no mlflow."
        )
    try:
        mlflow = import_module("mlflow")
        # The package mlflow-tracing is an `mlflow` without it.
        _ = mlflow.MlflowClient
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"mlflow is needed for {what_for}, and the installed one cannot be imported ({error}): "
            "pip install 'mlproj[mlflow]'"
        ) from error
    return mlflow


class MlflowStore:
    """Runs recorded through `mlflow.MlflowClient`; see `Tracking` for what the methods do.

    Args:
        uri: absolute, with its credentials.
        patience: seconds after which a server that takes no connection is given up.
        wanted_by: for a tracking server, the setting that asks for mlflow.
    """

    name = "mlflow"

    def __init__(self, uri: str, *, patience: float, wanted_by: str | None = None) -> None:
        self._full_uri = uri
        self.uri, self._userinfo = without_credentials(uri)
        self._patience = patience
        self.notice = f"The tracking server is spoken to through mlflow: {wanted_by} is set." if wanted_by else None
        self._wanted_by = wanted_by
        self._open: Any = None
        if not is_installed():
            _import_mlflow(self._shown)
        if is_database(uri) and not is_installed("sqlalchemy"):
            raise UserError(
                f"{self._shown} needs sqlalchemy beside mlflow, and it is not installed: pip install 'mlproj[mlflow]'"
            )

    def __repr__(self) -> str:
        return f"MlflowStore({self.uri})"

    @property
    def _shown(self) -> str:
        if self._wanted_by:
            return f"the tracking server {self.uri} with {self._wanted_by}"
        return f"the tracking store {self.uri}"

    @property
    def child_secrets(self) -> Mapping[str, str]:
        """What the URI in `child_variables` lacks."""
        if self._full_uri == self.uri:
            return {}
        if is_http(self.uri) and self._userinfo is not None:
            user, password = self._userinfo
            return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        return {"MLFLOW_TRACKING_URI": self._full_uri}

    @property
    def child_unset(self) -> tuple[str, ...]:
        """MLflow refuses an experiment's name beside the id of another experiment."""
        return ("MLFLOW_EXPERIMENT_NAME",)

    def child_variables(self, run_id: str, experiment_id: str) -> Mapping[str, str]:
        """As `mlflow.projects.utils.get_run_env_vars`; without the URI where that holds a password."""
        variables = {"MLFLOW_RUN_ID": run_id, "MLFLOW_EXPERIMENT_ID": experiment_id}
        if "MLFLOW_TRACKING_URI" not in self.child_secrets:
            variables["MLFLOW_TRACKING_URI"] = self.uri
        return variables

    def run_url(self, experiment_id: str, run_id: str) -> str | None:
        """The run's page on a tracking server; None for other stores."""
        return run_page(self.uri, experiment_id, run_id) if is_http(self.uri) else None

    def close(self) -> None:
        """Mlflow closes what it opens itself."""

    # Experiments

    def resolve_experiment(self, experiment_name: str | None = None, experiment_id: str | None = None) -> str:
        """See `Tracking.resolve_experiment`."""
        if scheme_of(self.uri) == "databricks" and not (experiment_name or experiment_id):
            # There is no experiment "0": mlflow itself knows a notebook's own.
            found = self._call("find the default experiment", _default_experiment)
            if found is None:
                raise UserError(
                    "Databricks has no default experiment outside a notebook: give experiment_name "
                    "(/Users/you@company.com/name) or experiment_id."
                )
            return found
        return experiment_id_of(self, experiment_name, experiment_id)

    def experiment_by_name(self, name: str) -> str | None:
        """The id of the active experiment of that name; None if there is none."""
        found = self._call(f"look up the experiment {name!r}", lambda client: client.get_experiment_by_name(name))
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"The experiment {name!r} (id {found.experiment_id}) in {self.uri} has been deleted. Restore it "
                "(mlflow experiments restore -x ID), or use another name."
            )
        return str(found.experiment_id)

    def create_experiment(self, name: str) -> str:
        """Create an experiment, or get the one that somebody else has just created."""

        def create(client: Any) -> str:
            try:
                return str(client.create_experiment(name))
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
                return str(client.get_experiment_by_name(name).experiment_id)

        return self._call(f"create the experiment {name!r}", create)

    # Runs

    def create_run(self, new: NewRun) -> RunRecord:
        """See `Tracking.create_run`; a lost answer is repeated by mlflow's client itself, and `find_run` mends it."""
        experiment_id = self.resolve_experiment(new.experiment_name, new.experiment_id)
        tags = dict(new.tags)
        if new.parent_run_id is not None:
            tags["mlflow.parentRunId"] = new.parent_run_id
        run = self._call(
            f"create a run in the experiment {experiment_id}",
            lambda client: client.create_run(
                experiment_id, start_time=int(new.start_time * 1000), tags=tags, run_name=new.run_name or None
            ),
        )
        run_id = str(run.info.run_id)
        warnings = self.log_parameters(run_id, new.parameters)
        return self._record(run, parameters=new.parameters, warnings=warnings)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
        """See `Tracking.log_parameters`."""
        length = limits.VALUE_LENGTHS[0]
        warnings = [
            limits.cut_warning(name, value, length) for name, value in parameters.items() if len(value) > length
        ]
        cut = {name: value[:length] for name, value in parameters.items()}
        try:
            self._log_parameters(run_id, cut)
        except UserError:
            for name, value in cut.items():
                try:
                    self._log_parameters(run_id, {name: value})
                except UserError as error:
                    warnings.append(f"The parameter {name!r} was not recorded. {error}")
        return tuple(warnings)

    def _log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        self._call(
            f"log parameters of the run {run_id}",
            lambda client: _log_batch(client, run_id, params=parameters),
        )

    def find_run(self, attempt: str, experiment_id: str) -> RunRecord | None:
        """See `Tracking.find_run`."""
        runs = self._find_all(attempt, experiment_id)
        return self._record(runs[0]) if runs else None

    def keep_one(self, attempt: str, experiment_id: str, run_id: str) -> None:
        """See `Tracking.keep_one`."""

        def delete(client: Any) -> None:
            for run in runs:
                if run.info.run_id != run_id:
                    client.delete_run(run.info.run_id)

        runs = self._find_all(attempt, experiment_id)
        self._call(f"delete the second run of attempt {attempt}", delete)

    def _find_all(self, attempt: str, experiment_id: str) -> list[Any]:
        """The runs of an attempt, the oldest first."""
        runs = self._call(
            f"look up the run of attempt {attempt} in the experiment {experiment_id}",
            lambda client: client.search_runs([experiment_id], filter_string=f"tags.`{ATTEMPT_TAG}` = '{attempt}'"),
        )
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def search_runs(self, experiment_id: str, condition: str) -> Iterator[RunRecord]:
        """See `Tracking.search_runs`."""
        token: str | None = None

        def search(client: Any) -> Any:
            order = ["attributes.start_time DESC"]
            return client.search_runs(
                [experiment_id], filter_string=condition, order_by=order, max_results=_PAGE, page_token=token
            )

        while True:
            page = self._call(f"search the experiment {experiment_id} for runs", search)
            yield from map(self._record, page)
            if not (token := page.token):
                return

    def get_run(self, run_id: str) -> RunRecord:
        """See `Tracking.get_run`."""
        return self._record(self._call(f"read the run {run_id}", lambda client: client.get_run(run_id)))

    def metrics(self, run_id: str) -> Mapping[str, float]:
        """See `Tracking.metrics`."""
        return self.get_run(run_id).metrics

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """See `Tracking.set_tags`."""
        self._call(f"set tags on the run {run_id}", lambda client: _log_batch(client, run_id, tags=tags))

    def settle(self, run_id: str, outcome: Outcome) -> None:
        """See `Tracking.settle`."""

        def settle(client: Any) -> None:
            client.set_tag(run_id, OUTCOME_TAG, limits.outcome_tag(outcome))
            # It prints the run's page to standard output, which is not ours to write to.
            with redirect_stdout(sys.stderr):
                client.set_terminated(run_id, str(outcome.status), int((outcome.ended_at or time.time()) * 1000))

        try:
            self._call(f"write the end of the run {run_id}", settle)
        except UserError as error:
            raise TrackingRefused(str(error)) from None

    def model_location(self, model: ModelReference) -> str:
        """See `Tracking.model_location`."""
        from warnings import catch_warnings, simplefilter

        from mlproj_core.tracking.models import LATEST

        def find(client: Any) -> str:
            if model.model_id:
                return str(client.get_logged_model(model.model_id).artifact_location)
            version = model.version
            if model.alias:
                version = str(client.get_model_version_by_alias(model.name, model.alias).version)
            elif not version:
                stages = None if model.stage == LATEST else [model.stage]
                with catch_warnings():  # stages are deprecated, as MLflow tells whoever sets one
                    simplefilter("ignore")
                    found = [int(each.version) for each in client.get_latest_versions(model.name, stages)]
                if not found:
                    raise UserError(f"{self._shown} has no version of {model}.")
                version = str(max(found))
            return str(client.get_model_version_download_uri(model.name, version))

        return self._call(f"find {model}", find)

    def upload(
        self, run_id: str, path: Path, artifact_dir: str = "logs", artifact_uri: str | None = None
    ) -> str | None:
        """See `Tracking.upload`."""
        if artifact_uri and (root := artifacts.local_root(artifact_uri)) is not None:
            return artifacts.copy_to_local(path, root, artifact_dir)
        return upload_through_mlflow(
            self._full_uri, run_id, path, artifact_dir, artifact_uri or f"of the store {self.uri}"
        )

    # mlflow

    def _call(self, doing: str, action: Callable[[Any], _T]) -> _T:
        """Call mlflow's client; its errors become ours, without secrets."""
        mlflow = _import_mlflow(self._shown)
        try:
            if self._open is None:
                self._refuse_a_dead_server(doing)
                self._open = mlflow.MlflowClient(tracking_uri=self._full_uri)
            return action(self._open)
        except (TrackingError, UserError):
            raise
        except ImportError as error:
            raise UserError(f"{self._shown} cannot be used to {doing}: {error}. Install what is missing.") from None
        except Exception as error:
            raise self._explained(doing, error) from None

    def _explained(self, doing: str, error: Exception) -> Exception:
        code = str(getattr(error, "error_code", ""))
        text = self._without_secrets(" ".join(str(error).split()))
        if "MLFLOW_ALLOW_FILE_STORE" in text:
            return UserError(
                f"This MLflow keeps no runs in a directory any more ({self.uri}). Use a database, for example "
                "MLFLOW_TRACKING_URI=sqlite:///mlflow.db (`mlflow migrate-filestore` moves what is there), or set "
                "MLFLOW_ALLOW_FILE_STORE=true."
            )
        if code in _REFUSALS:
            return TrackingRefused(f"{self._shown} does not allow to {doing}: {text}")
        if code in _MISTAKES:
            return UserError(f"{self._shown} refused to {doing}: {text}")
        return TrackingError(f"{self._shown} could not {doing}: {text[:1000]}")

    def _without_secrets(self, text: str) -> str:
        text = text.replace(self._full_uri, self.uri)
        if self._userinfo is not None and self._userinfo[1]:
            for secret in (self._userinfo[1], quote(self._userinfo[1], safe="")):
                text = text.replace(secret, "***")
        return text

    def _refuse_a_dead_server(self, doing: str) -> None:
        """Mlflow's client tries for minutes to reach a server that is down: ask the port first.

        With a proxy in the environment the port may be out of reach though the server is not.
        """
        if not is_http(self.uri):
            return
        import socket

        from mlproj_core.web.proxies import proxy_for

        parts = urlsplit(self.uri)
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        if proxy_for(parts.scheme, *address) is not None:
            return
        try:
            socket.create_connection(address, self._patience).close()
        except OSError as error:
            raise TrackingError(
                f"The tracking server {self.uri} cannot be reached to {doing}: {error.strerror or error}. Check "
                "that it runs and that MLFLOW_TRACKING_URI is right."
            ) from None

    def _record(
        self, run: Any, *, parameters: Mapping[str, str] | None = None, warnings: tuple[str, ...] = ()
    ) -> RunRecord:
        experiment_id, run_id = str(run.info.experiment_id), str(run.info.run_id)
        return RunRecord(
            run_id=run_id,
            experiment_id=experiment_id,
            status=str(run.info.status),
            artifact_uri=run.info.artifact_uri,
            tags=dict(run.data.tags),
            parameters=dict(run.data.params if parameters is None else parameters),
            metrics=dict(run.data.metrics),
            url=self.run_url(experiment_id, run_id),
            warnings=warnings,
        )


def _default_experiment(_client: Any) -> str | None:
    found = import_module("mlflow.tracking.fluent")._get_experiment_id()
    return None if found is None else str(found)


def _log_batch(
    client: Any, run_id: str, *, params: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None
) -> None:
    entities = import_module("mlflow.entities")
    client.log_batch(
        run_id,
        params=[entities.Param(key, value) for key, value in (params or {}).items()],
        tags=[entities.RunTag(key, value) for key, value in (tags or {}).items()],
    )


def upload_through_mlflow(uri: str, run_id: str, path: Path, artifact_dir: str, artifact_uri: str) -> str | None:
    """Store an artifact by mlflow's own client, which knows every kind of artifact store; see `Tracking.upload`."""
    shown = urlunsplit((*urlsplit(without_credentials(artifact_uri)[0])[:3], "", ""))
    try:
        mlflow = _import_mlflow(f"the artifact store {shown}")
        mlflow.MlflowClient(tracking_uri=uri).log_artifact(run_id, str(path), artifact_dir)
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"the artifact store {shown} cannot be used from this machine: {type(error).__name__}"
    return None
