"""`reuse_finished`: an earlier run that did the same stands in for a new one, by the tracking server's word."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import PROGRAM
from git_world import GitServer, commit, git, published
from protocol_suite import until

import mlproj_core
from mlproj_core import UserError
from mlproj_core.backends.local import LocalBackend
from mlproj_core.backends.local.keeping import prune
from mlproj_core.tracking import connect

MLPROJECT = """
name: steps
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.5}
      word: {type: string, default: a}
    command: bash main.sh {alpha} {word}
  other:
    parameters:
      alpha: {type: float, default: 0.5}
      word: {type: string, default: a}
    command: bash main.sh {alpha} {word}
"""


END = """
import json, os
from urllib.request import Request, urlopen
body = json.dumps({{"run_id": os.environ["MLFLOW_RUN_ID"], "status": "FINISHED"}}).encode()
urlopen(Request("{uri}/api/2.0/mlflow/runs/update", body, {{"Content-Type": "application/json"}})).read()
"""
"""Ends the MLflow run, as a script does that has more to do."""


class Steps:
    """A project in a Git repository, its runs recorded on a real server in an experiment of its own."""

    def __init__(self, world, uri):
        self.world, self.uri = world, uri
        self.project = world.project
        self.said = []
        self.experiment = world.directory.name
        git("init", "-q", "-b", "main", ".", cwd=self.project)
        self.command("echo '{\"rows\": 3}' > $MLPROJ_RESULT; echo made")

    def command(self, text):
        self.world.project_runs(text)
        return commit(self.project, MLproject=MLPROJECT)

    def arguments(self, **more):
        return self.world.arguments(
            **{"experiment_name": self.experiment, "reuse_finished": True, "report": self.said.append, **more}
        )

    def run(self, **more):
        """Submit, and wait for the end."""
        run = mlproj_core.submit(**self.arguments(**more))
        run.wait()
        return run

    def starts(self):
        return self.world.starts()

    def heard(self, text):
        return any(text in line for line in self.said)


@pytest.fixture
def steps(world, mlflow_server, monkeypatch):
    monkeypatch.delenv("MLPROJ_TRACKING")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    return Steps(world, mlflow_server)


class TestARunThatFinished:
    def test_stands_in_for_one_that_would_do_the_same(self, steps):
        first = steps.run(parameters={"alpha": 1})
        assert steps.heard("no finished run with the same commit")
        again = steps.run(parameters={"alpha": 1})
        assert again.run_id == first.run_id
        assert steps.starts() == 1
        assert steps.heard(f"reusing run {first.run_id}")
        assert steps.heard("data is not compared")

    def test_has_its_output_and_its_result_where_it_ran(self, steps):
        first = steps.run()
        again = steps.run()
        assert again.handle == first.handle
        assert again.result().result == {"rows": 3}
        assert "made\n" in "".join(again.logs())

    def test_is_known_by_mlflow_where_nothing_else_is_left_of_it(self, steps):
        first = steps.run()
        assert prune(LocalBackend(), first.handle)
        again = steps.run()
        assert (again.handle.backend, again.run_id) == ("tracking", first.run_id)
        assert again.wait()
        assert (again.get_status(), again.phase, again.reason) == ("FINISHED", "ended", None)
        assert again.result().artifact_uri.endswith(f"{first.run_id}/artifacts")
        assert mlproj_core.attach(again.handle.to_json()).get_status() == "FINISHED"
        again.cancel()
        assert again.get_status() == "FINISHED"
        assert steps.starts() == 1

    def test_is_returned_by_run_which_prints_what_it_had_printed(self, steps, capfd):
        first = steps.run()
        again = mlproj_core.run(**steps.arguments())
        assert again.run_id == first.run_id
        assert "made\n" in capfd.readouterr().out
        assert steps.starts() == 1

    def test_is_the_newest_of_several(self, steps):
        steps.run()
        newest = steps.run(reuse_finished=False)
        assert steps.starts() == 2
        # The newest was not asked to say whether its work tree was clean.
        assert steps.run().run_id != newest.run_id
        newest = steps.run(uri=f"git+file://{steps.project}", reuse_finished=False)
        assert steps.run().run_id == newest.run_id

    def test_is_found_from_another_copy_of_the_commit(self, steps, tmp_path):
        first = steps.run()
        git("clone", "-q", steps.project, tmp_path / "copy", cwd=tmp_path)
        assert steps.run(uri=str(tmp_path / "copy")).run_id == first.run_id
        assert steps.run(uri=f"git+file://{steps.project}", version="main").run_id == first.run_id
        assert steps.starts() == 1

    def test_may_have_logged_parameters_and_tags_of_its_own(self, steps):
        first = steps.run()
        connect(None).log_parameters(first.run_id, {"learned": "1"})
        connect(None).set_tags(first.run_id, {"stage": "x"})
        assert steps.run(tags={"stage": "y"}, run_name="another").run_id == first.run_id

    def test_is_looked_for_here_by_a_tag_that_names_an_attempt_and_no_other_place(self, steps):
        first = steps.run()
        connect(None).set_tags(first.run_id, {"mlproj.attempt": "../../other-1"})
        assert steps.run().handle.backend == "tracking"
        assert LocalBackend().by_tag(first.handle.tag) == first.handle
        assert LocalBackend().by_tag("../../other-1") is None


class TestARunThatDidSomethingElse:
    @pytest.mark.parametrize(
        "other",
        [
            {"parameters": {"alpha": 2}},
            {"parameters": {"alpha": 1, "word": "b"}},
            {"parameters": {"alpha": 1, "undeclared": "x"}},
            {"parameters": {"alpha": 1}, "entry_point": "other"},
            {"parameters": {"alpha": 1}, "experiment_name": "elsewhere"},
        ],
        ids=lambda other: "-".join(map(str, other)),
    )
    def test_is_not_reused(self, steps, other):
        steps.run(parameters={"alpha": 1})
        steps.run(**other)
        assert steps.starts() == 2

    def test_as_one_with_an_undeclared_parameter_more(self, steps):
        steps.run(parameters={"alpha": 1, "undeclared": "x"})
        steps.run(parameters={"alpha": 1})
        assert steps.starts() == 2

    def test_as_one_of_another_commit(self, steps):
        steps.run()
        commit(steps.project, note="changed")
        steps.run()
        assert steps.starts() == 2

    def test_as_one_of_another_directory_of_the_commit(self, steps):
        commit(steps.project, sub__MLproject=MLPROJECT, sub__main_dot_sh=(steps.project / "main.sh").read_text())
        first = steps.run()
        second = steps.run(uri=f"{steps.project}#sub")
        assert second.run_id != first.run_id
        assert steps.run(uri=f"git+file://{steps.project}#sub").run_id == second.run_id

    def test_as_one_that_failed_or_was_killed(self, steps):
        steps.command("exit 1")
        assert steps.run().get_status() == "FAILED"
        assert steps.run().get_status() == "FAILED"
        assert steps.starts() == 2

    def test_as_one_that_mlflow_shows_as_finished_and_that_has_failed(self, steps):
        failed = steps.run()
        tracking = connect(None)
        assert tracking.get_run(failed.run_id).status == "FINISHED"
        outcome = {"status": "FAILED", "reason": {"code": "project_code", "message": "exited with 1"}}
        tracking.set_tags(failed.run_id, {"mlproj.outcome": json.dumps(outcome)})
        assert steps.run().run_id != failed.run_id

    def test_as_one_whose_script_has_ended_its_mlflow_run_and_goes_on(self, steps, mlflow_server):
        (steps.project / "end.py").write_text(END.format(uri=mlflow_server))
        steps.command(f"{sys.executable} end.py && touch {steps.world.directory}/ended; sleep 60")
        first = mlproj_core.submit(**steps.arguments())
        until((steps.world.directory / "ended").exists)
        assert connect(None).get_run(first.run_id).status == "FINISHED"
        second = mlproj_core.submit(**steps.arguments())
        assert second.run_id != first.run_id
        for run in (first, second):
            run.cancel()

    def test_as_one_that_was_deleted(self, steps):
        first = steps.run()
        connect(None)._session.post("/api/2.0/mlflow/runs/delete", {"run_id": first.run_id}, doing="delete it")
        assert steps.run().run_id != first.run_id


class TestAWorkTreeThatIsNotClean:
    def test_reuses_nothing_and_says_why(self, steps):
        steps.run()
        (steps.project / "main.sh").write_text("echo changed\n")
        steps.run()
        assert steps.heard("no finished run is reused: the work tree has changes that are in no commit (main.sh)")

    def test_is_reused_by_nobody(self, steps):
        before = (steps.project / "main.sh").read_text()
        (steps.project / "main.sh").write_text(before + "echo changed\n")
        dirty = steps.run()
        (steps.project / "main.sh").write_text(before)
        assert steps.run().run_id != dirty.run_id

    def test_does_not_mean_files_that_git_does_not_track(self, steps):
        first = steps.run()
        (steps.project / "model.pkl").write_text("what a step left")
        assert steps.run().run_id == first.run_id

    def test_a_project_in_no_repository_reuses_nothing_and_says_why(self, steps, tmp_path):
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "MLproject").write_text("name: bare\nentry_points:\n  main:\n    command: echo bare\n")
        first = steps.run(uri=str(bare))
        assert steps.run(uri=str(bare)).run_id != first.run_id
        assert steps.heard("no finished run is reused: the project is in no Git repository, or at no commit")


class TestAKey:
    def test_that_has_an_attempt_keeps_to_it(self, steps):
        own = steps.run(key=steps.world.key, turn=1, reuse_finished=False, parameters={"alpha": 3})
        steps.run(parameters={"alpha": 3})
        newer = steps.run(reuse_finished=False, uri=f"git+file://{steps.project}", parameters={"alpha": 3})
        assert steps.run(key=steps.world.key, turn=2, parameters={"alpha": 3}).handle == own.handle
        assert newer.run_id != own.run_id

    def test_asked_again_finds_the_same_run_and_claims_nothing(self, steps):
        first = steps.run()
        for turn in (1, 2):
            assert steps.run(key=steps.world.key, turn=turn).run_id == first.run_id
        assert LocalBackend().find(steps.world.key) is None
        assert steps.starts() == 1

    def test_with_the_handle_of_the_try_before_keeps_to_that_run(self, steps):
        first = steps.run()
        steps.run(uri=f"git+file://{steps.project}", reuse_finished=False)
        assert steps.starts() == 2
        again = steps.run(key=steps.world.key, turn=2, handle=first.handle)
        assert again.handle == first.handle
        assert steps.heard("as the try before this one did")

    def test_does_not_take_the_handle_of_another_key_for_its_own(self, steps):
        first = steps.run()
        run = steps.run(key=steps.world.key, turn=2, handle=first.handle, reuse_finished=False)
        assert run.run_id != first.run_id
        assert steps.starts() == 2

    def test_that_was_cleared_runs_anew(self, steps):
        first = steps.run()
        again = steps.run(key=steps.world.key, turn=2, fresh_after=1, handle=first.handle)
        assert again.run_id != first.run_id
        assert steps.starts() == 2


class TestARunOfMlflowItself:
    @pytest.fixture
    def served(self, steps, tmp_path, monkeypatch):
        """The project on a Git server; both programs clone it."""
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        with GitServer(published(steps.project, tmp_path / "served/p.git").parent) as server:
            yield server.url("p.git")

    def mlflow_run(self, steps, mlflow_python, mlflow_environment, uri, *options):
        subprocess.run(
            [Path(mlflow_python).with_name("mlflow"), "run", uri, "--env-manager", "local",
             "--experiment-name", steps.experiment, *options],
            env={**mlflow_environment, "MLFLOW_TRACKING_URI": steps.uri, "MLPROJ_RESULT": "/dev/null"},
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip

    def test_stands_in_if_mlflow_cloned_the_commit(self, steps, served, mlflow_python, mlflow_environment):
        self.mlflow_run(steps, mlflow_python, mlflow_environment, served, "-P", "alpha=0.25", "-P", "more=1")
        assert steps.starts() == 1
        again = steps.run(uri=served, parameters={"alpha": 0.25, "more": 1})
        assert (again.handle.backend, again.get_status()) == ("tracking", "FINISHED")
        assert steps.starts() == 1
        # One parameter fewer is another run.
        steps.run(uri=served, parameters={"alpha": 0.25})
        assert steps.starts() == 2

    def test_that_ran_in_place_may_have_had_any_changes(self, steps, mlflow_python, mlflow_environment):
        self.mlflow_run(steps, mlflow_python, mlflow_environment, str(steps.project))
        steps.run()
        assert steps.starts() == 2


class TestTheCommandLine:
    def test_reuses_with_reuse_finished(self, steps):
        arguments = [PROGRAM, "run", str(steps.project), "--env-manager", "local", "--reuse-finished"]
        arguments += ["--experiment-name", steps.experiment, "--json"]
        done = [subprocess.run(arguments, capture_output=True, text=True, timeout=60) for _ in range(2)]
        assert [one.returncode for one in done] == [0, 0]
        first, again = (json.loads(one.stdout) for one in done)
        assert again["run_id"] == first["run_id"]
        assert "[mlproj] reusing run" in done[1].stderr
        assert steps.starts() == 1


class TestWhatCannotBeAskedFor:
    def test_reuse_without_a_tracking_server(self, world):
        with pytest.raises(UserError, match="runs are not tracked here: set MLFLOW_TRACKING_URI"):
            world.submit(reuse_finished=True)
        assert world.starts() == 0

    def test_reuse_beside_an_existing_run(self, world):
        with pytest.raises(UserError, match="Give run_id or reuse_finished, not both"):
            world.submit(reuse_finished=True, run_id="0" * 32)
