"""What a run in a container costs beyond `docker run`, against `mlflow run` of the same project.

    nox -s benchmark_containers                # makes the environments and calls this, as root
    python benchmarks/containers.py --mlflow PYTHON [--runs 7]

It starts a Docker engine of its own with an image of busybox and bash. Every figure is the median of whole processes,
taken in turns, so that a machine that gets slower slows all. Nothing here is a test: it prints, and whoever reads it
judges.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from docker_world import SHELL, standard_engine

MLPROJECT = f"""\
name: noop
docker_env:
  image: {SHELL}
entry_points:
  main:
    command: bash -c true
"""


def timed(command, variables):
    began = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    elapsed = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"failed: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return elapsed


def docker(arguments, scratch):
    """`mlproj run` of a no-op project in a container, `docker run` of the same, `mlflow run` of the same project."""
    engine = standard_engine(scratch / "e")
    try:
        project = scratch / "noop"
        project.mkdir()
        (project / "MLproject").write_text(MLPROJECT)
        (scratch / "cwd").mkdir()
        os.chdir(scratch / "cwd")
        binaries = f"{Path(arguments.mlflow).parent}{os.pathsep}{Path(sys.executable).parent}"
        variables = {
            "DOCKER_HOST": engine.host,
            "MLPROJ_STATE_DIR": str(scratch / "state"),
            "MLPROJ_CACHE_DIR": str(scratch / "cache"),
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        }
        code = "/mlflow/projects/code"
        commands = {
            "docker": ["docker", "run", "--rm", "-v", f"{project}:{code}", "-w", code, SHELL, "bash", "-c", "true"],
            "mlproj": [str(Path(sys.executable).with_name("mlproj")), "run", str(project)],
            "mlflow": [str(Path(arguments.mlflow).with_name("mlflow")), "run", str(project)],
        }
        untracked = {"mlproj": {"MLPROJ_TRACKING": "off"}}
        seconds = {name: [] for name in commands}
        for turn in range(arguments.runs + 1):
            for name, command in commands.items():
                elapsed = timed(command, {**variables, **untracked.get(name, {})})
                if turn:  # the first turn warms the disk's cache
                    seconds[name].append(elapsed)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        ours, theirs = (median[name] - median["docker"] for name in ("mlproj", "mlflow"))
        print(f"docker run of the image and command       {median['docker'] * 1e3:7.0f} ms")
        print(f"mlproj run of the project, untracked      {median['mlproj'] * 1e3:7.0f} ms, {ours * 1e3:.0f} ms more"
              " (goal: 300 ms at most)")  # fmt: skip
        print(f"mlflow run of the project, sqlite store   {median['mlflow'] * 1e3:7.0f} ms, {theirs * 1e3:.0f} ms more;"
              f" {theirs / ours:.1f} times mlproj's overhead (goal: 5)")  # fmt: skip
    finally:
        engine.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mlflow", required=True, metavar="PYTHON", help="an interpreter that has mlflow")
    parser.add_argument("--runs", type=int, default=7, help="how often each is run")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="mlproj-"))
    try:
        docker(arguments, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
