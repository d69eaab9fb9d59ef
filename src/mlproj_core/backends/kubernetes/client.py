"""One cluster's API: the few requests that the backend makes, with errors that people can act on.

The `kubernetes` client finds the cluster, proves who asks and keeps the connections. Requests and answers are plain
JSON values, though, and not its models: a model drops a field that it does not know, which the API server would have
refused by name, and making models of every event costs more than all else that is done with it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from mlproj_core.errors import ContactLost, ExecutionException, UserError
from mlproj_core.status import Reason, ReasonCode

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

__all__ = ["AccessRefused", "Cluster", "Conflict", "Expired", "InvalidObject", "Stream", "Throttled"]

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection."""

READ_TIMEOUT = 30.0
"""Seconds to wait for an answer, or for the next piece of one."""

QUIET = 120.0
"""Seconds in which a stream says nothing until its connection is taken for dead: bookmarks come every minute or so."""

PATIENCE = 10.0
"""Seconds that a request may spend on a server that is unwell before it raises."""

_TRANSIENT = frozenset({429, 500, 502, 503, 504})

_PATHS = {"jobs": "/apis/batch/v1", "pods": "/api/v1", "secrets": "/api/v1", "events": "/api/v1"}


class AccessRefused(UserError):
    """The cluster does not let us: who asks is not known (401) or may not (403)."""


class InvalidObject(UserError):
    """The cluster refuses an object: 400, 404 for its namespace, 413 or 422."""


class Conflict(Exception):
    """The object was changed since it was read, or is there already (409)."""


class Expired(Exception):
    """What was asked for is too long ago (410)."""


class Throttled(Exception):
    """The server asks to come back later (429, 5xx, a connection that broke).

    Attributes:
        after: seconds to wait; None if the server did not say.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True)
class _Answer:
    status: int
    body: Any


class Stream:
    """Lines of an answer as they come, with their ends; the last one may be without.

    Raises:
        Throttled: the connection broke, or was silent for too long.
    """

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        try:
            for piece in self._response.stream(65536, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line + b"\n"
            if rest:
                yield rest
        except Exception as error:
            raise Throttled(f"the connection broke: {error}") from None
        finally:
            self.close()

    def expect_within(self, seconds: float) -> None:
        """Take the connection for dead when it says nothing for so long."""
        if (sock := self._socket()) is not None:
            sock.settimeout(seconds)

    def cut(self) -> None:
        """End it from another thread, which waits for the next line."""
        if (sock := self._socket()) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _socket(self) -> socket.socket | None:
        return getattr(self._response.connection, "sock", None)

    def close(self) -> None:
        """Give up what was not read."""
        self._response.close()
        self._response.release_conn()


class Cluster:
    """The API of one cluster, in one namespace.

    Args:
        api_client: whose connections and credentials are used.
        namespace: where the Jobs are.
        context: the kubeconfig's context that it is of; None for another origin.
        kubeconfig: the kubeconfig, if it is not the usual one.
    """

    def __init__(
        self, api_client: ApiClient, namespace: str, context: str | None = None, kubeconfig: str | None = None
    ) -> None:
        self._client = api_client
        self.namespace = namespace
        self.context = context
        self.kubeconfig = kubeconfig
        self.server = str(api_client.configuration.host).rstrip("/")

    def __repr__(self) -> str:
        return f"<Cluster {self.server}, namespace {self.namespace}>"

    @property
    def where(self) -> str:
        """For messages: which cluster, and which part of it."""
        by = f" (context {self.context!r})" if self.context else ""
        return f"the cluster {self.server}{by}, namespace {self.namespace!r}"

    def at(self, namespace: str) -> Cluster:
        """The same cluster, in another namespace."""
        if namespace == self.namespace:
            return self
        return Cluster(self._client, namespace, self.context, self.kubeconfig)

    # -- objects

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object of that name; None if there is none."""
        return self._call("get", "GET", kind, name)

    def list(self, kind: str, *, labels: str = "", fields: str = "") -> tuple[list[dict[str, Any]], str]:
        """The objects that selectors fit, and the resource version that they are of."""
        items: list[dict[str, Any]] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": "500", "continue": ""}
        while True:
            try:
                answer = self._call("list", "GET", kind, query=query)
            except Expired:  # the list that this was to be the next part of is too old
                items, query = [], {**query, "continue": ""}
                continue
            if answer is None:
                raise self._no_namespace(kind)
            items += answer["items"]
            query["continue"] = answer["metadata"].get("continue", "")
            if not query["continue"]:
                return items, answer["metadata"].get("resourceVersion", "0")

    def create(self, kind: str, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Make an object; its fields are checked strictly.

        Args:
            kind: such as "jobs".
            body: the object.
            dry_run: whether to ask only if it could be made.

        Raises:
            Conflict: there is one of that name.
            InvalidObject: the cluster does not take it.
        """
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        answer = self._call("create", "POST", kind, query=query, body=body)
        if answer is None:
            raise self._no_namespace(kind)
        return answer

    def patch(self, kind: str, name: str, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any] | None:
        """Merge into an object: the object that it is then; None if there is none.

        Raises:
            Conflict: the body gives a resource version, and the object is of another.
        """
        query = {"dryRun": "All"} if dry_run else {}
        return self._call(
            "patch", "PATCH", kind, name, query=query, body=body, content_type="application/merge-patch+json"
        )

    # -- streams

    def watch(self, kind: str, labels: str, version: str, seconds: int) -> Stream:
        """The events after a resource version, one in each line; it ends after some seconds at the latest.

        Raises:
            Expired: the resource version is too long ago.
            Throttled: the server is unwell.
        """
        query = {
            "watch": "true",
            "labelSelector": labels,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        return self._open("watch", kind, "", query, read_timeout=QUIET)

    def log(
        self, pod: str, container: str, *, since: str | None = None, follow: bool = False, tail: int | None = None
    ) -> Stream | None:
        """A container's output, each line begun with its time; None if there is no such pod, or no output yet.

        Args:
            pod: its name.
            container: its name.
            since: a time (RFC 3339, to the second) before which lines are left out.
            follow: whether to go on until the container ends, or the connection does.
            tail: how many of the last lines; None for all.

        Raises:
            Throttled: the server is unwell.
        """
        query = {"container": container, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        query |= {"sinceTime": since} if since is not None else {}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        try:
            # A container may print nothing for a day: its log is opened anew then, lest it be a dead connection.
            return self._open("get", "pods", f"{pod}/log", query, read_timeout=QUIET if follow else READ_TIMEOUT)
        except InvalidObject:  # 400: the container has not started; 404: the pod is gone
            return None

    def close(self) -> None:
        """Close the connections; the next request opens others."""
        self._client.rest_client.pool_manager.clear()

    # -- requests

    def _call(
        self,
        verb: str,
        method: str,
        kind: str,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any] | None:
        """One request, repeated while the server is unwell and patience lasts. None if there is no such object."""
        until, pause = time.monotonic() + PATIENCE, 0.1
        while True:
            try:
                response = self._send(
                    verb, method, kind, name, query or {}, body=body, content_type=content_type, read=READ_TIMEOUT
                )
                if response.status == 404 and method != "POST":
                    if "namespaces" in _message(response.body) and not name:
                        raise self._no_namespace(kind)
                    return None
                self._check(verb, kind, name, response)
                answer: dict[str, Any] = response.body
                return answer
            except Throttled as error:
                wait = pause if error.after is None else error.after
                if time.monotonic() + wait > until:
                    raise ContactLost(str(error)) from None
            time.sleep(wait)
            pause = min(2 * pause, 2.0)

    def _send(
        self,
        verb: str,
        method: str,
        kind: str,
        name: str,
        query: Mapping[str, str],
        *,
        body: Mapping[str, Any] | None,
        content_type: str,
        read: float | None,
    ) -> _Answer:
        response = self._request(method, kind, name, query, body, content_type, read)
        try:
            text = response.data
        except Exception as error:
            raise self._unreachable(error) from None
        answer = _Answer(response.status, _json(text))
        if answer.status in _TRANSIENT:
            raise self._unwell(verb, kind, answer, response.headers)
        if answer.status == 410:
            raise Expired(_message(answer.body))
        return answer

    def _open(self, verb: str, kind: str, name: str, query: Mapping[str, str], *, read_timeout: float | None) -> Stream:
        """A response to read piece by piece."""
        response = self._request("GET", kind, name, query, None, "", read_timeout)
        if response.status == 200:
            return Stream(response)
        try:
            answer = _Answer(response.status, _json(response.data))
        finally:
            response.release_conn()
        if answer.status == 410:
            raise Expired(_message(answer.body))
        if answer.status in _TRANSIENT:
            raise self._unwell(verb, kind, answer, response.headers)
        self._check(verb, kind, name, answer)
        raise Throttled(f"{self.where} answered with HTTP {answer.status}")

    def _request(
        self,
        method: str,
        kind: str,
        name: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        content_type: str,
        read: float | None,
    ) -> Any:
        from urllib3 import Timeout

        configuration = self._client.configuration
        path = f"{_PATHS[kind]}/namespaces/{quote(self.namespace, safe='')}/{kind}"
        path += f"/{quote(name)}" if name else ""
        if query := {key: value for key, value in query.items() if value != ""}:
            path += f"?{urlencode(query)}"
        headers = {**self._client.default_headers, "Accept": "application/json, */*"}
        if self._client.cookie:
            headers["Cookie"] = self._client.cookie
        try:
            # Asked for at each request: the client fetches a new token when the old one is about to expire.
            for setting in configuration.auth_settings().values():
                if setting["in"] == "header" and setting["value"]:
                    headers[setting["key"]] = setting["value"]
            if body is not None:
                headers["Content-Type"] = content_type
            return self._client.rest_client.pool_manager.request(
                method,
                self.server + path,
                headers=headers,
                body=json.dumps(body, separators=(",", ":")) if body is not None else None,
                timeout=Timeout(connect=CONNECT_TIMEOUT, read=read),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except Exception as error:
            raise self._unreachable(error) from None

    # -- errors

    def _unreachable(self, error: Exception) -> Throttled:
        return Throttled(f"{_capital(self.where)} cannot be reached: {error}")

    def _unwell(self, verb: str, kind: str, answer: _Answer, headers: Mapping[str, str]) -> Throttled:
        told = headers.get("Retry-After", "")
        after = float(told) if told.isdecimal() else None
        text = f"{_capital(self.where)} could not {verb} {kind}: HTTP {answer.status}, {_message(answer.body)}"
        return Throttled(text, after)

    def _no_namespace(self, kind: str) -> InvalidObject:
        return InvalidObject(
            f"There is no namespace {self.namespace!r} in the cluster {self.server}. Make it, or name another one in "
            f"backend_config, {{'namespace': …}}. ({kind} were asked for.)"
        )

    def _check(self, verb: str, kind: str, name: str, answer: _Answer) -> None:
        if 200 <= answer.status < 300:
            return
        said = _message(answer.body)
        subject = f"{kind}/log" if name.endswith("/log") else kind
        if answer.status == 401:
            raise AccessRefused(
                f"{_capital(self.where)} does not know who asks (401, {said}): check the credentials of the "
                "kubeconfig's context, or the token of the service account."
            )
        if answer.status == 403 and "exceeded quota" in said:
            message = f"{_capital(self.where)} has no room for one more: {said}"
            raise ExecutionException(message, reason=Reason(ReasonCode.CAPACITY, message, retryable=True))
        if answer.status == 403 and "is forbidden: User" not in said and verb == "create":
            raise InvalidObject(f"{_capital(self.where)} does not admit the object of {kind}: {said}")
        if answer.status == 403:
            raise AccessRefused(
                f"{_capital(self.where)} does not let who asks {verb} {subject}: {said}. What mlproj needs is in the "
                f"Role that `mlproj kubernetes role --namespace {self.namespace}` prints."
            )
        if answer.status == 409:
            raise Conflict(said)
        if answer.status == 404 and verb == "create":
            raise self._no_namespace(kind)
        raise InvalidObject(f"{_capital(self.where)} refuses to {verb} {subject}: HTTP {answer.status}, {said}")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"message": text.decode("utf-8", "replace")[:500]}


def _message(body: Any) -> str:
    return str(body.get("message", "")) if isinstance(body, dict) else str(body)[:500]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
