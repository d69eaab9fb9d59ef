"""A project's entry point as a flow, in a real server: its form, its runs, and how it is found again to be run."""

import json

import pytest
from git_world import commit, git, repository
from rest import ApiError

MLPROJECT = """
name: tuner
entry_points:
  main:
    parameters:
      data_uri: uri
      learning-rate: {type: float, default: 1e-3, description: How fast it learns.}
      seed: {type: int, default: 42}
      class: {type: string, default: none}
      self: {type: string, default: me}
      copy: {type: string, default: twice}
      folder: {type: path, default: .}
      limit: {type: float, default: inf}
    command: "python show.py {data_uri} {learning-rate} {seed} {class} {self} {copy} {folder} {limit}"
  greet:
    parameters:
      a-b: {type: string, default: hyphen}
      a_b: {type: string, default: underscore}
      a b: {type: string, default: space}
      2nd: {type: string, default: digit}
      _x: {type: string, default: leading}
      wait_for: {type: string, default: prefect's}
      model_dump: {type: string, default: pydantic's}
      model_uri: {type: string, default: mine}
      --: {type: string, default: nothing}
    command: "python show.py {a-b} {a_b} {a b} {2nd} {_x} {wait_for} {model_dump} {model_uri} {--}"
"""

SHOW = """
import json, os, sys

with open(os.environ["MLPROJ_RESULT"], "w") as file:
    json.dump({"arguments": sys.argv[1:]}, file)
"""

SERVED = """
from prefect_mlproj import project_flow

main = project_flow({uri!r}, env_manager="local", tags={{"team": "tuning"}})
"""

CALLS = """
import asyncio, json
from pathlib import Path
from prefect import flow
from prefect_mlproj import ProjectResult, project_flow

tuner = project_flow({uri!r}, env_manager="local")
greeter = project_flow({uri!r}, "greet", env_manager="local", name="greeter")
patient = greeter.with_options(name="patient", retries=2)
told = {{}}

def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"

def makes_one():
    return project_flow({uri!r})

@flow
def outer():
    return greeter(a_b="from a flow")

@flow
async def async_outer():
    return greeter(a_b="from an async flow")

if __name__ == "__main__":
    result = tuner(data_uri="runs:/1/data", folder=Path("/"), seed="7")
    assert isinstance(result, ProjectResult)
    told["given"] = result.result
    told["outer"] = outer().result
    told["async outer"] = asyncio.run(async_outer()).result
    told["missing"] = outcome(tuner)
    told["wrong"] = outcome(tuner, data_uri="runs:/1/data", seed="many")
    told["not fitting"] = outcome(tuner, data_uri="runs:/1/data", limit="much")
    told["names"] = list(greeter.parameters.properties)
    told["titles"] = [each["title"] for each in greeter.parameters.properties.values()]
    told["flows"] = [[each.name, each.version, each.description] for each in (tuner, greeter, patient)]
    told["entrypoints"] = [each.to_deployment("x").entrypoint for each in (tuner, greeter, patient)]
    told["retries"] = patient.retries
    told["unbound"] = outcome(makes_one().to_deployment, "x")
    told["in a list"] = outcome([greeter.with_options(name="x")][0].to_deployment, "x")
    told["options"] = [outcome(project_flow, {uri!r}, **{{each: None}}) for each in ("parameters", "call", "typo")]
    told["entry point"] = outcome(project_flow, {uri!r}, "mian")
    print("TOLD", json.dumps(told))
"""


@pytest.fixture(scope="module")
def project(prefect):
    """A directory with a project that shows what its command was given."""
    directory = prefect.directory / "tuner"
    directory.mkdir()
    (directory / "MLproject").write_text(MLPROJECT)
    (directory / "show.py").write_text(SHOW)
    return directory


@pytest.fixture(scope="module")
def served(prefect, project):
    """The project's main entry point, served as the variable `main` of a file."""
    return prefect.serve("tuning", SERVED.format(uri=str(project)))


@pytest.fixture(scope="module")
def told(prefect, project):
    """What a program saw that made flows of the project and called them."""
    script = prefect.start_script("calling", CALLS.format(uri=str(project)))
    assert script.wait(180) == 0, script.log
    [line] = [line for line in script.log_file.read_text().splitlines() if line.startswith("TOLD ")]
    return json.loads(line.removeprefix("TOLD "))


class TestTheForm:
    def test_the_fields_are_the_parameters_with_their_types_and_defaults(self, served):
        fields = served.deployment["parameter_openapi_schema"]["properties"]
        shown = {
            name: {key: value for key, value in field.items() if key != "position"} for name, field in fields.items()
        }
        assert shown == {
            "data_uri": {"title": "data_uri", "type": "string", "format": "uri", "description": "A URI."},
            "learning_rate": {
                "title": "learning-rate", "type": "number", "default": 0.001, "description": "How fast it learns.",
            },
            "seed": {"title": "seed", "type": "integer", "default": 42},
            "class_": {"title": "class", "type": "string", "default": "none"},
            "self_": {"title": "self", "type": "string", "default": "me"},
            "copy_": {"title": "copy", "type": "string", "default": "twice"},
            "folder": {
                "title": "folder", "type": "string", "format": "path", "default": ".", "description": "A local path.",
            },
            "limit": {"title": "limit", "anyOf": [{"type": "number"}, {"type": "string"}], "default": "inf"},
        }  # fmt: skip

    def test_the_fields_are_in_the_order_of_the_project(self, served):
        fields = served.deployment["parameter_openapi_schema"]["properties"]
        assert [field["title"] for field in sorted(fields.values(), key=lambda field: field["position"])] == [
            "data_uri", "learning-rate", "seed", "class", "self", "copy", "folder", "limit",
        ]  # fmt: skip

    def test_what_has_no_default_is_required(self, served):
        assert served.deployment["parameter_openapi_schema"]["required"] == ["data_uri"]
        assert served.deployment["enforce_parameter_schema"] is True

    def test_the_deployment_says_what_it_runs(self, served, project):
        assert served.deployment["description"] == (
            f"Runs the entry point main of the MLflow project tuner ({project})."
        )


class TestRunsFromTheAPI:
    def test_a_value_reaches_the_command_and_a_default_as_the_project_writes_it(self, prefect, served):
        run = served.run({"data_uri": "runs:/1/data", "seed": 7, "class_": "it's"})
        prefect.wait_for_flow_run(run)
        [command] = [line for line in prefect.log_text(run).splitlines() if "command: " in line]
        assert """ python show.py runs:/1/data 1e-3 7 'it'"'"'s' me twice /""" in command
        assert command.endswith(" inf")

    def test_it_is_a_task_of_its_flow_run(self, prefect, served):
        run = served.run({"data_uri": "runs:/1/data"})
        prefect.wait_for_flow_run(run)
        [task] = prefect.task_runs(run)
        assert task["name"] == "tuner/main"
        [table] = [each for each in prefect.artifacts(run) if each["type"] == "table"]
        values = {row["name"]: row["value"] for row in json.loads(table["data"])}
        assert values["learning-rate"] == "1e-3"

    @pytest.mark.parametrize(
        ("parameters", "complaint"),
        [
            ({}, "data_uri"),
            ({"data_uri": "runs:/1/data", "seed": "many"}, "seed"),
            ({"data_uri": "runs:/1/data", "seed": 1.5}, "seed"),
            ({"data_uri": "runs:/1/data", "learning_rate": "fast"}, "learning_rate"),
            ({"data_uri": 3}, "data_uri"),
        ],
    )
    def test_a_value_that_does_not_fit_is_refused_and_nothing_is_run(self, prefect, served, parameters, complaint):
        before = len(prefect.runs_of("tuner-main"))
        with pytest.raises(ApiError, match=complaint) as raised:
            served.run(parameters)
        assert raised.value.status in (409, 422)
        assert len(prefect.runs_of("tuner-main")) == before

    def test_a_flow_of_a_git_project_runs_and_names_its_commit(self, prefect):
        work = repository(prefect.directory / "published", MLproject=MLPROJECT, show_dot_py=SHOW)
        first = git("rev-parse", "HEAD", cwd=work)
        commit(work, "a further parameter", MLproject=MLPROJECT.replace("seed:", "seeds:").replace("{seed}", "{seeds}"))
        text = SERVED.format(uri=f"git+file://{work}").replace("env_manager", f"version={first!r}, env_manager")
        served = prefect.serve("tuning_of_git", text)
        assert first in served.deployment["description"]
        assert served.deployment["version"] == first
        run = served.run({"data_uri": "runs:/1/data", "seed": 8})
        prefect.wait_for_flow_run(run)
        assert "command: python show.py runs:/1/data 1e-3 8 none" in prefect.log_text(run)


class TestTheDeploymentsEntrypoint:
    def test_it_is_the_file_and_the_variable(self, served, told):
        assert served.deployment["entrypoint"] == "tuning.py:main"
        assert told["entrypoints"] == ["calling.py:tuner", "calling.py:greeter", "calling.py:patient"]

    @pytest.mark.parametrize("where", ["unbound", "in a list"])
    def test_a_flow_that_is_no_variable_of_a_module_is_refused(self, told, where):
        assert told[where].startswith("UserError: The flow ")
        assert "assign it at the module's top level" in told[where]


class TestCalls:
    def test_values_are_converted_and_reach_the_command(self, told):
        assert told["given"] == {"arguments": ["runs:/1/data", "1e-3", "7", "none", "me", "twice", "/", "inf"]}

    @pytest.mark.parametrize(("way", "text"), [("outer", "from a flow"), ("async outer", "from an async flow")])
    def test_it_is_a_flow_in_a_flow(self, told, way, text):
        assert told[way]["arguments"] == [
            "hyphen", text, "space", "digit", "leading", "prefect's", "pydantic's", "mine", "nothing",
        ]  # fmt: skip

    def test_a_missing_value_is_refused(self, told):
        assert "data_uri" in told["missing"]

    def test_a_value_of_the_wrong_type_is_refused(self, told):
        assert told["wrong"].startswith("ParameterTypeError")
        assert "seed" in told["wrong"]

    def test_what_the_form_cannot_check_the_project_refuses(self, told):
        assert told["not fitting"].startswith("InvalidParameters")
        assert "limit" in told["not fitting"]


class TestNames:
    def test_every_parameter_has_an_identifier_of_its_own_and_its_own_name_as_title(self, told):
        assert told["titles"] == ["a-b", "a_b", "a b", "2nd", "_x", "wait_for", "model_dump", "model_uri", "--"]
        assert told["names"] == [
            "a_b_", "a_b", "a_b__", "p_2nd", "x", "wait_for_", "p_model_dump", "model_uri", "p_",
        ]  # fmt: skip

    def test_a_flow_is_named_after_project_and_entry_point_or_as_asked(self, told):
        assert [name for name, _, _ in told["flows"]] == ["tuner-main", "greeter", "patient"]

    def test_a_flow_with_other_options_is_one_of_the_same_entry_point(self, told):
        [_, [_, version, description], [_, other_version, other_description]] = told["flows"]
        assert (version, description) == (other_version, other_description)
        assert told["retries"] == 2


class TestWhatIsRefused:
    def test_an_option_that_is_none(self, told):
        assert [text.partition(".")[0] for text in told["options"]] == [
            "UserError: project_flow takes no parameters",
            "UserError: project_flow takes no call",
            "UserError: project_flow takes no typo",
        ]

    def test_an_entry_point_that_is_not_there(self, told):
        assert told["entry point"].startswith("UserError: There is no entry point 'mian'")
