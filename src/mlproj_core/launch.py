"""A launch: all that is needed to start an attempt, the caller's secrets included. It is never stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlproj_core.claim import Record
    from mlproj_core.containers import Container
    from mlproj_core.data.remote import Download
    from mlproj_core.environments.recipe import EnvironmentSpec
    from mlproj_core.sources import Checkout, Upstream
    from mlproj_core.tracking import NewRun, Tracking

__all__ = ["Launch", "visible"]

KEPT_FROM_PROJECTS = ("MLPROJ_GIT_TOKEN",)
"""Variables of the caller that a project's process has no business with."""


def visible(caller: Mapping[str, str], withhold: Iterable[str]) -> dict[str, str]:
    """The caller's variables that a project's process may see.

    Args:
        caller: the caller's environment.
        withhold: patterns (fnmatch) of those that it may not.
    """
    from fnmatch import fnmatchcase

    withheld = (*KEPT_FROM_PROJECTS, *withhold)
    return {
        name: value for name, value in caller.items() if not any(fnmatchcase(name, pattern) for pattern in withheld)
    }


@dataclass(frozen=True)
class Launch:
    """What a backend starts.

    Attributes:
        checkout: the project's files, at a known commit where there is one.
        project_name: the name in the MLproject file, if any.
        entry_point: the entry point's name.
        command: its rendered command, for `bash -c`.
        parameters: the values it was rendered with, the extra ones too, as plain text.
        env_manager: name of the environment manager.
        environment: `{"ready": …, "request": …}`: an environment known to be ready, and how to make it; None for both
            where it is made elsewhere, or the project runs in a container.
        downloads: what is fetched for parameters of type path before the command runs.
        container: what the project asks of its container; None if it asks for none.
        spec: the environment that the project asks for; None with the environment manager "local".
        upstream: where the checkout's commit can be cloned from elsewhere; None where it cannot. It may hold a secret.
        tracking: where the MLflow run is recorded.
        new_run: the MLflow run to create.
        run_id: an existing MLflow run to use instead; None to create one.
        variables: environment variables for the project's process, on top of the caller's own. May be secret.
        secrets: those of them that are secret parameters: names only.
        timeout: seconds from the start of the work until it is ended; None for no limit.
        backend_config: what the caller gave for the backend.
        tethered: whether the run ends with the process that asks for it (local backend).
        withhold: patterns (fnmatch) of the caller's variables that neither the builder of the environment nor the
            project sees.
    """

    checkout: Checkout
    project_name: str | None
    entry_point: str
    command: str
    parameters: Mapping[str, str]
    env_manager: str
    environment: Mapping[str, Any]
    tracking: Tracking
    new_run: NewRun
    run_id: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = ()
    timeout: float | None = None
    backend_config: Mapping[str, Any] = field(default_factory=dict)
    tethered: bool = False
    withhold: Sequence[str] = ()
    downloads: Sequence[Download] = ()
    container: Container | None = None
    spec: EnvironmentSpec | None = None
    upstream: Upstream | None = None

    def surroundings(self, caller: Mapping[str, str]) -> dict[str, str]:
        """The environment of what works for a run beside its project, such as the client of its container."""
        return {**visible(caller, (*self.tracking.child_unset, *self.withhold)), **self.tracking.child_secrets}

    def environment_of(self, caller: Mapping[str, str], record: Record) -> dict[str, str]:
        """The environment of the project's process: the caller's, with what the run adds. It may hold secrets."""
        variables = visible(caller, (*self.tracking.child_unset, *self.withhold))
        variables.update(self.variables)
        variables.update(self.tracking.child_secrets)
        variables.update(self.tracking.child_variables(record.run_id, record.experiment_id or ""))
        return variables

    def request(self) -> dict[str, Any]:
        """What is asked for, as a JSON value without secrets: the part that claims are compared by."""
        checkout = self.checkout
        return {
            # What is run in place was perhaps named relative to where the caller stood.
            "uri": str(checkout.directory) if checkout.owned is None else checkout.uri,
            "version": checkout.version,
            "commit": checkout.commit,
            **({"digest": checkout.digest} if checkout.digest is not None else {}),
            "project": self.project_name,
            "entry_point": self.entry_point,
            "command": self.command,
            "parameters": dict(self.parameters),
            # Only where there are any: a claim of an earlier release is the same request without.
            **({"secrets": list(self.secrets)} if self.secrets else {}),
            "env_manager": self.env_manager,
            **({"container": self.container.request()} if self.container is not None else {}),
            "backend_config": dict(self.backend_config),
            "timeout": self.timeout,
        }
