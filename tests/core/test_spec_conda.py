"""What conda itself finds in an environment file: selectors, variables, platforms, lists of locked packages."""

import pytest

from mlproj_core.spec import check_project, load_project
from mlproj_core.spec.conda_file import CondaDependency, ExplicitPackage, selected
from mlproj_core.spec.environment import read_conda_env


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "conda.yaml").write_text(text)
        spec, problems = read_conda_env(tmp_path / "conda.yaml", "conda.yaml", tmp_path)
        assert problems == []
        return spec

    return read


class TestASelector:
    @pytest.mark.parametrize(
        ("selector", "platforms"),
        [
            (None, "linux-64 linux-aarch64 osx-64 osx-arm64 win-64"),
            ("linux", "linux-64 linux-aarch64"),
            ("unix", "linux-64 linux-aarch64 osx-64 osx-arm64"),
            ("linux64", "linux-64"),
            ("osx-arm64", "osx-arm64"),
            ("arm64", "osx-arm64"),
            ("not win", "linux-64 linux-aarch64 osx-64 osx-arm64"),
            ("linux and not aarch64", "linux-64"),
            ("win or osx", "osx-64 osx-arm64 win-64"),
        ],
    )
    def test_takes_in_its_platforms(self, selector, platforms):
        known = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64")
        assert " ".join(one for one in known if selected(selector, one)) == platforms

    def test_stands_in_a_comment_or_around_the_package(self, read):
        spec = read(
            "dependencies:\n"
            "  - numpy\n"
            "  - pywin32  # [win]\n"
            "  - sel(not osx): nano\n"
            "  - pip  # [see the manual]\n"
            "  - pip:\n"
            "    - idna[extra]  # needed on  [unix]\n"
        )
        assert spec.conda.packages == (
            CondaDependency("numpy", "conda.yaml:2:5"),
            CondaDependency("pywin32", "conda.yaml:3:5", "win"),
            CondaDependency("nano", "conda.yaml:4:5", "not osx"),
            CondaDependency("pip", "conda.yaml:5:5"),
        )
        assert spec.conda.pip == (CondaDependency("idna[extra]", "conda.yaml:7:7", "unix"),)

    def test_changes_nothing_of_what_mlflow_reads(self, read):
        spec = read("dependencies:\n  - python=3.11\n  - pywin32  # [win]\n")
        assert spec.conda_packages == ("python=3.11", "pywin32")
        assert (spec.python, spec.left_out) == ("3.11", ("pywin32",))


class TestAnEnvironmentFile:
    def test_has_variables_and_platforms(self, read):
        spec = read("platforms: [linux-64, osx-arm64]\nvariables:\n  A: text\n  B: 1\n  C: true\n")
        assert spec.conda.variables == (("A", "text"), ("B", "1"), ("C", "True"))
        assert spec.conda.platforms == ("linux-64", "osx-arm64")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("dependencies:\n  - {numpy: 1}\n", "conda.yaml:2:5: {'numpy': 1} is no conda dependency"),
            ("dependencies:\n  - 3.10\n", "conda.yaml:2:5: 3.1 is no conda dependency"),
            ("dependencies:\n  - sel(mac): x\n", "conda.yaml:2:15: 'mac' in 'sel(mac)' names no platform"),
            ("dependencies:\n  - pip: idna\n", "conda.yaml:2:10: pip must be a list, found text"),
            ("dependencies:\n  - pip:\n    - 1\n", "conda.yaml:3:7: pip must hold text only, found 1"),
            ("channels: conda-forge\n", "conda.yaml:1:11: channels must be a list, found text"),
            ("channels:\n  - 1\n", "conda.yaml:2:5: a channel must be text, found 1"),
            ("variables: [A]\n", "conda.yaml:1:12: variables must be a mapping, found a list"),
            ("variables:\n  A-B: 1\n", "conda.yaml:2:8: 'A-B' cannot be the name of a variable"),
            ("variables:\n  A:\n", "conda.yaml:2:5: the variable A must have one value, found nothing"),
            ("platforms: linux-64\n", "conda.yaml:1:12: platforms must be a list, found text"),
            ("platforms:\n  - linux\n", "conda.yaml:2:5: 'linux' is no platform"),
        ],
    )
    def test_that_conda_could_not_read_says_where_and_how_to_mend_it(self, read, text, problem):
        (found,) = read(text).conda.problems
        assert str(found).startswith(problem)
        assert found.remedy

    def test_is_checked_with_the_project(self, tmp_path):
        (tmp_path / "conda.yaml").write_text("variables:\n  A-B: 1\n")
        (tmp_path / "MLproject").write_text("conda_env: conda.yaml\nentry_points:\n  main:\n    command: 'true'\n")
        (problem,) = check_project(tmp_path)
        assert "'A-B' cannot be the name of a variable" in str(problem)
        assert problem.severity == "warning"


class TestAnExplicitList:
    def test_has_addresses_with_their_digests(self, read):
        md5, sha256 = "a" * 32, "b" * 64
        spec = read(
            "# This file may be used to create an environment using:\n"
            "# platform: linux-64\n"
            "@EXPLICIT\n"
            f"https://x.example/noarch/a-1-0.conda#{md5}\n"
            f"https://x.example/noarch/b-1-0.tar.bz2#sha256:{sha256}\n"
            f"./c-1-0.conda#{sha256}\n"
            "https://x.example/noarch/d-1-0.conda\n"
        )
        assert spec.conda.locked == "explicit"
        assert spec.conda.platforms == ("linux-64",)
        assert spec.conda.explicit == (
            ExplicitPackage("https://x.example/noarch/a-1-0.conda", md5=md5),
            ExplicitPackage("https://x.example/noarch/b-1-0.tar.bz2", sha256=sha256),
            ExplicitPackage("./c-1-0.conda", sha256=sha256),
            ExplicitPackage("https://x.example/noarch/d-1-0.conda"),
        )

    @pytest.mark.parametrize("line", ["numpy=1", "https://x.example/a.zip", "https://x.example/a-1-0.conda#123"])
    def test_names_the_line_that_is_no_package(self, read, line):
        (problem,) = read(f"@EXPLICIT\n\n{line}\n").conda.problems
        assert str(problem).startswith("conda.yaml:3: ")

    def test_without_packages_is_a_mistake(self, read):
        assert "empty" in str(read("@EXPLICIT\n").conda.problems[0])

    def test_cannot_be_a_virtual_environment_and_says_what_can_make_it(self, tmp_path):
        (tmp_path / "env.txt").write_text("@EXPLICIT\nhttps://x.example/noarch/a-1-0.conda\n")
        (tmp_path / "MLproject").write_text("conda_env: env.txt\n")
        with pytest.raises(Exception, match="set env_manager to 'conda'"):
            load_project(tmp_path).environment.as_python_env()


class TestALockFile:
    def test_is_known_by_its_keys_and_not_parsed(self, read):
        spec = read("version: 1\nmetadata: {}\npackage:\n  - {this: [is, never, parsed\n")
        assert spec.conda.locked == "conda-lock"
