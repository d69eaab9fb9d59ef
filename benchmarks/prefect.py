"""What the tasks of Prefect cost that run projects, against tasks that shell out, in one call.

    nox -s benchmark_prefect             # makes the environments and calls this
    python benchmarks/prefect.py --mlflow PYTHON [--runs 15] [--count 200] [--rounds 3] [--only NAME ...]

PYTHON is an interpreter whose environment has mlflow; Prefect is that of the interpreter that runs this. What is
compared is measured in turns (A B A B ...), so that a machine that gets slower slows both, and every figure is a
median. Ratios are mlproj's figure over the peer's, with the least and the greatest of the single turns in brackets, by
which one sees how quiet the machine was. Of times and memory less is better, of runs a second more. Nothing here is a
test: it prints, and whoever reads it judges.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

# In place of this file's own directory, where whoever imports Prefect would find this file.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "tests" / "support")

from mlflow_world import MlflowServer  # noqa: E402
from prefect_world import PrefectWorld  # noqa: E402
from processes import in_session  # noqa: E402

COMPARED = {
    "task": """
Tasks that run a project which does nothing (env_manager local), one after the other in one flow on a real server. The
peers are tasks that call subprocess.run: `mlflow run` of the same project, with the same tracking server or, untracked,
with the store that mlflow takes by itself; and `bash -c true`, which shows what Prefect itself takes for a task. Beside
them mlproj_core.run in a plain task: what is beyond that is the adapter's own.""",
    "mapped": """
Many of these tasks at once by `.map`, each turn in a fresh process that is warm. The peer is a plain task that calls
subprocess.run of `bash -c true`, with the same task runner. Memory is the peak of the flow's own process. CPU of the
server is that of Prefect's, until it has nothing left to do.""",
}

ONE_BY_ONE = """
import json, subprocess, time
import mlproj_core
from prefect import flow, task
from prefect_mlproj import run_project

@task
def bash():
    subprocess.run(["bash", "-c", "true"], check=True)

@task
def mlflow():
    subprocess.run([{mlflow!r}, "run", {project!r}, "--env-manager", "local"], check=True)

@task
def core():
    mlproj_core.run({project!r}, env_manager="local")

COMPARED = {{
    "mlproj": lambda: run_project({project!r}, env_manager="local"), "mlflow": mlflow, "core": core, "bash": bash
}}

@flow(name={name!r})
def main():
    seconds = {{name: [] for name in COMPARED}}
    for turn in range({turns} + 1):
        for name, run in COMPARED.items():
            began = time.perf_counter()
            run()
            if turn:  # the first turn loads modules
                seconds[name].append(time.perf_counter() - began)
    return seconds

seconds = main()
with open({answer!r}, "w") as file:
    json.dump(seconds, file)
"""

MAPPED = """
import json, resource, subprocess, time
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner
{tasks}

@flow(name={name!r}, task_runner=ThreadPoolTaskRunner(max_workers={workers}))
def main():
    map_over(1).result()
    began = time.perf_counter()
    futures = map_over({count})
    futures.wait()
    seconds = time.perf_counter() - began
    return seconds, [future.state.message for future in futures if not future.state.is_completed()]

seconds, failed = main()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open({answer!r}, "w") as file:
    json.dump({{"rate": {count} / seconds, "memory": memory / 1024, "failed": failed}}, file)
"""

TASKS = {
    "mlproj": """
from prefect_mlproj import run_project

def map_over(count):
    return run_project.map([{project!r}] * count, env_manager="local")
""",
    "bash": """
@task
def bash(number):
    subprocess.run(["bash", "-c", "true"], check=True)

def map_over(count):
    return bash.map(range(count))
""",
}


class Bench:
    def __init__(self, arguments, scratch):
        self.arguments = arguments
        self.scratch = scratch
        self.project = scratch / "noop"
        self.project.mkdir()
        (self.project / "MLproject").write_text("name: noop\nentry_points:\n  main:\n    command: 'true'\n")
        # Compiled files are what an installation has; without them each side would time the compiler.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    def row(self, what, ours, peers, peer_name, unit="ms"):
        """A line about what was measured in turns."""
        our, peer = statistics.median(ours), statistics.median(peers)
        turns = sorted(one / other for one, other in zip(ours, peers, strict=True) if other)
        ratio = f"{our / peer:.2f} ({turns[0]:.2f} to {turns[-1]:.2f})"
        print(f"{what:<46} {our:>8.1f} {unit:<4} {peer:>8.1f} {unit:<4} {peer_name:<28} {ratio}", flush=True)

    # -- task

    def task(self):
        for name, tracked in (("untracked", False), ("tracked", True)):
            with self.world(name, tracked) as world:
                mlflow = str(Path(self.arguments.mlflow).absolute().with_name("mlflow"))
                text = {"project": str(self.project), "mlflow": mlflow, "turns": self.arguments.runs}
                seconds = self.answer(world, f"one-by-one-{name}", ONE_BY_ONE, text)
            found = {name: [value * 1e3 for value in values] for name, values in seconds.items()}
            self.row(f"run_project, {name}", found["mlproj"], found["mlflow"], "mlflow run")
            self.row(f"run_project, {name}", found["mlproj"], found["core"], "mlproj_core.run")
            self.row(f"run_project, {name}", found["mlproj"], found["bash"], "bash -c true (the floor)")
            beyond = {
                name: [value - floor for value, floor in zip(values, found["bash"], strict=True)]
                for name, values in found.items()
            }
            self.row("  beyond the floor", beyond["mlproj"], beyond["mlflow"], "mlflow run")
            self.row("  beyond the floor", beyond["mlproj"], beyond["core"], "mlproj_core.run")

    # -- mapped

    def mapped(self):
        count = self.arguments.count
        for tracking, tracked in (("untracked", False), ("tracked", True)):
            for workers in (self.arguments.workers, None):
                found = {name: [] for name in TASKS}
                runner = f"{workers} threads" if workers else "default runner"
                with self.world(f"mapped-{tracking}-{workers}", tracked) as world:
                    for turn in range(self.arguments.rounds):
                        for name, tasks in TASKS.items():
                            text = {"tasks": tasks.format(project=str(self.project)), "workers": workers}
                            before = self.calm(world)
                            answer = self.answer(world, f"{name}-{turn}", MAPPED, {**text, "count": count})
                            answer["cpu"] = (self.calm(world) - before) * 1e3 / (count + 1)
                            found[name].append(answer)
                            if failed := answer["failed"]:
                                print(f"  {len(failed)} of {count} of {name} failed, such as: {failed[0]}", flush=True)
                what = f"{count} mapped, {tracking}, {runner}"
                for row, key, unit in (
                    (what, "rate", "/s"),
                    ("  peak memory", "memory", "MB"),
                    ("  CPU of Prefect's server for each", "cpu", "ms"),
                ):
                    ours, peers = ([answer[key] for answer in found[name]] for name in ("mlproj", "bash"))
                    self.row(row, ours, peers, "bash -c true", unit)

    def calm(self, world):
        """Wait until the server has nothing left to do; the seconds of CPU that it has used so far."""
        used = _cpu(world.server.process.pid)
        for _ in range(120):
            time.sleep(1)
            before, used = used, _cpu(world.server.process.pid)
            if used - before < 0.1:
                break
        return used

    # -- worlds

    def answer(self, world, name, program, values):
        """What a program measures, which has a flow of this name."""
        answer = self.scratch / f"{world.directory.name}-{name}.json"
        script = world.start_script(name, program.format(name=name, answer=str(answer), **values))
        if script.wait(1800):
            sys.exit(f"{name} failed:\n{script.log}")
        return json.loads(answer.read_text())

    @contextlib.contextmanager
    def world(self, name, tracked):
        """A Prefect server of its own and, if runs are to be tracked, an mlflow server that all record them with."""
        with contextlib.ExitStack() as stack:
            variables = {"MLPROJ_TRACKING": "off"}
            if tracked:
                variables = {"MLFLOW_TRACKING_URI": self.tracking_server(name, stack)}
            world = PrefectWorld(self.scratch / name, variables)
            stack.callback(world.close)
            yield world

    def tracking_server(self, name, stack):
        directory = self.scratch / f"{name}-mlflow"
        directory.mkdir()
        others = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "MLPROJ"))}
        environ = {
            **others,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PREFECT_HOME": str(self.scratch / name / "prefect"),  # so that it ends with the world, if not before
        }
        server = MlflowServer(str(Path(self.arguments.mlflow).absolute()), directory, environ)
        stack.callback(server.stop)
        return server.uri


def _cpu(session):
    """Seconds of CPU that the processes of a session have used."""
    ticks = 0
    for pid in in_session(session):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


PARTS = ("task", "mapped")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlflow", metavar="PYTHON", required=True, help="an interpreter that has mlflow")
    parser.add_argument("--runs", type=int, default=15, help="turns of the part task")
    parser.add_argument("--count", type=int, default=200, help="tasks that are mapped at once")
    parser.add_argument("--workers", type=int, default=8, help="threads of a task runner, beside the default one")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the part mapped")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that it cleans up
    print(f"{f'(load before it began: {os.getloadavg()[0]:.1f})':<46} {'mlproj':>13} {'peer':>13}")
    with tempfile.TemporaryDirectory(prefix="mlproj-bench-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(arguments, Path(scratch))
        for part in arguments.only:
            print(COMPARED[part], flush=True)
            getattr(bench, part)()


if __name__ == "__main__":
    main()
