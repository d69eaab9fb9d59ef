"""The client of one run's container: a process of its own, the only one of a run that speaks to the engine.

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlproj_core.backends.local.contained import AUTH, PREPARED, REMOVED, SECRET, VISIBLE
from mlproj_core.backends.local.directory import RunDirectory
from mlproj_core.backends.local.output import end_of_output
from mlproj_core.claim import Claim
from mlproj_core.containers.wire import EngineRefusal, Wire, open_wire
from mlproj_core.errand import perform, report_line
from mlproj_core.errors import ContactLost, ExecutionException, MlprojError
from mlproj_core.status import Reason, ReasonCode

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
    claim, prepared = directory.read("claim.json"), directory.read(PREPARED)
    assert claim is not None  # noqa: S101  # the supervisor has read it
    assert prepared is not None  # noqa: S101  # what starts a supervisor writes it first
    begin = end_of_output(str(directory.path / "output"))

    def tell(line: str) -> None:
        nonlocal begin
        report_line(f"[mlproj] {line}")
        begin += len(f"[mlproj] {line}\n".encode(errors="replace"))

    try:
        with open_wire(claim["request"]["container"]["engine"]) as wire:
            return ContainerRun(
                wire,
                directory,
                Claim.from_dict(claim),
                prepared,
                visible=_given(VISIBLE),
                secret=_given(SECRET),
                auth=json.loads(os.environ[AUTH]) if AUTH in os.environ else None,
                report=tell,
                begin=lambda: begin,
            ).through()
    except ContactLost as error:
        reason = Reason(ReasonCode.LOST, str(error), retryable=True)
        raise ExecutionException(str(error), reason=reason) from error


def _given(beginning: str) -> dict[str, str]:
    """The variables for the container that this process was given."""
    names = [name for name in os.environ if name.startswith(beginning)]
    return {name.removeprefix(beginning): os.environ[name] for name in names}


def end(directory: RunDirectory) -> dict[str, Any]:
    """End a run's container, if it is there and lives.

    Returns:
        What was found of it, if it had ended by itself; else nothing.
    """
    from mlproj_core.backends.local.container_end import found
    from mlproj_core.backends.local.container_files import bring_result

    container = _container(directory)
    with open_wire(container["engine"]) as wire:
        try:
            seen = _own(wire, directory, container["name"])
            if seen is None:
                return {}
            state = seen["State"]["Status"]
            if state in ("exited", "dead"):
                bring_result(wire, seen["Id"], directory.path / "result.json")
                return found(seen)
            if state == "created":
                wire.remove(seen["Id"])
                return {}
            if state == "paused":
                wire.unpause(seen["Id"])
            with suppress(EngineRefusal):  # it has ended this moment
                wire.kill(seen["Id"], "SIGKILL")
            wire.wait(seen["Id"], 30)
        except EngineRefusal as refusal:
            if not refusal.is_missing:
                raise ContactLost(f"The Docker engine refused to end {container['name']}: {refusal.said}") from refusal
    return {}


def remove(directory: RunDirectory) -> dict[str, Any]:
    """Remove a run's container with its anonymous volumes, if it is there."""
    container = _container(directory)
    with open_wire(container["engine"]) as wire:
        try:
            if (seen := _own(wire, directory, container["name"])) is not None:
                wire.remove(seen["Id"])
        except EngineRefusal as refusal:
            if not refusal.is_missing:
                raise ContactLost(f"The Docker engine did not remove {container['name']}: {refusal.said}") from refusal
    directory.write(REMOVED, {})
    return {}


def _container(directory: RunDirectory) -> dict[str, Any]:
    claim = directory.read("claim.json")
    if claim is None:
        raise ContactLost(f"{directory.path} has no claim that could be read")
    container: dict[str, Any] = claim["request"]["container"]
    return container


def _own(wire: Wire, directory: RunDirectory, name: str) -> Mapping[str, Any] | None:
    """What the engine knows of a run's container; None if there is none, or one of this name that is another's."""
    from mlproj_core.backends.local.container_end import CANCELLED

    claim = directory.read("claim.json") or {}
    for each in (name, name + CANCELLED):
        try:
            seen = wire.container(each)
        except EngineRefusal as refusal:
            if refusal.is_missing:
                continue
            raise
        label = json.loads((seen["Config"]["Labels"] or {}).get("mlproj.claim", "{}"))
        if label.get("created_at") == claim.get("created_at"):
            return seen
    return None


if __name__ == "__main__":
    sys.exit(main())
