"""The slots that runs with a limit on this host share: each is a lock on a file, freed by the kernel with its holder.

Standard library only, and light: a supervisor holds this module in memory for as long as its run lasts.
"""

from __future__ import annotations

import fcntl
import os
import time

__all__ = ["Slots"]

BLIND_INTERVAL = 0.5
"""Seconds between looks at the slots where the kernel gives no event."""

FIRST_PAUSE, LAST_PAUSE = 0.01, 1.0
"""Seconds to the first look again after a slot was closed, each next one after twice as long; and when to leave off."""

TICKET = "ticket-"
"""How the files begin that say who waits, and since when."""


class Slots:
    """The first N slots of a directory, of which a supervisor takes one and keeps it until its run is over.

    Who comes first is served first: whoever finds no slot free draws a ticket, a file beside the slots that is locked
    for as long as its owner waits and named by the time at which it was drawn, and a slot is taken by the owner of the
    oldest ticket alone. A ticket whose lock is free is a dead owner's.

    All who wait hear a file of the directory being closed, as a slot is when its holder ends, in whatever way, and a
    ticket when its owner waits no more. They keep the slots' files open themselves: to open one for a look and close it
    again would wake all of them, each other and themselves, for ever. (A file that was open for reading rings no bell.)

    Attributes:
        bell: descriptor that is readable when a slot may have become free; None while nobody listens or can.
    """

    def __init__(self, directory: str, number: int) -> None:
        """Use the slots 0 to `number` - 1 in this directory, which is made if need be."""
        os.makedirs(directory, mode=0o700, exist_ok=True)  # as in the supervisor: pathlib is too big
        self.directory = directory
        self.number = number
        self.bell: int | None = None
        self._files: list[int] = []
        self._taken: int | None = None
        self._ticket: tuple[str, int] | None = None
        self._pause: float | None = None

    def take(self) -> bool:
        """Take a slot if one is free, and nobody has waited for one longer."""
        if not self._is_first():
            return False
        for slot in range(self.number):
            if slot == len(self._files):
                name = f"{self.directory}/{slot}"
                self._files.append(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            try:
                fcntl.flock(self._files[slot], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            self._taken = self._files.pop(slot)
            self._close_others()
            self._give_up_ticket()
            return True
        return False

    def queue(self) -> None:
        """Draw a ticket, so that whoever comes later is served later; `take` and `leave` give it up."""
        # The clock is the kernel's, one for all processes; the tickets of a life of the host before this one are dead.
        name = f"{TICKET}{time.monotonic_ns():020d}-{os.getpid()}"
        # Under another name until it is locked: nobody may take it for a dead owner's.
        draft = f"{self.directory}/.{name}"
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(draft, f"{self.directory}/{name}")
        self._ticket = name, file

    def _is_first(self) -> bool:
        """Whether nobody else waits who came before; removes the tickets of the dead on the way."""
        own = self._ticket[0] if self._ticket is not None else None
        for name in sorted(os.listdir(self.directory)):
            if name == own:
                return True
            if name.startswith(TICKET) and self._waits(f"{self.directory}/{name}"):
                return False
        return True

    @staticmethod
    def _waits(ticket: str) -> bool:
        """Whether a ticket's owner is still there."""
        try:
            file = os.open(ticket, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # A shared lock, so that two who ask at once do not take each other for the owner.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.unlink(ticket)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        finally:
            os.close(file)
        return False

    def _give_up_ticket(self) -> None:
        if self._ticket is not None:
            name, file = self._ticket
            self._ticket = None
            try:
                os.unlink(f"{self.directory}/{name}")
            finally:
                os.close(file)  # which the others hear

    def listen(self) -> None:
        """Have the kernel tell when a slot is closed; look once more after this, for what was closed before."""
        from mlproj_core.backends.local import inotify

        self.bell = inotify.watched(self.directory, inotify.IN_CLOSE_WRITE)

    def hush(self) -> None:
        """Listen no more."""
        if self.bell is not None:
            os.close(self.bell)
            self.bell = None

    def hear(self) -> None:
        """Take in that the bell has rung."""
        from mlproj_core.backends.local import inotify

        if self.bell is not None:
            for _ in inotify.events(self.bell):
                pass
            self._pause = FIRST_PAUSE

    def pause(self) -> float | None:
        """Seconds after which to look at the slots again, even if the bell does not ring; None: not before it rings."""
        if self.bell is None:
            return BLIND_INTERVAL
        # Of a holder that was killed, the kernel closes the file first and frees the lock a moment later.
        pause = self._pause
        if pause is not None:
            self._pause = 2 * pause if pause < LAST_PAUSE else None
        return pause

    def leave(self) -> None:
        """Give back the slot, or wait for one no longer."""
        if self._taken is not None:
            fcntl.flock(self._taken, fcntl.LOCK_UN)  # before the close, which is what the others hear
            os.close(self._taken)
            self._taken = None
        self._close_others()
        self._give_up_ticket()

    def _close_others(self) -> None:
        while self._files:
            os.close(self._files.pop())
