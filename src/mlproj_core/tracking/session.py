"""Requests to one tracking server: authentication, one connection, retries, and errors people can act on."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from mlproj_core.errors import TrackingError, TrackingRefused
from mlproj_core.tracking.credentials import Credentials, TlsSettings, flag, header_text, integer
from mlproj_core.tracking.uris import without_credentials
from mlproj_core.web.connection import Response
from mlproj_core.web.proxies import connection_to

__all__ = ["Door", "ServerRefusal", "Session"]

# mlflow.utils.request_utils._TRANSIENT_FAILURE_RESPONSE_CODES
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

READ_TIMEOUT = 30
"""Seconds to wait for an answer when MLFLOW_HTTP_REQUEST_TIMEOUT is not set (MLflow waits 120)."""

RATE_LIMIT_PATIENCE = 60.0
"""Seconds to wait, in all, for a server that answers and says itself when to come back."""

AT_ONCE = 8
"""Calls that one process makes at the same time. Hundreds of steps may begin in one moment, as those of a sweep do: a
server that got all their calls at once would answer the last of them when their patience is over."""

_REDIRECTS = 5

_turns = threading.BoundedSemaphore(AT_ONCE)


class ServerRefusal(TrackingRefused):
    """The server understood a request and said no.

    Attributes:
        status: the HTTP status, 4xx.
        error_code: MLflow's word, such as RESOURCE_DOES_NOT_EXIST; "" when it gave none.
    """

    def __init__(self, message: str, *, status: int, error_code: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code


@dataclass(frozen=True)
class Door:
    """What a GET needs that is too large for `Session.call`, which reads an answer as a whole.

    Attributes:
        url: without credentials.
        headers: those that say who asks. Secret.
        tls: how the server's certificate is checked.
        who: for messages: who asks.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    tls: TlsSettings
    who: str


class Session:
    """Speaks to one tracking server, for any thread of one process, one request at a time.

    Args:
        uri: the server, credentials and all.
        patience: seconds that a call may spend on a server that is down before it raises. MLflow's own
            client waits for minutes; a step of a pipeline wants to know.
        environ: the variables of MLflow's client.
    """

    def __init__(self, uri: str, *, patience: float, environ: Mapping[str, str] = os.environ) -> None:
        self.uri, userinfo = without_credentials(uri)
        parts = urlsplit(self.uri)
        self.userinfo = userinfo
        self.credentials = Credentials.from_environment(parts.hostname or "", userinfo, environ)
        self._patience = patience
        self._timeout = integer("MLFLOW_HTTP_REQUEST_TIMEOUT", environ, READ_TIMEOUT)
        self._retries = integer("MLFLOW_HTTP_REQUEST_MAX_RETRIES", environ, 7)
        self._backoff = integer("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", environ, 2)
        self._heeds_retry_after = flag("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", environ, True)
        self._follows_redirects = flag("MLFLOW_ALLOW_HTTP_REDIRECTS", environ, True)
        self._tls = TlsSettings.from_environment(environ)
        self._lock = threading.RLock()
        self._has_turn = False
        self._headers = {"User-Agent": "mlproj", "Accept": "application/json"}
        if workspace := environ.get("MLFLOW_WORKSPACE", "").strip():
            self._headers["X-MLFLOW-WORKSPACE"] = header_text(workspace, "MLFLOW_WORKSPACE")
        if self.credentials.authorization:
            self._headers["Authorization"] = self.credentials.authorization
        self._aim(self.uri)

    def __repr__(self) -> str:
        return f"Session({self.uri})"

    def _aim(self, base: str) -> None:
        """Point at a server: at first, and again when it redirects to another address of itself."""
        self._base = base.rstrip("/")
        self._prefix = quote(urlsplit(base).path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._connection, self._host = connection_to(
            base,
            tls=self._tls.context,
            connect_timeout=max(min(self._patience, self._timeout), 1),
            timeout=self._timeout,
        )

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            self._connection.close()

    def door(self, path: str) -> Door:
        """How to read what is at an API path, for as long as that takes."""
        headers = {name: value for name, value in self._headers.items() if name not in ("Accept", "User-Agent")}
        return Door(self._base + path, headers, self._tls, self.credentials.who)

    def get(self, path: str, query: Mapping[str, str], *, doing: str) -> dict[str, Any]:
        """GET an API path; see `call`."""
        return self.call("GET", f"{path}?{urlencode(query)}", doing=doing)

    def post(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        doing: str,
        recover: Callable[[], dict[str, Any] | None] | None = None,
    ) -> dict[str, Any]:
        """POST a JSON object to an API path; see `call`."""
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
        return self.call("POST", path, data, doing=doing, recover=recover)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Path | None = None,
        *,
        doing: str,
        content_type: str = "application/json",
        recover: Callable[[], dict[str, Any] | None] | None = None,
    ) -> dict[str, Any]:
        """One call of the API, repeated while the server is unwell and patience lasts.

        Args:
            method: GET, POST or PUT.
            path: of the API, below the server's own prefix, query included.
            body: what to send.
            doing: what this is, for messages: "create a run in experiment 5".
            content_type: of the body.
            recover: for a call that must not be made twice: looks up whether it took effect, and gives its
                result if so. It is asked before any repetition that could be a second one.

        Returns:
            The JSON object of the answer.

        Raises:
            ServerRefusal: the server said no.
            TrackingError: it cannot be reached, is unwell, or is no MLflow server.
        """
        with self._lock:
            # An upload takes as long as it takes: the short calls do not queue behind it. A call that looks up whether
            # another one took effect is within that one's turn.
            if self._has_turn or isinstance(body, Path):
                return self._call(method, path, body, doing, content_type, recover)
            with _turns:
                self._has_turn = True
                try:
                    return self._call(method, path, body, doing, content_type, recover)
                finally:
                    self._has_turn = False

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | Path | None,
        doing: str,
        content_type: str,
        recover: Callable[[], dict[str, Any] | None] | None,
    ) -> dict[str, Any]:
        started = time.monotonic()
        waited_as_told = 0.0
        attempt = 0
        while True:
            asked = False
            pause: float | None = None
            try:
                if not self._connection.is_open:
                    self._connection.open()
                asked = True
                response = self._exchange(method, path, body, content_type)
            except OSError as error:
                if _is_tls(error):
                    raise self._tls_failure(error) from None
                trouble = TrackingError(
                    f"The tracking server {self.uri} cannot be reached to {doing}: {_plain(error)}. "
                    "Check that it runs and that MLFLOW_TRACKING_URI is right."
                )
            else:
                if response.status not in _TRANSIENT:
                    return self._understand(response, path, doing)
                asked = response.status != 429
                trouble = TrackingError(
                    f"The tracking server {self.uri} is unwell and could not {doing}: HTTP {response.status}"
                    f"{self._said(response)}. Try again later, or look at the server's log."
                )
                pause = self._told_pause(response, waited_as_told)
            attempt += 1
            if pause is not None:
                waited_as_told += pause
            else:
                pause = 0.0 if attempt == 1 else min(0.1, self._backoff) * 2 ** (attempt - 1)
                if time.monotonic() - started - waited_as_told + pause > self._patience:
                    raise trouble
            if attempt > self._retries:
                raise trouble
            time.sleep(pause)
            if asked and recover is not None and (found := recover()) is not None:
                return found

    def _told_pause(self, response: Response, waited: float) -> float | None:
        text = response.headers.get("retry-after", "")
        if response.status not in (429, 503) or not text or not self._heeds_retry_after:
            return None
        if text.isdigit():
            pause = float(text)
        else:
            from email.utils import parsedate_to_datetime

            try:
                pause = max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
            except ValueError:
                return None
        return pause if waited + pause <= RATE_LIMIT_PATIENCE else None

    def _exchange(self, method: str, path: str, body: bytes | Path | None, content_type: str) -> Response:
        for _ in range(_REDIRECTS):
            headers = self._headers if body is None else {**self._headers, "Content-Type": content_type}
            response = self._connection.request(method, self._prefix + path, headers, body)
            if response.status not in (301, 302, 303, 307, 308) or not self._follow(method, path, response):
                return response
        raise TrackingError(f"The tracking server {self.uri} redirects in a circle.")

    def _follow(self, method: str, path: str, response: Response) -> bool:
        """Point at where the server redirects to, when that is the same API at another address."""
        target = urljoin(f"{self._base}{path}", response.headers.get("location", ""))
        keeps_method = method == "GET" or response.status in (307, 308)
        is_the_api = target.startswith(("http://", "https://")) and target.endswith(path)
        if not (self._follows_redirects and keeps_method and is_the_api):
            return False
        old, new = urlsplit(self._base), urlsplit(target)
        is_same = (old.scheme, old.netloc) == (new.scheme, new.netloc)
        is_upgrade = (new.scheme, old.hostname) == ("https", new.hostname) and (
            (old.scheme, old.port or 80, new.port or 443) == ("http", 80, 443)
        )
        if not (is_same or is_upgrade):
            # As requests does: another server gets no credentials.
            self._headers.pop("Authorization", None)
        self._connection.close()
        self._aim(target.removesuffix(path))
        self._connection.open()
        return True

    def _understand(self, response: Response, path: str, doing: str) -> dict[str, Any]:
        if 300 <= response.status < 400:
            where = response.headers.get("location", "").split("?", 1)[0]
            where = without_credentials(where)[0]
            raise TrackingError(
                f"The tracking server {self.uri} answers with a redirect to {where} when asked to {doing}. If "
                "that is the same server, set MLFLOW_TRACKING_URI to its address; if it is a login page, set "
                "MLFLOW_TRACKING_TOKEN or the user and password."
            )
        value: object = None
        text = response.body.decode("utf-8", "replace").strip()
        if response.status == 200 and text in ("", "200 OK"):
            return {}
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if 200 <= response.status < 300:
            if isinstance(value, dict):
                return value
            raise TrackingError(
                f"{self.uri} is no MLflow tracking server: asked to {doing}, it answers with "
                f"{response.headers.get('content-type', 'something')} instead of JSON. Check "
                "MLFLOW_TRACKING_URI; a login page in front of the server answers like this too."
            )
        error_code = str(value.get("error_code", "")) if isinstance(value, dict) else ""
        if response.status == 404 and error_code in ("", "ENDPOINT_NOT_FOUND"):
            raise TrackingError(
                f"{self.uri} has no MLflow API: HTTP 404 for {self._prefix}{path.split('?', 1)[0]}. Check "
                "MLFLOW_TRACKING_URI; a server behind a prefix needs it in the URI (https://host/prefix)."
            )
        if response.status >= 500:
            raise TrackingError(
                f"The tracking server {self.uri} could not {doing}: HTTP {response.status}{self._said(response)}."
            )
        raise ServerRefusal(self._refusal(response, doing), status=response.status, error_code=error_code)

    def _refusal(self, response: Response, doing: str) -> str:
        said = self._said(response)
        who = self.credentials.who
        if response.status == 401:
            return (
                f"The tracking server {self.uri} does not accept {who}, who asked to {doing}: HTTP 401{said}. Set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or mend them."
            )
        if response.status == 403 and "host header" in said.lower():
            return (
                f"The tracking server {self.uri} does not answer to the name {self._host}: HTTP 403{said}. Start it "
                f"with --allowed-hosts {self._host}, or use a name that it allows in MLFLOW_TRACKING_URI."
            )
        if response.status == 403:
            return (
                f"The tracking server {self.uri} does not allow {who} to {doing}: HTTP 403{said}. Ask for the "
                "permission, or use another experiment or other credentials."
            )
        return f"The tracking server {self.uri} refused to {doing}: HTTP {response.status}{said}."

    def _said(self, response: Response) -> str:
        """The server's own words, on one line, without any secret that it may repeat."""
        text = response.body.decode("utf-8", "replace")
        try:
            value = json.loads(text)
            text = str(value["message"]) if isinstance(value, dict) and "message" in value else text
        except ValueError:
            pass
        if text.lstrip()[:1] == "<":
            return ""
        for secret in self.credentials.secrets:
            text = text.replace(secret, "***")
        text = " ".join(text.split()).rstrip(".")
        return f": {text[:300]}" if text else ""

    def _tls_failure(self, error: OSError) -> TrackingError:
        return TrackingError(
            f"No secure connection to the tracking server {self.uri}: {_plain(error)}. For a server with a "
            "certificate of its own, set MLFLOW_TRACKING_SERVER_CERT_PATH to its authority's certificate; for one "
            "that asks for a client's, set MLFLOW_TRACKING_CLIENT_CERT_PATH."
        )


def _is_tls(error: OSError) -> bool:
    import ssl

    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)


def _plain(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error.strerror or error)
