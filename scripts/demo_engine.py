"""What the two engines of the demo have in common: an environment of their own, whose Python runs their programs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from rich.console import Console

__all__ = ["Engine", "key_metric"]

KEY_METRICS = ("train_rows", "cv_accuracy", "accuracy")
"""Of the metrics of a run the first of these is shown."""


class Engine:
    """An engine that has nothing but the demo to do.

    Args:
        python: the interpreter of an environment with the engine and mlproj.
        home: the directory with all that the engine writes.
        examples: the directory with the examples.
        log: the file to which everything that its programs print is added.
        console: where to show progress and results.
        variables: environment variables of its programs.
    """

    def __init__(
        self, python: Path, home: Path, examples: Path, log: Path, console: Console, variables: Mapping[str, str]
    ) -> None:
        self.python = python
        self.home = home
        self.examples = examples
        self.log = log
        self.console = console
        self.environ = {**os.environ, **variables}

    @contextlib.contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the environment's Python, killed if it has not ended by itself; then its runs end too."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [self.python, *arguments],
                cwd=self.home,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def fail(self, what: str) -> NoReturn:
        """End the demo."""
        self.console.print(f"{what}; its log is {self.log}, which ends:", style="bold red")
        tail = self.log.read_text(errors="replace").splitlines()[-40:]
        self.console.print("\n".join(tail), style="dim", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)


def key_metric(metrics: Mapping[str, object]) -> str:
    """The metric that says most of a run, as `NAME = VALUE`; empty if there is none."""
    return next((f"{name} = {float(str(metrics[name])):.4g}" for name in KEY_METRICS if name in metrics), "")
