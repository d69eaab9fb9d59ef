"""What the activation of a conda environment adds to a warm start, in one call.

    python benchmarks/conda_activation.py [--turns 200] [--runs 15]

Its environments are made on the spot of packages that it makes as well, so that no network is needed. The first table
is about the start of the command alone, as a run's supervisor does it: `bash -c true` by itself, in an environment of
uv, in one of conda without scripts, and in one with two scripts and three variables. The last is about whole runs:
`mlproj run` of a project that does nothing. Figures are medians in milliseconds, taken in turns (A B C A B C ...), so
that a machine that gets slower slows all. Nothing here is a test: it prints, and whoever reads it judges.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "tests" / "support")

from conda_world import MINOR, make_channel  # noqa: E402

from mlproj_core.backends.local.supervisor import ACTIVATED  # noqa: E402
from mlproj_core.environments import environment_manager  # noqa: E402
from mlproj_core.spec import load_project  # noqa: E402

MLPROJECT = "{key}: {file}\nentry_points:\n  main:\n    command: 'true'\n"
PROJECTS = {
    "uv": ("python_env", f"python: '{MINOR}'\n"),
    "conda": ("conda_env", "channels: [{channel}, nodefaults]\ndependencies: ['python={minor}']\n"),
    "conda, with scripts": (
        "conda_env",
        "channels: [{channel}, nodefaults]\ndependencies: ['python={minor}', activated]\nvariables: {{A: b}}\n",
    ),
}


def make_projects(scratch):
    """The projects and their environments, made now; each with its manager."""
    channel = make_channel(scratch / "channel")
    made = {}
    for name, (key, text) in PROJECTS.items():
        folder = scratch / name.replace(", ", "-").replace(" ", "-")
        folder.mkdir()
        file = f"{key}.yaml"
        (folder / "MLproject").write_text(MLPROJECT.format(key=key, file=file))
        (folder / file).write_text(text.format(channel=channel, minor=MINOR) if "{" in text else text)
        manager = name.partition(",")[0]
        spec = load_project(folder).environment
        made[name] = (folder, manager, environment_manager(manager).ensure(spec, folder, lambda line: None))
    return made


def start(environment):
    """The command line and the variables that a supervisor would start `true` with."""
    variables = dict(os.environ)
    if environment is None:
        return ["bash", "-c", "true"], variables
    for name in environment.unset:
        variables.pop(name, None)
    variables.update(environment.variables)
    variables["PATH"] = os.pathsep.join([*environment.path_prefix, variables["PATH"]])
    if environment.activation is None:
        return ["bash", "-c", "true"], variables
    return ["bash", "-c", ACTIVATED, str(environment.activation), "true"], variables


def medians(commands, turns):
    """The median milliseconds of each command, run in turns."""
    spent = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, (command, variables) in commands.items():
            began = time.perf_counter()
            subprocess.run(command, env=variables, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if turn:  # the first turn warms the disk's cache
                spent[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(values) for name, values in spent.items()}


def show(title, found, base):
    print(f"\n{title}")
    for name, milliseconds in found.items():
        more = milliseconds - found[base]
        print(f"  {name:22}{milliseconds:9.2f} ms {more:+9.2f} ms {milliseconds / found[base]:8.2f} x {base}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=200, help="starts of each command")
    parser.add_argument("--runs", type=int, default=15, help="whole runs of each project")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="mlproj-bench-") as folder:
        scratch = Path(folder)
        os.environ.update(
            MLPROJ_CACHE_DIR=str(scratch / "cache"), MLPROJ_STATE_DIR=str(scratch / "state"), MLPROJ_TRACKING="off"
        )
        made = make_projects(scratch)
        starts = {"bare bash": start(None), **{name: start(one) for name, (_, _, one) in made.items()}}
        show("The start of the command", medians(starts, arguments.turns), "bare bash")
        spent = {}
        for name, (folder, manager, _) in made.items():
            spec, found = load_project(folder).environment, environment_manager(manager)
            times = []
            for _ in range(arguments.turns):
                began = time.perf_counter()
                found.find(spec, folder)
                times.append((time.perf_counter() - began) * 1000)
            spent[name] = statistics.median(times)
        show("Finding the ready environment", spent, "uv")
        program = str(Path(sys.executable).with_name("mlproj"))
        runs = {
            name: ([program, "run", str(folder), "--env-manager", manager], dict(os.environ))
            for name, (folder, manager, _) in made.items()
        }
        show("A whole run (`mlproj run`)", medians(runs, arguments.runs), "uv")


if __name__ == "__main__":
    main()
