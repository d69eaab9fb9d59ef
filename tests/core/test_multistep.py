"""Projects of several steps: what is started from inside a step, by mlflow or by mlproj, on a real tracking server."""

import os
from pathlib import Path

import pytest
from git_world import commit, git
from protocol_suite import until

import mlproj_core
from mlproj_core.tracking import connect

SOURCE = Path(__file__).parents[2] / "src"

MLPROJECT = """
name: multistep
entry_points:
  main:
    parameters: {script: string}
    command: python {script}
  step:
    parameters: {n: int}
    command: python step.py {n}
  slow:
    command: touch $MARKER && sleep 1000
"""

STEP = """
import sys, mlflow
with mlflow.start_run():
    mlflow.log_metric("n", int(sys.argv[1]))
"""

BY_MLFLOW = """
import mlflow
with mlflow.start_run():
    for n in (1, 2):
        run = mlflow.projects.run(".", "step", parameters={"n": n}, env_manager="local")
        mlflow.log_param(f"step_{n}", run.run_id)
    mlflow.log_metric("total", 3)
"""

BY_MLFLOW_AT_ONCE = """
import mlflow
with mlflow.start_run():
    runs = [
        mlflow.projects.run(".", "step", parameters={"n": n}, env_manager="local", synchronous=False) for n in (1, 2)
    ]
    for n, run in enumerate(runs, 1):
        assert run.wait()
        mlflow.log_param(f"step_{n}", run.run_id)
"""

BY_PROGRAM = """
import re, subprocess, mlflow
with mlflow.start_run():
    done = subprocess.run(
        ["mlflow", "run", ".", "-e", "step", "-P", "n=1", "--env-manager", "local"], check=True, capture_output=True,
        text=True,
    )
    mlflow.log_param("step_1", re.search(r"\\(ID '(\\w+)'\\) succeeded", done.stderr)[1])
"""

BY_MLPROJ = """
import mlflow, mlproj_core
with mlflow.start_run():
    run = mlproj_core.run(".", "step", parameters={"n": 1})
    mlflow.log_param("step_1", run.run_id)
    with mlflow.start_run(nested=True) as inner:
        run = mlproj_core.run(".", "step", parameters={"n": 2})
    mlflow.log_param("inner", inner.info.run_id)
    mlflow.log_param("step_2", run.run_id)
"""

BY_MLPROJ_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import mlflow, mlproj_core
with mlflow.start_run():
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda n: mlproj_core.run(".", "step", parameters={"n": n}), (1, 2, 3)))
    for n, run in enumerate(runs, 1):
        mlflow.log_param(f"step_{n}", run.run_id)
"""

REUSING = """
import mlflow, mlproj_core
with mlflow.start_run():
    run = mlproj_core.run(".", "step", parameters={"n": 1}, reuse_finished=True)
    mlflow.log_param("step_1", run.run_id)
"""

SLOW_BY_MLFLOW = """
import mlflow
with mlflow.start_run():
    mlflow.projects.run(".", "slow", env_manager="local")
"""

SLOW_BY_MLPROJ = """
import mlproj_core
mlproj_core.run(".", "slow")
"""

SCRIPTS = {
    name.lower(): text for name, text in globals().items() if name.startswith(("BY_", "SLOW_", "REUSING")) and text
}


class Multistep:
    """A project in a Git repository, and the mlflow beside it."""

    def __init__(self, world, uri):
        self.world, self.uri = world, uri
        self.project = world.project
        self.experiment = world.directory.name
        self.marker = world.directory / "marker"
        git("init", "-q", "-b", "main", ".", cwd=self.project)
        for name, text in SCRIPTS.items():
            (self.project / f"{name}.py").write_text(text)
        (self.project / "step.py").write_text(STEP)
        commit(self.project, MLproject=MLPROJECT)

    def submit(self, script, uri=None, **more):
        return mlproj_core.submit(
            uri or str(self.project),
            parameters={"script": f"{script}.py"},
            env_manager="local",
            experiment_name=self.experiment,
            backend_config={"grace": 1.0},
            env_vars={"PYTHONPATH": str(SOURCE), "MARKER": str(self.marker)},
            **more,
        )

    def run(self, script, **more):
        """Run to the end: the outer run as the server has it, and the steps."""
        run = self.submit(script, **more)
        assert run.wait(), "".join(run.logs())
        outer = connect(None).get_run(run.run_id)
        steps = [value for name, value in sorted(outer.parameters.items()) if name.startswith("step_")]
        return outer, [connect(None).get_run(step) for step in steps]


@pytest.fixture
def project(world, mlflow_server, mlflow_python, monkeypatch, no_tracking):
    monkeypatch.delenv("MLPROJ_TRACKING", raising=False)
    monkeypatch.setenv("MLPROJ_STATE_DIR", str(world.state))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    monkeypatch.setenv("PATH", f"{Path(mlflow_python).parent}{os.pathsep}{os.environ['PATH']}")
    return Multistep(world, mlflow_server)


class TestMlflowInsideAStep:
    @pytest.mark.parametrize(("script", "place"), [("by_mlflow", "git+file://"), ("by_mlflow_at_once", "")])
    def test_runs_its_steps_nested_on_the_same_server_in_the_same_experiment(self, project, script, place):
        outer, steps = project.run(script, uri=place + str(project.project))
        assert outer.status == "FINISHED"
        for n, step in enumerate(steps, 1):
            assert (step.status, step.experiment_id) == ("FINISHED", outer.experiment_id)
            assert step.tags["mlflow.parentRunId"] == outer.run_id
            assert step.tags["mlflow.project.entryPoint"] == "step"
            assert step.tags["mlflow.source.git.commit"] == outer.tags["mlflow.source.git.commit"]
            assert (step.parameters, step.metrics) == ({"n": str(n)}, {"n": float(n)})
            assert "mlproj.attempt" not in step.tags
        assert len(steps) == 2

    def test_as_a_program_records_where_its_surroundings_say(self, project):
        outer, (step,) = project.run("by_program")
        assert (step.status, step.experiment_id) == ("FINISHED", outer.experiment_id)
        assert (step.parameters, step.metrics) == ({"n": "1"}, {"n": 1.0})
        assert "mlflow.parentRunId" not in step.tags  # as under `mlflow run`: a program knows no active run

    def test_ends_with_the_run_that_it_is_in(self, project):
        outer = project.submit("slow_by_mlflow")
        until(project.marker.exists)
        outer.cancel()
        assert outer.get_status() == "KILLED"
        assert [command for _, command in project.world.survivors() if b"deliver" not in command] == []
        experiment = connect(None).get_run(outer.run_id).experiment_id
        (inner,) = connect(None).search_runs(experiment, f"tags.`mlflow.parentRunId` = '{outer.run_id}'")
        assert inner.status == "RUNNING"  # as MLflow leaves it when `mlflow run` is killed; docs/multistep.md says so


class TestMlprojInsideAStep:
    def test_nests_its_runs_in_the_one_that_is_active_there(self, project):
        outer, (first, second) = project.run("by_mlproj")
        assert first.tags["mlflow.parentRunId"] == outer.run_id
        assert second.tags["mlflow.parentRunId"] == outer.parameters["inner"]
        for step in (first, second):
            assert (step.status, step.experiment_id) == ("FINISHED", outer.experiment_id)
            assert step.outcome.status == "FINISHED"
            assert "mlflow.project.env" not in step.tags  # the outer one's manager: the host's own environment
        assert [step.metrics for step in (first, second)] == [{"n": 1.0}, {"n": 2.0}]

    def test_nests_those_that_threads_start_too_and_none_waits_for_the_slot_of_the_outer_run(
        self, project, monkeypatch
    ):
        # MLflow knows the active run in the main thread only.
        monkeypatch.setenv("MLPROJ_MAX_RUNS", "1")
        outer, steps = project.run("by_mlproj_at_once")
        assert [step.metrics["n"] for step in steps] == [1.0, 2.0, 3.0]
        assert {step.tags["mlflow.parentRunId"] for step in steps} == {outer.run_id}

    def test_ends_its_runs_with_the_run_that_they_are_in(self, project):
        outer = project.submit("slow_by_mlproj")
        until(project.marker.exists)
        (inner,) = (handle for handle in mlproj_core.backends.load_backend("local").handles() if handle != outer.handle)
        outer.cancel()
        assert outer.get_status() == "KILLED"
        inner = mlproj_core.attach(inner)
        inner.wait(timeout=10)
        assert (inner.get_status(), inner.reason.code) == ("KILLED", "lost")
        until(lambda: project.world.survivors() == [])
        until(lambda: connect(None).get_run(inner.run_id).status == "KILLED")

    def test_reuses_a_step_of_an_earlier_run_of_the_project(self, project):
        # Each run has a checkout of its own.
        uri = f"git+file://{project.project}"
        first, (step,) = project.run("reusing", uri=uri)
        second, (again,) = project.run("reusing", uri=uri)
        assert second.run_id != first.run_id
        assert again.run_id == step.run_id
        assert again.tags["mlflow.parentRunId"] == first.run_id
