"""Python interpreters on this host: which one a request such as "3.10" or "3.10.13" means.

Searched in this order: the running interpreter, PATH, pyenv's versions (also when inactive), the Pythons that uv
manages, common places, and what an earlier search found. A request that is not a version (`pypy3.9`, a path) is
uv's to understand; so are downloads.
"""

# A search tries hundreds of paths on the way to every run; as plain strings they cost a tenth.
# ruff: noqa: PTH111, PTH116, PTH118, PTH123, PTH208

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mlproj_core.environments.interpreter_facts import interpreter_facts
from mlproj_core.locations import cache_dir

__all__ = ["Interpreter", "Search", "fits", "is_version_or_range", "running"]

_VERSION: Final = re.compile(r"^\d+(\.\d+){0,2}$")
_CLAUSE: Final = re.compile(r"^(~=|==|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?$")
_COMMON_PLACES: Final = ("/usr/local/bin", "/usr/bin", "/opt/homebrew/bin")
_ASK_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter, never one of a virtual environment.

    Attributes:
        path: its real path, free of links.
        version: full version, as in "3.10.13".
        prerelease: whether it is an alpha, beta or release candidate.
        implementation: "cpython", "pypy", ….
        abi: suffix of its extension modules, as in ".cpython-310-x86_64-linux-gnu.so".
        machine: hardware it runs on, as in "x86_64".
        libc: C library and version, as in "glibc 2.31".
    """

    path: str
    version: str
    prerelease: bool
    implementation: str
    abi: str
    machine: str
    libc: str

    def identity(self) -> tuple[str, ...]:
        """Lines that differ when another interpreter stands at the same path."""
        stat = Path(self.path).stat()
        values = (f"{name} {value}" for name, value in asdict(self).items())
        return (*values, f"file {stat.st_size} {stat.st_mtime_ns}")


@functools.lru_cache(maxsize=1)
def running() -> Interpreter:
    """The interpreter that runs this code; of a virtual environment, the one it was made from."""
    return Interpreter(**interpreter_facts())  # type: ignore[no-untyped-call]


def fits(request: str, interpreter: Interpreter) -> bool:
    """Whether an interpreter is what a version ("3", "3.10", "3.10.13") or a range (">=3.9,<3.12") asks for."""
    have = tuple(map(int, interpreter.version.split(".")))
    if _VERSION.match(request):
        want = tuple(map(int, request.split(".")))
        return have[: len(want)] == want and interpreter.implementation == "cpython"
    if interpreter.prerelease:
        return False
    return all(_within(clause.strip(), have) for clause in request.split(","))


def is_version_or_range(request: str) -> bool:
    """Whether `fits` understands a request."""
    clauses = request.split(",")
    return bool(_VERSION.match(request)) or all(_CLAUSE.match(clause.strip()) for clause in clauses)


def _within(clause: str, have: tuple[int, ...]) -> bool:
    match = _CLAUSE.match(clause)
    if match is None:
        return False
    operator, digits, star = match.groups()
    want = tuple(map(int, digits.split(".")))
    padded = want + (0,) * (len(have) - len(want))
    return {
        "==": have[: len(want)] == want if star else have == padded,
        "!=": have[: len(want)] != want if star else have != padded,
        ">=": have >= padded,
        "<=": have <= padded,
        ">": have > padded,
        "<": have < padded,
        "~=": have >= padded and have[: len(want) - 1] == want[:-1],
    }[operator]


class Search:
    """One search for interpreters, over what is remembered of earlier ones.

    What an interpreter says of itself is remembered under its path, inode, size and time of change, so that a later
    search starts no process.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self._file = cache_dir() / "interpreters.json"
        self._known, self._answers = self._remembered()
        self._changed = False

    def without_asking(self, request: str | None) -> Interpreter | None:
        """The interpreter for a request, from memory alone.

        None when there is none, or when one that comes first in the search was never asked.
        """
        return self._search(request, may_ask=False)

    def asking(self, request: str | None) -> Interpreter | None:
        """The interpreter for a request; those that are not known yet are run to learn what they are."""
        try:
            return self._search(request, may_ask=True)
        finally:
            self._remember()

    def add(self, path: str, request: str) -> Interpreter | None:
        """Remember an interpreter found by other means as the answer to a request; None if it does not run."""
        interpreter = self._ask(path)
        if interpreter is not None and not is_version_or_range(request):
            self._answers[request] = interpreter.path
        self._remember()
        return interpreter

    def found(self) -> list[Interpreter]:
        """Every interpreter on this host that can be found, oldest version first, for people to read."""
        everything = {running().path: running()}
        for path in self._candidates(None):
            known, interpreter = self._recall(path)
            if not known:
                interpreter = self._ask(path)
            if interpreter is not None:
                everything[interpreter.path] = interpreter
        self._remember()
        return sorted(everything.values(), key=lambda one: tuple(map(int, one.version.split("."))))

    def _search(self, request: str | None, *, may_ask: bool) -> Interpreter | None:
        here = running()
        if request is None:
            return here
        if not is_version_or_range(request):
            answer = self._answers.get(request)
            return self._recall(answer)[1] if answer else None
        if fits(request, here) and self._preferred(here.path):
            return here
        for path in self._candidates(request):
            known, interpreter = self._recall(path)
            if not known:
                if not may_ask:
                    return None
                interpreter = self._ask(path)
            if interpreter is not None and fits(request, interpreter):
                return interpreter
        return None

    def _candidates(self, request: str | None) -> Iterator[str]:
        """Real paths of executables that may be what is asked for, in the order of the search, each once.

        Scripts are left out: what a shim such as pyenv's starts depends on the directory and the moment.
        """
        seen: set[str] = set()
        for path in self._places(request):
            try:
                real = os.path.realpath(path, strict=True)
            except OSError:
                continue
            if real not in seen:
                seen.add(real)
                if os.access(real, os.X_OK) and self._preferred(real) and not _is_script(real):
                    yield real

    def _places(self, request: str | None) -> Iterator[str]:
        want = tuple(request.split(".")) if request and _VERSION.match(request) else ()
        names = ["python3", "python"]
        if len(want) > 1:
            names.insert(0, f"python{want[0]}.{want[1]}")
        path = self.environ.get("PATH", os.defpath).split(os.pathsep)
        for folder in [place for place in path if place]:
            for name in names:
                yield os.path.join(folder, name)
            if len(want) < 2:
                yield from _versioned(folder)
        roots = [self.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv")]
        for root in filter(None, roots):
            yield from _installed(os.path.join(root, "versions"), want)
        yield from _installed(str(self._managed()), want)
        for folder in _COMMON_PLACES:
            yield from (os.path.join(folder, name) for name in names)
        yield from self._known

    def _managed(self) -> Path:
        """Where uv keeps the Pythons it downloads (uv's documentation, "Storage")."""
        if own := self.environ.get("UV_PYTHON_INSTALL_DIR"):
            return Path(own).absolute()
        data = self.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        return Path(data) / "uv" / "python"

    def _preferred(self, path: str) -> bool:
        """Whether uv's own settings let this interpreter be used at all."""
        preference = self.environ.get("UV_PYTHON_PREFERENCE", "")
        managed = Path(path).is_relative_to(self._managed())
        if preference == "only-managed" or _truthy(self.environ.get("UV_MANAGED_PYTHON")):
            return managed
        if preference == "only-system" or _truthy(self.environ.get("UV_NO_MANAGED_PYTHON")):
            return not managed
        return True

    def _ask(self, path: str) -> Interpreter | None:
        """Run an interpreter to learn what it is; None when it does not run."""
        import subprocess

        before = _fingerprint(path)
        clean = {k: v for k, v in self.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}
        interpreter = None
        try:
            answer = subprocess.run(
                [path, "-E", "-s", interpreter_facts.__code__.co_filename],
                env=clean,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ASK_SECONDS,
                check=True,
            )
            interpreter = Interpreter(**json.loads(answer.stdout))
        except (OSError, ValueError, TypeError, subprocess.SubprocessError):
            self._known[path] = {"stat": before, "is": None}
        else:
            for name in {path, interpreter.path}:
                self._known[name] = {"stat": _fingerprint(name), "is": asdict(interpreter)}
        self._changed = True
        return interpreter

    def _recall(self, path: str) -> tuple[bool, Interpreter | None]:
        """Whether an executable is known and unchanged, and the interpreter that it is; None when it is none."""
        entry = self._known.get(path)
        if entry is None or entry.get("stat") != _fingerprint(path):
            return False, None
        if not entry["is"]:
            return True, None
        interpreter = Interpreter(**entry["is"])
        if interpreter.path != path:
            target = self._known.get(interpreter.path, {})
            if target.get("stat") != _fingerprint(interpreter.path):
                return False, None
        return True, interpreter

    def _remembered(self) -> tuple[dict[str, Any], dict[str, str]]:
        try:
            memory = json.loads(self._file.read_text(encoding="utf-8"))
            return dict(memory["known"]), dict(memory["answers"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}, {}

    def _remember(self) -> None:
        """Write what was learned, on top of what others may have written meanwhile. Only speed is at stake."""
        if not self._changed:
            return
        known, answers = self._remembered()
        known.update(self._known)
        answers.update(self._answers)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        draft.write_text(json.dumps({"known": known, "answers": answers}), encoding="utf-8")
        draft.replace(self._file)
        self._changed = False


def _fingerprint(path: str) -> list[int] | None:
    """What changes when the file at a path is replaced; None when there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


def _versioned(folder: str) -> Iterator[str]:
    """Executables named python3.N in a directory, newest first."""
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(r"python3\.\d+", name)]
    except OSError:
        return
    for name in sorted(names, key=lambda name: int(name.rpartition(".")[2]), reverse=True):
        yield os.path.join(folder, name)


def _installed(folder: str, want: tuple[str, ...]) -> Iterator[str]:
    """Interpreters below a directory that has one subdirectory for each version, newest first.

    The names are those of pyenv ("3.10.13") and uv ("cpython-3.10.13-linux-x86_64-gnu").
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return
    versions = []
    for name in names:
        match = re.match(r"^(?:cpython-)?(\d+)\.(\d+)\.(\d+)\b", name)
        if match and match.groups()[: len(want)] == want:
            versions.append((tuple(map(int, match.groups())), name))
    for _, name in sorted(versions, reverse=True):
        yield os.path.join(folder, name, "bin", "python")


def _truthy(value: str | None) -> bool:
    return (value or "").strip().lower() in ("1", "true", "yes", "on")
