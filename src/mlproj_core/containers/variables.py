"""The environment variables of a container that a project and its caller ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlproj_core.errors import UserError

__all__ = ["ContainerVariables", "resolve_environment"]


@dataclass(frozen=True)
class ContainerVariables:
    """Variables of a container. No name is in both.

    Attributes:
        visible: those that whoever may look at the container may see: what the MLproject file says in clear.
        secret: those that must show nowhere: what was copied from the caller's host, and all that the caller gave.
    """

    visible: Mapping[str, str] = field(default_factory=dict)
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)


def resolve_environment(
    of_project: Iterable[tuple[str, str] | str],
    of_caller: Iterable[tuple[str, str] | str],
    environ: Mapping[str, str],
) -> ContainerVariables:
    """The values of the variables that are asked for.

    Of a variable that both ask for, the caller's holds, and of one that is named twice the later.

    Args:
        of_project: `docker_env.environment` of the MLproject: pairs, and names of variables to copy.
        of_caller: the same by `docker_args`.
        environ: the variables that names are looked up in: the caller's own, with `env_vars` on top.

    Raises:
        UserError: a variable to copy is not set. All of them are named, and where they are asked for.
    """
    visible: dict[str, str] = {}
    secret: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    for where, asked, is_secret in (
        ("docker_env.environment of the MLproject", of_project, False),
        ("docker_args", of_caller, True),
    ):
        for item in asked:
            name = item if isinstance(item, str) else item[0]
            if isinstance(item, str) and name not in environ:
                names = missing.setdefault(where, [])
                if name not in names:
                    names.append(name)
                continue
            value = environ[name] if isinstance(item, str) else item[1]
            visible.pop(name, None)
            secret.pop(name, None)
            (secret if is_secret or isinstance(item, str) else visible)[name] = value
    if missing:
        lines = [f"{' and '.join(names)}, which {where} copies into the container" for where, names in missing.items()]
        raise UserError(
            f"Not set on this host: {'; '.join(lines)}. Set them where the run is asked for, or give them by env_vars."
        )
    return ContainerVariables(visible, secret)
