"""What mlproj reads in a project's directory, and what it says of everything that is wrong there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlproj_core.errors import InvalidProject, UserError
from mlproj_core.spec import (
    CondaEnvSpec,
    DatabricksSparkJobSpec,
    DockerEnvSpec,
    PythonEnvSpec,
    check_project,
    describe,
    load_project,
)
from mlproj_core.spec.document import UnreadableDocument, read_document
from mlproj_core.spec.template import escape, faults

WHOLE = """\
name: wine

python_env: python_env.yaml

entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.5, description: how much}
      data: path
      label:
        type: string
        default: ""
    command: "python train.py {alpha} {data} {label}"
  evaluate:
    command: "python evaluate.py"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "python_env.yaml").write_text('python: "3.11"\ndependencies: [numpy]\n')
    return tmp_path


def write(directory: Path, text: str, name: str = "MLproject") -> Path:
    (directory / name).write_text(text)
    return directory


def refusal(directory: Path) -> InvalidProject:
    with pytest.raises(InvalidProject) as caught:
        load_project(directory)
    return caught.value


def said(directory: Path, severity: str) -> list[str]:
    """What `check_project` says, each as `line:column: message`."""
    problems = [problem for problem in check_project(directory) if problem.severity == severity]
    return [f"{problem.line}:{problem.column}: {problem.message} — {problem.remedy}" for problem in problems]


# Reading


def test_a_project_has_a_name_entry_points_parameters_and_an_environment(directory):
    project = load_project(write(directory, WHOLE))
    assert project.name == "wine"
    assert project.path == directory / "MLproject"
    assert list(project.entry_points) == ["main", "evaluate"]
    main = project.entry_point("main")
    assert main.command == "python train.py {alpha} {data} {label}"
    assert [(p.name, p.type, p.default, p.required, p.line) for p in main.parameters.values()] == [
        ("alpha", "float", 0.5, False, 8),
        ("data", "path", None, True, 9),
        ("label", "string", "", False, 10),
    ]
    assert (main.line, main.project) == (6, "wine")
    assert project.environment == PythonEnvSpec(directory / "python_env.yaml", "3.11", (), ("numpy",))
    assert project.warnings == ()


def test_a_project_can_be_pickled_and_is_equal_to_itself_read_again(directory):
    project = load_project(write(directory, WHOLE))
    assert pickle.loads(pickle.dumps(project)) == project == load_project(directory)


def test_the_directory_may_be_relative_and_is_made_absolute(directory, monkeypatch):
    write(directory, WHOLE)
    monkeypatch.chdir(directory.parent)
    assert load_project(directory.name).directory == directory


def test_of_several_mlproject_files_the_one_spelled_so_counts_with_a_warning(tmp_path):
    for name in ("MLPROJECT", "mlproject", "MLproject"):
        write(tmp_path, f"name: {name}\n", name)
    project = load_project(tmp_path)
    assert project.name == "MLproject"
    assert "MLPROJECT, mlproject" in str(project.warnings[0])


def test_a_directory_named_mlproject_beside_the_file_is_no_matter(tmp_path):
    (tmp_path / "mlproject").mkdir()
    assert load_project(write(tmp_path, "name: file\n")).name == "file"


def test_a_directory_named_mlproject_alone_is_an_error(tmp_path):
    (tmp_path / "MLproject").mkdir()
    assert "is a directory" in str(refusal(tmp_path))


def test_a_file_that_may_not_be_read_or_leads_nowhere_is_an_error(tmp_path):
    (tmp_path / "MLproject").symlink_to(tmp_path / "gone")
    assert "cannot be read: No such file" in str(refusal(tmp_path))


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_where_there_is_no_project_directory_it_says_so(tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(UserError, match=r"[Gg]ive the directory that holds"):
        load_project(tmp_path / "it" / "deeper")


def test_all_problems_of_a_file_are_in_one_error_each_with_file_line_column_and_remedy(directory):
    error = refusal(
        write(
            directory,
            "python_env: missing.yaml\n"
            "conda_env: conda.yaml\n"
            "entry_points:\n"
            "  main: python train.py\n"
            "  other:\n"
            "    parameters:\n"
            "      alpha: 0.5\n"
            "      beta:\n"
            "    command: x\n",
        )
    )
    file = directory / "MLproject"
    assert [problem.partition(": ")[0] for problem in error.problems] == [
        f"{file}:4:3",
        f"{file}:7:7",
        f"{file}:8:7",
        f"{file}:2:1",
        f"{file}:1:1",
    ]
    assert all(" — " in problem for problem in error.problems)
    assert all(problem in str(error) for problem in error.problems)
    assert error.exit_code == 2


def test_a_file_is_named_as_the_caller_named_its_directory(directory, monkeypatch):
    write(directory, "entry_points: []\n")
    monkeypatch.chdir(directory)
    assert refusal(Path()).problems[0].startswith("./MLproject:1:1: ")


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("name: x\nentry_points:\n\tmain:\n", ":3:1: ", "use spaces"),
        ("name: a: b\n", ":1:8: ", "quote the value"),
        ("name: @x\n", ":1:7: ", "quote the value"),
        ("a: 1\n---\nb: 2\n", ":2:1: ", "one document"),
        ("name: 'x\n", ":2:1: ", "quotes"),
        ("x: 2024-02-30\n", ":1:4: ", "timestamp"),
        ("x: !!python/name:os.system\n", ":1:4: ", "only plain YAML"),
        ("x: a\x07b\n", ":1:5: ", "U+0007"),
        ("[" * 20_000, ": ", "too deeply"),
        ("- " * 20_000, ": ", "too deeply"),
    ],
)
def test_what_is_no_yaml_is_reported_with_its_place_and_a_remedy(tmp_path, text, where, words):
    (problem,) = refusal(write(tmp_path, text)).problems
    assert f"MLproject{where}" in problem
    assert words in problem


def test_bytes_that_are_no_utf8_are_reported_with_their_place(tmp_path):
    (tmp_path / "MLproject").write_bytes(b"name: x\nauthor: Ren\xe9\n")
    assert "MLproject:2:12: not UTF-8 text: byte 0xe9" in str(refusal(tmp_path))


ALPHABET = "ab01\n \t-:{}[],'\"#|>&*!?%@\\~=.<\r\u2028\x85\ufeffé🍷"


@settings(max_examples=200, derandomize=True, deadline=None)
@example("0\t")
@example("{a? b: c}")
@example("a: ># b")
@example("a: ! 1")
@example("!")
@example("x: 1\n\ufeff")
@example("? [a]\n: b")
@given(st.text(ALPHABET, max_size=30))
def test_values_are_exactly_those_of_pyyaml(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode())
    try:
        with path.open(encoding="utf-8") as file:
            expected = repr(yaml.safe_load(file))
    except Exception:
        with pytest.raises(UnreadableDocument):
            read_document(path)
    else:
        assert repr(read_document(path).value) == expected


def test_a_mlproject_is_read_in_a_few_milliseconds_and_yaml_is_only_imported_for_it(directory):
    write(directory, WHOLE)
    load_project(directory)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        load_project(directory)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
    code = "import sys, mlproj_core.spec, mlproj_core.parameters; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Entry points


def test_an_unknown_entry_point_names_those_there_are_and_the_one_that_was_meant(directory):
    with pytest.raises(UserError, match=r"no entry point 'evalute'.*Did you mean 'evaluate'\?.*main, evaluate"):
        load_project(write(directory, WHOLE)).entry_point("evalute")


def test_a_script_that_is_not_there_is_an_error_that_names_the_one_that_was_meant(directory):
    (directory / "train.py").touch()
    with pytest.raises(UserError, match=r"neither an entry point of the project nor a file.*Did you mean 'train.py'"):
        load_project(directory).entry_point("trian.py")


def test_a_file_with_a_misspelled_name_is_pointed_out(tmp_path):
    with pytest.raises(UserError, match=r"MLproject\.yaml is not read: rename it to MLproject"):
        load_project(write(tmp_path, WHOLE, "MLproject.yaml")).entry_point("main")


def test_a_shell_script_is_run_by_the_callers_shell(tmp_path, monkeypatch):
    (tmp_path / "go now.sh").touch()
    monkeypatch.setenv("SHELL", "/bin/zsh")
    assert load_project(tmp_path).entry_point("go now.sh").command == "/bin/zsh 'go now.sh'"
    monkeypatch.delenv("SHELL")
    assert load_project(tmp_path).entry_point("go now.sh").command == "bash 'go now.sh'"


def test_an_entry_point_without_a_command_leaves_the_others_usable(directory):
    project = load_project(write(directory, "entry_points:\n  a: {}\n  b:\n    command: echo\n"))
    assert project.entry_point("b").bind().command == "echo"
    with pytest.raises(InvalidProject, match=r"MLproject:2:3: entry point 'a' has no command — write command"):
        project.entry_point("a").bind()


# Commands


def test_every_placeholder_that_cannot_be_filled_in_is_reported_where_it_stands(directory):
    write(
        directory,
        "entry_points:\n"
        "  main:\n"
        "    parameters: {alpha: float}\n"
        "    command: >\n"
        "      run ${HOME} {alpha} {{alpah}}\n"
        "      {alpah} {alpha:.2f} {}\n",
    )
    with pytest.raises(InvalidProject) as caught:
        load_project(directory).entry_point("main").bind({"alpha": 1})
    file = directory / "MLproject"
    assert [problem.replace(f"{file}:", "").partition(": ")[0] for problem in caught.value.problems] == [
        "5:12",
        "6:7",
        "6:15",
        "6:27",
    ]
    for words in (
        "write ${{HOME}} for a variable of the shell",
        "did you mean {alpha}?",
        "write {alpha}",
        "has no parameter",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("command", "part", "words"),
    [
        ("echo }", "}", "{{ or }}"),
        ("echo {x} and {x", "{x", "braces of the command"),
        ("awk '{print $1}'", "{print $1}", "{{print $1}}"),
        ("echo { x }", "{ x }", "without spaces"),
        ("echo {x.real}", "{x.real}", "attribute"),
        ("echo {x:{y}}", "{x:{y}}", "'y'"),
        ("echo {x[a]}", "{x[a]}", "cannot be filled in"),
        ("echo {m.x}", "{m.x}", "rename the parameter"),
    ],
)
def test_what_is_wrong_with_a_command_comes_with_a_remedy(command, part, words):
    (fault,) = faults(command, ["x", "m.x"])
    assert fault.text == part
    assert words in fault.message + fault.remedy


@given(st.text())
def test_escaped_text_renders_as_itself(text):
    assert escape(text).format() == text


# Environments


def test_a_project_that_names_no_environment_needs_a_python_and_no_packages(tmp_path):
    assert load_project(tmp_path).environment == PythonEnvSpec()


def test_a_faulty_environment_file_is_an_error_only_when_an_environment_is_asked_for(directory):
    (directory / "python_env.yaml").write_text(
        "python: 3.10\ndependancies: [numpy]\nbuild_dependencies:\n  - pip: [x]\n"
    )
    project = load_project(write(directory, WHOLE))
    assert project.entry_point("evaluate").bind().command
    with pytest.raises(InvalidProject) as caught:
        _ = project.environment
    assert [problem.partition("python_env.yaml:")[2] for problem in caught.value.problems] == [
        "2:1: unknown key 'dependancies', which MLflow refuses — did you mean 'dependencies'?",
        '1:9: python must be text, but 3.10 is read as a number — quote it: python: "3.10"',
        "4:5: build_dependencies must hold text only, found {'pip': ['x']} — "
        "list the requirements directly: a pip section belongs in a conda.yaml",
    ]


def test_a_conda_environment_knows_its_pip_part_and_what_that_leaves_out(tmp_path):
    write(
        tmp_path,
        "name: c\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip=24\n  - cudatoolkit=11.8\n"
        "  - pip:\n    - mlflow\n    - -r requirements.txt\n",
        "conda.yaml",
    )
    spec = load_project(tmp_path).environment
    assert isinstance(spec, CondaEnvSpec)
    assert (spec.name, spec.channels, spec.left_out) == ("c", ("conda-forge",), ("cudatoolkit=11.8",))
    assert spec.conda_packages == ("python=3.11", "pip=24", "cudatoolkit=11.8")
    assert spec.as_python_env() == PythonEnvSpec(
        tmp_path / "conda.yaml", "3.11", ("pip==24",), ("mlflow", "-r requirements.txt")
    )


def test_a_conda_environment_without_a_version_of_python_loads_but_becomes_no_virtual_environment(tmp_path):
    write(tmp_path, "dependencies: [python]\n", "conda.yaml")
    spec = load_project(tmp_path).environment
    with pytest.raises(InvalidProject, match=r"conda.yaml:1:16: 'python' names no version.*python=3.11"):
        spec.as_python_env()


def test_a_container_is_described_by_image_volumes_and_variables(tmp_path):
    write(tmp_path, "name: d\ndocker_env:\n  image: i\n  volumes: [a:b]\n  environment: [[A, 1], HOME]\n")
    assert load_project(tmp_path).environment == DockerEnvSpec("i", ("a:b",), (("A", "1"), "HOME"))


def test_a_databricks_job_has_no_environment(tmp_path):
    project = load_project(write(tmp_path, "databricks_spark_job: {python_file: a.py, parameters: [1]}\n"))
    assert project.databricks_spark_job == DatabricksSparkJobSpec("a.py", (1,))
    assert project.environment is None
    with pytest.raises(UserError, match="backend databricks"):
        project.entry_point("main")


# Validation


def test_a_sound_project_has_no_problems(directory):
    assert check_project(write(directory, WHOLE)) == []


def test_every_oddity_is_a_warning_with_its_place_and_remedy(directory):
    write(
        directory,
        "nam: wine\n"
        "entry_points:\n"
        "  main:\n"
        "    paramters: {}\n"
        "    parameters:\n"
        "      a: {type: number, default: 1}\n"
        "      b: {type: float, default:0.1}\n"
        "      b2: {type: int, default: 1.5}\n"
        "      on: {type: string, default: x}\n"
        "      unused: string\n"
        "      z: {type: colour, default: red}\n"
        "    command: \"run {a} '{b}' ${b2} {True} {z}\"\n",
    )
    assert said(directory, "error") == []
    assert said(directory, "warning") == [
        "1:1: the project has the unknown key 'nam', which is ignored — did you mean 'name'?",
        "4:5: entry point 'main' has the unknown key 'paramters', which is ignored — did you mean 'parameters'?",
        "6:7: the type 'number' of parameter 'a' is unknown and read as string — did you mean 'float'?",
        "7:24: parameter 'b' has the unknown key 'default:0.1', which is ignored — "
        "write a space after the colon: default: 0.1",
        "8:7: the default 1.5 of parameter 'b2' is not a whole number — correct the default or the type",
        "9:7: the name of a parameter is not text: YAML reads it as True — quote it",
        "10:7: the command of entry point 'main' does not use its parameter 'unused' — "
        "write {unused} where its value belongs; declared parameters are not appended",
        "11:7: the type 'colour' of parameter 'z' is unknown and read as string — "
        "the types are string, float, int, path, uri",
        "12:24: {b} stands in quotes, but values are quoted already — remove the quotes around it",
        "12:30: ${b2} puts a dollar sign before the value of the parameter — "
        "write {b2} for the value, or ${{b2}} for a variable of the shell",
    ]


def test_validation_reports_what_keeps_one_entry_point_from_running(directory):
    write(directory, 'entry_points:\n  main: {command: "echo ${HOME}"}\n  other: {command: [a]}\n')
    assert [text.partition(" — ")[0] for text in said(directory, "error")] == [
        "2:26: entry point 'main': the placeholder {HOME} names 'HOME', which is no parameter of this entry point",
        "3:20: the command of entry point 'other' must be text, found a list",
    ]


def test_validation_reports_the_environment_file_too(tmp_path):
    write(tmp_path, "dependencies: [python, numpy]\n", "conda.yaml")
    warnings = [str(problem) for problem in check_project(tmp_path) if problem.severity == "warning"]
    assert "conda.yaml:1:16: 'python' names no version of Python" in warnings[0]
    assert "lacks these conda packages: numpy" in warnings[1]
    write(tmp_path, "python: 3.10\n", "python_env.yaml")
    (problem,) = check_project(tmp_path)
    assert (problem.severity, problem.line, problem.column) == ("error", 1, 9)
    assert problem.to_dict()["file"] == os.path.join(tmp_path, "python_env.yaml")  # noqa: PTH118


def test_keys_that_stand_twice_are_a_warning_of_project_and_validation(directory):
    write(directory, "name: a\nname: b\nentry_points: {main: {command: x, command: y}}\n")
    project = load_project(directory)
    assert (project.name, project.entry_point("main").command) == ("b", "y")
    assert [(warning.line, warning.column) for warning in project.warnings] == [(2, 1), (3, 35)]


# Description


def test_a_description_is_plain_json_with_everything_a_caller_asks_for(directory):
    import json

    described = json.loads(json.dumps(describe(load_project(write(directory, WHOLE))), allow_nan=False))
    assert described["name"] == "wine"
    assert described["entry_points"]["main"]["parameters"]["alpha"] == {
        "name": "alpha",
        "type": "float",
        "declared_type": "float",
        "default": 0.5,
        "required": False,
        "description": "how much",
        "enum": None,
        "optional": False,
        "secret": False,
        "line": 8,
    }
    assert described["environment"]["kind"] == "python"
    assert described["environment"]["dependencies"] == ["numpy"]


def test_a_description_holds_dates_infinities_and_problems_of_the_environment(directory):
    import json

    (directory / "python_env.yaml").write_text("[]\n")
    write(
        directory, "entry_points: {m: {parameters: {a: {default: .inf}, b: {default: 2024-02-29}}, command: '{c}'}}\n"
    )
    described = describe(load_project(directory))
    json.dumps(described, allow_nan=False)
    parameters = described["entry_points"]["m"]["parameters"]
    assert (parameters["a"]["default"], parameters["b"]["default"]) == ("inf", "2024-02-29")
    assert "expected a mapping" in described["environment"]["problems"][0]
    assert "'c'" in described["entry_points"]["m"]["problems"][0]["message"]
