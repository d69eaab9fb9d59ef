"""Of `databricks.sdk.runtime`, which a cluster has: `dbutils.secrets`, and how the driver asks the workspace."""

import base64
import json
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


class _Utilities:
    secrets = _Secrets()


def init_runtime_native_auth():
    """The workspace's address, and a function that gives the headers by which the driver is known there."""
    context = _context()
    return context["host"], lambda: {"Authorization": f"Bearer {context['token']}"}


def _context():
    return json.loads(Path("/databricks/context.json").read_text())


def _ask(path, **query):
    host, headers = init_runtime_native_auth()
    request = urllib.request.Request(f"{host}{path}?{urllib.parse.urlencode(query)}", headers=headers())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode()) from None


dbutils = _Utilities()
