"""The launcher, as a pod runs it: the init of a container, nobody's user, a root file system that cannot be written."""

import ast
import ensurepip
import importlib
import pkgutil
import shutil
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from launcher_world import RECIPE, WHERE, archive, own_package, pythons
from launcher_world import index as index
from launcher_world import world as world
from package_world import PackageIndex

from mlproj_core.launcher import Plan, program, source


class TestTheText:
    def test_is_understood_by_python_3_8(self):
        ast.parse(source(), feature_version=(3, 8))

    def test_imports_the_standard_library_only(self):
        names = set()
        for node in ast.walk(ast.parse(source())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
        assert names <= {*sys.stdlib_module_names, "__future__"}

    def test_has_all_that_the_modules_have_and_no_name_twice(self):
        names = []
        for node in ast.parse(source()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.append(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names += [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        assert {name for name, count in Counter(names).items() if count > 1} == {"TYPE_CHECKING"}
        for module in pkgutil.iter_modules(program.__path__):
            found = importlib.import_module(f"{program.__name__}.{module.name}")
            own = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == found.__name__]
            assert own, module.name
            assert set(own) <= set(names)

    def test_fits_into_a_secret_beside_the_code(self):
        assert len(source().encode()) < 100_000


class TestAnEntryPoint:
    def test_is_run_where_the_code_was_unpacked(self, world):
        launched, code = world.run("python main.py && pwd", {"main.py": "print(open('data').read())", "data": "hello"})
        assert (code, launched.output().splitlines()[-2:]) == (0, ["hello", "/mlflow/projects/code"])
        assert launched.log.read_text() == ""

    @pytest.mark.parametrize(("command", "expected"), [("exit 3", 3), ("kill -9 $$", 137), ("no-such-program", 127)])
    def test_gives_its_exit_code(self, world, command, expected):
        launched, code = world.run(command)
        assert (code, launched.log.read_text()) == (expected, "")

    def test_has_a_home_and_a_user_though_the_image_has_neither_for_it(self, world):
        script = "import getpass, os, tempfile; print(getpass.getuser()); open(os.path.expanduser('~/a'), 'w').close()"
        launched, code = world.run("python main.py", {"main.py": f"{script}; tempfile.mkdtemp()"}, user="4711:0")
        assert (code, launched.output().splitlines()[-1]) == (0, "uid-4711")

    def test_keeps_a_home_that_can_be_written(self, world):
        launched, code = world.run("echo $HOME", user="0:0", read_only=False)
        assert (code, launched.output().splitlines()[-1]) == (0, "/root")

    def test_is_run_by_sh_where_there_is_no_bash(self, world, engine):
        launched, code = world.run("echo $0 $((40 + 2))", binds=["/dev/null:/bin/bash"])
        assert (code, launched.output().splitlines()[-1]) == (0, "/bin/sh 42")

    def test_that_needs_no_shell_is_run_without_one(self, world):
        without = [f"/dev/null:/bin/{name}" for name in ("bash", "sh")]
        launched, code = world.run("python main.py 'a word'", {"main.py": "import sys; print(sys.argv)"}, binds=without)
        assert (code, launched.output().splitlines()[-1]) == (0, "['main.py', 'a word']")
        launched, code = world.run("echo a && echo b", binds=without)
        assert (code, launched.reason()["code"]) == (70, "image")

    def test_can_be_in_the_image(self, world, tmp_path):
        (tmp_path / "baked").mkdir()
        (tmp_path / "baked" / "main.py").write_text("print('baked')")
        launched, code = world.run(
            "python main.py", binds=[f"{tmp_path}/baked:/code:ro"], archive=None, directory="/code"
        )
        assert (code, launched.output().splitlines()[-1]) == (0, "baked")
        launched, code = world.run("true", archive=None, directory="/nowhere")
        assert (code, launched.reason()["code"]) == (70, "source")


class TestAPlan:
    def test_of_another_version_is_refused(self, world, tmp_path):
        launched, code = world.run("true", replaced={"version": 2})
        assert (code, launched.reason()["code"]) == (70, "lost")
        assert "version 2" in launched.reason()["message"]

    def test_has_the_code_in_one_place(self):
        for code in ({}, {"archive": "a", "directory": "b"}):
            with pytest.raises(ValueError, match="either an archive or a directory"):
                Plan("true", **code)

    def test_keeps_what_may_be_secret_out_of_its_own_words(self):
        plan = Plan("true", directory="/code", environment={"recipe": {"dependencies": ["https://me:geheim@host/x"]}})
        assert "geheim" not in repr(plan)
        assert "geheim" in plan.to_json()


class TestAnInit:
    def test_passes_a_signal_on_and_leaves_nobody_behind(self, world):
        script = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), signal.signal(signal.SIGTERM, signal.SIG_DFL),
                                           signal.raise_signal(signal.SIGTERM)))
subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("begun", flush=True)
time.sleep(1000)
"""
        launched = world.start("python main.py", {"main.py": script})
        launched.until("begun")
        launched.kill("TERM")
        assert launched.wait() == 143
        assert launched.output().splitlines()[-1] == "told"

    def test_ends_what_the_entry_point_leaves_behind(self, world):
        launched, code = world.run("(trap 'echo told; exit' TERM; sleep 1000 & wait) & sleep 0.5; echo done")
        assert code == 0
        assert launched.output().splitlines()[-2:] == ["done", "told"]

    def test_asks_for_the_end_of_orphans(self, world):
        launched = world.start("(sleep 0 &) ; sleep 0.5; ps -o stat,comm; echo end", user="0:0")
        assert launched.wait() == 0
        assert "Z" not in [line.split()[0] for line in launched.output().splitlines() if "sleep" in line]

    def test_serves_also_where_it_is_not_the_first_process(self, world):
        launched = world.start(
            "setsid sleep 1000 & echo begun; sleep 1000", host_config={"init": False, "pid_mode": "host"}
        )
        launched.until("begun")
        launched.kill("TERM")
        assert launched.wait() == 143


class TestAnArchive:
    def refused(self, world, entries, files=None):
        launched, code = world.run("true", code=archive(files or {}, entries))
        reason = launched.reason()
        assert (code, reason["code"], reason["retryable"]) == (70, "source", False)
        return reason["message"]

    @staticmethod
    def entry(name, kind=tarfile.REGTYPE, target=""):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, target
        return entry

    @pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped", "a\\b"])
    def test_with_a_name_that_leads_out_is_refused(self, world, name):
        assert repr(name) in self.refused(world, [self.entry(name)])

    @pytest.mark.parametrize("target", ["/etc/passwd", "../../escaped", "a/../../../etc"])
    def test_with_a_link_that_leads_out_is_refused(self, world, target):
        assert "out of its root" in self.refused(world, [self.entry("link", tarfile.SYMTYPE, target)])

    def test_with_a_file_below_a_link_is_refused(self, world):
        entries = [self.entry("here", tarfile.SYMTYPE, "."), self.entry("here/file")]
        assert "below a file or a link" in self.refused(world, entries)

    def test_with_a_link_through_a_link_is_refused(self, world):
        entries = [self.entry("a", tarfile.SYMTYPE, "d/.."), self.entry("d", tarfile.SYMTYPE, ".."),
                   self.entry("b", tarfile.SYMTYPE, "d/d")]  # fmt: skip
        assert "out of its root" in self.refused(world, entries)

    def test_with_a_hard_link_to_the_outside_is_refused(self, world):
        for target in ("/etc/passwd", "../x", "later", "self"):
            self.refused(world, [self.entry("self", tarfile.LNKTYPE, target)])

    def test_with_a_device_or_a_pipe_is_refused(self, world):
        for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE):
            assert "no file" in self.refused(world, [self.entry("x", kind)])

    def test_that_is_cut_off_is_refused(self, world):
        launched, code = world.run("true", code=archive({"a": "b" * 10_000})[:-20])
        assert (code, launched.reason()["code"]) == (70, "source")

    def test_keeps_links_within_it_and_who_may_run(self, world):
        run = tarfile.TarInfo("run.sh")
        run.mode = 0o755
        links = [self.entry("d/link", tarfile.SYMTYPE, "../a"), self.entry("hard", tarfile.LNKTYPE, "a"), run]
        launched, code = world.run("cat d/link hard; [ -x run.sh -a ! -x a ]", code=archive({"a": "hello\n"}, links))
        assert (code, launched.output().splitlines()[-2:]) == (0, ["hello", "hello"])


class TestAnEnvironment:
    def test_holds_what_the_project_lists(self, world):
        launched, code = world.run("python main.py", {"main.py": WHERE}, packages=["greeting==1.0"])
        assert code == 0, launched.output()
        version, *_, prefix, home = launched.output().splitlines()[-1].split()
        assert (version, home) == ("1.0", "/mlflow/projects/home")
        assert prefix.startswith("/mlflow/projects/environment/")

    @pytest.mark.parametrize("version", pythons() or [".".join(map(str, sys.version_info[:3]))])
    @pytest.mark.parametrize("way", ["uv", "pip"])
    def test_is_made_by_every_python(self, world, index, version, way):
        place = pythons().get(version, sys.base_prefix)
        libraries = "/usr/lib/x86_64-linux-gnu"
        variables = {"LD_LIBRARY_PATH": f"{place}/lib:/libraries", "PATH": f"{place}/bin:/bin:/usr/bin"}
        if way == "pip":  # which uv has no equal of
            variables["PIP_PREFER_BINARY"] = "1"
        launched, code = world.run(
            "python main.py", {"main.py": WHERE}, packages=["greeting"], python=f"{place}/bin/python3",
            binds=[f"{place}:{place}:ro", f"{libraries}:/libraries:ro"], variables=variables, with_uv=False,
        )  # fmt: skip
        assert code == 0, launched.output()
        assert launched.output().splitlines()[-1].startswith(f"1.0 ({', '.join(version.split('.')[:2])}) /mlflow")
        assert f"cpython {version} by {'uv' if way == 'uv' else 'venv and pip'}" in launched.output()

    def test_gets_its_build_dependencies_first(self, world):
        recipe = {**RECIPE, "build_dependencies": ["tool"], "dependencies": ["-r more/requirements.txt"]}
        files = {"more/requirements.txt": "-r ../last.txt", "last.txt": "greeting", "main.py": WHERE}
        for manager in ("virtualenv", "uv"):
            wanted = {"manager": manager, "recipe": recipe}
            launched, code = world.run("python -c 'import tool' && python main.py", files, environment=wanted)
            assert code == 0, launched.output()

    def test_that_cannot_be_made_is_the_reason(self, world):
        launched, code = world.run("true", packages=["clash", "greeting==1.0"])
        reason = launched.reason()
        assert (code, reason["code"], reason["retryable"]) == (70, "environment", False)
        assert "clash" in reason["message"]
        assert "[mlproj] FAILED: uv could not install the dependencies of python_env.yaml" in launched.output()

    def test_that_only_uv_can_make_has_its_locked_packages(self, world, index):
        pyproject = '[project]\nname = "demo"\nversion = "1"\nrequires-python = ">=3.8"\ndependencies = ["greeting"]\n'
        lock = (
            'version = 1\nrequires-python = ">=3.8"\n\n[[package]]\nname = "demo"\nversion = "1"\n'
            'source = { virtual = "." }\ndependencies = [{ name = "greeting" }]\n\n'
            '[[package]]\nname = "greeting"\nversion = "1.0"\n'
            f'source = {{ registry = "{index.url().rstrip("/")}" }}\n'
            f'wheels = [{{ url = "{index.url()[:-8]}/files/greeting-1.0-py3-none-any.whl" }}]\n'
        )
        recipe = {"file": "pyproject.toml", "python": None, "path": "pyproject.toml", "is_script": False}
        launched, code = world.run(
            "python main.py", {"main.py": WHERE, "pyproject.toml": pyproject, "uv.lock": lock},
            environment={"manager": "uv", "recipe": recipe},
        )  # fmt: skip
        assert code == 0, launched.output()
        assert launched.output().splitlines()[-1].startswith("1.0 ")

    def test_of_a_script_has_what_its_metadata_asks_for(self, world):
        script = f'# /// script\n# dependencies = ["greeting"]\n# [tool.uv]\n# ///\n{WHERE}'
        recipe = {"file": "main.py", "python": None, "path": "main.py", "is_script": True}
        launched, code = world.run(
            "python main.py", {"main.py": script}, environment={"manager": "uv", "recipe": recipe}
        )
        assert code == 0, launched.output()
        assert launched.output().splitlines()[-1].startswith("1.0 ")

    def test_can_hold_a_package_of_the_project(self, world):
        files = {f"own/{name}": text for name, text in own_package().items()}
        for line in ("./own", "-e own"):
            launched, code = world.run("python -c 'import own; print(own.x)'", files, packages=[line])
            assert code == 0, launched.output()
            assert launched.output().splitlines()[-1] == "41"

    def test_whose_python_is_nowhere_says_which_there_are(self, world):
        wanted = {"manager": "virtualenv", "recipe": {**RECIPE, "python": "3.7.2"}}
        launched, code = world.run("true", environment=wanted, variables={"UV_PYTHON_DOWNLOADS": "never"})
        reason = launched.reason()
        assert (code, reason["code"]) == (70, "environment")
        assert "python_env.yaml asks for Python 3.7.2" in reason["message"]
        assert f"{'.'.join(map(str, sys.version_info[:3]))} (/usr/local/bin/python3" in reason["message"]

    def test_without_a_network_is_a_reason_that_names_the_remedies(self, world):
        index = {"PIP_INDEX_URL": "https://packages.example/simple"}
        launched, code = world.run("true", packages=["greeting"], network="none", variables=index, with_uv=False)
        reason = launched.reason()
        assert (code, reason["code"], reason["retryable"]) == (70, "environment", True)
        assert "mlproj build-image" in reason["message"]
        assert "uv cannot be had here" in launched.output()

    def test_shows_no_password(self, world, index, tmp_path):
        closed = PackageIndex(index.directory, "me", "geheim")
        try:
            url = closed.url()
            launched, code = world.run(
                "true", packages=[f"--index-url {url}", "greeting"], variables={"PIP_EXTRA_INDEX_URL": url}
            )
            assert code == 0, launched.output()
            assert "geheim" not in launched.output()
            launched, code = world.run("true", packages=[f"greeting @ {url}nothing/greeting-1.0-py3-none-any.whl"])
            assert code == 70
            assert "geheim" not in launched.output() + launched.log.read_text()
        finally:
            closed.close()

    @pytest.mark.parametrize("way", ["pip of the image", "nothing"])
    def test_needs_a_pip_where_python_brings_none(self, world, index, tmp_path, way):
        (bundled,) = Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")
        shutil.copy(bundled, index.directory)
        (tmp_path / "packages").mkdir()
        (tmp_path / "nothing").mkdir()
        if way != "nothing":
            with zipfile.ZipFile(bundled) as wheel:
                wheel.extractall(tmp_path / "packages")
        library = f"/usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}"
        launched, code = world.run(
            "python main.py", {"main.py": WHERE}, packages=["greeting"], with_uv=False,
            variables={"PIP_PREFER_BINARY": "1"},
            binds=[f"{tmp_path}/nothing:{library}/ensurepip:ro", f"{tmp_path}/packages:{library}/site-packages:ro"],
        )  # fmt: skip
        if way == "nothing":
            assert launched.reason()["message"] == "the image has neither uv nor pip (nor ensurepip): add one of them"
        else:
            assert code == 0, launched.output()

    def test_that_fails_at_length_leaves_a_reason_that_is_kept_as_a_whole(self, world):
        launched, code = world.run("true", packages=[f"greeting=={'1' * 3000}", f"tool=={'2' * 3000}"])
        assert code == 70
        assert len(launched.log.read_bytes()) <= 4096
        assert launched.reason()["code"] == "environment"

    def test_is_the_images_own_where_none_is_wanted(self, world):
        launched, code = world.run("python main.py", {"main.py": "import sys; print(sys.prefix)"})
        assert (code, launched.output().splitlines()[-2:]) == (
            0,
            ["[mlproj] environment: local, that of the image", "/usr/local"],
        )
