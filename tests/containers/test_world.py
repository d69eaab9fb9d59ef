"""The tests' own engine, images and registries are what later tests take them for."""

import docker
import pytest
from docker_world import BARE, PYTHON, SHELL


def run(engine, image, command, **host_config):
    """What a container prints, and its exit code."""
    with engine.client() as client:
        container = client.create_container(image, command, host_config=client.create_host_config(**host_config))
        client.start(container)
        status = client.wait(container)["StatusCode"]
        return client.logs(container).decode(), status


class TestAnEngine:
    def test_has_a_program_without_a_shell(self, engine):
        assert run(engine, BARE, ["env", "A=b", "env"])[0].endswith("A=b\n")
        with pytest.raises(docker.errors.APIError, match="sh"):
            run(engine, BARE, ["sh", "-c", "true"])

    def test_has_a_shell(self, engine):
        assert run(engine, SHELL, ["bash", "-c", "echo $((40 + 2)) | sed s/4/5/; exit 3"]) == ("52\n", 3)

    def test_has_a_python_that_makes_environments(self, engine):
        assert run(engine, PYTHON, ["python3", "-c", "import ensurepip, json, sqlite3, ssl, venv"]) == ("", 0)

    def test_ends_what_takes_more_memory_than_it_may(self, engine):
        command = ["python3", "-c", "bytearray(200_000_000)"]
        assert run(engine, PYTHON, command, mem_limit="40m")[1] == 137

    def test_survives_its_own_death(self, engine):
        engine.kill()
        engine.start()
        assert run(engine, SHELL, ["true"]) == ("", 0)


class TestARegistry:
    def test_takes_and_gives_an_image(self, engine, registry):
        name = f"{registry.address}/world"
        with engine.client() as client:
            client.tag(SHELL, name, "1")
            assert not [line for line in client.push(name, "1", stream=True, decode=True) if "error" in line]
            client.remove_image(f"{name}:1")
            client.pull(name, "1")

    def test_with_a_login_refuses_whoever_has_none(self, engine, closed_registry):
        name = f"{closed_registry.address}/world"
        with engine.client() as client:
            client.tag(SHELL, name, "1")
            assert [line for line in client.push(name, "1", stream=True, decode=True) if "error" in line]
            login = {"username": "me", "password": "geheim"}
            lines = client.push(name, "1", stream=True, decode=True, auth_config=login)
            assert not [line for line in lines if "error" in line]
