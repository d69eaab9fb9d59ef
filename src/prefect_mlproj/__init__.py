"""MLflow Projects as tasks of Prefect flows.

from prefect import flow
from prefect_mlproj import run_project

@flow
def retraining() -> None:
    trained = run_project("https://github.com/me/project", entry_point="train", parameters={"alpha": 0.5})
    print(trained.metrics)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_mlproj.blocks import GitCredentials, MLflowCredentials, MLProject
    from prefect_mlproj.flows import ProjectFlow, project_flow
    from prefect_mlproj.hooks import cancel_runs
    from prefect_mlproj.results import ProjectResult
    from prefect_mlproj.runs import ProjectRun
    from prefect_mlproj.tasks import run_project, submit_project, wait_for_project

__all__ = [
    "GitCredentials",
    "MLProject",
    "MLflowCredentials",
    "ProjectFlow",
    "ProjectResult",
    "ProjectRun",
    "cancel_runs",
    "project_flow",
    "run_project",
    "submit_project",
    "wait_for_project",
]

_HOMES = {
    "blocks": ("GitCredentials", "MLProject", "MLflowCredentials"),
    "flows": ("ProjectFlow", "project_flow"),
    "hooks": ("cancel_runs",),
    "results": ("ProjectResult",),
    "runs": ("ProjectRun",),
    "tasks": ("run_project", "submit_project", "wait_for_project"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        from importlib import import_module

        value = getattr(import_module(f"prefect_mlproj.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
