"""A run that was submitted, and its task, as the Jobs API 2.2 shows them: by the old `state` and the new `status`."""

import random
import threading
import time
from dataclasses import dataclass

LOGS = 5 << 20
"""Bytes of a task's output that get-output gives: the last ones."""
OVER = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
NEW_NAMES = {"SKIPPED": "TERMINATED", "INTERNAL_ERROR": "TERMINATED", "WAITING_FOR_RETRY": "WAITING"}
"""`status.state` for a `life_cycle_state`, where it is another."""


@dataclass(frozen=True)
class Ending:
    """How a task ends.

    Attributes:
        life: its last life_cycle_state.
        result: its result_state; None: it has none.
        code: of its termination.
        kind: the termination's type.
        message: what is said of the task.
        error: what get-output says.
        trace: what get-output says too.
        cancelled: whether a user or a timeout ended it.
    """

    result: str | None
    code: str
    kind: str = "CLIENT_ERROR"
    message: str = ""
    life: str = "TERMINATED"
    error: str | None = None
    trace: str | None = None
    cancelled: bool = False


SUCCESS = Ending("SUCCESS", "SUCCESS", "SUCCESS")
CANCELLED = Ending("CANCELED", "USER_CANCELED", "SUCCESS", "Run cancelled.", cancelled=True)
TIMED_OUT = Ending("TIMEDOUT", "CANCELED", "SUCCESS", "Run timed out.", cancelled=True)
SKIPPED = Ending(
    "MAXIMUM_CONCURRENT_RUNS_REACHED", "MAX_CONCURRENT_RUNS_EXCEEDED", "CLIENT_ERROR",
    "An active run of the job already exists.", "SKIPPED",
)  # fmt: skip


def workload_failed(error, trace=None):
    """The project's own failure: what is said of the task names it nowhere."""
    said = "Workload failed, see run output for details"
    return Ending("FAILED", "RUN_EXECUTION_ERROR", "CLIENT_ERROR", said, error=error, trace=trace)


def no_capacity(cluster_id):
    """The cloud has no machine for the cluster."""
    why = "AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE(CLOUD_FAILURE): aws_api_error_code:InsufficientInstanceCapacity"
    said = (
        f"Unexpected failure while waiting for the cluster ({cluster_id}) to be ready: Cluster {cluster_id} is in "
        f"unexpected state Terminated: {why}"
    )
    return Ending("FAILED", "CLOUD_FAILURE", "CLOUD_FAILURE", said, "INTERNAL_ERROR")


def spot_loss(cluster_id):
    """The cloud takes the driver's machine back."""
    said = (
        f"Cluster {cluster_id} became unreachable during run. Cause: SPOT_INSTANCE_TERMINATION(CLOUD_FAILURE): "
        "instance_id: i-0abc, aws_spot_instance_status_code: instance-terminated-no-capacity"
    )
    return Ending("FAILED", "CLUSTER_ERROR", "CLOUD_FAILURE", said, "INTERNAL_ERROR")


def fresh_id():
    """A number as the service gives them, so that nobody keeps one in 32 bits or counts on their order."""
    return random.randrange(10**14, 10**15)


class Task:
    """One try of a run's task.

    Attributes:
        life: its life_cycle_state now.
        ending: how it ended, or None.
        stopping: is set when it must end, for the reason in `wanted`.
        logs: what it has printed, in bytes.
    """

    def __init__(self, submission, number=0):
        self.submission, self.number = submission, number
        self.run_id = fresh_id()
        self.life, self.ending = "PENDING", None
        self.cluster_id = self.context_id = None
        self.logs = bytearray()
        self.times = {}
        """When it first was in each state."""

    @property
    def over(self):
        return self.life in OVER

    def write(self, data):
        """Keep what the task prints."""
        self.logs += data

    def view(self, run):
        """It, in the run's `tasks`."""
        cluster = {"cluster_id": self.cluster_id, "spark_context_id": self.context_id}
        cluster = {name: value for name, value in cluster.items() if value}
        return {
            **self.submission,
            **_states(self.life, self.ending),
            "run_id": self.run_id,
            "attempt_number": self.number,
            "start_time": _milliseconds(run.created),
            "end_time": _milliseconds(self.times.get("over")),
            "setup_duration": self._span("PENDING", "RUNNING"),
            "execution_duration": self._span("RUNNING", "TERMINATING"),
            "cleanup_duration": self._span("TERMINATING", "over"),
            "run_page_url": f"{run.page}/task/{self.run_id}",
            "run_if": "ALL_SUCCESS",
            **({"cluster_instance": cluster} if cluster else {}),
            **({"git_source": run.body["git_source"]} if run.body.get("git_source") else {}),
        }

    def _span(self, begin, end):
        begun, ended = self.times.get(begin), self.times.get(end, self.times.get("over"))
        return int((ended - begun) * 1000) if begun and ended else 0

    def output(self, run):
        """As get-output gives it."""
        logs = bytes(self.logs)
        answer = {
            "metadata": {**run.view(), **self.view(run), "job_run_id": run.run_id},
            "logs": logs[-LOGS:].decode(errors="replace"),
            "logs_truncated": len(logs) > LOGS,
        }
        if self.ending and self.ending.error is not None:
            answer |= {"error": self.ending.error, "error_trace": self.ending.trace or ""}
        elif self.ending and self.ending is not SUCCESS:
            answer["error"] = self.ending.message
        return answer


class Run:
    """A run and the tries of its task.

    Args:
        body: of the submission.
        host: the workspace's address.
        user: who submitted it.
    """

    def __init__(self, body, host, user):
        self.body, self.user = body, user
        self.run_id, self.job_id = fresh_id(), fresh_id()
        self.page = f"{host}/?o=1#job/{self.job_id}/run/{self.run_id}"
        self.created, self.started, self.ended = time.time(), None, None
        self.life, self.ending = "PENDING", None
        self.tasks = [Task(body["tasks"][0])]
        self.stopping, self.wanted = threading.Event(), None
        """Set when the run must end, and as what."""

    def __repr__(self):
        return f"Run({self.run_id}, {self.life}, {self.task.life})"

    @property
    def task(self):
        """The newest try."""
        return self.tasks[-1]

    @property
    def over(self):
        return self.life in OVER

    @property
    def name(self):
        return self.body.get("run_name", "Untitled")

    def view(self):
        """The run without its tasks, as a list has it."""
        begun = self.started or self.ended or time.time()
        return {
            "job_id": self.job_id,
            "run_id": self.run_id,
            "number_in_job": self.run_id,
            "original_attempt_run_id": self.run_id,
            "job_run_id": self.run_id,
            "creator_user_name": self.user,
            "run_name": self.name,
            "run_page_url": self.page,
            "run_type": "SUBMIT_RUN",
            "trigger": "ONE_TIME",
            "start_time": _milliseconds(self.created),
            "end_time": _milliseconds(self.ended),
            "setup_duration": 0,
            "execution_duration": 0,
            "cleanup_duration": 0,
            "queue_duration": int((begun - self.created) * 1000),
            "run_duration": int(((self.ended or time.time()) - self.created) * 1000),
            **_states(self.life, self.ending),
            **({"git_source": self.body["git_source"]} if self.body.get("git_source") else {}),
        }

    def full_view(self):
        return {**self.view(), "tasks": [task.view(self) for task in self.tasks]}


def _states(life, ending):
    """A state in the old form and in the new one."""
    state = {"life_cycle_state": life, "state_message": "", "user_cancelled_or_timedout": False}
    status = {"state": NEW_NAMES.get(life, life)}
    if ending is not None and life in (*OVER, "TERMINATING"):
        details = {"code": ending.code, "type": ending.kind, "message": ending.message}
        status["termination_details"] = {name: value for name, value in details.items() if value}
        state |= {"state_message": ending.message, "user_cancelled_or_timedout": ending.cancelled}
        if life in OVER and ending.result is not None:
            state["result_state"] = ending.result
    elif life == "QUEUED":
        why = "Queued due to reaching the workspace limit of active task runs."
        state["queue_reason"] = why
        status["queue_details"] = {"code": "ACTIVE_RUNS_LIMIT_REACHED", "message": why}
    elif life == "PENDING":
        state["state_message"] = "Waiting for cluster"
    elif life == "RUNNING":
        state["state_message"] = "In run"
    return {"state": state, "status": status}


def _milliseconds(moment):
    """0 for what has not happened yet, as the API has it."""
    return int((moment or 0) * 1000)
