"""What importing mlproj costs: a DAG processor does it at every parse. (Who may import whom: pyproject.toml.)"""

import json
import subprocess
import sys

import pytest

HEAVY = {
    *(
        "asyncio",
        "concurrent.futures",
        "email",
        "http.client",
        "logging",
        "multiprocessing",
        "socket",
        "sqlite3",
        "ssl",
    ),
    *("subprocess", "urllib.request"),
    *("click", "filelock", "mlflow", "packaging", "platformdirs", "requests", "rich", "sqlalchemy", "uv", "yaml"),
}
FOREIGN = {"airflow", "docker", "kubernetes", "databricks", "mlflow", "prefect"}

IMPORT_ALL = """
import importlib, pkgutil, mlproj_core
for module in pkgutil.walk_packages(mlproj_core.__path__, "mlproj_core."):
    importlib.import_module(module.name)
"""


def modules_after(code):
    """Names of the modules that a fresh process has loaded after running the code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(process.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import mlproj_core",
        "from mlproj_core import MlprojError, ExecutionException, RunHandle, RunStatus",
        "from mlproj_core import run, submit, attach, SubmittedRun, LocalSubmittedRun",
    ],
)
def test_importing_the_public_names_loads_nothing_heavy(code):
    assert modules_after(code) & HEAVY == set()


def test_importing_a_name_of_the_spec_loads_no_other_room():
    loaded = modules_after("from mlproj_core import load_project, Project, EntryPoint")
    assert {name.split(".")[1] for name in loaded if name.startswith("mlproj_core.")} <= {"errors", "spec"}


def test_no_module_of_the_core_needs_an_engine_or_mlflow_to_be_imported():
    loaded = modules_after(IMPORT_ALL)
    assert {"mlproj_core.runner", "mlproj_core.tracking.store"} <= loaded
    assert loaded & FOREIGN == set()


def test_every_public_name_is_there():
    import mlproj_core

    for name in mlproj_core.__all__:
        assert getattr(mlproj_core, name).__name__ == name
    assert set(mlproj_core.__all__) <= set(dir(mlproj_core))


def test_a_name_that_is_not_there_is_an_attribute_error():
    import mlproj_core

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mlproj_core.nonsense
