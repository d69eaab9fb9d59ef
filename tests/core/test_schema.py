"""The JSON Schema of an entry point's parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlproj_core.parameters import json_schema
from mlproj_core.spec import load_project

MLPROJECT = """\
name: wine
entry_points:
  main:
    parameters:
      rate: {type: float, default: "1e-3", description: step size}
      count: {type: int, default: 3}
      data: path
      model: {type: uri, default: "models:/wine/1"}
      label: {type: string, default: true}
      kind: {type: number, default: 1}
      endless: {type: float, default: .inf}
      odd: {type: int, default: many}
      given: float
    command: "run {rate} {count} {data} {model} {label} {kind} {endless} {odd} {given}"
  none:
    command: "run"
"""


@pytest.fixture
def schema(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "MLproject").write_text(MLPROJECT)
    return json_schema(load_project(tmp_path).entry_point("main"))


def test_types_defaults_and_formats_are_those_of_the_entry_point(schema):
    assert schema["properties"] == {
        "rate": {"type": "number", "default": 0.001, "description": "step size"},
        "count": {"type": "integer", "default": 3},
        "data": {"type": "string", "format": "path"},
        "model": {"type": "string", "format": "uri", "default": "models:/wine/1"},
        "label": {"type": "string", "default": "True"},
        "kind": {"type": "string", "default": "1"},
        "endless": {"type": "number", "default": "inf"},
        "odd": {"type": "integer", "default": "many"},
        "given": {"type": "number"},
    }
    assert schema["required"] == ["data", "given"]
    assert schema["title"] == "wine: main"
    assert "wine" in schema["description"]


def test_it_is_a_valid_schema_of_draft_2020_12_and_plain_json(schema):
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(json.dumps(schema, allow_nan=False)))


def test_a_validator_takes_what_fits_and_extra_parameters_and_refuses_the_rest(schema):
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({"data": "x.csv", "given": 1, "more": [1]})
    wrong = {"rate": "fast", "count": 1.5, "given": 2}
    assert sorted(error.validator for error in validator.iter_errors(wrong)) == ["required", "type", "type"]


def test_an_entry_point_without_parameters_or_project_name_has_a_schema_too(tmp_path):
    (tmp_path / "go.py").touch()
    schema = json_schema(load_project(tmp_path).entry_point("go.py"))
    jsonschema.Draft202012Validator(schema).validate({"anything": 1})
    assert (schema["title"], schema["properties"], schema["required"]) == ("go.py", {}, [])
