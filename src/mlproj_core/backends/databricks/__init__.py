"""Runs as one-time runs of Databricks' Jobs."""

from __future__ import annotations

from mlproj_core.backends.databricks.backend import DatabricksBackend

__all__ = ["DatabricksBackend"]
