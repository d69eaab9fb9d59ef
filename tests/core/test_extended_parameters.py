"""What a project of `mlproj: 1` declares beyond MLflow: bool, enum, optional and secret parameters."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import textwrap
import urllib.request
from pathlib import Path

import hypothesis
import jsonschema
import pytest
from cli_world import CommandLine
from hypothesis import strategies as st

import mlproj_core
from mlproj_core.errors import InvalidParameters, InvalidProject
from mlproj_core.parameters import bind, json_schema
from mlproj_core.spec import EntryPoint, Parameter, check_project, describe, load_project
from mlproj_core.spec.template import escape

TUNER = """\
name: tuner
mlproj: 1
entry_points:
  main:
    parameters:
      data: {type: string, default: a b}
      criterion: {enum: [gini, entropy], default: gini}
      depth: {type: int, enum: [1, 2, 3], optional: true}
      learning-rate: {type: float, optional: true}
      verbose: bool
      note: {optional: true, description: free text}
      API_TOKEN: {secret: true}
    command: >
      python show.py --data {data} --criterion {criterion} --depth={depth}
      --learning-rate {learning-rate} --verbose {verbose} -n{note}
"""

SHOW = """\
import argparse, glob, hashlib, json, os

parser = argparse.ArgumentParser()
for name in ("--data", "--criterion", "-n"):
    parser.add_argument(name)
parser.add_argument("--depth", type=int)
parser.add_argument("--learning-rate", type=float)
parser.add_argument("--verbose", action="store_true")
seen = vars(parser.parse_args())
token = os.environ.get("API_TOKEN", "")
seen["digest"] = hashlib.sha256(token.encode()).hexdigest()
seen["command lines with it"] = []
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        with open(path, "rb") as file:
            if token and token.encode() in file.read():
                seen["command lines with it"].append(path)
    except OSError:
        pass
with open(os.environ["MLPROJ_RESULT"], "w") as file:
    json.dump(seen, file)
"""

NOTHING = {"data": "a b", "criterion": "gini", "depth": None, "learning_rate": None, "verbose": False, "n": None}
"""What the script sees where the caller gives nothing."""


def write(directory: Path, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "MLproject").write_text(text)
    (directory / "show.py").write_text(SHOW)
    return directory


def entry_point(directory: Path, parameters: str, command: str) -> EntryPoint:
    """The entry point of a project of `mlproj: 1` with these parameters, in YAML, one a line."""
    lines = textwrap.indent(textwrap.dedent(parameters).strip(), " " * 6)
    text = f"mlproj: 1\nentry_points:\n  main:\n    parameters:\n{lines}\n    command: {json.dumps(command)}\n"
    return load_project(write(directory, text)).entry_point("main")


def faults(declared: EntryPoint) -> list[str]:
    """Why an entry point cannot run, each as `line:column: message — remedy`."""
    return [f"{p.line}:{p.column}: {p.message} — {p.remedy}" for p in declared.command_problems()]


def refused(declared: EntryPoint, parameters: dict[str, object], **options: object) -> list[str]:
    with pytest.raises(InvalidParameters) as caught:
        bind(declared, parameters, **options)
    return list(caught.value.problems)


def said(directory: Path, severity: str) -> list[str]:
    problems = [problem for problem in check_project(directory) if problem.severity == severity]
    return [f"{problem.line}:{problem.column}: {problem.message} — {problem.remedy}" for problem in problems]


@pytest.fixture
def tuner(tmp_path: Path) -> Path:
    return write(tmp_path / "tuner", TUNER)


class TestTheOptIn:
    def test_a_project_says_at_its_top_that_it_is_one(self, tuner):
        project = load_project(tuner)
        assert project.mlproj == 1
        assert said(tuner, "error") == said(tuner, "warning") == []

    @pytest.mark.parametrize(
        ("version", "remedy"),
        [
            ("2", "write mlproj: 1, or run the project with a newer mlproj"),
            ("0", "write mlproj: 1"),
            ("true", "write mlproj: 1"),
            ("1.0", "write mlproj: 1"),
            ("'1'", "write mlproj: 1"),
            ("", "write mlproj: 1"),
        ],
    )
    def test_a_version_that_this_release_does_not_read_is_an_error(self, tmp_path, version, remedy):
        write(tmp_path, TUNER.replace("mlproj: 1", f"mlproj: {version}"))
        with pytest.raises(InvalidProject) as caught:
            load_project(tmp_path)
        [problem] = caught.value.problems
        assert re.search(r"MLproject:2:\d+: mlproj: .* is no version of the format that this release", problem)
        assert problem.endswith(f"— {remedy}")

    def test_without_it_every_declaration_means_what_it_means_to_mlflow(self, tmp_path):
        project = load_project(write(tmp_path, TUNER.replace("mlproj: 1\n", "")))
        declared = project.entry_point("main").parameters
        assert project.mlproj is None
        assert {(one.type, one.enum, one.optional, one.secret) for one in declared.values()} == {
            ("string", (), False, False), ("int", (), False, False), ("float", (), False, False),
        }  # fmt: skip
        assert [name for name, one in declared.items() if one.required] == [
            "depth", "learning-rate", "verbose", "note", "API_TOKEN",
        ]  # fmt: skip
        values = {"depth": 9, "learning-rate": 1, "verbose": "perhaps", "note": "", "API_TOKEN": "abc"}
        bound = project.entry_point("main").bind(values)
        assert bound.command.endswith("--depth=9 --learning-rate 1 --verbose perhaps -n''\n")
        assert bound.parameters["API_TOKEN"] == "abc"

    def test_without_it_validate_tells_of_each_declaration_that_it_would_give_a_meaning(self, tmp_path):
        write(tmp_path, TUNER.replace("mlproj: 1\n", "").replace("verbose: bool", "verbose: boolean"))
        opt_in = "write 'mlproj: 1' at the top of the file for mlproj to heed it"
        as_bool = f"{opt_in}, as 'type: bool'"
        secret = "parameter 'API_TOKEN' is marked as secret, which is ignored: its value is recorded"
        warnings = said(tmp_path, "warning")
        for where, what, remedy in (
            ("6:19", "parameter 'criterion' has the unknown key 'enum', which is ignored", opt_in),
            ("7:43", "parameter 'depth' has the unknown key 'optional', which is ignored", opt_in),
            ("9:7", "the type 'boolean' of parameter 'verbose' is unknown and read as string", as_bool),
            ("11:19", secret, opt_in),
        ):
            assert f"{where}: {what} — {remedy}" in warnings
        [warning] = load_project(tmp_path).warnings  # which every run tells
        assert secret in str(warning)

    @pytest.mark.parametrize(
        ("declaration", "where", "what", "remedy"),
        [
            ("{type: boolean}", "5:11", "has the unknown type 'boolean'", "did you mean 'bool'?"),
            ("float32", "5:7", "has the unknown type 'float32'", "did you mean 'float'?"),
            ("{type: enum}", "5:11", "has the unknown type 'enum'", "list the values under enum: [...]"),
            ("{secrets: true}", "5:11", "has the unknown key 'secrets'", "did you mean 'secret'?"),
            ("{optional: 'yes'}", "5:11", "has optional: 'yes', which is no truth value", "write optional: true"),
            ("{optional: true, default: 1}", "5:27", "is optional and has a default", "remove either"),
            ("{type: bool, optional: true}", "5:23", "is a bool, to which optional adds nothing", "remove optional"),
            ("{type: bool, enum: [a]}", "5:23", "is a bool, to which enum adds nothing", "remove enum"),
            ("{type: bool, default: 1}", "5:23", "is a bool and has the default 1", "write true or false"),
            ("{enum: []}", "5:11", "has an enum that is a list", "list the values: enum: [one, two]"),
            ("{enum: gini}", "5:11", "has an enum that is text", "list the values: enum: [one, two]"),
            ("{enum: [a, off]}", "5:11", "lists False, as YAML reads it", "quote it"),
            ("{enum: [1.10]}", "5:11", "is text and lists the number 1.1, as YAML reads it", "quote it"),
            ("{type: int, enum: [1, 2.5]}", "5:22", "lists 2.5, which is not a whole number", "correct the value"),
            ("{type: float, enum: [1, '1.0']}", "5:24", "lists '1.0' twice", "remove one"),
            ("{enum: [a, b], default: c}", "5:25", "has the default 'c'", "give one of a, b"),
            ("{secret: true, type: float}", "5:25", "is secret and has the type float", "a secret is text"),
            ("{secret: true, default: x}", "5:25", "is secret, but default would show its value", "remove it"),
        ],
    )
    def test_a_declaration_that_cannot_be_meant_is_an_error_with_its_place_and_a_remedy(
        self, tmp_path, declaration, where, what, remedy
    ):
        declared = entry_point(tmp_path, f"  X: {declaration}", "run")
        [fault] = [text for text in faults(declared) if "placeholder" not in text]
        assert fault.startswith(f"{where}: parameter 'X' {what}")
        assert remedy in fault
        assert fault in said(tmp_path, "error")
        with pytest.raises(InvalidProject, match="cannot run"):
            declared.bind({"X": "1"})

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("api-token", "its name cannot be that of an environment variable"),
            ("1st", "its name cannot be that of an environment variable"),
            ("PATH", "every run sets the variable PATH itself"),
            ("MLPROJ_RESULT", "every run sets the variable MLPROJ_RESULT itself"),
        ],
    )
    def test_a_secret_needs_a_name_that_a_variable_can_have(self, tmp_path, name, what):
        [fault] = faults(entry_point(tmp_path, f"  {name}: {{secret: true}}", "run"))
        assert fault.startswith(f"5:7: parameter '{name}' is secret, ")
        assert what in fault

    def test_a_faulty_entry_point_leaves_the_others_usable(self, tuner):
        (tuner / "MLproject").write_text(f"{TUNER}  other:\n    parameters: {{x: flag}}\n    command: echo\n")
        project = load_project(tuner)
        assert faults(project.entry_point("main")) == []
        assert len(faults(project.entry_point("other"))) == 1


class TestBool:
    @pytest.fixture
    def flag(self, tmp_path):
        return entry_point(tmp_path, "  dry: bool\n  log: {type: bool, default: yes}", "run --dry {dry} --log {log} x")

    def test_it_is_a_flag_that_is_there_or_not(self, flag):
        assert bind(flag).command == "run --log x"
        assert bind(flag, {"dry": True, "log": False}).command == "run --dry x"

    def test_it_is_recorded_as_mlflow_writes_a_truth_value(self, flag):
        assert bind(flag, {"dry": "true"}).parameters == {"dry": "True", "log": "True"}
        assert bind(flag, {"log": "FALSE"}).values == {"dry": "False", "log": "False"}

    @pytest.mark.parametrize("value", [1, 0, "1", "yes", "on", "", "None", None, "t", [True]])
    def test_nothing_but_true_and_false_is_one(self, flag, value):
        [problem] = refused(flag, {"dry": value})
        assert problem.startswith("parameter 'dry' (bool, line 5): ")
        assert value is None or problem.endswith("is neither true nor false")


class TestEnum:
    @pytest.fixture
    def choice(self, tmp_path):
        return entry_point(
            tmp_path,
            """
            kind: {enum: [gini, entropy, 3]}
            depth: {type: int, enum: [1, 2], default: 2}
            rate: {type: float, enum: [0.001, 1], optional: true}
            """,
            "run {kind} {depth} {rate}",
        )

    def test_a_listed_value_is_taken_as_it_is_listed(self, choice):
        assert bind(choice, {"kind": "entropy"}).command == "run entropy 2"
        assert bind(choice, {"kind": 3, "depth": "01", "rate": "1e-3"}).command == "run 3 1 0.001"
        assert bind(choice, {"kind": "gini", "rate": 1.0}).parameters["rate"] == "1"

    def test_any_other_is_refused_with_those_there_are_and_the_closest(self, choice):
        assert refused(choice, {"kind": "ginni", "depth": 3, "rate": "fast"}) == [
            "parameter 'kind' (string, line 5): 'ginni' is none of 'gini', 'entropy', '3'; did you mean 'gini'?",
            "parameter 'depth' (int, line 6): 3 is none of '1', '2'",
            "parameter 'rate' (float, line 7): 'fast' is not a number",
        ]

    def test_none_is_refused_unless_it_is_optional(self, choice):
        assert "is none of" in refused(choice, {"kind": None})[0]
        assert bind(choice, {"kind": "gini", "rate": None}).values == {"kind": "gini", "depth": "2"}


class TestOptional:
    def test_without_a_value_the_argument_and_its_flag_vanish_and_nothing_is_recorded(self, tuner):
        main = load_project(tuner).entry_point("main")
        for given in ({}, {"learning-rate": None, "depth": None, "note": None}):
            bound = bind(main, given, variables={"API_TOKEN": "x"})
            assert bound.command == "python show.py --data 'a b' --criterion gini\n"
            assert bound.parameters == {"data": "'a b'", "criterion": "gini", "verbose": "False"}
            assert bound.warnings == ()

    def test_with_one_it_is_an_argument_like_any_other(self, tuner):
        main = load_project(tuner).entry_point("main")
        given = {"learning-rate": 0.1, "depth": "2", "note": "it's", "verbose": True}
        assert bind(main, given, variables={"API_TOKEN": "x"}).command == (
            "python show.py --data 'a b' --criterion gini --depth=2 --learning-rate 0.1 --verbose -n'it'\"'\"'s'\n"
        )

    def test_an_empty_text_is_a_value(self, tmp_path):
        declared = entry_point(tmp_path, "  x: {optional: true}\n  y: {type: int, optional: true}", "run --x {x} {y}")
        assert bind(declared, {"x": ""}).command == "run --x ''"
        assert "is not a whole number" in refused(declared, {"y": ""})[0]

    def test_the_text_none_is_a_value_and_most_probably_not_meant(self, tmp_path):
        bound = bind(entry_point(tmp_path, "  x: {optional: true}", "run {x}"), {"x": "None"})
        assert bound.command == "run None"
        assert "is optional and was given the text 'None', which is a value" in bound.warnings[0]

    def test_a_path_is_looked_up_only_if_it_is_given(self, tmp_path):
        declared = entry_point(tmp_path, "  x: {type: path, optional: true}", "run --x {x}")
        assert bind(declared, storage_dir=tmp_path).command == "run"
        assert bind(declared, {"x": tmp_path}, storage_dir=tmp_path).command == f"run --x {tmp_path}"
        assert "does not exist" in refused(declared, {"x": "/no/such/file"})[0]


ARGUMENTS = [
    ("run --x {x} y", "run --x 1 y", "run y"),
    ("run --x={x} y", "run --x=1 y", "run y"),
    ("run -x{x} y", "run -x1 y", "run y"),
    ("run -x {x} y", "run -x 1 y", "run y"),
    ("run --X {x}", "run --X 1", "run"),
    ("run {x} y", "run 1 y", "run y"),
    ("run y {x}", "run y 1", "run y"),
    ("run -- {x}", "run -- 1", "run --"),
    ("run x={x} y={x}", "run x=1 y=1", "run"),
    ("X={x} run", "X=1 run", " run"),
    ("run --a=b {x}", "run --a=b 1", "run --a=b"),
    ("run --a b {x}", "run --a b 1", "run --a b"),
    ("run -1 {x}", "run -1 1", "run -1"),
    ("run - {x}", "run - 1", "run -"),
    ("(run {x}); run {x}&& run --x {x} | tee {x}", "(run 1); run 1&& run --x 1 | tee 1", "(run); run&& run | tee"),
    ("echo $(run --x {x}) `run {x}`", "echo $(run --x 1) `run 1`", "echo $(run) `run`"),
    ("run \\\n  --x \\\n  {x} \\\n  y", "run \\\n  --x \\\n  1 \\\n  y", "run \\\n  y"),
    ("run --a\n{x}\nrun", "run --a\n1\nrun", "run --a\n\nrun"),
    ("run '{{--x {{' {x}", "run '{--x {' 1", "run '{--x {'"),
]

MISUSES = [
    ("run --fast {x}", "{x}", "write --fast={x} if it is the option; else move {x} to another place, or write --"),
    ("run -f {x}", "{x}", "write -f{x} if it is the option"),
    ("run --set x={x}", "{x}", "write --set={x} if it is the option; else move x={x} to another place"),
    ("run 'a' '{x}'", "{x}", "is part of a word, but an optional parameter needs one of its own"),
    ("run out/{x}", "{x}", "is part of a word"),
    ("run {x}.csv", "{x}", "is part of a word"),
    ("run {x}{x}", "{x}", "is part of a word"),
    ("run ${{y}}{x}", "{x}", "is part of a word"),
    ("run > {x}", "{x}", "names the file of a redirection"),
    ("run >{x}", "{x}", "is part of a word"),
    ("run {x!r}", "{x!r}", "formats an optional parameter, which may have no value — write it as it is"),
    ("run {x:>8}", "{x:>8}", "write it as it is: --x {x}"),
    ("run {y:{x}}", "{y:{x}}", "formats an optional parameter"),
]


class TestTheCommand:
    @pytest.mark.parametrize(("command", "given", "left_out"), ARGUMENTS, ids=[each[0] for each in ARGUMENTS])
    def test_an_optional_argument_stands_in_it_as_on_any_command_line(self, tmp_path, command, given, left_out):
        declared = entry_point(tmp_path, "  x: {type: int, optional: true}", command)
        assert bind(declared, {"x": 1}).command == given == command.format(x=1)  # as MLflow renders it
        assert bind(declared).command == left_out

    @pytest.mark.parametrize(("command", "part", "words"), MISUSES, ids=[each[0] for each in MISUSES])
    def test_what_could_be_read_in_two_ways_is_an_error_where_it_stands(self, tmp_path, command, part, words):
        declared = entry_point(tmp_path, "  x: {optional: true}\n  y: string", command)
        fault = faults(declared)[0]
        column = len("    command: ") + json.dumps(command).index(part) + 1
        assert fault.startswith(f"7:{column}: entry point 'main': the placeholder {part} ")
        assert words in fault
        assert fault in said(tmp_path, "error")
        with pytest.raises(InvalidProject):
            bind(declared, {"x": "1", "y": "2"})

    @pytest.mark.parametrize(
        ("command", "given"),
        [
            ("run --v {v} y", "run --v y"),
            ("run --quite-other {v} y", "run --quite-other y"),
            ("run -v {v} y", "run -v y"),
            ("run --v={v} y", "run --v y"),
        ],
    )
    def test_of_a_bool_the_option_is_left_or_nothing(self, tmp_path, command, given):
        declared = entry_point(tmp_path, "  v: bool", command)
        assert bind(declared, {"v": True}).command == given
        assert bind(declared).command == "run y"

    @pytest.mark.parametrize(
        "command",
        [
            "run {v}",
            "run v={v}",
            "run -- {v}",
            "run - {v}",
            "run --{v}",
            "run --set v={v}",
            "run --out=d/{v}",
        ],
    )
    def test_a_bool_without_an_option_is_an_error(self, tmp_path, command):
        [fault] = faults(entry_point(tmp_path, "  v: bool", command))
        assert "the placeholder {v} is a bool and has no option — write --v {v}" in fault

    def test_a_secret_has_no_place_in_it(self, tmp_path):
        [fault] = faults(entry_point(tmp_path, "  TOKEN: {secret: true}", "run --token {TOKEN}"))
        assert fault.startswith(
            "6:27: entry point 'main': the placeholder {TOKEN} would put a secret on the command line"
        )
        assert "the code finds the value in the environment variable TOKEN" in fault

    def test_validate_misses_no_parameter_but_a_secret_one(self, tmp_path):
        entry_point(tmp_path, "  TOKEN: {secret: true}\n  v: bool\n  x: {optional: true}", "run")
        assert [warning.partition(" — ")[0] for warning in said(tmp_path, "warning")] == [
            "6:7: the command of entry point 'main' does not use its parameter 'v'",
            "7:7: the command of entry point 'main' does not use its parameter 'x'",
        ]


def test_the_example_of_the_docs_is_without_fault_and_means_what_they_say(tmp_path):
    docs = (Path(__file__).parents[2] / "docs" / "mlproject-format.md").read_text()
    section = docs.partition("## Beyond MLflow: `mlproj: 1`")[2]
    write(tmp_path, section.partition("```yaml\n")[2].partition("```")[0])
    assert said(tmp_path, "error") == said(tmp_path, "warning") == []
    main, variables = load_project(tmp_path).entry_point("main"), {"API_TOKEN": "x"}
    assert bind(main, {"data": tmp_path}, variables=variables).command == (
        f"python train.py {tmp_path} --criterion gini\n"
    )
    given = {"data": tmp_path, "max-depth": 3, "note": "a b", "verbose": True}
    assert bind(main, given, variables=variables).command == (
        f"python train.py {tmp_path} --criterion gini --max-depth 3 --note='a b' --verbose\n"
    )


names = st.sampled_from(["alpha", "max-depth", "x", "note_2"])
plain = st.text(st.characters(codec="ascii", exclude_characters="\0\n\r"), max_size=8)
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


@st.composite
def commands(draw: st.DrawFn) -> tuple[EntryPoint, dict[str, str], list[str]]:
    """An entry point, values for some of its optional parameters, and the arguments that a program has to see."""
    words, expected = ["run"], ["run"]
    values: dict[str, str] = {}
    parameters = {}
    for name in draw(st.lists(names, max_size=4, unique=True)):
        for text in draw(st.lists(plain, max_size=2)):
            words.append(escape(shlex.quote(f"w{text}")))  # no option
            expected.append(f"w{text}")
        parameters[name] = Parameter(name, optional=True)
        given = draw(st.none() | texts)
        option = f"-{name[0]}" if draw(st.booleans()) else f"--{name}"
        form = draw(st.sampled_from(["={}", " {}", "alone"]))
        if form == "alone":
            words.append(f"{{{name}}}")
            expected += [] if given is None else [given]
        elif form == " {}" and option != f"-{name}" and option.startswith("--"):
            words.append(f"{option} {{{name}}}")
            expected += [] if given is None else [option, given]
        else:
            joined = f"{option}=" if option.startswith("--") else option
            words.append(f"{joined}{{{name}}}")
            expected += [] if given is None else [f"{joined}{given}"]
        values.update({} if given is None else {name: given})
    return EntryPoint("main", " ".join(words), parameters), values, expected


@hypothesis.settings(max_examples=300, derandomize=True, deadline=None)
@hypothesis.given(commands())
def test_whatever_is_left_out_the_program_sees_exactly_the_arguments_that_were_given(case):
    declared, values, expected = case
    assert shlex.split(bind(declared, values).command) == expected


class TestSecret:
    @pytest.fixture
    def main(self, tuner):
        return load_project(tuner).entry_point("main")

    def test_it_is_in_nothing_that_is_recorded_or_printed(self, main):
        bound = bind(main, {"API_TOKEN": "sesame-3141"}, variables={})
        assert bound.secrets == {"API_TOKEN": "sesame-3141"}
        assert "sesame" not in repr(bound)
        assert "API_TOKEN" not in {*bound.parameters, *bound.values}

    def test_it_may_be_there_as_a_variable_and_what_is_given_counts_first(self, main, monkeypatch):
        monkeypatch.setenv("API_TOKEN", "of this process")
        assert bind(main).secrets == {"API_TOKEN": "of this process"}
        assert bind(main, {"API_TOKEN": "given"}).secrets == {"API_TOKEN": "given"}
        assert bind(main, variables={"API_TOKEN": "another"}).secrets == {"API_TOKEN": "another"}

    @pytest.mark.parametrize("variables", [{}, {"API_TOKEN": ""}])
    def test_without_a_value_it_is_refused_with_the_variable_to_set(self, main, variables):
        [problem] = refused(main, {}, variables=variables)
        assert problem.startswith("parameter 'API_TOKEN' (secret, line 12): no value given")
        assert "set the environment variable API_TOKEN" in problem

    def test_an_optional_one_may_be_without_a_value(self, tmp_path):
        declared = entry_point(tmp_path, "  TOKEN: {secret: true, optional: true}", "run")
        assert bind(declared, variables={}).secrets == {}

    def test_where_others_can_read_the_parameters_it_is_refused(self, main):
        [problem] = refused(main, {"API_TOKEN": "sesame-3141"}, exposed=True)
        assert "it is secret, and others could read it here; give it as the environment variable API_TOKEN" in problem
        assert "sesame" not in problem

    def test_a_wrapped_one_can_be_given_anywhere(self, main):
        assert bind(main, {"API_TOKEN": Wrapped("x")}, exposed=True, variables={}).secrets == {"API_TOKEN": "x"}

    def test_a_wrapped_value_of_another_parameter_is_refused_since_it_would_be_shown(self, main):
        problems = refused(main, {"note": Wrapped("x"), "extra": Wrapped("x"), "API_TOKEN": "y"})
        assert len(problems) == 2
        assert all("is given as a secret, but would be shown" in problem for problem in problems)

    def test_a_misspelt_one_is_refused_and_not_appended_to_the_command(self, main):
        [problem] = refused(main, {"API_TOKN": "sesame-3141"}, variables={"API_TOKEN": "x"})
        assert problem.endswith("it is not declared, and would be shown; did you mean 'API_TOKEN', a secret?")

    def test_no_message_shows_it(self, main):
        [problem] = refused(main, {"API_TOKEN": "sesame\0"})
        assert "NUL" in problem
        assert "sesame" not in problem


class Wrapped:
    """As pydantic's SecretStr."""

    def __init__(self, value):
        self._value = value

    def get_secret_value(self):
        return self._value

    def __repr__(self):
        return "**********"


class TestTheSchema:
    def test_it_says_all_of_it(self, tuner):
        schema = json_schema(load_project(tuner).entry_point("main"))
        assert schema["properties"] == {
            "data": {"type": "string", "default": "a b"},
            "criterion": {"type": "string", "enum": ["gini", "entropy"], "default": "gini"},
            "depth": {"type": ["integer", "null"], "enum": [1, 2, 3, None]},
            "learning-rate": {"type": ["number", "null"]},
            "verbose": {"type": "boolean", "default": False},
            "note": {"type": ["string", "null"], "description": "free text"},
            "API_TOKEN": {"type": "string", "writeOnly": True},
        }
        assert schema["required"] == []

    def test_a_validator_takes_what_bind_takes_and_refuses_the_rest(self, tuner):
        main = load_project(tuner).entry_point("main")
        validator = jsonschema.Draft202012Validator(json.loads(json.dumps(json_schema(main))))
        for given in (
            {}, {"verbose": True, "depth": 2}, {"depth": None, "learning-rate": None}, {"criterion": "entropy"},
        ):  # fmt: skip
            validator.validate(given)
            bind(main, given, variables={"API_TOKEN": "x"})
        for given in ({"verbose": 1}, {"depth": 4}, {"criterion": "x"}, {"learning-rate": "fast"}, {"verbose": None}):
            assert not validator.is_valid(given)
            refused(main, given, variables={"API_TOKEN": "x"})

    def test_a_description_says_all_of_it(self, tuner):
        described = json.loads(json.dumps(describe(load_project(tuner)), allow_nan=False))
        depth = described["entry_points"]["main"]["parameters"]["depth"]
        token = described["entry_points"]["main"]["parameters"]["API_TOKEN"]
        assert described["mlproj"] == 1
        assert (depth["enum"], depth["optional"], depth["required"]) == (["1", "2", "3"], True, False)
        assert (token["secret"], token["required"], token["default"]) == (True, True, None)


class TestARealRun:
    def test_a_script_sees_exactly_what_was_given(self, world, tuner, monkeypatch):
        monkeypatch.setenv("API_TOKEN", "sesame")
        digest = hashlib.sha256(b"sesame").hexdigest()
        more = {"digest": digest, "command lines with it": []}
        run = mlproj_core.run(str(tuner), env_manager="local")
        assert run.result().result == {**NOTHING, **more}
        given = {"data": "it's \"b\" $HOME", "criterion": "entropy", "depth": 3, "learning-rate": "1e-3",
                 "verbose": "true", "note": " two  spaces "}  # fmt: skip
        run = mlproj_core.run(str(tuner), parameters=given, env_manager="local")
        assert run.result().result == {
            "data": "it's \"b\" $HOME", "criterion": "entropy", "depth": 3, "learning_rate": 0.001, "verbose": True,
            "n": " two  spaces ", **more,
        }  # fmt: skip

    @pytest.mark.parametrize("way", ["parameters", "env_vars", "environment"])
    def test_a_secret_reaches_the_process_and_is_found_nowhere_else(
        self, way, world, tuner, mlflow_server, monkeypatch, capfd, tmp_path_factory
    ):
        secret = f"sesame-{way}-" + hashlib.sha256(str(world.directory).encode()).hexdigest()[:16]
        monkeypatch.delenv("MLPROJ_TRACKING")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        if way == "environment":
            monkeypatch.setenv("API_TOKEN", secret)
        given = {way: {"API_TOKEN": secret}} if way != "environment" else {}
        run = mlproj_core.run(str(tuner), env_manager="local", experiment_name="secrets", **given)
        seen = run.result().result
        assert seen["digest"] == hashlib.sha256(secret.encode()).hexdigest()
        assert seen["command lines with it"] == []

        with urllib.request.urlopen(f"{mlflow_server}/api/2.0/mlflow/runs/get?run_id={run.run_id}") as answer:
            on_server = answer.read().decode()
        assert '"criterion"' in on_server
        assert "API_TOKEN" not in on_server
        told = [on_server, run.handle.to_json(), json.dumps(run.request), repr(run), *capfd.readouterr()]
        assert not any(secret in text for text in told)
        assert run.request["secrets"] == ["API_TOKEN"]
        # The state directory, and the server's database, log and artifacts, are all below it.
        searched = [path for path in tmp_path_factory.getbasetemp().rglob("*") if path.is_file()]
        assert any(path.name == "claim.json" for path in searched)
        assert any(path.name == "mlflow.db" for path in searched)
        assert [path for path in searched if secret.encode() in path.read_bytes()] == []

    def test_another_secret_is_no_other_request(self, world, tuner, monkeypatch):
        lines: list[str] = []
        arguments = {"env_manager": "local", "key": world.key, "report": lines.append}
        first = mlproj_core.submit(str(tuner), parameters={"API_TOKEN": "one"}, **arguments)
        second = mlproj_core.submit(str(tuner), parameters={"API_TOKEN": "two"}, **arguments)
        second.wait()
        assert first.handle == second.handle
        assert not [line for line in lines if "differ" in line]

    def test_a_withheld_variable_is_no_value(self, world, tuner, monkeypatch):
        monkeypatch.setenv("API_TOKEN", "of the engine")
        with pytest.raises(InvalidParameters, match="set the environment variable API_TOKEN"):
            mlproj_core.run(str(tuner), env_manager="local", withhold=["API_*"])


class TestTheCommandLine:
    @pytest.fixture
    def mlproj(self, tmp_path):
        line = CommandLine(tmp_path)
        yield line
        line.close()

    def test_flags_and_optional_values_are_given_as_any_parameter(self, mlproj, tuner):
        done = mlproj("run", "--json", str(tuner), "-P", "verbose=true", "-P", "depth=1", API_TOKEN="sesame-3141")
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)["result"]
        assert {name: seen[name] for name in NOTHING} == {**NOTHING, "verbose": True, "depth": 1}
        assert seen["digest"] == hashlib.sha256(b"sesame-3141").hexdigest()
        assert "sesame" not in done.stdout + done.stderr

    def test_a_secret_in_the_process_list_is_refused_and_one_of_the_environment_is_taken(self, mlproj, tuner):
        done = mlproj("run", str(tuner), "-P", "API_TOKEN=sesame-3141")
        assert done.returncode == 2
        assert (
            "it is secret, and others could read it here; give it as the environment variable API_TOKEN" in done.stderr
        )
        assert "sesame" not in done.stderr
        done = mlproj("submit", str(tuner), "-P", "API_TOKEN=sesame-3141")
        assert (done.returncode, done.stdout) == (2, "")
        assert mlproj("run", str(tuner), "--env-var", "API_TOKEN", API_TOKEN="sesame-3141").returncode == 0

    def test_describe_shows_what_may_be_given(self, mlproj, tuner):
        done = mlproj("describe", str(tuner))
        rows = [line.split() for line in done.stdout.splitlines()]
        assert ["criterion", "gini", "|", "entropy", "gini"] in rows
        assert ["depth", "1", "|", "2", "|", "3", "(optional)"] in rows
        assert ["verbose", "bool", "False"] in rows
        assert ["API_TOKEN", "string", "(secret)"] in rows
