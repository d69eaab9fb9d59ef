"""What Airflow is told of this package: the entry point `apache_airflow_provider`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

__all__ = ["get_provider_info"]


def get_provider_info() -> dict[str, Any]:
    """See Airflow's `provider_info.schema.json`."""
    return {
        "package-name": "mlproj",
        "name": "mlproj",
        "description": "MLflow Projects as native tasks.",
        "versions": [version("mlproj")],
        "integrations": [
            {
                "integration-name": "MLflow Projects",
                "external-doc-url": "https://mlflow.org/docs/latest/ml/projects/",
                "tags": ["software"],
            }
        ],
        "operators": [{"integration-name": "MLflow Projects", "python-modules": ["airflow_mlproj.operators"]}],
        "sensors": [{"integration-name": "MLflow Projects", "python-modules": ["airflow_mlproj.sensors"]}],
        "triggers": [{"integration-name": "MLflow Projects", "python-modules": ["airflow_mlproj.triggers"]}],
        "hooks": [{"integration-name": "MLflow Projects", "python-modules": ["airflow_mlproj.hooks"]}],
        "extra-links": ["airflow_mlproj.links.MLflowRunLink", "airflow_mlproj.links.BackendLink"],
        "task-decorators": [{"name": "mlproject", "class-name": "airflow_mlproj.decorators.mlproject_task"}],
        "connection-types": [
            {
                "connection-type": "mlflow",
                "hook-class-name": "airflow_mlproj.hooks.MLflowHook",
                "hook-name": "MLflow tracking server",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "port", "extra"],
                    "relabeling": {"host": "Tracking URI", "login": "User name"},
                    "placeholders": {"host": "https://mlflow.example.com"},
                },
                "conn-fields": {
                    "token": {
                        "label": "Token (instead of user name and password)",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                    "workspace": {"label": "Workspace", "schema": {"type": ["string", "null"]}},
                    "insecure_tls": {
                        "label": "Do not check the server's certificate",
                        "schema": {"type": ["boolean", "null"]},
                    },
                    "server_cert_path": {
                        "label": "File or directory of certificate authorities",
                        "schema": {"type": ["string", "null"]},
                    },
                    "client_cert_path": {
                        "label": "Client certificate (one PEM file with its key)",
                        "schema": {"type": ["string", "null"]},
                    },
                },
            }
        ],
        "config": {
            "mlproj": {
                "description": "Tasks that run MLflow Projects.",
                "options": {
                    "allowed_uris": _option(
                        "Where projects may come from: URIs, separated by spaces or lines. One that ends in ``/`` "
                        "allows everything below it. Empty allows everything. Projects in a DAG's own bundle may "
                        "always run.",
                        example="https://github.com/acme/ /srv/projects/",
                    ),
                    "max_local_runs": _option(
                        "How many projects may work at once as local processes of one host; more are queued. "
                        "0 sets no limit.",
                        kind="integer",
                        default="0",
                        example="4",
                    ),
                    "end_runs_of_marked_tasks": _option(
                        "Whether the API server ends the run of a task that is marked as failed or as a success, "
                        "beside the task's worker or triggerer. It must be able to reach the run's backend.",
                        kind="boolean",
                        default="False",
                        example="True",
                    ),
                    "deployment_id": _option(
                        "Names this Airflow in the keys of its runs, where the task state store is not to be used. "
                        "With it, a DAG run that is deleted and created anew under the same id finds the runs of "
                        "the old one.",
                        example="production-eu",
                    ),
                },
            }
        },
    }


def _option(description: str, *, kind: str = "string", default: str = "", example: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "default": default,
        "example": example,
    }
