"""Programs that are run to their end, and small files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque

from mlproj_core.launcher.program.words import Ended, redact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


GRACE = 5.0
"""Seconds that processes have to end which the project leaves behind."""


def run(
    command: Sequence[str], environ: Mapping[str, str], directory: str, given: str = "", answers: bool = False
) -> str:
    """Run a program to its end and pass on what it prints; its standard output if that is an answer.

    Raises:
        Ended: it ended without success.
    """
    last: deque[str] = deque(maxlen=30)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as answer:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=answer if answers else subprocess.PIPE,
            stderr=subprocess.PIPE if answers else subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        printed = process.stderr if answers else process.stdout
        assert process.stdin is not None
        assert printed is not None
        try:
            # By a pipe, not by a file or on the command line: it may hold a password.
            threading.Thread(target=feed, args=(process.stdin, given), daemon=True).start()
            with printed:
                for line in printed:
                    text = redact(line.rstrip())
                    if text:
                        last.append(text)
                        print(text, flush=True)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
                process.kill()
                process.wait()
        if status < 0:
            last.append(f"it was ended by {signal.Signals(-status).name}")
        if status != 0:
            raise Ended("\n".join(f"  {line}" for line in last))
        answer.seek(0)
        return answer.read()


def feed(pipe: Any, text: str) -> None:
    """Give a program its input."""
    with contextlib.suppress(OSError), pipe:
        pipe.write(text)


def ask(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """What a program answers; nothing if it fails. Nobody sees what else it says."""
    try:
        return subprocess.run(
            command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            check=True, timeout=60, encoding="utf-8", errors="replace",
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""


def content(path: str) -> str:
    """A file's text; nothing without it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write(path: str, text: str) -> None:
    """Write a file's text."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def remove(path: str) -> None:
    """Remove a file if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(path)
