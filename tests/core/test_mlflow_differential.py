"""mlproj reads MLproject files as mlflow itself does, byte for byte, but for the differences listed in the docs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlproj_core.errors import UserError
from mlproj_core.spec import CondaEnvSpec, DockerEnvSpec, Project, PythonEnvSpec, load_project

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "mlprojects"
CASES = sorted(path.parent for path in DATA.rglob("cases.yaml"))

DIFFERENCES = {
    "attribute-access",
    "conda-no-dependencies",
    "conda-python-twice",
    "databricks-entry-point",
    "databricks-lists",
    "docker-pairs",
    "empty-path",
    "names-not-text",
    "nul",
    "path-checked",
    "path-not-text",
    "remote-path",
    "script-braces",
    "script-missing",
    "several-files",
    "value-types",
}
"""Every intended difference; each has a row in docs/mlproject-format.md and, but for one, a case that shows it."""

SHOWN_ELSEWHERE = {"several-files"}  # mlflow reads whichever it meets first, so that there is nothing to compare with


EXAMPLES = os.environ.get("MLPROJ_TEST_EXAMPLES")
"""How many examples to generate, at random; by default 100, always the same."""

generated = settings(max_examples=int(EXAMPLES or 100), derandomize=EXAMPLES is None, deadline=None)


class Mlflow:
    """An interpreter with mlflow that answers questions about projects."""

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("support_mlflow_dump.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, directory: Path, runs: list[dict[str, Any]] = [], cwd: Path | None = None) -> dict[str, Any]:  # noqa: B006
        request = {"directory": str(directory), "runs": runs, "cwd": str(cwd or directory)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the interpreter named by MLPROJ_TEST_MLFLOW_PYTHON has no mlflow, or mlflow ended it"
        return json.loads(answer)


@pytest.fixture(scope="module")
def mlflow(mlflow_python: str, mlflow_environment: dict[str, str]) -> Iterator[Mlflow]:
    asked = Mlflow(mlflow_python, mlflow_environment)
    yield asked
    asked.process.stdin.close()
    asked.process.stdout.close()
    asked.process.wait(timeout=30)


def outcome(make: Callable[[], Any]) -> Any:
    """What a call gives, or its error if that is a clear one; any other error fails the test."""
    try:
        return make()
    except UserError as error:
        return error


def told(project: Project) -> dict[str, Any]:
    """A project in the words of `support_mlflow_dump.py`."""
    source, job = project.environment_source, project.databricks_spark_job
    return {
        "name": project.name,
        "env_type": {"none": None}.get(source.kind, f"{source.kind}_env"),
        "env_config_path": source.path,
        "entry_points": [
            [
                name,
                None if entry_point.problems else repr(entry_point.command),
                [[p.name, p.type, repr(p.default)] for p in entry_point.parameters.values()],
            ]
            for name, entry_point in project.entry_points.items()
        ],
        "databricks_spark_job": job and (job.python_file, list(job.parameters), list(job.python_libraries)),
    }


def understood(answer: dict[str, Any]) -> dict[str, Any]:
    """A project as mlflow tells it, with the meaning that mlflow gives to its types and commands."""
    path = answer["env_config_path"]
    special = {"'path'": "path", "'uri'": "uri", "'float'": "float", "'int'": "int"}
    job = answer["databricks_spark_job"]
    return {
        "name": answer["name"],
        "env_type": answer["env_type"],
        "env_config_path": Path(path) if path else None,
        "entry_points": [
            [
                name,
                command if command[0] in "'\"" else None,  # anything else than text ends in an error when it is used
                [[key, special.get(written, "string"), default] for key, written, default in parameters],
            ]
            for name, command, parameters in answer["entry_points"]
        ],
        "databricks_spark_job": job and tuple(value or [] if i else value for i, value in enumerate(eval(job))),
    }


def same_docker(spec: DockerEnvSpec, answer: dict[str, Any]) -> bool:
    theirs = eval(answer["docker_env"])
    variables = [tuple(map(str, item)) if isinstance(item, list) else item for item in theirs["environment"] or []]
    return spec == DockerEnvSpec(str(theirs["image"]), tuple(theirs["volumes"] or ()), tuple(variables))


def python_env(project: Project) -> PythonEnvSpec:
    spec = project.environment
    if isinstance(spec, CondaEnvSpec):
        return spec.as_python_env()
    assert isinstance(spec, PythonEnvSpec)
    return spec


def differences_of_environments(project: Project, answer: dict[str, Any]) -> str | None:
    """In which way the two understand the environment file differently; None if they agree or both refuse it."""
    theirs = answer["environment"]
    if project.environment_source.kind == "docker":
        return (
            None
            if same_docker(project.environment, answer)
            else f"docker: {project.environment} or {answer['docker_env']}"
        )
    if theirs is None:
        return None
    ours = outcome(lambda: python_env(project))
    if isinstance(ours, UserError) or "error" in theirs:
        agree = isinstance(ours, UserError) and "error" in theirs
        return None if agree else f"only one refuses: {ours} or {theirs}"
    told = {
        "python": ours.python or answer["python"],
        "build_dependencies": list(ours.build_dependencies),
        "dependencies": list(ours.dependencies),
    }
    return None if told == theirs else f"{told} or {theirs}"


def check_refusal(ours: Any, expectation: dict[str, Any]) -> None:
    if "mentions" in expectation:
        assert expectation["mentions"] in str(ours)


def case_name(directory: Path) -> str:
    return str(directory.relative_to(DATA))


@pytest.mark.parametrize("directory", CASES, ids=case_name)
def test_a_project_of_the_collection_means_the_same_to_both(
    directory: Path, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = yaml.safe_load((directory / "cases.yaml").read_text())
    monkeypatch.chdir(directory)
    runs = [
        {
            "entry_point": run.get("entry_point", "main"),
            "parameters": run.get("parameters", {}),
            "storage_dir": str(tmp_path) if run.get("storage_dir") else None,
        }
        for run in expected.get("runs", [])
    ]
    answer = mlflow.ask(directory, runs)
    project = outcome(lambda: load_project(directory))
    if "differs" in expected:
        assert isinstance(project, UserError)
        assert "error" not in answer["project"], "mlflow refuses it too: this is no difference"
        check_refusal(project, expected)
        return
    if expected.get("refused"):
        assert isinstance(project, UserError)
        assert "error" in answer["project"], "mlflow loads it"
        check_refusal(project, expected)
        return
    assert isinstance(project, Project), project
    assert "error" not in answer["project"], answer["project"]
    assert told(project) == understood(answer["project"])

    of_environment = expected.get("environment", {})
    disagreement = differences_of_environments(project, answer["project"])
    assert bool(disagreement) == ("differs" in of_environment), disagreement
    if of_environment.get("refused"):
        ours = outcome(lambda: python_env(project))
        assert isinstance(ours, UserError)
        check_refusal(ours, of_environment)

    for run, expectation, theirs in zip(runs, expected.get("runs", []), answer["runs"], strict=True):
        ours = outcome(
            lambda run=run: project.entry_point(run["entry_point"]).bind(
                run["parameters"], storage_dir=run["storage_dir"]
            )
        )
        check_refusal(ours, expectation)
        if expectation.get("refused"):
            assert isinstance(ours, UserError), (run, ours)
            assert "error" in theirs, (run, theirs)
        elif "differs" in expectation:
            assert isinstance(ours, UserError) or ours.command != theirs.get("command"), (
                run,
                "is no difference",
                theirs,
            )
        else:
            assert not isinstance(ours, UserError), (run, str(ours))
            assert {"command": ours.command, "parameters": dict(ours.parameters)} == theirs, run


def test_every_difference_is_in_the_table_of_the_docs_and_shown_by_a_case() -> None:
    _, _, section = (ROOT / "docs" / "mlproject-format.md").read_text().partition("## Differences from MLflow")
    table = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    assert sorted(table) == sorted(DIFFERENCES)
    shown = set()
    for directory in CASES:
        expected = yaml.safe_load((directory / "cases.yaml").read_text())
        for part in (expected, expected.get("environment", {}), *expected.get("runs", [])):
            shown.update([part["differs"]] if "differs" in part else [])
    assert shown | SHOWN_ELSEWHERE == DIFFERENCES


def test_the_collection_is_as_large_as_promised() -> None:
    assert len(CASES) >= 40


# Generated projects


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which one generated MLproject after the other is written, beside environment files and data."""
    directory = tmp_path_factory.mktemp("generated")
    (directory / "python_env.yaml").write_text("dependencies: [numpy]\n")
    (directory / "conda.yaml").write_text("dependencies: [python=3.11]\n")
    for name in ("data.csv", "a b.csv", "it's {x}.csv", "$HOME"):
        (directory / name).touch()
    return directory


def same_runs(
    mlflow: Mlflow, workshop: Path, text: str, runs: list[dict[str, Any]]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Writes an MLproject, asserts that both load it as the same, and gives what each makes of every run."""
    (workshop / "MLproject").write_bytes(text.encode())
    answer = mlflow.ask(workshop, runs)
    assert "error" not in answer["project"], answer["project"]
    project = load_project(workshop)
    assert told(project) == understood(answer["project"])
    for run, theirs in zip(runs, answer["runs"], strict=True):
        yield (
            outcome(
                lambda run=run: project.entry_point(run["entry_point"]).bind(
                    run["parameters"], storage_dir=run["storage_dir"]
                )
            ),
            theirs,
        )


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20) | st.sampled_from(
    [
        "'",
        '"',
        "$(id)",
        "`id`",
        "a b",
        "{x}",
        "{{",
        "}",
        "--",
        "-x",
        "\n",
        "\r\n",
        "*",
        "~",
        "!",
        "\\",
        "é 🍷 \u200b",
        "None",
    ]
)
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,8}", fullmatch=True).filter(
    lambda name: isinstance(yaml.safe_load(name), str)
)
anything = texts | st.integers() | st.floats() | st.booleans() | st.lists(st.integers() | texts, max_size=3)
numbers = (
    st.floats() | st.integers() | st.floats().map(str) | st.sampled_from(["1e-3", "-.5", "1_000", " 7 ", "inf", "nan"])
)
uris = st.sampled_from(
    ["s3://bucket/a b", "models:/m/1", "file:///x;y", "https://u:p@localhost:80/?q='#f", "x:y", "C:\\x"]
)
paths = st.sampled_from(
    ["data.csv", "./a b.csv", "it's {x}.csv", "$HOME", ".", "a%20b.csv", "file:a%20b.csv", "/", "//", ".//."]
)
FITTING = {"float": numbers, "int": st.integers() | st.integers().map(str), "uri": uris, "path": paths}


@st.composite
def declared_parameters(draw: st.DrawFn) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name in draw(st.lists(names, max_size=5, unique=True)):
        kind = draw(st.sampled_from(["string", "float", "int", "path", "uri", "str", "boolean", "number"]))
        shorthand, default = draw(st.booleans()), draw(FITTING.get(kind, anything) | st.none())
        if kind in ("float", "int"):
            default = draw(st.just(default) | anything)
        parameters[name] = kind if shorthand else {"type": kind, "default": default}
    return parameters


@st.composite
def projects(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """The text of an MLproject, and a run of it whose values fit their types."""
    parameters = draw(declared_parameters())
    literals = texts.map(lambda text: text.replace("{", "{{").replace("}", "}}"))
    pieces = literals
    if parameters:
        placeholder = st.builds(
            "{{{}{}}}".format,
            st.sampled_from(sorted(parameters)),
            st.sampled_from(["", "", "!r", "!s", ":>12", ":", ":.3"]),
        )
        pieces = literals | placeholder
    content = {
        "name": draw(anything | st.none()),
        "entry_points": {
            draw(names): {"parameters": parameters, "command": "".join(draw(st.lists(pieces, max_size=8)))}
        },
    }
    text = yaml.safe_dump(
        content,
        allow_unicode=draw(st.booleans()),
        default_flow_style=draw(st.sampled_from([None, True, False])),
        width=draw(st.sampled_from([20, 80, 1000])),
        sort_keys=False,
        default_style=draw(st.sampled_from([None, None, '"', "'"])) if draw(st.booleans()) else None,
    )
    values = {}
    for name, declared in parameters.items():
        kind, default = (declared, None) if isinstance(declared, str) else (declared["type"], declared["default"])
        if default is None or draw(st.booleans()):
            values[name] = draw(FITTING.get(kind, anything | st.none()))
    values.update(
        draw(
            st.dictionaries(texts | names, anything | st.none(), max_size=3).filter(lambda d: not d.keys() & parameters)
        )
    )
    run = {
        "entry_point": next(iter(content["entry_points"])),
        "parameters": values,
        "storage_dir": draw(st.sampled_from([None, "/nonexistent"])),
    }
    return text, run


@generated
@given(project=projects())
def test_generated_projects_and_values_mean_the_same_to_both(
    project: tuple[str, dict[str, Any]], mlflow: Mlflow, workshop: Path
) -> None:
    text, run = project
    cwd = Path.cwd()
    os.chdir(workshop)
    try:
        ((ours, theirs),) = same_runs(mlflow, workshop, text, [run])
    finally:
        os.chdir(cwd)
    if isinstance(ours, UserError):
        assert "error" in theirs, (str(ours), theirs)
    else:
        assert {"command": ours.command, "parameters": dict(ours.parameters)} == theirs


command_tokens = st.sampled_from(
    [
        "{",
        "}",
        "{{",
        "}}",
        "{x}",
        "{w}",
        "{v}",
        "x",
        "w",
        "0",
        "1",
        "[",
        "]",
        ".",
        ":",
        "!",
        "r",
        "s",
        ">",
        "^",
        "=",
        " ",
        "$",
        "-",
        "d",
        ",",
    ]
)


@generated
@example(command="{x[0].y}", x="a b", w="3")
@example(command="{x[.]}", x="a", w="3")
@example(command="{x[}]}", x="a", w="3")
@example(command="{x:{w}}{x:{w.y}}", x="a", w="3")
@given(
    command=st.lists(command_tokens, max_size=14).map("".join),
    x=texts,
    w=st.sampled_from(["3", "12", "<9", "x"]),
)
def test_any_command_is_rendered_or_refused_as_by_mlflow(
    command: str, x: str, w: str, mlflow: Mlflow, workshop: Path
) -> None:
    text = json.dumps({"entry_points": {"main": {"parameters": {"x": "string", "w": "string"}, "command": command}}})
    run = {"entry_point": "main", "parameters": {"x": x, "w": w}, "storage_dir": None}
    ((ours, theirs),) = same_runs(mlflow, workshop, text, [run])
    if isinstance(ours, UserError):
        assert "error" in theirs or "reads an attribute" in str(ours), (str(ours), theirs)
    else:
        assert ours.command == theirs.get("command"), theirs


ORIGINALS = [
    path.read_bytes().decode(errors="replace") for path in sorted(DATA.rglob("[mM][lL][pP][rR][oO][jJ][eE][cC][tT]"))
]
marks = st.sampled_from("\n\t -:{}[],'\"#|>~?%@&*!<2\u2028\x85\ufeff🍷")
WORDS = (
    "  |- |: | #|&a |*a|!!str |!!int |>-|null|yes|1.5|<<: |? |---\n|...\n|\r\n|main|name: x\n|command: x|parameters:|"
    "entry_points:|docker_env: {image: i}\n|python_env: python_env.yaml\n|conda_env: conda.yaml\n|"
)
words = st.sampled_from(WORDS.split("|"))


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The text of an MLproject of the collection after a few random edits."""
    text = draw(st.sampled_from(ORIGINALS))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
        text = text[:start] + draw(marks | words) + text[end:]
    return text


STRICTER = ("is neither a variable's name nor a pair", "must be a list, found")
"""What mlproj says of files that MLflow loads: the rows docker-pairs and databricks-lists of the table."""


@generated
@given(text=damaged())
def test_any_damaged_file_is_loaded_or_refused_as_by_mlflow(text: str, mlflow: Mlflow, workshop: Path) -> None:
    (workshop / "MLproject").write_bytes(text.encode())
    theirs = mlflow.ask(workshop)["project"]
    ours = outcome(lambda: load_project(workshop))
    if isinstance(ours, UserError):
        assert "error" in theirs or any(words in str(ours) for words in STRICTER), (str(ours), theirs)
    else:
        assert "error" not in theirs, (ours, theirs)
        assert told(ours) == understood(theirs)


# Projects of `mlproj: 1`, which MLflow reads as if that were not there

OPTED_IN = """\
name: tuner
mlproj: 1
entry_points:
  main:
    parameters:
      criterion: {enum: [gini, entropy], default: gini}
      depth: {type: int, enum: [1, 2, 3], optional: true}
      rate: {type: float, optional: true}
      note: {optional: true}
      verbose: {type: bool, default: false}
    command: "python train.py --criterion {criterion} --depth={depth} --rate {rate} --verbose {verbose} -- {note}"
  secretive:
    parameters:
      API_TOKEN: {secret: true}
    command: "python train.py"
"""


def test_a_project_that_opts_in_is_read_by_mlflow_with_every_addition_as_text(mlflow: Mlflow, workshop: Path) -> None:
    (workshop / "MLproject").write_text(OPTED_IN)
    answer = mlflow.ask(workshop)["project"]
    assert "error" not in answer, answer
    ours = told(load_project(workshop))
    main = ours["entry_points"][0]
    assert [name for name, kind, _ in main[2] if kind == "bool"] == ["verbose"]
    main[2] = [[name, "string" if kind == "bool" else kind, default] for name, kind, default in main[2]]
    assert ours == understood(answer)


@generated
@given(
    depth=st.sampled_from([1, 2, 3]),
    rate=st.floats(allow_nan=False),
    note=texts.filter(lambda text: text != "None"),
    criterion=st.sampled_from(["gini", "entropy"]),
)
def test_where_everything_has_a_value_the_command_is_mlflows_but_for_what_follows_a_flag(
    depth: int, rate: float, note: str, criterion: str, mlflow: Mlflow, workshop: Path
) -> None:
    (workshop / "MLproject").write_text(OPTED_IN)
    values = {"depth": depth, "rate": rate, "note": note, "criterion": criterion, "verbose": True}
    run = {"entry_point": "main", "parameters": values, "storage_dir": None}
    [theirs] = mlflow.ask(workshop, [run])["runs"]
    ours = load_project(workshop).entry_point("main").bind(values)
    assert theirs["command"].count("--verbose True --") == 1
    assert ours.command == theirs["command"].replace("--verbose True --", "--verbose --", 1)
    assert ours.parameters == theirs["parameters"]


def test_what_mlflow_makes_of_no_value_and_of_a_secret_is_what_the_docs_say(mlflow: Mlflow, workshop: Path) -> None:
    (workshop / "MLproject").write_text(OPTED_IN)
    left_out, none, missing, secret = mlflow.ask(
        workshop,
        [
            {"entry_point": "main", "parameters": {}, "storage_dir": None},
            {"entry_point": "main", "parameters": {"depth": None, "rate": 1, "note": 1}, "storage_dir": None},
            {"entry_point": "secretive", "parameters": {}, "storage_dir": None},
            {"entry_point": "secretive", "parameters": {"API_TOKEN": "sesame"}, "storage_dir": None},
        ],
    )["runs"]
    assert left_out["message"] == "No value given for missing parameters: 'depth', 'rate', 'note'"
    assert "--depth=None --rate 1 --verbose False" in none["command"]
    assert missing["message"] == "No value given for missing parameters: 'API_TOKEN'"
    assert secret["parameters"] == {"API_TOKEN": "sesame"}
