"""An executor whose workers are on two hosts, as far as one machine shows it: tries take turns between them.

Each host has a name, a space of processes and a state directory of its own (`unshare`), and shares the DAGs and the
network with the other. Imported by Airflow itself, not by tests.
"""

import os
import subprocess
import sys
from pathlib import Path

from airflow.executors.base_executor import BaseExecutor

SCRIPT = """
hostname "$0"
mount --bind "$1" "$2"
exec "$3" -m airflow.sdk.execution_time.execute_workload --json-string "$4"
"""


class TwoHostsExecutor(BaseExecutor):
    """Runs each task instance in a new process of the host whose turn it is: the first try on host-a."""

    def start(self):
        self.processes = {}
        self.state = Path(os.environ["MLPROJ_STATE_DIR"])
        self.state.mkdir(parents=True, exist_ok=True)

    def _process_workloads(self, workloads):
        for workload in workloads:
            host = "host-" + "ba"[workload.ti.try_number % 2]
            home = self.state.with_name(host)
            home.mkdir(exist_ok=True)
            command = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "bash", "-c", SCRIPT, host]
            command += [str(home), str(self.state), sys.executable, workload.model_dump_json()]
            key = workload.ti.key
            del self.queued_tasks[key]
            self.running.add(key)
            # With no way out, as in a cluster: a worker that dies takes all its processes with it.
            self.processes[key] = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def sync(self):
        for key, process in list(self.processes.items()):
            if (code := process.poll()) is not None:
                del self.processes[key]
                self.success(key) if code == 0 else self.fail(key)

    def end(self):
        for process in self.processes.values():
            process.kill()

    def terminate(self):
        self.end()
