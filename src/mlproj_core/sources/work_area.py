"""The work area: where a checkout is made, so that nothing of it is left after an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["work_area"]


@contextmanager
def work_area(into: Path) -> Iterator[tuple[Path, Path]]:
    """A directory to check out into, removed after an error only, and one for notes, removed in any case."""
    into.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix="fetch-", dir=into))
    root = Path(mkdtemp(prefix="checkout-", dir=into))
    try:
        yield root, scratch
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
