"""What a step costs, against mlflow and against the bare operation, in one call.

    nox -s benchmark                     # makes the environments and calls this
    python benchmarks/spine.py --mlflow PYTHON [--runs 5] [--only NAME ...]

PYTHON is an interpreter whose environment has mlflow. Every figure is the median of whole processes, taken in turns
(A B A B ...), so that a machine that gets slower slows both. Ratios are the peer's time over mlproj's unless the line
says otherwise. Nothing here is a test: it prints, and whoever reads it judges.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

MLPROJECT = "name: noop\nentry_points:\n  main:\n    command: 'true'\n"
PACKAGES = "numpy pandas scikit-learn"
PYTHON_ENV = "python: '{python}'\nbuild_dependencies: [pip]\ndependencies: [{packages}]\n"


def median_seconds(commands, runs, before=lambda: None):
    """The median wall seconds of each command, run in turns; `before` is called before each, untimed."""
    seconds = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, (command, variables) in commands.items():
            before()
            began = time.perf_counter()
            done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
            elapsed = time.perf_counter() - began
            if done.returncode:
                sys.exit(f"{name} failed: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            if turn:  # the first turn warms the disk's cache
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def inside(python, code, runs, variables=None):
    """The median of what a piece of code prints, each time in a fresh process."""
    values = []
    for _ in range(runs):
        done = subprocess.run(
            [python, "-c", code], env={**os.environ, **(variables or {})}, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stderr)
        values.append(float(done.stdout.split()[-1]))
    return statistics.median(values)


class Bench:
    def __init__(self, arguments, scratch):
        self.runs = arguments.runs
        self.mlflow_python = arguments.mlflow
        self.mlflow = str(Path(arguments.mlflow).with_name("mlflow"))
        self.mlproj = str(Path(sys.executable).with_name("mlproj"))
        self.scratch = scratch
        self.noop = scratch / "noop"
        self.noop.mkdir()
        (self.noop / "MLproject").write_text(MLPROJECT)
        self.with_env = scratch / "with-env"
        self.with_env.mkdir()
        (self.with_env / "MLproject").write_text(MLPROJECT.replace("name", "python_env: python_env.yaml\nname", 1))
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        (self.with_env / "python_env.yaml").write_text(
            PYTHON_ENV.format(python=version, packages=PACKAGES.replace(" ", ", "))
        )
        (scratch / "cwd").mkdir()
        os.chdir(scratch / "cwd")
        # Compiled files are what an installation has; without them each side would time the compiler.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.update(
            MLPROJ_STATE_DIR=str(scratch / "state"),
            MLPROJ_CACHE_DIR=str(scratch / "cache"),
            MLFLOW_ENV_ROOT=str(scratch / "mlflow-envs"),
            PATH=f"{Path(self.mlflow).parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )
        self.rows = []

    def row(self, what, mlproj, peer, peer_name, goal, ratio=None):
        ratio = ratio or f"{peer / mlproj:.1f} times faster"
        print(
            f"{what:<46} {mlproj * 1e3:>9.0f} ms {peer * 1e3:>9.0f} ms  {peer_name:<26} {ratio:<22} {goal}", flush=True
        )

    def imports(self):
        code = "import time; t = time.perf_counter(); {0}; print(time.perf_counter() - t)"
        theirs = inside(self.mlflow_python, code.format("from mlflow.projects import run"), self.runs)
        ours = inside(sys.executable, code.format("import mlproj_core"), 4 * self.runs)
        self.row("import mlproj_core", ours, theirs, "from mlflow.projects import run", "goal: 50 times faster")
        ours = inside(sys.executable, code.format("from mlproj_core import run"), 4 * self.runs)
        self.row("from mlproj_core import run", ours, theirs, "the same of mlflow.projects", "")

    def noop_untracked(self):
        seconds = median_seconds(
            {
                "mlproj": ([self.mlproj, "run", str(self.noop), "--env-manager", "local"], {"MLPROJ_TRACKING": "off"}),
                "mlflow": ([self.mlflow, "run", str(self.noop), "--env-manager", "local"], {}),
            },
            self.runs,
        )
        self.row(
            "no-op project, command line, untracked",
            seconds["mlproj"],
            seconds["mlflow"],
            "mlflow run (sqlite store)",
            "goal: 30 times faster",
        )
        code = f"from {{}} import run; run({str(self.noop)!r}, env_manager='local')"
        seconds = median_seconds(
            {
                "mlproj": ([sys.executable, "-c", code.format("mlproj_core")], {"MLPROJ_TRACKING": "off"}),
                "mlflow": ([self.mlflow_python, "-c", code.format("mlflow.projects")], {}),
            },
            self.runs,
        )
        self.row(
            "no-op project, Python, untracked",
            seconds["mlproj"],
            seconds["mlflow"],
            "mlflow.projects.run (sqlite)",
            "goal: 30 times faster",
        )

    def noop_tracked(self):
        with self.server() as uri:
            variables = {"MLFLOW_TRACKING_URI": uri}
            seconds = median_seconds(
                {
                    "mlproj": ([self.mlproj, "run", str(self.noop), "--env-manager", "local"], variables),
                    "mlflow": ([self.mlflow, "run", str(self.noop), "--env-manager", "local"], variables),
                },
                self.runs,
            )
            self.row(
                "no-op project, command line, tracked",
                seconds["mlproj"],
                seconds["mlflow"],
                "mlflow run (same server)",
                "goal: 15 times faster",
            )
            code = (
                "import time, mlproj_core\n"
                "from mlproj_core.tracking import connect, NewRun\n"
                f"a = dict(uri={str(self.noop)!r}, env_manager='local', report=lambda line: None)\n"
                "mlproj_core.submit(**a).wait()\n"
                "t = time.perf_counter(); connect().create_run(NewRun(start_time=time.time()))\n"
                "call = time.perf_counter() - t\n"
                "t = time.perf_counter(); r = mlproj_core.submit(**a); whole = time.perf_counter() - t; r.wait()\n"
                "print(whole - call)\n"
            )
            extra = inside(sys.executable, code, 2 * self.runs, variables)
            self.row("submit beyond one tracking call", extra, 0.1, "(the goal)", "goal: at most 100 ms", " ")

    def environment_warm(self):
        run = [self.mlproj, "run", str(self.with_env), "--env-manager", "uv"]
        seconds = median_seconds(
            {
                "mlproj": (run, {"MLPROJ_TRACKING": "off"}),
                "mlflow": ([self.mlflow, "run", str(self.with_env), "--env-manager", "uv"], {}),
            },
            self.runs,
        )
        self.row("warm uv environment, fresh process", seconds["mlproj"], seconds["mlflow"], "mlflow run", "")
        code = (
            "import time, mlproj_core, subprocess\n"
            f"a = dict(uri={str(self.with_env)!r}, env_manager='uv', report=lambda line: None)\n"
            "mlproj_core.submit(**a).wait()\n"
            "t = time.perf_counter(); subprocess.run(['bash', '-c', 'true']); bare = time.perf_counter() - t\n"
            "t = time.perf_counter(); mlproj_core.submit(**a).wait(); print(time.perf_counter() - t - bare)\n"
        )
        extra = inside(sys.executable, code, 2 * self.runs, {"MLPROJ_TRACKING": "off"})
        self.row("warm start beyond bare bash -c", extra, 0.1, "(the goal)", "goal: at most 100 ms", " ")

    def environment_cold(self):
        def forget():
            for name in ("cache", "mlflow-envs", "bare"):
                shutil.rmtree(self.scratch / name, ignore_errors=True)

        bare = (
            f"uv venv -q --python {sys.executable} {self.scratch}/bare && "
            f"uv pip install -q --python {self.scratch}/bare/bin/python pip && "
            f"uv pip install -q --python {self.scratch}/bare/bin/python {PACKAGES}"
        )
        seconds = median_seconds(
            {
                "mlproj": (
                    [self.mlproj, "run", str(self.with_env), "--env-manager", "uv"],
                    {"MLPROJ_TRACKING": "off"},
                ),
                "bare": (["bash", "-c", bare], {}),
                "mlflow": ([self.mlflow, "run", str(self.with_env), "--env-manager", "uv"], {}),
            },
            self.runs,
            before=forget,
        )
        self.row("cold uv environment, whole run", seconds["mlproj"], seconds["mlflow"], "mlflow run", "")
        code = (
            "import mlproj_core\n"
            "from mlproj_core.backends.local import LocalBackend\n"
            f"run = mlproj_core.submit({str(self.with_env)!r}, env_manager='uv', report=lambda line: None)\n"
            "run.wait(); print(LocalBackend().look(run.handle).outcome.phases['environment'])\n"
        )
        values = []
        for _ in range(self.runs):
            forget()
            values.append(inside(sys.executable, code, 1, {"MLPROJ_TRACKING": "off"}))
        ours = statistics.median(values)
        ratio = f"{ours / seconds['bare']:.2f} of bare"
        self.row(
            "cold uv environment, its making", ours, seconds["bare"], "uv venv && uv pip install", "goal: 1.2", ratio
        )

    def supervisor_memory(self):
        code = (
            "import mlproj_core, os, re, time\n"
            "from pathlib import Path\n"
            "from mlproj_core.backends.local.directory import locate\n"
            f"run = mlproj_core.submit({str(self.sleeper())!r}, env_manager='local', report=lambda line: None)\n"
            "while not (d := locate(run.handle).read('supervisor.json')): time.sleep(0.01)\n"
            "time.sleep(0.3)\n"
            "status = Path(f\"/proc/{d['pid']}/status\").read_text(); run.cancel()\n"
            "print(re.search(r'VmRSS:\\s+(\\d+)', status)[1])\n"
        )
        ours = inside(sys.executable, code, self.runs, {"MLPROJ_TRACKING": "off"})
        bare = inside(
            sys.executable, "import re; print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])", 3
        )
        print(
            f"{'supervisor, resident while the project runs':<46} {ours / 1024:>9.1f} MB {bare / 1024:>9.1f} MB  "
            f"{'bare Python':<26} {'':<22} goal: under 15 MB"
        )

    def sleeper(self):
        project = self.scratch / "sleeper"
        project.mkdir(exist_ok=True)
        (project / "MLproject").write_text(MLPROJECT.replace("'true'", "sleep 60"))
        return project

    def server(self):
        bench = self

        class Server:
            def __enter__(self):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = probe.getsockname()[1]
                store = f"sqlite:///{bench.scratch}/server.db"
                command = [bench.mlflow, "server", "--port", str(port), "--backend-store-uri", store, "--workers", "1"]
                command += ["--artifacts-destination", str(bench.scratch / "artifacts")]
                self.process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
                )
                uri = f"http://127.0.0.1:{port}"
                for _ in range(600):
                    try:
                        urllib.request.urlopen(f"{uri}/health")
                        return uri
                    except OSError:
                        time.sleep(0.1)
                sys.exit("the mlflow server did not start")

            def __exit__(self, *_):
                os.killpg(self.process.pid, 15)
                self.process.wait()

        return Server()


PARTS = ("imports", "noop_untracked", "noop_tracked", "environment_warm", "environment_cold", "supervisor_memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlflow", metavar="PYTHON", required=True, help="an interpreter that has mlflow")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    print(f"{'':<46} {'mlproj':>12} {'peer':>12}")
    with tempfile.TemporaryDirectory(prefix="mlproj-bench-") as scratch:
        bench = Bench(arguments, Path(scratch))
        for part in arguments.only:
            getattr(bench, part)()
        os.chdir("/")


if __name__ == "__main__":
    main()
