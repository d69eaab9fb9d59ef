"""`mlproj run` with the flags of `docker run`."""

import pytest
from click.testing import CliRunner
from docker_world import SHELL

from mlproj_core.cli.options import pairs
from mlproj_core.cli.run import run


@pytest.fixture
def world(container_world):
    return container_world


def test_a_flag_that_is_given_several_times_is_a_list():
    assert pairs(["e=A=1", "e=B=2", "e=C", "init", "m=4g"], "-A", flags=True, repeated=True) == {
        "e": ["A=1", "B=2", "C"],
        "init": True,
        "m": "4g",
    }


def test_flags_reach_the_container(world):
    world.project_is("sh -c 'echo $A-$B; cat /etc/hostname'", SHELL)
    given = ["-A", "e=A=1", "-A", "e=B=2", "-A", "hostname=trainer", "-A", "init=false"]
    done = CliRunner().invoke(run, [str(world.project), *given])
    assert done.exit_code == 0, done.output
    assert "1-2\ntrainer\n" in done.output


def test_an_unknown_flag_is_refused_with_a_suggestion(world):
    done = CliRunner().invoke(run, [str(world.project), "-A", "memmory=1g"])
    assert done.exit_code != 0
    assert "memory" in str(done.exception)
