"""MLflow Projects as native tasks of Airflow.

    from airflow_mlproj import MLProjectOperator

    MLProjectOperator(task_id="train", uri="projects/wine_quality", entry_point="train", parameters={"alpha": 0.5})

Everything here is imported when it is first used: a DAG processor imports this at every parse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from airflow_mlproj.hooks import MLflowHook
    from airflow_mlproj.operators import MLProjectOperator
    from airflow_mlproj.outcome import MLProjectFailed, MLProjectRefused
    from airflow_mlproj.params import mlproject_params
    from airflow_mlproj.sensors import MLProjectRunSensor
    from airflow_mlproj.triggers import MLProjectRunTrigger

__all__ = [
    "MLProjectFailed",
    "MLProjectOperator",
    "MLProjectRefused",
    "MLProjectRunSensor",
    "MLProjectRunTrigger",
    "MLflowHook",
    "mlproject_params",
]

_HOMES = {
    "hooks": ("MLflowHook",),
    "operators": ("MLProjectOperator",),
    "outcome": ("MLProjectFailed", "MLProjectRefused"),
    "params": ("mlproject_params",),
    "sensors": ("MLProjectRunSensor",),
    "triggers": ("MLProjectRunTrigger",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

_MINIMUM = (3, 3)


def _check_airflow() -> None:
    """Refuse an Airflow that lacks what the tasks rest on, such as its task state store."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("apache-airflow-core")
    except PackageNotFoundError:
        found = "none, or one before 3.0"
    else:
        if tuple(int(part) for part in found.split(".")[:2]) >= _MINIMUM:
            return
    raise ImportError(
        f"airflow_mlproj needs Airflow {'.'.join(map(str, _MINIMUM))} or later; found: {found}. "
        "Upgrade Airflow (pip install 'mlproj[airflow]'), or run the project with the command `mlproj run`."
    )


_check_airflow()


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        from importlib import import_module

        value = getattr(import_module(f"airflow_mlproj.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
