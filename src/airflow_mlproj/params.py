"""The parameters of an entry point as those of a DAG: a typed form, and checks before a run begins."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import Param

from mlproj_core.errors import UserError

__all__ = ["mlproject_params"]


def mlproject_params(path: str | os.PathLike[str], entry_point: str = "main") -> dict[str, Param]:
    """Params for a DAG, `DAG(params=mlproject_params(...))`, from an entry point's schema.

    Reads files only, since a DAG is parsed again and again: the project's own, or a manifest that
    `mlproj schema URI -e ENTRY_POINT > train.json` wrote of a project which lives elsewhere.

    Args:
        path: the project's directory, or the manifest; absolute, as in `Path(__file__).parent / "projects/train"`.
        entry_point: the entry point; of a manifest the one that it was written for.

    Returns:
        A Param for each parameter, by its name. One that must be given has no default. A secret one has none, since
        Airflow stores what is given in a form: it belongs in the operator's `env_vars`.

    Raises:
        UserError: there is no such project, manifest or entry point.
    """
    place = Path(path)
    if not place.is_absolute():
        raise UserError(
            f"mlproject_params: {os.fspath(path)!r} must be absolute, since a DAG file is read from anywhere: "
            f"Path(__file__).parent / {os.fspath(path)!r}"
        )
    schema = _manifest(place) if place.is_file() else _schema_of(place, entry_point)
    required = schema.get("required", ())
    return {
        name: _param(rules, name in required)
        for name, rules in schema["properties"].items()
        if not rules.get("writeOnly")
    }


def _schema_of(directory: Path, entry_point: str) -> dict[str, Any]:
    from mlproj_core.parameters import json_schema
    from mlproj_core.spec import load_project

    return json_schema(load_project(directory).entry_point(entry_point))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"mlproject_params: {path} is not JSON: {error}. {_HOW}") from error
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        raise UserError(f"mlproject_params: {path} is no schema of an entry point. {_HOW}")
    return schema


_HOW = "Write it with `mlproj schema URI -e ENTRY_POINT`."


def _param(rules: Mapping[str, Any], required: bool) -> Param:
    schema = {name: value for name, value in rules.items() if name not in ("default", "description")}
    if isinstance(rules.get("default"), str) and schema.get("type") in ("number", "integer"):
        schema["type"] = [schema["type"], "string"]  # a default that does not fit its type runs all the same
    options = {"description": rules.get("description"), **schema}
    # Without a default, Airflow's form asks for a value and a scheduled run is refused.
    return Param(**options) if required else Param(rules.get("default"), **options)
