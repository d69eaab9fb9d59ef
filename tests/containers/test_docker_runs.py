"""Projects in containers: what runs there, with what, where, and what comes back."""

import json
import stat
import subprocess
import sys

import pytest
from docker_world import BARE, PYTHON, SHELL
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.local import keeping
from mlproj_core.backends.local.backend import LocalBackend
from mlproj_core.handle import key_digest


@pytest.fixture
def world(container_world):
    return container_world


def output(run):
    """What the project printed, without mlproj's own lines."""
    lines = "".join(run.logs()).splitlines()
    return [line for line in lines if not line.startswith("[mlproj]")]


def finished(world, **more):
    run = world.submit(**more)
    assert run.wait(), run.failure()
    return run


class TestARun:
    def test_goes_through_its_phases_and_leaves_a_result(self, world):
        world.project_runs("echo '{\"answer\": 42}' > $MLPROJ_RESULT")
        run = finished(world, key="k")
        assert run.result().result == {"answer": 42}
        assert {"image", "running"} <= set(LocalBackend().look(run.handle).outcome.phases)

    def test_is_seen_at_work_by_the_phase_and_by_its_container(self, world):
        world.project_runs("sleep 60")
        run = world.submit(key="k")
        until(world.starts)
        until(lambda: run.phase == "running")
        labels = world.inspect(run.handle)["Config"]["Labels"]
        assert labels["mlproj.key"] == key_digest("k")
        assert labels["mlproj.attempt"] == f"{key_digest('k')}-1"
        assert (labels["mlproj.project"], labels["mlproj.entry_point"]) == ("steps", "main")
        assert json.loads(labels["mlproj.record"])["run_id"] == labels["mlproj.run_id"] == run.run_id
        assert json.loads(labels["mlproj.claim"])["key"] == "k"
        run.cancel()

    def test_prints_both_streams_and_has_no_input(self, world):
        world.project_runs("echo a; echo b >&2; read line || echo no input; echo c")
        lines = output(finished(world))
        assert sorted(lines) == ["a", "b", "c", "no input"]
        assert [line for line in lines if line != "b"] == ["a", "no input", "c"]

    def test_is_followed_while_it_prints(self, world):
        world.project_runs("echo first; while [ ! -e /seen/go ]; do sleep 0.05; done; echo last")
        run, said = world.submit(), ""
        for text in run.logs(follow=True):
            said += text
            if "first\n" in said:
                (world.directory / "seen" / "go").touch()
        assert "first\nlast\n" in said

    def test_in_one_call_streams_and_raises_what_went_wrong(self, world, capsys):
        world.project_runs("echo is printed; exit 3")
        with pytest.raises(mlproj_core.ExecutionException, match="exited with code 3") as caught:
            mlproj_core.run(**world.arguments())
        assert "is printed\n" in capsys.readouterr().out
        assert (caught.value.reason.code, caught.value.reason.exit_code) == ("project_code", 3)
        assert caught.value.reason.output == ("is printed",)

    def test_takes_longer_than_its_timeout(self, world):
        world.project_runs("sleep 60")
        run = world.submit(timeout=2.5)
        run.wait()
        assert (run.get_status(), run.reason.code) == ("FAILED", "timeout")
        assert world.survivors() == []

    def test_waits_for_its_slot(self, world):
        world.project_runs("while [ ! -e /seen/go ]; do sleep 0.05; done")
        config = {**world.backend_config, "max_runs": 1}
        first, second = (world.submit(backend_config=config) for _ in range(2))
        until(lambda: len(world.containers(running=True)) == 1 and "queued" in {first.phase, second.phase})
        (world.directory / "seen" / "go").touch()
        assert first.wait()
        assert second.wait()

    def test_is_told_to_end_by_the_signal_that_its_image_names(self, world):
        world.project_runs("trap 'echo told; exit 0' USR1; touch /seen/up; while :; do sleep 0.05; done")
        run = world.submit(docker_args={"stop-signal": "SIGUSR1"}, backend_config={"grace": 20})
        until((world.directory / "seen" / "up").exists)
        run.cancel()
        assert (run.get_status(), output(run)) == ("KILLED", ["told"])


class TestItsCommand:
    def test_needs_no_shell_where_it_is_plain(self, world):
        world.project_is("env A='b c' env", BARE)
        assert "A=b c" in output(finished(world))

    def test_is_given_to_the_image_s_entrypoint(self, world):
        world.project_is("world 'of mine'", SHELL)
        run = finished(world, docker_args={"entrypoint": "printf"})
        assert output(run) == ["world"]

    def test_is_given_to_the_entrypoint_together_with_secrets(self, world):
        world.project_is("A%s-%s one two", SHELL)
        run = finished(world, docker_args={"entrypoint": "printf"}, env_vars={"TOKEN": "x"})
        assert output(run) == ["Aone-two"]

    def test_runs_in_a_shell_where_it_is_for_one(self, world):
        world.project_is("echo $((40 + 2)) | sed s/4/5/ && [[ a == a* ]]", SHELL)
        assert output(finished(world)) == ["52"]


class TestItsCode:
    def test_is_copied_to_where_mlflow_has_it(self, world):
        (world.project / "run.sh").write_text("#!/bin/sh\npwd; cat data/a.txt; ls -ld data; id -u\n")
        (world.project / "run.sh").chmod(0o755)
        (world.project / "data").mkdir()
        (world.project / "data" / "a.txt").write_text("text\n")
        world.project_is("./run.sh", SHELL)
        lines = output(finished(world))
        assert lines[:2] == ["/mlflow/projects/code", "text"]

    def test_is_not_written_to_from_the_container(self, world):
        world.project_runs("echo new > new.txt; echo changed > main.sh; mkdir sub")
        before = {path.name: path.read_bytes() for path in world.project.iterdir()}
        finished(world)
        assert {path.name: path.read_bytes() for path in world.project.iterdir()} == before

    def test_is_the_image_s_own_where_the_project_has_none(self, world):
        world.project_is("sh -c pwd", SHELL)
        (world.project / "main.sh").unlink()
        (world.project / "README.md").write_text("tells of it")
        run = finished(world)
        assert output(run) == ["/"]
        assert "the image's own, in /" in "".join(run.logs())

    def test_is_in_the_volume_that_is_mounted_there(self, world):
        world.project_is("cat main.sh", SHELL, volumes=["./:/mlflow/projects/code:ro"])
        assert output(finished(world)) == (world.project / "main.sh").read_text().splitlines()

    def test_begins_in_the_directory_that_the_caller_names(self, world):
        world.project_is("sh -c 'pwd; ls /mlflow/projects/code'", SHELL)
        assert output(finished(world, docker_args={"workdir": "/tmp"})) == ["/tmp", "MLproject", "main.sh"]

    def test_gets_into_a_container_that_may_not_be_written_to(self, world):
        world.project_runs("touch /here 2>/dev/null || echo read-only; echo '{\"a\": 1}' > $MLPROJ_RESULT; pwd")
        run = finished(world, docker_args={"read-only": True})
        assert output(run) == ["read-only", "/mlflow/projects/code"]
        assert run.result().result == {"a": 1}

    def test_is_in_an_image_that_is_built_for_it_once(self, world):
        (world.project / ".dockerignore").write_text("secret.txt\n")
        (world.project / "secret.txt").write_text("x")
        world.project_is("sh -c 'pwd; ls'", SHELL)
        first, again = finished(world, build_image=True), finished(world, build_image=True)
        assert output(first)[-3:] == ["/mlflow/projects/code", "MLproject", "main.sh"]
        assert world.inspect(first.handle)["Image"] == world.inspect(again.handle)["Image"]
        assert "not built again" in "".join(again.logs()) or output(again)[:1] == ["/mlflow/projects/code"]

    def test_leaves_a_result_as_another_user_too(self, world):
        world.project_runs("id -u; echo '{\"a\": 1}' > $MLPROJ_RESULT")
        world.starts_file.touch()
        world.starts_file.chmod(0o666)
        run = finished(world, docker_args={"user": "65534"})
        assert (output(run), run.result().result) == (["65534"], {"a": 1})

    def test_comes_with_the_data_of_its_parameters(self, world, tmp_path):
        from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
        from threading import Thread

        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "data.txt").write_text("the data\n")

        def handler(*args):
            return SimpleHTTPRequestHandler(*args, directory=str(tmp_path / "served"))

        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            world.project_is("cat {data}", SHELL)
            text = (world.project / "MLproject").read_text()
            text = text.replace("  main:\n", "  main:\n    parameters: {data: path}\n")
            (world.project / "MLproject").write_text(text)
            run = finished(world, parameters={"data": f"http://127.0.0.1:{server.server_port}/data.txt"})
            server.shutdown()
        assert output(run)[-1] == "the data"
        assert "data" in LocalBackend().look(run.handle).outcome.phases


class TestItsVariables:
    def test_are_the_project_s_the_caller_s_and_those_of_the_run(self, world, monkeypatch):
        monkeypatch.setenv("COPIED", "from here")
        monkeypatch.setenv("OTHER", "is not passed on")
        world.project_is("env", SHELL, environment=[["PLAIN", "a b"], "COPIED"])
        run = finished(world, env_vars={"MINE": "mine"}, docker_args={"env": ["ARG=arg"]}, key="k")
        variables = dict(line.partition("=")[::2] for line in output(run))
        assert variables["PLAIN"] == "a b"
        assert variables["COPIED"] == "from here"
        assert (variables["MINE"], variables["ARG"]) == ("mine", "arg")
        assert variables["MLPROJ_ATTEMPT"] == f"{key_digest('k')}-1"
        assert "OTHER" not in variables
        assert world.inspect(run.handle)["Config"]["Env"].count("PLAIN=a b") == 1

    def test_have_to_be_there_to_be_copied(self, world):
        world.project_is("env", SHELL, environment=["NOT_THERE"])
        with pytest.raises(mlproj_core.UserError, match="NOT_THERE"):
            world.submit(key="k")
        assert LocalBackend().find("k") is None


class TestItsContainer:
    def test_of_a_tethered_run_is_removed_when_its_end_is_on_record(self, world):
        mlproj_core.run(**world.arguments())
        until(lambda: not world.containers())

    def test_of_an_untracked_detached_run_goes_with_its_directory(self, world):
        run = finished(world, key="k")
        assert [each["State"] for each in world.containers()] == ["exited"]
        assert keeping.trim(LocalBackend(), run.handle)
        assert world.containers() == []
        assert run.get_status() == "FINISHED"

    def test_can_have_what_docker_run_gives(self, world):
        world.project_runs("ulimit -n; hostname; grep ' /dev/shm ' /proc/mounts")
        run = finished(world, docker_args={"ulimit": "nofile=321:321", "hostname": "trainer", "shm-size": "32m"})
        limit, host, shm = output(run)
        assert (limit, host) == ("321", "trainer")
        assert "size=32768k" in shm

    def test_leaves_no_file_of_roots_in_the_project(self, world):
        world.project_runs("touch x")
        finished(world)
        assert not [path for path in world.project.iterdir() if path.name == "x"]
        assert all(stat.S_ISREG(path.stat().st_mode) for path in world.project.iterdir())

    def test_of_a_project_without_docker_env_is_what_the_caller_names(self, world):
        (world.project / "MLproject").write_text(
            "name: steps\nentry_points:\n  main: {command: \"python -c 'import sys; print(sys.platform)'\"}\n"
        )
        assert output(finished(world, docker_args={"image": PYTHON})) == ["linux"]


def test_nothing_is_claimed_where_nobody_listens(world, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{world.directory}/none.sock")
    with pytest.raises(mlproj_core.UserError, match="no such socket"):
        world.submit(key="k")
    assert LocalBackend().find("k") is None


def test_whoever_asks_loads_no_sdk(world):
    code = (
        "import json, sys, mlproj_core; run = mlproj_core.submit(**json.loads(sys.argv[1])); run.wait(); "
        "print(run.get_status(), sorted({'docker', 'requests'} & set(sys.modules)))"
    )
    arguments = json.dumps(world.arguments())
    done = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "FINISHED []"
