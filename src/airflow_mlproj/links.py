"""Buttons on a task's page: the run in MLflow, and where it runs.

Airflow shows what it finds under each link's XCom key. The operator pushes that as soon as the run is submitted; at
the end of a task Airflow calls `get_link` itself and pushes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import BaseOperator

__all__ = ["LINKS", "BackendLink", "MLflowRunLink"]


class _PushedLink(BaseOperatorLink):
    """A link that the operator knows once its run is submitted."""

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        """The address, or an empty text if the run has no such page."""
        pages: Mapping[str, str] = getattr(operator, "pages", {})
        return pages.get(self.xcom_key, "")


class MLflowRunLink(_PushedLink):
    """The run's page in MLflow."""

    name = "MLflow run"
    xcom_key = "mlproj_mlflow_page"


class BackendLink(_PushedLink):
    """The run's page where it runs, such as a Databricks workspace."""

    name = "Backend"
    xcom_key = "mlproj_backend_page"


LINKS = (MLflowRunLink(), BackendLink())
