"""The project of the tests, and DAGs of its steps."""

import textwrap

import steps


class Steps(steps.Steps):
    """The project in the DAG bundle of a world."""

    def __init__(self, airflow):
        super().__init__(airflow.dags / "projects" / "steps", airflow.directory / "marks")
        self.airflow = airflow

    def dag(self, dag_id, *tasks, arguments="", imports=""):
        """Write a DAG of these lines of Python, in which `mark(NAME)` is a step's mark; its id."""
        body = "\n".join(textwrap.indent(textwrap.dedent(task).strip(), "    ") for task in tasks)
        self.airflow.write_dag(
            dag_id,
            f"""
from datetime import timedelta
from airflow.sdk import DAG, Asset, task
from airflow_mlproj import MLProjectOperator, MLProjectRunSensor, mlproject_params
{imports}

def mark(name):
    return {str(self.marks)!r} + "/" + name

STEP = dict(uri="projects/steps", env_manager="local", retry_delay=timedelta(seconds=1))

with DAG({dag_id!r}, {arguments}):
{body}
""",
        )
        return dag_id
