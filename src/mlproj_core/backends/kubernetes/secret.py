"""The Secret of an attempt: all that may be secret, and the files that its pod needs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlproj_core.backends.kubernetes.code import ALTERNATIVES, GIT_PASSWORD, GIT_USERNAME
from mlproj_core.backends.kubernetes.names import is_variable
from mlproj_core.errors import UserError

__all__ = ["LIMIT", "RESERVE", "SecretContent", "build_secret"]

LIMIT = 1 << 20
"""Bytes of data that a Secret may hold: `MaxSecretSize` of Kubernetes."""
RESERVE = 16 << 10
"""Bytes of these for what is not known at the claim: the MLflow run and its login."""

CODE_KEY, LAUNCHER_KEY, PLAN_KEY = "code.tar.gz", "launcher.py", "plan.json"


@dataclass(frozen=True)
class SecretContent:
    """What an attempt's Secret holds.

    Attributes:
        variables: the pod's variables that may be secret.
        archive: the code, as a gzipped tar; None if it gets in by another way.
        launcher: text of the launcher; None for a project with an image of its own.
        plan: the launcher's plan.
        git_login: user and password for the repository that the pod clones; None for none.
    """

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    archive: bytes | None = field(default=None, repr=False)
    launcher: str | None = field(default=None, repr=False)
    plan: str | None = field(default=None, repr=False)
    git_login: tuple[str, str] | None = field(default=None, repr=False)

    def data(self) -> dict[str, bytes]:
        """The values by their keys: a variable's is its name.

        Raises:
            UserError: a variable has a name that cannot be, or there is too much for a Secret.
        """
        files: dict[str, bytes | None] = {
            CODE_KEY: self.archive,
            LAUNCHER_KEY: None if self.launcher is None else self.launcher.encode(),
            PLAN_KEY: None if self.plan is None else self.plan.encode(),
            GIT_USERNAME: None if self.git_login is None else self.git_login[0].encode(),
            GIT_PASSWORD: None if self.git_login is None else self.git_login[1].encode(),
        }
        check_variables(self.variables)
        data = {name: value.encode(errors="surrogateescape") for name, value in self.variables.items()}
        data.update({name: value for name, value in files.items() if value is not None})
        size = sum(map(len, data.values()))
        if size > LIMIT:
            raise UserError(self._too_large(data, size))
        return data

    def fits(self) -> bool:
        """Whether it fits into a Secret, beside what comes later."""
        try:
            return sum(map(len, self.data().values())) + RESERVE <= LIMIT
        except UserError:
            return False

    def _too_large(self, data: Mapping[str, bytes], size: int) -> str:
        archive = len(self.archive or b"")
        if size - archive <= LIMIT // 2:
            return (
                f"The project's code has {_kib(archive)} compressed, and a Kubernetes Secret holds {_kib(LIMIT)}, of "
                f"which {_kib(LIMIT - size + archive)} are left for it. {ALTERNATIVES}"
            )
        largest = max((name for name in data if name != CODE_KEY), key=lambda name: len(data[name]))
        return (
            f"A Kubernetes Secret holds {_kib(LIMIT)}, but the run's variables and files have {_kib(size - archive)}. "
            f"The largest, {largest}, has {_kib(len(data[largest]))}: give large values by a file that the project "
            "reads."
        )


def build_secret(
    *, name: str, namespace: str, labels: Mapping[str, str], owner_uid: str, content: SecretContent
) -> dict[str, Any]:
    """The Secret of an attempt, owned by its Job and deleted with it.

    Args:
        name: the attempt's, which is the Job's too.
        namespace: the Job's.
        labels: the Job's.
        owner_uid: the Job's.
        content: what it holds.

    Raises:
        UserError: see `SecretContent.data`.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels),
            # Without blockOwnerDeletion, which would take a permission on the Job's finalizers.
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner_uid}],
        },
        "type": "Opaque",
        "immutable": True,
        "data": {key: base64.b64encode(value).decode() for key, value in content.data().items()},
    }


def check_variables(names: Mapping[str, str] | tuple[str, ...]) -> None:
    """Check the names of a pod's variables.

    Raises:
        UserError: one cannot be, in a pod or as a Secret's key.
    """
    ours = (CODE_KEY, LAUNCHER_KEY, PLAN_KEY, GIT_USERNAME, GIT_PASSWORD)
    for name in names:
        if not is_variable(name) or name in ours:
            raise UserError(
                f"A variable cannot have the name {name!r} in a pod: use letters, digits and underscores, and no digit "
                "at the beginning."
            )


def _kib(size: int) -> str:
    return f"{size / 1024:.0f} KiB"
