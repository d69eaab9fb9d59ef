"""The supervisor of one local run: a small process that outlives whoever asked for the run.

It is a program of its own, uses the standard library only and as little of it as will do, because it stays in
memory for as long as the project runs. What is heavy (building an environment, talking TLS to a tracking
server) happens in processes of its own, before and after.

Its contract with the rest of the local backend is the run directory:

    claim.json       read: the request, without secrets (secrets come by inheritance, in the environment)
    record.json      read: the MLflow run
    lock             inherited, held (flock) until this process ends, passed to no other process
    supervisor.json  written before any work is done: from then on the run counts as started
    cancel           looked for before each step: somebody wants this run to end
    phase            written at each change: the phase's name
    output/          written: what the project prints
    end.json         written once, atomically: the outcome
    settled          looked for at the end: the outcome was delivered to the tracking server

Beside the run directories it uses `slots/`, where the runs with a limit (`max_runs`) that are at work hold a lock each,
and `slots/host/`, where those hold one that count for the host's limit (MLPROJ_MAX_RUNS).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time

from mlproj_core.backends.local.child import become
from mlproj_core.backends.local.contained import MADE
from mlproj_core.backends.local.output import Output
from mlproj_core.backends.local.processes import (
    descendants,
    kill,
    reap,
    start_time,
)
from mlproj_core.backends.local.words import ended_how, farewell, stop_meaning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from mlproj_core.backends.local.slots import Slots

PR_SET_CHILD_SUBREAPER = 36

READ_BYTES = 65536
DELIVERY_BY_ASKER = 30.0
"""Seconds that a living asker of a tethered run is given to deliver the outcome itself, sparing a process."""

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Supervise one run: RUN_DIRECTORY, the ASKER's pid, and the descriptors LOCK, TETHER and NUDGE (-1: none)."""
    directory = arguments[0]
    asker, lock, tether, nudge = map(int, arguments[1:])
    for descriptor in (lock, tether, nudge):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    supervisor = Supervisor(directory, asker, tether, nudge)
    supervisor.run()
    os.close(lock)
    supervisor.deliver()
    os._exit(0)  # nothing is buffered here, and whoever waits for the run waits for this process


class Supervisor:
    """One run, from the start of its supervisor to the record of its end."""

    def __init__(self, directory: str, asker: int, tether: int, nudge: int) -> None:
        self.directory = directory
        self.tether = tether
        self.nudge_end = nudge
        self.asker = asker
        self.claim = self.read("claim.json")
        self.record = self.read("record.json")
        self.request = self.claim["request"]
        self.grace = float(self.request["grace"])
        self.margin = 0.0
        self.output = Output(os.path.join(directory, "output"), int(self.request["log_limit"]))
        self.phases = {"queued": max(0.0, time.time() - self.claim["created_at"])}
        self.phase_began = time.monotonic()
        self.phase: str | None = None
        self.deadline: float | None = None
        self.stopping: str | None = None
        self.reader: int | None = None
        self.slots: list[Slots] = []
        self.poll = select.poll()
        self.wakeup, self.wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # -- the whole course

    def run(self) -> None:
        os.chdir("/")
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, self.on_signal)
        signal.set_wakeup_fd(self.wakeup_end, warn_on_full_buffer=False)
        self.poll.register(self.wakeup, select.POLLIN)
        self.tether_to_asker()
        self.write("supervisor.json", {"pid": os.getpid(), "started": start_time(os.getpid())})
        for line in self.record["banner"]:
            self.say(line)
        try:
            outcome = self.work()
        except Exception as error:  # the run must have an end on record, whatever happens here
            outcome = self.outcome("FAILED", "lost", f"mlproj's supervisor failed: {error!r}", retryable=True)
        self.end_descendants()
        self.enter(None)
        outcome["ended_at"] = time.time()
        outcome["phases"] = {name: round(seconds, 3) for name, seconds in self.phases.items()}
        for line in farewell(outcome, self.record):
            self.say(line)
        self.output.close()
        self.write("end.json", outcome)
        for slots in self.slots:
            slots.leave()

    def work(self) -> dict[str, Any]:
        if not self.take_slots():
            return self.stopped()
        # Not before: the limit is on how long the work takes, its environment included, and how long the run waits for
        # others says nothing of that.
        if self.request["timeout"] is not None:
            self.deadline = time.monotonic() + float(self.request["timeout"])
        if self.stop_requested():
            return self.stopped()
        if self.request.get("container") is None:  # which the claims of an earlier release do not have
            from mlproj_core.backends.local import hosted

            return hosted.run(self)
        from mlproj_core.backends.local import contained

        return contained.run(self)

    # -- the limits on the runs of this host

    def take_slots(self) -> bool:
        """Wait until both limits allow one more run to be at work; False if this one is stopped first.

        The two are taken in this order by all, so that no two runs wait for each other.
        """
        state = os.path.dirname(os.path.dirname(os.path.dirname(self.directory)))
        limits = (("max_runs", "slots", "max_runs"), ("host_max_runs", "slots/host", "MLPROJ_MAX_RUNS"))
        for name, place, setting in limits:
            if self.stop_requested():
                return False
            limit = self.request.get(name)  # which the claims of an earlier release do not have
            if limit is not None and not self.take_slot(os.path.join(state, place), limit, setting):
                return False
        return True

    def take_slot(self, place: str, limit: int, setting: str) -> bool:
        from mlproj_core.backends.local.slots import Slots

        slots = Slots(place, limit)
        self.slots.append(slots)
        if slots.take():
            return True
        self.enter("queued")
        at_work = "1 run is" if limit == 1 else f"{limit} runs are"
        self.say(f"waiting: {at_work} at work on this host, its limit ({setting})")
        began = time.monotonic()
        slots.queue()
        slots.listen()
        if slots.bell is not None:
            self.poll.register(slots.bell, select.POLLIN)
        while not (stopped := self.stop_requested()) and not slots.take():
            pause = slots.pause()
            self.rest(None if pause is None else time.monotonic() + pause)
        if slots.bell is not None:
            self.poll.unregister(slots.bell)
            slots.hush()
        if stopped:
            slots.leave()  # now, and not when all is recorded: others may go on
        else:
            self.say(f"waited {time.monotonic() - began:.1f} s; another run has ended, and this one goes on")
        return not stopped

    # -- the data

    def data(self) -> dict[str, Any] | None:
        """Fetch what parameters name elsewhere; None when all is there, else the outcome of the run without it."""
        downloads = self.request.get("downloads")  # which the claims of an earlier release do not have
        if not downloads:
            return None
        self.enter("data")
        answer = self.errand(
            "data", "mlproj_core.data.fetch", {"downloads": downloads, "tracking_uri": self.record["tracking_uri"]}
        )
        return answer if "status" in answer else None

    # -- processes

    def errand(self, name: str, module: str, request: dict[str, Any]) -> dict[str, Any]:
        """Have a module of mlproj do something in a process of its own; its result, else the outcome of the run.

        Args:
            name: of the files of request and result, and the reason's code if the process says nothing of it.
            module: see `mlproj_core.errand`.
            request: what it is given.
        """
        self.write(f"{name}-request.json", request)
        result = f"{name}.json"
        command = [*self.python(module), self.path(f"{name}-request.json"), self.path(result)]
        status = self.execute(command, self.directory, dict(os.environ))
        if self.stopping:
            return self.stopped()
        answer = self.read_if_there(result)
        error = answer.get("error")
        if error or status != 0:
            if not error:
                message = f"the process that saw to the {name} {ended_how(status)}"
                error = {"message": message, "retryable": os.WIFSIGNALED(status)}
            retryable = bool(error.get("retryable", False))
            return self.outcome("FAILED", error.get("code", name), error["message"], retryable=retryable)
        return answer

    def python(self, module: str) -> list[str]:
        """How to run a module of mlproj as a program, less its arguments."""
        # With the path of mlproj itself, since the asker may have found it by other means than its site-packages.
        code = (
            "import sys; sys.path.append(sys.argv.pop(1)); from runpy import run_module; "
            f"run_module({module!r}, run_name='__main__', alter_sys=True)"
        )
        return [sys.executable, "-c", code, self.request["import_root"]]

    def execute(self, command: list[str], directory: str, variables: dict[str, str]) -> int:
        """Run a program until it and all that it started have ended, by themselves or by a stop; its wait status."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        supervisor = os.getpid()
        child = os.fork()
        if child == 0:
            become(command, directory, variables, writer, supervisor)
        os.close(writer)
        os.set_blocking(reader, False)
        self.poll.register(reader, select.POLLIN)
        self.reader = reader
        while (status := reap(child)) is None:
            if self.stop_requested():
                self.end_descendants()
            else:
                self.rest(self.deadline)
        self.end_descendants()
        while self.copy():
            pass
        return status

    def rest(self, until: float | None) -> None:
        """Sleep until something happens: output, a signal, the end of the asker or of the time given."""
        timeout = None if until is None else max(0.0, until - time.monotonic()) * 1000
        for descriptor, _event in self.poll.poll(timeout):
            if descriptor == self.reader:
                self.copy()
            elif descriptor == self.wakeup:
                empty(self.wakeup)
            elif self.slots and descriptor == self.slots[-1].bell:
                self.slots[-1].hear()
            else:
                self.poll.unregister(descriptor)
                self.stop("tether")

    def copy(self) -> bool:
        """Take some of the project's output; False when there is none at present, or never will be."""
        if self.reader is None:
            return False
        try:
            data = os.read(self.reader, READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self.output.write(data)
            self.nudge()
            return True
        self.poll.unregister(self.reader)
        os.close(self.reader)
        self.reader = None
        return False

    def end_descendants(self) -> None:
        """End every process of this run that is still there: TERM, a grace period, KILL."""
        left = descendants(os.getpid(), self.record["tag"], self.directory)
        if left and not self.stopping:
            self.say(f"ending {len(left)} left-over process{'' if len(left) == 1 else 'es'} of the project")
        number, told = signal.SIGTERM, set[int]()
        kill_at = time.monotonic() + self.grace + self.margin
        while left:
            if time.monotonic() >= kill_at and number == signal.SIGTERM:
                number, told = signal.SIGKILL, set()
            for pid in sorted(left - told):  # parents before their children, as far as pids tell
                # A process that forks while it is being told may be told a moment later, hence the loop.
                kill(pid, number)
            told |= left
            self.rest(time.monotonic() + 0.02)
            left = descendants(os.getpid(), self.record["tag"], self.directory)

    # -- being asked to stop

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:  # by its child, a container's client: the project is at work
            self.enter("running")
        elif number != signal.SIGCHLD:
            self.stop("signal")

    def tether_to_asker(self) -> None:
        """Watch the asking process: it holds the other end of a pipe, and has a pid.

        The pipe alone would be kept open by a fork of the asker that lives on; the pid alone could be another's.
        """
        if self.tether < 0:
            return
        self.poll.register(self.tether, select.POLLIN)
        try:
            asker = os.pidfd_open(self.asker)
        except (OSError, AttributeError):
            asker = None
        if asker is not None:
            os.set_inheritable(asker, False)
            self.poll.register(asker, select.POLLIN)
        if os.getppid() != self.asker:
            self.stop("tether")

    def stop(self, cause: str) -> None:
        if self.stopping is None:
            self.stopping = cause

    def stop_requested(self) -> bool:
        if os.path.exists(self.path("cancel")):
            self.stopping = "cancel"
        elif self.stopping is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.stopping = "timeout"
        return self.stopping is not None

    # -- outcomes

    def stopped(self) -> dict[str, Any]:
        status, code, message, retryable = stop_meaning(self.stopping, self.request["timeout"])
        return self.outcome(status, code, message, retryable=retryable)

    def outcome(
        self,
        status: str,
        code: str,
        message: str,
        *,
        retryable: bool,
        exit_code: int | None = None,
        signal: int | None = None,
    ) -> dict[str, Any]:
        reason = {
            "code": code,
            "message": message,
            "retryable": retryable,
            "exit_code": exit_code,
            "signal": signal,
            "output": self.output.last_lines(),
        }
        return {"status": status, "reason": reason}

    # -- the run directory

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def read(self, name: str) -> Any:
        with open(self.path(name), encoding="utf-8") as file:
            return json.load(file)

    def read_if_there(self, name: str) -> dict[str, Any]:
        return dict(self.read(name)) if os.path.exists(self.path(name)) else {}

    def write(self, name: str, value: object) -> None:
        replace(self.path(name), json.dumps(value))

    def enter(self, phase: str | None) -> None:
        now = time.monotonic()
        if self.phase is not None:
            self.phases[self.phase] = self.phases.get(self.phase, 0.0) + now - self.phase_began
        self.phase, self.phase_began = phase, now
        if phase is not None:
            replace(self.path("phase"), phase)

    def say(self, line: str) -> None:
        self.output.write_line("[mlproj] " + line)
        self.nudge()

    def nudge(self) -> None:
        """Tell the asker of a tethered run that there is output; it may be gone, or not be listening."""
        if self.nudge_end >= 0:
            try:
                os.write(self.nudge_end, b".")
            except OSError:
                return

    # -- after the end

    def deliver(self) -> None:
        """See to it that the tracking server hears of the end, though nobody may be left who waits for it."""
        contained = os.path.exists(self.path(MADE))
        if not (self.record["tracked"] or (contained and self.request["tethered"])) or os.fork():
            # Whoever waits for the run waits for this process to end; only the fork stays, without the lock.
            return
        tracked = self.record["tracked"]
        if tracked and self.tether >= 0 and self.stopping != "tether" and self.delivered_by_asker():
            tracked = False
        steps = ["from mlproj_core.runs import deliver; deliver(sys.argv[2])"] if tracked else []
        if contained:  # its end is on record, and nobody needs to look at it any more
            steps.append("from mlproj_core.backends.local.container import tidy; tidy(sys.argv[2])")
        if steps:
            for mark in ("MLPROJ_ATTEMPT", "MLPROJ_RESULT"):  # it is no part of the run any more
                os.environ.pop(mark, None)
            code = "; ".join(["import sys; sys.path.append(sys.argv[1])", *steps])
            os.execv(sys.executable, [sys.executable, "-c", code, self.request["import_root"], self.directory])

    def delivered_by_asker(self) -> bool:
        """Whether the asker of a tethered run delivered the outcome itself, which spares a process."""
        give_up = time.monotonic() + DELIVERY_BY_ASKER
        while time.monotonic() < give_up and self.stopping != "tether":
            if os.path.exists(self.path("settled")):
                return True
            self.rest(time.monotonic() + 0.05)
        return os.path.exists(self.path("settled"))


def empty(pipe: int) -> None:
    """Read a non-blocking pipe dry."""
    try:
        while os.read(pipe, 4096):
            pass
    except BlockingIOError:
        pass


def replace(path: str, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
