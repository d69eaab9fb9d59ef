"""What an API server does with a request, whoever carried it: the verbs on resources."""

import base64
import copy
import json
import uuid

import kubernetes_refusals as refusals
from kubernetes_admission import ENFORCE, check_allowed, check_pod_security, pod_security_warning
from kubernetes_defaults import admitted_pod, random_suffix, with_defaults
from kubernetes_rules import Findings, check_change, check_new
from kubernetes_schema import JOBS, NAMESPACES, PODS, REVIEWS, SERVICE_ACCOUNTS, decode
from kubernetes_selectors import field_test, label_test, patched
from kubernetes_store import timestamp

ORPHANS = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or"
    " set propagationPolicy=Orphan to suppress this warning"
)

LARGEST = 1_572_864
"""Bytes of an object that etcd takes."""


class Answer:
    """A status, a body, and the warnings beside it."""

    def __init__(self, body, code=200, warnings=()):
        self.body, self.code, self.warnings = body, code, list(warnings)


class Api:
    """The verbs over a store.

    Args:
        store: where the objects are.
    """

    def __init__(self, store):
        self.store = store
        self._pages = {}
        self.pod_refusal = None
        """A sentence with which every new pod is refused (such as `exceeded quota: …`), or None."""

    # -- reading

    def list(self, resource, namespace, query):
        test = selection(resource, query)
        limit = int(query.get("limit") or 0)
        with self.store.lock:
            if query.get("continue"):
                version, items = self._page(query["continue"])
            else:
                version = self.store.version
                if int(query.get("resourceVersion") or 0) > version:
                    message = f"Too large resource version: {query['resourceVersion']}, current: {version}"
                    details = {
                        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
                    }
                    raise refusals.Refusal(504, "Timeout", message, {**details, "retryAfterSeconds": 1})
                items = [item for item in self.store.list(resource, namespace) if test(item)]
        metadata = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            token = {"v": "meta.k8s.io/v1", "rv": version, "start": uuid.uuid4().hex}
            self._pages[token["start"]] = (version, items[limit:])
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                metadata["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        bare = [{k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in items]
        return Answer({
            "kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata, "items": bare,
        })  # fmt: skip

    def _page(self, token):
        try:
            found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        except ValueError:
            raise refusals.bad_request("invalid continue token: continue key is not valid") from None
        version, items = self._pages.pop(found.get("start"), (0, []))
        if version < self.store.oldest:
            raise refusals.expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new"
                " list without the continue parameter, or use the continue token in this response to retrieve the"
                " remainder of the results. Continuing with the provided token results in an inconsistent list -"
                " objects that were created, modified, or deleted between the time the first chunk was returned and"
                " now may show up in the list."
            )
        return version, items

    # -- writing

    def create(self, resource, namespace, body, query, user):
        item, warnings = _decoded(resource, body, query)
        if resource is REVIEWS:
            return Answer(_review(item, user), 201)
        metadata = item.setdefault("metadata", {})
        self._check_namespace(resource, namespace)
        if resource.namespaced and metadata.setdefault("namespace", namespace) != namespace:
            why = "the namespace of the provided object does not match the namespace sent on the request"
            raise refusals.bad_request(why)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{random_suffix()}"
        if not metadata.get("name"):
            found = Findings()
            found.required("metadata.name", "name or generateName is required")
            raise refusals.invalid(resource, "", found)
        for given in ("uid", "resourceVersion", "deletionTimestamp", "generation"):
            if given == "resourceVersion" and metadata.get(given):
                raise refusals.bad_request("resourceVersion should not be set on objects to be created")
            metadata.pop(given, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = timestamp()
        if resource in (JOBS, PODS):
            metadata["generation"] = 1
            item.pop("status", None)
        with_defaults(resource, item)
        if resource is NAMESPACES:
            item["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
            item["status"] = {"phase": "Active"}
        check_new(resource, item)
        if resource is PODS:
            self._admit(item)
        if resource is JOBS:
            warnings += filter(None, [pod_security_warning(item["spec"]["template"]["spec"], self._labels(namespace))])
        if query.get("dryRun") == "All":
            return Answer(item, 201, warnings)
        _check_size(item)
        return Answer(self.store.create(resource, item), 201, warnings)

    def create_pod(self, namespace, pod):
        """As the Job controller does it."""
        return self.create(PODS, namespace, pod, {}, None).body

    def _admit(self, pod):
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        admitted_pod(pod)
        account, priority = pod["spec"]["serviceAccountName"], pod["spec"].get("priorityClassName")
        if self.store.find(SERVICE_ACCOUNTS, namespace, account) is None:
            why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
            raise refusals.forbidden(PODS, name, why)
        if priority not in (None, "system-cluster-critical", "system-node-critical"):
            raise refusals.forbidden(PODS, name, f"no PriorityClass with name {priority} was found")
        check_pod_security(PODS, name, pod["spec"], self._labels(namespace))
        if self.pod_refusal:
            raise refusals.forbidden(PODS, name, self.pod_refusal)

    def _labels(self, namespace):
        found = self.store.find(NAMESPACES, None, namespace)
        return found["metadata"].get("labels", {}) if found else {}

    def _check_namespace(self, resource, namespace):
        if resource.namespaced and self.store.find(NAMESPACES, None, namespace) is None:
            raise refusals.not_found(NAMESPACES, namespace)

    def replace(self, resource, namespace, name, body, query, status_only=False):
        item, warnings = _decoded(resource, body, query)
        with self.store.lock:
            old = self.store.get(resource, namespace, name)
            expected = item.get("metadata", {}).get("resourceVersion") or None
            return Answer(self._replace(resource, old, item, expected, status_only), warnings=warnings)

    def patch(self, resource, namespace, name, body, query, content_type, status_only=False):
        with self.store.lock:
            old = self.store.get(resource, namespace, name)
            given = patched(old, content_type, body)
            item, warnings = _decoded(resource, given, query)
            named = isinstance(body, dict) and (body.get("metadata") or {}).get("resourceVersion")
            return Answer(self._replace(resource, old, item, named or None, status_only), warnings=warnings)

    def _replace(self, resource, old, item, expected, status_only):
        metadata = item.setdefault("metadata", {})
        for name in ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp",
                     "deletionGracePeriodSeconds", "generateName"):  # fmt: skip
            metadata.pop(name, None)
            if name in old["metadata"]:
                metadata[name] = old["metadata"][name]
        if status_only:
            item = {**copy.deepcopy(old), "status": item.get("status", {})}
        elif resource in (JOBS, PODS):
            item["status"] = old["status"]
        item = with_defaults(resource, copy.deepcopy(item))
        if "deletionTimestamp" in metadata:
            added = set(metadata.get("finalizers", ())) - set(old["metadata"].get("finalizers", ()))
            if added:
                found = Findings()
                found.forbidden("metadata.finalizers", "no new finalizers can be added if the object is being deleted")
                raise refusals.invalid(resource, metadata["name"], found)
        check_change(resource, old, item)
        _check_size(item)
        return self.store.update(resource, item, expected)

    def delete(self, resource, namespace, name, body, query):
        options = {**query, **{k: v for k, v in (body or {}).items() if v is not None}}
        policy = options.get("propagationPolicy")
        if str(options.get("orphanDependents", "")).lower() == "true":
            policy = "Orphan"
        warnings = [] if policy or resource is not JOBS else [ORPHANS]
        policy = policy or ("Orphan" if resource is JOBS else "Background")
        if policy not in ("Background", "Foreground", "Orphan"):
            raise refusals.bad_request(f'invalid DeleteOptions: propagationPolicy: Unsupported value: "{policy}"')
        grace = options.get("gracePeriodSeconds")
        try:
            with self.store.lock:
                old = self.store.get(resource, namespace, name)
                self._check_preconditions(resource, old, options.get("preconditions") or {})
                item, gone = self.store.delete(
                    resource, namespace, name, policy, None if grace is None else int(grace)
                )  # fmt: skip
        except refusals.Refusal as refusal:
            refusal.headers["Warning"] = [f'299 - "{warning}"' for warning in warnings]
            raise
        if gone and resource is not PODS:
            details = {"name": name, **({"group": resource.group} if resource.group else {})}
            details |= {"kind": resource.plural, "uid": item["metadata"]["uid"]}
            return Answer(
                {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details},
                warnings=warnings,
            )
        return Answer(item, warnings=warnings)

    def _check_preconditions(self, resource, item, wanted):
        metadata = item["metadata"]
        for key, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            if wanted.get(key) not in (None, metadata[key]):
                there = f"{word} in object meta: {metadata[key]}"
                why = f"Precondition failed: {word} in precondition: {wanted[key]}, {there}"
                raise refusals.conflict(resource, metadata["name"], why)

    def delete_collection(self, resource, namespace, body, query):
        listed = self.list(resource, namespace, {k: v for k, v in query.items() if "Selector" in k}).body
        for item in listed["items"]:
            self.delete(resource, item["metadata"].get("namespace"), item["metadata"]["name"], body, query)
        return Answer(listed)


def _check_size(item):
    if len(json.dumps(item)) > LARGEST:
        raise refusals.Refusal(500, "InternalError", "etcdserver: request is too large", {})


def selection(resource, query):
    """A test of both selectors of a query."""
    labels, fields = label_test(query.get("labelSelector")), field_test(query.get("fieldSelector"), resource)
    return lambda item: labels(item) and fields(item)


def _decoded(resource, body, query):
    """The object, and the warnings of what it has too much."""
    item, unknown = decode(resource, body)
    said = [f'unknown field "{field}"' for field in unknown]
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise refusals.bad_request(f"fieldValidation: Unsupported value: {json.dumps(validation)}")
    if unknown and validation == "Strict":
        raise refusals.undecodable(resource, f"strict decoding error: {', '.join(said)}")
    return item, said if validation == "Warn" else []


def _review(item, user):
    wanted = item.get("spec", {}).get("resourceAttributes", {})
    name = "/".join(filter(None, [wanted.get("resource", ""), wanted.get("subresource")]))
    allowed = user.may(
        wanted.get("verb", ""), wanted.get("group", ""), name, wanted.get("namespace"), wanted.get("name")
    )
    return {**item, "metadata": {}, "status": {"allowed": allowed}}


__all__ = ["ENFORCE", "Answer", "Api", "check_allowed", "selection"]
