"""The format of MLflow Projects: MLproject, python_env.yaml and conda.yaml, read into plain values."""

from __future__ import annotations

from mlproj_core.spec.check import check_project
from mlproj_core.spec.description import describe
from mlproj_core.spec.environment import CondaEnvSpec, DatabricksSparkJobSpec, DockerEnvSpec, PythonEnvSpec
from mlproj_core.spec.inline_script import InlineScriptSpec
from mlproj_core.spec.mlproject import load_project
from mlproj_core.spec.problem import Problem
from mlproj_core.spec.project import EntryPoint, EnvironmentSource, Parameter, Project
from mlproj_core.spec.uv_project import UvProjectSpec

__all__ = [
    "CondaEnvSpec",
    "DatabricksSparkJobSpec",
    "DockerEnvSpec",
    "EntryPoint",
    "EnvironmentSource",
    "InlineScriptSpec",
    "Parameter",
    "Problem",
    "Project",
    "PythonEnvSpec",
    "UvProjectSpec",
    "check_project",
    "describe",
    "load_project",
]
