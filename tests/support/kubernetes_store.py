"""Objects with resource versions, their history for watches, and what becomes of them when they are deleted."""

import copy
import threading
import uuid
from datetime import datetime, timedelta, timezone

import kubernetes_refusals as refusals
from kubernetes_schema import EVENTS, PODS

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
HISTORY = 200_000


def timestamp(moment=None):
    return (moment or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ")


def after(seconds):
    return timestamp(datetime.now(timezone.utc) + timedelta(seconds=seconds))


class Store:
    """All that a cluster knows. An object in it is never changed, only replaced."""

    def __init__(self, version=300):
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = version
        self.oldest = 0
        """Watches from an older version than this are refused."""
        self.history = []
        """(version, resource, type, object, the object before) of every change that is remembered."""
        self._items = {}
        self._said = {}

    # -- reading

    def get(self, resource, namespace, name):
        """The object, or a refusal that it is not there."""
        found = self.find(resource, namespace, name)
        if found is None:
            raise refusals.not_found(resource, name)
        return found

    def find(self, resource, namespace, name):
        with self.lock:
            return self._items.get(resource, {}).get((namespace, name))

    def list(self, resource, namespace=None):
        """In the order of their names, as etcd has them."""
        with self.lock:
            items = self._items.get(resource, {})
            return [items[key] for key in sorted(items) if namespace is None or key[0] == namespace]

    def everything(self):
        """All objects but events, which neither own nor are owned."""
        with self.lock:
            kept = [(resource, items) for resource, items in self._items.items() if resource is not EVENTS]
            return [(resource, item) for resource, items in kept for item in items.values()]

    def since(self, version):
        """The changes after a version."""
        with self.lock:
            index = len(self.history)
            while index and self.history[index - 1][0] > version:
                index -= 1
            return self.history[index:]

    def compact(self):
        """Let every version that anybody has seen be too old. Watches that are open go on."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.changed.notify_all()

    # -- writing

    def create(self, resource, item):
        """Keep a new object. It has its name, its uid and its defaults by now."""
        metadata = item["metadata"]
        key = (metadata.get("namespace"), metadata["name"])
        with self.changed:
            if key in self._items.get(resource, {}):
                raise refusals.already_exists(resource, metadata["name"])
            self._record(resource, "ADDED", key, item)
            return item

    def update(self, resource, item, expected=None):
        """Replace an object; one that waits only for its finalizers goes when it has none left.

        Args:
            expected: the resource version that it must have, or None.
        """
        metadata = item["metadata"]
        key = (metadata.get("namespace"), metadata["name"])
        with self.changed:
            old = self.get(resource, *key)
            stale = expected is not None and expected != old["metadata"]["resourceVersion"]
            if stale or metadata["uid"] != old["metadata"]["uid"]:
                raise refusals.conflict(resource, metadata["name"])
            if _bare(item) == _bare(old):
                return old
            if "generation" in metadata and _spec(item) != _spec(old):
                metadata["generation"] = old["metadata"]["generation"] + 1
            if not metadata.get("finalizers"):
                metadata.pop("finalizers", None)
            gone = "deletionTimestamp" in metadata and "finalizers" not in metadata
            if gone and metadata.get("deletionGracePeriodSeconds", 0) == 0:
                return self._remove(resource, key, copy.deepcopy(old))  # its end shows the finalizer that went last
            self._record(resource, "MODIFIED", key, item)
            return item

    def change(self, resource, namespace, name, edit):
        """Let `edit` change a copy of an object, in one step; False from it changes nothing."""
        with self.lock:
            item = copy.deepcopy(self.get(resource, namespace, name))
            return item if edit(item) is False else self.update(resource, item)

    def delete(self, resource, namespace, name, policy="Background", grace=None):
        """Delete an object, by its finalizers and its grace period.

        Args:
            policy: what becomes of its dependents: Background, Foreground or Orphan.
            grace: seconds for a pod to end in; None for what its spec says.

        Returns:
            The object as it is now, and whether it is gone.
        """
        with self.changed:
            old = self.get(resource, namespace, name)
            item = copy.deepcopy(old)
            metadata = item["metadata"]
            finalizers = [f for f in metadata.get("finalizers", ()) if f not in (FOREGROUND, ORPHAN)]
            finalizers += {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(policy, [])
            if resource is PODS and policy != "Orphan":
                finalizers = [f for f in finalizers if f != FOREGROUND]  # a pod has no dependents here
            seconds = _grace(item, grace) if resource is PODS else 0
            if finalizers:
                metadata["finalizers"] = finalizers
            if not finalizers and resource is not PODS:
                return self._remove(resource, (namespace, name), item), True
            if "deletionTimestamp" not in metadata:
                metadata["generation"] = metadata.get("generation", 0) + 1
            elif seconds >= metadata.get("deletionGracePeriodSeconds", 0) and finalizers == old["metadata"].get(
                "finalizers", []
            ):
                return old, False
            metadata["deletionTimestamp"] = after(seconds)
            metadata["deletionGracePeriodSeconds"] = seconds
            self._record(resource, "MODIFIED", (namespace, name), item)
            if seconds == 0 and not finalizers:
                return self._remove(resource, (namespace, name), copy.deepcopy(item)), True
            return item, False

    def _remove(self, resource, key, item):
        self._record(resource, "DELETED", key, item)
        return item

    def _record(self, resource, kind, key, item):
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        items = self._items.setdefault(resource, {})
        before = items.get(key)
        if kind == "DELETED":
            del items[key]
        else:
            items[key] = item
        self.history.append((self.version, resource, kind, item, before))
        if len(self.history) > HISTORY:
            self.oldest = max(self.oldest, self.history[HISTORY // 2][0])
            del self.history[: HISTORY // 2 + 1]
        self.changed.notify_all()

    # -- what the controllers say

    def event(self, resource, item, kind, reason, message, component, *, host=None, field=None, action=None):
        """Record an event about an object; one that was said before is counted.

        Args:
            action: makes it an event of the newer sort, as the scheduler writes them.
        """
        metadata = item["metadata"]
        about = {
            "kind": resource.kind, "namespace": metadata["namespace"], "name": metadata["name"],
            "uid": metadata["uid"], "apiVersion": resource.api_version,
            "resourceVersion": metadata["resourceVersion"],
        }  # fmt: skip
        if field:
            about["fieldPath"] = field
        with self.lock:
            said = (metadata["uid"], reason, message)
            old = self.find(EVENTS, metadata["namespace"], self._said.get(said))
            if old is not None and not action:
                again = {**old, "metadata": dict(old["metadata"]), "count": old["count"] + 1}
                self.update(EVENTS, {**again, "lastTimestamp": timestamp()})
                return
            event = {
                "kind": "Event", "apiVersion": "v1",
                "metadata": {
                    "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"],
                    "uid": str(uuid.uuid4()), "creationTimestamp": timestamp(),
                },
                "involvedObject": about, "reason": reason, "message": message,
            }  # fmt: skip
            if action:
                moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                event |= {"source": {}, "firstTimestamp": None, "lastTimestamp": None, "type": kind}
                event |= {"eventTime": moment, "action": action, "reportingComponent": component}
                event["reportingInstance"] = f"{component}-vm"
            else:
                source = {"component": component, **({"host": host} if host else {})}
                event |= {"source": source, "firstTimestamp": timestamp(), "lastTimestamp": timestamp()}
                event |= {"count": 1, "type": kind, "eventTime": None, "reportingComponent": component}
                event["reportingInstance"] = host or ""
            self._said[said] = event["metadata"]["name"]
            self.create(EVENTS, event)


def _bare(item):
    return {**item, "metadata": {k: v for k, v in item["metadata"].items() if k != "resourceVersion"}}


def _spec(item):
    """What makes a new generation when it changes; to be put on a node does not."""
    return {name: value for name, value in item.get("spec", {}).items() if name != "nodeName"}


def _grace(pod, grace):
    """Seconds that a pod has to end in: none before it has a node and after it has ended."""
    if "nodeName" not in pod["spec"] or pod["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    return pod["spec"]["terminationGracePeriodSeconds"] if grace is None else grace


def owners(item):
    return item["metadata"].get("ownerReferences", [])


def is_finished(job):
    """Whether a Job has its last condition."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
