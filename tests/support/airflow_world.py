"""A real Airflow for tests: its processes, its REST API, its database and its logs, all in one directory.

Nothing here imports Airflow.
"""

import base64
import configparser
import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from pathlib import Path

import pytest
from mlflow_world import free_port
from processes import Guard, belonging, command, end_all, in_session, living, pids
from rest import ApiError, address, request, seconds
from waiting import wait_for

PROGRAM = str(Path(sys.executable).with_name("airflow"))

COMMANDS = {
    "api-server": ["api-server"],
    # All logs are below one directory, where the API server finds them: nobody needs to serve them.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
"""What a component is called in Airflow's table `job`, in which API servers are not listed."""

OVER = {"success", "failed", "skipped", "upstream_failed", "removed"}
"""States of runs and task instances that they do not leave by themselves."""

ALL = 1000
"""How many entries the API returns at most."""

FOREIGN = ("AIRFLOW", "_AIRFLOW", "MLFLOW", "MLPROJ", "PYTEST", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
"""How variables of the host begin that Airflow must not see: settings, and what keeps it from keeping its modules
compiled, without which each of its processes starts many seconds later."""

Run = namedtuple("Run", "dag_id run_id")
TaskProcesses = namedtuple("TaskProcesses", "runner supervisor")


class DagImportError(Exception):
    """Airflow cannot import a DAG file; the text is what it tells its users."""


class Component:
    """A process of Airflow. What it starts stays in its session, whose id is its pid."""

    def __init__(self, kind, process, log):
        self.kind = kind
        self.process = process
        self.log = log
        self.job_id = None
        self.expected = True  # to live, since no test has ended it

    def tail(self, lines=60):
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class AirflowWorld:
    """An Airflow with a SQLite database and a LocalExecutor, which runs two tasks at a time.

    Whoever asks its API is an administrator. It takes note of new DAG files and runs within some two seconds.

    Args:
        directory: where it writes all that it writes.
        variables: environment variables for all its processes, such as `AIRFLOW_CONN_x`.
        config: options that count before those of `configuration`, by section.
    """

    def __init__(self, directory, variables=None, config=None):
        self.directory = Path(directory)
        self.home = self.directory / "airflow"
        self.dags = self.home / "dags"
        self.database = self.home / "airflow.db"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.dags.mkdir(parents=True)
        self._write_config(config or {})
        self.environment = {**self._host_environment(), "AIRFLOW_HOME": str(self.home), **(variables or {})}
        self.components = {}
        self._started = []
        self._token = None
        self._mark = f"AIRFLOW_HOME={self.home}"
        self._guard = Guard(self._mark, self._host_environment())
        began = time.monotonic()
        try:
            self._migrate()
            for kind in COMMANDS:
                self.start(kind, wait=False)
            self.wait_for(self.is_healthy, "Airflow is not healthy", timeout=150)
        except BaseException:
            self.stop()
            raise
        self.seconds_until_healthy = time.monotonic() - began

    def _write_config(self, overrides):
        parser = configparser.RawConfigParser()
        parser.read_dict(self.configuration())
        for section, options in overrides.items():
            parser.read_dict({section: options})
        with (self.home / "airflow.cfg").open("w") as file:
            parser.write(file)

    def configuration(self):
        """The sections of `airflow.cfg`."""
        return {
            "core": {
                "dags_folder": self.dags,
                "executor": "LocalExecutor",
                # With more writers than this, some give up waiting for SQLite.
                "parallelism": 2,
                "load_examples": False,
                "dags_are_paused_at_creation": False,
                "min_serialized_dag_update_interval": 0,
                "simple_auth_manager_all_admins": True,
                "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            },
            "database": {"sql_alchemy_conn": f"sqlite:///{self.database}?timeout=30"},
            "api": {
                "host": "127.0.0.1",
                "port": self.port,
                "base_url": self.url,
                "secret_key": secrets.token_hex(32),
                "maximum_page_limit": ALL,
            },
            "api_auth": {"jwt_secret": secrets.token_hex(32)},
            # Nobody listens at these ports, nor may those who listen at the usual ones be asked for logs.
            "logging": {"worker_log_server_port": free_port(), "trigger_log_server_port": free_port()},
            "dag_processor": {
                "dag_bundle_storage_path": self.home / "bundles",
                "parsing_processes": 1,
                "refresh_interval": 1,
                "bundle_refresh_check_interval": 1,
                # What has changed is parsed at once; to parse the rest all the time would keep a core busy.
                "min_file_process_interval": 60,
            },
            # Who is silent for ten of its heartbeats or more counts as dead. On two busy cores, seconds mean nothing.
            "workers": {
                "min_heartbeat_interval": 2,
                # A worker whose task was killed waits this long for the task's children, which have its standard input.
                "socket_cleanup_timeout": 5,
            },
            "scheduler": {
                "scheduler_idle_sleep_time": 0.3,
                "scheduler_heartbeat_sec": 1,
                "scheduler_health_check_threshold": 15,
                "job_heartbeat_sec": 1,
                "orphaned_tasks_check_interval": 5,
                "task_instance_heartbeat_timeout": 20,
                "task_instance_heartbeat_timeout_detection_interval": 2,
                "trigger_timeout_check_interval": 2,
            },
            "triggerer": {
                "job_heartbeat_sec": 1,
                "triggerer_health_check_threshold": 10,
                "runner_health_check_threshold": 10,
            },
        }

    def _host_environment(self):
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "MLPROJ_STATE_DIR": str(self.directory / "state"),
            "MLPROJ_CACHE_DIR": str(self.directory / "cache"),
            "MLPROJ_ENV_MANAGER": "uv",  # ten times faster than the default, and not what is tested here
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def _migrate(self):
        done = subprocess.run(
            [PROGRAM, "db", "migrate"],
            cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL, timeout=120,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
        # From now on nobody who reads waits for one who writes, or the reverse. The file itself keeps this in mind.
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")

    # -- processes

    def start(self, kind, name=None, wait=True):
        """Start a component, again or under a name of its own, and wait until it is at work."""
        __tracebackhide__ = True
        name = name or kind
        newest = self._newest_job(kind)
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [PROGRAM, *COMMANDS[kind]],
                cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._guard.watch(process.pid)
        self.components[name] = component = Component(kind, process, log)
        self._started.append(component)
        if wait and kind in JOBS:
            component.job_id = self.wait_for(lambda: self._newest_job(kind, newest), f"the {name} is not at work", 90)
        elif wait:
            self.wait_for(self.is_healthy, f"the {name} is not at work", 90)
        return component

    def _newest_job(self, kind, after=0):
        [[newest]] = self.query("SELECT max(id) FROM job WHERE job_type = ? AND id > ?", JOBS.get(kind), after)
        return newest or 0

    def kill(self, name, number=signal.SIGKILL, everything=False):
        """Send a component a signal that ends it; with `everything`, its whole session."""
        component = self.components[name]
        component.expected = False
        for pid in self.processes(name) if everything else [component.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGKILL:
            component.process.wait(10)

    def freeze(self, name):
        """Let a component, with all that it started, stand still."""
        for pid in self.processes(name):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self, name):
        """Let a component go on that was frozen."""
        for pid in self.processes(name):
            os.kill(pid, signal.SIGCONT)

    def processes(self, name):
        """Pids of a component and of what it started, except for what has begun a session of its own since."""
        return in_session(self.components[name].process.pid)

    def task_processes(self, run, task_id, map_index=-1, timeout=30):
        """Pids of the process in which a task instance runs, and of the executor's worker that supervises it."""
        __tracebackhide__ = True

        def found():
            title = f"airflow worker -- {self.task(run, task_id, map_index)['id']}"
            return [TaskProcesses(pid, parent) for pid, parent, _ in living() if command(pid) == title]

        return self.wait_for(found, f"no process runs {task_id}", timeout)[0]

    def survivors(self):
        """Pids and command lines of all that it started and that lives: components, tasks, and what tasks left."""
        return [(pid, command(pid)) for pid in belonging(self._mark, self._sessions())]

    def _sessions(self):
        return {component.process.pid for component in self._started}

    def check(self):
        """Fail if a component has ended by itself."""
        __tracebackhide__ = True
        for name, component in self.components.items():
            if component.expected and (code := component.process.poll()) is not None:
                pytest.fail(f"the {name} ended by itself, with {code}:\n{component.tail()}")

    def stop(self):
        """End all of it: who does not end within five seconds of being asked to is killed."""
        for component in self._started:
            component.expected = False
            # Not their children as well: a triggerer whose child is told so too waits ten seconds for it.
            component.process.terminate()
        end = time.monotonic() + 5
        while self.survivors() and time.monotonic() < end:
            time.sleep(0.05)
        end_all(self._mark, self._sessions())
        for component in self._started:
            component.process.wait(10)
        self._guard.close()

    # -- waiting

    def wait_for(self, condition, complaint, timeout=60):
        """Wait until a condition gives something true, and give that; see `waiting.wait_for`."""
        __tracebackhide__ = True
        return wait_for(condition, complaint, timeout, self.check)

    def wait_for_run(self, run, *states, timeout=60):
        """Wait until a run is in one of these states (`success`, if none is given); what the API tells of it."""
        __tracebackhide__ = True
        states = states or ("success",)

        def complaint():
            tasks = self.tasks(run)
            table = "\n".join(f"  {task['task_id']} [{task['map_index']}]: {task['state']}" for task in tasks)
            failed = [task for task in tasks if task["state"] in ("failed", "up_for_retry", "running", "deferred")]
            logs = [self._log_of(task) for task in failed]
            return "\n".join([f"{run.dag_id} is {self.run(run)['state']}, not {' or '.join(states)}:", table, *logs])

        return self._wait_for_state(lambda: self.run(run), states, complaint, timeout)

    def wait_for_task(self, run, task_id, *states, map_index=-1, try_number=0, timeout=60):
        """Wait until a task instance is in one of these states, in this try or a later one; what the API tells."""
        __tracebackhide__ = True

        def look():
            task = self.task(run, task_id, map_index)
            if task["try_number"] >= try_number:
                return task
            if task["state"] in OVER:
                pytest.fail(complaint())
            return {"state": None}

        def complaint():
            task = self.task(run, task_id, map_index)
            state = f"{task['state']} in its try {task['try_number']}"
            return f"{task_id} is {state}, not {' or '.join(states)}:\n{self._log_of(task)}"

        return self._wait_for_state(look, states, complaint, timeout)

    def _wait_for_state(self, look, states, complaint, timeout):
        __tracebackhide__ = True

        def reached():
            found = look()
            if found["state"] in OVER.difference(states):
                pytest.fail(complaint())
            return found if found["state"] in states else None

        return self.wait_for(reached, complaint, timeout)

    def _log_of(self, task):
        run = Run(task["dag_id"], task["dag_run_id"])
        try:
            log = self.log(run, task["task_id"], task["try_number"], map_index=task["map_index"])
        except ApiError as error:
            log = str(error)
        return f"-- log of {task['task_id']} [{task['map_index']}]\n{log[-6000:]}"

    # -- the REST API

    def is_healthy(self):
        """Whether the API server answers, and says that all the others are alive."""
        health = self.ask("GET", "monitor", "health")
        return all(
            (health[part] or {}).get("status") == "healthy" for part in ("scheduler", "dag_processor", "triggerer")
        )

    def ask(self, method, *path, body=None, **query):
        """What the API answers to a request; the path below `/api/v2`, in parts."""
        if self._token is None:
            self._token = request("GET", f"{self.url}/auth/token")["access_token"]
        url = address(f"{self.url}/api/v2", *path, **query)
        return request(method, url, {"Authorization": f"Bearer {self._token}"}, body)

    def write_dag(self, name, text, timeout=30):
        """Write a DAG file, `NAME.py`, and wait until Airflow knows what it says now; the ids of its DAGs.

        Raises:
            DagImportError: Airflow cannot import it.
        """
        __tracebackhide__ = True
        file = self.dags / f"{name}.py"
        draft = self.home / f"{name}.draft"
        # Airflow notes when it stored what a parse brought, not which text was parsed: so the text says that itself.
        witness = self.home / f"{name}.{secrets.token_hex(8)}.parsed"
        draft.write_text(f"{textwrap.dedent(text)}\nopen({str(witness)!r}, 'a').close()\n")
        draft.replace(file)
        written = touched = time.time()

        def parsed():
            nonlocal touched
            if time.time() > touched + 3:  # what changes while it is being parsed would count as parsed
                file.touch()
                touched = time.time()
            for error in self.ask("GET", "importErrors", limit=ALL)["import_errors"]:
                if error["filename"] == file.name and seconds(error["timestamp"]) > written:
                    raise DagImportError(error["stack_trace"])
            if not witness.exists():
                return []
            seen = witness.stat().st_mtime
            found = self.ask("GET", "dags", limit=ALL)["dags"]
            return [
                dag["dag_id"]
                for dag in found
                if dag["relative_fileloc"] == file.name and seconds(dag["last_parsed_time"]) > seen
            ]

        def complaint():
            said = self.components["dag-processor"].tail(12)
            return f"Airflow has read no DAG from {file.name}:\n{said}\n"

        return self.wait_for(parsed, complaint, timeout)

    def trigger(self, dag_id, conf=None, logical_date=None, **more):
        """Ask for a run of a DAG now."""
        body = {"logical_date": logical_date, "conf": conf or {}, **more}
        return Run(dag_id, self.ask("POST", "dags", dag_id, "dagRuns", body=body)["dag_run_id"])

    def pause(self, dag_id, paused=True):
        self.ask("PATCH", "dags", dag_id, body={"is_paused": paused})

    def unpause(self, dag_id):
        self.pause(dag_id, False)

    def run(self, run):
        return self.ask("GET", *_path(run))

    def mark_run(self, run, state):
        return self.ask("PATCH", *_path(run), body={"state": state})

    def delete_run(self, run):
        self.ask("DELETE", *_path(run))

    def tasks(self, run):
        """All task instances of a run, those of a mapped task one by one."""
        return self.ask("GET", *_path(run), "taskInstances", limit=ALL)["task_instances"]

    def task(self, run, task_id, map_index=-1):
        return self.ask("GET", *_path(run, task_id, map_index))

    def tries(self, run, task_id, map_index=-1):
        """What is known of each try of a task instance, the first one first."""
        return self.ask("GET", *_path(run, task_id, map_index), "tries")["task_instances"]

    def clear(self, run, *task_ids, **options):
        """Clear task instances (those of a mapped task by its id, or one by `[id, map_index]`); which were cleared."""
        body = {
            "dry_run": False,
            "dag_run_id": run.run_id,
            "task_ids": list(task_ids) or None,
            "only_failed": False,
            **options,
        }
        return self.ask("POST", "dags", run.dag_id, "clearTaskInstances", body=body)["task_instances"]

    def mark(self, run, task_id, state, map_index=-1):
        """Set the state of a task instance, to `success`, `failed` or `skipped`, as one does by hand."""
        return self.ask("PATCH", *_path(run, task_id, map_index), body={"new_state": state})

    def xcom_keys(self, run, task_id, map_index=-1):
        entries = self.ask("GET", *_path(run, task_id), "xcomEntries", map_index=map_index, limit=ALL)
        return [entry["key"] for entry in entries["xcom_entries"]]

    def xcom(self, run, task_id, key="return_value", map_index=-1):
        return self.ask("GET", *_path(run, task_id), "xcomEntries", key, map_index=map_index)["value"]

    def task_state(self, run, task_id, map_index=-1):
        """What a task instance keeps in the task state store, by key."""
        entries = self.ask("GET", *_path(run, task_id), "state-store", map_index=map_index, limit=ALL)
        return {entry["key"]: entry["value"] for entry in entries["task_state_store"]}

    def rendered_fields(self, run, task_id, map_index=-1):
        return self.task(run, task_id, map_index)["rendered_fields"]

    def extra_links(self, run, task_id, map_index=-1, **query):
        """The URLs of a task instance's links by their names; of a past try, with `try_number`."""
        return self.ask("GET", *_path(run, task_id), "links", map_index=map_index, **query)["extra_links"]

    def log(self, run, task_id, try_number=None, map_index=-1):
        """All that Airflow shows as the log of a try (the latest, if none is given), a line for each message.

        What is printed comes late, some of it after the task is over: this waits for the process that passes it on.
        """
        task = self.task(run, task_id, map_index)
        if task["state"] != "running":
            supervisor = f"airflow worker -- LocalExecutor: {task['id']}"
            self.wait_for(lambda: supervisor not in map(command, pids()), f"{task_id} is still supervised")
        answer = self.ask(
            *("GET", *_path(run, task_id), "logs", try_number or task["try_number"]),
            map_index=map_index, full_content=True,
        )  # fmt: skip
        return "".join(f"{_line(message)}\n" for message in answer["content"])

    # -- what is kept

    def query(self, statement, *parameters):
        """The rows that an SQL statement finds in Airflow's database."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(statement, parameters).fetchall()

    def database_text(self):
        """All text in Airflow's database, a line for each value, which begins with `TABLE.COLUMN: `."""
        return "".join(f"{place}: {text}\n" for place, text in self._values())

    def places_of(self, text):
        """Where a text stands: in which columns of the database, and in which files below the home of Airflow."""
        files = [path for path in self.home.rglob("*") if path.is_file() and not path.name.startswith("airflow.db")]
        return sorted({place for place, value in self._values() if text in value}) + [
            str(path.relative_to(self.home)) for path in files if text.encode() in path.read_bytes()
        ]

    def _values(self):
        for (table,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table'"):
            columns = [column for _, column, *_ in self.query(f'PRAGMA table_info("{table}")')]
            for row in self.query(f'SELECT * FROM "{table}"'):
                for column, value in zip(columns, row, strict=True):
                    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                    yield f"{table}.{column}", text


def _path(run, task_id=None, map_index=-1):
    path = ["dags", run.dag_id, "dagRuns", run.run_id]
    if task_id is not None:
        path += ["taskInstances", task_id]
    return [*path, map_index] if map_index >= 0 else path


IN_EVERY_LINE = {
    *("timestamp", "level", "event", "logger", "filename", "lineno"),
    *("dag_id", "run_id", "task_id", "map_index", "try_number", "ti_id"),
}


def _line(message):
    if isinstance(message, str):
        return message
    more = {name: value for name, value in message.items() if name not in IN_EVERY_LINE}
    told = [message.get("timestamp"), message.get("level"), message["event"], more and json.dumps(more)]
    return " ".join(part for part in told if part)
