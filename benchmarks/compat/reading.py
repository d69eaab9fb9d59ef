"""What one program makes of a project that cannot be run here; run by the interpreter that has the program.

    PYTHON reading.py mlflow|mlproj DIRECTORY ENTRY_POINT PARAMETERS-AS-JSON

Prints one JSON object: the kind of the environment, the rendered command and the parameters; or the error.
"""

import json
import os
import sys


def by_mlflow(directory, entry_point, parameters):
    from mlflow.projects import _project_spec

    project = _project_spec.load_project(directory)
    chosen = project.get_entry_point(entry_point)
    declared, extra = chosen.compute_parameters(parameters, storage_dir=None)
    return {
        "environment": (project.env_type or "none").removesuffix("_env"),
        "command": chosen.compute_command(parameters, storage_dir=None),
        "parameters": {**declared, **extra},
    }


def by_mlproj(directory, entry_point, parameters):
    from mlproj_core.spec import load_project

    project = load_project(directory)
    bound = project.entry_point(entry_point).bind(parameters)
    return {
        "environment": project.environment_source.kind,
        "command": bound.command,
        "parameters": dict(bound.parameters),
    }


if __name__ == "__main__":
    program, directory, entry_point, parameters = sys.argv[1:]
    os.chdir(directory)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not stand in the answer
    try:
        made = {"mlflow": by_mlflow, "mlproj": by_mlproj}[program](directory, entry_point, json.loads(parameters))
    except Exception as error:
        made = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(made))
