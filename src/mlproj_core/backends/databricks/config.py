"""What a caller sets for the Databricks backend: `backend_config`, by the API's names and by ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlproj_core.backends.databricks.compute import FORMS, Compute, read_compute
from mlproj_core.backends.databricks.fields import ACCESS, EMAIL, QUIET, WEBHOOKS, misfits
from mlproj_core.errors import UserError
from mlproj_core.request import read_backend_config
from mlproj_core.spec.problem import closest, shown

__all__ = ["CODE_WAYS", "GIT_PROVIDERS", "DatabricksConfig"]

CODE_WAYS: Final = ("auto", "archive", "git")

GIT_PROVIDERS: Final = (
    "awsCodeCommit",
    "azureDevOpsServices",
    "bitbucketCloud",
    "bitbucketServer",
    "gitHub",
    "gitHubEnterprise",
    "gitLab",
    "gitLabEnterpriseEdition",
)
"""`GitProvider` of the SDK."""

_WEBHOOKS_OF_AN_EVENT: Final = 3
"""At most, by the API."""


@dataclass(frozen=True)
class DatabricksConfig:
    """The settings of the Databricks backend. None, or nothing in it: not set.

    Attributes:
        profile: a profile of ~/.databrickscfg.
        host: the workspace's address.
        compute: where the run is computed. A run needs one; to look at runs takes none.
        run_name: what people call the run in Databricks.
        tags: tags of the MLflow run, and of a cluster that is made for it.
        settings: what else is said of the run, by the API's own names: `timeout_seconds`, `email_notifications`,
            `webhook_notifications`, `notification_settings`, `queue`, `access_control_list`, `run_as`,
            `budget_policy_id`, `usage_policy_id`, `performance_target`.
        root: directories for the code, of which the first that the workspace allows is taken: `/Volumes/…`,
            `/Workspace/…` or `dbfs:/…`.
        code: how the code gets there, one of `CODE_WAYS`.
        git_provider: who serves the project's repository, one of `GIT_PROVIDERS`.
        tracking_uri: the tracking server as seen from the cluster.
    """

    profile: str | None = None
    host: str | None = None
    compute: Compute | None = None
    run_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    root: tuple[str, ...] = ()
    code: str = "auto"
    git_provider: str | None = None
    tracking_uri: str | None = None

    @classmethod
    def read(cls, backend_config: Mapping[str, Any] | str) -> DatabricksConfig:
        """The settings that a caller gave. Hyphens and underscores in their names are one; a null sets nothing.

        Args:
            backend_config: as given to `run`: a mapping, or the path to a JSON file.

        Raises:
            UserError: all that is wrong with them: an unknown name, one given twice, a value that cannot be.
        """
        problems: list[str] = []
        given: dict[str, str] = {}
        values: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        compute: dict[str, Any] = {}
        for name, value in read_backend_config(backend_config).items():
            setting = str(name).replace("-", "_")
            if setting == "detach":  # a setting of other backends, which adapters and commands pass on
                if value is not True and value is not None:
                    problems.append("'detach' can only be true: a run outlives whoever asked for it")
            elif setting not in SETTINGS and setting not in OF_RUN and setting not in FORMS:
                problems.append(_unknown(str(name)))
            elif setting in given:
                problems.append(f"{given[setting]!r} and {name!r} are the same setting; leave one out")
            elif value is not None:
                given[setting] = str(name)
                if setting in FORMS:
                    compute[setting] = value
                    continue
                try:
                    (values if setting in SETTINGS else settings)[setting] = _READERS[setting](value)
                except ValueError as error:
                    problems.append(f"{str(name)!r} {error}")
        values["compute"] = read_compute(compute, problems)
        if problems:
            raise UserError(
                "\n  ".join(["backend_config for Databricks:", *problems])
                if problems[1:]
                else f"backend_config for Databricks: {problems[0]}"
            )
        return cls(**values, settings=settings)


def _unknown(name: str) -> str:
    meant = closest(name, [*SETTINGS, *OF_RUN, *FORMS])
    return f"there is no setting {name!r}. " + (
        f"Did you mean {meant!r}?"
        if meant
        else f"The settings are {', '.join([*SETTINGS, *OF_RUN])}; where it runs is said by 'new_cluster', "
        "'existing_cluster_id', 'job_cluster', 'serverless', 'environment_key', or a cluster's own fields."
    )


# Readers of values: each returns what is kept, or raises ValueError with what follows the setting's name.


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be text; got {shown(value)}")
    return value


def _seconds(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"must be a whole number of seconds, 0 (no limit) or more; got {shown(value)}")
    return value


def _one_of(words: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            meant = closest(value, words) if isinstance(value, str) else None
            hint = f". Did you mean {meant!r}?" if meant else ""
            raise ValueError(f"must be one of {', '.join(words)}; got {shown(value)}{hint}")
        return str(value)

    return read


def _host(value: Any) -> str:
    text = _text(value).rstrip("/")
    if not re.fullmatch(r"(https?://)?[\w.-]+(:\d+)?", text):
        raise ValueError(
            f"must be a workspace's address, such as https://dbc-0123.cloud.databricks.com; got {shown(value)}"
        )
    return text


def _tags(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and name and isinstance(text, str) for name, text in value.items()
    ):
        raise ValueError(f"must be a mapping of names to texts; got {shown(value)}")
    return dict(value)


def _fitting(shape: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if found := list(misfits(value, shape, "it")):
            raise ValueError(f"does not fit: {'; '.join(found)}")
        return value

    return read


def _webhooks(value: Any) -> Any:
    for event, targets in _fitting(WEBHOOKS)(value).items():
        if len(targets) > _WEBHOOKS_OF_AN_EVENT:
            raise ValueError(f"has {len(targets)} targets under {event!r}; Databricks takes {_WEBHOOKS_OF_AN_EVENT}")
    return value


def _queue(value: Any) -> dict[str, bool]:
    wanted = value.get("enabled") if isinstance(value, Mapping) and value.keys() == {"enabled"} else value
    if not isinstance(wanted, bool):
        raise ValueError(f"must be true or false, or {{'enabled': true}}; got {shown(value)}")
    return {"enabled": wanted}


def _access(value: Any) -> list[Any]:
    who = ("user_name", "group_name", "service_principal_name")
    for index, entry in enumerate(_fitting([ACCESS])(value)):
        if sum(name in entry for name in who) != 1 or "permission_level" not in entry:
            raise ValueError(
                f"must give each entry one of {', '.join(who)}, and a permission_level; [{index}] is {shown(entry)}"
            )
    return list(value)


def _root(value: Any) -> tuple[str, ...]:
    roots = list(value) if isinstance(value, (list, tuple)) else [value]
    for root in roots:
        if not isinstance(root, str) or not _ROOT.fullmatch(root.rstrip("/")) or ".." in root.split("/"):
            raise ValueError(
                "must be a directory for the code, or a list of which the first that the workspace allows is taken: "
                f"'/Volumes/CATALOG/SCHEMA/VOLUME/…', '/Workspace/…' or 'dbfs:/…'; got {shown(root)}"
            )
    if not roots:
        raise ValueError("must name a directory; leave it out for the default")
    return tuple(root.rstrip("/") for root in roots)


_ROOT = re.compile(r"/Volumes/[^/]+/[^/]+/[^/]+(/[^/]+)*|/Workspace(/[^/]+)+|dbfs:(/[^/]+)+")

SETTINGS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "profile": _text,
    "host": _host,
    "run_name": _text,
    "tags": _tags,
    "root": _root,
    "code": _one_of(CODE_WAYS),
    "git_provider": _one_of(GIT_PROVIDERS),
    "tracking_uri": _text,
}
"""The settings that are attributes of `DatabricksConfig`, and what reads their values."""

OF_RUN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "timeout_seconds": _seconds,
    "email_notifications": _fitting(EMAIL),
    "webhook_notifications": _webhooks,
    "notification_settings": _fitting(QUIET),
    "queue": _queue,
    "access_control_list": _access,
    "run_as": _fitting({"service_principal_name": str, "user_name": str}),
    "budget_policy_id": _text,
    "usage_policy_id": _text,
    "performance_target": _text,
}
"""The settings that go to the API as they are."""

_READERS: Final = {**SETTINGS, **OF_RUN}
