"""The Python file of a task on Databricks: it has the launcher with it, as text.

It runs in the Python process of the cluster's driver that has the Spark session, which belongs to Databricks and must
not be replaced or ended. So a project is run by a launcher in a process of its own, whose output is passed on, except a
Databricks Spark job, whose file runs in the session's process. The last line that it prints is its word,
`{"mlproj": {"exit": 0, "result": {}}}`, and whatever has failed is an exception in the end: a task knows no exit codes.

Its arguments are `--plan PLAN`, among others that are not its concern. PLAN is JSON, compressed and in base64, or the
path of a file with that, after an `@`:

    version     1
    name        the attempt's name
    code        the path of the code's archive, whose name is its SHA-256
    variables   environment variables
    secrets     environment variables that are secrets: their scopes and keys
    isolated    whether the project has an environment of its own
    launcher    a launcher's plan; or
    spark       the `file` of a Databricks Spark job, and its `arguments`
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import hashlib
import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import zlib

from mlproj_core.launcher.program.archive import unpack
from mlproj_core.launcher.program.words import Failure, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


LAUNCHER = ""
"""The text of the launcher; it is put in where this text is."""

ROOMY = "/local_disk0"
"""Where a cluster has its disk."""

OWN_FAILURE = 70
"""Exit code of a failure that is the launcher's own."""

LONGEST_RESULT = 1 << 20
"""Bytes of a result: Databricks keeps 5 MB of a task's output."""

PATIENCE = 15.0
"""Seconds in which the launcher sees to it that nothing is left."""

MOUNTING = 30.0
"""Seconds in which a file that was uploaded has to show on the cluster."""

OF_SESSION = ("spark", "sc", "sqlContext", "dbutils", "display", "displayHTML", "sql", "table", "udf", "getArgument")
"""What Databricks defines in the process of a session, as far as it does."""


class TaskFailed(Exception):
    """The task has failed, as its last words say."""


def run_task(arguments: list[str]) -> None:
    """Carry out the plan among the arguments.

    Raises:
        TaskFailed: the project has failed, or could not be run.
    """
    sys.stdout.flush()
    try:
        plan = read_plan(arguments[arguments.index("--plan") + 1])
        base = ROOMY if os.access(ROOMY, os.W_OK | os.X_OK) else tempfile.gettempdir()
        place = tempfile.mkdtemp(prefix="mlproj-", dir=base)
        before = os.getcwd()
        try:
            word = in_session(plan, place) if plan.get("spark") else beside_session(plan, place, base)
        finally:
            with contextlib.suppress(OSError):
                os.chdir(before)
            shutil.rmtree(place, ignore_errors=True)
    except Failure as failure:
        say(f"FAILED: {failure} ({failure.code})")
        word = own_failure(failure.code, str(failure), failure.retryable)
    print(json.dumps({"mlproj": word}), flush=True)
    if word["exit"]:
        raise TaskFailed(word["error"]["message"] if "error" in word else f"exit status {word['exit']}")


def own_failure(code: str, message: str, retryable: bool = False) -> dict[str, Any]:
    """The word on a failure of the launcher's own."""
    return {"exit": OWN_FAILURE, "error": {"code": code, "message": message, "retryable": retryable}}


def read_plan(text: str) -> dict[str, Any]:
    """The plan in an argument, or in the file that it names."""
    try:
        if text.startswith("@"):
            with open(here(text[1:]), "rb") as file:
                text = file.read().decode("ascii")
        plan: dict[str, Any] = json.loads(zlib.decompress(base64.urlsafe_b64decode(text)))
    except (OSError, ValueError, zlib.error) as error:
        raise Failure("lost", f"the plan cannot be read: {error!r}", retryable=isinstance(error, OSError)) from None
    if plan["version"] != 1:
        raise Failure("lost", f"the plan has version {plan['version']}, and this task knows version 1 only")
    return plan


def here(path: str) -> str:
    """A file that was uploaded, where this process can read it, and found to be what was uploaded."""
    local = path
    if path.startswith("dbfs:"):
        local = "/dbfs" + path[len("dbfs:") :]
        if not os.path.exists(local):  # some clusters do not mount it
            local = os.path.join(tempfile.mkdtemp(prefix="mlproj-"), os.path.basename(path))
            with contextlib.suppress(Exception):
                utilities().fs.cp(path, f"file:{local}")
    until = time.monotonic() + MOUNTING
    while not os.path.exists(local) and time.monotonic() < until:
        time.sleep(0.5)
    digest = hashlib.sha256()
    try:
        with open(local, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        words = f"{path} cannot be read on the cluster: {error.strerror}. {why_unreadable(path)}"
        raise Failure("source", words, retryable=True) from None
    if digest.hexdigest() != os.path.basename(path).partition(".")[0]:
        raise Failure("source", f"{path} is not what was uploaded: its SHA-256 is {digest.hexdigest()}")
    return local


def why_unreadable(path: str) -> str:
    """What may keep a cluster from reading what was uploaded."""
    if path.startswith("/Volumes/"):
        return "Volumes are there on clusters with Unity Catalog, for who may read them (data_security_mode)."
    if path.startswith("/Workspace/"):
        return "Workspace files are there from Databricks Runtime 11.3 on; name another place by 'root'."
    return "DBFS is not there on serverless compute, nor on clusters of shared access mode; name another 'root'."


def beside_session(plan: Mapping[str, Any], place: str, base: str) -> dict[str, Any]:
    """Run the launcher in a process of its own."""
    environ = surroundings_of(plan, place)
    cache = os.path.join(base, f"mlproj-cache-{os.getuid()}")
    with contextlib.suppress(OSError):
        os.mkdir(cache, 0o700)
    owned = os.path.isdir(cache) and not os.path.islink(cache) and os.stat(cache).st_uid == os.getuid()
    log = os.path.join(place, "failure")
    inner = dict(plan["launcher"], work=place, cache=cache if owned else None, termination_log=log)
    inner["code"] = {"archive": here(plan["code"])}
    program, file = os.path.join(place, "launcher.py"), os.path.join(place, "plan.json")
    for path, text in ((program, LAUNCHER), (file, json.dumps(inner))):
        with open(path, "w", encoding="utf-8") as written:
            written.write(text)
    code = pass_on([sys.executable, "-I", program, file, "--tethered"], environ, place)
    with contextlib.suppress(OSError, ValueError, KeyError), open(log, encoding="utf-8") as read:
        return {"exit": code, "error": json.load(read)["mlproj"]["error"]}
    return with_result({"exit": code}, environ["MLPROJ_RESULT"])


def pass_on(argv: list[str], environ: Mapping[str, str], directory: str) -> int:
    """Run a program, print what it prints, and give its exit code. It ends with this process, or before."""
    process = subprocess.Popen(
        argv, env=dict(environ), cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    decoder, last = codecs.getincrementaldecoder("utf-8")("replace"), "\n"
    try:
        with process.stdout as output:
            while True:
                block = os.read(output.fileno(), 1 << 16)
                text = decoder.decode(block, not block)
                if text:
                    last = text[-1]
                    # By the session's own stream: Databricks has put another one in the place of the descriptor.
                    sys.stdout.write(text)
                    sys.stdout.flush()
                if not block:
                    break
        code = process.wait()
    finally:
        if process.poll() is None:  # the run was cancelled
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if last != "\n":
        print()
    return 128 - code if code < 0 else code


def in_session(plan: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Run the file of a Databricks Spark job in this process, which has the Spark session."""
    environ = surroundings_of(plan, place)
    os.environ.update(environ)
    code = os.path.join(place, "code")
    unpack(here(plan["code"]), code)
    wanted = plan["spark"]
    file = os.path.join(code, wanted["file"])
    if not os.path.isfile(file):
        raise Failure("source", f"the project has no file {wanted['file']!r}")
    os.chdir(code)
    sys.argv[:] = [file, *wanted["arguments"]]
    sys.path.insert(0, os.path.dirname(file))
    session = {name: globals()[name] for name in OF_SESSION if name in globals()}
    try:
        runpy.run_path(file, init_globals=session, run_name="__main__")
    except SystemExit as ended:
        status = ended.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
        if status:
            return {"exit": status & 0xFF or 1}
    sys.stdout.flush()
    return with_result({"exit": 0}, environ["MLPROJ_RESULT"])


def with_result(word: dict[str, Any], path: str) -> dict[str, Any]:
    """The word, with what the project has left at MLPROJ_RESULT."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(LONGEST_RESULT + 1)
    except OSError:
        return word
    if len(text) > LONGEST_RESULT:
        say(f"warning: the result at MLPROJ_RESULT has more than {LONGEST_RESULT} characters, and is left out")
        return word
    if not text.strip():
        return word
    try:
        return {**word, "result": json.loads(text)}
    except ValueError:
        return {**word, "result": text}


def surroundings_of(plan: Mapping[str, Any], place: str) -> dict[str, str]:
    """The variables of the project: the cluster's own, and what the plan adds."""
    environ = dict(os.environ)
    if plan["isolated"]:
        # Databricks' own packages, of another Python perhaps.
        environ.pop("PYTHONPATH", None)
    else:
        environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environ.get("PATH", os.defpath)])
    environ.update(plan["variables"])
    for name, (scope, key) in plan["secrets"].items():
        environ[name] = secret(scope, key)
    environ["MLPROJ_RESULT"] = os.path.join(place, "result")
    if environ.get("MLFLOW_TRACKING_URI", "").startswith("databricks"):
        environ = {**credentials(environ), **environ}
    return environ


def utilities() -> Any:
    """Databricks' `dbutils`."""
    if "dbutils" in globals():
        return globals()["dbutils"]
    return importlib.import_module("databricks.sdk.runtime").dbutils


def secret(scope: str, key: str) -> str:
    """A secret of the workspace."""
    try:
        return str(utilities().secrets.get(scope=scope, key=key))
    except Exception as error:
        words = f"the secret {key!r} of the scope {scope!r} cannot be read: {' '.join(str(error).split())[:500]}"
        raise Failure("user_input", words) from None


def credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """Address and token of the workspace that this runs in, as MLflow's client in another process needs them.

    They are the session's own, as `mlflow.utils.databricks_utils` takes them.
    """
    if environ.get("DATABRICKS_HOST") and (environ.get("DATABRICKS_TOKEN") or environ.get("DATABRICKS_CLIENT_ID")):
        return {}
    with contextlib.suppress(Exception):  # clusters of shared access mode do not allow it
        context = utilities().notebook.entry_point.getDbutils().notebook().getContext()
        return {"DATABRICKS_HOST": str(context.apiUrl().get()), "DATABRICKS_TOKEN": str(context.apiToken().get())}
    try:
        host, headers = importlib.import_module("databricks.sdk.runtime").init_runtime_native_auth()
        scheme, _, token = headers()["Authorization"].partition(" ")
        if scheme == "Bearer":
            return {"DATABRICKS_HOST": str(host), "DATABRICKS_TOKEN": token}
    except Exception as error:
        say(f"warning: MLflow gets no credentials for the workspace: {' '.join(str(error).split())[:300]}")
    return {}
