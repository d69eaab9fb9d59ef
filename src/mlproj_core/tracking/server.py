"""A tracking server, spoken to by MLflow's documented REST API 2.0."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mlproj_core.errors import TrackingError, UserError
from mlproj_core.status import Outcome
from mlproj_core.tracking import artifacts, limits
from mlproj_core.tracking.experiments import experiment_id_of
from mlproj_core.tracking.record import ATTEMPT_TAG, OUTCOME_TAG, NewRun, RunRecord, run_page
from mlproj_core.tracking.session import Door, ServerRefusal, Session
from mlproj_core.tracking.uris import scheme_of

if TYPE_CHECKING:
    from mlproj_core.tracking.models import ModelReference

__all__ = ["TrackingServer"]

_API = "/api/2.0/mlflow"

_PAGE = 100
"""Runs in one answer to a search."""


class TrackingServer:
    """Runs recorded on a tracking server; see `Tracking` for what the methods do.

    Args:
        session: the way to the server.
        mlflow_uri: the tracking URI with its credentials, for artifact stores that only mlflow can reach.
    """

    name = "http"
    notice: str | None = None

    def __init__(self, session: Session, *, mlflow_uri: str) -> None:
        self._session = session
        self._mlflow_uri = mlflow_uri

    def __repr__(self) -> str:
        return f"TrackingServer({self.uri})"

    @property
    def uri(self) -> str:
        """The server's address without credentials."""
        return self._session.uri

    @property
    def child_secrets(self) -> Mapping[str, str]:
        """User and password of the tracking URI, as the variables that MLflow's client reads."""
        if self._session.userinfo is None:
            return {}
        user, password = self._session.userinfo
        return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}

    @property
    def child_unset(self) -> tuple[str, ...]:
        """MLflow refuses an experiment's name beside the id of another experiment."""
        return ("MLFLOW_EXPERIMENT_NAME",)

    def child_variables(self, run_id: str, experiment_id: str) -> Mapping[str, str]:
        """As `mlflow.projects.utils.get_run_env_vars`."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
        }

    def run_url(self, experiment_id: str, run_id: str) -> str | None:
        """The run's page."""
        return run_page(self.uri, experiment_id, run_id)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    # Experiments

    def resolve_experiment(self, experiment_name: str | None = None, experiment_id: str | None = None) -> str:
        """See `Tracking.resolve_experiment`."""
        return experiment_id_of(self, experiment_name, experiment_id)

    def experiment_by_name(self, name: str) -> str | None:
        """The id of the active experiment of that name; None if there is none."""
        try:
            answer = self._session.get(
                f"{_API}/experiments/get-by-name",
                {"experiment_name": name},
                doing=f"look up the experiment {name!r}",
            )
        except ServerRefusal as refusal:
            if refusal.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        experiment = answer.get("experiment", {})
        if experiment.get("lifecycle_stage") == "deleted":
            raise UserError(
                f"The experiment {name!r} (id {experiment.get('experiment_id')}) on {self.uri} has been deleted. "
                "Restore it (mlflow experiments restore -x ID), or use another name."
            )
        return _text(experiment, "experiment_id")

    def create_experiment(self, name: str) -> str:
        """Create an experiment, or get the one that somebody else has just created."""
        try:
            answer = self._session.post(
                f"{_API}/experiments/create", {"name": name}, doing=f"create the experiment {name!r}"
            )
        except ServerRefusal as refusal:
            if refusal.error_code == "RESOURCE_ALREADY_EXISTS" and (found := self.experiment_by_name(name)):
                return found
            raise
        return _text(answer, "experiment_id")

    # Runs

    def create_run(self, new: NewRun) -> RunRecord:
        """See `Tracking.create_run`."""
        experiment_id = self.resolve_experiment(new.experiment_name, new.experiment_id)
        named = f"{new.experiment_name!r} (id {experiment_id})" if new.experiment_name else experiment_id
        doing = f"create a run in the experiment {named}"
        tags = dict(new.tags)
        if new.parent_run_id is not None:
            tags["mlflow.parentRunId"] = new.parent_run_id
        body: dict[str, object] = {
            "experiment_id": experiment_id,
            "user_id": tags.get("mlflow.user", "unknown"),
            "start_time": int(new.start_time * 1000),
            "tags": _pairs(tags.items()),
        }
        if new.run_name:
            body["run_name"] = new.run_name
        attempt = tags.get(ATTEMPT_TAG)

        def recover() -> dict[str, Any] | None:
            if attempt is None:
                raise TrackingError(
                    f"The tracking server {self.uri} gave no answer when asked to {doing}: the run may or may "
                    "not have been created. Look at the experiment before trying again."
                )
            return self._find(attempt, experiment_id)

        try:
            answer = self._session.post(f"{_API}/runs/create", body, doing=doing, recover=recover)
        except ServerRefusal as refusal:
            if refusal.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"):
                raise UserError(str(refusal)) from None
            raise
        run = answer.get("run", answer)
        warnings = self.log_parameters(_text(run.get("info", {}), "run_id"), new.parameters)
        return self._record(run, parameters=new.parameters, warnings=warnings)

    def find_run(self, attempt: str, experiment_id: str) -> RunRecord | None:
        """See `Tracking.find_run`."""
        run = self._find(attempt, experiment_id)
        return None if run is None else self._record(run)

    def keep_one(self, attempt: str, experiment_id: str, run_id: str) -> None:
        """See `Tracking.keep_one`."""
        for run in self._find_all(attempt, experiment_id):
            other = _text(run["info"], "run_id")
            if other != run_id:
                try:
                    self._session.post(
                        f"{_API}/runs/delete",
                        {"run_id": other},
                        doing=f"delete the run {other}, a second one of attempt {attempt}",
                    )
                except ServerRefusal as refusal:
                    if refusal.status >= 401 and refusal.status != 404:  # else somebody else has just deleted it
                        raise

    def _find(self, attempt: str, experiment_id: str) -> dict[str, Any] | None:
        return next(iter(self._find_all(attempt, experiment_id)), None)

    def _find_all(self, attempt: str, experiment_id: str) -> list[dict[str, Any]]:
        """The runs of an attempt, the oldest first."""
        answer = self._session.post(
            f"{_API}/runs/search",
            {
                "experiment_ids": [experiment_id],
                "filter": f"tags.`{ATTEMPT_TAG}` = '{attempt}'",
                "order_by": ["attributes.start_time ASC"],
                "max_results": 100,
            },
            doing=f"look up the run of attempt {attempt} in the experiment {experiment_id}",
        )
        # Two that started in the same millisecond: whoever compares must choose the same one.
        return sorted(answer.get("runs", ()), key=_age)

    def search_runs(self, experiment_id: str, condition: str) -> Iterator[RunRecord]:
        """See `Tracking.search_runs`."""
        page: dict[str, object] = {}
        while True:
            answer = self._session.post(
                f"{_API}/runs/search",
                {
                    "experiment_ids": [experiment_id],
                    "filter": condition,
                    "order_by": ["attributes.start_time DESC"],
                    "max_results": _PAGE,
                    **page,
                },
                doing=f"search the experiment {experiment_id} for runs",
            )
            yield from map(self._record, answer.get("runs", ()))
            if not (token := answer.get("next_page_token")):
                return
            page = {"page_token": token}

    def get_run(self, run_id: str) -> RunRecord:
        """See `Tracking.get_run`."""
        try:
            answer = self._session.get(f"{_API}/runs/get", {"run_id": run_id}, doing=f"read the run {run_id}")
        except ServerRefusal as refusal:
            if refusal.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise UserError(str(refusal)) from None
            raise
        return self._record(answer.get("run", {}))

    def metrics(self, run_id: str) -> Mapping[str, float]:
        """See `Tracking.metrics`."""
        return self.get_run(run_id).metrics

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """See `Tracking.set_tags`."""
        pairs = _pairs(tags.items())
        for start in range(0, len(pairs), limits.BATCH):
            self._session.post(
                f"{_API}/runs/log-batch",
                {"run_id": run_id, "tags": pairs[start : start + limits.BATCH]},
                doing=f"set tags on the run {run_id}",
            )

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
        """See `Tracking.log_parameters`."""
        length = limits.VALUE_LENGTHS[0]
        warnings: list[str] = []
        for batch in limits.batches(parameters):
            try:
                self._log_parameters(run_id, batch, length)
            except ServerRefusal as refusal:
                if refusal.status != 400:
                    raise
                each = (self._log_parameter(run_id, name, value) for name, value in batch.items())
                warnings += [warning for warning in each if warning is not None]
            else:
                warnings += [
                    limits.cut_warning(name, value, length) for name, value in batch.items() if len(value) > length
                ]
        return tuple(warnings)

    def _log_parameter(self, run_id: str, name: str, value: str) -> str | None:
        """Log one, in the longest form the server takes; a warning if that is not the whole of it."""
        why = ""
        for length in limits.VALUE_LENGTHS:
            try:
                self._log_parameters(run_id, {name: value}, length)
            except ServerRefusal as refusal:
                if refusal.status != 400:
                    raise
                why = why or str(refusal)
                if len(value) <= limits.VALUE_LENGTHS[-1]:
                    break
            else:
                return limits.cut_warning(name, value, length) if len(value) > length else None
        return f"The parameter {name!r} was not recorded. {why}"

    def _log_parameters(self, run_id: str, parameters: Mapping[str, str], length: int) -> None:
        self._session.post(
            f"{_API}/runs/log-batch",
            {"run_id": run_id, "params": _pairs((name, value[:length]) for name, value in parameters.items())},
            doing=f"log parameters of the run {run_id}",
        )

    def settle(self, run_id: str, outcome: Outcome) -> None:
        """See `Tracking.settle`."""
        doing = f"write the end of the run {run_id}"
        self._session.post(
            f"{_API}/runs/set-tag",
            {"run_id": run_id, "key": OUTCOME_TAG, "value": limits.outcome_tag(outcome)},
            doing=doing,
        )
        self._session.post(
            f"{_API}/runs/update",
            {
                "run_id": run_id,
                "status": str(outcome.status),
                "end_time": int((outcome.ended_at or time.time()) * 1000),
            },
            doing=doing,
        )

    # Models

    def model_location(self, model: ModelReference) -> str:
        """See `Tracking.model_location`."""
        doing = f"find {model}"
        try:
            if model.model_id:
                answer = self._session.get(f"{_API}/logged-models/{quote(model.model_id, safe='')}", {}, doing=doing)
                return _text(answer.get("model", {}).get("info", {}), "artifact_uri")
            version = {"name": model.name, "version": model.version or self._version(model, doing)}
            return _text(
                self._session.get(f"{_API}/model-versions/get-download-uri", version, doing=doing), "artifact_uri"
            )
        except ServerRefusal as refusal:
            if refusal.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise UserError(str(refusal)) from None
            raise

    def _version(self, model: ModelReference, doing: str) -> str:
        from mlproj_core.tracking.models import LATEST

        if model.alias:
            query = {"name": model.name, "alias": model.alias}
            answer = self._session.get(f"{_API}/registered-models/alias", query, doing=doing)
            return _text(answer.get("model_version", {}), "version")
        body: dict[str, object] = {"name": model.name}
        if model.stage != LATEST:
            body["stages"] = [model.stage]
        answer = self._session.post(f"{_API}/registered-models/get-latest-versions", body, doing=doing)
        versions = [int(_text(version, "version")) for version in answer.get("model_versions", ())]
        if not versions:
            raise UserError(f"{self.uri} has no version of {model}.")
        return str(max(versions))

    # Artifacts

    def list_artifacts(self, path: str) -> list[dict[str, Any]]:
        """What lies directly below a path of the artifacts that the server gives out; nothing below a file.

        Returns:
            For each the last part of its `path`, `is_dir`, and for a file its `file_size` in bytes.
        """
        doing = f"list the artifacts in {path}"
        answer = self._session.get(artifacts.PROXY_PATH, {"path": path}, doing=doing)
        return [dict(file) for file in answer.get("files", ())]

    def artifact_door(self, path: str) -> Door:
        """How to read the file at a path of the artifacts that the server gives out."""
        return self._session.door(f"{artifacts.PROXY_PATH}/{quote(path)}")

    def upload(
        self, run_id: str, path: Path, artifact_dir: str = "logs", artifact_uri: str | None = None
    ) -> str | None:
        """See `Tracking.upload`."""
        try:
            uri = artifact_uri or self.get_run(run_id).artifact_uri or ""
            if (root := artifacts.local_root(uri)) is not None:
                return artifacts.copy_to_local(path, root, artifact_dir)
            if scheme_of(uri) == "mlflow-artifacts" and not urlsplit(uri).netloc:
                self._session.call(
                    "PUT",
                    artifacts.proxied_path(uri, artifact_dir, path.name),
                    path,
                    doing=f"store {artifact_dir}/{path.name} of the run {run_id}",
                    content_type="text/plain",
                )
                return None
        except (TrackingError, UserError) as error:
            return str(error)
        from mlproj_core.tracking.store import upload_through_mlflow

        return upload_through_mlflow(self._mlflow_uri, run_id, path, artifact_dir, uri)

    def _record(
        self, run: Mapping[str, Any], *, parameters: Mapping[str, str] | None = None, warnings: tuple[str, ...] = ()
    ) -> RunRecord:
        info = run.get("info", {})
        data = run.get("data", {})
        run_id = _text(info, "run_id")
        experiment_id = _text(info, "experiment_id")
        return RunRecord(
            run_id=run_id,
            experiment_id=experiment_id,
            status=str(info.get("status", "RUNNING")),
            artifact_uri=info.get("artifact_uri"),
            tags={tag["key"]: tag.get("value", "") for tag in data.get("tags", ())},
            parameters=dict(parameters)
            if parameters is not None
            else {pair["key"]: pair.get("value", "") for pair in data.get("params", ())},
            # JSON has no NaN and no infinity: protobuf writes them as the strings that float() reads.
            metrics={metric["key"]: float(metric.get("value", 0.0)) for metric in data.get("metrics", ())},
            url=self.run_url(experiment_id, run_id),
            warnings=warnings,
        )


def _text(value: Mapping[str, Any], key: str) -> str:
    if key not in value:
        raise TrackingError(f"The tracking server's answer lacks {key!r}: it is no MLflow tracking server.")
    return str(value[key])


def _age(run: Mapping[str, Any]) -> tuple[int, str]:
    return int(run["info"].get("start_time", 0)), str(run["info"].get("run_id"))


def _pairs(items: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in items]
