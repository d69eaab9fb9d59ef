"""The part of the demo with Prefect: the example flow, run once beside a Prefect server of the demo's own."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_engine import Engine, key_metric
from rich.console import Console
from rich.table import Table

OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
"""Types of states that task runs do not leave by themselves."""

SERVER_PATIENCE = 120
"""Seconds in which the server must answer; its first start makes the tables of its database."""

EVENTS_PATIENCE = 15
"""Seconds for which the states of task runs are waited for: Prefect tells of them after the fact."""

PROGRAM = """
import runpy, sys

flow = runpy.run_path(sys.argv[1])["retraining"]
# The split of the runs before, so that their model is not tested with wines that it was trained with.
flow(test_fraction=0.3)
"""


@dataclass(frozen=True)
class TaskRun:
    """What Prefect's API tells of one task run.

    Attributes:
        name: its name.
        state: its state's name, such as `Completed`.
        message: what its state says.
        is_over: whether it has ended.
        seconds: how long it took so far.
        metric: the metric that says most of it, `NAME = VALUE`; empty if there is none.
        page: the address of its run in MLflow; empty if it has none.
    """

    name: str
    state: str
    message: str
    is_over: bool
    seconds: float
    metric: str
    page: str


class Prefect(Engine):
    """A Prefect server with a database of its own, and the example flow, run by a process beside it.

    Args:
        python: the interpreter of an environment with Prefect and mlproj.
        home: the directory with all that Prefect writes.
        examples: the directory with the example flows.
        log: the file to which everything that the server and the flow print is added.
        console: where to show progress and results.
    """

    def __init__(self, python: Path, home: Path, examples: Path, log: Path, console: Console) -> None:
        home.mkdir(exist_ok=True)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.api = f"http://127.0.0.1:{port}/api"
        self.server = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        variables = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        super().__init__(python, home, examples, log, console, variables)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """While this lasts, the server runs."""
        with self.process(*self.server) as it:
            with self.console.status("Starting Prefect's server …"):
                deadline = time.monotonic() + SERVER_PATIENCE
                while not self._is_healthy():
                    if it.poll() is not None or time.monotonic() > deadline:
                        self.fail("Prefect's server did not start")
                    time.sleep(0.1)
            yield

    def run(self, tracking_uri: str) -> None:
        """Run the flow, its runs tracked by this server, and show what came of it."""
        self.environ["MLFLOW_TRACKING_URI"] = tracking_uri
        before = {run["id"] for run in self._ask("flow_runs/filter", {})}
        flow_run: str | None = None
        tasks: list[TaskRun] = []
        shown: set[str] = set()

        def look() -> None:
            nonlocal flow_run, tasks
            if flow_run is None:
                found = [run["id"] for run in self._ask("flow_runs/filter", {}) if run["id"] not in before]
                flow_run = found[0] if found else None
            if flow_run is not None:
                tasks = self._tasks(flow_run)
            for task in tasks:
                if task.is_over and task.name not in shown:
                    shown.add(task.name)
                    self.console.print(f"{task.name}: {task.state}", style="dim", highlight=False, markup=False)

        flow = str(self.examples / "prefect" / "retraining_flow.py")
        with self.console.status("Prefect runs the flow …"), self.process("-c", PROGRAM, flow) as it:
            while (code := it.poll()) is None:
                time.sleep(0.5)
                look()
            deadline = time.monotonic() + EVENTS_PATIENCE
            while not all(task.is_over for task in tasks) and time.monotonic() < deadline:
                time.sleep(0.2)
                look()
        if tasks:
            self.console.print()
            self.console.print(_table(tasks))
        if code != 0:
            self.fail("The flow run failed")
        is_new = any(task.name == "register" for task in tasks)
        self.console.print(
            "The best model is the champion now." if is_new else "The champion stays: no model beats it."
        )

    def _tasks(self, flow_run_id: str) -> list[TaskRun]:
        """The task runs of a flow run, in the order of their start."""
        mine = {"any_": [flow_run_id]}
        runs = self._ask("task_runs/filter", {"flow_runs": {"id": mine}})
        artifacts = self._ask("artifacts/filter", {"artifacts": {"flow_run_id": mine}})
        runs.sort(key=lambda run: run["start_time"] or "9")
        return [
            TaskRun(
                run["name"],
                run["state_name"] or "",
                (run["state"] or {}).get("message") or "",
                run["state_type"] in OVER,
                run["estimated_run_time"],
                *_left([artifact for artifact in artifacts if artifact["task_run_id"] == run["id"]]),
            )
            for run in runs
        ]

    def _is_healthy(self) -> bool:
        try:
            return self._ask("health") is True
        except OSError:
            return False

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        asked = urllib.request.Request(  # noqa: S310 (our own server)
            f"{self.api}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 (our own server)
            return json.load(answer)


def _left(artifacts: list[dict[str, Any]]) -> tuple[str, str]:
    """The metric and the page in MLflow, out of a task run's table and link."""
    metric = page = ""
    for artifact in artifacts:
        if artifact["type"] == "table":
            rows = json.loads(artifact["data"])
            metrics = {row["name"]: row["value"] for row in rows if row["kind"] == "metric"}
            metric = key_metric(metrics)
        elif link := re.search(r"\]\((http[^)]+)\)", artifact["data"] or ""):
            page = link[1]
    return metric, page


def _table(tasks: list[TaskRun]) -> Table:
    table = Table(title="The flow's task runs", title_justify="left")
    table.add_column("Task run")
    table.add_column("State")
    table.add_column("Seconds", justify="right")
    table.add_column("Metric")
    table.add_column("MLflow page", overflow="fold")
    for task in tasks:
        state = task.state if task.state == "Completed" else f"{task.state}: {task.message}"
        page = f"[link={task.page}]{task.page}[/link]" if task.page else ""
        table.add_row(task.name, state, f"{task.seconds:.1f}", task.metric, page)
    return table
