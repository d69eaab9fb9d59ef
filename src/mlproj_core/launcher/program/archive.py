"""The project's code, unpacked from an archive."""

from __future__ import annotations

import os
import shutil
import tarfile
import time

from mlproj_core.launcher.program.words import Failure, say


def unpack(archive: str, root: str) -> None:
    """Make an archive's entries files below a directory, and never anywhere else.

    Each directory on the way to a file is one that was made here, so that no name leads through a link; links are made
    last, and each is followed to its end.
    """
    began = time.monotonic()
    shutil.rmtree(root, ignore_errors=True)  # of an earlier start of this container
    made: dict[tuple[str, ...], str] = {}
    links: dict[tuple[str, ...], str] = {}

    def refuse(name: str, why: str) -> Failure:
        return Failure("source", f"the code's archive has an entry {name!r} that {why}")

    def parts_of(name: str) -> tuple[str, ...]:
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            raise refuse(name, "leads out of its root")
        return parts

    def directory(parts: tuple[str, ...], name: str) -> None:
        for depth in range(1, len(parts) + 1):
            kind = made.setdefault(parts[:depth], "new directory")
            if kind == "new directory":
                made[parts[:depth]] = "directory"
                os.makedirs(os.path.join(root, *parts[:depth]), exist_ok=True)
            elif kind != "directory":
                raise refuse(name, "lies below a file or a link")

    try:
        os.makedirs(root, exist_ok=True)
        with tarfile.open(archive, "r:*") as entries:
            for entry in entries:
                parts = parts_of(entry.name)
                if entry.isdir():
                    directory(parts, entry.name)
                    continue
                directory(parts[:-1], entry.name)
                if not parts or parts in made:
                    raise refuse(entry.name, "is there twice")
                if entry.issym():
                    made[parts], links[parts] = "link", entry.linkname
                    continue
                if entry.isfile():
                    source = entries.extractfile(entry)
                elif entry.islnk() and made.get(parts_of(entry.linkname)) == "file":
                    # As a copy: whoever writes to one of the two files does not write to the other.
                    source = open(os.path.join(root, *parts_of(entry.linkname)), "rb")  # noqa: SIM115
                else:
                    raise refuse(entry.name, "is no file, directory or link, or a link to no file before it")
                assert source is not None
                made[parts] = "file"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                mode = 0o777 if entry.mode & 0o100 else 0o666
                with source, open(os.open(os.path.join(root, *parts), flags, mode), "wb") as file:
                    shutil.copyfileobj(source, file)
        for parts, target in links.items():
            os.symlink(target, os.path.join(root, *parts))
        real = os.path.realpath(root)
        for parts, target in links.items():
            end = os.path.realpath(os.path.join(root, *parts))
            if os.path.isabs(target) or os.path.commonpath([real, end]) != real:
                raise refuse("/".join(parts), f"is a link to {target!r}, out of its root")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        shutil.rmtree(root, ignore_errors=True)
        words = f"the code cannot be unpacked from {archive} to {root}: {error}"
        raise Failure("source", words, retryable=isinstance(error, OSError)) from None
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    say(f"code: {sum(kind == 'file' for kind in made.values())} files in {root} ({time.monotonic() - began:.1f} s)")
