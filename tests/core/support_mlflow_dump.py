"""Answers what mlflow itself makes of a project. Run by the interpreter of an environment with mlflow, never imported.

One JSON object a line on standard input, one a line on standard output; mlflow takes seconds to import, so one process
answers for a whole test run. Values of YAML are told by their `repr`, so that 1, "1", 1.0 and True stay apart.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever mlflow prints must not stand among the answers
    import logging

    from mlflow.projects import _project_spec
    from mlflow.utils import PYTHON_VERSION
    from mlflow.utils.environment import _PythonEnv

    logging.disable(logging.CRITICAL)

    def outcome(make, *arguments):
        try:
            return make(*arguments)
        except Exception as error:
            return {"error": type(error).__name__, "message": str(error)}

    def environment(project):
        if project.env_type == "python_env" and project.env_config_path:
            made = _PythonEnv.from_yaml(project.env_config_path)
        elif project.env_type == "conda_env":
            made = _PythonEnv.from_conda_yaml(project.env_config_path)
        else:
            return None
        for requirements in (made.build_dependencies, made.dependencies):
            "\n".join(requirements)  # as mlflow does to write them into a requirements file
        return made.to_dict()

    def describe(project):
        job = project.databricks_spark_job_spec
        return {
            "name": None if project.name is None else str(project.name),
            "env_type": project.env_type,
            "env_config_path": project.env_config_path,
            "docker_env": repr(
                project.docker_env and {key: project.docker_env.get(key) for key in ("image", "volumes", "environment")}
            ),
            "databricks_spark_job": job and repr((job.python_file, job.parameters, job.python_libraries)),
            "environment": outcome(environment, project),
            "python": PYTHON_VERSION,
            "entry_points": [
                [
                    str(name),
                    repr(entry_point.command),
                    [[str(key), repr(p.type), repr(p.default)] for key, p in entry_point.parameters.items()],
                ]
                for name, entry_point in project._entry_points.items()
            ],
        }

    def run(project, wanted):
        entry_point = project.get_entry_point(wanted["entry_point"])
        params, extra = entry_point.compute_parameters(wanted["parameters"], storage_dir=None)
        return {
            "command": entry_point.compute_command(wanted["parameters"], wanted["storage_dir"]),
            "parameters": {**params, **extra},
        }

    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request.get("cwd", request["directory"]))
        try:
            project = _project_spec.load_project(request["directory"])
            answer = {
                "project": describe(project),
                "runs": [outcome(run, project, wanted) for wanted in request["runs"]],
            }
        except RecursionError:
            answer = {"project": {"error": "RecursionError", "message": ""}}
        except Exception as error:
            answer = {"project": {"error": type(error).__name__, "message": str(error)}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
