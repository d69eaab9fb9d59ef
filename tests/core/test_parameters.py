"""A caller's values: checked all at once, quoted, and rendered into the command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproj_core.errors import InvalidParameters, InvalidProject, UserError
from mlproj_core.parameters import bind
from mlproj_core.spec import EntryPoint, Parameter, load_project
from mlproj_core.spec.types import misfit

MLPROJECT = """\
name: demo
entry_points:
  main:
    parameters:
      rate: {type: float, default: 0.1}
      count: int
      data: path
      model: uri
      label: {type: string, default: none}
    command: "train {rate} {count} {data} {model} {label}"
"""


@pytest.fixture
def main(tmp_path: Path) -> EntryPoint:
    (tmp_path / "MLproject").write_text(MLPROJECT)
    return load_project(tmp_path).entry_point("main")


@pytest.fixture
def fitting(tmp_path: Path) -> dict[str, object]:
    return {"count": 3, "data": tmp_path, "model": "models:/m/1"}


def refused(entry_point: EntryPoint, parameters: dict[str, object], **options: object) -> list[str]:
    with pytest.raises(InvalidParameters) as caught:
        bind(entry_point, parameters, **options)
    return list(caught.value.problems)


def one(kind: str, default: object = None) -> EntryPoint:
    return EntryPoint("main", "run {x}", {"x": Parameter("x", kind, kind, default, 4, 7)})


def test_values_defaults_and_extra_parameters_are_rendered_and_logged(main, fitting, tmp_path):
    bound = main.bind({**fitting, "label": "a b", "epochs": 5, "note it": "it's"})
    assert bound.command == (f"train 0.1 3 {tmp_path} models:/m/1 'a b' --epochs 5 --'note it' 'it'\"'\"'s'")
    assert bound.values == {
        "rate": "0.1", "count": "3", "data": str(tmp_path), "model": "models:/m/1", "label": "a b", "epochs": "5",
        "note it": "it's",
    }  # fmt: skip
    assert bound.parameters["label"] == "'a b'"
    assert bound.parameters["'note it'"] == "'it'\"'\"'s'"
    assert bound.warnings == ()


def test_all_refused_values_are_in_one_error_with_parameter_value_and_line(main, tmp_path):
    gone = Path("/no/such/place")
    problems = refused(main, {"rate": "fast", "data": gone, "model": "plain", "conut": 3})
    assert problems == [
        "parameter 'rate' (float, line 5): 'fast' is not a number",
        "parameter 'count' (int, line 6): no value given, and it has no default; 'conut' was given, which it does not "
        "declare: did you mean 'count'?",
        f"parameter 'data' (path, line 7): {gone!r} does not exist",
        "parameter 'model' (uri, line 8): 'plain' is not a URI: it has no scheme such as https: or s3:",
    ]
    with pytest.raises(InvalidParameters) as caught:
        main.bind({"rate": "fast"})
    assert str(tmp_path / "MLproject") in str(caught.value)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [1, 1.5, "1e-3", "-inf", "nan", "1_000", " 7 ", float("nan"), 10**400])
def test_what_pythons_float_reads_is_a_float(value):
    if value == 10**400:
        value = str(value)
    assert bind(one("float"), {"x": value}).values["x"] == str(value)


@pytest.mark.parametrize("value", ["", "1,5", "0x10", "1e", True, None, [1], "one", "1.5.2"])
def test_what_it_does_not_read_is_refused(value):
    assert len(refused(one("float"), {"x": value})) == 1


@pytest.mark.parametrize("value", [3, "3", "-3", "+3", "1_000", " 3", 10**30])
def test_what_pythons_int_reads_is_an_int(value):
    assert bind(one("int"), {"x": value}).values["x"] == str(value)


@pytest.mark.parametrize("value", [3.0, "3.0", "1e3", "", False, None, "0x10", "three"])
def test_what_a_scripts_int_would_refuse_is_refused(value):
    assert "is not a whole number" in refused(one("int"), {"x": value})[0] or value is None


@pytest.mark.parametrize(
    "value",
    ["https://host/x?y=1#z", "s3://bucket/a b.csv", "models:/m/1", "runs:/1/m", "file:///x", "file:x", "dbfs:/x",
     "sqlite:///x.db", "mlflow-artifacts:/1", "http://[::1]:80/", "postgresql+psycopg2://u@h/d", "abfss://c@a.net/x"],
)  # fmt: skip
def test_a_uri_has_a_scheme_and_what_the_scheme_needs(value):
    assert bind(one("uri"), {"x": value}).values["x"] == value


@pytest.mark.parametrize(
    "value",
    ["", "x", "/x", "://x", "1a:b", "s3:", "s3://", "s3:///key", "https://", "https:///x", "http://host:port/", "http://[::1/",
     "http://a b/", "https://x\n", " https://x", "s3://b/\tx", None, 5],
)  # fmt: skip
def test_a_malformed_uri_is_refused(value):
    assert len(refused(one("uri"), {"x": value})) == 1


def test_an_error_shows_no_password_of_a_uri():
    (problem,) = refused(one("float"), {"x": "https://user:geheim@host/x"})
    assert "geheim" not in problem
    assert "https://***@host/x" in problem


def test_a_long_value_is_cut_in_messages():
    (problem,) = refused(one("float"), {"x": "y" * 100_000})
    assert len(problem) < 200


def test_a_path_must_exist_only_where_the_project_runs_as_a_local_process(tmp_path):
    assert "does not exist" in refused(one("path"), {"x": "/no/such"})[0]
    assert bind(one("path"), {"x": "/no/such"}, check_local_paths=False).command == "run /no/such"


def test_a_missing_relative_path_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"does not exist below the current directory {tmp_path}" in refused(one("path"), {"x": "data.csv"})[0]


def test_in_a_run_a_path_is_absolute_in_the_command_but_logged_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").touch()
    for given_path in ("a b", Path("a b"), "./a%20b", "file:a%20b"):
        bound = bind(one("path"), {"x": given_path}, storage_dir=tmp_path)
        assert bound.command == f"run '{tmp_path}/a b'"
        assert bound.values["x"] == str(given_path)
    assert bind(one("path"), {"x": "a b"}).command == "run 'a b'"


def test_in_a_run_data_from_elsewhere_has_its_place_in_the_command(tmp_path):
    url = "https://host/in/train%201.csv?version=2#top"
    bound = bind(one("path"), {"x": url}, storage_dir=tmp_path)
    (download,) = bound.downloads
    assert (download.parameter, download.uri, download.path) == ("x", url, f"{tmp_path}/param_0/train 1.csv")
    assert bound.command == f"run '{tmp_path}/param_0/train 1.csv'"
    assert bound.values["x"] == url
    assert bound.parameters["x"] == f"'{url}'"


@pytest.mark.parametrize("uri", ["https://host/x.csv", "s3://bucket/x", "runs:/1/x", "models:/m/1"])
@pytest.mark.parametrize("check", [True, False])
def test_without_a_run_data_from_elsewhere_stays_as_it_is_written(uri, check):
    bound = bind(one("path"), {"x": uri}, check_local_paths=check)
    assert bound.command == f"run {uri}"
    assert bound.downloads == ()


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://host", "data"),
        ("https://host/%2e%2e", "data"),
        ("https://host/a%2Fb", "a_b"),
        ("https://host/dir/", "dir"),
        ("runs:/1/in/set", "set"),
        ("runs:/1", "1"),
        ("models:/m@champion", "m@champion"),
        ("https://host/" + "x" * 300 + ".csv", "x" * 196 + ".csv"),
    ],
)
def test_data_from_elsewhere_keeps_its_name_where_a_disk_can_have_it(uri, name, tmp_path):
    (download,) = bind(one("path"), {"x": uri}, storage_dir=tmp_path).downloads
    assert download.path == f"{tmp_path}/param_0/{name}"


@pytest.mark.parametrize("value", ["ftp://host/x", "file://server/x", "https:///x", "runs:/", "https://a:b@host/x"])
@pytest.mark.parametrize("options", [{}, {"check_local_paths": False}, {"storage_dir": "/storage"}])
def test_data_that_cannot_be_fetched_is_refused(value, options):
    assert len(refused(one("path"), {"x": value}, **options)) == 1


@pytest.mark.parametrize("value", ["", None])
def test_no_path_at_all_is_refused(value):
    assert len(refused(one("path"), {"x": value})) == 1


@pytest.mark.parametrize(("kind", "default"), [("float", "auto"), ("int", 2.5), ("uri", "s3:")])
def test_a_default_that_does_not_fit_its_type_is_used_with_a_warning(kind, default):
    bound = bind(one(kind, default))
    assert bound.command == f"run {default}"
    assert "it is used all the same" in bound.warnings[0]
    assert "line 4" in bound.warnings[0]


@pytest.mark.parametrize(
    ("kind", "default"), [("uri", "train.csv"), ("uri", 5), ("path", "/no/such"), ("path", "file://server/x")]
)
def test_a_default_that_mlflow_refuses_is_refused(kind, default):
    (problem,) = refused(one(kind, default), {})
    assert "give another value" in problem


def test_none_for_a_string_is_passed_as_text_with_a_warning():
    bound = bind(one("string"), {"x": None})
    assert bound.command == "run None"
    assert "leave the parameter out" in bound.warnings[0]


def test_the_nul_character_is_refused_in_values_names_and_defaults():
    problems = refused(one("string"), {"x": "a\0", "b\0": 1, "c": "\0"})
    assert len(problems) == 3
    assert all("NUL" in problem for problem in problems)
    assert "NUL" in refused(one("string", "a\0"), {})[0]


def test_an_extra_parameter_that_looks_like_a_declared_one_is_passed_with_a_warning(main, fitting):
    bound = main.bind({**fitting, "lable": "x"})
    assert bound.command.endswith(" --lable x")
    assert "did you mean 'label'?" in bound.warnings[0]


def test_parameters_that_are_no_mapping_are_refused(main):
    with pytest.raises(UserError, match="must be a mapping"):
        main.bind([("rate", 1)])


def test_a_command_that_these_values_do_not_fill_is_refused_with_its_place(tmp_path):
    (tmp_path / "MLproject").write_text("entry_points:\n  main: {parameters: {x: string}, command: 'echo {x[3]}'}\n")
    main = load_project(tmp_path).entry_point("main")
    assert main.bind({"x": "abcd"}).command == "echo d"
    with pytest.raises(InvalidProject, match=r"MLproject:2:50: .*\{x\[3\]\} cannot be filled in"):
        main.bind({"x": "abc"})


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), st.text())
)
def test_names_and_values_are_numbered_as_they_came(values):
    values = {name: text.replace("\0", "") for name, text in values.items()}
    bound = bind(EntryPoint("main", "run"), values)
    assert bound.values == values


@given(
    declared=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
    extra=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
)
def test_a_shell_gives_the_program_exactly_the_values(declared, extra):
    entry_point = EntryPoint("main", "printf '%s\\0' {x}", {"x": Parameter("x")})
    bound = bind(entry_point, {"x": declared, "name": extra})
    output = subprocess.run(["bash", "-c", bound.command], capture_output=True, check=True).stdout
    assert output.decode().split("\0") == [declared, "--name", extra, ""]


def test_every_type_says_in_words_why_a_text_does_not_fit():
    assert misfit("string", "") is None
    assert misfit("float", "x") == "is not a number"
    assert misfit("path", "") == "is empty, but a path is needed"
