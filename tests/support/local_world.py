"""The local backend's world: a state directory of its own, and its survivors by /proc."""

import os
import shutil
import signal
from pathlib import Path

from protocol_suite import World, until

from mlproj_core.backends.local.directory import locate
from mlproj_core.handle import key_digest

STUBBORN = """
trap '' TERM
(trap '' TERM; setsid sleep 1000) &
setsid bash -c 'trap "" TERM; sleep 1000 & wait; sleep 1000' &
(exec -a daemon setsid setsid sleep 1000 </dev/null >/dev/null 2>&1 &)
touch "$STUBBORN_MARKER"
sleep 1000 & wait; sleep 1000
"""
"""A project that ignores TERM, and has grandchildren that do so in sessions of their own."""


class LocalWorld(World):
    backend = "local"
    backend_config = {"grace": 0.5}

    def __init__(self, directory):
        super().__init__(directory)
        self.state = directory / "state"
        os.environ["STUBBORN_MARKER"] = str(directory / "stubborn")

    def project_is_stubborn(self):
        self.project_runs(STUBBORN)

    def stubborn_project_is_up(self):
        until(lambda: (self.directory / "stubborn").exists())

    def survivors(self):
        """Pids and commands of processes that carry the mark of one of this world's runs, or guard its state."""
        left = []
        for entry in Path("/proc").iterdir():
            try:
                environ = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0] if environ else "Z"
            except OSError:
                continue
            if f"MLPROJ_RESULT={self.state}".encode() in environ and state != "Z":
                left.append((int(entry.name), (entry / "cmdline").read_bytes()))
        return left

    def supervisor(self, handle):
        return until(lambda: locate(handle).read("supervisor.json"))["pid"]

    def kill_supervisor(self, handle):
        os.kill(self.supervisor(handle), signal.SIGKILL)

    def forget(self, handle):
        shutil.rmtree(self.state / "runs" / key_digest(handle.key) / str(handle.attempt))

    def close(self):
        super().close()
        while left := self.survivors():
            for pid, _ in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
