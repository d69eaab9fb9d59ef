"""The client of one run's container: a process of its own, the only one of a run that loads the docker SDK.

`python -m mlproj_core.backends.local.container_client REQUEST RESULT` makes the container of a run and sees it to its
end; its output goes to standard output, by which the supervisor takes it. REQUEST is a file with the JSON object
`{"directory": …}`, a run directory; the variables for the container come by inheritance. RESULT becomes what
`container_end.found` gives, or an error (see `errand`). TERM ends the container.

`… end DIRECTORY` ends a container that has no client any more, `… remove DIRECTORY` removes it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlproj_core.backends.local.contained import AUTH, PREPARED, REMOVED, SECRET, VISIBLE
from mlproj_core.backends.local.directory import RunDirectory
from mlproj_core.backends.local.output import end_of_output
from mlproj_core.claim import Claim, Record
from mlproj_core.containers.engine import connect, in_contact
from mlproj_core.errand import perform, report_line
from mlproj_core.errors import ContactLost, MlprojError
from mlproj_core.status import ReasonCode

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """See to a run's container; 0 when that is done.

    Args:
        arguments: those of the command line when None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[0] in ("end", "remove"):
        try:
            answer = (end if given[0] == "end" else remove)(RunDirectory(Path(given[1])))
        except MlprojError as error:
            print(error, file=sys.stderr)  # noqa: T201  # this is a program
            return error.exit_code
        print(json.dumps(answer))  # noqa: T201
        return 0
    return perform(_run, ReasonCode.IMAGE, "the container could not be made", given)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    from mlproj_core.backends.local.container_run import ContainerRun

    directory = RunDirectory(Path(request["directory"]))
    claim, record, prepared = (directory.read(name) for name in ("claim.json", "record.json", PREPARED))
    assert claim is not None  # noqa: S101  # the supervisor has read it
    assert record is not None  # noqa: S101
    begin = end_of_output(str(directory.path / "output"))

    def tell(line: str) -> None:
        nonlocal begin
        report_line(f"[mlproj] {line}")
        begin += len(f"[mlproj] {line}\n".encode(errors="replace"))

    run = ContainerRun(
        directory,
        Claim.from_dict(claim),
        Record.from_dict(record),
        prepared or {},
        visible={name.removeprefix(VISIBLE): value for name, value in os.environ.items() if name.startswith(VISIBLE)},
        secret={name.removeprefix(SECRET): value for name, value in os.environ.items() if name.startswith(SECRET)},
        auth=json.loads(os.environ[AUTH]) if AUTH in os.environ else None,
        report=tell,
        begin=lambda: begin,
    )
    return run.through()


def end(directory: RunDirectory) -> dict[str, Any]:
    """End a run's container, if it is there and lives.

    Returns:
        What was found of it, if it had ended by itself; else nothing.
    """
    from docker.errors import APIError, NotFound

    from mlproj_core.backends.local.container_end import found
    from mlproj_core.backends.local.container_files import bring_result

    container = _container(directory)
    with connect(container["engine"]) as client, in_contact(container["engine"]):
        try:
            seen = _own(client, directory, container["name"])
            if seen is None:
                return {}
            if seen["State"]["Status"] in ("exited", "dead"):
                bring_result(client, seen["Id"], directory.path / "result.json")
                return found(seen)
            if seen["State"]["Status"] == "created":
                client.remove_container(seen["Id"], v=True, force=True)
                return {}
            with suppress(APIError):  # it has ended this moment
                client.kill(seen["Id"])
            client.wait(seen["Id"], timeout=30)
        except NotFound:
            return {}
    return {}


def remove(directory: RunDirectory) -> dict[str, Any]:
    """Remove a run's container with its anonymous volumes, if it is there."""
    from docker.errors import NotFound

    container = _container(directory)
    with connect(container["engine"]) as client, in_contact(container["engine"]), suppress(NotFound):
        if (seen := _own(client, directory, container["name"])) is not None:
            client.remove_container(seen["Id"], v=True, force=True)
    directory.write(REMOVED, {})
    return {}


def _container(directory: RunDirectory) -> dict[str, Any]:
    claim = directory.read("claim.json")
    if claim is None:
        raise ContactLost(f"{directory.path} has no claim that could be read")
    container: dict[str, Any] = claim["request"]["container"]
    return container


def _own(client: APIClient, directory: RunDirectory, name: str) -> dict[str, Any] | None:
    """What the engine knows of a run's container; None if there is none, or one of this name that is another's."""
    from docker.errors import NotFound

    from mlproj_core.backends.local.container_end import CANCELLED

    claim = directory.read("claim.json") or {}
    for each in (name, name + CANCELLED):
        with suppress(NotFound):
            seen: dict[str, Any] = client.inspect_container(each)
            label = json.loads((seen["Config"]["Labels"] or {}).get("mlproj.claim", "{}"))
            if label.get("created_at") == claim.get("created_at"):
                return seen
    return None


if __name__ == "__main__":
    sys.exit(main())
