"""A project's entry point as a flow, whose form asks for the entry point's parameters."""

from __future__ import annotations

import copy
import inspect
import keyword
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from prefect.blocks.system import Secret
from prefect.flows import Flow
from prefect.utilities.hashing import file_hash
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from mlproj_core.errors import UserError
from mlproj_core.parameters import json_schema
from mlproj_core.sources import fetch
from mlproj_core.sources.workspace import workspace
from mlproj_core.spec import load_project
from prefect_mlproj.results import ProjectResult
from prefect_mlproj.step import project_name
from prefect_mlproj.tasks import run_project

__all__ = ["ProjectFlow", "project_flow"]

_NOT_FIXED = ("uri", "entry_point", "version", "parameters", "call")
"""Arguments of `run_project` that are no option of `project_flow`."""

_TAKEN = ("cls", "return_state", "self", "wait_for")
"""Names that mean something else to Prefect, where a flow is called."""

_PREFIXES = ("model_dump", "model_validate", "v__")
"""Beginnings of names that Pydantic, or Prefect's check of a call's arguments, keeps for itself."""

_TYPES: dict[str, Any] = {"integer": int, "number": float, "string": str, "boolean": bool}

_HINTS = {"path": "A local path.", "uri": "A URI."}
"""What the form says of a parameter that has no description, by its format."""


class ProjectFlow(Flow[..., ProjectResult]):
    """What `project_flow` gives: a flow that is no function of a file, and can be served and deployed all the same.

    Prefect loads a served flow anew for every run, from `file.py:name`, where the name is that of a function. Here it
    is that of the variable: so the flow must be one at the top level of its module. It is looked up when the flow
    is to be deployed.
    """

    def with_options(self, **options: Any) -> ProjectFlow:
        """A flow with other options: those of every Prefect flow. It needs a variable of its own to be served."""
        clone = copy.copy(self)
        clone.__dict__.update(super().with_options(**options).__dict__)
        return clone

    async def ato_deployment(self, *args: Any, **kwargs: Any) -> Any:
        """As `to_deployment`, without blocking the event loop.

        Raises:
            UserError: the flow is no variable of a module.
        """
        self._find()
        return await super().ato_deployment(*args, **kwargs)

    def to_deployment(self, *args: Any, **kwargs: Any) -> Any:
        """A deployment of this flow, as of every Prefect flow.

        Raises:
            UserError: the flow is no variable of a module.
        """
        self._find()
        return super().to_deployment(*args, **kwargs)

    def _find(self) -> None:
        """Tell Prefect the flow's module and name there, of which it makes the entrypoint."""
        if self._storage is not None:  # it was loaded from there, by its entrypoint
            return
        for module in (self.__module__, "__main__"):
            for name, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
                if value is self:
                    self.__module__, self.__name__, self.fn.__qualname__ = module, name, name
                    return
        raise UserError(
            f"The flow {self.name!r} is no variable of the module {self.__module__!r}, and so its runs could not load "
            f"it: assign it at the module's top level, as in `retrain = project_flow(…)`, and serve it as `retrain`."
        )


def project_flow(
    uri: str | os.PathLike[str],
    entry_point: str = "main",
    *,
    version: str | None = None,
    name: str | None = None,
    **options: Any,
) -> ProjectFlow:
    """Make a flow of an entry point: its parameters are the entry point's, typed, with their defaults.

        retrain = project_flow("https://github.com/me/project", "train")

        if __name__ == "__main__":
            retrain.serve("weekly", cron="0 6 * * 1")

    The project is fetched and read when this is called, so whenever a served flow is about to run: a commit as
    `version` makes all runs use the parameters that the deployment shows, and a run whose project cannot be fetched
    fails before it begins. A relative directory is looked up in the working directory, as everywhere:
    `Path(__file__).parent / "…"` does not depend on it. A parameter whose name is no Python identifier has a similar
    one as the flow's parameter, such as `learning_rate` for `learning-rate`, and its own as title.

    To be served or deployed, the flow must be assigned to a variable at the top level of its module.

    Args:
        uri: the project: a local directory, an archive or a Git URI, each with `#subdirectory` if need be.
        entry_point: name of an entry point, or a `.py`, `.sh` or `.R` file of the project.
        version: for a Git project a branch, tag or commit.
        name: the flow's name; by default `<project>-<entry point>`.
        options: further arguments of `run_project`, the same for all runs, such as `backend_config`, `env_manager`,
            `mlflow_credentials` or `tags`.

    Returns:
        A flow, which returns a `ProjectResult`.

    Raises:
        UserError: there is no such entry point or option.
        SourceError: the project cannot be fetched.
    """
    known = [each for each in inspect.signature(run_project.fn).parameters if each not in _NOT_FIXED]
    if unknown := [each for each in options if each not in known]:
        raise UserError(f"project_flow takes no {', '.join(unknown)}. Its options: name, version, {', '.join(known)}.")
    git = options.get("git_credentials")
    token = git.token_for(os.fspath(uri)) if git is not None else None
    with workspace() as into:
        checkout = fetch(os.fspath(uri), version, into=into, token=token)
        project = load_project(checkout.directory)
        described = project.entry_point(entry_point)
        state = checkout.commit or (file_hash(str(project.path)) if project.path is not None else None)
    schema = json_schema(described)
    names = _identifiers(schema["properties"])
    signature = inspect.Signature(
        [_parameter(names[each], each, rules) for each, rules in schema["properties"].items()],
        return_annotation=ProjectResult,
    )
    title = project.name or project_name(uri)

    def body(**values: Any) -> Any:
        # None is what the form gives for an optional parameter that is left empty, and for a secret one.
        given = {each: values[names[each]] for each in names if values.get(names[each]) is not None}
        # What is left at its default is the project's own affair: its text reaches the command as it is written there.
        given = {each: value for each, value in given.items() if not _is_default(value, schema["properties"][each])}
        return run_project(uri, entry_point, version, given, **options, _sync=True)

    body.__signature__ = signature  # type: ignore[attr-defined]
    body.__name__ = body.__qualname__ = re.sub(r"\W", "_", entry_point)
    body.__module__ = _caller()
    body.__doc__ = None  # its parameters are described one by one
    return ProjectFlow(
        body,
        name=name or re.sub(r"[/%&<>]", "-", f"{title}-{entry_point}"),
        description=(
            f"Runs the entry point {entry_point} of the MLflow project {title} ({checkout.uri}"
            + (f", at commit {checkout.commit})." if checkout.commit else ").")
        ),
        version=state,
        persist_result=True,
    )


def _parameter(identifier: str, name: str, rules: Mapping[str, Any]) -> inspect.Parameter:
    """A parameter of the flow's signature.

    Args:
        identifier: its name.
        name: that of the project's parameter.
        rules: the JSON Schema of its values.
    """
    kind, default = _kind(rules), rules.get("default", inspect.Parameter.empty)
    if rules.get("writeOnly") or _is_optional(rules):
        kind, default = kind | None, None
    if isinstance(default, str) and rules["type"] != "string":
        kind = kind | str  # a default that does not fit its type runs all the same
    shown: dict[str, Any] = {"title": name}
    if "format" in rules:
        shown["format"] = rules["format"]
    if description := rules.get("description", _HINTS.get(rules.get("format", ""))):
        shown["description"] = description
    # Not as a `Field` that is the default: that would be the value where Prefect's older releases call the flow.
    annotation: Any = Annotated[kind, BeforeValidator(_plain), Field(json_schema_extra=shown)]
    return inspect.Parameter(identifier, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(rules: Mapping[str, Any]) -> Any:
    """The type of a parameter's values."""
    if rules.get("writeOnly"):
        return Secret  # Prefect stores what a form is given: of a block it is the block's name
    kind: Any = _TYPES[rules["type"][0] if _is_optional(rules) else rules["type"]]
    allowed = [value for value in rules.get("enum", ()) if value is not None]
    if not allowed:
        return kind

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, allowed))}")
        return value

    # No Literal: that would refuse the text of a number, which fits elsewhere.
    return Annotated[kind, AfterValidator(check), Field(json_schema_extra={"enum": allowed})]


def _is_optional(rules: Mapping[str, Any]) -> bool:
    return isinstance(rules["type"], list)


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _is_default(value: Any, rules: Mapping[str, Any]) -> bool:
    return "default" in rules and type(value) is type(rules["default"]) and bool(value == rules["default"])


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """A Python identifier for each name, which Prefect takes as a flow's parameter: itself, or a similar one."""
    names = list(names)
    found = {name: name for name in names if _is_usable(name)}
    for name in names:
        identifier = re.sub(r"\W", "_", name).strip("_")
        if not identifier[:1].isalpha() or identifier.startswith(_PREFIXES):
            identifier = f"p_{identifier}"
        while name not in found and (not _is_usable(identifier) or identifier in found.values()):
            identifier += "_"
        found.setdefault(name, identifier)
    return {name: found[name] for name in names}


def _is_usable(name: str) -> bool:
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        # Prefect makes a Pydantic model of the parameters: these cannot be its fields, or would hide what it has.
        and not name.startswith(("_", *_PREFIXES))
        and not hasattr(BaseModel, name)
        and name not in _TAKEN
    )


def _caller() -> str:
    """The name of the module that calls this module's caller."""
    frame = inspect.currentframe()
    here: Any = __name__
    while frame is not None and (here := frame.f_globals.get("__name__")) == __name__:
        frame = frame.f_back
    return str(here)
