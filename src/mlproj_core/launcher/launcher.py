"""Runs a project where nothing of mlproj is installed, a pod for one: `python3 -I launcher.py PLAN`.

One file, standard library only, Python 3.8 and up; it is sent as text. PLAN is a file with the JSON of
`mlproj_core.launcher.plan.Plan`. The course: unpack the code, make the environment, fetch data, become the entry point.

Two processes share the work. The first one stays what a container's init must be: it passes signals on, asks for the
end of every orphan, and exits with the code of the second. The second one does all the rest, and becomes the project.
What this file itself cannot do ends it with code 70, and the reason in the termination log. Of the project's process
nothing is written there but what it writes itself.
"""

from __future__ import annotations

import configparser
import contextlib
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import FrameType
    from typing import Any, NoReturn

FAILED = 70
"""Exit code of a failure that is the launcher's own (EX_SOFTWARE of sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 5.0
"""Seconds that processes have to end which the project leaves behind."""

BEAT, STALE, FORGOTTEN = 2.0, 30.0, 3600.0
"""Seconds between a builder's signs of life; without one until it counts as dead, and until what it left is removed."""

LONGEST_REASON = 4000
"""Bytes: Kubernetes keeps the first 4096 of a termination log."""

BUILD_IMAGE = (
    "A pod without a way to a package index needs one (PIP_INDEX_URL, UV_DEFAULT_INDEX, HTTPS_PROXY), or an image "
    "that has the environment already (`mlproj build-image`)."
)


class Failure(Exception):
    """The project cannot be run: a code of `mlproj_core.status.ReasonCode`, a message, whether a retry can help."""

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class Stopped(BaseException):
    """A signal asks for the end before the project has begun."""


class Ended(Exception):
    """A program ended without success; its last lines."""


def main(arguments: list[str]) -> int:
    """Run the plan; the exit code of the entry point, 128 + n if the signal n ended it, or `FAILED`."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to this process, also where it is not the init
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    worker = os.fork()
    if worker == 0:
        work(arguments[0])
    return attend(worker)


# -- the first process


def attend(worker: int) -> int:
    """See the worker, and all that comes of it, to the end."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(worker, number)
            except ProcessLookupError:  # it has no group of its own yet
                os.kill(worker, number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    status = None
    while status is None:
        pid, ended = os.waitpid(-1, 0)
        if pid == worker:
            status = ended
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        until = time.monotonic() + seconds
        while left := descendants():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if time.monotonic() > until:
                break
            time.sleep(0.02)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def descendants() -> list[int]:
    """The processes that come of this one. Those that somebody executes in the container do not."""
    children: dict[int, list[int]] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(path, "rb") as file:
                text = file.read()
            # The name in the second field may hold anything.
            children.setdefault(int(text.rpartition(b")")[2].split()[1]), []).append(int(text.split()[0]))
    found, new = [], [os.getpid()]
    while new:
        new = [child for pid in new for child in children.get(pid, ())]
        found += new
    return found


def prctl(option: int, value: int) -> None:
    """Ask the kernel; a Python without ctypes does without."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# -- the second process


def work(plan_path: str) -> NoReturn:
    """Do all that comes before the project, and become it."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    os.setsid()
    for number in SIGNALS:
        signal.signal(number, stop)
    log, status = "/dev/termination-log", FAILED
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            with open(plan_path, encoding="utf-8") as file:
                plan = json.load(file)
            log = plan["termination_log"]
            launch(plan)
        except OSError as error:
            raise Failure("lost", f"the launcher failed: {error}", retryable=True) from None
        except (KeyError, ValueError) as error:
            raise Failure("lost", f"{plan_path} is no plan that this launcher can read: {error!r}") from None
    except Stopped as stopped:
        number = stopped.args[0]
        say(f"ended by {signal.Signals(number).name} before the project was started")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    except Failure as failure:
        report(failure, log)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        report(Failure("lost", f"the launcher failed: {error!r}", retryable=True), log)
    sys.stdout.flush()
    os._exit(status)


def stop(number: int, _frame: FrameType | None) -> None:
    """Turn the first signal into an exception; further ones must not cut the clearing up short."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def report(failure: Failure, log: str) -> None:
    """Say why there is no run, to people and in the termination log."""
    say(f"FAILED: {failure} ({failure.code})")
    message = str(failure)
    while True:
        error = {"code": failure.code, "message": message, "retryable": failure.retryable}
        text = json.dumps({"mlproj": {"error": error}})
        if len(text) <= LONGEST_REASON:
            break
        half = len(message) * 2 // 5
        message = f"{message[:half]} … {message[-half:]}"
    with contextlib.suppress(OSError), open(log, "w", encoding="ascii") as file:
        file.write(text)


def launch(plan: Mapping[str, Any]) -> NoReturn:
    """Carry out a plan."""
    if plan["version"] != 1:
        raise Failure("lost", f"the plan has version {plan['version']}, and this launcher knows version 1 only")
    place = os.path.abspath(plan["work"])
    environ = surroundings(place)
    os.environ.clear()
    os.environ.update(environ)
    code = plan["code"].get("directory")
    if code is None:
        code = os.path.join(place, "code")
        unpack(plan["code"]["archive"], code)
    elif not os.path.isdir(code):
        raise Failure("source", f"the image has no directory {code}, where the project's code should be")
    wanted = plan.get("environment") or {"manager": "local"}
    activation = None
    if wanted["manager"] == "local":
        say("environment: local, that of the image")
    else:
        try:
            environ, activation = Maker(wanted, code, place, plan.get("cache")).environment()
        except OSError as error:
            raise Failure("environment", f"the environment could not be made: {error}", retryable=True) from None
    for download in plan.get("downloads", ()):
        try:
            fetch(download["parameter"], download["uri"], download["path"], environ)
        except OSError as error:
            words = f"parameter {download['parameter']!r}: {bare(download['uri'])} could not be fetched: {error}"
            raise Failure("data", words, retryable=True) from None
    become(plan["command"], code, environ, activation)


def surroundings(place: str) -> dict[str, str]:
    """The variables, with a home and a place for temporary files that can be written.

    A container may run as a user that nobody has heard of, and on a file system that cannot be written.
    """
    environ = dict(os.environ)
    try:
        os.makedirs(place, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise Failure(
            "environment",
            f"the work directory cannot be written by user {os.getuid()}: {error}. Mount a volume there (emptyDir).",
        ) from None
    for name, usual in (("HOME", ""), ("TMPDIR", "/tmp")):
        chosen = environ.get(name) or usual
        if not chosen or chosen == "/" or not os.access(chosen, os.W_OK | os.X_OK):
            environ[name] = os.path.join(place, name.lower())
            os.makedirs(environ[name], mode=0o700, exist_ok=True)
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # getpass.getuser() is asked by many libraries, and needs one of these then
        if not any(environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            environ["LOGNAME"] = environ["USER"] = f"uid-{os.getuid()}"
    return environ


def become(command: str, directory: str, environ: Mapping[str, str], activation: str | None) -> NoReturn:
    """Turn this process into the entry point's command: by bash, else by sh, else by itself if it needs no shell."""
    path = environ.get("PATH", os.defpath)
    shell = shutil.which("bash", path=path) or shutil.which("sh", path=path)
    if shell is not None and activation is not None:
        argv = [shell, "-c", '. "$0"; exec "$2" -c "$1"', activation, command, shell]
    elif shell is not None:
        argv = [shell, "-c", command]
    elif activation is None and not set(command) & set("$`\\;&|<>(){}*?[]~#!\n"):
        argv = shlex.split(command)
    else:
        raise Failure("image", "the image has neither bash nor sh, and the entry point's command needs a shell")
    sys.stdout.flush()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # A handler goes with this program, but what is ignored stays ignored.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(directory)
        os.execvpe(argv[0], argv, dict(environ))
    except OSError as error:
        raise Failure("project_code", f"{argv[0]!r} cannot be run in {directory}: {error.strerror}") from None


def say(line: str) -> None:
    """A line of progress of the launcher's own."""
    print(f"[mlproj] {redact(line)}", flush=True)


# -- the code


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


# -- programs, and what they say

USERINFO = re.compile(r"(?<=://)([^/?#\s'\"<>]*)@")
TOKEN = re.compile(r"(?<=/t/)[^/\s]+(?=/)")  # of conda's channels
PASSING = re.compile(
    r"error sending request|timed out|timeout|connection|dns error|temporar|No space left|Disk quota"
    r"|\b(429|500|502|503|504)\b",
    re.IGNORECASE,
)
OUT_OF_REACH = re.compile(
    r"dns error|name resolution|Name or service not known|unreachable|Failed to establish a new connection"
    r"|error sending request|Connection refused",
    re.IGNORECASE,
)
secrets: list[str] = []
"""What is masked wherever it stands."""


def without_credentials(text: str) -> str:
    """The text without users, passwords and tokens in URLs."""
    return TOKEN.sub("", USERINFO.sub("", text))


def redact(text: str) -> str:
    """The text with credentials masked."""
    text = TOKEN.sub("***", USERINFO.sub("***@", text))
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def learn_secrets(texts: Iterable[str]) -> None:
    """Note the passwords in the URLs of some texts."""
    from urllib.parse import unquote

    for userinfo in [found for text in texts for found in USERINFO.findall(text)]:
        user, _, password = userinfo.partition(":")
        secret = password or ("" if user == "git" else user)
        secrets.extend(one for one in {secret, unquote(secret)} if len(one) > 3 and one not in secrets)
    secrets.sort(key=len, reverse=True)


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


# -- the places of environments


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


# -- Python

FACTS = r"""
import glob, json, os, sys, sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (ValueError, OSError):
    libc = ""
wheels = []
try:
    import ensurepip
    places = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), sysconfig.get_config_var("WHEEL_PKG_DIR")]
    for place in filter(None, places + ["/usr/share/python-wheels"]):
        pip = sorted(glob.glob(os.path.join(place, "pip-*.whl")))
        if pip and not wheels:
            setuptools = sorted(glob.glob(os.path.join(place, "setuptools-*.whl")))
            wheels = pip[-1:] + (setuptools[-1:] if sys.version_info < (3, 12) else [])
except ImportError:
    pass
path = os.path.realpath(sys.executable)
base = os.path.realpath(sys.base_prefix)
if sys.prefix != sys.base_prefix and not path.startswith(base + os.sep):
    path = os.path.realpath(os.path.join(base, "bin", "python%d.%d" % sys.version_info[:2]))
found = os.stat(path)
print(json.dumps({
    "path": path, "version": "%d.%d.%d" % sys.version_info[:3], "final": sys.version_info[3] == "final",
    "implementation": sys.implementation.name, "wheels": wheels,
    "identity": [path, sys.version, EXTENSION_SUFFIXES[0], os.uname()[4], libc, found.st_size, int(found.st_mtime)],
}))
"""
"""Prints what a Python is, and the wheels of pip and setuptools that it brings along."""

CLAUSE = re.compile(r"^(~=|==|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?$")
BARE_VERSION = re.compile(r"^\d+(\.\d+){0,2}$")


def facts(python: str, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What an interpreter says of itself; None if it does not run."""
    answer = ask([python, "-I", "-c", FACTS], environ)
    return json.loads(answer) if answer else None


def fits(request: str, python: Mapping[str, Any]) -> bool:
    """Whether an interpreter is what a version ("3", "3.10", "3.10.13") or a range (">=3.9,<3.12") asks for."""
    have = tuple(map(int, python["version"].split(".")))
    if BARE_VERSION.match(request):
        want = tuple(map(int, request.split(".")))
        return have[: len(want)] == want and python["implementation"] == "cpython"
    return bool(python["final"]) and all(within(clause.strip(), have) for clause in request.split(","))


def within(clause: str, have: tuple[int, ...]) -> bool:
    """Whether a version is within a clause as `>=3.9`."""
    match = CLAUSE.match(clause)
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


# -- the settings of the installers

TO_UV = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST", "client-cert": "SSL_CLIENT_CERT", "retries": "UV_HTTP_RETRIES",
    "timeout": "UV_HTTP_TIMEOUT", "constraint": "UV_CONSTRAINT", "build-constraint": "UV_BUILD_CONSTRAINT",
    "uploaded-prior-to": "UV_EXCLUDE_NEWER",
}  # fmt: skip
"""Settings of pip, and the variables of uv that say the same."""
INSTEAD = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
"""Older names of variables."""
HARMLESS = re.compile(
    r"debug|disable-pip|exists-action|help|log|no-color|no-input|no-python-version-warning|progress-bar|quiet|report$"
    r"|root-user-action|verbose|version$|no-warn|warn|cache-dir|no-cache|no-clean|src|refresh-package|resume-retries"
    r"|config-file|break-system-packages|compile|no-compile|force-reinstall|ignore-installed|isolated|no-user"
    r"|require-virtualenv|upgrade-strategy|check-build|no-require-hashes|use-pep517|proxy|cert$"
)
"""Settings of pip that change nothing in what is installed, or that uv is told of otherwise."""
MISLEADING = re.compile(
    r"VIRTUAL_ENV$|CONDA_PREFIX$|CONDA_DEFAULT_ENV$|PYTHONPATH$|PYTHONHOME$|PYTHONSTARTUP$|UV_PROJECT|UV_VENV_"
    r"|UV_(PYTHON|SYSTEM_PYTHON|WORKING_DIR|WORKING_DIRECTORY|ENV_FILE|NO_PROJECT|ISOLATED|FROZEN|LOCKED|NO_SYNC)$"
)
"""Variables that would make an installer work on something else than it is told."""
WITHOUT_EFFECT = re.compile(
    r"CACHE|TIMEOUT|RETRIES|CERT|PROXY|PASSWORD|USERNAME|TOKEN|PROGRESS|DISABLE_PIP|NO_INPUT|INSTALL_DIR|CONCURRENT"
    r"|ROOT_USER|LINK_MODE|NO_COLOR|PYTHON_DOWNLOADS"
)
CHOOSING = re.compile(r"(UV|PIP|CONDA)_|SETUPTOOLS_SCM_PRETEND_VERSION|(CC|CXX|CFLAGS|CPPFLAGS|CXXFLAGS|LDFLAGS)$")
"""Variables that may change what is installed; those without effect, and those that hold credentials, aside."""


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """What `pip install` reads as its settings: files, then variables (pip's documentation, "Configuration")."""
    named, home = environ.get("PIP_CONFIG_FILE"), environ["HOME"]
    files = [os.path.join(place, "pip", "pip.conf") for place in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    files += ["/etc/pip.conf", os.path.join(home, ".pip", "pip.conf")]
    files.append(os.path.join(environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "pip", "pip.conf"))
    files += [os.path.join(sys.prefix, "pip.conf"), *([named] if named else [])]
    found: dict[str, str] = {}
    for section in ("global", "install"):
        for path in [] if named == os.devnull else files:
            read = configparser.RawConfigParser()
            with contextlib.suppress(configparser.Error):
                read.read_string(content(path))
            if read.has_section(section):
                found.update({name.replace("_", "-"): value for name, value in read.items(section)})
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            found[name[4:].lower().replace("_", "-")] = value
    if "default-timeout" in found:
        found["timeout"] = found.pop("default-timeout")
    return found


def is_on(value: str | None) -> bool:
    """A switch of pip's."""
    return (value or "").strip().lower() in ("y", "yes", "t", "true", "on", "1")


def for_uv(pip: Mapping[str, str], environ: dict[str, str]) -> tuple[list[str], str | None]:
    """Tell uv what pip is told, by variables and options; its own settings prevail.

    Returns:
        The options, and the first setting that changes what is installed and has no equal in uv.
    """
    options, odd = [], None
    for name, value in pip.items():
        variable = TO_UV.get(name)
        if variable is not None:
            if not environ.get(variable) and not environ.get(INSTEAD.get(variable, variable)):
                if name in ("extra-index-url", "find-links"):
                    places = [one for one in value.split() if "://" in one or os.path.exists(one)]
                    value = ("," if name == "find-links" else " ").join(places)
                environ[variable] = str(int(float(value)) or 1) if name == "timeout" else " ".join(value.split())
        elif name in ("no-binary", "only-binary"):
            options += [one for package in value.replace(",", " ").split() for one in (f"--{name}", package)]
        elif name == "config-settings":
            options += ["--config-setting", value]
        elif name == "no-build-isolation":
            if not is_on(value):  # pip stores the value in `build_isolation`
                environ.setdefault("UV_NO_BUILD_ISOLATION", "true")
        elif name == "keyring-provider" and value in ("disabled", "subprocess"):
            environ.setdefault("UV_KEYRING_PROVIDER", value)
        elif name == "use-feature" and "truststore" in value:
            environ.update(UV_SYSTEM_CERTS="true", UV_NATIVE_TLS="true")
        elif name in ("no-deps", "upgrade", "no-index", "require-hashes"):
            options += [f"--{name}"] if is_on(value) else []
        elif name == "pre":
            options += ["--prerelease=allow"] if is_on(value) else []
        elif not HARMLESS.match(name) and value.strip().lower() not in ("n", "no", "f", "false", "off", "0"):
            odd = odd or name
    bundle = pip.get("cert") or environ.get("SSL_CERT_FILE") or environ.get("REQUESTS_CA_BUNDLE")
    bundle = bundle or environ.get("CURL_CA_BUNDLE")
    if bundle and os.path.exists(bundle):
        environ["SSL_CERT_DIR" if os.path.isdir(bundle) else "SSL_CERT_FILE"] = bundle
    if pip.get("proxy"):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environ[name] = environ[name.lower()] = pip["proxy"]
    return options, odd


# -- requirement lines

LOCAL_FILE = re.compile(r"^(-r|-c|--requirements?|--constraints?)(?:=|\s+|(?=\S))\s*([^\s#]+)")
REMOTE = re.compile(r"^(https?|ftp|s3|gs|hf|(git|hg|svn|bzr)(\+[a-z]+)?)(://|\+|@)", re.IGNORECASE)
EDITABLE = re.compile(r"^(-e|--editable)\b")
LOCAL_PACKAGE = re.compile(
    r"^(-e|--editable|-f|--find-links)\b(?!\s*=?\s*[a-z+]+://(?<!file://))|^(\.|/|~|file:)"
    r"|^[A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*@\s*(file:|\.|/)|^(?![^\s;]*://)[^\s;@]*(/|\.(whl|zip|tar\.gz)\b)"
)
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


# -- making an environment


class Maker:
    """Makes the environment that a plan wants: by uv where it can be had, else by venv and pip; conda's by conda."""

    def __init__(self, wanted: Mapping[str, Any], code: str, place: str, cache: str | None) -> None:
        self.manager: str = wanted["manager"]
        self.recipe: Mapping[str, Any] = wanted["recipe"]
        self.wanted = wanted
        self.code = code
        self.place = os.path.join(place, "environment")
        self.root = self.place
        os.makedirs(self.root, exist_ok=True)
        if cache is not None:
            try:
                os.makedirs(os.path.join(cache, "envs"), exist_ok=True)
                with tempfile.TemporaryFile(dir=cache):
                    self.root = cache
            except OSError as error:
                say(f"warning: the cache cannot be written by user {os.getuid()}, and is left aside: {error}")
        self.environ = {name: value for name, value in os.environ.items() if not MISLEADING.match(name)}
        for name, folder in (("UV_CACHE_DIR", "uv"), ("PIP_CACHE_DIR", "pip"), ("UV_PYTHON_INSTALL_DIR", "python")):
            self.environ.setdefault(name, os.path.join(self.root, folder))
        self.environ.update(
            PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_ROOT_USER_ACTION="ignore", UV_NO_PROGRESS="1"
        )
        self.pip = pip_settings(self.environ)
        self.for_uv = dict(self.environ)
        self.options, self.odd = for_uv(self.pip, self.for_uv)
        learn_secrets([*self.environ.values(), *self.pip.values()])
        secrets.extend(
            value for name, value in self.environ.items()
            if name.startswith("UV_") and name.endswith(("PASSWORD", "TOKEN")) and len(value) > 3
        )  # fmt: skip
        self._uv: str | None = None
        self.sync = "file" in self.recipe and self.manager != "conda"
        self.origin = os.path.basename(self.recipe.get("path") or "") or "the project"

    def environment(self) -> tuple[dict[str, str], str | None]:
        """The environment, made if need be: its variables, and a file to be sourced where it takes that."""
        if self.manager == "conda":
            return self.conda()
        contents = Contents(self.code, self.environ)
        contents.file("uv.toml", "pyproject.toml")
        if self.sync:
            contents.file(self.recipe["file"], os.path.join(os.path.dirname(self.recipe["file"]), "uv.lock"))
            contents.file(f"{self.recipe['file']}.lock")
            contents.local = bool(
                re.search(r"path = \"|editable = \"|directory = \"|path\s*=|file:", contents.lines[-2])
            )
        else:
            for _, lines in self.steps():
                contents.read(lines, self.code, self.origin)
        python = self.python(self.recipe.get("python"))
        slot = self.slot(contents, [self.manager, python["identity"]])
        prefix = slot.fill(lambda prefix: self.make(python, prefix, contents))
        bin_directory = os.path.join(prefix, "bin")
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        path = os.pathsep.join([bin_directory, variables.get("PATH", os.defpath)])
        return {**variables, "VIRTUAL_ENV": prefix, "PATH": path}, None

    def steps(self) -> Iterator[tuple[str, list[str]]]:
        """What to install one after the other."""
        for name in ("build_dependencies", "dependencies"):
            if self.recipe.get(name):
                yield name, self.recipe[name]

    def slot(self, contents: Contents, more: Sequence[Any]) -> Slot:
        """The place of the environment. One that points at the project's files is nobody else's."""
        variables = [
            f"{name}={without_credentials(value)}" for name, value in sorted(self.for_uv.items())
            if CHOOSING.match(name) and not WITHOUT_EFFECT.search(name)
        ]  # fmt: skip
        settings = [f"{name}={without_credentials(value)}" for name, value in sorted(self.pip.items())
                    if not WITHOUT_EFFECT.search(name.upper().replace("-", "_"))]  # fmt: skip
        whole = contents.digest_of_code() if contents.local else ""
        key = json.dumps(["mlproj launcher, format 1", *more, contents.lines, whole, variables, settings])
        root = self.place if contents.editable else self.root
        return Slot(root, hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32])

    def run(self, doing: str, command: Sequence[str], environ: Mapping[str, str], **more: Any) -> str:
        """Run an installer in the project's directory.

        Raises:
            Failure: it failed; with its own words.
        """
        try:
            return run(command, environ, self.code, **more)
        except Ended as ended:
            words = str(ended)
            message = f"{os.path.basename(command[0])} could not {doing}. Its last words:\n{words}"
            if OUT_OF_REACH.search(words):
                message += f"\n{BUILD_IMAGE}"
            raise Failure("environment", message, retryable=bool(PASSING.search(words))) from None

    # -- Python and uv

    def python(self, request: str | None) -> dict[str, Any]:
        """The interpreter that is asked for: one of the image's, else one that uv has or downloads."""
        found: dict[str, dict[str, Any]] = {}
        minor = ".".join((request or "").split(".")[:2])
        places = dict.fromkeys([*self.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/local/bin", "/usr/bin"])
        candidates = [sys.executable]
        for folder in places:
            candidates += [os.path.join(folder, name) for name in (f"python{minor}", "python3", "python")]
            candidates += sorted(glob.glob(os.path.join(folder, "python3.[0-9]*")), reverse=True)
        for path in dict.fromkeys(os.path.realpath(one) for one in candidates if os.access(one, os.X_OK)):
            known = facts(path, self.environ)
            if known is None:
                continue
            if request is None or fits(request, known):
                return known
            found[known["path"]] = known
        words = "  uv, which could download it, cannot be had here"
        uv = self.uv()
        if uv is not None:
            find = [uv, "python", "find", "--no-project", "--no-python-downloads", request or ""]
            path = ask(find, self.for_uv)
            if not path:
                say(f"the image has no Python {request}: asking uv to download it")
                try:
                    run([uv, "python", "install", request or ""], self.for_uv, self.code)
                    path = ask(find, self.for_uv)
                except Ended as ended:
                    words = str(ended)
            known = facts(path, self.environ) if path else None
            if known is not None:
                return known
        versions = ", ".join(f"{one['version']} ({path})" for path, one in found.items()) or "none"
        raise Failure(
            "environment",
            f"{self.origin} asks for Python {request}, which the image does not have and which could not be had from "
            f"uv:\n{words}\nFound in the image: {versions}. Name an image that has it, or ask for less: a version such "
            f'as "{minor}" takes any release of it.',
            retryable=bool(PASSING.search(words)),
        )

    def uv(self) -> str | None:
        """The program uv: on PATH, else in the package of that name, else from the package index; None without it."""
        if self._uv is None:
            found = shutil.which("uv", path=self.environ.get("PATH"))
            if found is None:
                command = [sys.executable, "-I", "-c", "import uv; print(uv.find_uv_bin())"]
                found = ask(command, self.environ) or self.tool("uv", facts(sys.executable, self.environ) or {})
            found = os.path.join(found, "bin", "uv") if os.path.isdir(found) else found
            self._uv = found if found and ask([found, "--version"], self.environ) else ""
            if not self._uv:
                why = f"does not run here ({found})" if found else "cannot be had here"
                say(f"uv {why}: what is possible without it is done by venv and pip")
        return self._uv or None

    def tool(self, requirement: str, python: Mapping[str, Any]) -> str:
        """The directory that a package is installed into for the launcher's own use; empty if it cannot be had."""
        if requirement != "uv" and self.uv():
            command = [self._uv or "", "pip", "install", "--quiet", "--python", python["path"]]
            environ = self.for_uv
        else:
            pip = self.pip_of(python)
            if pip is None:
                return ""
            environ = {"PIP_INDEX_URL": self.environ.get("UV_DEFAULT_INDEX") or self.environ.get("UV_INDEX_URL") or ""}
            environ = {**{name: value for name, value in environ.items() if value}, **self.environ}
            command = [*pip, "install", "--quiet", "--retries", "1", "--timeout", "15", "--no-warn-script-location"]
        key = hashlib.sha256(json.dumps([requirement, python["identity"]]).encode()).hexdigest()[:16]
        final = os.path.join(self.root, "tools", f"{re.split('[^a-z-]', requirement)[0]}-{key}")
        if not os.path.isdir(final):
            say(f"installing {requirement}, which is not in the image")
            draft = f"{final}.{uuid.uuid4().hex[:12]}"
            try:
                run([*command, "--target", draft, requirement], environ, self.place)
                with contextlib.suppress(OSError):  # another one has put it there meanwhile
                    os.rename(draft, final)
            except Ended:
                return ""
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return final

    def pip_of(self, python: Mapping[str, Any]) -> list[str] | None:
        """The command of a pip, run by an interpreter: the one that it brings along, else the launcher's own."""
        if python.get("wheels"):
            return [python["path"], "-I", os.path.join(python["wheels"][0], "pip")]
        if ask([sys.executable, "-I", "-m", "pip", "--version"], self.environ):
            own = os.path.realpath(sys.executable) == python["path"]
            return [sys.executable, "-I", "-m", "pip", *([] if own else ["--python", python["path"]])]
        return None

    # -- virtual environments

    def make(self, python: Mapping[str, Any], prefix: str, contents: Contents) -> None:
        """Make a virtual environment."""
        uv = None if self.odd and not self.sync else self.uv()
        if self.odd:
            say(f"pip's setting {self.odd} has no equal in uv" + ("" if self.sync else ": pip makes the environment"))
        with_what = "uv" if uv else "venv and pip"
        say(f"making an environment with {python['implementation']} {python['version']} by {with_what}")
        if uv is not None:
            self.make_by_uv(uv, python, prefix, contents)
        elif self.sync:
            raise Failure("environment", f"only uv can make the environment of {self.origin}: add uv to the image")
        else:
            self.make_by_pip(python, prefix)

    def make_by_uv(self, uv: str, python: Mapping[str, Any], prefix: str, contents: Contents) -> None:
        """As `mlproj_core.environments.uv_manager` does."""
        environ, inside = self.for_uv, os.path.join(prefix, "bin", "python")
        if contents.extra_indexes or environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL"):
            # pip takes the best version that any of its indexes has.
            environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
        command = [uv, "venv", "--quiet", "--no-project", "--python", python["path"], prefix]
        self.run(f"make a virtual environment with {python['path']}", command, environ)
        if not self.sync:
            command = [uv, "pip", "install", "--python", inside]
            if self.manager == "virtualenv":
                brought = ["--no-index", "--no-deps", *python["wheels"]] if python["wheels"] else ["pip"]
                self.run("install pip", [*command, "--quiet", *brought], environ)
            command += [*self.options, "-r", "-"]
            for name, lines in self.steps():
                given = absolute(lines, self.code, environ)
                self.run(f"install the {name} of {self.origin}", command, environ, given=given)
            return
        file = os.path.join(self.code, self.recipe["file"])
        if self.recipe.get("is_script"):
            which, frozen, variable = ["--script", file, "--active"], f"{file}.lock", "VIRTUAL_ENV"
        else:
            folder = os.path.dirname(file)
            which, frozen, variable = ["--project", folder], os.path.join(folder, "uv.lock"), "UV_PROJECT_ENVIRONMENT"
        command = [uv, "sync", "--no-editable", "--python", python["path"], *which]
        command += ["--frozen"] if os.path.isfile(frozen) else []
        self.run(f"install what {self.origin} asks for", command, {**environ, variable: prefix})

    def make_by_pip(self, python: Mapping[str, Any], prefix: str) -> None:
        """As `mlproj_core.environments.virtualenv_manager` does."""
        path, inside = python["path"], os.path.join(prefix, "bin", "python")
        doing = f"make a virtual environment with {path}"
        try:
            self.run(doing, [path, "-I", "-m", "venv", "--without-pip", prefix], self.environ)
        except Failure:
            if not ask([sys.executable, "-I", "-m", "virtualenv", "--version"], self.environ):
                raise
            self.run(doing, [sys.executable, "-I", "-m", "virtualenv", "--python", path, prefix], self.environ)
        if not ask([inside, "-I", "-m", "pip", "--version"], self.environ):
            environ = {name: value for name, value in self.environ.items() if not name.startswith("PIP_CONSTRAINT")}
            if python["wheels"]:
                command = [inside, "-I", os.path.join(python["wheels"][0], "pip"), "install", "--quiet"]
                command += ["--no-index", "--no-deps", *python["wheels"]]
                self.run("install the pip that this Python brings along", command, environ)
            elif ask([sys.executable, "-I", "-m", "pip", "--version"], self.environ):
                command = [sys.executable, "-I", "-m", "pip", "--python", inside, "install", "--quiet", "pip"]
                self.run("install pip", command, environ)
            else:
                raise Failure("environment", "the image has neither uv nor pip (nor ensurepip): add one of them")
        for name, lines in self.steps():
            command = [inside, "-m", "pip", "install", "-r", "/dev/stdin"]
            given = absolute(lines, self.code, self.environ)
            activated = {**self.environ, "VIRTUAL_ENV": prefix}
            activated["PATH"] = os.pathsep.join([os.path.dirname(inside), self.environ.get("PATH", os.defpath)])
            self.run(f"install the {name} of {self.origin}", command, activated, given=given)

    # -- conda's environments

    def conda(self) -> tuple[dict[str, str], str | None]:
        """As `mlproj_core.environments.conda_manager` does, without conda's configuration files."""
        machine = os.uname().machine
        platform = "linux-" + {"x86_64": "64", "i686": "32"}.get(machine, machine)
        recipe, folder = self.recipe, os.path.dirname(os.path.join(self.code, self.recipe["file"]))
        if recipe["platforms"] and not {platform, "noarch"} & set(recipe["platforms"]):
            needed = ", ".join(recipe["platforms"])
            raise Failure("user_input", f"{self.origin} is for {needed} only, and this image's platform is {platform}")
        lines = [one["text"] for one in recipe["requirements"] if selected(one["selector"], platform)]
        specs = [(one["text"], one["where"]) for one in recipe["packages"] if selected(one["selector"], platform)]
        explicit = [(one["url"], one["md5"], one["sha256"]) for one in recipe["explicit"]] if recipe["locked"] else None
        if recipe["locked"] == "conda-lock":
            if platform not in self.wanted["locked"]:
                raise Failure(
                    "user_input", f"{self.origin} lists no packages for {platform}: `conda-lock -p {platform}`"
                )
            explicit, lines = (self.wanted["locked"][platform][name] for name in ("conda", "pip"))
        elif lines and not recipe["lists_pip"] and explicit is None:
            specs.append(("pip", self.origin))
        contents = Contents(self.code, self.environ)
        contents.read(lines, folder, self.origin)
        host = [platform, os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else ""]
        written = without_credentials(json.dumps([recipe["channels"], recipe["variables"], specs, explicit]))
        slot = self.slot(contents, ["conda", host, written])

        def make(prefix: str) -> None:
            program = next(filter(None, map(self.environ.get, ("CONDA_EXE", "MAMBA_EXE"))), None)
            for name in ("micromamba", "mamba", "conda"):
                program = program or shutil.which(name, path=self.environ.get("PATH"))
            say(f"making a conda environment of {self.origin} by {program or 'py-rattler'}")
            if program:
                self.conda_by_program(program, prefix, specs, explicit, folder)
            else:
                self.conda_by_rattler(prefix, platform, specs, explicit, folder)
            if recipe["variables"]:
                os.makedirs(os.path.join(prefix, "conda-meta"), exist_ok=True)
                state = json.dumps({"version": 1, "env_vars": dict(recipe["variables"])})
                write(os.path.join(prefix, "conda-meta", "state"), state)
            write(os.path.join(prefix, ACTIVATION), activation(prefix))
            if lines:
                self.conda_pip(prefix, lines, folder)
                write(os.path.join(prefix, ACTIVATION), activation(prefix))

        prefix = slot.fill(make)
        misleading = ("PYTHONHOME", "VIRTUAL_ENV")
        variables = {name: value for name, value in os.environ.items() if name not in misleading}
        variables["PATH"] = os.pathsep.join([os.path.join(prefix, "bin"), variables.get("PATH", os.defpath)])
        return variables, os.path.join(prefix, ACTIVATION)

    def conda_by_program(
        self, program: str, prefix: str, specs: list[tuple[str, str]], explicit: list[Any] | None, folder: str
    ) -> None:
        """By a conda, mamba or micromamba of the image."""
        if explicit is None:
            listed: dict[str, Any] = {"name": "mlproj", "dependencies": [text for text, _ in specs]}
            listed.update({"channels": self.recipe["channels"]} if self.recipe["channels"] else {})
            text, suffix = json.dumps(listed), ".yml"  # which YAML can read
        else:
            digests = [f"#{md5 or sha256}" if md5 or sha256 else "" for _, md5, sha256 in explicit]
            text = "".join(
                f"{line}\n" for line in ["@EXPLICIT", *(one[0] + end for one, end in zip(explicit, digests))]
            )
            suffix = ".txt"
        micromamba = os.path.basename(program).startswith("micromamba")
        create = ["create", "--yes"] if explicit is not None or micromamba else ["env", "create"]
        variables = {"CONDA_ALWAYS_YES": "true", "MAMBA_ALWAYS_YES": "true", "MAMBA_ROOT_PREFIX": self.root}
        environ = {"CONDA_PKGS_DIRS": os.path.join(self.root, "pkgs"), **variables, **self.environ}
        with tempfile.NamedTemporaryFile("w", suffix=suffix) as file:
            file.write(text)
            file.flush()
            command = [program, *create, "--prefix", prefix, "--file", file.name]
            self.run(f"make the environment of {self.origin}", command, environ)

    def conda_by_rattler(
        self, prefix: str, platform: str, specs: list[tuple[str, str]], explicit: list[Any] | None, folder: str
    ) -> None:
        """By py-rattler, in a process of its own; the plan has its program (`environments.conda_installer`)."""
        accesses: list[Any] = []

        def reached(url: str) -> str:
            clean, bare_url = without_credentials(url).replace("/t//", "/"), USERINFO.sub("", url)
            if clean != url:
                user, _, password = (USERINFO.findall(url) or [""])[0].partition(":")
                accesses.append((clean, [bare_url] if bare_url != clean else [], (user, password) if user else None))
            return clean

        def located(name: str) -> str:
            name = os.path.expandvars(name)
            if "://" in name:
                return name
            return "file://" + os.path.normpath(os.path.join(folder, os.path.expanduser(name)))

        def address(name: str) -> str:
            if name.startswith((".", "/", "~")) or "://" in name:
                name = located(name)
            else:
                name = f"{self.environ.get('CONDA_CHANNEL_ALIAS', 'https://conda.anaconda.org').rstrip('/')}/{name}"
            return reached(name.rstrip("/"))

        names = [name for name in self.recipe["channels"] if name != "nodefaults"] or ["defaults"]
        defaults = ("defaults", ["https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"])
        channels = [defaults if one == "defaults" else (None, [address(one)]) for one in names]
        python = self.python(">=3.10")
        library = self.tool("py-rattler>=0.28", python)
        if not library:
            why = "the image has no conda, mamba or micromamba, and py-rattler could not be installed"
            raise Failure("environment", f"{why}. {BUILD_IMAGE}", retryable=True)
        request = {
            "prefix": prefix, "cache": os.path.join(self.root, "conda"), "platform": platform,
            "channels": [] if explicit else channels,
            "specs": specs, "constraints": [], "priority": self.environ.get("CONDA_CHANNEL_PRIORITY", "flexible"),
            "explicit": explicit and [(reached(located(url)), md5, sha256) for url, md5, sha256 in explicit],
            "accesses": accesses,
        }  # fmt: skip
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write(self.wanted["installer"])
            file.flush()
            doing = f"make the environment of {self.origin}"
            environ = {**self.for_uv, "PYTHONPATH": library}
            given = json.dumps(request)
            text = self.run(doing, [python["path"], "-s", file.name], environ, given=given, answers=True)
        error = json.loads(text.splitlines()[-1]).get("error")
        if error:
            words = f"py-rattler could not {doing}: {redact(error['message'])}"
            code = "user_input" if error["kind"] == "specification" else "environment"
            raise Failure(code, words, retryable=error["kind"] == "install" and bool(PASSING.search(words)))

    def conda_pip(self, prefix: str, lines: list[str], folder: str) -> None:
        """The part of pip, by uv in the activated environment, else by the pip that is there."""
        inside, uv = os.path.join(prefix, "bin", "python"), self.uv()
        if not os.path.exists(inside):
            raise Failure("user_input", f"{self.origin} lists packages for pip, but no python among those of conda")
        if uv:
            names = [re.match(r"\s*([A-Za-z0-9][\w.-]*)", one) for one in lines]
            upgraded = [one for match in names if match for one in ("--upgrade-package", match[1])]
            command = [uv, "pip", "install", "--python", inside, "--break-system-packages", *self.options, "-r", "-"]
            command += ["--no-deps"] if self.recipe["locked"] == "conda-lock" else upgraded
        else:
            command = [inside, "-m", "pip", "install", "-U", "-r", "/dev/stdin"]
        shell = shutil.which("bash", path=self.environ.get("PATH"))
        if shell:
            command = [shell, "-c", '. "$0"; exec "$@"', os.path.join(prefix, ACTIVATION), *command]
        given, environ = absolute(lines, folder, self.for_uv), self.for_uv if uv else self.environ
        self.run(f"install the pip part of {self.origin}", command, environ, given=given)


ACTIVATION = ".mlproj-activate.sh"


def activation(prefix: str) -> str:
    """What `conda activate` does, for a shell to source: variables first, then the scripts of packages."""
    place, variables = shlex.quote(prefix), {}
    for path in sorted(glob.glob(os.path.join(glob.escape(prefix), "etc", "conda", "env_vars.d", "*.json"))):
        with contextlib.suppress(ValueError):
            variables.update(json.loads(content(path)))
    with contextlib.suppress(ValueError):
        variables.update(json.loads(content(os.path.join(prefix, "conda-meta", "state"))).get("env_vars") or {})
    lines = [f"export CONDA_PREFIX={place} CONDA_DEFAULT_ENV={place} CONDA_SHLVL=1"]
    lines.append(f'export PATH={shlex.quote(os.path.join(prefix, "bin"))}"${{PATH:+:$PATH}}"')
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()
              if name.isidentifier() and value != "***unset***"]  # fmt: skip
    scripts = sorted(glob.glob(os.path.join(glob.escape(prefix), "etc", "conda", "activate.d", "*.sh")))
    return "".join(f"{line}\n" for line in [*lines, *(f". {shlex.quote(script)}" for script in scripts)])


def selected(selector: str | None, platform: str) -> bool:
    """Whether a selector takes a platform in: names joined by `or`, `and` and `not` (see `spec.conda_file`)."""
    if selector is None:
        return True
    system, _, processor = platform.partition("-")
    names = {system, platform, platform.replace("-", ""), "unix", processor, {"64": "x86_64"}.get(processor, "")}
    return any(
        all((word[4:] if word.startswith("not ") else word in names) != word.startswith("not ")
            for word in part.split(" and "))
        for part in " ".join(selector.split()).split(" or ")
    )  # fmt: skip


# -- data

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class Passing(Exception):
    """Something that may be over at the next try; the seconds that a server asks to wait, or None."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


def bare(uri: str) -> str:
    """A URI fit for messages: a query may hold a signature."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if uri.startswith(("http:", "https:")) else uri


def fetch(parameter: str, uri: str, path: str, environ: Mapping[str, str]) -> None:
    """Bring a file or a directory to its path: as a whole, or not at all."""
    began, shown = time.monotonic(), bare(uri)
    say(f"parameter {parameter!r}: fetching {shown}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if uri.startswith(("http://", "https://")):
        patiently(uri, f"{path}.part", f"parameter {parameter!r}: {shown}")
        os.replace(f"{path}.part", path)
    else:
        python = shutil.which("python", path=environ.get("PATH")) or shutil.which("python3", path=environ.get("PATH"))
        if python is None:
            raise Failure("data", f"parameter {parameter!r}: {shown} cannot be fetched without a python on PATH")
        try:
            run([python, "-c", BY_LIBRARIES], environ, os.path.dirname(path), given=json.dumps([uri, path]))
        except Ended as ended:
            words = f"parameter {parameter!r}: {shown} could not be fetched:\n{ended}"
            raise Failure("data", words, retryable=bool(PASSING.search(str(ended)))) from None
    say(f"parameter {parameter!r}: {path} ({time.monotonic() - began:.1f} s)")


def patiently(uri: str, part: str, shown: str) -> None:
    """Read a file of an HTTP server, and go on where it was cut off."""
    retries = int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES") or 7)
    failures, version = 0, ""
    remove(part)
    while True:
        have = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            version, done = read(uri, part, have, version)
            if done:
                return
            raise Passing("the connection was cut")
        except Passing as trouble:
            now = os.path.getsize(part) if os.path.exists(part) else 0
            failures = 1 if now >= have + (1 << 20) else failures + 1
            if failures > retries:
                raise Failure("data", f"{shown}: {trouble} ({failures} tries)", retryable=True) from None
            pause = min(0.5 * 2 ** (failures - 1), 30.0) if trouble.pause is None else trouble.pause
            say(f"{shown}: {trouble}; try {failures + 1} of {retries + 1} in {pause:g} s")
            time.sleep(pause)


def read(uri: str, part: str, have: int, version: str) -> tuple[str, bool]:
    """Read once: the version of what is read (RFC 9110, 13.1.5), and whether it is whole."""
    import netrc
    import socket
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPSHandler, Request, build_opener

    request = Request(uri.partition("#")[0], headers={"Accept-Encoding": "identity", "User-Agent": "mlproj"})
    if have and version:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    context = ssl.create_default_context()
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle and os.path.exists(bundle):
        context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    try:
        login = netrc.netrc(os.environ.get("NETRC")).authenticators(request.host.partition(":")[0])
    except (OSError, netrc.NetrcParseError):
        login = None
    if login:
        from base64 import b64encode

        who = b64encode(f"{login[0]}:{login[2]}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {who}")
    timeout = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or 60)
    try:
        with build_opener(HTTPSHandler(context=context)).open(request, timeout=timeout) as response:
            headers = response.headers
            resumed = response.status == 206 and headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Failure("data", f"{bare(uri)} is sent in a coding, though it was asked for as it is")
            version = headers.get("ETag") or headers.get("Last-Modified") or ""
            length, size = headers.get("Content-Length"), 0
            with open(part, "ab" if resumed else "wb") as file:
                while True:
                    chunk = response.read(1 << 20)
                    if not chunk:
                        break
                    size += len(chunk)
                    file.write(chunk)
            return "" if version.startswith("W/") else version, length is None or size == int(length)
    except HTTPError as error:
        error.close()
        words = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            remove(part)
        if error.code in TRANSIENT or error.code == 416:
            pause = error.headers.get("Retry-After", "")
            raise Passing(words, min(float(pause), 60.0) if pause.isdigit() else None) from None
        raise Failure("data", f"{bare(uri)} cannot be read: {words}", retryable=error.code > 500) from None
    except (URLError, HTTPException, ConnectionError, socket.timeout, ssl.SSLError) as error:
        # Before Python 3.10 the time-out of a socket is no TimeoutError.
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            words = f"the certificate of {request.host} is not trusted: name its authority in SSL_CERT_FILE"
            raise Failure("data", words) from None
        raise Passing(str(reason) or type(reason).__name__) from None


BY_LIBRARIES = r"""
import json, os, shutil, sys
uri, path = json.load(sys.stdin)
scheme, draft = uri.partition(":")[0].lower(), path + ".part"
library = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs"}.get(scheme)
shutil.rmtree(draft, ignore_errors=True)
try:
    __import__(library or "mlflow.artifacts")
    by_library = library is not None
except ImportError:
    by_library = False
if by_library:
    import fsspec
    store, root = fsspec.core.url_to_fs("s3" + uri[3:] if scheme == "s3a" else uri)
    store.get(root, draft, recursive=store.isdir(root))
    os.rename(draft, path)
else:
    try:
        from mlflow.artifacts import download_artifacts
    except ImportError:
        sys.exit("%s: needs %s in the project's environment: add it to its dependencies" % (
            scheme, library + " or mlflow" if library else "mlflow"))
    os.makedirs(draft)
    os.rename(download_artifacts(artifact_uri=uri, dst_path=draft).rstrip("/"), path)
    shutil.rmtree(draft, ignore_errors=True)
"""
"""Fetches by what the project's environment has."""


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
