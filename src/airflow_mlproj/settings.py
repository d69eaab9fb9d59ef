"""The section `[mlproj]` of Airflow's configuration; `provider` declares the options."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from airflow.sdk import conf

from mlproj_core.errors import UserError

__all__ = [
    "SECTION",
    "check_uri",
    "deployment_id",
    "ends_runs_of_marked_tasks",
    "max_local_runs",
    "runs_on_one_host",
]

SECTION = "mlproj"

_LOCAL_EXECUTORS = ("LocalExecutor", "airflow.executors.local_executor.LocalExecutor")


def max_local_runs() -> int | None:
    """How many local runs may work at once on a host; None for no limit.

    Raises:
        UserError: it is not a whole number.
    """
    text = conf.get(SECTION, "max_local_runs", fallback="").strip()
    if not text or text == "0":
        return None
    if not text.isdecimal():
        raise UserError(f"[{SECTION}] max_local_runs must be a whole number, 0 for no limit; it is {text!r}.")
    return int(text)


def deployment_id() -> str | None:
    """What names this Airflow in keys, where its tasks keep no state in Airflow's task state store."""
    return conf.get(SECTION, "deployment_id", fallback="").strip() or None


def ends_runs_of_marked_tasks() -> bool:
    """Whether the API server ends the run of a task that is marked by hand; see `plugin`."""
    return conf.getboolean(SECTION, "end_runs_of_marked_tasks", fallback=False)


def runs_on_one_host() -> bool:
    """Whether every task runs where the scheduler does, so that a retry finds a local run that outlived its task."""
    names = re.split(r"[,;]", conf.get("core", "executor", fallback=""))
    # As in "LocalExecutor,team1=my_alias:LocalExecutor": a team and an alias may stand before an executor.
    return all(name.rpartition("=")[2].rpartition(":")[2].strip() in _LOCAL_EXECUTORS for name in names)


def check_uri(uri: str) -> None:
    """See that a project may be run here: `[mlproj] allowed_uris` lists what may, one after the other.

    An entry that ends in `/` allows everything below it, any other exactly that project (in whatever subdirectory of
    it). An empty setting allows everything. Projects of the DAG's own bundle are not asked about: who writes the DAG
    writes them.

    Raises:
        UserError: it may not.
    """
    allowed = conf.get(SECTION, "allowed_uris", fallback="").split()
    if not allowed or any(_covers(entry, uri) for entry in allowed):
        return
    raise UserError(
        f"This Airflow does not run projects from {_shown(uri)}: [{SECTION}] allowed_uris does not cover it. "
        f"It allows: {', '.join(allowed)}. Use one of these, or ask the administrator to add it."
    )


def _covers(entry: str, uri: str) -> bool:
    allowed, asked = _plain(entry), _plain(uri)
    if ".." in unquote(asked).replace("\\", "/").split("/"):
        return False  # what stands before it says nothing of where it leads
    return asked.startswith(allowed) if allowed.endswith("/") else asked.rstrip("/") == allowed


def _plain(uri: str) -> str:
    """A URI in the form in which two of the same place are equal: without user, subdirectory and `git+`."""
    text = uri.strip().partition("#")[0].removeprefix("git+")
    parts = urlsplit(text)
    if parts.scheme and parts.netloc:
        host = parts.netloc.rpartition("@")[2].lower()
        return f"{parts.scheme.lower()}://{host}{parts.path}"
    return text


def _shown(uri: str) -> str:
    from mlproj_core.sources.location import redact

    return redact(uri)
