"""`run`, `submit` and `attach` with a real tracking server: what the arguments mean, and how an end is delivered."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
from archive_world import FileServer, packed
from protocol_suite import until
from relay import Relay

import mlproj_core
from mlproj_core.backends import load_backend
from mlproj_core.backends.local import LocalBackend
from mlproj_core.backends.local.keeping import prune

WHEEL_BACKEND = """
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "greeter-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("greeter.py", "WORD = 'hello'")
        wheel.writestr("greeter-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: greeter\\nVersion: 1.0\\n")
        tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("greeter-1.0.dist-info/WHEEL", tags)
        wheel.writestr("greeter-1.0.dist-info/RECORD", "")
    return name
"""
"""The smallest build backend there can be: a local package that is built without any index."""


@pytest.fixture
def tracked(world, mlflow_server, monkeypatch):
    """The world, with runs recorded on a real server."""
    monkeypatch.delenv("MLPROJ_TRACKING")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    return world


@pytest.fixture
def relay(tracked, mlflow_server, monkeypatch):
    """A way to the server that can be shut."""
    relay = Relay(mlflow_server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", relay.uri)
    yield relay
    relay.shut()


def on_server(uri, run_id):
    """A run as the server has it: its status, and its tags."""
    with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/runs/get?run_id={run_id}") as answer:
        run = json.load(answer)["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    params = {param["key"]: param["value"] for param in run["data"].get("params", [])}
    return run["info"], tags, params


def stored_output(uri, run):
    path = f"api/2.0/mlflow-artifacts/artifacts/{'/'.join(run.result().artifact_uri.split('/')[1:])}/logs"
    with urllib.request.urlopen(f"{uri}/{path}/attempt-{run.handle.attempt}.log") as answer:
        return answer.read().decode()


class TestWhatIsRecorded:
    def test_a_run_is_recorded_with_its_tags_and_its_output(self, tracked, mlflow_server):
        tracked.project_runs("echo some output")
        run = tracked.submit(key=tracked.key, tags={"team": "wine"}, run_name="nightly", experiment_name="cellar")
        assert run.wait()
        info, tags, _ = on_server(mlflow_server, run.run_id)
        assert (info["status"], info["run_name"]) == ("FINISHED", "nightly")
        assert (tags["team"], tags["mlproj.attempt"]) == ("wine", run.handle.tag)
        assert json.loads(tags["mlproj.outcome"])["status"] == "FINISHED"
        result = run.result()
        assert result.tracking_url == f"{mlflow_server}/#/experiments/{info['experiment_id']}/runs/{run.run_id}"
        assert "some output" in stored_output(mlflow_server, run)

    def test_a_project_in_an_archive_is_recorded_with_the_archives_digest_and_no_secret(self, tracked, mlflow_server):
        content = packed(".zip", MLproject="entry_points:\n  main:\n    command: cat data\n", data="packed\n")
        with FileServer({"p.zip": content}, login=("user", "s3same")) as files:
            uri = files.url("p.zip?token=0pen", login="user:s3same@")
            run = mlproj_core.submit(uri, env_manager="local", key=tracked.key)
            assert run.wait()
        _, tags, _ = on_server(mlflow_server, run.run_id)
        assert tags["mlproj.source.sha256"] == hashlib.sha256(content).hexdigest()
        assert tags["mlflow.source.name"] == files.url("p.zip?token=***")
        assert "packed" in stored_output(mlflow_server, run)
        kept = [path.read_bytes() for path in tracked.state.rglob("*") if path.is_file()]
        shown = b"".join(kept) + repr((tags, run.handle.to_json())).encode()
        assert b"s3same" not in shown
        assert b"0pen" not in shown

    def test_the_project_finds_its_run_and_the_server_by_its_environment(self, tracked, mlflow_server):
        tracked.project_runs('echo "<$MLFLOW_RUN_ID $MLFLOW_TRACKING_URI $MLFLOW_EXPERIMENT_ID>"')
        run = tracked.submit()
        run.wait()
        info, _, _ = on_server(mlflow_server, run.run_id)
        assert f"<{run.run_id} {mlflow_server} {info['experiment_id']}>" in "".join(run.logs())

    def test_an_existing_run_is_used_when_its_id_is_given(self, tracked, mlflow_server):
        first = tracked.submit()
        first.wait()
        second = tracked.submit(run_id=first.run_id)
        assert second.wait()
        assert second.run_id == first.run_id
        _, tags, _ = on_server(mlflow_server, first.run_id)
        assert tags["mlproj.attempt"] == second.handle.tag

    def test_a_retry_after_the_submitter_died_uses_the_run_it_had_created(self, tracked, mlflow_server):
        asker, _ = tracked.paused_asker("after the record", arguments={"key": tracked.key, "turn": 1})
        created = load_backend("local").find(tracked.key).run_id
        asker.kill()
        asker.wait()
        run = tracked.submit(key=tracked.key, turn=2)
        assert run.wait()
        assert run.run_id == created

    def test_a_run_inside_a_run_is_nested_and_inherits_server_and_manager(self, tracked, mlflow_server):
        inner = tracked.directory / "inner"
        inner.mkdir()
        (inner / "MLproject").write_text(
            "python_env: e.yaml\nentry_points:\n  main:\n    command: 'echo manager=$MLPROJ_ENV_MANAGER'\n"
        )
        (inner / "e.yaml").write_text("dependencies: [a-package-that-does-not-exist]\n")
        code = f"import mlproj_core; r = mlproj_core.run({str(inner)!r}); print('inner', r.run_id)"
        tracked.project_runs(f'{sys.executable} -c "{code}"')
        outer = tracked.submit()
        assert outer.wait(), "".join(outer.logs())
        text = "".join(outer.logs())
        assert "manager=local" in text
        inner_id = re.search(r"inner (\w+)", text)[1]
        _, tags, _ = on_server(mlflow_server, inner_id)
        assert tags["mlflow.parentRunId"] == outer.run_id


class TestHowTheEndIsDelivered:
    def test_by_the_supervisor_when_nobody_waits(self, tracked, mlflow_server):
        answer = tracked.answer(tracked.asker(arguments={"key": tracked.key}))
        run_id = answer["handle"]["run_id"]
        until(lambda: on_server(mlflow_server, run_id)[0]["status"] == "FINISHED")
        until(lambda: "mlproj.outcome" in on_server(mlflow_server, run_id)[1])

    def test_by_the_supervisor_when_the_asker_of_a_tethered_run_dies(self, tracked, mlflow_server):
        tracked.project_runs("sleep 100")
        asker = tracked.asker(
            arguments={"key": tracked.key, "backend_config": {"detach": False, "grace": 0.5}}, linger=True
        )
        until(tracked.starts)
        run_id = load_backend("local").find(tracked.key).run_id
        asker.kill()
        until(lambda: on_server(mlflow_server, run_id)[0]["status"] == "KILLED")

    def test_the_run_s_own_word_is_overruled(self, tracked, mlflow_server):
        end = f"""curl() {{ {sys.executable} -c "
import json, os, urllib.request as u
body = dict(run_id=os.environ['MLFLOW_RUN_ID'], status='FINISHED')
u.urlopen(u.Request(os.environ['MLFLOW_TRACKING_URI'] + '/api/2.0/mlflow/runs/update', json.dumps(body).encode(),
          {{'Content-Type': 'application/json'}}))"; }}; curl; exit 1"""
        tracked.project_runs(end)
        run = tracked.submit()
        run.wait()
        assert on_server(mlflow_server, run.run_id)[0]["status"] == "FAILED"

    def test_a_server_that_goes_away_during_the_run_is_told_when_it_is_back(self, tracked, relay, mlflow_server):
        tracked.project_runs(f"until test -e {tracked.directory}/go; do sleep 0.05; done")
        run_id = tracked.answer(tracked.asker(arguments={"key": tracked.key}))["handle"]["run_id"]
        relay.shut()
        (tracked.directory / "go").touch()
        handle = load_backend("local").find(tracked.key)
        until(lambda: LocalBackend().look(handle).outcome)
        assert on_server(mlflow_server, run_id)[0]["status"] == "RUNNING"
        relay.open()
        until(lambda: on_server(mlflow_server, run_id)[0]["status"] == "FINISHED")

    def test_a_server_that_is_away_at_the_end_fails_nothing_and_is_told_at_the_next_look(
        self, tracked, relay, mlflow_server
    ):
        tracked.project_runs(f"until test -e {tracked.directory}/go; do sleep 0.05; done")
        said = []
        run = tracked.submit(report=said.append)
        relay.shut()
        (tracked.directory / "go").touch()
        assert run.wait()
        assert any("not delivered yet" in line for line in said)
        relay.open()
        assert run.get_status() == "FINISHED"
        assert on_server(mlflow_server, run.run_id)[0]["status"] == "FINISHED"

    def test_a_server_that_does_not_give_the_metrics_is_asked_for_as_long_as_there_is_patience(self, tracked, relay):
        tracked.project_runs("true")
        said = []
        run = tracked.submit(report=said.append)
        assert run.wait()
        relay.shut()
        with pytest.raises(mlproj_core.MlprojError, match="tracking server"):
            run.result()
        back = threading.Timer(7.0, relay.open)  # each asking has some patience of its own
        back.start()
        assert run.result(patience=60).status == "FINISHED"
        assert any("does not give its metrics" in line for line in said)
        back.join()

    def test_a_server_that_is_down_at_the_start_is_an_error_before_any_work(self, tracked, relay):
        relay.shut()
        with pytest.raises(mlproj_core.MlprojError, match="tracking server"):
            tracked.submit(key=tracked.key, turn=1)
        assert tracked.starts() == 0
        relay.open()
        run = tracked.submit(key=tracked.key, turn=2)
        assert run.wait()
        assert tracked.starts() == 1

    def test_a_pruned_run_is_judged_by_its_outcome_on_the_server(self, tracked):
        finished = tracked.submit(key=f"{tracked.key}/a")
        assert finished.wait()
        tracked.project_runs("exit 1")
        failed = tracked.submit(key=f"{tracked.key}/b")
        failed.wait()
        for run in (finished, failed):
            assert prune(LocalBackend(), run.handle)
        assert finished.get_status() == "FINISHED"
        assert failed.get_status() == "FAILED"
        assert failed.reason.code == "project_code"

    def test_a_key_whose_finished_run_was_pruned_is_not_run_again(self, tracked):
        first = tracked.submit(key=tracked.key)
        assert first.wait()
        assert prune(LocalBackend(), first.handle)
        again = tracked.submit(key=tracked.key)
        assert again.get_status() == "FINISHED"
        assert again.run_id == first.run_id
        assert tracked.starts() == 1

    def test_a_key_whose_failed_run_was_pruned_is_run_again(self, tracked):
        tracked.project_runs("exit 1")
        first = tracked.submit(key=tracked.key, turn=1)
        first.wait()
        assert prune(LocalBackend(), first.handle)
        tracked.project_runs("true")
        again = tracked.submit(key=tracked.key, turn=2)
        assert again.wait()
        assert again.handle.attempt == 2

    def test_clearing_a_key_whose_finished_run_was_pruned_runs_it_again(self, tracked):
        first = tracked.submit(key=tracked.key, turn=1)
        assert first.wait()
        assert prune(LocalBackend(), first.handle)
        again = tracked.submit(key=tracked.key, turn=2, fresh_after=1)
        assert again.wait()
        assert tracked.starts() == 2


class TestRun:
    def test_a_synchronous_run_streams_and_returns_the_finished_run(self, world, capfd):
        world.project_runs("echo to stdout; echo to stderr >&2")
        run = mlproj_core.run(**world.arguments())
        assert isinstance(run, mlproj_core.LocalSubmittedRun)
        assert run.get_status() == "FINISHED"
        printed = capfd.readouterr().out.splitlines()
        assert [line for line in printed if line.startswith("to ")] == ["to stdout", "to stderr"]

    def test_a_failure_raises_with_its_reason_and_the_last_lines(self, world):
        world.project_runs("echo the cause; exit 5")
        with pytest.raises(mlproj_core.ExecutionException, match="the cause") as failure:
            mlproj_core.run(**world.arguments())
        assert failure.value.reason.exit_code == 5
        assert mlproj_core.attach(failure.value.handle).get_status() == "FAILED"

    def test_an_asynchronous_run_returns_at_once_and_outlives_its_caller(self, world):
        gate = world.directory / "gate"
        world.project_runs(f"until test -e {gate}; do sleep 0.02; done")
        code = "import sys, json, mlproj_core as m; print(m.run(**json.loads(sys.argv[1])).handle.to_json())"
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(world.arguments(synchronous=False))],
            capture_output=True,
            text=True,
            check=True,
        )
        run = mlproj_core.attach(done.stdout)
        assert run.get_status() == "RUNNING"
        gate.touch()
        assert run.wait()

    def test_ctrl_c_cancels_the_run_and_says_so(self, world):
        world.project_is_stubborn()
        asker = world.asker(call="run", arguments={"backend_config": {"grace": 0.2}})
        world.stubborn_project_is_up()
        asker.send_signal(signal.SIGINT)
        asker.communicate(timeout=60)
        assert world.survivors() == []
        (handle,) = LocalBackend().handles()
        run = mlproj_core.attach(handle)
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")

    def test_what_is_withheld_is_not_seen_by_the_project(self, world, monkeypatch):
        monkeypatch.setenv("SCHEDULER__DATABASE", "the scheduler's secret")
        monkeypatch.setenv("SCHEDULER_ZONE", "eu")
        world.project_runs("env > seen")
        run = mlproj_core.run(**world.arguments(withhold=["SCHEDULER__*"]))
        seen = (world.project / "seen").read_text()
        assert "SCHEDULER_ZONE=eu\n" in seen
        assert "secret" not in seen
        assert run.get_status() == "FINISHED"

    def test_tells_what_was_asked_for_without_secrets(self, world):
        run = world.submit(parameters={"alpha": 0.5}, env_vars={"TOKEN": "secret"})
        assert run.request["command"] == "bash main.sh --alpha 0.5"
        assert run.request["entry_point"] == "main"
        assert "secret" not in json.dumps(run.request)
        run.wait()

    def test_backend_config_may_be_a_json_file(self, world, tmp_path):
        (tmp_path / "config.json").write_text('{"detach": true, "grace": 3}')
        run = mlproj_core.run(**world.arguments(backend_config=str(tmp_path / "config.json")))
        assert run.handle.ref["tethered"] is False

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"backend": "loca"}, "no backend 'loca'.*local"),
            ({"backend_config": "config.yaml"}, "path to a .json file"),
            ({"backend_config": "missing.json"}, "cannot read missing.json"),
            ({"backend_config": {"detach": "yes"}}, "true or false"),
            ({"backend_config": {"grace": -1}}, "number of seconds"),
            ({"backend_config": {"detatch": True}}, "Did you mean 'detach'"),
            ({"timeout": 0}, "above 0"),
            ({"experiment_name": "a", "experiment_id": "1"}, "not both"),
            ({"docker_args": {"gpus": "all"}}, "in a container"),
            ({"env_vars": {"A=B": "1"}}, "A=B"),
            ({"turn": "first"}, "integer or a list"),
            ({"entry_point": "mian"}, "mian"),
            ({"uri": "no/such/project"}, "no/such/project"),
        ],
    )
    def test_a_user_s_mistake_is_refused_before_any_work(self, world, arguments, words):
        with pytest.raises(mlproj_core.ExecutionException, match=words):
            world.submit(**arguments)
        assert world.starts() == 0
        assert LocalBackend().handles() == []

    def test_a_handle_of_a_later_release_is_refused(self):
        with pytest.raises(mlproj_core.UserError, match="later release"):
            mlproj_core.attach({"version": 99, "backend": "local", "key": "k", "attempt": 1, "run_id": "r", "ref": {}})

    def test_a_handle_with_unknown_keys_is_read(self, world):
        run = world.submit()
        run.wait()
        handle = {**run.handle.to_dict(), "colour": "green"}
        assert mlproj_core.attach(json.dumps(handle)).handle == run.handle

    def test_a_cancel_reaches_the_builder_of_an_environment(self, world, hanging_index):
        (world.project / "python_env.yaml").write_text("dependencies: [six]\n")
        run = world.submit(env_manager="uv")
        hanging_index()
        assert run.phase == "environment"
        assert run.get_status() == "RUNNING"
        run.cancel()
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")
        assert world.survivors() == []
        assert world.starts() == 0

    def test_a_git_project_runs_at_its_commit_in_an_environment_of_its_own_files(self, world, tmp_path):
        (world.project / "python_env.yaml").write_text("dependencies: ['-r requirements.txt']\n")
        (world.project / "requirements.txt").write_text("./local_package\n")
        package = world.project / "local_package"
        package.mkdir()
        (package / "pyproject.toml").write_text(
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
            "[project]\nname = 'greeter'\nversion = '1.0'\n"
        )
        (package / "backend.py").write_text(WHEEL_BACKEND)
        world.project_runs("python -c 'import greeter; print(greeter.WORD)'; git rev-parse HEAD; pwd")
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
            subprocess.run(["git", *command], cwd=world.project, check=True)
        run = world.submit(uri=f"git+file://{world.project}", env_manager="uv")
        assert run.wait(), "".join(run.logs())
        text = "".join(run.logs())
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=world.project, check=True, capture_output=True, text=True
        ).stdout.strip()
        lines = [line for line in text.splitlines() if line in ("hello", commit)]
        assert lines == ["hello", commit]
        assert f"at commit {commit}" in text
        assert str(world.state / "runs") in text.splitlines()[-2]
        assert list((world.state / "checkouts").iterdir()) == []

    def test_an_environment_that_cannot_be_made_is_the_reason(self, world, monkeypatch, tmp_path):
        (tmp_path / "empty").mkdir()
        for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("UV_NO_INDEX", "1")
        monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "empty"))
        (world.project / "python_env.yaml").write_text("dependencies: [no-such-package]\n")
        run = world.submit(env_manager="uv")
        assert not run.wait()
        assert run.reason.code == "environment"
        assert "no-such-package" in run.reason.message
        assert world.starts() == 0
