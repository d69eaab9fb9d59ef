"""Run steps of the example project against a real MLflow server: one by one, by a real Airflow, by a real Prefect.

It shows what they left there. Everything it makes stands in `.demo/`. `make demo` calls it; with `--serve` it only
starts the server again, so that the pages of earlier runs can be opened.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_airflow import Airflow
from demo_prefect import Prefect
from rich.console import Console
from rich.table import Table
from uv import find_uv_bin

from mlproj_core import MlprojError, RunResult, run

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "example_flows"
PROJECT = EXAMPLES / "projects" / "wine_quality"
DEMO = ROOT / ".demo"
SERVER_PATIENCE = 120
"""Seconds in which the server must answer; its first start makes the tables of its database."""

console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Step:
    """One step of the demo that ran.

    Attributes:
        name: the entry point.
        result: what the run left.
        seconds: how long it took, from the call of `run` to its return.
    """

    name: str
    result: RunResult
    seconds: float


def main() -> None:
    """Run the demo, or only its server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="only start the server, until interrupted")
    serve_only = parser.parse_args().serve
    started = float(os.environ.pop("DEMO_STARTED", time.time()))
    stand_alone()
    # So that a terminated demo ends its server too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))

    first_time = make_environment("mlflow", "mlflow")
    before_server = time.time()
    with tracking_server() as uri:
        if serve_only:
            console.print(f"MLflow is at [bold]{uri}[/bold]; Ctrl-C ends it.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            return
        console.print(f"MLflow server at {uri} (started in {time.time() - before_server:.1f} s)\n")
        set_up = time.time() - started
        try:
            show(run_pipeline(uri), set_up)
            first_time |= run_dag(uri)
            first_time |= run_flow(uri)
        except MlprojError as error:
            console.print(str(error), style="bold red", markup=False, highlight=False)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:  # `run` has cancelled its run, and said so
            sys.exit(130)
        console.print("The server ends now. To open these pages: [bold]make demo-server[/bold]")
        note = "the next call reuses every environment" if first_time else "every environment was there already"
        console.print(f"{time.time() - started:.0f} s in all; {note}.")


def run_pipeline(tracking_uri: str) -> list[Step]:
    """Prepare, train, evaluate, register: each step a run of its own that hands its work to the next."""
    steps: list[Step] = []

    def step(name: str, **parameters: Any) -> Mapping[str, Any]:
        console.rule(f"[bold]{name}[/bold]", align="left")
        before = time.monotonic()
        submitted = run(
            str(PROJECT),
            name,
            parameters=parameters,
            experiment_name="wine_quality",
            run_name=name,
            tracking_uri=tracking_uri,
            report=lambda line: console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True),
        )
        result = submitted.result()
        steps.append(Step(name, result, time.monotonic() - before))
        return result.result or {}

    data = step("prepare", test_fraction=0.3)["data_uri"]
    model = step("train", data_uri=data, penalty=0.5)["model_uri"]
    evaluation = step("evaluate", data_uri=data, model_uri=model)["run_id"]
    step("register", model_uri=model, evaluation_run_id=evaluation)
    return steps


def show(steps: list[Step], set_up: float) -> None:
    """Show each step's status, metrics, seconds and page; before them there were `set_up` seconds."""
    table = Table(title="The four runs", title_justify="left", show_lines=True)
    table.add_column("Step")
    table.add_column("Status")
    table.add_column("Seconds", justify="right")
    table.add_column("Metrics")
    table.add_column("Run page", overflow="fold")
    for step in steps:
        metrics = "\n".join(f"{name} = {value:.4g}" for name, value in sorted(step.result.metrics.items()))
        url = step.result.tracking_url or ""
        table.add_row(step.name, str(step.result.status), f"{step.seconds:.1f}", metrics, f"[link={url}]{url}[/link]")
    console.print()
    console.print(table)
    registered = steps[-1].result.result or {}
    place = "the champion" if registered["champion"] else "not better than the champion"
    console.print(f"Registered: version {registered['version']} of the model {registered['model']}, {place}.")
    running = sum(step.seconds for step in steps)
    console.print(f"{set_up:.0f} s of set-up, {running:.0f} s for the four runs.\n")


def run_dag(tracking_uri: str) -> bool:
    """Run the example DAG by an Airflow of the demo's own. Whether its environment was new."""
    console.rule("[bold]a DAG of Airflow[/bold]", align="left")
    started = time.monotonic()
    pyproject = ROOT / "pyproject.toml"  # has the entry points by which Airflow finds mlproj
    requirements = ("apache-airflow", "apache-airflow-providers-standard", "--editable", str(ROOT))
    is_new = make_environment("airflow", *requirements, basis=pyproject)
    python = DEMO / "airflow" / "bin" / "python"
    airflow = Airflow(python, DEMO / "airflow-home", EXAMPLES, DEMO / "airflow.log", console)
    airflow.migrate((ROOT / "constraints" / "airflow.txt").read_bytes())
    set_up = time.monotonic() - started
    airflow.run(tracking_uri)
    running = time.monotonic() - started - set_up
    console.print(f"{set_up:.0f} s of set-up, {running:.0f} s for the DAG; Airflow's log is {airflow.log}.\n")
    return is_new


def run_flow(tracking_uri: str) -> bool:
    """Run the example flow beside a Prefect server of the demo's own. Whether its environment was new."""
    console.rule("[bold]a flow of Prefect[/bold]", align="left")
    started = time.monotonic()
    is_new = make_environment("prefect", "prefect", "--editable", f"{ROOT}[prefect]", basis=ROOT / "pyproject.toml")
    python = DEMO / "prefect" / "bin" / "python"
    prefect = Prefect(python, DEMO / "prefect-home", EXAMPLES, DEMO / "prefect.log", console)
    with prefect.serving():
        set_up = time.monotonic() - started
        prefect.run(tracking_uri)
    running = time.monotonic() - started - set_up
    console.print(f"{set_up:.0f} s of set-up, {running:.0f} s for the flow; Prefect's log is {prefect.log}.\n")
    return is_new


def stand_alone() -> None:
    """Keep the caller's tracking, caches, proxies, Airflow and Prefect out of the demo."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "MLPROJ_", "AIRFLOW_", "_AIRFLOW_", "PREFECT_")):
            del os.environ[name]
    # The environments are the demo's own: compiled modules kept there make the second call faster.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["MLPROJ_CACHE_DIR"] = str(DEMO / "cache")
    os.environ["MLPROJ_STATE_DIR"] = str(DEMO / "state")
    os.environ["MLPROJ_ENV_MANAGER"] = "uv"  # makes the project's environment in a fraction of virtualenv's time
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, ["127.0.0.1", os.environ.get(name)]))


def make_environment(name: str, *requirements: str, basis: Path | None = None) -> bool:
    """Install what mlproj does not need beside it, in `.demo/NAME`. Whether it was new.

    Args:
        name: of the environment, and of its file in `constraints/`.
        requirements: what to install, as pip takes it.
        basis: another file that makes it new when it changes.
    """
    directory, constraints = DEMO / name, ROOT / "constraints" / f"{name}.txt"
    ready = directory / "ready"
    version = b"".join(file.read_bytes() for file in (constraints, basis) if file)
    if ready.exists() and ready.read_bytes() == version:
        return False
    uv = find_uv_bin()
    with console.status(f"Installing {requirements[0]} …"):
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", directory, "--constraint", constraints, *requirements],
            check=True,
        )
    ready.write_bytes(version)
    return True


@contextlib.contextmanager
def tracking_server() -> Iterator[str]:
    """A real MLflow server on this host's loopback, its data in `.demo/`; ended with all its processes."""
    port = choose_port()
    uri = f"http://127.0.0.1:{port}"
    log = DEMO / "server.log"
    command = [
        str(DEMO / "mlflow" / "bin" / "python"),
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{DEMO / 'mlflow.db'}"),
        *("--artifacts-destination", str(DEMO / "artifacts")),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with console.status("Starting the MLflow server …"):
            await_health(server, uri, log)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def await_health(server: subprocess.Popen[bytes], uri: str, log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + SERVER_PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310 (our own server)
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The MLflow server did not start; its log is {log}:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)


def choose_port() -> int:
    """The port of earlier calls if it is free, so that the addresses of their pages stay true; else a new one."""
    kept = DEMO / "port"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", int(kept.read_text())))
        except (OSError, ValueError):
            listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    kept.write_text(str(port))
    return port


if __name__ == "__main__":
    main()
