"""What a launcher is to do, as the JSON that it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What a launcher is to do.

    It may hold credentials (an index's URL in a requirement line): it belongs where secrets belong.

    Attributes:
        command: the entry point's rendered command, for `bash -c`, else `sh -c`.
        archive: the code's archive (tar), which is unpacked to `code` below the work directory; None if the image has
            the code.
        directory: where the image has the code; None if there is an archive. Exactly one of the two is given.
        environment: `{"manager", "recipe", …}` as `environments.portable_environment` makes it; None for that of the
            image.
        cache: a directory that outlives the pod and may be shared by many; None for none.
        downloads: what is fetched before the command runs, as `data.remote.Download.to_dict` gives it.
        work: a directory that can be written.
        termination_log: the file that the reason for a failure of the launcher's own goes to.
    """

    command: str
    archive: str | None = None
    directory: str | None = None
    environment: Mapping[str, Any] | None = field(default=None, repr=False)
    cache: str | None = None
    downloads: Sequence[Mapping[str, str]] = ()
    work: str = "/mlflow/projects"
    termination_log: str = "/dev/termination-log"

    def __post_init__(self) -> None:
        if (self.archive is None) == (self.directory is None):
            raise ValueError("a plan has either an archive or a directory of the code")

    def to_json(self) -> str:
        """This plan as text, for the file that the launcher reads."""
        code = {"archive": self.archive} if self.archive is not None else {"directory": self.directory}
        return json.dumps(
            {
                "version": 1,
                "work": self.work,
                "code": code,
                "environment": self.environment and dict(self.environment),
                "cache": self.cache,
                "command": self.command,
                "downloads": [dict(one) for one in self.downloads],
                "termination_log": self.termination_log,
            }
        )
