"""Requests to a REST API on this host, past any proxy."""

import datetime
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request


class ApiError(Exception):
    """The REST API refused something; `status` is its HTTP status."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status = status


def address(root, *path, **query):
    """The URL of what stands at this path, given in parts, below a root."""
    url = "/".join([root, *(urllib.parse.quote(str(part), safe="") for part in path)])
    return f"{url}?{urllib.parse.urlencode(query)}" if query else url


def request(method, url, headers=None, body=None):
    """What an API answers.

    Raises:
        ApiError: it refuses.
        ConnectionError: nobody answers.
    """
    asked = urllib.request.Request(
        url,
        method=method,
        headers={**(headers or {}), "Accept": "application/json", "Content-Type": "application/json"},
        data=None if body is None else json.dumps(body).encode(),
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise ApiError(error.code, error.read().decode(errors="replace")) from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url}: {error}") from error
    return json.loads(text) if text else None


def seconds(timestamp):
    """A time that an API tells, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
