"""What is checked, and in which environment. Each session has its own, made once and then reused.

`nox` runs every session; `nox -s core -- tests/core/test_spec.py` runs one file of tests in seconds. Versions come
from `constraints/`; `nox -s constraints` writes those files anew.
"""

from __future__ import annotations

from pathlib import Path

import nox
import nox.virtualenv

if not nox.virtualenv.HAS_UV:
    raise SystemExit(
        "nox found no uv, with which it makes the environment of every session. Install it beside nox "
        "(pip install uv), or use `make test`, which brings both."
    )

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

MLFLOW = "mlflow[auth]==3.17.2"
"""The mlflow that mlproj is compared with: its command, its parser, its server with the basic-auth app."""

AIRFLOW = [
    "apache-airflow==3.3.2",
    "apache-airflow-providers-cncf-kubernetes",
    "apache-airflow-providers-databricks",
    "apache-airflow-providers-git",
    "apache-airflow-providers-standard",
]
"""The Airflow that tests start, with the providers whose hooks and bundles a task of mlproj may use."""

PYPROJECT = nox.project.load_toml("pyproject.toml")
DEPENDENCIES: list[str] = PYPROJECT["project"]["dependencies"]
GROUPS: dict[str, list[str]] = PYPROJECT["dependency-groups"]
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
BESIDE = ("databricks", "docker", "kubernetes")
"""Extras of mlproj that a worker of Airflow or Prefect has beside the engine, which pins the same libraries."""
FOUND = ("abfs", "conda", "databricks", "gs", "s3")
"""Extras of mlproj with which projects run as they are found."""
CONTAINERS = ("docker", "kubernetes")
"""Extras of mlproj with which projects run in containers."""
PREFECT = [
    "prefect==3.9.1; python_version >= '3.11'",
    "prefect==3.8.8; python_version < '3.11'",  # the last one for Python 3.10
    *EXTRAS["prefect"],
]
"""The Prefect whose server tests start. It cannot be installed beside Airflow."""


def install(session: nox.Session, *requirements: str, constraints: str = "core") -> None:
    """Bring the session's environment to these requirements; nothing is fetched when it already meets them."""
    session.install("--constraint", f"constraints/{constraints}.txt", *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and the one-way imports between the rooms (contracts in pyproject.toml)."""
    install(session, *GROUPS["lint"])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache", silent=True, env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Strict type checks of the core, of the adapter for Airflow, and of the programs beside them."""
    requirements = [*GROUPS["types"], *GROUPS["nox"], *DEPENDENCIES, *EXTRAS["conda"], *AIRFLOW]
    install(session, *requirements, constraints="airflow")
    session.run("mypy")
    session.run("mypy", "--package=airflow_mlproj")
    session.run("mypy", "noxfile.py", "scripts")


@nox.session
def types_prefect(session: nox.Session) -> None:
    """Strict type checks of the adapter for Prefect."""
    install(session, *GROUPS["types"], *DEPENDENCIES, *EXTRAS["conda"], *PREFECT, constraints="prefect")
    session.run("mypy", "--package=prefect_mlproj")


@nox.session(default=False)
def mlflow(session: nox.Session) -> None:
    """Make the environment with a full mlflow, which the tests compare with and start as a server."""
    install(session, MLFLOW, constraints="mlflow")


def mlflow_python(session: nox.Session) -> str:
    """The interpreter of the environment that the session `mlflow` made."""
    return str((Path(session.virtualenv.location).with_name("mlflow") / "bin" / "python").absolute())


@nox.session(requires=["mlflow"])
def core(session: nox.Session) -> None:
    """Test mlproj_core as installed; arguments after `--` go to pytest."""
    install(session, *GROUPS["test"], *DEPENDENCIES)
    test(session, "--numprocesses=2", "--dist=loadfile", "tests/core")


@nox.session(requires=["mlflow"])
def airflow(session: nox.Session) -> None:
    """Test airflow_mlproj as installed, by tasks of a real Airflow; arguments after `--` go to pytest."""
    groups = (*GROUPS["test"], *GROUPS["containers"])
    install(session, *groups, *DEPENDENCIES, *AIRFLOW, *beside(), constraints="airflow")
    session.run("uv", "pip", "check", silent=True)
    # Each of the two has an Airflow of its own, which waits more than it works.
    test(session, "--numprocesses=2", "--dist=loadfile", "tests/airflow")


@nox.session(requires=["mlflow"])
def prefect(session: nox.Session) -> None:
    """Test prefect_mlproj as installed, by flows of a real Prefect server; arguments after `--` go to pytest."""
    groups = (*GROUPS["test"], *GROUPS["containers"])
    install(session, *groups, *DEPENDENCIES, *PREFECT, *beside(), constraints="prefect")
    session.run("uv", "pip", "check", silent=True)
    test(session, "--numprocesses=2", "--dist=loadfile", "tests/prefect")


@nox.session(requires=["mlflow"])
def environments(session: nox.Session) -> None:
    """Test what projects bring beyond the spine: conda, remote data, archives; arguments after `--` go to pytest."""
    install(session, *GROUPS["test"], *GROUPS["servers"], *DEPENDENCIES, *found(), constraints="environments")
    test(session, "--numprocesses=2", "--dist=loadfile", "tests/environments")


@nox.session(requires=["mlflow"])
def containers(session: nox.Session) -> None:
    """Test projects in containers, on a real Docker engine and a registry; arguments after `--` go to pytest."""
    extras = [requirement for extra in CONTAINERS for requirement in EXTRAS[extra]]
    install(session, *GROUPS["test"], *GROUPS["containers"], *DEPENDENCIES, *extras, constraints="containers")
    test(session, "--numprocesses=2", "--dist=loadfile", "tests/containers")


def found() -> list[str]:
    """What the extras of mlproj require that make further kinds of projects and data run."""
    return [requirement for extra in FOUND for requirement in EXTRAS[extra]]


def beside() -> list[str]:
    """What the extras of mlproj require that an engine's worker has beside the engine."""
    return [requirement for extra in BESIDE for requirement in EXTRAS[extra]]


def test(session: nox.Session, *arguments: str) -> None:
    """Install mlproj from the source tree, and run pytest with what stands after `--`, or else with the arguments."""
    session.install("--no-deps", "--reinstall-package=mlproj", ".", silent=True)
    session.run(
        "pytest",
        *(session.posargs or arguments),
        # Compiled modules are kept, whatever the caller says: without them every start of mlflow takes seconds longer.
        env={"MLPROJ_TEST_MLFLOW_PYTHON": mlflow_python(session), "PYTHONDONTWRITEBYTECODE": None},
    )


@nox.session(default=False, requires=["mlflow"])
def benchmark(session: nox.Session) -> None:
    """Print what a step costs, against mlflow and the bare operation; arguments after `--` go to the benchmark."""
    install(session, *DEPENDENCIES)
    session.install("--no-deps", "--reinstall-package=mlproj", "--compile-bytecode", ".", silent=True)
    session.run("python", "benchmarks/spine.py", "--mlflow", mlflow_python(session), *session.posargs)


@nox.session(default=False, requires=["mlflow"])
def benchmark_airflow(session: nox.Session) -> None:
    """Print what the tasks of Airflow cost, against its own operators; arguments after `--` go to the benchmark."""
    install(session, *GROUPS["test"], *DEPENDENCIES, *AIRFLOW, constraints="airflow")
    session.install("--no-deps", "--reinstall-package=mlproj", "--compile-bytecode", ".", silent=True)
    command = ("python", "benchmarks/airflow.py", "--mlflow", mlflow_python(session), *session.posargs)
    session.run(*command, interrupt_timeout=60)  # it has hundreds of processes to end


@nox.session(default=False, requires=["mlflow"])
def benchmark_prefect(session: nox.Session) -> None:
    """Print what the tasks of Prefect cost, against such as shell out; arguments after `--` go to the benchmark."""
    install(session, *GROUPS["test"], *DEPENDENCIES, *PREFECT, *beside(), constraints="prefect")
    session.install("--no-deps", "--reinstall-package=mlproj", "--compile-bytecode", ".", silent=True)
    command = ("python", "benchmarks/prefect.py", "--mlflow", mlflow_python(session), *session.posargs)
    session.run(*command, interrupt_timeout=60)


@nox.session(default=False, requires=["mlflow"])
def benchmark_containers(session: nox.Session) -> None:
    """Print what containers and waiting for Jobs cost, as root; arguments after `--` go to the first of the two."""
    extras = [requirement for extra in CONTAINERS for requirement in EXTRAS[extra]]
    install(session, *GROUPS["test"], *GROUPS["containers"], *DEPENDENCIES, *extras, constraints="containers")
    session.install("--no-deps", "--reinstall-package=mlproj", "--compile-bytecode", ".", silent=True)
    session.run("python", "benchmarks/containers.py", "--mlflow", mlflow_python(session), *session.posargs)
    session.run("python", "benchmarks/kubernetes_runs.py", interrupt_timeout=60)


@nox.session(default=False)
def constraints(session: nox.Session) -> None:
    """Write constraints/*.txt anew, with the newest versions that go together."""
    groups = [f"--group={group}" for group in GROUPS if group not in ("containers", "servers")]
    session.install(*GROUPS["nox"])
    write_constraints(session, "core", "pyproject.toml", *groups)
    extras = [f"--extra={extra}" for extra in FOUND]
    write_constraints(session, "environments", "pyproject.toml", *groups, "--group=servers", *extras)
    extras = [f"--extra={extra}" for extra in CONTAINERS]
    write_constraints(session, "containers", "pyproject.toml", *groups, "--group=containers", *extras)
    write_constraints(session, "mlflow", listed(session, "mlflow", MLFLOW))
    engine = [f"--group={group}" for group in ("containers", "test", "types", "nox")]
    engine += [f"--extra={extra}" for extra in ("conda", *BESIDE)]
    write_constraints(session, "airflow", "pyproject.toml", *engine, listed(session, "airflow", *AIRFLOW))
    write_constraints(session, "prefect", "pyproject.toml", *engine, listed(session, "prefect", *PREFECT))


def listed(session: nox.Session, name: str, *requirements: str) -> str:
    """The path of a file that lists these requirements."""
    path = Path(session.create_tmp(), f"{name}.in")
    path.write_text("".join(f"{requirement}\n" for requirement in requirements), encoding="utf-8")
    return str(path)


def write_constraints(session: nox.Session, name: str, *sources: str) -> None:
    """Resolve the sources for every supported Python, and keep nothing but names, versions and markers."""
    resolved = session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10"),
        *("--no-annotate", "--no-header", "--no-emit-package=mlproj", *sources),
        silent=True,
    )
    header = "# Versions that are tested together. Written by `nox -s constraints`; do not edit.\n"
    Path("constraints", f"{name}.txt").write_text(f"{header}{resolved}", encoding="utf-8")
