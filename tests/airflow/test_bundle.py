"""A project in the DAG's own bundle is run at the version of the DAG run, whatever came into the bundle since."""

import json

import pytest
from airflow_world import AirflowWorld
from git_world import commit, git, published, repository
from rest import ApiError

DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow_mlproj import MLProjectOperator

with DAG("versioned"):
    wait = BashOperator(task_id="wait", bash_command="while [ ! -e {{ params.gate }} ]; do sleep 0.2; done")
    wait >> MLProjectOperator(task_id="train", uri="projects/p", env_manager="local")
"""

PROJECT = "entry_points:\n  main:\n    command: echo this is {word}\n"


@pytest.fixture
def work(tmp_path):
    return repository(
        tmp_path / "work",
        dag__versioned_dot_py=DAG.replace("{{ params.gate }}", str(tmp_path / "gate")),
        projects__p__MLproject=PROJECT.format(word="one"),
    )


@pytest.fixture
def airflow(airflow_installed, work, tmp_path):
    bundle = {
        "name": "code",
        "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
        "kwargs": {
            "repo_url": str(published(work, tmp_path / "code.git")),
            "tracking_ref": "main",
            "refresh_interval": 1,
        },
    }
    world = AirflowWorld(tmp_path / "world", config={"dag_processor": {"dag_bundle_config_list": json.dumps([bundle])}})
    yield world
    world.stop()


def test_a_relative_uri_is_run_at_the_version_of_the_dag_run(airflow, work, tmp_path):
    def version():
        try:
            return airflow.ask("GET", "dags", "versioned")["bundle_version"]
        except ApiError:
            return None

    first = airflow.wait_for(version, "the DAG is not known", 60)
    run = airflow.trigger("versioned")
    airflow.wait_for_task(run, "wait", "running")
    commit(work, projects__p__MLproject=PROJECT.format(word="two"))
    git("push", "-q", tmp_path / "code.git", "main", cwd=work)
    airflow.wait_for(lambda: version() != first, "the new version is not known", 60)
    (tmp_path / "gate").touch()
    airflow.wait_for_run(run, timeout=90)
    assert "this is one" in airflow.log(run, "train")
    after = airflow.trigger("versioned")
    airflow.wait_for_run(after, timeout=90)
    assert "this is two" in airflow.log(after, "train")
