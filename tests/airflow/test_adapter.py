"""The adapter's own rules, without a running Airflow: what is decided, what is shown, what is refused."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, conf
from airflow.sdk.exceptions import AirflowSkipException

import airflow_mlproj
from airflow_mlproj import (
    MLProjectFailed,
    MLProjectOperator,
    MLProjectRefused,
    MLProjectRunSensor,
    MLProjectRunTrigger,
    mlproject_params,
)
from airflow_mlproj.origin import project_uri
from airflow_mlproj.outcome import airflow_words, conclude
from airflow_mlproj.output import Follower, Saved
from airflow_mlproj.placement import Placement, place
from airflow_mlproj.provider import get_provider_info
from airflow_mlproj.settings import check_uri, max_local_runs, runs_on_one_host
from airflow_mlproj.step import Step
from airflow_mlproj.stopper import Stopper
from airflow_mlproj.withheld import Withheld
from mlproj_core.errors import ContactLost, ExecutionException, TrackingError, TrackingRefused, UserError
from mlproj_core.handle import RunHandle
from mlproj_core.runs import RunResult
from mlproj_core.status import Reason, ReasonCode, RunStatus

HANDLE = RunHandle("local", "k", 1, "a1b2")


@pytest.fixture
def setting(monkeypatch):
    """Sets an option of Airflow's configuration."""

    def put(section, name, value):
        monkeypatch.setenv(f"AIRFLOW__{section.upper()}__{name.upper()}", value)

    return put


class TestPlacement:
    LOCAL = {
        "runs_here": True, "findable": True, "retry_remains": True, "durable": True, "waits": True,
        "deferrable": None, "defers_by_default": False, "detach": None,
    }  # fmt: skip

    @pytest.mark.parametrize(
        ("differs", "tethered", "defers"),
        [
            ({}, False, False),
            ({"retry_remains": False}, True, False),
            ({"durable": False}, True, False),
            ({"findable": False}, True, False),
            ({"findable": False, "detach": True}, False, False),
            ({"detach": False}, True, False),
            ({"deferrable": True, "retry_remains": False}, False, True),
            # Airflow's default for all operators does not move a local run out of its worker.
            ({"defers_by_default": True}, False, False),
            ({"defers_by_default": True, "findable": False}, True, False),
            ({"waits": False}, False, False),
            ({"waits": False, "deferrable": True}, False, False),
            ({"runs_here": False}, False, False),
            ({"runs_here": False, "defers_by_default": True}, False, True),
            ({"runs_here": False, "defers_by_default": True, "deferrable": False}, False, False),
            ({"runs_here": False, "deferrable": True, "findable": False}, False, True),
            ({"runs_here": False, "deferrable": True, "waits": False}, False, False),
        ],
    )
    def test_of_a_run_and_its_task(self, differs, tethered, defers):
        assert place(**{**self.LOCAL, **differs}) == Placement(tethered, defers)

    @pytest.mark.parametrize(
        "differs",
        [
            {"findable": False, "deferrable": True},
            {"findable": False, "waits": False},
            {"detach": False, "deferrable": True},
            {"detach": False, "waits": False},
        ],
    )
    def test_that_cannot_be_had_is_refused(self, differs):
        with pytest.raises(UserError, match=r"deferrable=True|wait_for_completion=False"):
            place(**{**self.LOCAL, **differs})

    @pytest.mark.parametrize(
        ("executor", "one_host"),
        [
            ("LocalExecutor", True),
            ("airflow.executors.local_executor.LocalExecutor", True),
            ("near:LocalExecutor", True),
            ("LocalExecutor;team1=LocalExecutor", True),
            ("LocalExecutor,CeleryExecutor", False),
            ("team1=KubernetesExecutor;LocalExecutor", False),
            ("LocalKubernetesExecutor", False),
        ],
    )
    def test_on_one_host_only_where_every_executor_is_local(self, setting, executor, one_host):
        setting("core", "executor", executor)
        assert runs_on_one_host() is one_host


class TestAllowedUris:
    @pytest.mark.parametrize(
        ("uri", "allowed"),
        [
            ("https://git.example.com/acme/train", True),
            ("git+https://GIT.example.com/acme/train#sub", True),
            ("https://token@git.example.com/acme/train", True),
            ("https://git.example.com/acme/../evil", False),
            ("https://git.example.com/acme/%2e%2e/evil", False),
            ("https://git.example.com.evil.org/acme/train", False),
            ("https://git.example.com/acme-evil/train", False),
            ("git@git.example.com:one/project.git", True),
            ("git@git.example.com:one/project.git#sub", True),
            ("git@git.example.com:one/project.git.evil", False),
            ("/srv/projects/train", True),
            ("/srv/projects/../secrets", False),
            ("/srv/else", False),
        ],
    )
    def test_bound_what_may_run(self, setting, uri, allowed):
        setting(
            "mlproj",
            "allowed_uris",
            "https://git.example.com/acme/\n git@git.example.com:one/project.git /srv/projects/",
        )
        if allowed:
            check_uri(uri)
        else:
            with pytest.raises(UserError, match="allowed_uris does not cover it"):
                check_uri(uri)

    def test_are_any_by_default(self):
        check_uri("https://anywhere.example.com/x")

    def test_do_not_show_the_credentials_of_what_they_refuse(self, setting):
        setting("mlproj", "allowed_uris", "/srv/")
        with pytest.raises(UserError) as caught:
            check_uri("https://user:hunter2@git.example.com/x")
        assert "hunter2" not in str(caught.value)

    def test_are_not_asked_about_the_bundle_s_own_projects(self, setting, tmp_path):
        setting("mlproj", "allowed_uris", "/srv/")
        (tmp_path / "projects" / "train").mkdir(parents=True)
        assert project_uri("projects/train#sub", tmp_path) == f"{tmp_path}/projects/train#sub"

    def test_a_link_does_not_lead_out_of_the_bundle(self, tmp_path):
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        (bundle / "link").symlink_to(tmp_path)
        with pytest.raises(UserError, match="leads out of the DAG's bundle"):
            project_uri("link", bundle)

    def test_a_project_that_is_not_in_the_bundle_is_named_with_its_place(self, tmp_path):
        with pytest.raises(UserError, match=f"no directory {tmp_path}/projects/none"):
            project_uri("projects/none", tmp_path)


class TestSettings:
    def test_a_limit_that_is_no_number_is_refused(self, setting):
        setting("mlproj", "max_local_runs", "many")
        with pytest.raises(UserError, match="max_local_runs must be a whole number"):
            max_local_runs()

    @pytest.mark.parametrize(("text", "limit"), [("", None), ("0", None), ("4", 4)])
    def test_a_limit(self, setting, text, limit):
        setting("mlproj", "max_local_runs", text)
        assert max_local_runs() == limit


class KeptValues:
    """Airflow's task state store, as its accessor shows it."""

    def __init__(self, error=None):
        self.values, self.error = {}, error

    def get(self, key):
        if self.error:
            raise self.error
        return self.values.get(key)

    def set(self, key, value, retention=None):
        self.values[key] = json.loads(json.dumps(value))


class TestAStep:
    def context(self, store=None, **differs):
        ti = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1, "max_tries": 2}
        ti |= {"task": SimpleNamespace(retries=2), **differs}
        return {"ti": SimpleNamespace(**ti), "task_state_store": store or KeptValues()}

    def test_has_one_key_for_all_its_tries(self):
        store = KeptValues()
        keys = {
            Step.of(self.context(store, try_number=number), durable=True).key for number in (1, 2, 3)
        }  # fmt: skip
        assert len(keys) == 1

    def test_has_another_key_in_a_dag_run_that_was_created_again(self):
        assert Step.of(self.context(), durable=True).key != Step.of(self.context(), durable=True).key

    @pytest.mark.parametrize("differs", [{"map_index": 0}, {"task_id": "u"}, {"run_id": "s"}, {"dag_id": "e"}])
    def test_has_a_key_of_its_own(self, differs):
        store = KeptValues()
        assert (
            Step.of(self.context(store), durable=True).key != Step.of(self.context(store, **differs), durable=True).key
        )

    def test_has_a_key_for_each_try_if_they_share_nothing(self):
        store = KeptValues()
        keys = {Step.of(self.context(store, try_number=number), durable=False).key for number in (1, 2)}
        assert len(keys) == 2
        assert store.values == {}

    @pytest.mark.parametrize(
        ("try_number", "max_tries", "fresh_after", "retry_remains"),
        [(1, 2, 0, True), (2, 2, 0, True), (3, 2, 0, False), (2, 3, 1, True), (4, 5, 3, True), (6, 5, 3, False)],
    )
    def test_that_was_cleared_disowns_the_tries_before(self, try_number, max_tries, fresh_after, retry_remains):
        step = Step.of(self.context(try_number=try_number, max_tries=max_tries), durable=True)
        assert (step.turn, step.fresh_after, step.retry_remains) == (try_number, fresh_after, retry_remains)

    def test_whose_store_is_out_of_reach_starts_nothing(self):
        with airflow_words_raised(MLProjectFailed, "Nothing was started"):
            Step.of(self.context(KeptValues(RuntimeError("502"))), durable=True)

    def test_of_a_deployment_with_an_id_needs_no_store(self, setting):
        setting("mlproj", "deployment_id", "eu-1")
        out_of_reach = KeptValues(RuntimeError("502"))
        assert '"eu-1"' in Step.of(self.context(out_of_reach), durable=True).key

    def test_keeps_its_run_and_how_far_the_log_is(self):
        context = self.context()
        Step.of(context, durable=True).store.handle = HANDLE
        Step.of(context, durable=True).store.set_cursor(HANDLE, 17)
        again = Step.of(context, durable=True).store
        assert again.handle == HANDLE
        assert again.cursor(HANDLE) == 17
        assert again.cursor(RunHandle("local", "k", 2, "b")) == 0


def airflow_words_raised(kind, match):
    """Expect the core's error to come out as Airflow's."""

    class Both:
        def __enter__(self):
            self.raises = pytest.raises(kind, match=match)
            self.caught = self.raises.__enter__()
            self.words = airflow_words()
            self.words.__enter__()
            return self.caught

        def __exit__(self, *error):
            try:
                self.words.__exit__(*error)
            except kind as raised:
                return self.raises.__exit__(type(raised), raised, raised.__traceback__)
            return self.raises.__exit__(*error)

    return Both()


class TestAnEnd:
    class Run:
        handle = HANDLE

        def __init__(self, *ends):
            self.ends = list(ends)

        def result(self, patience):
            end = self.ends.pop(0)
            if isinstance(end, Exception):
                raise end
            return end

    @pytest.mark.parametrize(
        ("code", "retryable", "kind"),
        [
            (ReasonCode.PROJECT_CODE, False, MLProjectFailed),
            (ReasonCode.LOST, True, MLProjectFailed),
            (ReasonCode.OOM, True, MLProjectFailed),
            (ReasonCode.CAPACITY, True, MLProjectFailed),
            (ReasonCode.TIMEOUT, True, MLProjectFailed),
            (ReasonCode.ENVIRONMENT, True, MLProjectFailed),
            (ReasonCode.ENVIRONMENT, False, MLProjectRefused),
            (ReasonCode.SOURCE, False, MLProjectRefused),
            (ReasonCode.USER_INPUT, False, MLProjectRefused),
            (ReasonCode.CANCELLED, False, MLProjectRefused),
        ],
    )
    def test_is_tried_again_by_its_cause(self, code, retryable, kind):
        reason = Reason(code, "why", retryable=retryable)
        with pytest.raises(kind) as caught:
            conclude(self.Run(ExecutionException("the end", reason=reason, handle=HANDLE)), ())
        assert caught.value.reason == reason
        assert caught.value.handle == HANDLE

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (UserError("no such parameter"), MLProjectRefused),
            (TrackingRefused("403"), MLProjectRefused),
            (TrackingError("503"), MLProjectFailed),
            (ContactLost("which host?"), MLProjectFailed),
        ],
    )
    def test_that_came_before_the_run_is_tried_again_by_its_kind(self, error, kind):
        with pytest.raises(kind, match=str(error)), airflow_words():
            raise error

    def test_skips_the_task_by_its_exit_code(self):
        reason = Reason(ReasonCode.PROJECT_CODE, "exited", exit_code=99)
        with pytest.raises(AirflowSkipException):
            conclude(self.Run(ExecutionException("the end", reason=reason)), (99,))

    def test_has_metrics_that_are_json(self):
        metrics = {"nan": float("nan"), "up": float("inf"), "down": float("-inf"), "half": 0.5}
        value = conclude(self.Run(RunResult("a1", RunStatus.FINISHED, metrics=metrics)), ())
        assert value["metrics"] == {"nan": "NaN", "up": "Infinity", "down": "-Infinity", "half": 0.5}
        json.dumps(value, allow_nan=False)

    def test_whose_metrics_are_not_to_be_had_is_tried_again_without_running_the_project(self):
        with pytest.raises(MLProjectFailed, match=r"finished, but .* 503 .* only asks for them again"):
            conclude(self.Run(TrackingError("503 it said.")), ())


class TestOutput:
    class Run:
        def __init__(self, *parts):
            self.parts = list(parts)
            self.asked = []

        def read_lines(self, follow, cursor):
            self.asked.append(cursor)
            part = self.parts.pop(0)
            yield from part[:-1]
            if isinstance(part[-1], Exception):
                raise part[-1]
            yield part[-1]

    def test_goes_on_where_contact_was_lost(self, monkeypatch):
        monkeypatch.setattr("airflow_mlproj.output.lost_contact_pause", lambda tries: 0.0)
        run = self.Run([("one", 4), ContactLost("gone")], [("two", 8)])
        logged, said, notes = [], [], []
        assert Follower(run, 0, said.append).each(logged.append, Saved(0, notes.append)) is True
        assert logged == ["one", "two"]
        assert run.asked == [0, 4]
        assert notes == [8]
        assert "contact lost" in said[0]

    def test_is_given_up_when_contact_is_lost_for_long(self, monkeypatch):
        monkeypatch.setattr("airflow_mlproj.output.lost_contact_pause", lambda tries: 0.0)
        monkeypatch.setattr("airflow_mlproj.output.CONTACT_PATIENCE", -1.0)
        with pytest.raises(ContactLost):
            Follower(self.Run([ContactLost("gone")]), 0, print).each(print, Saved(0, print))


class TestAStopper:
    def test_does_what_it_is_asked_for_once(self):
        done = []
        stopper = Stopper(lambda: done.append(1))
        stopper.ask()
        stopper.ask()
        assert stopper.wait(10)
        assert done == [1]

    def test_that_is_dismissed_does_nothing(self):
        done = []
        Stopper(lambda: done.append(1)).dismiss()
        assert done == []


class TestWithheldValues:
    def test_are_not_in_what_airflow_stores_of_a_dag(self):
        from airflow.serialization.serialized_objects import DagSerialization

        with DAG("d") as dag:
            MLProjectOperator(task_id="t", uri="p", env_vars={"TOKEN": "hunter2"}, docker_auth={"password": "hunter2"})
        stored = json.dumps(DagSerialization.to_dict(dag))
        assert "hunter2" not in stored
        assert "TOKEN" in stored

    def test_make_a_task_wait_for_those_whose_values_stand_in_them(self):
        with DAG("d"):
            first = MLProjectOperator(task_id="first", uri="p")
            second = MLProjectOperator(task_id="second", uri="p", env_vars={"RUN": first.output["run_id"]})
        assert second.upstream_task_ids == {"first"}

    def test_are_not_shown(self):
        assert "hunter2" not in repr(Withheld({"TOKEN": "hunter2"}))


class TestParams:
    @pytest.fixture
    def project(self, tmp_path):
        (tmp_path / "MLproject").write_text(
            "name: p\nentry_points:\n  main:\n    parameters:\n"
            "      data: uri\n      alpha: {type: float, default: 0.5, description: how much}\n"
            "      depth: {type: int, default: many}\n    command: echo {data} {alpha} {depth}\n"
        )
        return tmp_path

    def test_are_those_of_the_entry_point_with_types(self, project):
        params = mlproject_params(project)
        assert params["alpha"].serialize() == {
            "value": 0.5, "description": "how much", "schema": {"type": "number"}, "source": None,
        }  # fmt: skip
        assert params["alpha"].resolve(0.25) == 0.25
        with pytest.raises(ValueError, match="many"):
            params["alpha"].resolve("many")
        assert not params["data"].has_value

    def test_a_default_that_does_not_fit_runs_as_it_does_elsewhere(self, project):
        assert mlproject_params(project)["depth"].resolve() == "many"

    def test_come_from_a_manifest_too(self, project, tmp_path):
        program = str(Path(sys.executable).with_name("mlproj"))
        manifest = tmp_path / "main.json"
        manifest.write_bytes(subprocess.run([program, "schema", project], check=True, capture_output=True).stdout)
        read, made = mlproject_params(manifest), mlproject_params(project)
        assert {name: param.serialize() for name, param in read.items()} == {
            name: param.serialize() for name, param in made.items()
        }

    def test_flags_choices_and_optional_values_are_fields_of_their_own_and_a_secret_is_none(self, tmp_path):
        (tmp_path / "MLproject").write_text(
            "mlproj: 1\nentry_points:\n  main:\n    parameters:\n"
            "      verbose: bool\n      kind: {enum: [a, b], default: a}\n      rate: {type: float, optional: true}\n"
            "      depth: {type: int, enum: [1, 2], optional: true}\n      TOKEN: {secret: true}\n"
            "    command: echo --verbose {verbose} {kind} --rate={rate} --depth {depth}\n"
        )
        params = mlproject_params(tmp_path)
        assert {name: (param.value, param.schema) for name, param in params.items()} == {
            "verbose": (False, {"type": "boolean"}),
            "kind": ("a", {"type": "string", "enum": ["a", "b"]}),
            "rate": (None, {"type": ["number", "null"]}),
            "depth": (None, {"type": ["integer", "null"], "enum": [1, 2, None]}),
        }
        assert [param.resolve() for param in params.values()] == [False, "a", None, None]
        assert (params["verbose"].resolve(True), params["depth"].resolve(2)) == (True, 2)
        for name, value in (("verbose", "yes"), ("kind", "c"), ("rate", "fast"), ("depth", 3)):
            with pytest.raises(ValueError, match=str(value)):
                params[name].resolve(value)

    def test_a_path_that_depends_on_where_it_is_read_is_refused(self):
        with pytest.raises(UserError, match="must be absolute"):
            mlproject_params("projects/train")


class TestATriggerAtItsDeadline:
    class Run:
        """A run that is not over until it is cancelled, if it can be."""

        def __init__(self, refuses=None):
            self.refuses, self.over, self.cancelled = refuses, asyncio.Event(), False

        async def wait_async(self):
            await self.over.wait()

        async def read_lines_async(self, cursor):
            yield "a line", 7
            await self.over.wait()

        async def get_status_async(self):
            return RunStatus.RUNNING

        async def cancel_async(self):
            if self.refuses:
                raise self.refuses
            self.cancelled = True
            self.over.set()

    def event(self, monkeypatch, run, **arguments):
        trigger = MLProjectRunTrigger(HANDLE.to_dict(), deadline=time.time() + 0.2, **arguments)

        async def attached():
            return run

        async def fired():
            monkeypatch.setattr(trigger, "_attach", attached)
            return [event.payload async for event in trigger.run()]

        return asyncio.run(asyncio.wait_for(fired(), 10))

    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize(
        ("cancel_on_kill", "refuses"), [(True, None), (False, None), (True, ContactLost("which host?"))]
    )
    def test_stops_waiting_whether_or_not_the_run_ends(self, monkeypatch, stream, cancel_on_kill, refuses):
        run = self.Run(refuses)
        events = self.event(monkeypatch, run, stream=stream, cancel_on_kill=cancel_on_kill)
        assert events == [{"cursor": 7 if stream else 0, "timed_out": True}]
        assert run.cancelled is (cancel_on_kill and refuses is None)

    def test_is_ended_by_whoever_else_cancels_it(self, monkeypatch):
        trigger, run = MLProjectRunTrigger(HANDLE.to_dict(), deadline=time.time() + 60), self.Run()

        async def attached():
            return run

        async def waits():
            async for _ in trigger.run():
                raise AssertionError("it fired")

        async def cancelled():
            monkeypatch.setattr(trigger, "_attach", attached)
            task = asyncio.create_task(waits())
            await asyncio.sleep(0.1)
            task.cancel("somebody else")
            await task

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancelled())
        assert not run.cancelled


class TestSensors:
    def test_whose_run_is_not_given_after_all_say_so(self):
        sensor = MLProjectRunSensor(task_id="t", handle={"key": "stands for a template"})
        sensor.handle = None
        with pytest.raises(UserError, match="handle or run_id is empty"):
            sensor._run()

    @pytest.mark.parametrize("given", [{}, {"handle": {}, "run_id": "a"}])
    def test_wait_for_a_handle_or_a_run_id(self, given):
        with pytest.raises(ValueError, match="give a handle or a run_id"):
            MLProjectRunSensor(task_id="t", **given)

    def test_do_not_come_back_sooner_than_is_safe(self):
        with pytest.raises(ValueError, match="10 seconds or more"):
            MLProjectRunSensor(task_id="t", run_id="a", mode="reschedule", poke_interval=2)


class TestTheProvider:
    def test_is_known_to_airflow(self):
        from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

        manager = ProvidersManagerTaskRuntime()
        assert manager.hooks["mlflow"].hook_class_name == "airflow_mlproj.hooks.MLflowHook"
        assert "mlproject" in manager.taskflow_decorators

    def test_describes_itself_as_airflow_wants_it(self):
        import jsonschema
        from airflow import __file__ as airflow_file

        schema = json.loads(Path(airflow_file).with_name("provider_info.schema.json").read_text())
        jsonschema.validate(get_provider_info(), schema)

    def test_gives_its_settings_their_defaults(self):
        assert conf.get("mlproj", "max_local_runs") == "0"


class TestImports:
    def test_an_older_airflow_is_refused_with_a_word(self, monkeypatch):
        monkeypatch.setattr("importlib.metadata.version", lambda name: "3.2.9")
        with pytest.raises(ImportError, match=r"needs Airflow 3\.3 or later; found: 3\.2\.9"):
            airflow_mlproj._check_airflow()

    def test_load_nothing_that_a_dag_processor_has_no_use_for(self):
        code = (
            "import sys; from airflow.sdk import BaseOperator, BaseSensorOperator; before = set(sys.modules)\n"
            "from airflow_mlproj import MLProjectOperator, MLProjectRunSensor\n"
            "print(*sorted(set(sys.modules) - before))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        loaded = done.stdout.split()
        # Airflow itself has asked the package who it is.
        assert set(loaded) <= {
            *("airflow_mlproj", "airflow_mlproj.links", "airflow_mlproj.operators", "airflow_mlproj.sensors"),
            *("airflow_mlproj.withheld", *(name for name in loaded if name.startswith("airflow.sdk"))),
        }
