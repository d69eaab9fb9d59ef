"""What the Airflow adapter costs, against Airflow's own operators, in one call.

    nox -s benchmark_airflow             # makes the environments and calls this
    python benchmarks/airflow.py --mlflow PYTHON [--runs 5] [--only NAME ...]

PYTHON is an interpreter whose environment has mlflow; Airflow is that of the interpreter that runs this. What is
compared is measured in turns (A B A B ...), so that a machine that gets slower slows both, and every figure is a
median. Ratios are mlproj's figure over the peer's: less is better. Nothing here is a test: it prints, and whoever reads
it judges.

All of it takes some 20 minutes, and 6 GB of memory for 500 runs (`--triggers`).
"""

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# In place of this file's own directory, where whoever imports Airflow would find this file.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "tests" / "support")

from airflow_world import AirflowWorld  # noqa: E402
from mlflow_world import MlflowServer  # noqa: E402

TASKS = 100

COMPARED = {
    "parse": """
A DAG file with 100 MLProjectOperators of 8 templated arguments, one with as many BashOperators that run the same by
`mlflow run`, and one with a bare operator of our arguments that does nothing. What is forked has loaded what the DAG
processor loads and, as it does, what the file imports of `airflow.*`: BashOperator is there already, MLProjectOperator
is imported. Reading the file makes the operators; then the DAG is serialized.""",
    "task": """
A task that runs a project which does nothing (env_manager local), recorded by the same mlflow server. Airflow's own
record of the task, end_date - start_date, on a LocalExecutor and SQLite.""",
    "triggerer": """
One triggerer and the deferred tasks it has, the rest of Airflow stopped. The peer's are those of DateTimeSensorAsync;
ours are those of MLProjectOperator, each with a living local run that prints nothing, or a line every 10 s. Memory is
what both its processes have resident, shared pages counted twice.""",
}

PARSED = {
    "mlproj": """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlproj import MLProjectOperator

with DAG("mlproj", schedule="@daily", tags=["benchmark"], default_args={"retries": 2}):
    for number in range(TASKS):
        MLProjectOperator(
            task_id=f"train_{number}",
            uri="projects/wine_quality",
            entry_point="train",
            parameters={"penalty": number / 10, "data_uri": "{{ ti.xcom_pull('prepare')['data_uri'] }}"},
            experiment_name="wine_quality",
            run_name="{{ dag_run.run_id }}",
            env_vars={"OMP_NUM_THREADS": "2", "SOME_TOKEN": "{{ var.value.some_token }}"},
            tags={"team": "wine"},
            mlflow_conn_id="mlflow_default",
            retry_delay=timedelta(minutes=1),
        )
""",
    "bash": """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("bash", schedule="@daily", tags=["benchmark"], default_args={"retries": 2}):
    for number in range(TASKS):
        BashOperator(
            task_id=f"train_{number}",
            bash_command=(
                f"mlflow run projects/wine_quality -e train -P penalty={number / 10} "
                "-P data_uri={{ ti.xcom_pull('prepare')['data_uri'] }} "
                "--experiment-name wine_quality --run-name {{ dag_run.run_id }}"
            ),
            env={"OMP_NUM_THREADS": "2", "SOME_TOKEN": "{{ var.value.some_token }}"},
            append_env=True,
            retry_delay=timedelta(minutes=1),
        )
""",
}

BARE = """
from airflow.sdk import BaseOperator

class MLProjectOperator(BaseOperator):
    template_fields = (
        "uri", "entry_point", "parameters", "experiment_name", "run_name", "env_vars", "tags", "mlflow_conn_id"
    )

    def __init__(self, *, task_id, retry_delay, **arguments):
        super().__init__(task_id=task_id, retry_delay=retry_delay)
        for name, value in arguments.items():
            setattr(self, name, value)
"""
"""What Airflow itself takes for an operator with these arguments."""
PARSED["bare"] = PARSED["mlproj"].replace("from airflow_mlproj import MLProjectOperator", BARE)

FRESH = """
import sys
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag

file = Path(sys.argv[1])
bag = BundleDagBag(dag_folder=str(file), bundle_path=file.parent, bundle_name="benchmark")
assert len(bag.dags) == 1, bag.import_errors
"""

FORKED = """
import gc, json, os, sys, time
from pathlib import Path
import structlog
import airflow.dag_processing.manager
from airflow.dag_processing.processor import BundleDagBag, _pre_import_airflow_modules, _serialize_dags

log = structlog.get_logger("task")
gc.freeze()  # as the DAG processor does

def parse(file):
    # Imports in the parent what the file imports of `airflow.*`: operators of providers, but not those of others.
    _pre_import_airflow_modules(str(file), log)
    reader, writer = os.pipe()
    began = time.perf_counter()
    if (child := os.fork()) == 0:
        bag = BundleDagBag(dag_folder=str(file), bundle_path=file.parent, bundle_name="benchmark", load_op_links=False)
        read = time.perf_counter()
        [dag], errors = _serialize_dags(bag, log)
        os.write(writer, json.dumps([time.perf_counter() - began, read - began]).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        os.waitpid(child, 0)
        return json.loads(answer.read())

files, turns = {name: Path(path) for name, path in json.loads(sys.argv[1]).items()}, int(sys.argv[2])
seconds = {name: [] for name in files}
for turn in range(turns + 1):
    for name, file in files.items():
        if turn:
            seconds[name].append(parse(file))
        else:
            parse(file)
print(json.dumps(seconds))
"""
"""Airflow's own functions, in the order in which its DAG processor and the process that it forks call them."""

LOADED = """
import json, sys, time
from airflow.sdk import DAG, BaseOperator

BaseOperator
# Airflow imports the package itself, to ask what the provider has to offer.
ours = [name for name in sys.modules if name.partition(".")[0] in ("airflow_mlproj", "mlproj_core")]
for name in ours:
    del sys.modules[name]
before = set(sys.modules)
began = time.perf_counter()
import airflow_mlproj
package, packages = time.perf_counter() - began, sorted(set(sys.modules) - before)
before = set(sys.modules)
began = time.perf_counter()
from airflow_mlproj import MLProjectOperator
print(json.dumps([ours, package, packages, time.perf_counter() - began, sorted(set(sys.modules) - before)]))
"""

RUN_BY_TASKS = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow_mlproj import MLProjectOperator

with DAG({dag_id!r}, schedule=None):
    # One after the other, so that each has the machine for itself.
    (
        BashOperator(task_id="true", bash_command="true")
        >> MLProjectOperator(
            task_id="mlproj", uri={project!r}, env_manager="local", mlflow_conn_id="mlflow_default"
        )
        >> BashOperator(
            task_id="mlflow",
            bash_command="{mlflow} run {project} --env-manager local",
            env={{"MLFLOW_TRACKING_URI": {uri!r}}},
            append_env=True,
        )
    )
"""

COUNT = """
import json, os, time
from airflow.sdk.execution_time.comms import CommsDecoder

send = CommsDecoder.send

def counted(self, msg):
    began = time.perf_counter()
    try:
        return send(self, msg)
    finally:
        with open(f"{counts}/{{os.getpid()}}", "a") as file:
            name = f"{{type(msg).__name__}} {{getattr(msg, 'key', '')}}".strip()
            print(json.dumps([name, time.perf_counter() - began]), file=file)

CommsDecoder.send = counted
"""
"""Stands before a DAG: each process that reads it writes down what it asks of its supervisor, and so of the API."""

WAITING = {
    "stock": """
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG

with DAG("stock", schedule=None):
    for number in range({tasks}):
        DateTimeSensorAsync(task_id=f"wait_{{number}}", target_time="2100-01-01T00:00:00+00:00")
""",
    "mlproj": """
from airflow.sdk import DAG
from airflow_mlproj import MLProjectOperator

with DAG("mlproj", schedule=None):
    for number in range({tasks}):
        MLProjectOperator(task_id=f"wait_{{number}}", uri={project!r}, env_manager="local", deferrable=True)
""",
}

DEFER = """
import json, sys
from datetime import datetime, timezone
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.utils.session import create_session
from airflow_mlproj.triggers import CURSOR_KEY, MLProjectRunTrigger, cursor_note
from sqlalchemy import select

dag_id, handles = sys.argv[1], json.load(sys.stdin)
with create_session() as session:
    tasks = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag_id)).all()
    for task, handle in zip(tasks, handles):
        if handle is None:
            trigger = DateTimeTrigger(moment=datetime(2100, 1, 1, tzinfo=timezone.utc))
        else:
            trigger = MLProjectRunTrigger(handle)
            identity = dict(dag_id=dag_id, run_id=task.run_id, task_id=task.task_id)
            XComModel.set(CURSOR_KEY, cursor_note(trigger.handle, 0), **identity, serialize=False, session=session)
        row = Trigger.from_object(trigger)
        session.add(row)
        session.flush()
        task.state, task.try_number, task.trigger_id = "deferred", 1, row.id
"""
"""What Airflow's API does when a task defers, for many tasks of a DAG run at once."""

SUBMIT = """
import json, sys
from mlproj_core import submit

for _ in range(int(sys.argv[2])):
    print(json.dumps(submit(sys.argv[1], env_manager="local", report=lambda line: None).handle.to_dict()))
"""

SUBMITTERS = 4
"""How many runs are being started at a time."""

TICKER = """
# Every ten seconds, without starting a process for it: reads from a pipe into which nobody writes.
exec 3<> <(:)
while :; do
    read -rt 10 -u 3
    if [ -e "$1" ]; then echo "line $((number += 1)) of a run"; fi
done
"""


def python(code, *arguments, cwd, env, stdin=None):
    """What a piece of code prints, in a fresh process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"failed: {code}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def last_line(text):
    """What Airflow prints comes before it."""
    return json.loads(text.splitlines()[-1])


class Bench:
    def __init__(self, arguments, scratch):
        self.arguments = arguments
        self.runs = arguments.runs
        self.scratch = scratch
        # Compiled files are what an installation has; without them each side would time the compiler.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    def row(self, what, ours, peer, peer_name, goal="", unit="ms", digits=0):
        ratio = f"{ours / peer:.2f} times" if peer else ""
        figures = f"{ours:>8.{digits}f} {unit:<4} {peer:>8.{digits}f} {unit:<4}"
        print(f"{what:<48} {figures} {peer_name:<31} {ratio:<11} {goal}", flush=True)

    # -- parse

    def parse(self):
        home = self.scratch / "parse"
        (dags := home / "dags").mkdir(parents=True)
        environ = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        files = {name: dags / name / "dag.py" for name in PARSED}
        for name, file in files.items():
            file.parent.mkdir()
            file.write_text(PARSED[name].replace("TASKS", str(TASKS)))
        whole = {name: [] for name in files}
        for turn in range(self.runs + 1):
            for name, file in files.items():
                began = time.perf_counter()
                python(FRESH, file, cwd=home, env=environ)
                if turn:  # the first turn warms the disk's cache
                    whole[name].append((time.perf_counter() - began) * 1e3)
        read = {name: statistics.median(values) for name, values in whole.items()}
        for peer, peer_name in (("bash", "BashOperator"), ("bare", "bare operator")):
            self.row(f"fresh process, DagBag of {TASKS} tasks", read["mlproj"], read[peer], peer_name)
        asked = json.dumps({name: str(file) for name, file in files.items()}), 8 * self.runs
        forked = last_line(python(FORKED, *asked, cwd=home, env=environ))
        for index, what in ((1, "file is read"), (0, "DAG is serialized too")):
            median = {name: statistics.median(value[index] for value in values) for name, values in forked.items()}
            for peer, peer_name, goal in (
                ("bash", "BashOperator", "goal: at most 1.15"),
                ("bare", "bare operator", ""),
            ):
                figures = median["mlproj"] * 1e3, median[peer] * 1e3
                self.row(f"from fork until the {what}", *figures, peer_name, goal, digits=1)
        looks = [last_line(python(LOADED, cwd=home, env=environ)) for _ in range(self.runs)]
        ours, _, packages, _, modules = looks[0]
        package, operator = (statistics.median(look[index] for look in looks) * 1e3 for index in (1, 3))
        print(f"Loaded beside what `from airflow.sdk import DAG, BaseOperator` loads ({', '.join(ours)} among it):")
        print(f"  import airflow_mlproj                           {package:.1f} ms, {_listed(packages)}")
        print(f"  from airflow_mlproj import MLProjectOperator    {operator:.1f} ms, {_listed(modules)}")

    # -- task

    def task(self):
        project = self.scratch / "noop"
        project.mkdir()
        (project / "MLproject").write_text("name: noop\nentry_points:\n  main:\n    command: 'true'\n")
        counts = self.scratch / "counts"
        counts.mkdir()
        with self.tracked_world("task") as (world, uri):
            mlflow = Path(self.arguments.mlflow).with_name("mlflow")
            text = RUN_BY_TASKS.format(dag_id="task", project=str(project), mlflow=mlflow, uri=uri)
            world.write_dag("task", text)
            world.write_dag("counted", COUNT.format(counts=counts) + text.replace("'task'", "'counted'"))
            self.finish(world, "task")
            seconds = [self.finish(world, "task") for _ in range(self.runs)]
            self.finish(world, "counted")
        ours, mlflow, true = (
            statistics.median(run[name] for run in seconds) * 1e3 for name in ("mlproj", "mlflow", "true")
        )
        self.row("MLProjectOperator", ours, mlflow, "BashOperator: mlflow run")
        self.row("MLProjectOperator", ours, true, "BashOperator: true (the floor)")
        self.row("beyond the floor", ours - true, mlflow - true, "BashOperator: mlflow run")
        print("What the task's process asks of its supervisor, nearly all of it a call of Airflow's API:")
        # By the order in which the tasks ended; the DAG processor, which reads the file too, ends none.
        asked = [
            [json.loads(line) for line in file.read_text().splitlines()]
            for file in sorted(counts.iterdir(), key=lambda file: file.stat().st_mtime)
        ]
        asked = [messages for messages in asked if "SucceedTask" in dict(messages)]
        names = ("BashOperator: true", "MLProjectOperator", "BashOperator: mlflow run")
        for name, messages in zip(names, asked, strict=True):
            kinds = Counter(kind for kind, _ in messages)
            told = ", ".join(f"{kind} ({number})" if number > 1 else kind for kind, number in kinds.items())
            took = sum(seconds for _, seconds in messages) * 1e3
            print(f"  {name:<25} {len(messages):>2} messages, {took:.0f} ms: {told}")

    def finish(self, world, dag_id):
        """Run a DAG to its end: the seconds that each of its tasks took."""
        run = world.trigger(dag_id)

        def state():
            # By the database: whoever asks the API again and again takes time from what is measured.
            return world.query("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", *run)[0][0]

        world.wait_for(lambda: state() in ("success", "failed"), f"{dag_id} does not end", 120)
        world.wait_for_run(run)
        return dict(world.query("SELECT task_id, duration FROM task_instance WHERE dag_id = ? AND run_id = ?", *run))

    # -- triggerer

    def triggerer(self):
        number = self.arguments.triggers
        project, switch = self.scratch / "waits", self.scratch / "print"
        project.mkdir()
        (project / "ticker.sh").write_text(TICKER)
        command = f"exec bash ticker.sh {switch}"
        (project / "MLproject").write_text(f"name: waits\nentry_points:\n  main:\n    command: {command}\n")
        # As Airflow has it: tests want to hear of death sooner.
        calm = {"job_heartbeat_sec": 5, "triggerer_health_check_threshold": 30, "runner_health_check_threshold": 30}
        config = {"triggerer": {**calm, "capacity": 2 * number}}
        with self.world("triggerer", {"MLPROJ_TRACKING": "off"}, config) as world:
            for name, text in WAITING.items():
                world.write_dag(name, text.format(tasks=number, project=str(project)), timeout=90)
                world.pause(name)
                world.trigger(name)  # makes the task instances, which nobody starts
            for name in ("scheduler", "dag-processor", "api-server", "triggerer"):
                world.kill(name, signal.SIGTERM)
                world.components[name].process.wait(60)
            handles = self.submit(world, project, number)
            scenarios = {
                "none": ("no deferred tasks", None, []),
                "stock": (f"{number} of DateTimeSensorAsync", "stock", [None] * number),
                "one": ("1 of MLProjectOperator", "mlproj", handles[:1]),
                "silent": (f"{number} of MLProjectOperator, silent", "mlproj", handles),
                "printing": (f"{number} of MLProjectOperator, printing", "mlproj", handles),
            }
            found = {name: [] for name in scenarios}
            for _ in range(self.arguments.rounds):
                for name, (what, dag_id, waits_for) in scenarios.items():
                    switch.unlink(missing_ok=True)
                    if name == "printing":
                        switch.touch()
                    found[name].append(self.waiting(world, what, dag_id, waits_for))
        cpu, memory = (
            {name: statistics.median(value[what] for value in values) for name, values in found.items()}
            for what in ("cpu", "memory")
        )
        peer = "DateTimeSensorAsync"
        for name in ("silent", "printing"):
            what = f"{number} runs, {name}"
            self.row(f"{what}: CPU per minute", cpu[name], cpu["stock"], peer, unit="s", digits=2)
            self.row(f"{what}: memory", memory[name], memory["stock"], peer, unit="MB", digits=1)
            # The first one brings what all use, such as Airflow's API inside the triggerer.
            ours = (memory[name] - memory["one"]) * 1024 / (number - 1)
            stock = (memory["stock"] - memory["none"]) * 1024 / number
            self.row(f"{what}: memory of each further one", ours, stock, peer, unit="kB")

    def submit(self, world, project, number):
        """Start the runs, a few at a time: their handles. They end with the world, whose mark they carry."""
        shares = [number // SUBMITTERS + (index < number % SUBMITTERS) for index in range(SUBMITTERS)]
        submitters = [
            subprocess.Popen(
                [sys.executable, "-c", SUBMIT, str(project), str(share)],
                cwd=world.home, env=world.environment, stdout=subprocess.PIPE, text=True,
            )
            for share in shares
        ]  # fmt: skip
        handles = [json.loads(line) for submitter in submitters for line in submitter.communicate()[0].splitlines()]
        if len(handles) != number:
            sys.exit(f"only {len(handles)} of {number} runs were started")
        return handles

    def waiting(self, world, what, dag_id, waits_for):
        """What a triggerer costs that has this to wait for."""
        if dag_id:
            python(DEFER, dag_id, cwd=world.home, env=world.environment, stdin=json.dumps(waits_for))
        expected = len(waits_for)
        world.start("triggerer")
        world.wait_for(
            lambda: world.query("SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL")[0][0] == expected,
            "the triggerer does not take its triggers", 120,
        )  # fmt: skip
        if dag_id == "mlproj":
            world.wait_for(lambda: _descriptors(world)["pidfd"] == expected, "not every run is followed", 120)
        time.sleep(self.arguments.settle)
        lines, cpu, began = _lines_logged(world), _cpu(world), time.monotonic()
        time.sleep(self.arguments.seconds)
        took = time.monotonic() - began
        found = {
            "cpu": (_cpu(world) - cpu) * 60 / took,
            "memory": sum(_status(pid, "VmRSS") for pid in world.processes("triggerer")) / 1024,
            "threads": sum(_status(pid, "Threads") for pid in world.processes("triggerer")),
            **_descriptors(world),
            "lines": _lines_logged(world) - lines,
        }
        world.check()
        used = f"CPU {found['cpu']:6.2f} s per minute, {found['memory']:6.1f} MB, {found['threads']} threads"
        opened = f"{found['inotify']} inotify instances, {found['pidfd']} pidfds"
        print(f"  {what:<36} {used}, {opened}, {found['lines']} lines logged", flush=True)
        if dag_id == "mlproj" and found["pidfd"] != expected:
            sys.exit(f"{expected - found['pidfd']} runs ended, or are not followed any more")
        # Before the rows go: a triggerer whose trigger is gone ends its run.
        world.kill("triggerer", signal.SIGTERM)
        world.components["triggerer"].process.wait(60)
        with contextlib.closing(sqlite3.connect(world.database, timeout=30)) as connection, connection:
            connection.execute("UPDATE task_instance SET state = NULL, trigger_id = NULL")
            connection.execute("DELETE FROM trigger")
            connection.execute("DELETE FROM xcom")
        return found

    # -- worlds

    @contextlib.contextmanager
    def world(self, name, variables=None, config=None):
        """An Airflow of its own. With it ends, however this ends, all that has its AIRFLOW_HOME in its environment."""
        world = AirflowWorld(self.scratch / name, variables, config)
        try:
            yield world
        finally:
            world.stop()

    @contextlib.contextmanager
    def tracked_world(self, name):
        """An Airflow, and a tracking server that both sides record their runs with."""
        directory = self.scratch / f"{name}-mlflow"
        directory.mkdir()
        others = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "MLPROJ"))}
        environ = {
            **others,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "AIRFLOW_HOME": str(self.scratch / name / "airflow"),  # so that it ends with the world, if not before
        }
        server = MlflowServer(self.arguments.mlflow, directory, environ)
        try:
            connection = json.dumps({"conn_type": "mlflow", "host": server.uri})
            with self.world(name, {"AIRFLOW_CONN_MLFLOW_DEFAULT": connection}) as world:
                yield world, server.uri
        finally:
            server.stop()


def _listed(modules):
    return f"{len(modules)} modules: {', '.join(modules)}"


def _cpu(world):
    """Seconds of CPU that the triggerer's processes have used."""
    ticks = 0
    for pid in world.processes("triggerer"):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _status(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _descriptors(world):
    """How many inotify instances and descriptors of processes the triggerer has open."""
    counts = Counter()
    for pid in world.processes("triggerer"):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                counts[str(entry.readlink())] += 1
    return {name: counts[f"anon_inode:{kind}"] for name, kind in (("inotify", "inotify"), ("pidfd", "[pidfd]"))}


def _lines_logged(world):
    """Lines of the runs in the logs that the triggerer has written."""
    return sum(file.read_bytes().count(b" of a run") for file in world.home.glob("logs/**/*.trigger.*.log"))


PARTS = ("parse", "task", "triggerer")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlflow", metavar="PYTHON", required=True, help="an interpreter that has mlflow")
    parser.add_argument("--runs", type=int, default=5, help="turns of the parts parse and task")
    parser.add_argument("--triggers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1, help="turns of the part triggerer")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long a triggerer is measured")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds that it is given before")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that it cleans up
    print(f"{f'(load before it began: {os.getloadavg()[0]:.1f})':<48} {'mlproj':>13} {'peer':>13}")
    with tempfile.TemporaryDirectory(prefix="mlproj-bench-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(arguments, Path(scratch))
        for part in arguments.only:
            print(COMPARED[part], flush=True)
            getattr(bench, part)()


if __name__ == "__main__":
    main()
