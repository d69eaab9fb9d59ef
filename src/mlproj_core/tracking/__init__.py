"""Where runs are recorded: a tracking server by REST, any other store through mlflow, or nowhere."""

from __future__ import annotations

from mlproj_core.tracking.connect import connect
from mlproj_core.tracking.record import ATTEMPT_TAG, OUTCOME_TAG, REUSE_TAG, NewRun, RunRecord, Tracking
from mlproj_core.tracking.tags import local_user, system_tags
from mlproj_core.tracking.untracked import UNTRACKED_URI

__all__ = [
    "ATTEMPT_TAG",
    "OUTCOME_TAG",
    "REUSE_TAG",
    "UNTRACKED_URI",
    "NewRun",
    "RunRecord",
    "Tracking",
    "connect",
    "local_user",
    "system_tags",
]
