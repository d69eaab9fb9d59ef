"""Variables of a run, and secrets among them: only references to Databricks' own secrets go there.

What a run is told stands in its arguments, its files and its cluster, which others of the workspace may read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlproj_core.errors import UserError

__all__ = ["Variables", "check_cluster", "check_text", "sort_variables"]

_REFERENCE: Final = re.compile(r"\{\{secrets/([\w.@-]+)/([\w.-]+)\}\}")
"""A scope's name has letters, digits, `-`, `_`, `@` and `.`; a key's the same without `@` (Secrets API)."""

_NAMED_SECRET: Final = re.compile(
    r"(?i)(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|(API|ACCESS|ACCOUNT|PRIVATE|SECRET|PRIMARY)[_.]?KEY"
    r"|CONNECTION_?STRING)$"
)
"""How variables and settings are called that hold a secret."""

_IN_URL: Final = re.compile(r"://(?:[^/\s:@?#]*:(?!\$\{)[^/\s@]+|(?!git@)(?!\$\{)[^/\s:@?#]+)@")
"""A password or a token in a URL; `${NAME}` is none, which pip and uv replace."""

_CONDA_TOKEN: Final = re.compile(r"://[^\s]*/t/[^/\s]+/")

_NO_SECRETS: Final = ("true", "false")


@dataclass(frozen=True)
class Variables:
    """Variables of a run.

    Attributes:
        plain: those that anybody may read.
        references: by the names of the others, scope and key of their secrets.
    """

    plain: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def as_cluster_s(self) -> dict[str, str]:
        """The references as Databricks resolves them among the variables of a cluster."""
        return {name: f"{{{{secrets/{scope}/{key}}}}}" for name, (scope, key) in self.references.items()}


def sort_variables(variables: Mapping[str, str], secrets: Collection[str] = ()) -> Variables:
    """Tell plain variables from references to secrets.

    Args:
        variables: names and values.
        secrets: names of those that are secret, whatever they are called.

    Raises:
        UserError: a secret is given itself, or a reference is none that Databricks knows.
    """
    plain: dict[str, str] = {}
    references: dict[str, tuple[str, str]] = {}
    for name, value in variables.items():
        found = _REFERENCE.fullmatch(value)
        if found is not None:
            references[name] = (found[1], found[2])
        elif "{{secrets/" in value.replace(" ", ""):
            raise UserError(
                f"The variable {name} has {value!r}, which Databricks does not take for a reference to a secret: it is "
                "the whole of the value, {{secrets/SCOPE/KEY}}, without blanks."
            )
        elif value and (name in secrets or _is_secret(name, value)):
            raise UserError(_literal(f"The variable {name}", name))
        else:
            plain[name] = value
    return Variables(plain, references)


def check_cluster(spec: Mapping[str, Any]) -> None:
    """See that a cluster's specification holds no secret itself.

    Raises:
        UserError: it does; the message says where.
    """
    for path, name, value in _texts(spec, ""):
        if value and not _REFERENCE.fullmatch(value) and _is_secret(name, value):
            raise UserError(_literal(f"{path} of the cluster", name))


def check_text(text: str, what: str) -> None:
    """See that a text which others may read has no password in a URL.

    Args:
        text: such as a requirement line.
        what: what it is, for the message.

    Raises:
        UserError: it has one.
    """
    if _IN_URL.search(text) or _CONDA_TOKEN.search(text):
        raise UserError(
            f"{what} has a URL with a password or a token, which others of the workspace could read. Write ${{NAME}} "
            "in its place, and give NAME as a reference: env_vars={'NAME': '{{secrets/SCOPE/KEY}}'}."
        )


def _is_secret(name: str, value: str) -> bool:
    if value.lower() in _NO_SECRETS or re.fullmatch(r"[0-9.]*", value):
        return False
    return bool(_NAMED_SECRET.search(name) or _IN_URL.search(value))


def _texts(value: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Every text in a value: its path, its name and itself."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, path, value


def _literal(what: str, name: str) -> str:
    key = re.sub(r"[^\w.-]", "-", name.rpartition(".")[2].lower())
    return (
        f"{what} is a secret, and would stand where others of the workspace can read it. Keep it in a secret scope "
        f"(databricks secrets create-scope mlproj; databricks secrets put-secret mlproj {key}), and give a reference "
        f"instead: '{{{{secrets/mlproj/{key}}}}}'."
    )
