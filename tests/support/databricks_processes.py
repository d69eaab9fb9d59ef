"""Clusters that are processes of this host: what is submitted really runs, by its own task file, without an engine.

There is no /Volumes, /Workspace or /dbfs here, so that the paths in a task's arguments are put right first.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from databricks_docker import DRIVER
from databricks_run import CANCELLED, SUCCESS, workload_failed
from processes import belonging

from mlproj_core.backends.databricks.task import pack, unpack

HOST = """
import json, sys
sys.path.insert(0, {driver!r})
import driver
end = driver.main(sys.argv[1], sys.argv[2:])
sys.stdout.flush()
sys.stderr.flush()
with open({told!r}, "w") as file:
    json.dump(end, file)
"""


class ProcessRuntime:
    """Runs tasks as processes.

    Args:
        directory: of the host, for what they need.
    """

    workspace = None

    def __init__(self, directory):
        self.directory = Path(directory)
        self.marks = set()

    def run(self, job):
        """Returns: the task's `Ending`."""
        directory = self.directory / str(job.task.run_id)
        (directory / "tmp").mkdir(parents=True)
        told = directory / "end.json"
        variables = {name: self.workspace.secrets.resolve(text) for name, text in job.variables.items()}
        arguments, mark = self._arguments(job)
        environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "TMPDIR": str(directory / "tmp"), **variables}
        self.marks.add(mark)
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", HOST.format(driver=str(DRIVER), told=str(told)), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=directory, env=environ,
            start_new_session=True,
        )  # fmt: skip
        with process.stdout:
            os.set_blocking(process.stdout.fileno(), False)
            while process.poll() is None and not job.stopping.wait(0.02):
                self._read(process, job)
            if job.stopping.is_set():  # a cluster that is ended leaves nobody the time to say anything
                process.kill()
            process.wait()
            self._end(mark)
            self._read(process, job)
        if job.stopping.is_set():
            return CANCELLED
        end = json.loads(told.read_text())
        return SUCCESS if not end else workload_failed(end["error"], end["trace"])

    def survivors(self):
        """The pids of what runs of any task."""
        return [pid for mark in self.marks for pid in belonging(mark, set())]

    def stop(self):
        """End what is left."""
        for mark in self.marks:
            self._end(mark)

    # -- inside

    def _read(self, process, job):
        with contextlib.suppress(BlockingIOError):
            while data := os.read(process.stdout.fileno(), 1 << 16):
                job.write(data)

    def _end(self, mark):
        while pids := belonging(mark, set()):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _arguments(self, job):
        """The task's file and arguments, with paths of this host; and the variable that all its processes have."""
        arguments = list(job.python["parameters"])
        at = arguments.index("--plan") + 1
        text = arguments[at]
        plan = unpack(self._here(text[1:]).read_text() if text.startswith("@") else text)
        mark = f"MLPROJ_ATTEMPT={plan['variables']['MLPROJ_ATTEMPT']}"
        arguments[at] = pack({**plan, "code": str(self._here(plan["code"]))})
        return [str(self._here(job.python["python_file"])), *arguments], mark

    def _here(self, path):
        for prefix, directory in (
            ("/Volumes", self.workspace.volumes.directory),
            ("/Workspace", self.workspace.objects.directory),
            ("dbfs:", self.workspace.dbfs.directory),
        ):
            if path.startswith(f"{prefix}/"):
                return Path(directory, path.removeprefix(f"{prefix}/"))
        raise AssertionError(f"a path of no part of the workspace: {path}")
