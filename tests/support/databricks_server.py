"""A Databricks workspace for the tests, over HTTP: the real SDK talks to it.

No stand-in that is published serves the Jobs API: moto and its like are of clouds, and the service's own test server is
written in Go and runs nothing that is submitted.
"""

import base64
import collections
import contextlib
import email.parser
import email.policy
import http.client
import json
import re
import socket
import sys
import threading
import traceback
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from databricks_access import Access, Secrets
from databricks_dbfs import Dbfs
from databricks_faults import Faults
from databricks_objects import BY_FORM, Objects
from databricks_refusals import Refusal, Unheard, absent, denied, invalid, malformed, no_such_cluster, no_such_endpoint
from databricks_runs import Runs
from databricks_scripted import ScriptedRuntime
from databricks_volumes import Volumes

USER = "me@example.org"
WORKSPACE_ID = "7474654012345678"


class Workspace(ThreadingHTTPServer):
    """A workspace on loopback.

    Args:
        directory: of the host, for its files.
        runtime: what runs tasks; a `ScriptedRuntime` if none is given.
        mlflow: the URI of an MLflow server, to which requests of MLflow are passed on.

    Attributes:
        host: its address.
        token: a personal access token of `USER`.
        access, secrets, runs, volumes, objects, dbfs, faults: its parts.
        requests: how many requests there were of each (method, path without its query).
        log: (method, path with its query, body) of each request; bodies that are no JSON are None.
    """

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, directory, runtime=None, mlflow=None):
        directory = Path(directory)
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"http://127.0.0.1:{self.server_address[1]}"
        self.mlflow = mlflow
        self.access, self.secrets, self.faults = Access(), Secrets(), Faults()
        self.volumes, self.dbfs = Volumes(directory / "Volumes"), Dbfs(directory / "dbfs")
        self.objects = Objects(directory / "Workspace", USER)
        self.runtime = runtime or ScriptedRuntime()
        self.runtime.workspace = self
        self.runs = Runs(self.runtime, self.host)
        self.token = self.access.new_token(USER)
        self.requests, self.log = collections.Counter(), []
        self.stopped, self._connections, self._guard = False, set(), threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="databricks")
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # -- what tests do

    def variables(self):
        """By which the SDK finds the workspace."""
        return {"DATABRICKS_HOST": self.host, "DATABRICKS_TOKEN": self.token}

    def add_client(self, client, secret):
        """Let a service principal in. Returns: the variables by which the SDK is that."""
        self.access.clients[client] = secret
        return {"DATABRICKS_HOST": self.host, "DATABRICKS_CLIENT_ID": client, "DATABRICKS_CLIENT_SECRET": secret}

    def write_profile(self, path, name="DEFAULT"):
        """Write a configuration file with a profile of this workspace. Returns: its path."""
        with Path(path).open("a") as file:
            file.write(f"[{name}]\nhost = {self.host}\ntoken = {self.token}\n\n")
        return str(path)

    def add_cluster(self, cluster_id, state="RUNNING"):
        """Make an all-purpose cluster."""
        self.runs.clusters[cluster_id] = state
        return cluster_id

    def counted(self, path):
        """How many requests there were whose path ends like this."""
        return sum(count for (_, asked), count in self.requests.items() if asked.endswith(path))

    def stop(self):
        """End all runs, and the server."""
        self.stopped = True
        self.runs.stop()
        self.runtime.stop()
        self.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            _cut(connection)
        self.server_close()

    # -- inside

    def get_request(self):
        connection, address = super().get_request()
        with self._guard:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error
            super().handle_error(request, client_address)


def _cut(connection):
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Raw:
    """An answer that is no JSON object."""

    def __init__(self, content=b"", status=200, headers=None):
        self.content, self.status, self.headers = content, status, headers or {}


_NOTHING = _Raw(status=204)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def _serve(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.urlsplit(self.path)
        try:
            self.server.faults.meet(self.command, parts.path)
            try:
                answer = self._answer(parts, data)
            finally:
                self.server.faults.meet(self.command, parts.path, after=True)
            self._send(answer)
        except Refusal as refusal:
            headers = {"Content-Type": "application/json", **refusal.headers}
            self._send(_Raw(json.dumps(refusal.body()).encode(), refusal.status, headers))
        except Unheard:
            self.close_connection = True
            _cut(self.connection)
        except OSError:
            raise
        except Exception as error:  # a fault of the stand-in, which shall not look like one of the connection
            traceback.print_exc()
            body = {"error_code": "INTERNAL_ERROR", "message": f"The stand-in failed: {error!r}"}
            self._send(_Raw(json.dumps(body).encode(), 500, {"Content-Type": "application/json"}))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _send(self, answer):
        if not isinstance(answer, _Raw):
            answer = _Raw(json.dumps(answer or {}).encode(), 200, {"Content-Type": "application/json"})
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    # -- what is asked

    def _answer(self, parts, data):
        server, path = self.server, urllib.parse.unquote(parts.path)
        self.query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        server.requests[self.command, path] += 1
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        self.data, self.body = data, None
        if kind == "application/json" and data:
            try:
                self.body = json.loads(data)
            except ValueError as error:
                raise malformed(str(error)) from None
        server.log.append((self.command, self.path, self.body))
        open_to_all = OPEN.get((self.command, path))
        if open_to_all:
            return open_to_all(self)
        self.user = server.access.user(self.headers.get("Authorization"))
        if self.headers.get("X-Databricks-Workspace-Id", WORKSPACE_ID) != WORKSPACE_ID:
            raise denied("The token is not of this workspace.")
        if path.startswith(("/api/2.0/mlflow/", "/api/2.0/mlflow-artifacts/", "/ajax-api/2.0/mlflow/")):
            return self._pass_on(parts)
        for method, pattern, handle in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                return handle(self, *found.groups())
        raise no_such_endpoint(self.command, path)

    def given(self):
        """The body, which is an object."""
        if not isinstance(self.body, dict):
            raise malformed("Expected a map")
        return self.body

    # -- authentication

    def about_host(self):
        return {
            "oidc_endpoint": f"{self.server.host}/oidc", "account_id": "0d26daa6-5e44-4c97-a497-ef015f91254a",
            "workspace_id": WORKSPACE_ID, "cloud": "AWS",
        }  # fmt: skip

    def about_oidc(self):
        root = f"{self.server.host}/oidc"
        return {"authorization_endpoint": f"{root}/v1/authorize", "token_endpoint": f"{root}/v1/token"}

    def issue_token(self):
        form = dict(urllib.parse.parse_qsl(self.data.decode()))
        status, body = self.server.access.issue(self.headers.get("Authorization"), form)
        return _Raw(json.dumps(body).encode(), status, {"Content-Type": "application/json"})

    def me(self):
        emails = [{"type": "work", "value": self.user, "primary": True}]
        return {"id": "4711", "userName": self.user, "displayName": "Me", "active": True, "emails": emails}

    # -- files

    def put_file(self, path):
        self.server.volumes.put(path, self.query, self.data)
        return _NOTHING

    def get_file(self, path):
        content, headers = self.server.volumes.get(path)
        return _Raw(content, 200, headers)

    def nothing_after(self, act, *arguments):
        act(*arguments)
        return _NOTHING

    def import_object(self):
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            return self.server.objects.import_json(self.given())
        form = _form(kind, self.data)
        content = form.pop("content", b"")
        form = {name: value.decode() for name, value in form.items()}
        if "overwrite" in form:
            form["overwrite"] = form["overwrite"] == "true"
        return self.server.objects.import_object(form, content, BY_FORM)

    def export_object(self):
        content = self.server.objects.export(self.query)
        if self.query.get("direct_download") == "true":
            return _Raw(content, 200, {"Content-Type": "application/octet-stream"})
        return {"content": base64.b64encode(content).decode()}

    # -- the rest

    def cluster(self):
        runs, asked = self.server.runs, self.query.get("cluster_id")
        if asked in runs.clusters:
            return {
                "cluster_id": asked,
                "state": runs.clusters[asked],
                "cluster_source": "UI",
                "creator_user_name": USER,
            }
        for run in list(runs.by_id.values()):
            for task in run.tasks:
                if task.cluster_id == asked:
                    states = {"PENDING": "PENDING", "RUNNING": "RUNNING", "TERMINATING": "TERMINATING"}
                    state = states.get(task.life, "TERMINATED")
                    return {"cluster_id": asked, "state": state, "cluster_source": "JOB", "creator_user_name": run.user}
        raise no_such_cluster(asked)

    def _pass_on(self, parts):
        if self.server.mlflow is None:
            raise absent("This workspace has no MLflow.", "FEATURE_DISABLED")
        name = str((self.body or {}).get("name"))
        if parts.path.endswith("/experiments/create") and not name.startswith("/"):
            raise invalid(
                f"Got an invalid experiment name '{name}'. An experiment name must be an absolute path within the "
                "Databricks workspace. e.g. '/Users/<some-username>/my-experiment'."
            )
        there = urllib.parse.urlsplit(self.server.mlflow)
        connection = http.client.HTTPConnection(there.hostname, there.port, timeout=60)
        try:
            headers = {"Content-Type": self.headers["Content-Type"]} if self.headers.get("Content-Type") else {}
            connection.request(self.command, self.path, self.data, headers)
            answer = connection.getresponse()
            kind = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            return _Raw(answer.read(), answer.status, kind)
        finally:
            connection.close()


def _form(kind, data):
    """The fields of a form with files, in bytes."""
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + data)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.iter_parts()
    }


OPEN = {
    ("GET", "/.well-known/databricks-config"): _Handler.about_host,
    ("GET", "/oidc/.well-known/oauth-authorization-server"): _Handler.about_oidc,
    ("POST", "/oidc/v1/token"): _Handler.issue_token,
}
"""What anybody may ask."""


def _routes():
    runs, files, folders = r"/api/2\.[012]/jobs/runs", r"/api/2\.0/fs/files(/.*)", r"/api/2\.0/fs/directories(/.*)"
    tree, dbfs, secrets = r"/api/2\.0/workspace", r"/api/2\.0/dbfs", r"/api/2\.0/secrets"
    yield "POST", f"{runs}/submit", lambda h: h.server.runs.submit(h.given(), h.user)
    yield "GET", f"{runs}/get", lambda h: h.server.runs.get(h.query)
    yield "GET", f"{runs}/get-output", lambda h: h.server.runs.get_output(h.query)
    yield "GET", f"{runs}/list", lambda h: h.server.runs.list(h.query)
    yield "POST", f"{runs}/cancel", lambda h: h.server.runs.cancel(h.given())
    yield "POST", f"{runs}/delete", lambda h: h.server.runs.delete(h.given())
    yield "GET", r"/api/2\.[01]/clusters/get", _Handler.cluster
    yield "GET", "/api/2.0/preview/scim/v2/Me", _Handler.me
    yield "PUT", files, _Handler.put_file
    yield "GET", files, _Handler.get_file
    yield "HEAD", files, _Handler.get_file
    yield "DELETE", files, lambda h, path: h.nothing_after(h.server.volumes.delete, path)
    yield "POST", files, _presigned  # ?action=initiate-upload
    yield "POST", r"/api/2\.0/fs/create-(?:upload-part|download|resumable-upload|abort-upload)-urls?", _presigned
    yield "PUT", folders, lambda h, path: h.nothing_after(h.server.volumes.make_directory, path)
    yield "GET", folders, lambda h, path: h.server.volumes.list_directory(path, h.query)
    yield "HEAD", folders, lambda h, path: h.server.volumes.check_directory(path)
    yield "DELETE", folders, lambda h, path: h.nothing_after(h.server.volumes.delete_directory, path)
    yield "POST", f"{tree}/import", _Handler.import_object
    yield "GET", f"{tree}/export", _Handler.export_object
    yield "GET", f"{tree}/get-status", lambda h: h.server.objects.status(h.query)
    yield "GET", f"{tree}/list", lambda h: h.server.objects.list(h.query)
    yield "POST", f"{tree}/mkdirs", lambda h: h.server.objects.make_directories(h.given())
    yield "POST", f"{tree}/delete", lambda h: h.server.objects.delete(h.given())
    for name in ("put", "create", "add_block", "close", "delete", "move"):
        yield "POST", f"{dbfs}/{name.replace('_', '-')}", lambda h, name=name: getattr(h.server.dbfs, name)(h.given())
    yield "POST", f"{dbfs}/mkdirs", lambda h: h.server.dbfs.make_directories(h.given())
    yield "GET", f"{dbfs}/read", lambda h: h.server.dbfs.read(h.query)
    yield "GET", f"{dbfs}/list", lambda h: h.server.dbfs.list(h.query)
    yield "GET", f"{dbfs}/get-status", lambda h: h.server.dbfs.status(h.query)
    yield "POST", f"{secrets}/scopes/create", lambda h: h.server.secrets.create_scope(h.given())
    yield "POST", f"{secrets}/scopes/delete", lambda h: h.server.secrets.delete_scope(h.given())
    yield "GET", f"{secrets}/scopes/list", lambda h: h.server.secrets.list_scopes()
    yield "POST", f"{secrets}/put", lambda h: h.server.secrets.put_secret(h.given())
    yield "POST", f"{secrets}/delete", lambda h: h.server.secrets.delete_secret(h.given())
    yield "GET", f"{secrets}/list", lambda h: h.server.secrets.list_secrets(h.query)
    yield "GET", f"{secrets}/get", lambda h: h.server.secrets.get_secret(h.query)


def _presigned(_handler, *_path):
    """The SDK asks for these first, and goes on without."""
    raise denied("Presigned URLs API is not enabled")


ROUTES = list(_routes())
