"""Which runs have outlived their tasks, by the word of Airflow's REST API: for `mlproj runs reap --airflow URL`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from mlproj_core.errors import MlprojError, UserError

__all__ = ["Airflow"]

TOKEN_VARIABLE = "AIRFLOW_CLI_TOKEN"  # noqa: S105 - the name of a variable, airflowctl's own
"""Holds a token for Airflow's API. Without it the API is asked for one (GET /auth/token), as for a local Airflow."""

_OVER = ("failed", "skipped", "upstream_failed", "removed", "success")

TIMEOUT = 30.0
"""Seconds to wait for an answer of the API."""


class Airflow:
    """An Airflow, asked about the tasks that runs belong to.

    Args:
        url: its address, as in a browser: `https://airflow.example.com`.

    Raises:
        UserError: from every method, when the API refuses.
        MlprojError: from every method, when it does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._token = os.environ.get(TOKEN_VARIABLE, "")

    def why_ended(self, key: str) -> str | None:
        """Why the run of a key has nobody any more who waits for it; None if it has, or may have.

        What this Airflow does not know may be another's, and counts as waited for.
        """
        try:
            engine, nonce, dag_id, run_id, task_id, map_index = json.loads(key)
        except ValueError:
            return None
        if engine != "airflow":
            return None
        path = ("dags", dag_id, "dagRuns", run_id, "taskInstances", task_id)
        task = self._get(*path, *([map_index] if map_index >= 0 else []))
        if task is None:
            return None
        kept = self._get(*path, "state-store", map_index=map_index) or {}
        nonces = [entry["value"] for entry in kept.get("task_state_store", ()) if entry["key"] == "mlproj_nonce"]
        if nonces != [nonce] or task["state"] not in _OVER:
            return None
        if task["state"] == "success" and self._get(*path, "xcomEntries", "return_value", map_index=map_index):
            return None  # a task that submits and does not wait: its run is meant to go on
        return f"its task {dag_id}.{task_id} of {run_id} is {task['state']}"

    def _get(self, *path: object, **query: object) -> dict[str, Any] | None:
        """What the API answers; None if there is no such thing."""
        if not self._token:
            answer = self._ask(f"{self._url}/auth/token", {})
            self._token = str((answer or {}).get("access_token", ""))
        url = "/".join([f"{self._url}/api/v2", *(urllib.parse.quote(str(part), safe="") for part in path)])
        return self._ask(f"{url}?{urllib.parse.urlencode(query)}", {"Authorization": f"Bearer {self._token}"})

    def _ask(self, url: str, headers: dict[str, str]) -> dict[str, Any] | None:
        if not url.startswith(("http://", "https://")):
            raise UserError(
                f"Not the address of an Airflow: {url!r}. Give it as in a browser, with http:// or https://"
            )
        request = urllib.request.Request(url, headers={"Accept": "application/json", **headers})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
            raise UserError(
                f"Airflow at {self._url} refuses ({error.code} {error.reason}): set {TOKEN_VARIABLE} to a token of its "
                "API that may read task instances."
            ) from error
        except (OSError, ValueError) as error:
            raise MlprojError(f"Airflow at {self._url} cannot be asked: {error}") from error
