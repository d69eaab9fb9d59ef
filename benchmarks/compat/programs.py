"""The two programs, and one run of a project by either of them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from corpus import Case
from results import IDS, Left, files_of, runs_of

OTHER_MANAGERS = {
    "mlflow": {"conda": ("virtualenv", "uv"), "python": ("uv",)},
    "mlproj": {"conda": ("uv",), "python": ("uv",)},
}
"""The environment managers that are tried, one after the other, while none could run the project's command."""

TELLING = re.compile(r"error|exception|not found|no such|could not|cannot|failed|^Command: ", re.IGNORECASE)


EMPTY = re.compile(
    r"^raise |^File |Non-zero exit code|Run \(ID '\w+'\) failed|Traceback \(most recent|^\[mlproj\] FAILED"
)
"""Lines that say that something failed, but not what."""


STARTED = re.compile(r"=== Running command|\(project_code;")
"""What the programs say once the project's command was run: mlflow before it, mlproj of its failure."""


@dataclass(frozen=True)
class Attempt:
    """How one run of one project ended.

    Attributes:
        manager: the `--env-manager` that was named, or nothing.
        code: the exit status; None if the time limit ended it.
        seconds: wall time of the whole command.
        message: what its output says of why it failed.
        started: whether the project's own command was run.
        left: what it left on the tracking server and in the project's directory.
    """

    manager: str | None
    code: int | None
    seconds: float
    message: str
    started: bool
    left: Left

    @property
    def finished(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        how = "ok" if self.finished else "time limit" if self.code is None else f"exit {self.code}"
        named = f"`--env-manager {self.manager}`: " if self.manager else ""
        return f"{named}{how}, {self.seconds:.1f} s" + (f": {self.message}" if self.message else "")


@dataclass
class Program:
    """A program under test, with caches of its own that are empty when the table begins.

    Each project gets an environment of its own making; only what an installer downloads is kept from one to the next.
    """

    name: str
    python: str
    scratch: Path
    server: str
    time_limit: float
    logs: Path | None = None
    homes: Path = field(init=False)

    def __post_init__(self) -> None:
        self.homes = self.scratch / self.name
        for name in ("home", "tmp"):
            (self.homes / name).mkdir(parents=True)

    def variables(self, case: Case) -> dict[str, str]:
        foreign = re.compile(r"^(MLFLOW_|MLPROJ_|CONDA_|VIRTUAL_ENV|PYTHON|UV_CACHE|XDG_)")
        inherited = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        return {
            **inherited,
            "PATH": f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.homes / "home"),
            "TMPDIR": str(self.homes / "tmp"),
            "PIP_CACHE_DIR": str(self.homes / "pip"),
            "PIP_COMPILE": "0",  # nor does uv
            "UV_CACHE_DIR": str(self.homes / "uv"),
            "MLFLOW_ENV_ROOT": str(self.homes / "envs"),
            "MLPROJ_CACHE_DIR": str(self.homes / "envs"),
            "MLPROJ_STATE_DIR": str(self.homes / "state"),
            "MLFLOW_TRACKING_URI": self.server,
            **case.variables,
        }

    def run(self, case: Case, work: Path, manager: str | None = None) -> Attempt:
        """Run a project in a copy of it at `work`, which is removed again, and so is its environment."""
        experiment = f"{case.name} {self.name} {manager or 'default'}"
        command = [str(Path(self.python).with_name(self.name)), "run"]
        command += [f".#{case.subdirectory}" if case.subdirectory else ".", "--experiment-name", experiment]
        command += ["-e", case.entry_point] if case.entry_point != "main" else []
        command += ["--env-manager", manager] if manager else []
        for name, value in case.parameters.items():
            command += ["-P", f"{name}={value}"]
        case.copy_to(work)
        before = files_of(work)
        try:
            code, seconds, said = self.ended(command, work, self.variables(case))
            after = files_of(work)
            if self.logs:
                log = self.logs / f"{experiment.replace('/', '-').replace(' ', '.')}.log"
                log.write_text(f"{shlex.join(command)}\n\n{said}")
        finally:
            shutil.rmtree(work)
            self.forget_environments()
        made = {name: text for name, text in after.items() if before.get(name) != text}
        message = "" if code == 0 or code is None else self.why(said)
        return Attempt(
            manager, code, seconds, message, bool(STARTED.search(said)), Left(runs_of(self.server, experiment), made)
        )

    def forget_environments(self) -> None:
        """Remove all environments, but not what mlflow lets pip keep beside them."""
        for path in (self.homes / "envs").glob("*"):
            if path.name != "pip_cache_pkgs":
                shutil.rmtree(path, ignore_errors=True)

    def ended(self, command: list[str], work: Path, variables: dict[str, str]) -> tuple[int | None, float, str]:
        """The exit status, seconds and output of a command; after the time limit its processes are ended."""
        began = time.monotonic()
        with (self.homes / "said").open("w+") as said:
            process = subprocess.Popen(
                command,
                cwd=work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code: int | None
            try:
                code = process.wait(self.time_limit)
            except subprocess.TimeoutExpired:
                code = None
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            seconds = time.monotonic() - began
            said.seek(0)
            return code, seconds, said.read()

    def why(self, said: str) -> str:
        """What the program gives as its error; else the last line that sounds like one and says more than "failed"."""
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in said.splitlines()]
        lines = [line for line in lines if line]
        error = next((number for number, line in enumerate(lines) if line.startswith("mlproj: error:")), None)
        told = [line for line in lines if not EMPTY.search(line)]
        named = [line for line in told if "ERROR mlflow.cli: ===" in line or re.match(r"(ERROR|error): ", line)]
        telling = [line for line in told if TELLING.search(line)] or [line for line in lines if TELLING.search(line)]
        if error is not None:
            line = " ".join(lines[error:])
        else:
            line = (named or telling or lines or [""])[-1]
            if line.endswith(":"):  # what follows says it
                line = next(filter(TELLING.search, lines[lines.index(line) + 1 :]), line)
        line = re.sub(r".*ERROR mlflow\.cli: ===|\. .*===$|===$|^mlproj: error:", "", line).strip()
        line = IDS.sub("<id>", line)
        for path, short in ((str(self.homes), f"<{self.name}>"), (str(self.scratch), "<scratch>")):
            line = line.replace(path, short)
        return line if len(line) <= 160 else line[:157] + "..."


def version_of(python: str, distribution: str) -> str:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if asked.returncode:
        raise SystemExit(f"{python} has no {distribution}: {asked.stderr.splitlines()[-1]}")
    return asked.stdout.strip()


@contextlib.contextmanager
def tracking_server(python: str, scratch: Path) -> Iterator[str]:
    """A tracking server of mlflow's on a free port of this host, which both programs record into."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    (scratch / "server").mkdir()
    options = ["--workers", "1", "--backend-store-uri", f"sqlite:///{scratch}/server/mlflow.db"]
    options += ["--artifacts-destination", f"{scratch}/server/artifacts", "--host", "127.0.0.1", "--port", str(port)]
    with (scratch / "server" / "log").open("w") as log:
        process = subprocess.Popen(
            [python, "-m", "mlflow", "server", *options],
            cwd=scratch / "server",
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            if process.poll() is not None:
                raise SystemExit(f"the tracking server ended: {(scratch / 'server' / 'log').read_text()[-1000:]}")
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
