"""Data that is fetched before the entry point runs."""

from __future__ import annotations

import json
import os
import shutil
import time

from mlproj_core.launcher.program.programs import remove, run
from mlproj_core.launcher.program.words import PASSING, Ended, Failure, Passing, bare, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

BY_LIBRARIES = r"""
import json, os, shutil, sys
uri, path = json.load(sys.stdin)
scheme, draft = uri.partition(":")[0].lower(), path + ".part"
library = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs"}.get(scheme)
try:
    __import__(library or "mlflow.artifacts")
    by_library = library is not None
except ImportError:
    by_library = False
if by_library:
    import fsspec
    if os.environ.get("MLFLOW_S3_ENDPOINT_URL"):  # MLflow's own variable, which prevails there
        os.environ["AWS_ENDPOINT_URL"] = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    store, root = fsspec.core.url_to_fs("s3" + uri[3:] if scheme == "s3a" else uri)
    if store.isdir(root):
        store.get(root.rstrip("/") + "/", draft, recursive=True)
    else:
        store.get_file(root, draft)
    os.rename(draft, path)
else:
    try:
        from mlflow.artifacts import download_artifacts
    except ImportError:
        sys.exit("%s: needs %s in the project's environment: add it to its dependencies" % (
            scheme, library + " or mlflow" if library else "mlflow"))
    os.makedirs(draft)
    os.rename(download_artifacts(artifact_uri=uri, dst_path=draft).rstrip("/"), path)
    shutil.rmtree(draft, ignore_errors=True)
"""
"""Fetches by what the project's environment has."""


def fetch(parameter: str, uri: str, path: str, environ: Mapping[str, str]) -> None:
    """Bring a file or a directory to its path: as a whole, or not at all."""
    began, shown = time.monotonic(), bare(uri)
    say(f"parameter {parameter!r}: fetching {shown}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for left in (path, f"{path}.part"):  # by an earlier start of this container
        remove(left)
        shutil.rmtree(left, ignore_errors=True)
    if uri.startswith(("http://", "https://")):
        patiently(uri, f"{path}.part", f"parameter {parameter!r}: {shown}")
        os.replace(f"{path}.part", path)
    else:
        python = shutil.which("python", path=environ.get("PATH")) or shutil.which("python3", path=environ.get("PATH"))
        if python is None:
            raise Failure("data", f"parameter {parameter!r}: {shown} cannot be fetched without a python on PATH")
        try:
            run([python, "-c", BY_LIBRARIES], environ, os.path.dirname(path), given=json.dumps([uri, path]))
        except Ended as ended:
            words = f"parameter {parameter!r}: {shown} could not be fetched:\n{ended}"
            raise Failure("data", words, retryable=bool(PASSING.search(str(ended)))) from None
    say(f"parameter {parameter!r}: {path} ({time.monotonic() - began:.1f} s)")


def patiently(uri: str, part: str, shown: str) -> None:
    """Read a file of an HTTP server, and go on where it was cut off."""
    retries = int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES") or 7)
    failures, version = 0, ""
    while True:
        have = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            version, done = read(uri, part, have, version)
            if done:
                return
            raise Passing("the connection was cut")
        except Passing as trouble:
            now = os.path.getsize(part) if os.path.exists(part) else 0
            failures = 1 if now >= have + (1 << 20) else failures + 1
            if failures > retries:
                raise Failure("data", f"{shown}: {trouble} ({failures} tries)", retryable=True) from None
            pause = min(0.5 * 2 ** (failures - 1), 30.0) if trouble.pause is None else trouble.pause
            say(f"{shown}: {trouble}; try {failures + 1} of {retries + 1} in {pause:g} s")
            time.sleep(pause)


def read(uri: str, part: str, have: int, version: str) -> tuple[str, bool]:
    """Read once: the version of what is read (RFC 9110, 13.1.5), and whether it is whole."""
    import netrc
    import socket
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPSHandler, Request, build_opener

    request = Request(uri.partition("#")[0], headers={"Accept-Encoding": "identity", "User-Agent": "mlproj"})
    if have and version:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    context = ssl.create_default_context()
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle and os.path.exists(bundle):
        context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    try:
        login = netrc.netrc(os.environ.get("NETRC")).authenticators(request.host.partition(":")[0])
    except (OSError, netrc.NetrcParseError):
        login = None
    if login:
        from base64 import b64encode

        who = b64encode(f"{login[0]}:{login[2]}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {who}")
    timeout = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or 60)
    try:
        with build_opener(HTTPSHandler(context=context)).open(request, timeout=timeout) as response:
            headers = response.headers
            resumed = response.status == 206 and headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Failure("data", f"{bare(uri)} is sent in a coding, though it was asked for as it is")
            version = headers.get("ETag") or headers.get("Last-Modified") or ""
            length, size = headers.get("Content-Length"), 0
            with open(part, "ab" if resumed else "wb") as file:
                while True:
                    chunk = response.read(1 << 20)
                    if not chunk:
                        break
                    size += len(chunk)
                    file.write(chunk)
            return "" if version.startswith("W/") else version, length is None or size == int(length)
    except HTTPError as error:
        error.close()
        words = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            remove(part)
        if error.code in TRANSIENT or error.code == 416:
            pause = error.headers.get("Retry-After", "")
            raise Passing(words, min(float(pause), 60.0) if pause.isdigit() else None) from None
        raise Failure("data", f"{bare(uri)} cannot be read: {words}", retryable=error.code > 500) from None
    except (URLError, HTTPException, ConnectionError, socket.timeout, ssl.SSLError) as error:
        # Before Python 3.10 the time-out of a socket is no TimeoutError.
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            words = f"the certificate of {request.host} is not trusted: name its authority in SSL_CERT_FILE"
            raise Failure("data", words) from None
        raise Passing(str(reason) or type(reason).__name__) from None
