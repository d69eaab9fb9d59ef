"""The place of an environment, in a directory that many builders may share."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import threading
import time
import uuid

from mlproj_core.launcher.program.programs import content, remove, write
from mlproj_core.launcher.program.words import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


BEAT, STALE, FORGOTTEN = 2.0, 30.0, 3600.0
"""Seconds between a builder's signs of life; without one until it counts as dead, and until what it left is removed."""


class Slot:
    """The place of an environment, by the digest of all that decides its content.

        envs/KEY.json           names the one to use; written last, and at once
        envs/KEY/TOKEN/env      an environment, made here and never moved, since it knows its own path
        envs/KEY/TOKEN/beat     a sign of life of its builder
        envs/KEY/lock           names the builder that others wait for

    Every builder has a directory of its own, so that two of them harm nobody: the lock only spares work, and may be
    taken from one that shows no life. Signs of life are compared by their content, for the clocks of hosts differ and a
    network file system keeps a file's attributes for a while, but never its content beyond a close and an open.
    """

    def __init__(self, root: str, key: str) -> None:
        self.key = key
        self.token = uuid.uuid4().hex[:12]
        self.pointer = os.path.join(root, "envs", f"{key}.json")
        self.home = os.path.join(root, "envs", key)
        self.lock = os.path.join(self.home, "lock")
        self.mine = os.path.join(self.home, self.token)
        self.prefix = os.path.join(self.mine, "env")
        self.beat = os.path.join(self.mine, "beat")
        self.ended = threading.Event()

    def found(self) -> str | None:
        """The environment that is there."""
        try:
            prefix = os.path.join(self.home, str(json.loads(content(self.pointer))["token"]), "env")
        except (ValueError, KeyError, TypeError):
            return None
        return prefix if os.path.isdir(prefix) else None

    def fill(self, build: Callable[[str], None]) -> str:
        """The environment: the one that is there, or that another builder makes now, or one made here."""
        found = self.found() or self.wait()
        if found is not None:
            say(f"environment {self.key[:12]}: found ready in {os.path.dirname(os.path.dirname(self.home))}")
            return found
        os.makedirs(self.mine)
        write(self.beat, "0")
        beating = threading.Thread(target=self.show_life, daemon=True)
        beating.start()
        try:
            write(self.lock, self.token)
            self.sweep()
            began = time.monotonic()
            build(self.prefix)
            found = self.found()  # by another one at the same time
            if found is None:
                draft = f"{self.pointer}.{self.token}"
                write(draft, json.dumps({"version": 1, "token": self.token}))
                os.replace(draft, self.pointer)
                say(f"environment {self.key[:12]} is ready after {time.monotonic() - began:.1f} s")
                return self.prefix
            shutil.rmtree(self.mine, ignore_errors=True)
            return found
        except BaseException:
            shutil.rmtree(self.mine, ignore_errors=True)
            raise
        finally:
            self.ended.set()
            beating.join()
            if content(self.lock) == self.token:
                remove(self.lock)

    def wait(self) -> str | None:
        """Wait for a builder while it lives; what it made, or None when it is up to this one."""
        os.makedirs(self.home, exist_ok=True)
        seen, since, told = "", time.monotonic(), False
        while True:
            try:
                os.close(os.open(self.lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            except FileExistsError:
                pass
            else:
                if (found := self.found()) is not None:
                    remove(self.lock)
                return found
            holder = content(self.lock)
            life = f"{holder} {content(os.path.join(self.home, holder, 'beat'))}"
            if life != seen:
                seen, since = life, time.monotonic()
            elif time.monotonic() - since > STALE:
                say("the other builder shows no sign of life: going on without it")
                remove(self.lock)
                since = time.monotonic()
                continue
            if not told:
                say(f"environment {self.key[:12]}: waiting for another one that makes it")
                told = True
            time.sleep(0.2)
            if (found := self.found()) is not None:
                return found

    def show_life(self) -> None:
        """Count on, as long as this process lives and builds."""
        count = 0
        while not self.ended.wait(BEAT):
            count += 1
            with contextlib.suppress(OSError):
                write(self.beat, str(count))

    def sweep(self) -> None:
        """Remove what builders left here that died long ago, by the clock of the file system."""
        kept = self.found()
        with contextlib.suppress(OSError):
            now = os.stat(self.beat).st_mtime
            for beat in glob.glob(os.path.join(self.home, "*", "beat")):
                place = os.path.dirname(beat)
                if now - os.stat(beat).st_mtime > FORGOTTEN and (kept is None or os.path.dirname(kept) != place):
                    shutil.rmtree(place, ignore_errors=True)
