"""Who may ask for what (RBAC), and which pods a namespace takes (Pod Security)."""

from dataclasses import dataclass

import kubernetes_refusals as refusals

ENFORCE, WARN = "pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/warn"


@dataclass(frozen=True)
class User:
    """Whoever has a token.

    Args:
        name: such as `system:serviceaccount:ml:submitter`.
        rules: as a Role has them; None may do everything.
        namespace: where the Role holds; None is everywhere.
    """

    name: str = "kubernetes-admin"
    rules: tuple | None = None
    namespace: str | None = None

    def may(self, verb, group, resource, namespace, name=None):
        """Whether a rule allows it. `resource` has its subresource: `pods/log`."""
        if self.rules is None:
            return True
        if self.namespace is not None and namespace != self.namespace:
            return False
        return any(_allows(rule, verb, group, resource, name) for rule in self.rules)


def _allows(rule, verb, group, resource, name):
    return (
        bool({verb, "*"} & set(rule["verbs"]))
        and bool({group, "*"} & set(rule["apiGroups"]))
        and bool({resource, "*"} & set(rule["resources"]))
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
    )


def check_allowed(user, verb, resource, namespace, name=None, subresource=None):
    """Raises: Refusal: a 403 as RBAC says it."""
    full = f"{resource.plural}/{subresource}" if subresource else resource.plural
    if user.may(verb, resource.group, full, namespace, name):
        return
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    why = f'User "{user.name}" cannot {verb} resource "{full}" in API group "{resource.group}" {where}'
    raise refusals.forbidden(resource, name, why)


def check_pod_security(resource, name, spec, labels):
    """Raises: Refusal: a 403 for a pod that the namespace's labels do not admit."""
    if labels.get(ENFORCE) == "restricted" and (why := violations(spec)):
        raise refusals.forbidden(resource, name, f'violates PodSecurity "restricted:latest": {why}')


def pod_security_warning(spec, labels):
    """What is said to whoever creates a Job whose pods would be refused, or None."""
    if labels.get(WARN) == "restricted" and (why := violations(spec)):
        return f'would violate PodSecurity "restricted:latest": {why}'
    return None


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(spec):
    """How a pod's spec is not `restricted`, in the words of the admission plugin; empty when it is.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    of_pod = spec.get("securityContext", {})

    def which(test):
        names = [c["name"] for c in containers if test(c.get("securityContext", {}))]
        said = ", ".join(f'"{name}"' for name in names)
        return f"container{'s' if len(names) > 1 else ''} {said}" if names else None

    def own_or_pods(context, key):
        return context.get(key, of_pod.get(key))

    found = []
    if host := [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]:
        found.append(f"host namespaces ({', '.join(f'{key}=true' for key in host)})")
    if who := which(lambda c: c.get("privileged")):
        found.append(f"privileged ({who} must not set securityContext.privileged=true)")
    if who := which(lambda c: c.get("allowPrivilegeEscalation") is not False):
        found.append(
            f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        )
    if who := which(lambda c: "ALL" not in c.get("capabilities", {}).get("drop", ())):
        found.append(f'unrestricted capabilities ({who} must set securityContext.capabilities.drop=["ALL"])')
    if who := which(lambda c: set(c.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}):
        found.append(f"unrestricted capabilities ({who} must not include added capabilities)")
    for volume in spec.get("volumes", ()):
        if kinds := set(volume) - VOLUMES - {"name"}:
            found.append(
                f'restricted volume types (volume "{volume["name"]}" uses restricted volume type "{kinds.pop()}")'
            )
    if who := which(lambda c: own_or_pods(c, "runAsNonRoot") is not True):
        found.append(f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)")
    if of_pod.get("runAsUser") == 0:
        found.append("runAsUser=0 (pod must not set runAsUser=0)")
    if who := which(lambda c: c.get("runAsUser") == 0):
        found.append(f"runAsUser=0 ({who} must not set runAsUser=0)")
    profiles = ("RuntimeDefault", "Localhost")
    if who := which(lambda c: (own_or_pods(c, "seccompProfile") or {}).get("type") not in profiles):
        found.append(
            f"seccompProfile (pod or {who} must set securityContext.seccompProfile.type to"
            ' "RuntimeDefault" or "Localhost")'
        )
    return ", ".join(found)
