"""Tasks that do what a test says: no engine, no processes."""

import threading
from dataclasses import dataclass

from databricks_refusals import Refusal
from databricks_run import CANCELLED, SUCCESS, Ending, workload_failed


@dataclass(frozen=True)
class Script:
    """What a task does.

    Attributes:
        output: what it prints at its beginning.
        seconds: for how long it runs.
        error: why it fails, as `get_run_output` says it; None: it succeeds.
        trace: where that was raised.
        ending: how it ends; None: as `error` says.
    """

    output: str = ""
    seconds: float = 0
    error: str | None = None
    trace: str | None = None
    ending: Ending | None = None


class ScriptedRuntime:
    """Runs tasks by scripts.

    Attributes:
        script: what tasks do; a `Script`, or a function that makes one of a `Job`.
        jobs: the tasks that began, as `Job`s.
        gate: while it is not set, tasks run on when their script is done.
    """

    workspace = None

    def __init__(self, script=None):
        self.script = script if script is not None else Script()
        self.jobs, self.gate = [], threading.Event()
        self.gate.set()

    def run(self, job):
        script = self.script(job) if callable(self.script) else self.script
        try:  # a cluster does not start with a variable that names no secret
            job.resolved = {name: self.workspace.secrets.resolve(text) for name, text in job.variables.items()}
        except Refusal as refusal:
            return invalid_cluster(refusal.message)
        self.jobs.append(job)
        job.write(script.output.encode())
        if job.stopping.wait(script.seconds):
            return CANCELLED
        while not self.gate.wait(0.02):
            if job.stopping.is_set():
                return CANCELLED
        if script.ending is not None:
            return script.ending
        return SUCCESS if script.error is None else workload_failed(script.error, script.trace)

    def stop(self):
        """Nothing is left of a task that ended."""


def invalid_cluster(why):
    """There can be no such cluster."""
    said = f"Unexpected failure while creating the cluster for the job. Cause: INVALID_PARAMETER_VALUE: {why}"
    return Ending("FAILED", "INVALID_CLUSTER_REQUEST", "CLIENT_ERROR", said, "INTERNAL_ERROR")
