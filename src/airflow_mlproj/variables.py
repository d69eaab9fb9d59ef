"""This process's environment, changed for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

__all__ = ["changed_environment"]


@contextlib.contextmanager
def changed_environment(variables: Mapping[str, str], without: Iterable[str] = ()) -> Iterator[None]:
    """Set these variables, and unset those, until the end. A task has a process of its own: nobody else sees it.

    Args:
        variables: what to set.
        without: names of variables that must not be there meanwhile, but for those that are set.
    """
    before = {name: os.environ.pop(name, None) for name in {*variables, *without}}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
