"""The scheduler and the one node of the tests' cluster."""

import contextlib
import threading

import kubernetes_refusals as refusals
from kubernetes_kubelet import PodWorker
from kubernetes_logs import Logs
from kubernetes_schema import CLAIMS, PODS, quantity
from kubernetes_store import timestamp

UNHELPFUL = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 {}."
NO_HELP, NO_VICTIM = "Preemption is not helpful for scheduling", "No preemption victims found for incoming pod"


class Node:
    """Puts pods on itself and runs them by a runtime.

    Args:
        store: the cluster's objects.
        runtime: what runs containers.
        pace: by what the seconds of a real cluster are multiplied.
        capacity: quantities of what it has.
    """

    def __init__(self, store, runtime, pace, capacity=None):
        self.store, self.runtime, self.pace = store, runtime, pace
        runtime.store = store
        self.name, self.logs = "localhost", Logs()
        self.labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        self.capacity = capacity or {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "1000"}
        self.paused = False
        """Whether pods are left without a node."""
        self._workers, self._number = {}, 0
        self._guard = threading.Lock()
        self._seen, self._stop = store.version, False
        self._thread = threading.Thread(target=self._run, name="kubernetes-node")
        self._thread.start()

    # -- hooks

    def evict(self, namespace, name, message=None):
        """Throw a pod out, as a kubelet does that runs out of memory."""
        pod = self.store.get(PODS, namespace, name)
        container = pod["spec"]["containers"][0]["name"]
        message = message or (
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. "
            f"Container {container} was using 200Mi, request is 0, has larger consumption of memory. "
        )
        self._workers[pod["metadata"]["uid"]].kill(0, evicted=message)

    def rotate_logs(self, namespace, name, container="main", keep=0):
        """Forget all but the last lines of a container's log."""
        self.logs.of(self.store.get(PODS, namespace, name), container).rotate(keep)

    def lose_logs(self, namespace, name, container="main"):
        """Let a container's log be gone, as when its files were removed: what is read then says so, with status 200."""
        pod = self.store.get(PODS, namespace, name)
        statuses = pod["status"]["containerStatuses"]
        identity = next(status["containerID"] for status in statuses if status["name"] == container)
        self.logs.of(pod, container).lost = f"unable to retrieve container logs for {identity}"

    def stop(self):
        self._stop = True
        with self.store.changed:
            self.store.changed.notify_all()
        self._thread.join()
        with self._guard:
            workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        self.runtime.stop()
        for worker in workers:
            worker.join()
        self.logs.end_all()

    # -- for the workers

    def forget(self, worker):
        with self._guard:
            self._workers.pop(worker.pod["metadata"]["uid"], None)

    # -- inside

    def _run(self):
        while not self._stop:
            with self.store.changed:
                changes = self.store.since(self._seen)
                self._seen = self.store.version
                if not changes:
                    self.store.changed.wait(1)
                    continue
            for _, resource, kind, item, _ in changes:
                if resource is PODS:
                    self._notice(kind, item)

    def _notice(self, kind, pod):
        uid = pod["metadata"]["uid"]
        with self._guard:
            worker = self._workers.get(uid)
        if kind == "DELETED":
            self.logs.forget(pod)
            if worker:
                worker.kill(0)
        elif "deletionTimestamp" in pod["metadata"]:
            if worker:
                worker.kill(pod["metadata"]["deletionGracePeriodSeconds"])
        elif pod["spec"].get("nodeName") == self.name:
            if worker is None and pod["status"]["phase"] == "Pending" and kind == "MODIFIED":
                with self._guard:
                    self._number += 1
                    if "startTime" not in pod["status"]:
                        self._workers[uid] = PodWorker(self, pod, self._number)
        elif "nodeName" not in pod["spec"] and kind == "ADDED" and not self.paused:
            self._schedule(pod)

    def _schedule(self, pod):
        why = self._unschedulable(pod)
        metadata = pod["metadata"]
        if why:
            say = (PODS, pod, "Warning", "FailedScheduling", why, "default-scheduler")
            self.store.event(*say, action="Scheduling")

        def edit(current):
            condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None}
            if why:
                condition |= {"status": "False", "reason": "Unschedulable", "message": why}
                condition["observedGeneration"] = current["metadata"]["generation"]
            else:
                current["spec"]["nodeName"] = self.name
            condition["lastTransitionTime"] = timestamp()
            current["status"]["conditions"] = [condition]

        with contextlib.suppress(refusals.Refusal):
            self.store.change(PODS, metadata["namespace"], metadata["name"], edit)
            if not why:
                message = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {self.name}"
                say = (PODS, pod, "Normal", "Scheduled", message, "default-scheduler")
                self.store.event(*say, action="Binding")

    def _unschedulable(self, pod):
        spec = pod["spec"]
        for volume in spec.get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and self.store.find(CLAIMS, pod["metadata"]["namespace"], claim) is None:
                said = f'persistentvolumeclaim "{claim}" not found.'
                return f"0/1 nodes are available: {said} {UNHELPFUL.format(NO_HELP)}"
        if any(self.labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
            said = "1 node(s) didn't match Pod's node affinity/selector."
            return f"0/1 nodes are available: {said} {UNHELPFUL.format(NO_HELP)}"
        wanted = {}
        for container in spec["containers"]:
            for name, value in container["resources"].get("requests", {}).items():
                wanted[name] = wanted.get(name, 0) + quantity(value)
        short = [name for name, value in wanted.items() if value > quantity(self.capacity.get(name, "0"))]
        if short:
            said = ", ".join(f"1 Insufficient {name}" for name in sorted(short))
            return f"0/1 nodes are available: {said}. {UNHELPFUL.format(NO_VICTIM)}"
        return None
