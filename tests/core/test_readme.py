"""What the README shows is what happens."""

import ast
import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import readme

# Those of Airflow and Prefect have their tests beside the adapters', those of containers beside the engine's.
ELSEWHERE = ("airflow", "prefect", "projects/contained", "kubernetes")
BLOCKS = [(kind, text) for kind, text in readme.blocks() if not any(word in text for word in ELSEWHERE)]


def commands(text):
    """The commands of a console block, each with the output that is shown for it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


@pytest.fixture(scope="module")
def execute(mlflow_server, tmp_path_factory):
    """Run a command in a directory that has a copy of the examples, against a real server; returns its output."""
    home = tmp_path_factory.mktemp("readme")
    shutil.copytree(readme.ROOT / "example_flows", home / "example_flows")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": mlflow_server,
        "MLPROJ_STATE_DIR": str(home / "state"),
        "MLPROJ_CACHE_DIR": str(home / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    # Its environment is new: without compiled modules every step would take seconds longer.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def execute(*command):
        done = subprocess.run(
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return execute


def test_it_shows_the_command_line_and_python():
    assert {kind for kind, _ in BLOCKS} == {"console", "python"}


@pytest.mark.parametrize(("kind", "text"), BLOCKS, ids=[f"{kind}-{text.split()[2]}" for kind, text in BLOCKS])
def test_what_it_shows_is_what_happens(kind, text, execute):
    if kind == "python":
        lines = execute(sys.executable, "-c", text).splitlines()
        assert any(re.fullmatch(r"0\.9\d+ http://\S+/runs/[0-9a-f]{32}", line) for line in lines)
        assert ast.literal_eval(lines[-1]) == {"train_rows": 133, "test_rows": 45}
        return
    for command, shown in commands(text):
        printed = execute("bash", "-c", command)
        leeway = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE  # columns are as wide as what they hold
        assert doctest.OutputChecker().check_output(shown, printed, leeway), f"$ {command}\n{printed}"
