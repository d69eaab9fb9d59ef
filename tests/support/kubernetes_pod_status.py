"""The status of a pod, as a kubelet makes it from the states of its containers."""

import time

from kubernetes_store import timestamp

HOST, NETWORK = "192.0.2.2", "10.250.0"


class ContainerState:
    """What a kubelet knows of one container."""

    def __init__(self, container):
        self.container, self.name = container, container["name"]
        self.state = {"waiting": {"reason": "ContainerCreating"}}
        self.last, self.restarts = {}, 0
        self.running = None
        """The runtime's container, once it was made."""

    def wait(self, reason, message=None):
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def run(self):
        self.state = {"running": {"startedAt": timestamp()}}

    def end(self, code, reason, started, finished, message=""):
        state = {"exitCode": code, "reason": reason, **({"message": message} if message else {})}
        state |= {"startedAt": _moment(started), "finishedAt": _moment(finished)}
        if self.running:
            state["containerID"] = f"containerd://{self.running.id}"
        self.state = {"terminated": state}

    @property
    def runs(self):
        return "running" in self.state

    @property
    def ended(self):
        return "terminated" in self.state

    @property
    def succeeded(self):
        return self.ended and self.state["terminated"]["exitCode"] == 0

    def status(self, init=False):
        container, made = self.container, self.running
        status = {
            "name": self.name, "state": self.state, "lastState": self.last,
            "ready": self.runs or (init and self.succeeded), "restartCount": self.restarts,
            "image": made.image if made else container["image"], "imageID": made.image_id if made else "",
        }  # fmt: skip
        if made:
            status["containerID"] = f"containerd://{made.id}"
        status["started"] = self.runs
        resources = {k: v for k, v in container.get("resources", {}).items() if v}
        if made:
            if resources.get("requests"):
                status["allocatedResources"] = resources["requests"]
            status["resources"] = resources
        mounts = container.get("volumeMounts", ())
        if mounts:
            status["volumeMounts"] = [_mount(mount) for mount in mounts]
        return status


def _moment(seconds):
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _mount(mount):
    status = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if mount.get("readOnly"):
        status |= {"readOnly": True, "recursiveReadOnly": "Disabled"}
    return status


class PodState:
    """What a kubelet knows of one pod."""

    def __init__(self, pod, number):
        spec = pod["spec"]
        self.inits = [ContainerState(container) for container in spec.get("initContainers", ())]
        self.mains = [ContainerState(container) for container in spec["containers"]]
        for state in [*self.inits[1:], *(self.mains if self.inits else ())]:
            state.wait("PodInitializing")
        if self.inits:
            self.inits[0].wait("PodInitializing")
        self.initialized = not self.inits
        self.phase = "Pending"
        self.sandbox = self.has_address = False
        self.reason = self.message = None
        """Of the pod as a whole, such as Evicted."""
        self.disruption = None
        """(reason, message) of the condition DisruptionTarget."""
        self.lost = False
        """Whether it was killed before a container was made: then its conditions stay as they are."""
        self._address = f"{NETWORK}.{number % 250 + 2}"
        self._started = timestamp()

    @property
    def containers(self):
        return [*self.inits, *self.mains]

    def status(self, pod):
        """The whole status; times of conditions that stay as they are are kept."""
        old = pod["status"]
        status = {"observedGeneration": pod["metadata"]["generation"], "phase": self.phase}
        status["conditions"] = self._conditions(pod)
        if self.reason:
            status |= {"reason": self.reason, "message": self.message}
        status |= {"hostIP": HOST, "hostIPs": [{"ip": HOST}], "startTime": self._started}
        if self.has_address:
            address = HOST if pod["spec"].get("hostNetwork") else self._address
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        if self.inits:
            status["initContainerStatuses"] = [state.status(init=True) for state in self.inits]
        status["containerStatuses"] = [state.status() for state in self.mains]
        status["qosClass"] = old["qosClass"]
        requests, limits = _total(self.mains, "requests"), _total(self.mains, "limits")
        if requests:
            status["allocatedResources"] = requests
        status["resources"] = {**({"limits": limits} if limits else {}), **({"requests": requests} if requests else {})}
        return status

    def _conditions(self, pod):
        unready = [state.name for state in self.mains if not state.runs]
        over = all(state.ended for state in self.mains) or any(
            state.ended and not state.succeeded for state in self.inits
        )
        why = {}
        if over and not self.lost:
            why = {"reason": "PodCompleted" if self._went_well() else "PodFailed"}
        elif unready:
            why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
        initialized = {}
        if not self.initialized:
            missing = [state.name for state in self.inits if not state.succeeded and not _is_sidecar_up(state)]
            initialized = {"reason": "ContainersNotInitialized"}
            initialized["message"] = f"containers with incomplete status: [{' '.join(missing)}]"
        elif over and self._went_well():
            initialized = {"reason": "PodCompleted"}
        found = []
        if self.disruption:
            reason, message = self.disruption
            found.append(("DisruptionTarget", True, {"reason": reason, "message": message}))
        found += [
            ("PodReadyToStartContainers", self.sandbox, {}), ("Initialized", self.initialized, initialized),
            ("Ready", not unready, why), ("ContainersReady", not unready, why), ("PodScheduled", True, {}),
        ]  # fmt: skip
        old = {condition["type"]: condition for condition in pod["status"].get("conditions", ())}
        return [_condition(pod, old.get(kind), kind, value, more) for kind, value, more in found]

    def _went_well(self):
        return all(state.succeeded for state in self.mains)


def _is_sidecar_up(state):
    return state.container.get("restartPolicy") == "Always" and state.runs


def _condition(pod, old, kind, value, more):
    status = "True" if value else "False"
    since = old["lastTransitionTime"] if old and old["status"] == status else timestamp()
    return {
        "type": kind, "observedGeneration": pod["metadata"]["generation"], "status": status, "lastProbeTime": None,
        "lastTransitionTime": since, **more,
    }  # fmt: skip


def _total(states, kind):
    """The resources of all containers; a sum only where there are several."""
    from kubernetes_schema import quantity

    total = {}
    for state in states:
        for name, value in state.container.get("resources", {}).get(kind, {}).items():
            if name in total:
                value = str(int(quantity(total[name]) + quantity(value)))
            total[name] = value
    return total
