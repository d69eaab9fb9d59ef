"""How a run in a container ends, and what is said of it."""

import signal

import pytest
from docker_world import BARE, PYTHON, SHELL
from protocol_suite import until

import mlproj_core


@pytest.fixture
def world(container_world):
    return container_world


def ended(world, **more):
    run = world.submit(**more)
    run.wait()
    assert run.get_status() == "FAILED"
    return run.reason


class TestAnExitCode:
    @pytest.mark.parametrize(
        ("code", "words"), [(3, "code 3"), (126, "could not be executed"), (127, "was not found"), (125, "code 125")]
    )
    def test_of_the_project_is_told(self, world, code, words):
        world.project_runs(f"echo last words; exit {code}")
        reason = ended(world)
        assert (reason.code, reason.exit_code, reason.retryable) == ("project_code", code, False)
        assert words in reason.message
        assert reason.output == ("last words",)

    @pytest.mark.parametrize(("name", "retryable"), [("KILL", True), ("SEGV", False)])
    def test_by_a_signal_names_it(self, world, name, retryable):
        world.project_runs(f"(kill -{name} $BASHPID); exit $?")
        reason = ended(world)
        assert (reason.signal, reason.retryable) == (signal.Signals[f"SIG{name}"], retryable)
        assert f"SIG{name}" in reason.message


class TestMemory:
    def test_that_has_run_out_is_told_with_its_limit(self, world):
        world.project_is("python3 -c 'bytearray(200_000_000)'", PYTHON)
        reason = ended(world, docker_args={"memory": "40m"})
        assert reason.code == "oom"
        assert "40 MiB" in reason.message
        assert (reason.exit_code, reason.signal) == (137, signal.SIGKILL)


class TestWhatCannotBegin:
    """Nothing is left of its container."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, world):
        yield
        assert world.containers() == []

    def test_a_command_that_the_image_does_not_have(self, world):
        world.project_is("no-such-program --at all", SHELL)
        reason = ended(world)
        assert (reason.code, reason.exit_code) == ("project_code", 127)
        assert "'no-such-program' was not found in the image" in reason.message

    def test_a_command_that_is_none(self, world):
        world.project_is("/etc/passwd", SHELL)
        reason = ended(world)
        assert (reason.code, reason.exit_code) == ("project_code", 126)

    def test_a_command_for_a_shell_in_an_image_without_one(self, world):
        world.project_is("env | env", BARE)
        reason = ended(world)
        assert reason.code == "user_input"
        assert "no shell" in reason.message

    def test_a_runtime_that_the_engine_does_not_have(self, world):
        reason = ended(world, docker_args={"runtime": "nvidia"})
        assert reason.code == "user_input"
        assert "no runtime nvidia" in reason.message

    def test_graphics_cards_that_the_engine_does_not_have(self, world):
        reason = ended(world, docker_args={"gpus": "all"})
        assert reason.code == "user_input"
        assert "GPU" in reason.message

    def test_a_user_that_the_image_does_not_know(self, world):
        reason = ended(world, docker_args={"user": "somebody"})
        assert reason.code == "user_input"
        assert "user" in reason.message

    def test_an_image_that_is_not_to_be_had(self, world, registry):
        world.project_is("true", f"{registry.address}/no/such:1")
        reason = ended(world)
        assert (reason.code, reason.retryable) == ("image", False)
        assert "no/such" in reason.message

    def test_an_image_behind_a_login_that_is_refused(self, world, closed_registry):
        world.project_is("true", f"{closed_registry.address}/own:1")
        login = {"username": "me", "password": "wrong-password", "registry": closed_registry.address}
        reason = ended(world, docker_auth=login)
        assert reason.code == "image"
        assert "wrong-password" not in reason.message

    def test_a_registry_out_of_reach(self, world):
        world.project_is("true", "127.0.0.1:1/own:1")
        reason = ended(world)
        assert (reason.code, reason.retryable) == ("image", True)


class TestAnImage:
    def test_is_pulled_with_the_caller_s_login(self, world, closed_registry):
        name = f"{closed_registry.address}/own"
        login = {"username": "me", "password": "geheim"}
        with world.engine.client() as client:
            client.tag(SHELL, name, "1")
            assert not [
                line for line in client.push(name, "1", stream=True, decode=True, auth_config=login) if "error" in line
            ]
            client.remove_image(f"{name}:1")
        world.project_runs("true", f"{name}:1")
        run = world.submit(docker_auth={**login, "registry": closed_registry.address})
        assert run.wait(), run.failure()
        assert "pulled" in "".join(run.logs())
        assert not [path for path in world.state.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]


class TestSomebodyElse:
    def test_who_stops_the_container_ends_the_run(self, world):
        world.project_runs("trap 'exit 143' TERM; touch /seen/up; while :; do sleep 0.05; done")
        run = world.submit()
        until((world.directory / "seen" / "up").exists)
        with world.engine.client() as client:
            client.stop(run.handle.name)
        run.wait()
        assert (run.get_status(), run.reason.signal) == ("FAILED", signal.SIGTERM)

    def test_who_removes_the_container_loses_the_run(self, world):
        world.project_runs("sleep 60")
        run = world.submit()
        until(world.starts)
        with world.engine.client() as client:
            client.remove_container(run.handle.name, force=True)
        run.wait()
        assert (run.get_status(), run.reason.code, run.reason.retryable) == ("FAILED", "lost", True)
        assert "removed by somebody" in run.reason.message


def test_a_failure_is_raised_with_the_reason(world):
    world.project_is("no-such-program", SHELL)
    with pytest.raises(mlproj_core.ExecutionException, match="not found in the image"):
        mlproj_core.run(**world.arguments())
