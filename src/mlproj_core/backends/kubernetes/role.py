"""The permissions that the Kubernetes backend needs, as YAML for `kubectl apply`."""

from __future__ import annotations

from mlproj_core.backends.kubernetes.names import is_name
from mlproj_core.errors import UserError

__all__ = ["role"]


def role(namespace: str, service_account: str) -> str:
    """A Role for a namespace, and its binding.

    Args:
        namespace: where the runs are to be.
        service_account: whose permissions these are; `NAMESPACE:NAME` for one of another namespace.

    Raises:
        UserError: one of them is no name.
    """
    of_namespace, _, name = service_account.rpartition(":")
    of_namespace = of_namespace or namespace
    for what, text, dots in (("namespace", namespace, False), ("namespace", of_namespace, False), ("name", name, True)):
        if not is_name(text, dots=dots):
            raise UserError(f"{text!r} is no {what} as Kubernetes takes it: use a-z, 0-9 and '-'.")
    from importlib.resources import files

    text = files(__package__).joinpath("role.yaml").read_text()
    head, subjects, account = text.partition("subjects:\n")
    account = account.replace("namespace: ml\n", f"namespace: {of_namespace}\n")
    account = account.replace("name: mlproj-submitter\n", f"name: {name}\n")
    return head.replace("namespace: ml\n", f"namespace: {namespace}\n") + subjects + account
