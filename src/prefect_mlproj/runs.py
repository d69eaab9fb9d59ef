"""A run that a flow has submitted and does not wait for yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.blocks.abstract import JobRun
from pydantic import BaseModel, ConfigDict, PrivateAttr

from mlproj_core.runs import SubmittedRun, attach
from mlproj_core.status import RunStatus
from prefect_mlproj.access import Access
from prefect_mlproj.results import ProjectResult

__all__ = ["ProjectRun"]


class ProjectRun(BaseModel, JobRun[ProjectResult]):
    """A submitted run, in any process: pass it to another task, or keep it.

    In async code `wait_for_completion`, `fetch_result` and `cancel` are to be awaited; their twins
    `await_for_completion`, `afetch_result` and `acancel` always are.

    The credentials of blocks stay in the process that submitted the run: no result and no other process gets them.

    Attributes:
        handle: the run's handle, by which any process finds it again.
    """

    model_config = ConfigDict(frozen=True)

    handle: dict[str, Any]
    _access: Access = PrivateAttr(default_factory=Access)

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_access": Access()}}

    @property
    def run(self) -> SubmittedRun:
        """The run itself, with all that the core tells of it."""
        return attach(self.handle, self._say, self._access.backend(str(self.handle["backend"])))

    @property
    def run_id(self) -> str:
        """The MLflow run's id."""
        return str(self.handle["run_id"])

    def get_status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        with self._access.lent():
            return str(self.run.get_status())

    async def acancel(self) -> None:
        """As `cancel`, without blocking the event loop."""
        with self._access.lent():
            await self.run.cancel_async()

    @async_dispatch(acancel)
    def cancel(self) -> None:
        """End the run and wait until nothing is left of it; one that is over stays as it is."""
        with self._access.lent():
            self.run.cancel()

    async def await_for_completion(self) -> None:
        """As `wait_for_completion`, without blocking the event loop."""
        with self._access.lent():
            run = self.run
            async for line, _ in run.read_lines_async():
                self._log(line)
            await run.wait_async()
            await asyncio.to_thread(self._check, run)

    @async_dispatch(await_for_completion)
    def wait_for_completion(self) -> None:  # type: ignore[override]
        """Log the run's output until it is over.

        Raises:
            ExecutionException: it did not finish.
        """
        with self._access.lent():
            run = self.run
            for line, _ in run.read_lines(follow=True):
                self._log(line)
            run.wait()
            self._check(run)

    async def afetch_result(self) -> ProjectResult:
        """As `fetch_result`, without blocking the event loop."""
        with self._access.lent():
            return await asyncio.to_thread(ProjectResult.of, self.run)

    @async_dispatch(afetch_result)
    def fetch_result(self) -> ProjectResult:  # type: ignore[override]
        """What the run left.

        Raises:
            ExecutionException: it is not over, or did not finish.
        """
        with self._access.lent():
            return ProjectResult.of(self.run)

    @classmethod
    def of(cls, run: SubmittedRun, access: Access | None = None) -> ProjectRun:
        """A run of the core as one of Prefect.

        Args:
            run: the run.
            access: the blocks by which it is reached.
        """
        made = cls(handle=run.handle.to_dict())
        if access is not None:
            made._access = access
        return made

    @classmethod
    def handle_in(cls, value: ProjectRun | ProjectResult | Mapping[str, Any] | str) -> Mapping[str, Any] | str:
        """The handle in whatever names a run: a `ProjectRun`, a `ProjectResult`, a handle or its JSON text."""
        return value.handle if isinstance(value, (ProjectRun, ProjectResult)) else value

    def _check(self, run: SubmittedRun) -> None:
        if run.get_status() is not RunStatus.FINISHED:
            raise run.failure()

    def _say(self, line: str) -> None:
        self._log(f"[mlproj] {line}")

    def _log(self, line: str) -> None:
        (self.logger.warning if line.startswith("[mlproj] warning") else self.logger.info)(line)
