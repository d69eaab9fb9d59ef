"""A Kubernetes API server for the tests, over HTTP.

`kmock` does not serve: it needs Python 3.11, and it keeps no resource versions, selectors, finalizers or conflicts,
nor does it refuse what an API server refuses, so that nothing of what a client gets wrong would show.
"""

import collections
import contextlib
import json
import re
import select
import socket
import ssl
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kubernetes_refusals as refusals
from kubernetes_admission import User, check_allowed
from kubernetes_api import Answer, Api, selection
from kubernetes_schema import NAMESPACES, PODS, RESOURCES, REVIEWS
from kubernetes_store import Store

VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64"}
LARGEST = 3 << 20
"""Bytes that a request may have."""

PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[a-z]+))?)?"
)
BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in RESOURCES}


class Request:
    """What a request is about."""

    def __init__(self, method, path, query, body, user):
        found = PATH.fullmatch(path)
        at = found and (found["group"] or "", found["version"] or "v1", found["plural"])
        if at not in BY_PATH:
            raise refusals.no_such_path()
        self.resource = BY_PATH[at]
        self.namespace, self.name, self.subresource = found["namespace"], found["name"], found["subresource"]
        if self.resource is NAMESPACES:
            self.namespace = None
        self.method, self.query, self.body, self.user = method, query, body, user
        watches = query.get("watch", "").lower() in ("true", "1")
        self.verb = {
            "GET": "get" if self.name else "watch" if watches else "list", "POST": "create", "PUT": "update",
            "PATCH": "patch", "DELETE": "delete" if self.name else "deletecollection",
        }[method]  # fmt: skip

    @property
    def full_resource(self):
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


class _Failure:
    def __init__(self, status, times, headers, matching):
        self.status, self.times, self.headers, self.matching = status, times, headers, matching


class Server(ThreadingHTTPServer):
    """The API server on loopback.

    Args:
        store: the objects; a new store if none is given.
        tls: a certificate's file and its key's, or None for plain HTTP.
    """

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, store=None, tls=None):
        self.store = store or Store()
        self.api = Api(self.store)
        self.logs = None
        """Who has the logs of pods: `logs.read(pod, query)` yields bytes, or refuses."""
        self.users = {}
        """Token to User. Who has no token is an administrator unless `closed`."""
        self.closed = False
        self.requests = collections.Counter()
        """How many requests there were of each (verb, resource), such as ("watch", "pods")."""
        self.bookmark_interval = 60
        """Seconds between two bookmarks of a watch."""
        self.latency = 0
        """Seconds by which every answer is late."""
        self._failures = []
        self._watches, self._connections = {}, set()
        self._guard = threading.Lock()
        self._tls = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="kubernetes-api")
        self._thread.start()

    # -- hooks

    def fail_next(self, status, times=1, *, verb=None, resource=None, name=None, headers=None):
        """Answer the next requests that match with a status: 429, 500, 503, 410 …; 0 drops the connection.

        Args:
            times: how many.
            verb: get, list, watch, create, update, patch, delete; None for any.
            resource: such as `jobs` or `pods/log`; None for any.
            name: of the object; None for any.
            headers: such as {"Retry-After": "1"}, which a 429 has anyway.
        """

        def matching(request):
            wanted = ((verb, request.verb), (resource, request.full_resource), (name, request.name))
            return all(one is None or one == other for one, other in wanted)

        with self._guard:
            self._failures.append(_Failure(status, times, headers or {}, matching))

    def stop_failing(self):
        with self._guard:
            self._failures.clear()

    def compact(self):
        """Forget the history: watches from a version of before are told 410."""
        self.store.compact()

    def cut_watches(self):
        """Cut the connections of all watches and followed logs in the middle. Returns how many."""
        with self._guard:
            watches = list(self._watches.values())
        for connection in watches:
            _cut(connection)
        return len(watches)

    def cut_connections(self):
        """Cut every connection."""
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            _cut(connection)

    @property
    def watches(self):
        """How many watches and followed logs are open."""
        return len(self._watches)

    def stop(self):
        self.shutdown()
        self._thread.join()
        with self.store.changed:
            self.stopped = True
            self.store.changed.notify_all()
        self.cut_connections()
        self.server_close()  # joins the threads of the connections

    stopped = False

    # -- inside

    def failure(self, request):
        with self._guard:
            for failure in self._failures:
                if failure.times > 0 and failure.matching(request):
                    failure.times -= 1
                    return failure
        return None

    def get_request(self):
        connection, address = super().get_request()
        if self._tls:
            connection.settimeout(10)
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._guard:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    @contextlib.contextmanager
    def streaming(self, connection):
        key = object()
        with self._guard:
            self._watches[key] = connection
        try:
            yield
        finally:
            with self._guard:
                self._watches.pop(key)

    def handle_error(self, request, client_address):
        import sys

        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error
            super().handle_error(request, client_address)


def _cut(connection):
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self):
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
            self.request.settimeout(None)
        super().setup()

    def log_message(self, *args):
        pass

    def _serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        try:
            if length > LARGEST:
                self.close_connection = True
                why = f"Request entity too large: limit is {LARGEST}"
                raise refusals.Refusal(413, "RequestEntityTooLarge", why, {})
            text = self.rfile.read(length)
            if self.server.latency:
                time.sleep(self.server.latency)
            answer = self._answer(text)
            if answer is not None:
                self._send(answer.code, answer.body, {"Warning": [f"299 - {json.dumps(w)}" for w in answer.warnings]})
        except refusals.Refusal as refusal:
            self._send(refusal.code, refusal.body(), refusal.headers)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _answer(self, text):
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        user = self._user()
        if parts.path in ("/version", "/version/"):
            return Answer(VERSION)
        if parts.path in ("/healthz", "/livez", "/readyz"):
            return Answer("ok")
        body = self._body(text)
        request = Request(self.command, parts.path, query, body, user)
        self.server.requests[request.verb, request.full_resource] += 1
        if failure := self.server.failure(request):
            return self._fail(failure)
        if request.resource is not REVIEWS:
            namespace = request.name if request.resource is NAMESPACES else request.namespace
            check_allowed(user, request.verb, request.resource, namespace, request.name, request.subresource)
        return self._do(request)

    def _user(self):
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token in self.server.users:
            return self.server.users[token]
        if scheme or self.server.closed:
            raise refusals.Refusal(401, "Unauthorized", "Unauthorized")
        return User()

    def _body(self, text):
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise refusals.bad_request(f"the object provided is unrecognized: {error}") from None

    def _do(self, request):
        api, resource, namespace, name = self.server.api, request.resource, request.namespace, request.name
        query, body = request.query, request.body
        if request.subresource == "log" and resource is PODS and request.verb == "get":
            return self._log(request)
        status_only = request.subresource == "status"
        if request.subresource and not status_only:
            raise refusals.no_such_path()
        if resource.namespaced and namespace is None and request.verb not in ("list", "watch"):
            raise refusals.no_such_path()
        if request.verb == "list":
            return api.list(resource, namespace, query)
        if request.verb == "watch":
            return self._watch(request)
        if request.verb == "get":
            return Answer(self.server.store.get(resource, namespace, name))
        if request.verb == "create":
            return api.create(resource, namespace, body, query, request.user)
        if request.verb == "update":
            return api.replace(resource, namespace, name, body, query, status_only)
        if request.verb == "patch":
            content_type = self.headers.get("Content-Type", "")
            return api.patch(resource, namespace, name, body, query, content_type, status_only)
        if request.verb == "delete":
            return api.delete(resource, namespace, name, body, query)
        return api.delete_collection(resource, namespace, body, query)

    def _fail(self, failure):
        if failure.status == 0:
            self.close_connection = True
            _cut(self.connection)
            return
        reasons = {429: "TooManyRequests", 410: "Expired", 500: "InternalError", 503: "ServiceUnavailable"}
        reasons |= {403: "Forbidden", 401: "Unauthorized", 409: "Conflict", 504: "Timeout"}
        headers = {"Retry-After": "1", **failure.headers} if failure.status == 429 else failure.headers
        reason = reasons.get(failure.status, "Unknown")
        raise refusals.Refusal(failure.status, reason, "a failure that the tests asked for", {}, dict(headers))

    # -- answers

    def _send(self, code, body, headers):
        content = body.encode() if isinstance(body, str) else json.dumps(body, separators=(",", ":")).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        for name, value in headers.items():
            for one in [value] if isinstance(value, str) else value:
                self.send_header(name, one)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _begin_stream(self, content_type):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, content):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def _say(self, kind, item):
        self._chunk(json.dumps({"type": kind, "object": item}, separators=(",", ":")).encode() + b"\n")

    # -- streams

    def _client_is_gone(self):
        """Whoever reads a stream says nothing, so that there is something to read at the end only."""
        self.close_connection = bool(select.select([self.connection], [], [], 0)[0])
        return self.close_connection

    def _log(self, request):
        store, server = self.server.store, self.server
        pod = store.get(PODS, request.namespace, request.name)
        chunks = server.logs.read(pod, request.query) if server.logs else iter(())
        if request.query.get("follow", "").lower() not in ("true", "1"):
            content = b"".join(chunks)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        with server.streaming(self.connection):
            self._begin_stream("text/plain")
            for chunk in chunks:
                if chunk:
                    self._chunk(chunk)
                if server.stopped or self._client_is_gone():
                    self.close_connection = True
                    return
            self.wfile.write(b"0\r\n\r\n")

    def _watch(self, request):
        server, store, query = self.server, self.server.store, request.query
        test = selection(request.resource, query)
        bookmarks = query.get("allowWatchBookmarks", "").lower() in ("true", "1")
        seconds = float(query.get("timeoutSeconds") or 1800)
        given = query.get("resourceVersion") or "0"
        if not given.isdigit():
            raise refusals.bad_request(
                f'Invalid value: "{given}": strconv.ParseUint: parsing "{given}": invalid syntax'
            )
        with server.streaming(self.connection):
            self._begin_stream("application/json")
            with store.lock:
                version, first, oldest = int(given), [], store.oldest
                if given == "0":
                    version, first = store.version, store.list(request.resource, request.namespace)
            if version < oldest:
                self._say("ERROR", refusals.expired(f"too old resource version: {version} ({oldest})").body())
                self.wfile.write(b"0\r\n\r\n")
                return
            for item in filter(test, first):
                self._say("ADDED", item)
            if query.get("sendInitialEvents", "").lower() == "true" and bookmarks:
                self._bookmark(request.resource, version, {"k8s.io/initial-events-end": "true"})
            self._stream(request, test, version, time.monotonic() + seconds, bookmarks)

    def _stream(self, request, test, version, end, bookmarks):
        server, store = self.server, self.server.store
        marked = time.monotonic()
        while not server.stopped:
            due = min(end, marked + server.bookmark_interval) if bookmarks else end
            with store.changed:
                if not store.since(version) and time.monotonic() < due:
                    store.changed.wait(min(due - time.monotonic(), 1))
                changes, newest = store.since(version), store.version
            if self._client_is_gone():
                return
            for _, resource, kind, item, before in changes:
                if resource is request.resource and request.namespace in (None, item["metadata"].get("namespace")):
                    self._change(test, kind, item, before)
            version = max(version, newest)
            if bookmarks and time.monotonic() >= due:
                self._bookmark(request.resource, version)
                marked = time.monotonic()
            if time.monotonic() >= end:
                break
        if server.stopped:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _change(self, test, kind, item, before):
        """An object that comes to match a selector is added for the watch, one that ceases to is deleted."""
        did, does = before is not None and test(before), test(item)
        if kind == "DELETED":
            if did:
                self._say("DELETED", item)
        elif does:
            self._say("MODIFIED" if did else "ADDED", item)
        elif did:
            last = {
                **before,
                "metadata": {**before["metadata"], "resourceVersion": item["metadata"]["resourceVersion"]},
            }
            self._say("DELETED", last)

    def _bookmark(self, resource, version, annotations=None):
        metadata = {"resourceVersion": str(version), **({"annotations": annotations} if annotations else {})}
        item = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        if resource is PODS:
            item |= {"spec": {"containers": None}, "status": {}}
        elif resource.group == "batch":
            item |= {"spec": {"template": {"metadata": {}, "spec": {"containers": None}}}, "status": {}}
        self._say("BOOKMARK", item)
