"""The part of the demo with Airflow: the example DAG, run by an Airflow that has nothing but this to do."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_engine import Engine, key_metric
from rich.console import Console
from rich.table import Table

DAG_ID = "wine_quality_retraining"
PROGRAM = """
import runpy, sys

dag = runpy.run_path(sys.argv[1])["retraining"]
# Without retries what fails says so at once, and what is interrupted leaves no run for a retry to find.
for task in dag.tasks:
    task.retries = 0
# The split of the runs before, so that their model is not tested with wines that it was trained with.
sys.exit(dag.test(run_conf={"test_fraction": 0.3}).state != "success")
"""

TASKS = """
SELECT t.task_id, coalesce(t.rendered_map_index, nullif(t.map_index, -1), ''), coalesce(t.state, ''), t.duration,
    max(x.value) FILTER (WHERE x.key = 'metrics'), max(x.value) FILTER (WHERE x.key = 'mlproj_mlflow_page')
FROM task_instance t LEFT JOIN xcom x USING (dag_id, run_id, task_id, map_index)
WHERE run_id = (SELECT run_id FROM dag_run WHERE dag_id = ? AND id > ? ORDER BY id DESC LIMIT 1)
GROUP BY t.id ORDER BY coalesce(t.start_date, '9'), t.task_id, t.map_index
"""


@dataclass(frozen=True)
class TaskInstance:
    """What Airflow's database tells of one task instance.

    Attributes:
        task_id: the task's id.
        label: which instance of a mapped task it is; empty for others.
        state: Airflow's word, such as `success`; empty before it starts.
        seconds: how long it took; None if it has not ended, or has not started.
        metric: the metric that says most of it, `NAME = VALUE`; empty if there is none.
        page: the address of its run in MLflow; empty if it has none.
    """

    task_id: str
    label: str
    state: str
    seconds: float | None
    metric: str
    page: str

    @property
    def name(self) -> str:
        """Its name among those of a DAG run."""
        return f"{self.task_id} [{self.label}]" if self.label else self.task_id

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and is not tried again."""
        return self.state in ("success", "failed", "skipped", "upstream_failed")


class Airflow(Engine):
    """An Airflow with a database of its own, which runs the example DAG in one process.

    Args:
        python: the interpreter of an environment with Airflow and mlproj.
        home: the directory with all that Airflow writes.
        examples: the root of the DAG bundle.
        log: the file to which everything it prints is added.
        console: where to show progress and results.
    """

    def __init__(self, python: Path, home: Path, examples: Path, log: Path, console: Console) -> None:
        variables = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(examples),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        super().__init__(python, home, examples, log, console, variables)

    def migrate(self, version: bytes) -> None:
        """Make the database, or bring it to the form of this version of Airflow."""
        ready = self.home / "ready"
        if not ready.exists():  # an interrupted call may have left half of it
            shutil.rmtree(self.home, ignore_errors=True)
            self.home.mkdir()
        elif ready.read_bytes() == version:
            return
        with self.console.status("Making Airflow's database …"), self.process("-m", "airflow", "db", "migrate") as it:
            if it.wait() != 0:
                self.fail("Airflow could not make its database")
        ready.write_bytes(version)

    def run(self, tracking_uri: str) -> None:
        """Run the DAG, with the connection `mlflow_default` to this server, and show what came of it."""
        self.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps({"conn_type": "mlflow", "host": tracking_uri})
        [[last]] = self._query("SELECT coalesce(max(id), 0) FROM dag_run")
        shown: set[str] = set()
        dag = str(self.examples / "airflow" / "retraining_dag.py")
        with self.console.status("Airflow runs the DAG …"), self.process("-c", PROGRAM, dag) as it:
            while (code := it.poll()) is None:
                time.sleep(0.2)
                for task in self._tasks(last):
                    if task.is_over and task.name not in shown:
                        shown.add(task.name)
                        self.console.print(f"{task.name}: {task.state}", style="dim", highlight=False, markup=False)
        if tasks := self._tasks(last):
            self.console.print()
            self.console.print(_table(tasks))
        if code != 0:
            self.fail("The DAG run failed")
        is_new = any(task.task_id == "register" and task.state == "success" for task in tasks)
        self.console.print(
            "The best model is the champion now." if is_new else "The champion stays: no model beats it."
        )

    def _tasks(self, last: int) -> list[TaskInstance]:
        """The task instances of the DAG run that began after the one with this number, in the order of their start."""
        return [
            TaskInstance(
                task_id, str(label), state, seconds, key_metric(json.loads(metrics or "{}")), json.loads(page or '""')
            )
            for task_id, label, state, seconds, metrics, page in self._query(TASKS, DAG_ID, last)
        ]

    def _query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        address = f"{(self.home / 'airflow.db').as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
            return connection.execute(statement, parameters).fetchall()


def _table(tasks: list[TaskInstance]) -> Table:
    table = Table(title="The DAG's tasks", title_justify="left")
    table.add_column("Task")
    table.add_column("Map index")
    table.add_column("State")
    table.add_column("Seconds", justify="right")
    table.add_column("Metric")
    table.add_column("MLflow page", overflow="fold")
    for task in tasks:
        seconds = "" if task.seconds is None else f"{task.seconds:.1f}"
        page = f"[link={task.page}]{task.page}[/link]" if task.page else ""
        table.add_row(task.task_id, task.label, task.state, seconds, task.metric, page)
    return table
