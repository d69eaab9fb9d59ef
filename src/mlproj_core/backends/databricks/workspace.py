"""A Databricks workspace: the calls of the Jobs API 2.2 that a run needs, and errors people can act on.

Requests are made by the SDK's own client, which knows how to authenticate and when to ask again. They are not made by
its methods: those of an older version ask for an older API, and drop from its answers what they do not know, as a state
that Databricks has added since.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlproj_core.errors import ContactLost, UserError

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

__all__ = ["PAGE", "DeletedToken", "Refused", "Workspace"]

_API = "/api/2.2/jobs/runs"

PAGE = 25
"""Runs in one answer to a listing: the API gives no more."""

_RUN_WAS_DELETED = re.compile(r"(?i)idempotency|\brun\b[^.]{0,80}\bdeleted\b")
"""Of a run's token; a cluster that was deleted is another matter."""

_RUN_IS_GONE = ("does not exist", "not found", "RESOURCE_DOES_NOT_EXIST")


class Refused(UserError):
    """The workspace understood a request and said no."""


class DeletedToken(Exception):
    """The run that an idempotency token stands for was deleted."""


class Workspace:
    """A workspace, as somebody who has a client for it sees it.

    Args:
        client: the SDK's client.
        profile: the profile that it was made by, if it was by one.
    """

    def __init__(self, client: WorkspaceClient, profile: str | None = None) -> None:
        self.client, self.profile = client, profile

    def __repr__(self) -> str:
        return f"Workspace({self.host})"

    @property
    def host(self) -> str:
        """Its address, without a slash at the end."""
        return str(self.client.config.host).rstrip("/")

    def close(self) -> None:
        """Close its connections, for which the SDK has no word; it opens others when it needs them."""
        client: Any = self.client.api_client
        session = getattr(getattr(client, "_api_client", client), "_session", None)
        if session is not None:
            session.close()

    # -- runs

    def submit(self, body: Mapping[str, Any]) -> int:
        """Submit a run; the number of the one that its idempotency token stands for.

        Raises:
            DeletedToken: that run was deleted.
            Refused: the workspace does not take it.
            ContactLost: no answer; it may be submitted, and the same body may be sent again.
        """
        token = str(body["idempotency_token"])
        try:
            return int(self._call("POST", "submit", body=body, doing="submit the run")["run_id"])
        except Refused as error:
            # There is no code for it: the API says "an error is returned".
            said = str(error.__cause__)
            if token in said or _RUN_WAS_DELETED.search(said):
                raise DeletedToken(token) from error
            raise

    def get(self, run: int) -> dict[str, Any] | None:
        """A run; None if there is none of this number."""
        try:
            return self._call("GET", "get", query={"run_id": run}, doing=f"read the run {run}")
        except Refused as error:
            if _is_gone(error):
                return None
            raise

    def output(self, task: int) -> dict[str, Any] | None:
        """What the run of a task has printed, and why it failed; None if there is none of this number."""
        try:
            return self._call("GET", "get-output", query={"run_id": task}, doing=f"read the output of the run {task}")
        except Refused as error:
            if _is_gone(error):
                return None
            raise

    def runs(self, **filters: bool | int) -> Iterator[list[dict[str, Any]]]:
        """Runs that were submitted, the newest first, in pages; each is asked for when it is needed.

        Args:
            **filters: of the API: `active_only`, `completed_only`, `start_time_from` (milliseconds since the epoch).
        """
        query: dict[str, Any] = {"run_type": "SUBMIT_RUN", "limit": PAGE, **filters}
        while True:
            answer = self._call("GET", "list", query=query, doing="list the runs that were submitted")
            yield list(answer.get("runs") or ())
            if not (token := answer.get("next_page_token")):
                return
            query["page_token"] = token

    def cancel(self, run: int) -> None:
        """Ask for the end of a run, which comes some time later. One that is over, or is not there, is left alone."""
        try:
            self._call("POST", "cancel", body={"run_id": run}, doing=f"cancel the run {run}")
        except Refused as error:
            if not _is_gone(error) and (self.get(run) or {}).get("state", {}).get("result_state") is None:
                raise

    def _call(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        with self.contact(doing):
            answer = self.client.api_client.do(
                method,
                f"{_API}/{path}",
                query=dict(query) if query is not None else None,
                body=dict(body) if body is not None else None,
                headers={"Accept": "application/json"},
            )
        return answer if isinstance(answer, dict) else {}

    @contextmanager
    def contact(self, doing: str) -> Iterator[None]:
        """Turn what goes wrong in a call of the SDK into what this project raises.

        Args:
            doing: what the call is for: "submit the run".

        Raises:
            Refused: the workspace said no.
            UserError: it does not accept the credentials, or there are none.
            ContactLost: it cannot be reached, throttles for too long, or is unwell.
        """
        from databricks.sdk import errors
        from databricks.sdk.errors.base import DatabricksError
        from requests.exceptions import RequestException

        try:
            yield
        except (errors.Unauthenticated, errors.PermissionDenied) as error:
            who = "is not accepted by" if isinstance(error, errors.Unauthenticated) else "is not allowed by"
            raise UserError(
                f"To {doing} {who} the workspace {self.host}: {_text(error)}. Mend the credentials "
                "(DATABRICKS_TOKEN, DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET, or the profile), or ask for "
                "the permission."
            ) from error
        except (errors.TooManyRequests, errors.InternalError, errors.TemporarilyUnavailable) as error:
            raise ContactLost(f"The workspace {self.host} could not {doing}: {_text(error)}.") from error
        except (errors.BadRequest, errors.NotFound, errors.ResourceConflict) as error:
            raise Refused(f"The workspace {self.host} refused to {doing}: {_text(error)}.") from error
        except (DatabricksError, RequestException, TimeoutError) as error:
            cause = error.__cause__ or error  # the SDK says how long it tried; why, only its cause does
            raise ContactLost(f"The workspace {self.host} could not {doing}: {_text(cause)}.") from error
        except ValueError as error:  # of the SDK's own authentication
            raise UserError(f"There are no credentials for the workspace {self.host}: {_text(error)}.") from error


def _is_gone(error: Refused) -> bool:
    said = f"{error.__cause__} {getattr(error.__cause__, 'error_code', '')}"
    return any(words in said for words in _RUN_IS_GONE)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__
