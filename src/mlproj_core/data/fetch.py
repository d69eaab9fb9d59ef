"""Fetching a run's data in a process of its own, an errand: `python -m mlproj_core.data.fetch REQUEST RESULT`.

REQUEST is a file with the JSON object `{"downloads": [{"parameter", "uri", "path"}, …], "tracking_uri"}`, RESULT
becomes `{"data": [{"parameter", "path", "files", "bytes"}, …]}` or an error (see `errand`). Credentials come by
inheritance.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from mlproj_core.data.content import Item, Store, failure
from mlproj_core.data.download import FULL, check_room, fetched, patiently
from mlproj_core.data.progress import Progress, amount
from mlproj_core.data.remote import TRACKED, Download, fault, missing_library, without_query
from mlproj_core.errand import perform, report_line
from mlproj_core.status import ReasonCode
from mlproj_core.tracking.uris import without_credentials

__all__ = ["fetch", "main", "open_store"]

AT_ONCE = 8
"""Files of a directory that are fetched at the same time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what the request asks for; 0 when it is there, 2 for a user's mistake, 1 for any other failure.

    Args:
        arguments: path of the request, path for the result; those of the command line when None.
    """

    def work(request: dict[str, Any]) -> dict[str, Any]:
        tracking_uri = request["tracking_uri"]
        return {"data": [fetch(Download(**each), report_line, tracking_uri) for each in request["downloads"]]}

    return perform(work, ReasonCode.DATA, "The data could not be fetched", arguments)


def fetch(download: Download, report: Callable[[str], None], tracking_uri: str | None = None) -> dict[str, Any]:
    """Bring a file or a directory to its path: as a whole, or not at all.

    Args:
        download: what, and where to. Its path is alone in its directory, which is cleared first.
        report: is told of what is done, and how far it is.
        tracking_uri: where runs and models are looked up, without credentials; by default as in `connect`.

    Returns:
        The parameter, the path, and how many files and bytes are there.

    Raises:
        DataError: it cannot be had.
    """
    progress = Progress(f"parameter {download.parameter!r}", report)
    progress.say(f"fetching {without_query(download.uri)}")
    final = Path(download.path)
    home = final.parent
    draft = home.with_name(f"{home.name}.part")
    for left in (home, draft):  # by an earlier try
        _clear(left)
    home.mkdir(parents=True)
    try:
        store = patiently(lambda: open_store(download.uri, tracking_uri), progress)
        items = patiently(store.items, progress)
        for item in items:
            progress.expect(item.size)
        count, size = _bring(items, store, draft, progress)
        draft.rename(final)
    except BaseException:
        progress.stop()
        for left in (home, draft):
            _clear(left)
        with contextlib.suppress(OSError):  # other parameters' data is there
            home.parent.rmdir()
        raise
    old = f", {amount(size - count)} from the cache" if size > count else ""
    files = "1 file" if len(items) == 1 else f"{len(items)} files"
    progress.say(f"{files}, {progress.summary()}{old}: {final}")
    return {"parameter": download.parameter, "path": str(final), "files": len(items), "bytes": size}


def open_store(uri: str, tracking_uri: str | None = None) -> Store:
    """The store that a URI names; see `fetch`.

    Raises:
        DataError: it cannot be used.
        Passing: not now.
    """
    if (why := fault(uri) or missing_library(uri)) is not None:
        # A store that a tracking server names may have a password in its URI, and is refused for that.
        raise failure(f"{without_credentials(without_query(uri))[0]} {why}.")
    scheme = urlsplit(uri).scheme
    uri = scheme + uri[len(scheme) :]  # in lower case
    if scheme in TRACKED:
        from mlproj_core.data.artifacts import artifact_store

        return artifact_store(uri, tracking_uri, open_store)
    if scheme in ("http", "https"):
        from mlproj_core.data.web import web_file

        return web_file(uri)
    if scheme == "dbfs":
        from mlproj_core.data.dbfs import dbfs_store

        return dbfs_store(urlsplit(uri).path)
    from mlproj_core.data.buckets import bucket_store

    return bucket_store(uri)


def _bring(items: Sequence[Item], store: Store, draft: Path, progress: Progress) -> tuple[int, int]:
    """Put the files where they are wanted; bytes that were fetched, and bytes in all."""
    if len(items) == 1 and not items[0].name:
        return _bring_one(items[0], store, draft, progress)
    places = [draft / item.name for item in items]
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise failure(
                f"{place.parent.name!r} is a file and a directory in the store, which no disk can hold."
            ) from None
    if clash := set(places) & {parent for place in places for parent in place.parents}:
        raise failure(f"{clash.pop().name!r} is a file and a directory in the store, which no disk can hold.")
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        tasks = [
            pool.submit(_bring_one, item, store, place, progress) for item, place in zip(items, places, strict=True)
        ]
        wait(tasks, return_when=FIRST_EXCEPTION)
        # The first that failed by itself tells why; those that were stopped for it do not.
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error
        done = [task.result() for task in tasks]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return sum(count for count, _ in done), sum(size for _, size in done)


def _bring_one(item: Item, store: Store, place: Path, progress: Progress) -> tuple[int, int]:
    if item.local is not None:
        with item.local.open("rb") as original:
            size = _copy(original, place)
        progress.advance(size)
        return size, size
    file, is_new = fetched(item, store, progress)
    with file:
        size = _copy(file, place)
    if not is_new:
        progress.advance(size, fetched=False)
    return size if is_new else 0, size


def _copy(file: BinaryIO, place: Path) -> int:
    """Copy an open file; where the file system can, the two share their blocks until one is written to."""
    size = os.fstat(file.fileno()).st_size
    check_room(place.parent, size, place.name)
    try:
        with place.open("xb") as copy:
            left = size
            try:
                while left and (count := os.copy_file_range(file.fileno(), copy.fileno(), left)):
                    left -= count
            except OSError as error:
                if error.errno in FULL:
                    raise
            if left:  # two file systems, or one that cannot do it
                shutil.copyfileobj(file, copy, 1 << 20)
    except OSError as error:
        if error.errno in FULL:
            check_room(place.parent, size, place.name)
        raise
    return size


def _clear(place: Path) -> None:
    if place.is_file():
        place.unlink()
    for _ in range(10):  # threads that have not heard of the end yet may still put a file there
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return
    shutil.rmtree(place)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Threads may wait for a server that says nothing: nobody waits for them.
    os._exit(status)
