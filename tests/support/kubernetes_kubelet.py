"""The life of one pod on the tests' node, written to its status and to events in the order of a kubelet 1.36."""

import contextlib
import threading
import time

import kubernetes_refusals as refusals
from kubernetes_configuration import ConfigProblem, MountProblem
from kubernetes_pod_status import PodState
from kubernetes_runtime import ImageProblem, StartProblem
from kubernetes_schema import PODS

SANDBOX = 0.4
"""Seconds until a pod's sandbox stands."""
RELIST = 0.5
"""Seconds until a kubelet has seen that a container ended."""
SETTLE = 1.0
"""Seconds from there until the pod's phase says so."""
REACTION, FORCED = 0.3, 3.0
"""Seconds until a kubelet has seen that a pod is deleted; by then the controller has counted one that had no grace."""
PULL_AGAIN, CONFIGURE_AGAIN, RESTART = 14.0, 1.0, 10.0


class _Killed(Exception):
    """The pod is to end before its containers did."""


class PodWorker:
    """A thread that sees a pod from its node to its end.

    Args:
        node: the node.
        pod: the pod, which has been assigned to it.
        number: of the pod on the node.
    """

    def __init__(self, node, pod, number):
        self._node, self._store, self._runtime = node, node.store, node.runtime
        self.pod, self.state = pod, PodState(pod, number)
        self._killing, self._guard = threading.Event(), threading.RLock()
        self._started, self._starting = [], threading.Lock()
        self._killer = None
        self._stopped = False
        self.thread = threading.Thread(target=self._run, name=f"pod-{pod['metadata']['name']}")
        self.thread.start()

    # -- from outside

    def kill(self, grace, evicted=None):
        """End it, in a thread of its own.

        Args:
            grace: seconds between TERM and KILL.
            evicted: a sentence, if the node throws it out.
        """
        with self._guard:
            if self._killer is None:
                self._killer = threading.Thread(target=self._kill, args=(grace, evicted), name="pod-killer")
                self._killer.start()

    def stop(self):
        """The node goes down: nothing more is written."""
        self._stopped = True
        self._killing.set()

    def join(self):
        self.thread.join()
        if self._killer:
            self._killer.join()

    def _kill(self, grace, evicted):
        self._pause(FORCED if grace == 0 else REACTION)
        if evicted:
            self.state.reason, self.state.message = "Evicted", evicted
            self.state.disruption = ("TerminationByKubelet", evicted)
            self._event("Warning", "Evicted", evicted)
        self._killing.set()
        with self._guard:
            living = [state for state in self.state.containers if state.runs]
        with self._starting:
            started = list(self._started)
        for state in living:
            self._event("Normal", "Killing", f"Stopping container {state.name}", state)
        if living:
            self._write()
        stoppers = [threading.Thread(target=container.stop, args=(grace,)) for container in started]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    # -- the life

    def _run(self):
        try:
            with contextlib.suppress(_Killed):
                self._live()
            if self._stopped:
                return
            if self._killing.is_set():
                self._be_killed()
            self._settle()
        finally:
            for container in self._started:
                container.stop(0)
            self._runtime.remove_pod(self.pod)
            self._node.forget(self)

    def _live(self):
        self._pause(0.01)
        self._write()
        self._sleep(SANDBOX)
        self.state.sandbox = True
        self._write()
        sidecars = []
        for state in self.state.inits:
            if state.container.get("restartPolicy") == "Always":
                self._start(state)
                state.run()
                sidecars.append(self._in_background(state))
            elif not self._run_to_end(state):
                return
        self.state.initialized = True
        for state in self.state.mains:
            if self.state.inits:
                state.wait("PodInitializing")
            self._start(state)
        started = [state for state in self.state.mains if not state.ended]
        for state in started:
            state.run()
        if started:
            self.state.phase = "Running"
            self.state.has_address = True
            self._write()
        waits = [self._in_background(state) for state in started[1:]]
        if started:
            self._see_to_the_end(started[0])
        for thread in waits:
            thread.join()
        for state in self.state.inits:
            if state.runs:
                state.running.stop(self.pod["spec"]["terminationGracePeriodSeconds"])
        for thread in sidecars:
            thread.join()

    def _run_to_end(self, state):
        """Run an init container. Returns whether the next may start."""
        while True:
            self._start(state)
            if not state.ended:
                state.run()
                self.state.has_address = True
                self._write()
                self._see_to_the_end(state)
            if self._killing.is_set():
                raise _Killed
            if state.succeeded or self.pod["spec"]["restartPolicy"] == "Never":
                return state.succeeded
            self._back_off(state)

    def _in_background(self, state):
        thread = threading.Thread(target=self._see_to_the_end, args=(state,), name=f"container-{state.name}")
        thread.start()
        return thread

    def _see_to_the_end(self, state):
        """Wait for a container that runs, and again when it is restarted."""
        while True:
            ended = state.running.wait()
            state.running.log.end()
            if self._stopped:
                return
            if not self._killing.is_set():
                self._pause(RELIST)
            reason = "OOMKilled" if ended.oom else "Completed" if ended.exit_code == 0 else "Error"
            with self._guard:
                state.end(ended.exit_code, reason, ended.started, ended.finished, ended.message)
            if self._killing.is_set():
                return
            again = self.pod["spec"]["restartPolicy"] == "OnFailure" and state in self.state.mains
            if not again or ended.exit_code == 0:
                self._write()
                return
            try:
                self._back_off(state)
                self._start(state)
            except _Killed:
                return
            state.run()
            self._write()

    def _back_off(self, state):
        """Wait before a container is started once more."""
        state.last, seconds = state.state, min(RESTART * 2**state.restarts, 300)
        name = f"{self.pod['metadata']['name']}_{self.pod['metadata']['namespace']}"
        why = f"back-off {int(seconds)}s restarting failed container={state.name} pod={name}"
        state.wait("CrashLoopBackOff", why)
        self._write()
        self._event("Warning", "BackOff", f"Back-off restarting failed container {state.name} in pod {name}", state)
        self._sleep(seconds)
        state.restarts += 1

    # -- a container's start

    def _start(self, state):
        """Have the image, make the container and start it, however often that takes."""
        self._have_image(state)
        container = self._create(state)
        state.running = container
        self._event("Normal", "Created", "Container created", state)
        try:
            with self._starting:  # what is started from here on is stopped by whoever kills the pod
                if self._killing.is_set():
                    raise _Killed
                container.start()
                self._started.append(container)
        except StartProblem as problem:
            message = str(problem)
            self._event("Warning", "Failed", f"Error: {message}", state)
            self._pause(RELIST)
            container.log.end()
            self.state.has_address = True
            state.end(128, "StartError", 0, time.time(), message)
            self._write()
            return
        self._event("Normal", "Started", "Container started", state)

    def _have_image(self, state):
        image, attempt = state.container["image"], 0
        while True:
            try:
                pulled = self._runtime.ensure_image(self.pod, state.container)
            except ImageProblem as problem:
                attempt += 1
                self._say_no_image(state, problem, attempt)
                continue
            if pulled:
                self._event("Normal", "Pulling", f'Pulling image "{image}"', state)
                self._event("Normal", "Pulled", f'Successfully pulled image "{image}"', state)
            else:
                message = f'Container image "{image}" already present on machine and can be accessed by the pod'
                self._event("Normal", "Pulled", message, state)
            return

    def _say_no_image(self, state, problem, attempt):
        image, reason = state.container["image"], problem.reason
        self.state.has_address = True
        if reason != "ErrImagePull":
            first = "InspectFailed" if reason == "InvalidImageName" else "ErrImageNeverPull"
            self._event("Warning", first, str(problem), state)
            self._event("Warning", "Failed", f"Error: {reason}", state)
            self._sleep(RELIST if attempt == 1 else 0)
            state.wait(reason, str(problem))
            self._write()
            self._sleep(PULL_AGAIN)
            return
        self._event("Normal", "Pulling", f'Pulling image "{image}"', state)
        self._event("Warning", "Failed", f'Failed to pull image "{image}": {problem}', state)
        self._event("Warning", "Failed", "Error: ErrImagePull", state)
        if attempt == 1:
            state.wait("ErrImagePull", str(problem))
            self._write()
            self._event("Normal", "BackOff", f'Back-off pulling image "{image}"', state)
            self._event("Warning", "Failed", "Error: ImagePullBackOff", state)
        self._sleep(PULL_AGAIN)
        state.wait("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {problem}')
        self._write()

    def _create(self, state):
        """The container, not started yet."""
        first = True
        while True:
            log = self._node.logs.new(self.pod, state.name)
            try:
                return self._runtime.create(self.pod, state.container, log)
            except ConfigProblem as problem:
                self._node.logs.drop(self.pod, state.name)
                self._event("Warning", "Failed", f"Error: {problem}", state)
                self._sleep(RELIST if first else 0)
                self.state.has_address = True
                state.wait("CreateContainerConfigError", str(problem))
                self._write()
                self._sleep(0 if first else CONFIGURE_AGAIN)
                self._have_image(state)
            except MountProblem as problem:
                self._node.logs.drop(self.pod, state.name)
                self._event("Warning", "FailedMount", f"MountVolume.SetUp failed for volume : {problem}")
                self._sleep(CONFIGURE_AGAIN)
            first = False

    # -- the end

    def _be_killed(self):
        with self._guard:
            unmade = [state for state in self.state.containers if not state.ended and not state.runs]
            if not self.state.reason and unmade and not any(state.ended for state in self.state.mains):
                for state in unmade:
                    if state.state["waiting"]["reason"] != "PodInitializing":
                        state.wait("ContainerCreating")
                self._write()
                self.state.sandbox = False
                self._write()
                self._pause(RELIST)
                self.state.lost = True
            for state in unmade:
                message = "The container could not be located when the pod was terminated"
                state.end(137, "ContainerStatusUnknown", None, None, message)

    def _settle(self):
        """Say the phase, then go if the pod is deleted."""
        if not self._killing.is_set():
            self._pause(SETTLE)
        well = all(state.succeeded for state in self.state.mains) and not self.state.reason
        self.state.phase = "Succeeded" if well else "Failed"
        self.state.sandbox = False
        self._write()
        pod = self._current()
        if pod is not None and "deletionTimestamp" in pod["metadata"]:
            self._pause(SETTLE)
            with contextlib.suppress(refusals.Refusal):
                self._store.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], grace=0)

    def _current(self):
        metadata = self.pod["metadata"]
        found = self._store.find(PODS, metadata["namespace"], metadata["name"])
        return found if found and found["metadata"]["uid"] == metadata["uid"] else None

    # -- time, and writing

    def _pause(self, seconds):
        """Wait, whatever happens."""
        time.sleep(seconds * self._node.pace)

    def _sleep(self, seconds):
        """Wait, unless the pod is to end."""
        if self._killing.wait(seconds * self._node.pace):
            raise _Killed

    def _write(self):
        if self._stopped:
            return

        def edit(pod):
            if pod["metadata"]["uid"] != self.pod["metadata"]["uid"]:
                return False
            with self._guard:
                pod["status"] = self.state.status(pod)
            return True

        metadata = self.pod["metadata"]
        with contextlib.suppress(refusals.Refusal):
            self._store.change(PODS, metadata["namespace"], metadata["name"], edit)

    def _event(self, kind, reason, message, state=None):
        if self._stopped:
            return
        where = None
        if state is not None:
            where = f"spec.{'initContainers' if state in self.state.inits else 'containers'}{{{state.name}}}"
        self._store.event(PODS, self.pod, kind, reason, message, "kubelet", host=self._node.name, field=where)
