"""What the tests of the Databricks backend share."""

from mlflow_world import mlflow_environment, mlflow_python, mlflow_server

__all__ = ["mlflow_environment", "mlflow_python", "mlflow_server"]
