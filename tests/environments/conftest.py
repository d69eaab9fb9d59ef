"""A real tracking server for what projects bring with them."""

from mlflow_world import mlflow_environment as mlflow_environment
from mlflow_world import mlflow_python as mlflow_python
from mlflow_world import mlflow_server as mlflow_server
