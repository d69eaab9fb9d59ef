"""The command of an entry point as the argv of a container."""

from __future__ import annotations

import re
import shlex

__all__ = ["container_argv"]

SHELL = 'command -v bash >/dev/null 2>&1 && exec bash -c "$0"; exec sh -c "$0"'
"""Runs its `$0` by the image's bash, or by its sh where there is none. MLflow runs commands by `bash -c`."""

_PLAIN = re.compile(
    r"""(?: [^\s\\'"$`;&|<>(){}*?\[\]~\#!]  # a character that means itself
        | [ \t]
        | \\[^\n]
        | '[^']*'
        | "(?: [^"\\$`] | \\["\\] )*"
    )*""",
    re.VERBOSE,
)
"""Text that a shell only splits into words, with quotes that `shlex` reads as bash does."""

OF_THE_SHELL = frozenset(
    """
    ! [[ ]] case coproc do done elif else esac fi for function if in select then time until while { }
    . : [ alias bg bind break builtin caller cd command compgen complete compopt continue declare dirs disown echo
    enable eval exec exit export false fc fg getopts hash help history jobs kill let local logout mapfile popd printf
    pushd pwd read readarray readonly return set shift shopt source suspend test times trap true type typeset ulimit
    umask unalias unset wait
    """.split()  # noqa: SIM905
)
"""What is no program when it is the first word: the keywords and builtins of bash."""


def container_argv(command: str) -> tuple[str, ...]:
    """What a container is to run for a rendered command.

    A command of plain words is run as it is, as `docker run IMAGE WORD…` does for MLflow: the image's ENTRYPOINT is
    honoured, and the image needs no shell. All else is given to a shell of the image. In doubt it is the shell.

    Args:
        command: the rendered command of an entry point.
    """
    if _PLAIN.fullmatch(command):
        words = shlex.split(command)
        if words and _is_a_program(words[0]):
            return tuple(words)
    return ("sh", "-c", SHELL, command)


def _is_a_program(word: str) -> bool:
    # An assignment has an equals sign; %1 is a job of the shell.
    return bool(word) and "=" not in word and not word.startswith("%") and word not in OF_THE_SHELL
