"""A project of `mlproj: 1` in a real Prefect: the form of its flow, its flags and optional values, and its secret."""

import hashlib
import json

import pytest
from rest import ApiError

MLPROJECT = """
name: keeper
mlproj: 1
entry_points:
  main:
    parameters:
      kind: {enum: [fast, slow], default: slow}
      depth: {type: int, enum: [1, 2], optional: true}
      rate: {type: float, optional: true, description: How fast.}
      verbose: bool
      LICENCE: {secret: true}
    command: "python show.py --kind {kind} --depth={depth} --rate {rate} --verbose {verbose}"
"""

SHOW = """
import hashlib, json, os, sys

digest = hashlib.sha256(os.environ["LICENCE"].encode()).hexdigest()
with open(os.environ["MLPROJ_RESULT"], "w") as file:
    json.dump({"arguments": sys.argv[1:], "digest": digest}, file)
"""

SERVED = """
from prefect_mlproj import project_flow

main = project_flow({uri!r}, env_manager="local")
"""

CALLS = """
import json, os
from prefect import flow
from prefect.blocks.system import Secret
from prefect_mlproj import project_flow, run_project
from pydantic import SecretStr

keeper = project_flow({uri!r}, env_manager="local")
LICENCE = os.environ.pop("GIVEN")

def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs).result
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"

@flow
def calling():
    def run(**parameters):
        return outcome(run_project, {uri!r}, parameters=parameters, env_manager="local")

    Secret(value=LICENCE).save("licence", overwrite=True)
    block = Secret.load("licence")
    told = {{
        "wrapped": run(LICENCE=SecretStr(LICENCE)),
        "block": run(LICENCE=block, verbose=True),
        "loose": run(LICENCE=Secret(value=LICENCE), depth=1),
        "plain": run(LICENCE="in the open"),
        "nothing": run(),
        "variable": outcome(
            run_project, {uri!r}, parameters={{"rate": None}}, env_vars={{"LICENCE": LICENCE}}, env_manager="local",
        ),
        "a flow": outcome(keeper, LICENCE=block, depth=2, rate=0.5, kind="fast", verbose=True),
        "an undeclared choice": outcome(keeper, LICENCE=block, kind="odd"),
        "text for the secret": outcome(keeper, LICENCE="in the open"),
    }}
    with open("told.json", "w") as file:
        json.dump(told, file)

if __name__ == "__main__":
    calling()
"""

LICENCE = "k7q-licence-of-the-tests"
DIGEST = hashlib.sha256(LICENCE.encode()).hexdigest()


@pytest.fixture(scope="module")
def project(prefect):
    """A directory with a project that tells a digest of its secret."""
    directory = prefect.directory / "keeper"
    directory.mkdir()
    (directory / "MLproject").write_text(MLPROJECT)
    (directory / "show.py").write_text(SHOW)
    return directory


@pytest.fixture(scope="module")
def told(prefect, project, tracked):
    """What a program saw that ran the project in every way."""
    script = prefect.start_script("calling", CALLS.format(uri=str(project)), env={**tracked, "GIVEN": LICENCE})
    assert script.wait(180) == 0, script.log
    return json.loads((prefect.files / "told.json").read_text())


@pytest.fixture(scope="module")
def served(prefect, project):
    """The project's main entry point, served as the variable `main` of a file."""
    return prefect.serve("keeping", SERVED.format(uri=str(project)), env={"LICENCE": "of the runner"})


class TestTheForm:
    def test_it_has_a_checkbox_a_choice_fields_that_may_be_empty_and_a_block_to_choose(self, served):
        schema = served.deployment["parameter_openapi_schema"]
        fields = {
            name: {key: value for key, value in field.items() if key not in ("position", "title")}
            for name, field in schema["properties"].items()
        }
        assert fields == {
            "kind": {"type": "string", "enum": ["fast", "slow"], "default": "slow"},
            "depth": {"anyOf": [{"type": "integer", "enum": [1, 2]}, {"type": "null"}], "default": None},
            "rate": {
                "anyOf": [{"type": "number"}, {"type": "null"}], "default": None, "description": "How fast.",
            },
            "verbose": {"type": "boolean", "default": False},
            "LICENCE": {"anyOf": [{"$ref": "#/definitions/Secret"}, {"type": "null"}], "default": None},
        }  # fmt: skip
        assert schema["definitions"]["Secret"]["block_type_slug"] == "secret"
        assert schema.get("required", []) == []

    def test_a_run_gets_what_is_given_and_of_the_secret_prefect_keeps_the_blocks_id(self, prefect, served, told):
        [block] = prefect.ask(
            "POST", "block_documents", "filter",
            body={"block_documents": {"name": {"any_": ["licence"]}, "is_anonymous": {"eq_": False}}},
        )  # fmt: skip
        reference = {"$ref": {"block_document_id": block["id"]}}
        run = served.run({"LICENCE": reference, "depth": 2, "verbose": True})
        prefect.wait_for_flow_run(run)
        assert prefect.flow_run(run)["parameters"]["LICENCE"] == reference
        assert "show.py --kind slow --depth=2 --verbose" in prefect.log_text(run)

    def test_what_is_left_empty_is_not_on_the_command_line_and_a_secret_is_the_processs_own(self, prefect, served):
        run = served.run({"depth": None})
        prefect.wait_for_flow_run(run)
        assert any(line.endswith("show.py --kind slow") for line in prefect.log_text(run).splitlines())

    @pytest.mark.parametrize("parameters", [{"kind": "odd"}, {"depth": 3}, {"verbose": "perhaps"}, {"LICENCE": "text"}])
    def test_what_does_not_fit_is_refused(self, served, parameters):
        with pytest.raises(ApiError) as raised:
            served.run(parameters)
        assert raised.value.status in (409, 422)


class TestCalls:
    @pytest.mark.parametrize(
        ("way", "arguments"),
        [
            ("wrapped", ["--kind", "slow"]),
            ("block", ["--kind", "slow", "--verbose"]),
            ("loose", ["--kind", "slow", "--depth=1"]),
            ("variable", ["--kind", "slow"]),
            ("a flow", ["--kind", "fast", "--depth=2", "--rate", "0.5", "--verbose"]),
        ],
    )
    def test_a_secret_reaches_the_project_and_is_no_argument(self, told, way, arguments):
        assert told[way] == {"arguments": arguments, "digest": DIGEST}

    def test_a_plain_text_is_refused_where_prefect_would_keep_it(self, told):
        assert told["plain"].startswith("InvalidParameters")
        assert "it is secret, and others could read it here" in told["plain"]
        assert told["text for the secret"].startswith("ParameterTypeError")

    def test_none_at_all_is_refused(self, told):
        assert "set the environment variable LICENCE" in told["nothing"]

    def test_a_choice_that_there_is_not_is_refused(self, told):
        assert "'odd' is none of 'fast', 'slow'" in told["an undeclared choice"]

    def test_no_secret_is_kept_or_shown_anywhere(self, prefect, told, tmp_path_factory):
        # Prefect's database keeps the block encrypted; beside it are its results, the runs' directories and all logs,
        # and the tracking server's database.
        searched = [path for path in tmp_path_factory.getbasetemp().rglob("*") if path.is_file()]
        assert any(path.name == "claim.json" for path in searched)
        assert any(path.name == "mlflow.db" for path in searched)
        assert any(path.is_relative_to(prefect.home) and path.suffix == ".db" for path in searched)
        assert [path for path in searched if LICENCE.encode() in path.read_bytes()] == []
