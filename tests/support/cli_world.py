"""The program `mlproj` in a world of its own: its state, its caches, small projects, a terminal."""

import errno
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from mlproj_core import protocol
from mlproj_core.backends.local import LocalBackend

PROGRAM = str(Path(sys.executable).with_name("mlproj"))


class CommandLine:
    """Runs the real program, untracked and with the host's environment unless a test asks for something else."""

    def __init__(self, directory):
        self.directory = directory
        self.state = directory / "state"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "MLPROJ"))}
        self.environment = {
            **kept,
            "MLPROJ_STATE_DIR": str(self.state),
            "MLPROJ_CACHE_DIR": str(directory / "cache"),
            "MLPROJ_TRACKING": "off",
            "MLPROJ_ENV_MANAGER": "local",
            # Compiled once for all tests of a session, as an installation is; many machines for tests forbid it.
            "PYTHONPYCACHEPREFIX": str(directory.parent / "bytecode"),
        }
        for name in ("NO_COLOR", "PYTHONDONTWRITEBYTECODE", "TERM", "COLUMNS"):
            self.environment.pop(name, None)
        self.processes = []
        self.projects = 0

    def project(self, command, parameters="", **files):
        """The directory of a project whose main entry point is a shell script."""
        self.projects += 1
        project = self.directory / f"project-{self.projects}"
        project.mkdir()
        (project / "main.sh").write_text(command + "\n")
        (project / "MLproject").write_text(
            f"name: example\nentry_points:\n  main:\n{parameters}    command: bash main.sh\n"
        )
        for name, text in files.items():
            (project / name).write_text(text)
        return str(project)

    def __call__(self, *arguments, input=None, **variables):
        """Run the program to its end; what it printed, as text."""
        return subprocess.run(
            [PROGRAM, *arguments],
            input=input, capture_output=True, text=True, timeout=60, env={**self.environment, **variables},
        )  # fmt: skip

    def start(self, *arguments, **options):
        """Start the program in a session of its own, so that a signal to its group reaches nobody else."""
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True, **options},
            env=self.environment,
        )
        self.processes.append(process)
        return process

    def submit(self, command, *arguments, **files):
        """Submit a new project; its handle as JSON text."""
        done = self("submit", self.project(command, **files), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self, run):
        """All that `mlproj status --json` says of a run."""
        done = self("status", run, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def runs(self):
        """All that `mlproj runs list --json` says."""
        return json.loads(self("runs", "list", "--json").stdout)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        backend = LocalBackend(self.state)
        for handle in backend.handles():
            if backend.look(handle).outcome is None:
                protocol.cancel(backend, handle, print)


class Terminal:
    """The program on a terminal, and all that the terminal was sent."""

    def __init__(self, environment, *arguments):
        self.sent = b""
        master, slave = pty.openpty()
        self.master = master
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=slave, stdout=slave, stderr=slave,
            env={"TERM": "xterm", "COLUMNS": "100", **environment}, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def until(self, text, seconds=20.0):
        """Read until a text has come."""
        end = time.monotonic() + seconds
        while text not in self.sent:
            assert time.monotonic() < end, f"{text!r} did not come; what came is {self.sent!r}"
            assert self._read(0.2) or self.process.poll() is None, f"it ended without {text!r}: {self.sent!r}"

    def end(self):
        """Read to the end; the exit status."""
        while self._read(0.2) or self.process.poll() is None:
            pass
        os.close(self.master)
        return self.process.wait()

    def _read(self, patience):
        if not select.select([self.master], [], [], patience)[0]:
            return b""
        try:
            data = os.read(self.master, 65536)
        except OSError as error:  # what Linux says of a terminal that nobody has open any more
            if error.errno != errno.EIO:
                raise
            data = b""
        self.sent += data
        return data
