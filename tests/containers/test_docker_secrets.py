"""What is secret reaches a project in a container, and shows nowhere."""

import json
import subprocess
from pathlib import Path

import pytest
from docker_world import BARE, SHELL
from protocol_suite import until

import mlproj_core
from mlproj_core.backends.local.backend import LocalBackend

VALUES = (
    "s3cr3t-of-the-call",
    "s3cr3t-that-is-copied",
    "s3cr3t-of-an-argument",
    "s3cr3t of a\n'parameter' \"$(id)\" \\",
)


@pytest.fixture
def world(container_world):
    return container_world


def command_lines():
    """What the command lines of all processes of this host say."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue


def test_secrets_show_nowhere_but_in_the_project_s_own_variables(world, monkeypatch):
    monkeypatch.setenv("COPIED", VALUES[1])
    world.project_is("bash main.sh", SHELL, environment=["COPIED"])
    (world.project / "main.sh").write_text(
        'printf "%s\\n" "$CALL" "$COPIED" "$ARGUMENT" "$PARAMETER" | sha256sum > /seen/digest\n'
        "touch /seen/up\nwhile [ ! -e /seen/go ]; do sleep 0.05; done\n"
    )
    text = (world.project / "MLproject").read_text()
    text = text.replace("  main:\n", "  main:\n    parameters: {PARAMETER: {secret: true}}\n")
    (world.project / "MLproject").write_text(f"mlproj: 1\n{text}")
    run = world.submit(
        parameters={"PARAMETER": VALUES[3]},
        env_vars={"CALL": VALUES[0]},
        docker_args={"env": {"ARGUMENT": VALUES[2]}},
    )
    until(lambda: (world.directory / "seen" / "up").exists() or run.get_status() != "RUNNING")
    assert run.get_status() == "RUNNING", run.failure()
    needles = [piece for value in VALUES for piece in {value, json.dumps(value)[1:-1], value.splitlines()[0]}]
    places = {
        "the engine": json.dumps(world.inspect(run.handle)),
        "the handle": run.handle.to_json(),
        "process lists": b"\n".join(command_lines()).decode(errors="replace"),
    }
    for path in (world.directory / "state").rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_text(errors="replace")
    (world.directory / "seen" / "go").touch()
    assert run.wait(), run.failure()
    places["the output"] = "".join(run.logs())
    with world.engine.client() as client:
        places["the engine's log"] = client.logs(run.handle.name).decode()
    found = [(place, needle) for place, text in places.items() for needle in needles if needle in text]
    assert found == []
    expected = "".join(f"{value}\n" for value in VALUES)
    digest = subprocess.run(["sha256sum"], input=expected, capture_output=True, text=True, check=True).stdout.split()[0]
    assert (world.directory / "seen" / "digest").read_text().split()[0] == digest


def test_a_large_secret_arrives_whole(world):
    value = "0123456789abcdef" * 6000
    world.project_runs('echo -n "$BIG" | wc -c')
    run = world.submit(env_vars={"BIG": value})
    assert run.wait(), run.failure()
    assert str(len(value)) in "".join(run.logs())


def test_an_image_without_a_shell_cannot_take_secrets(world):
    world.project_is("env", BARE)
    run = world.submit(env_vars={"TOKEN": "x"})
    run.wait()
    assert (run.get_status(), run.reason.code) == ("FAILED", "user_input")
    assert "no shell" in run.reason.message
    assert "TOKEN" in run.reason.message
    assert world.containers() == []


def test_a_secret_that_no_shell_could_set_is_refused(world):
    with pytest.raises(mlproj_core.UserError, match=r"my\.token"):
        world.submit(key="k", env_vars={"my.token": "x"})
    assert LocalBackend().find("k") is None
