"""The tests' own Databricks workspace: what is submitted really runs, in a clean container with a bare Python."""

import io

import pytest
from databricks.sdk.service import jobs
from databricks.sdk.service.workspace import ImportFormat
from databricks_client import client_of, submit, task
from databricks_server import USER
from git_world import commit, git, repository
from package_world import wheel
from waiting import wait_for

HOME = f"/Workspace/Users/{USER}"


@pytest.fixture
def client(live_workspace):
    with client_of(live_workspace) as client:
        yield client


@pytest.fixture
def put(client):
    """Write a Python file into the workspace. Returns: its path."""

    def put(text, name="main.py"):
        client.workspace.upload(f"{HOME}/{name}", io.BytesIO(text.encode()), format=ImportFormat.AUTO, overwrite=True)
        return f"{HOME}/{name}"

    return put


def run(workspace, client, one, **body):
    """Submit a task, and wait for its end. Returns: the run, and the task's output."""
    run_id = submit(client, one, **body)
    workspace.runs.wait_until(lambda: workspace.runs.by_id[run_id].over, timeout=120)
    found = client.jobs.get_run(run_id)
    return found, client.jobs.get_run_output(found.tasks[0].run_id)


def until(condition):
    """Wait until a condition gives something true, and give that."""
    return wait_for(condition, "in vain", 60, lambda: None)


def cluster(**variables):
    return {"spark_version": "16.4", "node_type_id": "i3", "num_workers": 0, "spark_env_vars": variables}


class TestATask:
    def test_has_its_arguments_and_prints(self, live_workspace, client, put):
        file = put("import sys\nprint(sys.argv, __name__)\nprint('aside', file=sys.stderr)\n")
        found, output = run(live_workspace, client, task(file, "a", "b c", "$HOME; 'x'"))
        assert found.state.result_state is jobs.RunResultState.SUCCESS
        assert output.logs == f"{[file, 'a', 'b c', '$HOME; ' + repr('x')]} __main__\naside\n"

    def test_sees_the_workspaces_files(self, live_workspace, client, put):
        volume = live_workspace.volumes.add("main", "ml", "code")
        client.files.upload(f"{volume}/a b.txt", io.BytesIO(b"volume "))
        client.dbfs.put("/mlproj/a", contents="ZGJmcw==")
        text = f"print(open('{volume}/a b.txt').read(), open('/dbfs/mlproj/a').read(), open('{HOME}/main.py').read())"
        found, output = run(live_workspace, client, task(put(text)))
        assert output.logs == f"volume  dbfs {text}\n"
        assert found.state.result_state is jobs.RunResultState.SUCCESS

    @pytest.mark.parametrize("scheme", ["/Volumes/main/ml/code/x.py", "dbfs:/x.py", "/Users/me@example.org/x.py"])
    def test_is_a_file_of_a_volume_or_dbfs_or_the_workspace(self, live_workspace, client, scheme):
        live_workspace.volumes.add("main", "ml", "code")
        if scheme.startswith("/Volumes"):
            client.files.upload(scheme, io.BytesIO(b"print('here')"))
        elif scheme.startswith("dbfs:"):
            client.dbfs.upload(scheme, io.BytesIO(b"print('here')"))
        else:
            client.workspace.upload(scheme, io.BytesIO(b"print('here')"), format=ImportFormat.AUTO)
        _, output = run(live_workspace, client, task(scheme))
        assert output.logs == "here\n"

    def test_writes_where_the_workspace_has_it(self, live_workspace, client, put):
        volume = live_workspace.volumes.add("main", "ml", "data")
        run(live_workspace, client, task(put(f"open('{volume}/made', 'w').write('text')")))
        assert client.files.get_metadata(f"{volume}/made").content_length == 4

    def test_has_what_else_a_test_binds(self, live_workspace, client, put, tmp_path):
        live_workspace.runtime.binds.append(f"{tmp_path}:{tmp_path}")
        run(live_workspace, client, task(put(f"open('{tmp_path}/mark', 'w').write('here')")))
        assert (tmp_path / "mark").read_text() == "here"

    def test_is_in_a_clean_place(self, live_workspace, client, put):
        _, output = run(live_workspace, client, task(put("import os\nprint(sorted(os.environ), os.getcwd())")))
        assert "MLPROJ" not in output.logs
        assert "DATABRICKS_TOKEN" not in output.logs
        assert "DATABRICKS_RUNTIME_VERSION" in output.logs
        assert "/databricks/driver" in output.logs

    def test_has_no_file_of_its_own(self, live_workspace, client, put):
        """As the service executes a file's text: `NameError: name '__file__' is not defined`."""
        _, output = run(live_workspace, client, task(put("print(__file__)")))
        assert output.error == "NameError: name '__file__' is not defined"

    def test_that_raises_has_failed_with_its_trace(self, live_workspace, client, put):
        found, output = run(live_workspace, client, task(put("print('so far')\ndef f():\n    1 / 0\nf()\n")))
        assert found.state.result_state is jobs.RunResultState.FAILED
        assert output.error == "ZeroDivisionError: division by zero"
        assert "main.py" in output.error_trace
        assert "line 3, in f" in output.error_trace
        assert output.logs == "so far\n"

    @pytest.mark.parametrize("status", [0, 3])
    def test_that_exits_has_failed(self, live_workspace, client, put, status):
        found, output = run(live_workspace, client, task(put(f"import sys\nsys.exit({status})")))
        assert found.state.result_state is jobs.RunResultState.FAILED
        assert output.error == f"SystemExit: {status}"

    def test_that_is_killed_has_lost_its_driver(self, live_workspace, client, put):
        found, _ = run(live_workspace, client, task(put("import os\nos._exit(9)")))
        details = found.tasks[0].status.termination_details
        assert details.code is jobs.TerminationCodeCode.DRIVER_ERROR
        assert found.tasks[0].state.life_cycle_state is jobs.RunLifeCycleState.INTERNAL_ERROR

    def test_whose_file_is_not_there_says_so(self, live_workspace, client):
        found, output = run(live_workspace, client, task("dbfs:/none.py"))
        assert found.state.result_state is jobs.RunResultState.FAILED
        assert "Cannot read the python file dbfs:/none.py" in output.error

    def test_prints_while_it_runs(self, live_workspace, client, put):
        run_id = submit(client, task(put("import time\nprint('first', flush=True)\ntime.sleep(300)")))
        one = live_workspace.runs.by_id[run_id].task
        live_workspace.runs.wait_until(lambda: one.life == "RUNNING")
        until(lambda: client.jobs.get_run_output(one.run_id).logs == "first\n")
        client.jobs.cancel_run(run_id)
        live_workspace.runs.wait_until(lambda: live_workspace.runs.by_id[run_id].over, timeout=60)
        assert client.jobs.get_run(run_id).state.result_state is jobs.RunResultState.CANCELED
        assert live_workspace.runtime.running() == []


class TestASecret:
    def test_is_in_the_variables_that_name_it(self, live_workspace, client, put):
        live_workspace.secrets.put("ml", "key", "geheim")
        file = put("import os\nprint(os.environ['KEY'][::-1], os.environ['PLAIN'])")
        one = task(file, new_cluster=cluster(KEY="{{secrets/ml/key}}", PLAIN="a b"))
        found, output = run(live_workspace, client, one)
        assert output.logs == "mieheg a b\n"
        assert found.tasks[0].new_cluster.spark_env_vars["KEY"] == "{{secrets/ml/key}}"

    def test_is_given_by_dbutils(self, live_workspace, client, put):
        live_workspace.secrets.put("ml", "key", "geheim")
        live_workspace.add_cluster("1128-1")
        file = put("from databricks.sdk.runtime import dbutils\nprint(dbutils.secrets.get('ml', 'key')[::-1])")
        _, output = run(live_workspace, client, task(file, existing_cluster_id="1128-1"))
        assert output.logs == "mieheg\n"

    def test_that_is_not_there_is_an_error(self, live_workspace, client, put):
        file = put("from databricks.sdk.runtime import dbutils\nprint(dbutils.secrets.get(scope='ml', key='none'))")
        environments = [{"environment_key": "x", "spec": {"environment_version": "4"}}]
        _, output = run(live_workspace, client, task(file, environment_key="x"), environments=environments)
        assert "Scope ml does not exist!" in output.error


class TestALibrary:
    def test_of_a_task_is_installed_before_it_begins(self, live_workspace, client, put, tmp_path):
        volume = live_workspace.volumes.add("main", "ml", "code")
        file = wheel(tmp_path / "wheels", "helper")
        client.files.upload(f"{volume}/{file.name}", io.BytesIO(file.read_bytes()))
        live_workspace.add_cluster("1128-1")
        one = task(put("import helper\nprint(helper.version)"), existing_cluster_id="1128-1")
        _, output = run(live_workspace, client, {**one, "libraries": [{"whl": f"{volume}/{file.name}"}]})
        assert output.logs == "1.0\n"

    def test_of_an_environment_is_too(self, live_workspace, client, put, tmp_path):
        volume = live_workspace.volumes.add("main", "ml", "code")
        file = wheel(tmp_path / "wheels", "helper", "2.0")
        client.files.upload(f"{volume}/{file.name}", io.BytesIO(file.read_bytes()))
        spec = {"environment_version": "4", "dependencies": [f"{volume}/{file.name}"]}
        one = task(put("import helper\nprint(helper.version)"), environment_key="x")
        _, output = run(live_workspace, client, one, environments=[{"environment_key": "x", "spec": spec}])
        assert output.logs == "2.0\n"

    def test_that_is_not_there_is_an_error(self, live_workspace, client, put):
        libraries = [{"pypi": {"package": "there is no such thing"}}]
        found, _ = run(live_workspace, client, task(put("print('here')"), libraries=libraries))
        details = found.tasks[0].status.termination_details
        assert details.code is jobs.TerminationCodeCode.LIBRARY_INSTALLATION_ERROR


class TestASession:
    def test_is_in_the_tasks_own_process(self, live_workspace, client, put):
        file = put("import os, subprocess\nprint(spark.pid == os.getpid(), bool(spark.version), dbutils is not None)")
        _, output = run(live_workspace, client, task(file))
        assert output.logs == "True True True\n"

    def test_knows_the_workspace_unless_the_cluster_is_shared(self, live_workspace, client, put):
        file = put(
            "context = dbutils.notebook.entry_point.getDbutils().notebook().getContext()\n"
            "print(context.apiUrl().get(), len(context.apiToken().get()))"
        )
        _, output = run(live_workspace, client, task(file))
        assert output.logs == f"{live_workspace.host} 36\n"
        shared = {**cluster(), "data_security_mode": "USER_ISOLATION"}
        _, output = run(live_workspace, client, task(file, new_cluster=shared))
        assert "is not whitelisted" in output.error

    def test_copies_from_dbfs_where_that_is_not_mounted(self, live_workspace, client, put):
        with client.dbfs.open("/mlproj/a", write=True) as file:
            file.write(b"x" * (1 << 20) + b"end")
        live_workspace.runtime.has_dbfs = False
        file = put(
            "import os\nprint(os.path.exists('/dbfs'))\ndbutils.fs.cp('dbfs:/mlproj/a', 'file:/tmp/a')\n"
            "print(os.path.getsize('/tmp/a'))"
        )
        _, output = run(live_workspace, client, task(file))
        assert output.logs == f"False\n{(1 << 20) + 3}\n", output.error_trace


class TestARepository:
    def test_is_checked_out_at_what_was_asked_for(self, live_workspace, client, tmp_path):
        work = repository(tmp_path / "repository", **{"sub__main_dot_py": "print('first')"})
        first = git("rev-parse", "HEAD", cwd=work)
        commit(work, **{"sub__main_dot_py": "import sys, os\nprint('second', os.path.isabs(sys.argv[0]), sys.argv[1])"})
        source = {"git_url": str(work), "git_provider": "gitHub"}
        one = task("sub/main.py", "x", python={"source": "GIT"})
        for more, logs in (({"git_branch": "main"}, "second True x\n"), ({"git_commit": first}, "first\n")):
            found, output = run(live_workspace, client, one, git_source={**source, **more})
            assert output.logs == logs
            assert found.git_source.git_url == str(work)

    def test_that_is_not_there_is_an_error(self, live_workspace, client, tmp_path):
        source = {"git_url": str(tmp_path / "none"), "git_provider": "gitHub", "git_branch": "main"}
        found, _ = run(live_workspace, client, task("main.py", python={"source": "GIT"}), git_source=source)
        details = found.tasks[0].status.termination_details
        assert details.code is jobs.TerminationCodeCode.REPOSITORY_CHECKOUT_FAILED


class TestMlflow:
    def test_is_reached_from_a_task(self, live_workspace, client, put):
        """By the workspace's address, with the credentials that a driver has."""

        def post(path, body):
            return client.api_client.do("POST", f"/api/2.0/mlflow/{path}", body=body)

        experiment = post("experiments/create", {"name": f"/Users/{USER}/{live_workspace.server_address[1]}"})
        run_id = post("runs/create", {"experiment_id": experiment["experiment_id"]})["run"]["info"]["run_id"]
        file = put(
            "import json, sys, urllib.request\n"
            "from databricks.sdk.runtime import init_runtime_native_auth\n"
            "host, headers = init_runtime_native_auth()\n"
            "body = json.dumps({'run_id': sys.argv[1], 'key': 'score', 'value': 0.5, 'timestamp': 1}).encode()\n"
            "headers = {**headers(), 'Content-Type': 'application/json'}\n"
            "request = urllib.request.Request(f'{host}/api/2.0/mlflow/runs/log-metric', body, headers)\n"
            "urllib.request.urlopen(request).read()\n"
        )
        found, output = run(live_workspace, client, task(file, run_id))
        assert found.state.result_state is jobs.RunResultState.SUCCESS, output
        logged = client.api_client.do("GET", "/api/2.0/mlflow/runs/get", query={"run_id": run_id})
        assert logged["run"]["data"]["metrics"][0]["value"] == 0.5


class TestALostMachine:
    def test_takes_the_task_with_it(self, live_workspace, client, put):
        run_id = submit(client, task(put("import time\ntime.sleep(300)")))
        live_workspace.runs.wait_until(lambda: live_workspace.runs.by_id[run_id].task.life == "RUNNING")
        until(live_workspace.runtime.running)
        live_workspace.runs.lose(run_id)
        live_workspace.runs.wait_until(lambda: live_workspace.runs.by_id[run_id].over, timeout=60)
        assert live_workspace.runtime.running() == []
        details = client.jobs.get_run(run_id).tasks[0].status.termination_details
        assert details.type is jobs.TerminationTypeType.CLOUD_FAILURE
