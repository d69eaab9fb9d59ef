"""The garbage collector of the tests' cluster: what becomes of objects whose owners are deleted."""

import contextlib

import kubernetes_refusals as refusals
from kubernetes_schema import JOBS, PODS, RESOURCES
from kubernetes_store import FOREGROUND, ORPHAN, owners

TRACKING = "batch.kubernetes.io/job-tracking"
"""The finalizer of a Job's pod, until it is counted."""


def pods_of(store, job):
    """The pods that a Job controls."""
    uid = job["metadata"]["uid"]
    return [
        pod for pod in store.list(PODS, job["metadata"]["namespace"])
        if any(owner["uid"] == uid and owner.get("controller") for owner in owners(pod))
    ]  # fmt: skip


def without_finalizer(store, resource, item, finalizer):
    """Take a finalizer off an object, if it is there and has it."""

    def edit(current):
        finalizers = current["metadata"].get("finalizers", [])
        if finalizer not in finalizers:
            return False
        current["metadata"]["finalizers"] = [one for one in finalizers if one != finalizer]
        return True

    with contextlib.suppress(refusals.Refusal):
        store.change(resource, item["metadata"].get("namespace"), item["metadata"]["name"], edit)


class Garbage:
    """Looks at every change of the store.

    Args:
        store: the cluster's objects.
    """

    def __init__(self, store):
        self._store = store

    def notice(self, resource, kind, item):
        """Do what a change brings with it."""
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            if resource is JOBS:
                self._release_pods(item)
            for one, dependent in self._dependents(uid):
                self._delete_orphaned(one, dependent)
            for owner in owners(item):
                self._finish_foreground(owner["uid"])
        elif kind == "ADDED":
            self._delete_orphaned(resource, item)
        if kind != "DELETED" and "deletionTimestamp" in item["metadata"]:
            finalizers = item["metadata"].get("finalizers", ())
            if FOREGROUND in finalizers:
                for one, dependent in self._dependents(uid):
                    self._delete(one, dependent)
                self._finish_foreground(uid)
            elif ORPHAN in finalizers:
                self._orphan(resource, item)

    def _dependents(self, uid):
        return [(one, item) for one, item in self._store.everything() if any(o["uid"] == uid for o in owners(item))]

    def _delete_orphaned(self, resource, item):
        """Delete what has owners, none of which is there."""
        if owners(item) and not any(self._is_there(item, owner) for owner in owners(item)):
            self._delete(resource, item)

    def _is_there(self, item, owner):
        for resource in RESOURCES:
            if (resource.kind, resource.api_version) == (owner["kind"], owner["apiVersion"]):
                found = self._store.find(resource, item["metadata"].get("namespace"), owner["name"])
                return found is not None and found["metadata"]["uid"] == owner["uid"]
        return True  # a kind that is not known here: not for us to judge

    def _delete(self, resource, item):
        with contextlib.suppress(refusals.Refusal):
            if "deletionTimestamp" not in item["metadata"]:
                self._store.delete(resource, item["metadata"].get("namespace"), item["metadata"]["name"])

    def _finish_foreground(self, uid):
        for resource, item in self._store.everything():
            if item["metadata"]["uid"] == uid and FOREGROUND in item["metadata"].get("finalizers", ()):
                blocked = any(
                    owner.get("blockOwnerDeletion") and owner["uid"] == uid
                    for _, dependent in self._dependents(uid)
                    for owner in owners(dependent)
                )
                if not blocked:
                    without_finalizer(self._store, resource, item, FOREGROUND)

    def _orphan(self, resource, item):
        uid = item["metadata"]["uid"]

        def let_go(dependent):
            kept = [owner for owner in owners(dependent) if owner["uid"] != uid]
            dependent["metadata"]["ownerReferences"] = kept
            if not kept:
                del dependent["metadata"]["ownerReferences"]

        if resource is JOBS:
            self._release_pods(item)
        for one, dependent in self._dependents(uid):
            metadata = dependent["metadata"]
            self._store.change(one, metadata.get("namespace"), metadata["name"], let_go)
        without_finalizer(self._store, resource, item, ORPHAN)

    def _release_pods(self, job):
        for pod in pods_of(self._store, job):
            without_finalizer(self._store, PODS, pod, TRACKING)
