"""A project for as long as it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlproj_core.report import Report
    from mlproj_core.sources import Checkout

__all__ = ["checked_out"]


@contextmanager
def checked_out(uri: str, version: str | None, report: Report) -> Iterator[Checkout]:
    """The files of the project at a URI; what was fetched for that is deleted again at the end."""
    from mlproj_core.sources import fetch
    from mlproj_core.sources.workspace import workspace

    with workspace() as into:
        yield fetch(uri, version, into=into, report=report)
