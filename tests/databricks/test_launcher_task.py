"""A task on a cluster: what is submitted really runs, in a clean container with a bare Python."""

import ast
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from launcher_world import archive
from launcher_world import index as index
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.databricks import poll
from mlproj_core.backends.databricks.connect import forget_workspaces
from mlproj_core.backends.databricks.task import pack
from mlproj_core.errors import UserError
from mlproj_core.launcher import task_source
from mlproj_core.tracking import UNTRACKED_URI

NEW = {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 1}
SERVERLESS = {"serverless": {"environment_version": "4"}}


@pytest.fixture
def world(live_workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("MLPROJ_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MLPROJ_CACHE_DIR", str(tmp_path / "cache"))
    live_workspace.add_cluster("0101-1")
    yield World(live_workspace, tmp_path)
    poll.stop_polling()
    forget_workspaces()


class World:
    """A project, and the workspace that it runs in."""

    def __init__(self, workspace, directory):
        self.workspace, self.directory = workspace, directory / "project"
        self.directory.mkdir()

    def submit(self, command="python main.py", files=None, *, config=NEW, mlproject="", **more):
        text = mlproject or "entry_points:\n  main:\n    parameters: {words: {default: ''}}\n    command: "
        text += "" if mlproject else json.dumps(command)
        for name, content in {"MLproject": text, **(files or {})}.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content))
        more = {"env_manager": "local", "tracking_uri": UNTRACKED_URI, **more}
        return mlproj_core.submit(str(self.directory), backend="databricks", backend_config=dict(config), **more)

    def run(self, *arguments, **more):
        """Returns: the run at its end, and what it printed."""
        run = self.submit(*arguments, **more)
        run.wait()
        return run, "".join(run.logs())

    def body(self, run):
        """What was submitted."""
        return self.workspace.runs.by_id[run.handle.ref["run"]].body

    def logs(self, run):
        """All that the task has printed."""
        return self.workspace.runs.by_id[run.handle.ref["run"]].task.logs.decode()


class TestTheText:
    def test_is_understood_by_python_3_8(self):
        ast.parse(task_source(), feature_version=(3, 8))

    def test_has_the_launcher_with_it(self):
        from mlproj_core.launcher import source

        found = {
            node.targets[0].id: node.value
            for node in ast.parse(task_source()).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        assert ast.literal_eval(found["LAUNCHER"]) == source()


class TestAnEntryPoint:
    @pytest.mark.parametrize("config", [NEW, {"existing_cluster_id": "0101-1"}, SERVERLESS])
    def test_runs_where_its_code_was_unpacked(self, world, config):
        files = {
            "main.py": """
                import json, os, sys
                print(open("data").read(), sys.argv[1:], flush=True)
                with open(os.environ["MLPROJ_RESULT"], "w") as file:
                    json.dump({"answer": 42}, file)
            """,
            "data": "hello",
        }
        run, output = world.run("python main.py --words {words}", files, config=config,
                                parameters={"words": "it's {{job.id}} $HOME; rm -rf /"})  # fmt: skip
        assert run.get_status() == "FINISHED", output
        assert "hello ['--words', \"it's {{job.id}} $HOME; rm -rf /\"]\n" in output
        assert run.result().result == {"answer": 42}
        assert '{"mlproj"' not in output

    def test_gives_its_exit_code(self, world):
        run, output = world.run("echo about to fail && exit 3")
        assert (run.get_status(), run.reason.code, run.reason.exit_code) == ("FAILED", "project_code", 3)
        assert "about to fail" in run.reason.output
        assert "Traceback" not in output

    def test_that_is_killed_says_by_what(self, world):
        run, _ = world.run("kill -9 $$")
        assert (run.reason.code, run.reason.signal) == ("project_code", 9)

    def test_that_cannot_be_unpacked_or_made_says_why(self, world):
        run, _ = world.run(
            files={"python_env.yaml": "python: '3.1'\n"},
            mlproject="python_env: python_env.yaml\nentry_points:\n  main: {command: python main.py}\n",
            env_manager="virtualenv",
            env_vars={"UV_PYTHON_DOWNLOADS": "never", "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0"},
        )
        assert (run.get_status(), run.reason.code) == ("FAILED", "environment")
        assert "Python 3.1" in run.reason.message

    def test_has_an_environment_of_its_own(self, world, index, tmp_path):
        run, output = world.run(
            files={
                "python_env.yaml": "dependencies: [greeting]\n",
                "main.py": """
                    import os, sys, greeting
                    print("in", sys.prefix, "with", greeting.version, os.environ.get("PYTHONPATH"))
                """,
            },
            mlproject="python_env: python_env.yaml\nentry_points:\n  main: {command: python main.py}\n",
            env_manager="virtualenv",
            env_vars={"PIP_INDEX_URL": index.url(), "UV_DEFAULT_INDEX": index.url()},
        )
        assert run.get_status() == "FINISHED", output
        assert re.search(r"in /\S+/env with \S+ None\n", output)

    def test_of_the_cluster_s_own_python_has_what_the_cluster_has(self, world):
        code = "import os, sys; print(sys.executable, os.environ['PYTHONPATH'])"
        run, output = world.run(files={"main.py": code})
        assert run.get_status() == "FINISHED", output
        assert "/usr/local/bin/python /databricks/libraries:/databricks/spark/python\n" in output

    def test_leaves_nothing_behind_when_it_is_cancelled(self, world):
        run = world.submit("echo started; sleep 1000")
        for text in run.logs(follow=True):
            if "started" in text:
                break
        run.cancel()
        assert run.get_status() == "KILLED"
        assert world.workspace.runtime.running() == []


class TestAPlan:
    def test_that_is_long_goes_by_a_file(self, world):
        words = "".join(f"{number:x}" for number in range(20_000))
        code = "import os; print(len(os.environ['WORDS']))"
        run, output = world.run(files={"main.py": code}, env_vars={"WORDS": words})
        assert run.get_status() == "FINISHED", output
        assert f"{len(words)}\n" in output
        parameters = world.body(run)["tasks"][0]["spark_python_task"]["parameters"]
        assert parameters[2] == "--plan"
        assert parameters[3].startswith("@/Workspace/Users/me@example.org/.mlproj/plans/")
        again = mlproj_core.attach(run.handle)
        assert again.get_status() == "FINISHED"

    @pytest.mark.parametrize("root", ["/Volumes/ml/default/runs/x", "/Workspace/Shared/x", "dbfs:/x"])
    def test_and_its_code_are_found_in_any_place(self, world, root):
        world.workspace.volumes.add("ml", "default", "runs")
        run, output = world.run("echo hello", config={**NEW, "root": root}, env_vars={"LONG": "x" * 90_000})
        assert (run.get_status(), "hello\n" in output) == ("FINISHED", True), output
        assert world.body(run)["tasks"][0]["spark_python_task"]["python_file"].startswith(f"{root}/tasks/")

    def test_whose_code_is_not_what_was_uploaded_is_not_run(self, world):
        run = world.submit("echo hello", config={**NEW, "root": "/Workspace/Shared/x"})
        run.wait()
        (archive,) = (world.workspace.objects.directory / "Shared/x/code").iterdir()
        content = bytearray(archive.read_bytes())
        content[-1] ^= 1
        archive.write_bytes(bytes(content))
        run, output = world.run("echo hello", config={**NEW, "root": "/Workspace/Shared/x"})
        assert (run.get_status(), run.reason.code) == ("FAILED", "source")
        assert "is not what was uploaded" in run.reason.message
        assert "hello\n" not in output


class TestSecrets:
    CODE = "import os; print('GIVEN', os.environ['PASSPHRASE'][::-1], os.environ['PLAIN'])"
    GIVEN = {"PASSPHRASE": "{{secrets/ml/pass}}", "PLAIN": "seen"}

    @pytest.mark.parametrize("config", [NEW, {"existing_cluster_id": "0101-1"}, SERVERLESS])
    def test_reach_the_project_by_reference(self, world, config):
        world.workspace.secrets.put("ml", "pass", "geheim")
        run, output = world.run(files={"main.py": self.CODE}, config=config, env_vars=self.GIVEN)
        assert run.get_status() == "FINISHED", output
        assert "GIVEN mieheg seen\n" in output
        assert "geheim" not in json.dumps([each[2] for each in world.workspace.log if each[2]])
        variables = world.body(run)["tasks"][0].get("new_cluster", {}).get("spark_env_vars")
        assert variables == ({"PASSPHRASE": "{{secrets/ml/pass}}"} if config is NEW else None)

    def test_that_are_not_there_are_told(self, world):
        run, _ = world.run(files={"main.py": self.CODE}, config=SERVERLESS, env_vars=self.GIVEN)
        assert (run.get_status(), run.reason.code) == ("FAILED", "user_input")
        assert "'pass' of the scope 'ml'" in run.reason.message


class TestADatabricksSparkJob:
    def test_runs_in_the_process_of_the_session(self, world):
        files = {
            "MLproject": """
                name: job
                databricks_spark_job:
                  python_file: jobs/main.py
                  parameters: [--alpha, 0.5, "a b", true]
                  python_libraries: [polars==1.0]
            """,
            "jobs/main.py": """
                import os, sys, json
                import sibling
                assert __name__ == "__main__"
                print("ARGS", sys.argv[1:], os.path.basename(os.getcwd()), spark.pid == os.getpid())
                print(os.environ["MLPROJ_ATTEMPT"])
                with open(os.environ["MLPROJ_RESULT"], "w") as file:
                    json.dump({"session": True}, file)
            """,
            "jobs/sibling.py": "",
        }
        run, output = world.run(files=files, mlproject=files["MLproject"], env_manager=None)
        assert run.get_status() == "FINISHED", output
        assert "ARGS ['--alpha', '0.5', 'a b', 'true'] code True\n" in output
        assert run.result().result == {"session": True}
        assert world.body(run)["tasks"][0]["libraries"] == [{"pypi": {"package": "polars==1.0"}}]

    def test_has_its_libraries_from_the_environment_of_serverless_compute(self, world):
        text = "databricks_spark_job: {python_file: main.py, python_libraries: [polars]}\n"
        run, output = world.run(mlproject=text, files={"main.py": "print('ran')"}, env_manager=None, config=SERVERLESS)
        assert run.get_status() == "FINISHED", output
        spec = {"environment_version": "4", "dependencies": ["polars"]}
        assert world.body(run)["environments"] == [{"environment_key": "default", "spec": spec}]

    @pytest.mark.parametrize(
        ("code", "status", "words"),
        [
            ("raise SystemExit(0)", "FINISHED", None),
            ("import sys; sys.exit()", "FINISHED", None),
            ("raise SystemExit(3)", "FAILED", "status 3"),
            ("raise SystemExit('no way')", "FAILED", "status 1"),
            ("raise ValueError('no such thing')", "FAILED", "ValueError: no such thing"),
        ],
    )
    def test_ends_as_its_file_does(self, world, code, status, words):
        text = "databricks_spark_job: {python_file: main.py}\n"
        run, output = world.run(mlproject=text, files={"main.py": code}, env_manager=None)
        assert run.get_status() == status, output
        if words:
            assert run.reason.code == "project_code"
            assert words in run.reason.message

    def test_may_have_entry_points(self, world):
        text = """
            databricks_spark_job: {python_libraries: [polars]}
            entry_points:
              main:
                parameters: {alpha: float}
                command: "python main.py --alpha {alpha}"
        """
        code = "import sys; print('ARGS', sys.argv[1:])"
        run, output = world.run(
            mlproject=textwrap.dedent(text), files={"main.py": code}, env_manager=None, parameters={"alpha": 0.5}
        )
        assert run.get_status() == "FINISHED", output
        assert "ARGS ['--alpha', '0.5']\n" in output

    def test_from_a_repository_is_checked_out_by_databricks(self, world, tmp_path, monkeypatch):
        repository = tmp_path / "repository"
        repository.mkdir()
        (repository / "MLproject").write_text("databricks_spark_job: {python_file: main.py, parameters: [a]}\n")
        (repository / "main.py").write_text(
            "import os, sys; print('ARGS', sys.argv[1:], os.environ['MLPROJ_ATTEMPT'])\n"
        )
        me = ["-c", "user.name=a", "-c", "user.email=a"]
        for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "x"]):
            subprocess.run(["git", *command], cwd=repository, check=True)
        url = "https://github.com/me/project"
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository}.insteadOf")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", url)
        run = mlproj_core.submit(url, backend="databricks", backend_config=NEW, tracking_uri=UNTRACKED_URI)
        run.wait()
        output = "".join(run.logs())
        assert run.get_status() == "FINISHED", output
        assert f"ARGS ['a'] {run.handle.tag}\n" in output
        assert world.body(run)["git_source"]["git_url"] == url

    def test_is_no_shell_command(self, world):
        text = "databricks_spark_job: {}\nentry_points: {main: {command: 'python main.py | tee log'}}\n"
        with pytest.raises(UserError, match="must be 'python FILE'"):
            world.submit(mlproject=text, files={"main.py": ""}, env_manager=None)

    def test_overlooks_parameters_as_mlflow_does(self, world):
        told = []
        text = "databricks_spark_job: {python_file: main.py, parameters: [a]}\n"
        code = "import sys; print('ARGS', sys.argv[1:])"
        run, output = world.run(mlproject=text, files={"main.py": code}, env_manager=None, parameters={"b": "c"},
                                report=told.append)  # fmt: skip
        assert "ARGS ['a']\n" in output, run.reason
        assert any("are overlooked, as by MLflow" in line for line in told)


class TestTracking:
    def test_is_done_by_the_project_itself(self, world, mlflow_server):
        code = """
            import json, os, urllib.request
            for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLPROJ_RUN_ID"):
                print(name, os.environ[name])
            body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "accuracy", "value": 0.75, "timestamp": 1}
            url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).close()
        """
        config = {**NEW, "tracking_uri": mlflow_server, "tags": {"team": "ml"}}
        run, output = world.run(files={"main.py": code}, config=config, tracking_uri=mlflow_server)
        assert run.get_status() == "FINISHED", output
        assert run.result().metrics == {"accuracy": 0.75}
        assert world.body(run)["tasks"][0]["new_cluster"]["custom_tags"] == {"team": "ml"}

    def test_on_a_server_of_this_host_is_refused(self, world, mlflow_server):
        with pytest.raises(UserError, match="is an address of this host itself, which a cluster cannot reach"):
            world.submit("true", tracking_uri=mlflow_server)


def test_two_tasks_at_once_on_one_cluster_have_places_of_their_own(world):
    config = {"existing_cluster_id": "0101-1"}
    runs = [world.submit("pwd; sleep 2; cat MLproject", config=config) for _ in range(2)]
    assert all(run.wait() for run in runs)
    first, second = (world.logs(run) for run in runs)
    assert first.splitlines() != second.splitlines()


class TestDbfs:
    def test_that_is_not_mounted_is_read_all_the_same(self, world):
        world.workspace.runtime.has_dbfs = False
        run, output = world.run("echo hello", config={"existing_cluster_id": "0101-1", "root": "dbfs:/x"})
        assert (run.get_status(), "hello\n" in output) == ("FINISHED", True), run.reason


class TestTheWorkspacesOwnTracking:
    CODE = """
        import json, os, urllib.request
        print("URI", os.environ["MLFLOW_TRACKING_URI"])
        headers = {"Authorization": "Bearer " + os.environ["DATABRICKS_TOKEN"]}
        url = os.environ["DATABRICKS_HOST"] + "/api/2.0/preview/scim/v2/Me"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            print("I AM", json.load(answer)["userName"])
    """

    @pytest.mark.parametrize("mode", ["SINGLE_USER", "USER_ISOLATION"])
    def test_has_the_credentials_of_the_session(self, world, mlflow_server, mode):
        config = {"new_cluster": {**NEW, "data_security_mode": mode}, "tracking_uri": "databricks"}
        run, output = world.run(files={"main.py": self.CODE}, config=config, tracking_uri=mlflow_server)
        assert run.get_status() == "FINISHED", output
        assert "URI databricks\nI AM me@example.org\n" in output
        assert "dkea" not in output


class TestACancelledTask:
    """A driver's process is interrupted, or it is gone: nothing of the project outlives it."""

    @pytest.fixture
    def task(self, tmp_path):
        """A task of this host, whose project says the number of its process and sleeps."""
        content = archive({"main.py": "import os, time; print('PID', os.getpid(), flush=True); time.sleep(1000)"})
        code = tmp_path / f"{hashlib.sha256(content).hexdigest()}.tar.gz"
        code.write_bytes(content)
        plan = {"version": 1, "name": "x", "code": str(code), "variables": {}, "secrets": {}, "isolated": False}
        plan["launcher"] = {"version": 1, "environment": None, "command": "python main.py", "downloads": []}
        (tmp_path / "task.py").write_text(task_source())
        process = subprocess.Popen(
            [sys.executable, tmp_path / "task.py", "--plan", pack(plan)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        with process:
            process.project = next(int(line.split()[1]) for line in process.stdout if line.startswith("PID"))
            yield process
            process.kill()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_leaves_nothing(self, task, tmp_path, number):
        task.send_signal(number)
        task.stdout.read()  # until all that could write has ended
        assert task.wait() != 0
        until(lambda: not Path(f"/proc/{task.project}").exists())
        if number == signal.SIGINT:
            assert not list(tmp_path.glob("mlproj-*/code"))
