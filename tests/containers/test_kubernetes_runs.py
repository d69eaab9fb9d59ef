"""The whole way: projects that run in pods of a real engine, tracked by a real MLflow server."""

import json
import subprocess
import sys

import pytest
from docker_world import PYTHON, SHELL
from kubernetes_docker import DockerRuntime
from kubernetes_world import KubernetesWorld
from launcher_world import installed_wheel
from package_world import PackageIndex, wheel
from protocol_suite import until

import mlproj_core

TRAIN = """
import json, os, sys, urllib.request
import greeting

def post(path, **body):
    request = urllib.request.Request(
        os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/" + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return urllib.request.urlopen(request, timeout=60)

alpha = float(sys.argv[1])
print("training with", alpha, "and", greeting.version, flush=True)
post("runs/log-metric", run_id=os.environ["MLFLOW_RUN_ID"], key="loss", value=alpha / 2, timestamp=1, step=0)
print("a secret of", len(os.environ["TOKEN"]), "letters")
with open(os.environ["MLPROJ_RESULT"], "w") as file:
    json.dump({"alpha": alpha, "attempt": os.environ["MLPROJ_ATTEMPT"]}, file)
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A package index that pods reach by the host's network."""
    directory = tmp_path_factory.mktemp("index")
    wheel(directory, "greeting")
    installed_wheel(directory, "uv")
    index = PackageIndex(directory)
    yield index
    index.close()


@pytest.fixture
def world(engine, tmp_path, monkeypatch, index):
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    world = KubernetesWorld(tmp_path, DockerRuntime(engine, tmp_path / "node"))
    world.variables = {"PIP_INDEX_URL": index.url(), "NO_PROXY": "localhost,127.0.0.1", "TOKEN": "geheim"}
    yield world
    world.close()


def python_project(world):
    (world.project / "MLproject").write_text(
        "name: steps\n"
        "python_env: python_env.yaml\n"
        "entry_points:\n  main:\n    parameters:\n      alpha: float\n    command: python train.py {alpha}\n"
    )
    (world.project / "python_env.yaml").write_text("dependencies:\n  - greeting\n")
    (world.project / "train.py").write_text(TRAIN)


class TestAPythonProject:
    def test_goes_from_a_bare_python_image_to_its_metrics(self, world, mlflow_server):
        python_project(world)
        run = world.submit(
            parameters={"alpha": 0.5},
            env_manager=None,
            env_vars=world.variables,
            tracking_uri=mlflow_server,
            backend_config={"image": PYTHON, "tracking-uri": mlflow_server, "grace": 2},
        )
        text = "".join(run.logs(follow=True))
        assert run.wait(), (run.reason, text)
        result = run.result()
        assert result.metrics == {"loss": 0.25}
        assert result.result == {"alpha": 0.5, "attempt": run.handle.tag}
        assert "training with 0.5" in text
        assert "a secret of 6 letters" in text
        everything = json.dumps([item for _, item in world.cluster.store.everything() if item["kind"] != "Secret"])
        assert "geheim" not in everything
        code = "import sys, mlproj_core; print(mlproj_core.attach(sys.argv[1]).result().metrics)"
        later = subprocess.run(
            [sys.executable, "-c", code, run.handle.to_json()], check=True, timeout=60, capture_output=True, text=True
        )
        assert later.stdout.split("\n")[0] == "{'loss': 0.25}"

    def test_whose_environment_cannot_be_made_says_so(self, world):
        python_project(world)
        (world.project / "python_env.yaml").write_text("dependencies:\n  - no-such-package\n")
        run = world.submit(
            parameters={"alpha": 0.5},
            env_manager=None,
            env_vars=world.variables,
            backend_config={"image": PYTHON},
        )
        run.wait()
        assert (run.get_status(), run.reason.code) == ("FAILED", "environment")
        assert "no-such-package" in run.reason.message


class TestAProjectWithAnImage:
    def project(self, world, command):
        (world.project / "MLproject").write_text(
            f"name: steps\ndocker_env:\n  image: {SHELL}\n  environment: [[GREETING, hello], COPIED]\n"
            f"entry_points:\n  main:\n    command: {json.dumps(command)}\n"
        )
        (world.project / "data.txt").write_text("data of the project\n")

    def submit(self, world, **more):
        return world.submit(**{"env_manager": None, "env_vars": {"COPIED": "geheim"}, **more})

    def test_has_its_code_where_mlflow_has_it(self, world):
        self.project(world, "pwd; cat data.txt; echo $GREETING ${{#COPIED}}")
        run = self.submit(world)
        text = "".join(run.logs(follow=True))
        assert run.wait(), (run.reason, text)
        assert text.splitlines() == ["/mlflow/projects/code", "data of the project", "hello 6"]

    def test_fails_with_its_exit_code_and_last_lines(self, world):
        self.project(world, "echo working; echo boom >&2; exit 3")
        run = self.submit(world)
        run.wait()
        assert (run.reason.code, run.reason.exit_code) == ("project_code", 3)
        assert sorted(run.reason.output) == ["boom", "working"]

    def test_is_ended_by_a_cancellation_from_another_process(self, world):
        self.project(world, "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")
        run = self.submit(world)
        until(lambda: "up" in "".join(run.logs()))
        code = "import sys, mlproj_core; mlproj_core.attach(sys.argv[1]).cancel()"
        subprocess.run([sys.executable, "-c", code, run.handle.to_json()], check=True, timeout=60)
        assert (run.get_status(), run.reason.code) == ("KILLED", "cancelled")
        assert world.survivors() == []

    def test_that_cannot_be_pulled_ends_with_the_registry_s_words(self, world, monkeypatch):
        from mlproj_core.backends.kubernetes import trouble

        monkeypatch.setattr(trouble, "REGISTRY_PATIENCE", 0.5)
        monkeypatch.setattr(trouble, "IMAGE_PATIENCE", 0.5)
        self.project(world, "true")
        run = self.submit(world, docker_args={"image": "127.0.0.1:9/no/such:1"})
        run.wait()
        assert (run.get_status(), run.reason.code) == ("FAILED", "image")
        assert "127.0.0.1:9/no/such:1" in run.reason.message

    def test_is_built_and_pushed_for_a_repository(self, world, registry, engine):
        self.project(world, "cat data.txt")
        run = self.submit(world, build_image=True, backend_config={"repository-uri": f"{registry.address}/team/steps"})
        text = "".join(run.logs(follow=True))
        assert run.wait(), (run.reason, text)
        assert text == "data of the project\n"
        image = world.job(run.handle)["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image.startswith(f"{registry.address}/team/steps@sha256:")

    def test_is_killed_for_its_memory_with_the_limit_said(self, world):
        pytest.importorskip("docker")
        self.project(world, "head -c 200m /dev/zero | tail")
        run = self.submit(world, backend_config={"resources": {"limits": {"memory": "24Mi"}}})
        run.wait()
        assert run.get_status() == "FAILED"
        assert run.reason.code == "oom"
        assert "24Mi" in run.reason.message


class TestTracking:
    def test_knows_how_a_run_ended_when_its_job_is_gone(self, world, mlflow_server):
        (world.project / "MLproject").write_text(
            f"name: steps\ndocker_env:\n  image: {SHELL}\nentry_points:\n  main:\n    command: exit 4\n"
        )
        run = world.submit(
            key="of its own",  # the server knows how the runs of others with one key ended
            env_manager=None,
            tracking_uri=mlflow_server,
            backend_config={"tracking-uri": mlflow_server},
        )
        run.wait()
        assert run.reason.exit_code == 4
        world.forget(run.handle)
        import os

        os.environ["MLFLOW_TRACKING_URI"] = mlflow_server
        try:
            assert (run.get_status(), run.reason.exit_code) == ("FAILED", 4)
        finally:
            del os.environ["MLFLOW_TRACKING_URI"]
        again = mlproj_core.attach(run.handle)
        assert again.run_id == run.run_id
