"""What the Engine API is told of a run's container, as far as it is known before the image is."""

from __future__ import annotations

import json
from typing import Any

from mlproj_core.claim import Claim, Record
from mlproj_core.containers.arguments import DockerArguments
from mlproj_core.containers.body import merged
from mlproj_core.containers.command import container_argv
from mlproj_core.containers.inside import Inside
from mlproj_core.containers.mounts import placed_volumes

__all__ = ["asked_body"]


def asked_body(claim: Claim, record: Record, needs: Inside) -> dict[str, Any]:
    """The body of the container-create call, without image, variables and working directory.

    Args:
        claim: the run's.
        record: its MLflow run.
        needs: what tracking needs in the container.
    """
    asked = claim.request["container"]
    create: dict[str, Any] = {
        "Cmd": list(container_argv(claim.request["command"])),
        "Labels": _labels(claim, record),
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {"NetworkMode": "host"} if needs.host_network else {},
    }
    create = merged(merged(create, placed_volumes(needs.mounts)), placed_volumes(asked["volumes"]))
    return DockerArguments.from_dict(asked["arguments"]).merged_into(create)


def _labels(claim: Claim, record: Record) -> dict[str, str]:
    request = claim.request
    labels = {
        "mlproj.key": claim.tag.rpartition("-")[0],
        "mlproj.attempt": claim.tag,
        "mlproj.claim": json.dumps(claim.to_dict(), separators=(",", ":")),
        "mlproj.record": json.dumps(record.to_dict(), separators=(",", ":")),
        "mlproj.project": request.get("project") or "",
        "mlproj.entry_point": request.get("entry_point") or "",
        "mlproj.run_id": record.run_id,
        "mlproj.timeout": str(request["timeout"]) if request.get("timeout") is not None else "",
    }
    return {name: value for name, value in labels.items() if value}
