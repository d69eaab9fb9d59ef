"""Of `databricks.sdk.runtime`, which a cluster has: what of `dbutils` the tests need, and that there is a session."""

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path


class _Secrets:
    def getBytes(self, scope, key):  # noqa: N802
        """A secret's bytes."""
        answer = _ask("/api/2.0/secrets/get", scope=scope, key=key)
        return base64.b64decode(answer["value"])

    def get(self, scope, key):
        """A secret's text."""
        return self.getBytes(scope, key).decode()

    def list(self, scope):
        """What secrets a scope has."""
        return _ask("/api/2.0/secrets/list", scope=scope)["secrets"]


class _Files:
    def cp(self, source, target, recurse=False):
        """Copy a file of DBFS to the driver's disk."""
        if recurse or not source.startswith("dbfs:") or not target.startswith("file:"):
            raise NotImplementedError("this stand-in copies files from dbfs: to file: only")
        path = source[len("dbfs:") :]
        size, data = _ask("/api/2.0/dbfs/get-status", path=path)["file_size"], b""
        while len(data) < size:
            data += base64.b64decode(_ask("/api/2.0/dbfs/read", path=path, offset=len(data), length=1 << 20)["data"])
        Path(target[len("file:") :]).write_bytes(data)
        return True


class _Given:
    """A value of the Java side."""

    def __init__(self, value):
        self._value = value

    def get(self):
        """The value."""
        return self._value


class _Notebook:
    """By the names of the Java side: `notebook.entry_point.getDbutils().notebook().getContext()`."""

    @property
    def entry_point(self):
        """The bridge."""
        return self

    def getDbutils(self):  # noqa: N802
        """It again."""
        return self

    def notebook(self):
        """It again."""
        return self

    def getContext(self):  # noqa: N802
        """It again, where the access mode allows it."""
        if _context()["shared"]:
            raise RuntimeError("py4j.security.Py4JSecurityException: getContext() is not whitelisted")
        return self

    def apiUrl(self):  # noqa: N802
        """The workspace's address."""
        return _Given(_context()["host"])

    def apiToken(self):  # noqa: N802
        """By which the driver is known there."""
        return _Given(_context()["token"])


class _Utilities:
    secrets, fs, notebook = _Secrets(), _Files(), _Notebook()


class _Session:
    """A Spark session without Spark: that it is one, of this process."""

    version = "3.5.2"
    pid = os.getpid()


def init_runtime_native_auth():
    """The workspace's address, and a function that gives the headers by which the driver is known there."""
    context = _context()
    return context["host"], lambda: {"Authorization": f"Bearer {context['token']}"}


def _context():
    return json.loads(Path("/databricks/context.json").read_text())


def _ask(endpoint, **query):
    host, headers = init_runtime_native_auth()
    request = urllib.request.Request(f"{host}{endpoint}?{urllib.parse.urlencode(query)}", headers=headers())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode()) from None


dbutils, spark = _Utilities(), _Session()
