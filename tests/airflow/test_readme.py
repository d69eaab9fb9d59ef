"""The DAG that the README shows runs, as it stands there."""

import shutil

import readme


def test_the_dag_of_the_readme(airflow):
    (text,) = [text for kind, text in readme.blocks() if kind == "python" and "airflow_mlproj" in text]
    projects = airflow.dags / "projects"
    shutil.copytree(readme.ROOT / "example_flows" / "projects", projects, dirs_exist_ok=True)
    (dag_id,) = airflow.write_dag("readme", text)
    run = airflow.trigger(dag_id)
    airflow.wait_for_run(run, timeout=250)
    assert 0.9 < airflow.xcom(run, "train", "metrics")["cv_accuracy"] < 1
