"""A real Prefect for tests: its server, its REST API, and programs that serve or run flows, all in one directory.

Nothing here imports Prefect.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from mlflow_world import free_port
from processes import Guard, belonging, command, end_all, in_session, kill_until_none, lives
from rest import ApiError, address, request, seconds
from waiting import wait_for

OVER = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
"""Types of states that runs do not leave by themselves, unless a flow is to be tried again."""

ALL = 200
"""How many entries the API returns at most."""

FOREIGN = ("PREFECT", "MLFLOW", "MLPROJ", "PYTEST", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
"""How variables of the host begin that Prefect must not see: settings, and what keeps it from keeping its modules
compiled, without which each of its processes starts seconds later."""

SERVED = """

if __name__ == "__main__":
    def note_process(flow, flow_run, state):
        import os

        with open(f"{directory}/{{flow_run.id}}.new", "w") as file:
            file.write(str(os.getpid()))
        os.replace(file.name, f"{directory}/{{flow_run.id}}")

    main.on_running(note_process)
    main.serve(name={name!r}, pause_on_shutdown=False, **{options!r})
"""
"""How the file of a served flow ends. The flow says itself which process it runs in: Prefect tells it nowhere."""


class Program:
    """A Python file that runs. What it starts stays in its session, whose id is its pid."""

    def __init__(self, world, name, process, log):
        self.world = world
        self.name = name
        self.process = process
        self.log_file = log

    @property
    def log(self):
        """The end of what it, and the flows in it, printed."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-80:])

    def kill(self, number=signal.SIGKILL):
        """Send it a signal, but nothing to what it started."""
        self.process.send_signal(number)

    def wait(self, timeout=60):
        """The status with which it ends."""
        __tracebackhide__ = True
        self.world.wait_for(lambda: self.process.poll() is not None, lambda: f"{self.name} runs:\n{self.log}", timeout)
        return self.process.returncode

    def stop(self):
        """Ask it to end, and kill what is left of its session after five seconds."""
        self.process.terminate()
        end = time.monotonic() + 5
        while in_session(self.process.pid) and time.monotonic() < end:
            time.sleep(0.05)
        kill_until_none(lambda: in_session(self.process.pid))
        self.process.wait(10)


class Served(Program):
    """A flow that is served: a runner, which starts a process for each run of the flow."""

    @property
    def deployment(self):
        """What the API tells of its deployment."""
        return self.world.deployment(self.name)

    @property
    def runner_pid(self):
        return self.process.pid

    def run(self, parameters=None):
        """Ask for a run of the flow now; its id."""
        return self.world.run_deployment(self.name, parameters)

    def flow_process(self, flow_run_id, timeout=30):
        """The pid of the process in which a run of the flow runs, once it does."""
        __tracebackhide__ = True

        def complaint():
            return f"no process runs {self.name}:\n{self.log}"

        return self.world.wait_for(lambda: self.world.living_process(flow_run_id), complaint, timeout)


class Script(Program):
    """A program that runs flows itself."""

    def __init__(self, *arguments, known):
        super().__init__(*arguments)
        self._known = known
        self._flow_run_id = None

    @property
    def flow_run_id(self):
        """The id of the run of the flow that has the script's name, as soon as there is one."""
        __tracebackhide__ = True

        def found():
            return [run["id"] for run in self.world.runs_of(self.name) if run["id"] not in self._known]

        if self._flow_run_id is None:
            [self._flow_run_id, *_] = self.world.wait_for(found, lambda: f"no flow {self.name} runs:\n{self.log}")
        return self._flow_run_id


class PrefectWorld:
    """A Prefect server with a SQLite database, and programs that know no other.

    Args:
        directory: where it writes all that it writes.
        variables: environment variables for all its processes; they count before those of `settings`.
    """

    def __init__(self, directory, variables=None):
        self.directory = Path(directory)
        self.home = self.directory / "prefect"
        self.files = self.directory / "flows"
        self.notes = self.directory / "processes"
        for each in (self.home, self.files, self.notes):
            each.mkdir(parents=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        host = self._host_environment()
        self.environment = {**host, **self.settings(), **(variables or {})}
        self.server = None
        self.programs = []
        self._sessions = set()
        self._numbers = itertools.count()
        self._mark = f"PREFECT_HOME={self.home}"
        self._guard = Guard(self._mark, host)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def settings(self):
        """Settings of Prefect, as variables."""
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.url}/api",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            # These have nothing to do, or would give runs that wait for a busy host another state.
            "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        }

    def _host_environment(self):
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "MLPROJ_STATE_DIR": str(self.directory / "state"),
            "MLPROJ_CACHE_DIR": str(self.directory / "cache"),
            "MLPROJ_ENV_MANAGER": "uv",  # ten times faster than the default, and not what is tested here
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    # -- the server

    def start(self):
        """Start the server, at the same port and with the same database as before, and wait until it answers."""
        __tracebackhide__ = True
        began = time.monotonic()
        arguments = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", self.port]
        self.server = Program(self, "the server", *self._open("server", arguments))
        self.wait_for(self.is_healthy, lambda: f"the server does not answer:\n{self.server.log}")
        self.seconds_until_healthy = time.monotonic() - began

    def stop(self, number=signal.SIGTERM):
        """End the server; its programs live on."""
        server, self.server = self.server, None
        server.kill(number)
        server.wait()

    def is_healthy(self):
        return self.ask("GET", "health") is True

    def survivors(self):
        """Pids and command lines of all that it started and that lives."""
        return [(pid, command(pid)) for pid in belonging(self._mark, self._sessions)]

    def close(self):
        """End all of it, at once: nobody asks afterwards what it was at."""
        end_all(self._mark, self._sessions)
        for program in [*self.programs, *([self.server] if self.server else [])]:
            program.process.wait(10)
        self._guard.close()

    # -- programs

    def serve(self, name, text, env=None, **options):
        """Serve the flow `main` that a text defines, as the deployment of this name, and wait until it is served.

        Args:
            name: of the deployment, of the file and of its log.
            text: what stands in the file, which the harness ends with a call of `main.serve`.
            env: environment variables for the runner and for the flow's processes.
            options: for `main.serve`.
        """
        __tracebackhide__ = True
        file = self.files / f"{name}.py"
        file.write_text(textwrap.dedent(text) + SERVED.format(directory=self.notes, name=name, options=options))
        return self.serve_file(name, file, env)

    def serve_file(self, name, file, env=None):
        """Run a file that serves its flow itself, as the deployment of this name, and wait until that is served."""
        __tracebackhide__ = True
        served = Served(self, name, *self._open(name, [file], env))
        self.programs.append(served)

        def begun():
            if served.process.poll() is not None:
                pytest.fail(f"{name} ended with {served.process.returncode}:\n{served.log}")
            return "being served" in served.log

        self.wait_for(begun, lambda: f"{name} is not served:\n{served.log}")
        return served

    def start_script(self, name, text, env=None):
        """Run a text as a program of its own, which has a flow of this name and calls it."""
        known = {run["id"] for run in self.runs_of(name)}
        file = self.files / f"{name}.py"
        file.write_text(textwrap.dedent(text))
        script = Script(self, name, *self._open(name, [file], env), known=known)
        self.programs.append(script)
        return script

    def _open(self, name, arguments, env=None):
        log = self.directory / f"{name}.{next(self._numbers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=self.files, env={**self.environment, **(env or {})}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._sessions.add(process.pid)
        self._guard.watch(process.pid)
        return process, log

    def living_process(self, flow_run_id):
        """The pid of the process in which a served flow runs, as far as there is one now."""
        with contextlib.suppress(FileNotFoundError):
            pid = int((self.notes / flow_run_id).read_text())
            return pid if lives(pid) else None

    # -- waiting

    def wait_for(self, condition, complaint, timeout=60):
        """Wait until a condition gives something true, and give that; see `waiting.wait_for`."""
        __tracebackhide__ = True
        return wait_for(condition, complaint, timeout, self._check)

    def _check(self):
        __tracebackhide__ = True
        if self.server and self.server.process.poll() is not None:
            pytest.fail(f"the server ended by itself, with {self.server.process.returncode}:\n{self.server.log}")

    def wait_for_flow_run(self, flow_run_id, *states, timeout=60):
        """Wait until a flow run is in a state of one of these names (`Completed`, if none is given).

        It gives what the API tells of the run, and fails at once when that stays in another state that is final.
        """
        __tracebackhide__ = True
        states = states or ("Completed",)

        def reached():
            run = self.flow_run(flow_run_id)
            if run["state_name"] in states:
                return run
            if run["state_type"] in OVER and time.time() - seconds(run["state"]["timestamp"]) > 2:
                pytest.fail(complaint())
            return None

        def complaint():
            run = self.flow_run(flow_run_id)
            lines = [f"{run['name']} is {run['state_name']}, not {' or '.join(states)}:"]
            lines += [f"  {_line(state)}" for state in self.flow_run_states(flow_run_id)]
            lines += [f"  task {task['name']}: {_line(task['state'])}" for task in self.task_runs(flow_run_id)]
            return "\n".join([*lines, *(f"-- log of {each.name}\n{each.log}" for each in self._programs_of(run))])

        return self.wait_for(reached, complaint, timeout)

    def wait_for_task_run(self, flow_run_id, name, *states, timeout=60):
        """Wait until the latest task run of this name is in one of these states (`Completed`); what the API tells.

        Prefect tells of a task's states by events, which come after the fact, and even after the end of the flow.

        Args:
            name: of the task run, whole or without the `-abc` that makes it unique.
        """
        __tracebackhide__ = True
        states = states or ("Completed",)

        def reached():
            runs = self.task_runs(flow_run_id)
            named = [run for run in runs if name in (run["name"], run["name"].rpartition("-")[0])]
            return named[-1] if named and named[-1]["state_name"] in states else None

        def complaint():
            told = [f"  task {task['name']}: {_line(task['state'])}" for task in self.task_runs(flow_run_id)]
            programs = self._programs_of(self.flow_run(flow_run_id))
            logs = [f"-- log of {each.name}\n{each.log}" for each in programs]
            return "\n".join([f"{name} is not {' or '.join(states)}:", *told, *logs])

        return self.wait_for(reached, complaint, timeout)

    def _programs_of(self, run):
        """The programs that have, or may have, to do with a flow run."""
        [flow] = self._all("flows", flows={"id": {"any_": [run["flow_id"]]}})
        names = {flow["name"]}
        if run["deployment_id"]:
            names = {self.ask("GET", "deployments", run["deployment_id"])["name"]}
        return [program for program in self.programs if program.name in names]

    # -- the REST API

    def ask(self, method, *path, body=None, **query):
        """What the API answers to a request; the path below `/api`, in parts.

        A server that is too busy for its database says so (503), and is asked again, as Prefect's own client does.
        """
        url = address(f"{self.url}/api", *path, **query)
        for pause in (0.2, 1, 3):
            try:
                return request(method, url, body=body)
            except ApiError as error:
                if error.status != 503:
                    raise
                time.sleep(pause)
        return request(method, url, body=body)

    def _all(self, kind, **body):
        """All entries of a kind that match, however many pages they take."""
        found = []
        while True:
            page = self.ask("POST", kind, "filter", body={"limit": ALL, "offset": len(found), **body})
            found += page
            if len(page) < ALL:
                return found

    def flow_run(self, flow_run_id):
        return self.ask("GET", "flow_runs", flow_run_id)

    def runs_of(self, flow_name):
        """All runs of the flows of this name, the latest first."""
        return self._all("flow_runs", flows={"name": {"any_": [flow_name]}}, sort="EXPECTED_START_TIME_DESC")

    def flow_run_states(self, flow_run_id):
        """All states that a flow run was in, the first one first."""
        return self._history("flow_run_states", flow_run_id=flow_run_id)

    def task_runs(self, flow_run_id):
        """All task runs of a flow run, in the order in which they began; each with the `message` of its state."""
        runs = self._all("task_runs", flow_runs={"id": {"any_": [flow_run_id]}}, sort="ID_DESC")
        runs.sort(key=lambda run: seconds(run["start_time"] or run["expected_start_time"] or run["created"]))
        return [{**run, "message": run["state"] and run["state"]["message"]} for run in runs]

    def states_of_task_run(self, task_run_id):
        """All states that a task run was in, the first one first."""
        return self._history("task_run_states", task_run_id=task_run_id)

    def _history(self, kind, **query):
        return sorted(self.ask("GET", kind, "", **query), key=lambda state: seconds(state["timestamp"]))

    def logs(self, flow_run_id, task_run_id=None):
        """All that Prefect has as the log of a flow run, or of one of its task runs, in order.

        A process sends its last words after the end of its flow: this waits for the process of a run that is over.
        """
        __tracebackhide__ = True
        self._wait_for_last_words(flow_run_id)
        wanted = {"flow_run_id": {"any_": [flow_run_id]}}
        if task_run_id is not None:
            wanted["task_run_id"] = {"any_": [task_run_id]}
        return self._all("logs", logs=wanted, sort="TIMESTAMP_ASC")

    def _wait_for_last_words(self, flow_run_id):
        __tracebackhide__ = True
        if self.flow_run(flow_run_id)["state_type"] in OVER:
            running = f"the process of {flow_run_id} has not ended"
            self.wait_for(lambda: not self._still_runs(flow_run_id), running, 30)

    def _still_runs(self, flow_run_id):
        scripts = [each for each in self.programs if isinstance(each, Script)]
        return self.living_process(flow_run_id) or any(
            script.process.poll() is None and script.flow_run_id == flow_run_id for script in scripts
        )

    def log_text(self, flow_run_id, task_run_id=None):
        """The messages of `logs`, a line for each."""
        return "".join(f"{entry['message']}\n" for entry in self.logs(flow_run_id, task_run_id))

    def artifacts(self, flow_run_id):
        """All artifacts of a flow run, the first one first; see `logs` for one that is over."""
        __tracebackhide__ = True
        self._wait_for_last_words(flow_run_id)
        found = self._all("artifacts", artifacts={"flow_run_id": {"any_": [flow_run_id]}}, sort="ID_DESC")
        return sorted(found, key=lambda artifact: seconds(artifact["created"]))

    def set_state(self, flow_run_id, type, name, message=None, force=False):
        """Set the state of a flow run, as one does by hand; what the API answers.

        It accepts that, or it cancels the run itself, which has no process that could.
        """
        state = {"type": type, "name": name, "message": message}
        answer = self.ask("POST", "flow_runs", flow_run_id, "set_state", body={"state": state, "force": force})
        assert answer["status"] == "ACCEPT" or answer["state"]["type"] == "CANCELLED", answer
        return answer

    def cancel(self, flow_run_id):
        """Cancel a flow run, as the UI's Cancel does."""
        return self.set_state(flow_run_id, "CANCELLING", "Cancelling", force=True)

    def retry(self, flow_run_id):
        """Let a flow run that is over run again, as the UI's Retry does."""
        return self.set_state(flow_run_id, "SCHEDULED", "AwaitingRetry", "Retry from the UI")

    def deployment(self, name):
        """What the API tells of the deployment of this name, whatever its flow is called; None when there is none."""
        return next(iter(self._all("deployments", deployments={"name": {"any_": [name]}})), None)

    def run_deployment(self, name, parameters=None):
        """Ask for a run of a deployment now; its id."""
        body = {"parameters": parameters or {}}
        return self.ask("POST", "deployments", self.deployment(name)["id"], "create_flow_run", body=body)["id"]


def _line(state):
    return " ".join(part for part in (state["timestamp"], state["name"], state["message"]) if part)
