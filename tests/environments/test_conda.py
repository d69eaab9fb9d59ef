"""Conda environments: what is in them, that they are activated, what happens when there is no solution."""

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import replace

import pytest
from conda_world import MINOR, PLATFORM, PYTHON, Package, clean_conda, index
from package_world import PackageIndex, clean_host, package, wheel

import mlproj_core
from mlproj_core.environments import (
    Environment,
    build_request,
    choose_manager,
    environment_manager,
    list_environments,
    prune_environments,
)
from mlproj_core.environments.conda_manager import CondaManager, missing
from mlproj_core.errors import EnvironmentBuildError, ExecutionException, InvalidProject, UserError
from mlproj_core.spec import load_project


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    home = clean_host(monkeypatch, tmp_path)
    clean_conda(monkeypatch)
    return home


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    return folder


@pytest.fixture
def conda(project, conda_channel):
    """Writes the project's conda.yaml: packages of conda, then of pip, then further text."""

    def write(*packages, pip=(), channels=(), more=""):
        lines = ["channels:", *(f"  - {one}" for one in (*channels, conda_channel, "nodefaults")), "dependencies:"]
        lines += [f"  - {one}" for one in packages]
        lines += ["  - pip:", *(f"    - {one}" for one in pip)] if pip else []
        (project / "conda.yaml").write_text("\n".join(lines) + "\n" + more)
        return load_project(project).environment

    return write


@pytest.fixture
def make(project):
    """Makes an environment, with a list for what the builder says."""

    def ensure(spec, said=None):
        return environment_manager("conda").ensure(spec, project, (said if said is not None else []).append)

    return ensure


def inside(environment, command, **variables):
    """What a command prints in an environment, started as the supervisor of a run starts it."""
    from mlproj_core.backends.local.hosted import ACTIVATED

    around = {name: value for name, value in os.environ.items() if name not in environment.unset}
    return subprocess.run(
        ["bash", "-c", ACTIVATED, environment.activation, command],
        env={**around, **environment.variables, **variables},
        capture_output=True,
        text=True,
    )


def prints(environment, command, **variables):
    done = inside(environment, command, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestTheManager:
    def test_is_chosen_by_its_name_for_a_conda_yaml_and_leaves_nothing_out(self, conda):
        assert choose_manager(conda("python", "alpha"), "conda") == ("conda", ())
        assert isinstance(environment_manager("conda"), CondaManager)

    def test_is_not_for_a_project_without_a_conda_yaml(self, project):
        with pytest.raises(UserError, match="names no conda_env"):
            environment_manager("conda").recipe(None)

    def test_is_there_with_py_rattler(self, conda_channel):
        assert missing() is None

    def test_says_what_is_missing_without_it_and_how_to_get_it(self, conda, project, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("mlproj_core.environments.conda_program.find_spec", lambda name: None)
        assert "pip install 'mlproj[conda]'" in missing()
        with pytest.raises(UserError, match=r"pip install 'mlproj\[conda\]'"):
            environment_manager("conda").find(conda("python"), project)


class TestAnEnvironment:
    def test_holds_packages_of_both_formats_and_a_python_that_was_put_there(self, conda, make):
        environment = make(conda(f"python={MINOR}", "beta", "activated", "where"))
        code = (
            "import sys, alpha, beta, sysconfig; print(sys.prefix, alpha.version, sysconfig.get_config_var('prefix'))"
        )
        assert prints(environment, f'python -c "{code}"').split()[-3:] == [
            str(environment.prefix), "1.0", str(environment.prefix)
        ]  # fmt: skip
        assert (environment.prefix / "share" / "where.txt").read_text() == f"{environment.prefix}/share\n"
        binary = (environment.prefix / "share" / "where.bin").read_bytes()
        assert binary.startswith(b"\0" + str(environment.prefix).encode() + b"/share\0")

    def test_has_pip_with_its_python_as_under_conda(self, conda, make):
        environment = make(conda("python"))
        assert "pip 2" in prints(environment, "pip --version")

    def test_needs_no_python(self, conda, make):
        environment = make(conda("where"))
        assert not (environment.prefix / "bin" / "python").exists()
        assert prints(environment, "cat $CONDA_PREFIX/share/where.txt") == f"{environment.prefix}/share"

    def test_has_run_the_scripts_that_finish_an_installation(self, conda, make):
        assert (make(conda("linked")).prefix / "linked").exists()

    def test_is_run_in_by_a_project_from_end_to_end(self, project, conda, world, tmp_path):
        wheel(tmp_path / "wheels", "delta")
        conda(f"python={MINOR}", "alpha", pip=[f"--find-links {tmp_path}/wheels", "--no-index", "delta"])
        (project / "MLproject").write_text(
            'name: x\nconda_env: conda.yaml\nentry_points:\n  main:\n    command: "python main.py"\n'
        )
        (project / "main.py").write_text(
            "import alpha, delta, os, sys\n"
            "words = [alpha.origin, delta.version, os.environ['CONDA_PREFIX']]\n"
            "open(sys.argv[0] + '.out', 'w').write(' '.join(words))\n"
        )
        said = []
        run = mlproj_core.run(str(project), env_manager="conda", report=said.append)
        assert run.get_status() == "FINISHED"
        (info,) = list_environments()
        assert (project / "main.py.out").read_text() == f"conda 1.0 {info.prefix}"
        assert (info.manager, info.python, info.purpose) == ("conda", PYTHON, str(project / "conda.yaml"))
        again = mlproj_core.run(str(project), env_manager="conda", report=said.append)
        assert again.get_status() == "FINISHED"
        assert len(list_environments()) == 1

    def test_is_found_again_in_milliseconds_without_a_process(self, project, conda, make, monkeypatch):
        spec = conda("python", "alpha", pip=[])
        assert environment_manager("conda").find(spec, project) is None
        made = make(spec)
        assert not made.hit
        monkeypatch.setattr(subprocess, "Popen", None)
        monkeypatch.setattr(socket, "socket", None)
        spent = []
        for _ in range(20):
            began = time.perf_counter()
            assert environment_manager("conda").find(spec, project) == replace(made, hit=True)
            spent.append(time.perf_counter() - began)
        assert min(spent) < 0.02

    def test_goes_to_and_from_json_with_its_recipe(self, project, conda, make):
        spec = conda("python", "alpha", pip=["delta  # [win]"], more="variables:\n  A: b\nplatforms:\n  - linux-64\n")
        recipe = environment_manager("conda").recipe(spec)
        request = json.loads(json.dumps(build_request("conda", spec, project)))
        assert environment_manager("conda").read_recipe(request["spec"]) == recipe
        environment = make(recipe)
        assert Environment.from_dict(json.loads(json.dumps(environment.to_dict()))) == environment

    def test_shares_the_files_of_its_packages_with_others(self, conda, make):
        one, two = make(conda("python", "alpha=1")), make(conda("python", "alpha=2"))
        library = f"lib/python{MINOR}/os.py"
        assert one.prefix != two.prefix
        assert (one.prefix / library).samefile(two.prefix / library)

    def test_is_pruned_as_any_other(self, conda, make):
        environment = make(conda("where"))
        assert [info.key for info in prune_environments()] == [environment.key]
        assert not environment.prefix.exists()


class TestTheKey:
    @pytest.mark.parametrize(
        "changed",
        [
            {"packages": ("python", "alpha=1")},
            {"pip": ("delta",)},
            {"more": "variables:\n  A: c\n"},
            {"channels": ("https://channel.example/x",)},
        ],
    )
    def test_changes_with_everything_that_is_asked_for(self, project, conda, changed):
        asked = {"packages": ("python", "alpha"), "more": "variables:\n  A: b\n"}

        def key(packages, **other):
            return CondaManager().key(conda(*packages, **other), project)

        before = key(**asked)
        assert key(**{**asked, **changed}) != before
        assert key(**asked) == before

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CONDA_CHANNEL_PRIORITY", "strict"),
            ("CONDA_OVERRIDE_CUDA", "12.0"),
            ("CONDA_SUBDIR", "linux-32"),
            ("CONDA_PINNED_PACKAGES", "alpha<2"),
            ("CONDA_CREATE_DEFAULT_PACKAGES", "where"),
            ("CONDA_ADD_PIP_AS_PYTHON_DEPENDENCY", "false"),
        ],
    )
    def test_changes_with_what_condas_variables_say(self, project, conda, monkeypatch, name, value):
        spec = conda("python", "alpha")
        before = CondaManager().key(spec, project)
        monkeypatch.setenv(name, value)
        assert CondaManager().key(spec, project) != before

    def test_changes_with_a_file_of_pips_part_and_with_pips_settings(self, project, conda, monkeypatch):
        (project / "requirements.txt").write_text("delta\n")
        spec = conda("python", pip=["-r requirements.txt"])
        before = CondaManager().key(spec, project)
        (project / "requirements.txt").write_text("delta<2\n")
        changed = CondaManager().key(spec, project)
        assert changed != before
        monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
        assert CondaManager().key(spec, project) != changed

    def test_knows_no_name_prefix_or_place_of_the_file(self, project, conda, tmp_path):
        before = CondaManager().key(conda("python", more="name: one\nprefix: /here\n"), project)
        spec = conda("python", more="name: two\n")
        assert CondaManager().key(spec, project) == before
        shutil.copytree(project, tmp_path / "checkout")
        moved = load_project(tmp_path / "checkout").environment
        assert CondaManager().key(moved, tmp_path / "checkout") == before


class TestActivation:
    @pytest.fixture
    def environment(self, conda, make):
        return make(conda("activated", more="variables:\n  GREETING: hello $HOME 'quoted'\n  NUMBER: 3\n"))

    def test_sets_condas_own_variables_and_puts_the_environment_first_on_path(self, environment):
        names = "$CONDA_PREFIX|$CONDA_DEFAULT_ENV|$CONDA_SHLVL|${PATH%%:*}"
        place = environment.prefix
        assert prints(environment, f'echo "{names}"').splitlines()[-1] == f"{place}|{place}|1|{place}/bin"

    def test_sets_variables_of_packages_first_then_of_the_file_and_runs_scripts_by_name(self, environment):
        done = prints(environment, 'echo "$OF_PACKAGE|$NUMBER|$SECOND|${not_exported-}|"').splitlines()
        assert done == ["activating", f"1|3|{environment.prefix}:hello $HOME 'quoted':0||"]

    def test_is_known_to_conda_itself(self, environment):
        state = json.loads((environment.prefix / "conda-meta" / "state").read_text())
        assert state["env_vars"]["NUMBER"] == "3"

    @pytest.mark.parametrize("code", [0, 3, 143])
    def test_leaves_the_commands_end_as_it_is(self, environment, code):
        assert inside(environment, f"exit {code}").returncode == code

    def test_leaves_the_commands_shell_as_it_is(self, environment):
        plain = subprocess.run(["bash", "-c", 'echo "$0 $# $-"; set -u; echo "$@"'], capture_output=True, text=True)
        activated = inside(environment, 'echo "$0 $# $-"; set -u; echo "$@"')
        shown = activated.stdout.removeprefix("activating\n")
        assert (shown.split()[0].rpartition("/")[2], shown.split()[1:]) == ("bash", plain.stdout.split()[1:])

    def test_ends_with_a_signal_as_the_command_does(self, environment):
        assert inside(environment, "kill -TERM $$").returncode == -15

    def test_takes_back_an_environment_that_is_active_around_it(self, environment, conda, make, monkeypatch):
        inner = make(conda("python"))
        around = {"CONDA_PREFIX": str(environment.prefix), "FIRST": "around", "GREETING": "around"}
        for name, value in around.items():
            monkeypatch.setenv(name, value)
        own = f"{environment.prefix}/bin"
        monkeypatch.setenv("PATH", f"/bin:{own}:{own}:/usr/bin:{own}")
        again = environment_manager("conda").find(conda("python"), environment.prefix)
        assert again.prefix == inner.prefix
        shown = prints(again, 'echo "$CONDA_PREFIX|${FIRST-gone}|${GREETING-gone}|$DEACTIVATED|$PATH"')
        assert shown == f"{inner.prefix}|gone|gone|{environment.prefix}|{inner.prefix}/bin:/bin:/usr/bin"

    def test_by_a_script_that_ends_the_shell_is_told(self, tmp_path, make, conda, conda_channel):
        channel = tmp_path / "channel"
        Package("broken", noarch="generic").file("etc/conda/activate.d/broken.sh", "exit 7\n").write(channel)
        done = inside(make(conda("broken", channels=[index(channel)])), "echo not reached")
        assert done.returncode == 7
        assert done.stdout == ""
        assert "activation of the conda environment ended the shell, in " in done.stderr
        assert "broken.sh" in done.stderr

    def test_is_what_a_run_of_a_project_gets(self, project, conda, world):
        conda("activated", more="variables:\n  GREETING: hi\n")
        (project / "MLproject").write_text(
            "conda_env: conda.yaml\nentry_points:\n  main:\n    command: 'echo \"$SECOND\" > out; exit 4'\n"
        )
        with pytest.raises(ExecutionException) as caught:
            mlproj_core.run(str(project), env_manager="conda", report=lambda line: None)
        assert caught.value.reason.exit_code == 4
        assert (project / "out").read_text().endswith(":hi:0\n")


class TestThePartOfPip:
    @pytest.fixture
    def wheels(self, tmp_path, monkeypatch):
        for name, version in (("delta", "1.0"), ("alpha", "9.0")):
            wheel(tmp_path / "wheels", name, version)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))

    def test_is_installed_by_pips_settings_and_brings_pip_itself(self, conda, make, wheels):
        environment = make(conda("python", pip=["delta"]))
        assert prints(environment, "python -c 'import delta; print(delta.version)'") == "1.0"
        assert (environment.prefix / "bin" / "pip").exists()

    def test_replaces_what_conda_has_brought_when_it_names_that(self, conda, make, wheels):
        kept, replaced = (
            make(conda("python", "alpha=1", pip=["delta"])),
            make(conda("python", "alpha=1", pip=["alpha"])),
        )
        assert prints(kept, "python -c 'import alpha; print(alpha.version)'") == "1.0"
        assert prints(replaced, "python -c 'import alpha; print(alpha.version)'") == "9.0"
        assert prints(kept, "python -c 'import alpha; print(alpha.version)'") == "1.0"

    def test_is_relative_to_the_directory_of_the_file(self, project, conda_channel, make, wheels):
        folder = project / "environments"
        package(folder / "lib", "gamma", code="x = 'local'")
        (folder / "requirements.txt").write_text("delta\n")
        (folder / "conda.yaml").write_text(
            f"channels: [{conda_channel}, nodefaults]\n"
            "dependencies: [python, pip, {pip: [-r requirements.txt, ./lib]}]\n"
        )
        (project / "MLproject").write_text("conda_env: environments/conda.yaml\n")
        environment = make(load_project(project).environment)
        assert prints(environment, "python -c 'import delta, gamma; print(gamma.x)'") == "local"

    def test_is_refused_without_a_python(self, conda, make, wheels, monkeypatch):
        monkeypatch.setenv("CONDA_ADD_PIP_AS_PYTHON_DEPENDENCY", "false")
        spec = replace(conda("where", pip=["delta"]))
        recipe = replace(environment_manager("conda").recipe(spec), lists_pip=True)
        with pytest.raises(UserError, match="lists packages for pip, but no python"):
            make(recipe)

    def test_that_fails_shows_uvs_words_and_leaves_nothing(self, conda, make, wheels, tmp_path):
        with pytest.raises(EnvironmentBuildError, match="no version of delta==9"):
            make(conda("python", pip=["delta==9"]))
        assert [path.name for path in (tmp_path / "cache" / "envs").iterdir()] == [".locks"]

    def test_never_shows_a_password_of_a_package_index(self, conda, make, tmp_path, monkeypatch, project):
        wheel(tmp_path / "packages", "delta")
        server = PackageIndex(tmp_path / "packages", "me", "s3cr3t-of-pip")
        server.watch_for = "s3cr3t-of-pip"
        try:
            spec = conda("python", pip=[f"--index-url {server.url()}", "delta"])
            assert build_request("conda", spec, project)["spec"] is None
            said = []
            environment = make(spec, said)
        finally:
            server.close()
        assert server.asked
        assert server.seen == []
        assert "s3cr3t-of-pip" not in "\n".join(said) + environment.marker.read_text()


class TestASolveThatFails:
    def test_shows_the_solvers_explanation_and_leaves_nothing(self, conda, make, tmp_path):
        with pytest.raises(EnvironmentBuildError) as caught:
            make(conda("python", "impossible"))
        message = str(caught.value)
        assert "impossible 1.0 would require" in message
        assert "alpha >=3, for which no candidates were found" in message
        assert f"platform: {PLATFORM}" in message
        assert not caught.value.reason.retryable
        assert "env_manager 'uv'" not in message
        assert [path.name for path in (tmp_path / "cache" / "envs").iterdir()] == [".locks"]

    def test_of_a_file_that_only_pip_needs_says_that_uv_can_run_it(self, conda, make):
        with pytest.raises(EnvironmentBuildError, match="can be run without conda, with env_manager 'uv'"):
            make(conda("python=2.6", "pip", pip=["delta"]))

    def test_is_not_a_retry_worth_but_a_channel_out_of_reach_is(self, conda, make, monkeypatch):
        monkeypatch.setenv("CONDA_REMOTE_MAX_RETRIES", "0")
        with socket.socket() as closed:
            closed.bind(("localhost", 0))
            spec = conda("alpha", channels=[f"http://localhost:{closed.getsockname()[1]}/x"])
            with pytest.raises(EnvironmentBuildError) as caught:
                make(spec)
        assert caught.value.reason.retryable

    def test_by_a_specification_that_is_none_names_its_line(self, conda, make):
        with pytest.raises(UserError, match=r"conda\.yaml:5:5: 'alpha >=>1' is no specification of a conda package"):
            make(conda("'alpha >=>1'"))

    def test_is_told_to_who_runs_the_project(self, project, conda, world):
        conda("python", "impossible")
        (project / "MLproject").write_text("conda_env: conda.yaml\nentry_points:\n  main:\n    command: 'true'\n")
        with pytest.raises(ExecutionException, match=r"impossible 1\.0 would require") as caught:
            mlproj_core.run(str(project), env_manager="conda", report=lambda line: None)
        assert caught.value.reason.code == "environment"

    def test_before_any_work_when_conda_could_not_read_the_file(self, conda):
        spec = conda("python", "{numpy: 1}", more="variables: [1]\n")
        with pytest.raises(InvalidProject) as caught:
            environment_manager("conda").recipe(spec)
        assert len(caught.value.problems) == 2
        assert "conda.yaml:6" in caught.value.problems[0]


class TestPackagesForSomePlatforms:
    def test_are_left_out_elsewhere(self, conda, make):
        environment = make(
            conda("where  # [linux]", "not-for-us  # [win]", "{sel(osx): neither}", "linked  # [a remark]", pip=[])
        )
        assert (environment.prefix / "share" / "where.txt").exists()
        assert (environment.prefix / "linked").exists()

    def test_are_all_that_a_file_for_another_platform_has(self, conda, make):
        with pytest.raises(UserError, match=f"is for osx-arm64 only, and this host's platform is {PLATFORM}"):
            make(conda("where", more="platforms: [osx-arm64]\n"))
