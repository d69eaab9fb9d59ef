"""What an environment costs, cold and warm, against `mlflow run` with the same manager, in one call.

    python benchmarks/environments.py --mlflow PYTHON [--runs 3] [--packages NAME ...] [--only NAME ...]

PYTHON is an interpreter whose environment has mlflow. Its manager virtualenv needs the program pyenv on PATH, with the
version of the Python that runs this benchmark installed; its manager uv is given the uv of mlproj's environment.

Every figure is the median of whole runs of a project that does nothing, taken in turns (A B A B ...), both sides from
the installers' caches, so that neither times the network. Cold: the environment is made for this run. Warm: it is
there. mlproj's runs are not tracked here, mlflow's go to a local store. Of a warm run most is what the two programs
cost by themselves, so the last line of each manager leaves that out: what the making of the environment adds. Ratios
are mlflow's time over mlproj's. Nothing here is a test: it prints.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from spine import median_seconds

MLPROJECT = "name: noop\npython_env: python_env.yaml\nentry_points:\n  main:\n    command: 'true'\n"
PYTHON_ENV = "python: '{python}'\nbuild_dependencies: [pip]\ndependencies: [{packages}]\n"


class Bench:
    def __init__(self, arguments, scratch):
        self.runs, self.scratch = arguments.runs, scratch
        self.mlflow = str(Path(arguments.mlflow).with_name("mlflow"))
        self.mlproj = str(Path(sys.executable).with_name("mlproj"))
        self.project = scratch / "project"
        self.project.mkdir()
        (self.project / "MLproject").write_text(MLPROJECT)
        # In full: of "3.11" mlflow would have pyenv install the newest release.
        packages = ", ".join(arguments.packages)
        (self.project / "python_env.yaml").write_text(
            PYTHON_ENV.format(python=platform.python_version(), packages=packages)
        )
        (scratch / "cwd").mkdir()
        os.chdir(scratch / "cwd")
        # Compiled files are what an installation has; without them each side would time the compiler.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.update(
            MLPROJ_STATE_DIR=str(scratch / "state"),
            MLPROJ_CACHE_DIR=str(scratch / "cache"),
            MLFLOW_ENV_ROOT=str(scratch / "mlflow-envs"),
            MLFLOW_DISABLE_TELEMETRY="true",
            PATH=f"{Path(self.mlflow).parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )

    def forget(self):
        """Remove every environment that either side made; the installers' caches stay."""
        for name in ("cache", "mlflow-envs"):
            shutil.rmtree(self.scratch / name, ignore_errors=True)

    def compare(self, manager):
        if manager == "virtualenv" and shutil.which("pyenv") is None:
            sys.exit("mlflow's manager virtualenv needs the program pyenv on PATH")
        run = ["run", str(self.project), "--env-manager", manager]
        commands = {"mlproj": ([self.mlproj, *run], {"MLPROJ_TRACKING": "off"}), "mlflow": ([self.mlflow, *run], {})}
        cold = median_seconds(commands, self.runs, before=self.forget)
        warm = median_seconds(commands, self.runs)
        self.row(f"{manager}, cold", cold["mlproj"], cold["mlflow"])
        self.row(f"{manager}, warm", warm["mlproj"], warm["mlflow"])
        self.row(f"{manager}, what its making adds", cold["mlproj"] - warm["mlproj"], cold["mlflow"] - warm["mlflow"])

    def row(self, what, mlproj, mlflow):
        print(f"{what:<34} {mlproj:>10.2f} s {mlflow:>10.2f} s   {mlflow / mlproj:>6.1f} times faster", flush=True)

    def virtualenv(self):
        self.compare("virtualenv")

    def uv(self):
        self.compare("uv")


PARTS = ("virtualenv", "uv")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlflow", metavar="PYTHON", required=True, help="an interpreter that has mlflow")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--packages", nargs="+", default=["numpy", "pandas", "scikit-learn"])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    print(f"{'':<34} {'mlproj':>12} {'mlflow run':>12}")
    with tempfile.TemporaryDirectory(prefix="mlproj-bench-") as scratch:
        bench = Bench(arguments, Path(scratch))
        for part in arguments.only:
            getattr(bench, part)()
        os.chdir("/")


if __name__ == "__main__":
    main()
