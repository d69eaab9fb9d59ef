"""The process of a project or a builder: a fork of the supervisor that turns into a program.

Standard library only, and light: the supervisor holds this module in memory for as long as its run lasts.
"""

from __future__ import annotations

import ctypes
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["become"]

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def become(command: list[str], directory: str, variables: dict[str, str], output: int, parent: int) -> NoReturn:
    """Turn this fork into the program: no terminal, no input, no inherited descriptor, death with the supervisor.

    The supervisor's own standard input is /dev/null, and what else it has open is closed by `execvpe`, since nothing
    of it is inheritable.
    """
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(137)
        os.setsid()
        signal.set_wakeup_fd(-1)
        # What is ignored here stays ignored in the program: two signals by Python, others perhaps by the asker's shell.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(directory)
        os.execvpe(command[0], command, variables)
    except OSError as error:
        os.write(2, f"[mlproj] cannot run {command[0]!r} in {directory!r}: {error.strerror}\n".encode())
    finally:
        os._exit(127)
