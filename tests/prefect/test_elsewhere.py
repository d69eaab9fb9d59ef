"""Flows whose runs are in containers and on a cluster: one for each, whoever dies, and nothing left."""

import json
import os
import re
import signal

import pytest
from docker_world import PYTHON

BLOCKS = """
from prefect.blocks.core import Block
from pydantic import SecretStr

class ClusterConfig(Block):  # as KubernetesClusterConfig of prefect-kubernetes
    config: dict
    context_name: str

class ClusterCredentials(Block):  # as KubernetesCredentials of prefect-kubernetes
    cluster_config: ClusterConfig

class RegistryCredentials(Block):  # as DockerRegistryCredentials of prefect-docker
    username: str
    password: SecretStr
    registry_url: str
"""

SAVE = """
import json
config = ClusterConfig(config=json.loads({kubeconfig!r}), context_name="tests")
ClusterCredentials(cluster_config=config).save("cluster")
RegistryCredentials(username="me", password="geheim", registry_url={registry!r}).save("registry")
"""

FLOW = """
import os
from prefect import flow
from prefect_mlproj import cancel_runs, run_project

@flow(name={name!r}, {options})
def main():
    where = {{
        "docker": dict(
            docker_args={{"image": {image!r}}}, docker_credentials=RegistryCredentials.load("registry"),
            backend_config={{"detach": True}},
        ),
        "kubernetes": dict(
            backend="kubernetes", env_manager="local",
            backend_config={{
                "namespace": "ml", "image": {python!r}, "tracking-uri": os.environ["MLFLOW_TRACKING_URI"],
            }},
            kubernetes_credentials=ClusterCredentials.load("cluster"),
        ),
    }}
    parameters = {{"mark": "/tmp/mark", "seconds": {seconds}}}
    run = run_project.with_options(name="steps")
    futures = [run.submit({project!r}, parameters=parameters, **where[one]) for one in {wanted!r}]
    return [future.result().metrics for future in futures]
"""

STAND_STILL = """
import time
from pathlib import Path
import mlproj_core.protocol

def stand_still(where):
    if where == "after the record":
        Path({marker!r}).touch()
        time.sleep(1000)
if __name__ != "__main__":
    mlproj_core.protocol.checkpoint = stand_still
"""


@pytest.fixture(scope="module")
def serve(prefect, steps, tracked, elsewhere, closed_registry):
    """Serves a flow that runs the project in a container and on the cluster, or on one of them."""
    kubeconfig = elsewhere.kubeconfig()
    text = BLOCKS + SAVE.format(kubeconfig=kubeconfig, registry=closed_registry.address)
    script = prefect.start_script("blocks", text)
    assert script.wait() == 0, script.log
    image = elsewhere.private_image(closed_registry)
    environment = {**tracked, "DOCKER_HOST": elsewhere.engine.host}

    def put(name, seconds, wanted=("docker", "kubernetes"), options="", more=""):
        given = {"project": str(steps.project), "image": image, "python": PYTHON, "wanted": wanted}
        return prefect.serve(
            name, BLOCKS + FLOW.format(name=name, seconds=seconds, options=options, **given) + more, environment
        )

    return put


@pytest.fixture
def row(record_property, elsewhere):
    """Puts a row for each run into the table of faults that is printed at the end."""

    def put(fault, handles, outcome, starts=1):
        for handle in handles:
            cells = {
                "fault": fault,
                "road": "submitted",
                "mode": "detached" if handle["backend"] == "local" else handle["backend"],
                "starts": elsewhere.starts(handle),
                "survivors": len(elsewhere.living()),
                "outcome": outcome,
            }
            record_property("table: Faults in Prefect: one run or none, and nothing left", cells)
            assert (cells["starts"], cells["survivors"]) == (starts, 0)

    return put


def at_work(prefect, run, number=2):
    """Wait until the runs print; their handles, as the flow run shows them."""

    def begun():
        return prefect.log_text(run).count("line 1 of") == number

    prefect.wait_for(begun, lambda: prefect.log_text(run), 90)
    prefect.wait_for(lambda: not any("intent" in text for text in shown(prefect, run)), lambda: shown(prefect, run))
    handles = [re.search(r"```json\n(.*?)\n```", text) for text in shown(prefect, run)]
    assert len(handles) == number
    return [json.loads(found[1]) for found in handles]


def shown(prefect, run):
    """The texts of a flow run's artifacts."""
    return [artifact["description"] or artifact["data"] for artifact in prefect.artifacts(run)]


def are_ended(prefect, elsewhere):
    prefect.wait_for(lambda: not elsewhere.living(), lambda: f"there live {elsewhere.living()}", 60)


class TestARunElsewhere:
    def test_is_found_when_the_flow_run_of_a_killed_process_runs_again(self, prefect, elsewhere, serve, row):
        served = serve("killed_elsewhere", seconds=20)
        run = served.run()
        handles = at_work(prefect, run)
        os.kill(served.flow_process(run), signal.SIGKILL)
        prefect.wait_for_flow_run(run, "Crashed")
        prefect.retry(run)
        prefect.wait_for_flow_run(run, timeout=120)
        are_ended(prefect, elsewhere)
        row("KILL of the flow's process, then run again", handles, "Completed, attempt 1")
        assert "attached to attempt" in prefect.log_text(run)
        (handle,) = [handle for handle in handles if handle["backend"] == "kubernetes"]
        assert elsewhere.job(handle)["metadata"]["labels"]["mlproj/prefect-flow-run"] == run

    def test_is_ended_by_the_hook_of_a_cancelled_flow_run_whose_process_was_stopped(
        self, prefect, elsewhere, serve, row
    ):
        served = serve("hook_elsewhere_too", seconds=600, options="on_cancellation=[cancel_runs]")
        run = served.run()
        handles = at_work(prefect, run)
        os.kill(served.flow_process(run), signal.SIGSTOP)
        prefect.cancel(run)
        prefect.wait_for_flow_run(run, "Cancelled", timeout=90)
        are_ended(prefect, elsewhere)
        row("cancelled, its process stopped; on_cancellation", handles, "Cancelled")
        text = "2 of 2 runs were still at work, and were ended"
        prefect.wait_for(lambda: text in prefect.log_text(run), lambda: prefect.log_text(run))
        assert "warning" not in prefect.log_text(run)

    def test_is_found_by_the_hook_also_where_its_handle_was_never_shown(
        self, prefect, elsewhere, serve, record_property, tmp_path
    ):
        marker, before = tmp_path / "marker", {job["metadata"]["name"] for job in elsewhere.jobs()}
        served = serve(
            "intended", 600, ["kubernetes"], "on_crashed=[cancel_runs]", STAND_STILL.format(marker=str(marker))
        )
        run = served.run()
        prefect.wait_for(marker.exists, lambda: prefect.log_text(run))
        os.kill(served.flow_process(run), signal.SIGKILL)
        prefect.wait_for_flow_run(run, "Crashed")
        text = "1 of 1 runs were still at work, and were ended"
        prefect.wait_for(lambda: text in prefect.log_text(run), lambda: prefect.log_text(run))
        (job,) = [job for job in elsewhere.jobs() if job["metadata"]["name"] not in before]
        handle = {"backend": "kubernetes", "key": json.loads(job["metadata"]["annotations"]["mlproj/claim"])["key"]}
        cells = {
            "fault": "KILL of the flow's process, after the record; on_crashed, by its key",
            "road": "submitted",
            "mode": "kubernetes",
            "starts": elsewhere.starts(handle),
            "survivors": len(elsewhere.living()),
            "outcome": "Crashed",
        }
        record_property("table: Faults in Prefect: one run or none, and nothing left", cells)
        assert (cells["starts"], cells["survivors"]) == (0, 0)
