"""Containers that are processes of this host, for projects that the launcher runs: as quick as a pod can be."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from kubernetes_configuration import environment, volume_files
from kubernetes_runtime import Ended, ScriptedRuntime, full_image_name


class ProcessRuntime(ScriptedRuntime):
    """Runs the launcher of a pod as a process, with the files of the pod's Secret; all else follows scripts.

    Args:
        directory: where the files of pods go.
    """

    def __init__(self, directory):
        super().__init__()
        self._directory = Path(directory)

    def create(self, pod, container, log):
        """Raises: ConfigProblem, MountProblem."""
        variables = environment(self.store, pod, container)
        files = {}
        for volume in pod["spec"].get("volumes", ()):
            if "secret" in volume:
                files |= volume_files(self.store, pod, volume, {})
        if "plan.json" not in files:
            return super().create(pod, container, log)
        place = self._directory / pod["metadata"]["uid"]
        place.mkdir(parents=True)
        for name, (content, _) in files.items():
            (place / name).write_bytes(content)
        made = _Process(place, variables, log, container["image"])
        made.environment = variables
        self.containers[pod["metadata"]["labels"]["job-name"], container["name"]] = made
        return made

    def remove_pod(self, pod):
        shutil.rmtree(self._directory / pod["metadata"]["uid"], ignore_errors=True)


class _Process:
    def __init__(self, place, variables, log, image):
        self.place, self.variables, self.log = place, variables, log
        self.id = uuid.uuid4().hex * 2
        self.image, self.image_id = full_image_name(image), "sha256:" + "b3" * 32
        self._message = self.place / "termination-log"
        self._process = None
        self._stopping = threading.Lock()

    def start(self):
        plan = json.loads((self.place / "plan.json").read_text())
        plan |= {"work": str(self.place / "work"), "termination_log": str(self._message)}
        if "archive" in plan["code"]:
            plan["code"] = {"archive": str(self.place / "code.tar.gz")}
        (self.place / "plan.json").write_text(json.dumps(plan))
        self._started = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(self.place / "launcher.py"), str(self.place / "plan.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], **self.variables, "MLPROJ_RESULT": str(self._message)},
        )

    def wait(self):
        for line in self._process.stdout:
            self.log.write(line)
        self._process.wait()
        self._process.stdout.close()
        code = self._process.returncode
        message = self._message.read_text() if self._message.exists() else ""
        return Ended(code if code >= 0 else 128 - code, self._started, time.time(), False, message[:4096])

    def stop(self, grace):
        if self._process is None:  # it was to start, and never did
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self.finish(137)

    def finish(self, code):
        """End it, and all that it has started."""
        for pid in with_variable(f"MLPROJ_RESULT={self._message}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def with_variable(pair):
    """Pids of the living processes that have this in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            living = entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if living and pair.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
