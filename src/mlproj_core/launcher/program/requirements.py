"""What requirement lines refer to in the project."""

from __future__ import annotations

import hashlib
import os
import re

from mlproj_core.launcher.program.programs import content
from mlproj_core.launcher.program.words import Failure, learn_secrets, without_credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


LOCAL_FILE = re.compile(r"^(-r|-c|--requirements?|--constraints?)(?:=|\s+|(?=\S))\s*([^\s#]+)")

REMOTE = re.compile(r"^(https?|ftp|s3|gs|hf|(git|hg|svn|bzr)(\+[a-z]+)?)(://|\+|@)", re.IGNORECASE)

EDITABLE = re.compile(r"^(-e|--editable)\b")

LOCAL_PACKAGE = re.compile(
    r"^(-e|--editable|-f|--find-links)\b(?!\s*=?\s*[a-z+]+://(?<!file://))|^(\.|/|~|file:)"
    r"|^[A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*@\s*(file:|\.|/)|^(?![^\s;]*://)[^\s;@]*(/|\.(whl|zip|tar\.gz)\b)"
)

LOCAL_SOURCE = re.compile(r"""\b(path|editable|directory)\s*=\s*["']|\bfile:|\bworkspace\s*=\s*true""")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


class Contents:
    """What requirement lines stand for: what of them and of the project's files decides an environment's content."""

    def __init__(self, code: str, environ: Mapping[str, str]) -> None:
        self.code = code
        self.environ = environ
        self.lines: list[str] = []
        self.editable = False
        self.local = False
        self.extra_indexes = False
        self._seen: set[str] = set()

    def read(self, lines: Iterable[str], base: str, origin: str) -> None:
        """Read lines, and the files that they refer to."""
        joined = "\n".join(lines).replace("\\\n", "")
        for line in (re.sub(r"(^|\s+)#.*$", "", one).strip() for one in joined.splitlines()):
            text = VARIABLE.sub(lambda match: self.environ.get(match[1], match[0]), line)
            learn_secrets([text])
            self.lines.append(without_credentials(text))
            reference = LOCAL_FILE.match(text)
            if reference and not REMOTE.match(reference[2]):
                path = os.path.join(base, reference[2])
                if path not in self._seen:
                    self._seen.add(path)
                    try:
                        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                            included = file.read().splitlines()
                    except OSError as error:
                        words = f"{origin} refers to {reference[2]}, but {path} cannot be read: {error.strerror}"
                        raise Failure("environment", words) from None
                    self.read(included, os.path.dirname(path), path)
            self.extra_indexes |= text.startswith(("--extra-index-url", "--index"))
            self.editable |= bool(EDITABLE.match(text))
            self.local |= bool(LOCAL_PACKAGE.match(text))

    def sync(self, name: str, is_script: bool) -> None:
        """A file that `uv sync` makes an environment of: of a script its inline metadata alone, and the lock file."""
        lock = f"{name}.lock" if is_script else os.path.join(os.path.dirname(name), "uv.lock")
        text, locked = (content(os.path.join(self.code, one)) for one in (name, lock))
        if is_script:
            block = re.search(r"(?m)^# /// script$\s(?:^#(?:| .*)$\s)+^# ///$", text)
            text = block[0] if block else text
        learn_secrets([text, locked])
        self.lines += [without_credentials(text), without_credentials(locked)]
        # A lock names all there is; without one the tables tool.uv.sources and the like do.
        self.local |= bool(re.search(LOCAL_SOURCE, locked or text))

    def file(self, *names: str) -> None:
        """Files of the project count, if they are there."""
        self.lines += [f"{name} {without_credentials(content(os.path.join(self.code, name)))}" for name in names]

    def digest_of_code(self) -> str:
        """All of the project's files."""
        digest = hashlib.sha256()
        for folder, folders, names in os.walk(self.code):
            folders[:] = sorted(set(folders) - {".git", "__pycache__", ".venv"})
            for path in sorted(os.path.join(folder, name) for name in names):
                digest.update(f"{os.path.relpath(path, self.code)}\n".encode(errors="surrogateescape"))
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        digest.update(hashlib.sha256(file.read()).digest())
        return digest.hexdigest()


def absolute(lines: Iterable[str], code: str, environ: Mapping[str, str]) -> str:
    """The lines for an installer that reads them from its standard input: files named by -r and -c by their paths."""

    def place(match: re.Match[str]) -> str:
        name = VARIABLE.sub(lambda variable: environ.get(variable[1], variable[0]), match[2])
        return f"{match[1]} {name if REMOTE.match(name) else os.path.join(code, name)}"

    return "".join(f"{LOCAL_FILE.sub(place, line)}\n" for line in lines)
