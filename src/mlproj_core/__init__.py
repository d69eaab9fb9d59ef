"""Run MLflow Projects as durable steps of larger pipelines.

    from mlproj_core import run

    submitted = run("path/or/git-uri", parameters={"alpha": 0.5})
    print(submitted.result().metrics)

Everything here is imported when it is first used, so that `import mlproj_core` costs next to nothing: a DAG
processor does it at every parse.
"""

from __future__ import annotations

# Spelled out, since a supervisor, which imports this too, is spared a module by it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlproj_core.errors import ContactLost, ExecutionException, MlprojError, Superseded, UserError
    from mlproj_core.handle import RunHandle
    from mlproj_core.runner import run, submit
    from mlproj_core.runs import LocalSubmittedRun, RunResult, SubmittedRun, attach
    from mlproj_core.spec import EntryPoint, Project, load_project
    from mlproj_core.status import Reason, ReasonCode, RunStatus

__all__ = [
    "ContactLost",
    "EntryPoint",
    "ExecutionException",
    "LocalSubmittedRun",
    "MlprojError",
    "Project",
    "Reason",
    "ReasonCode",
    "RunHandle",
    "RunResult",
    "RunStatus",
    "SubmittedRun",
    "Superseded",
    "UserError",
    "attach",
    "load_project",
    "run",
    "submit",
]

_HOMES = {
    "errors": ("ContactLost", "ExecutionException", "MlprojError", "Superseded", "UserError"),
    "handle": ("RunHandle",),
    "runner": ("run", "submit"),
    "runs": ("LocalSubmittedRun", "RunResult", "SubmittedRun", "attach"),
    "spec": ("EntryPoint", "Project", "load_project"),
    "status": ("Reason", "ReasonCode", "RunStatus"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        from importlib import import_module

        value = getattr(import_module(f"mlproj_core.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
