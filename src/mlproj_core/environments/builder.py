"""The installers at work on one environment, and the words for their failures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproj_core.errors import EnvironmentBuildError
from mlproj_core.status import Reason, ReasonCode

__all__ = ["Builder", "is_passing"]

_PASSING: Final = re.compile(
    r"error sending request|timed out|timeout|connection|dns error|temporar|No space left|Disk quota"
    r"|\b(429|500|502|503|504)\b",
    re.IGNORECASE,
)
_DISTRUST: Final = re.compile(r"certificate|UnknownIssuer|self.signed", re.IGNORECASE)
_TRUST: Final = {
    "uv": "uv trusts the certificates that come with it. To trust the system's as pip does, set UV_SYSTEM_CERTS=true; "
    "for a certificate of your own set `cert` in pip.conf, or SSL_CERT_FILE.",
    "pip": "For a certificate of your own set `cert` in pip.conf, or PIP_CERT.",
}


@dataclass(frozen=True)
class Builder:
    """Runs the installers that make one environment.

    Attributes:
        directory: where they run.
        secrets: what to mask in what they print.
        lock: the descriptor of the lock on the environment, which they inherit: it is held until they have ended too.
        report: is given each line of progress.
    """

    directory: Path
    secrets: Sequence[str]
    lock: int
    report: Callable[[str], None]

    def run(
        self,
        doing: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        program: str = "uv",
        given: str = "",
        answers: bool = True,
    ) -> list[str]:
        """Run an installer to its end.

        Args:
            doing: what it is to do, for the error.
            command: the program and its arguments, free of credentials.
            environment: every variable it gets.
            program: its name, for the error.
            given: text for its standard input.
            answers: whether its standard output is an answer; else it is reported.

        Returns:
            The lines of its answer.

        Raises:
            EnvironmentBuildError: it failed; with its own words.
        """
        from mlproj_core.environments.program import Failure, run_program

        try:
            return run_program(
                command,
                environment=environment,
                directory=self.directory,
                secrets=self.secrets,
                report=self.report,
                given=given,
                keep_open=(self.lock,),
                answers=answers,
            )
        except Failure as failure:
            raise _error(program, doing, failure.lines) from None


def is_passing(words: str) -> bool:
    """Whether an installer's words tell of a trouble that may be over at the next try."""
    return bool(_PASSING.search(words)) and not _DISTRUST.search(words)


def _error(program: str, doing: str, lines: tuple[str, ...]) -> EnvironmentBuildError:
    text = "\n".join(f"  {line}" for line in lines)
    message = f"{program} could not {doing}. Its last words:\n{text}"
    if _DISTRUST.search(text) and program in _TRUST:
        message += f"\n{_TRUST[program]}"
    return EnvironmentBuildError(message, reason=Reason(ReasonCode.ENVIRONMENT, message, retryable=is_passing(text)))
