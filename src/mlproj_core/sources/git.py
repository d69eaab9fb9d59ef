"""The git program: how it is started, and what its failures mean.

It is started with nothing of the caller's own repository in its environment, no terminal to ask on, no hook and no
transport that runs a program. A secret reaches it through GIT_ASKPASS, from the environment of the git process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlproj_core.errors import SourceError
from mlproj_core.sources.location import Credentials, usual_user
from mlproj_core.status import Reason, ReasonCode

__all__ = ["Answer", "Remote", "end_abandoned", "failed", "git"]

_OF_ONE_REPOSITORY = frozenset(
    {
        # What `git rev-parse --local-env-vars` lists, but for the configuration that a caller passes on purpose.
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
        # What git sets for hooks beyond that, and what would change the meaning of our commands.
        "GIT_NAMESPACE", "GIT_QUARANTINE_PATH", "GIT_DEFAULT_HASH", "GIT_LITERAL_PATHSPECS", "GIT_ATTR_SOURCE",
        # Would open a window to ask for a password, and wait for it.
        "SSH_ASKPASS",
        # Handed on by other means, to the one process that needs it.
        "MLPROJ_GIT_TOKEN",
    }
)  # fmt: skip

_CONFIGURATION = (
    "core.hooksPath=/dev/null",
    "protocol.ext.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    # Fetched objects always stay in packs, which a mirror takes over by renaming one file each.
    "fetch.unpackLimit=1",
    "transfer.unpackLimit=1",
)

_ASKPASS = """#!/bin/sh
# Answers git for one host only: a redirect or a submodule elsewhere is not told the secret.
case "$1" in
*"://$MLPROJ_ASKPASS_HOST"[/\\'\\"]* | *"@$MLPROJ_ASKPASS_HOST"[/\\'\\"]*) ;;
*) exit 1 ;;
esac
case "$1" in
Username*) printf '%s\\n' "$MLPROJ_ASKPASS_USERNAME" ;;
*) printf '%s\\n' "$MLPROJ_ASKPASS_PASSWORD" ;;
esac
"""


@dataclass(frozen=True)
class Answer:
    """How a git process ended and what it wrote, as text."""

    returncode: int
    stdout: str
    stderr: str


def git(
    arguments: Sequence[str],
    *,
    cwd: Path,
    configuration: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    pid_file: Path | None = None,
) -> Answer:
    """Run git to its end, without a terminal, in a session of its own.

    Args:
        arguments: the command and its arguments.
        cwd: directory to run it in.
        configuration: further settings, `name=value`; visible in the process list.
        environment: further variables.
        pid_file: where to write the process's id, for whoever has to end it after this process died.

    Raises:
        SourceError: there is no git program.
    """
    import subprocess

    settings = [part for setting in (*_CONFIGURATION, *configuration) for part in ("-c", setting)]
    variables = {name: value for name, value in os.environ.items() if name not in _OF_ONE_REPOSITORY}
    # Messages are told apart by their words, so they must be in one language.
    variables |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GCM_INTERACTIVE": "never", **(environment or {})}
    try:
        process = subprocess.Popen(
            ["git", *settings, *arguments],
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if not cwd.is_dir():
            raise
        message = (
            "The program git is needed for this project, and is not on PATH. Install git "
            "(its package is called git everywhere), or run the project from a local directory."
        )
        raise SourceError(message, reason=Reason(ReasonCode.SOURCE, message)) from error
    try:
        if pid_file is not None:
            pid_file.write_text(str(process.pid))
        stdout, stderr = process.communicate()
    except BaseException:
        _end(process.pid)
        process.communicate()
        raise
    return Answer(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def _end(group: int) -> None:
    """Kill a git process with its transport helpers: what it has not finished is of no use to anybody."""
    import signal
    from contextlib import suppress

    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def end_abandoned(pid_file: Path, cwd: Path) -> None:
    """End the git process that `git` started with this file and directory, if its caller died and it did not."""
    try:
        pid = int(pid_file.read_text())
        # The id may have been given to another process since: only ours works in this directory.
        if Path(f"/proc/{pid}/cwd").samefile(cwd):
            _end(pid)
    except (OSError, ValueError):
        return


@dataclass(frozen=True)
class Remote:
    """A Git repository elsewhere, and the login for it.

    Attributes:
        uri: how messages call it.
        url: what git is given; holds no secret.
        credentials: from the caller or the URL; with a password, Git's helpers are not asked, since they would
            answer before it and write it down after it was accepted.
        scratch: an existing directory of the caller's, for the script that hands over a password.
    """

    uri: str
    url: str
    credentials: Credentials = field(default_factory=Credentials)
    scratch: Path = field(default_factory=Path, repr=False)

    def git(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        configuration: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        pid_file: Path | None = None,
    ) -> Answer:
        """Run a git command that may speak to the repository; see `git` for the arguments."""
        uses_ssh = not self.url.startswith(("/", "http://", "https://")) or arguments[0] in ("submodule", "lfs")
        environment = {**(environment or {}), **(self._ssh_environment(cwd) if uses_ssh else {})}
        if self._is_http and self.credentials.password is not None:
            configuration = (*configuration, "credential.helper=")
            environment |= self._askpass_environment(self.credentials.password)
        elif self._is_http and self.credentials.username is not None:
            # In the environment: what stands before the @ may be more of a secret than a name.
            count = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
            environment |= {
                "GIT_CONFIG_COUNT": str(count + 1),
                f"GIT_CONFIG_KEY_{count}": f"credential.{self._origin}.username",
                f"GIT_CONFIG_VALUE_{count}": self.credentials.username,
            }
        return git(arguments, cwd=cwd, configuration=configuration, environment=environment, pid_file=pid_file)

    def failure(self, answer: Answer, doing: str) -> SourceError:
        """The error for a command that failed, in git's words and with a remedy."""
        return failed(answer, f"{doing} {self.uri}", secrets=(self.credentials.password,))

    @property
    def _is_http(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    @property
    def _origin(self) -> str:
        return "/".join(self.url.split("/")[:3])

    def _askpass_environment(self, password: str) -> dict[str, str]:
        script = self.scratch / "askpass"
        if not script.exists():
            script.write_text(_ASKPASS)
            script.chmod(0o700)
        host = self._origin.partition("://")[2]
        return {
            "GIT_ASKPASS": str(script),
            "MLPROJ_ASKPASS_HOST": host,
            "MLPROJ_ASKPASS_USERNAME": self.credentials.username or usual_user(host),
            "MLPROJ_ASKPASS_PASSWORD": password,
        }

    def _ssh_environment(self, cwd: Path) -> dict[str, str]:
        """Makes ssh fail instead of asking, where the user has not said how ssh is to be called."""
        if "GIT_SSH_COMMAND" in os.environ or "GIT_SSH" in os.environ:
            return {}
        if git(["config", "--get", "core.sshCommand"], cwd=cwd).returncode == 0:
            return {}
        return {"GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}


_REMEDIES: tuple[tuple[str, bool, str], ...] = (
    # What git, git-lfs, curl or ssh say (in the C locale); whether a retry can help; what to do.
    (
        r"transport 'file' not allowed",
        False,
        "A submodule's URL is a path on this machine, which Git follows for nobody else's repository. If you trust "
        "this one: git config --global protocol.file.allow always. Else give the submodule a relative or an https URL.",
    ),
    (
        r"transport '\S+' not allowed|invalid value for 'submodule\.|strange hostname",
        False,
        "A submodule wants a program to be run for it. That is refused: mend .gitmodules in the repository.",
    ),
    (
        r"No url found for submodule path",
        False,
        "The repository's .gitmodules has no URL for it, or one that Git refuses: mend it there.",
    ),
    (
        r"did not contain [0-9a-f]+",
        False,
        "The commit of the submodule that the repository names is not (or no longer) in the submodule's repository: "
        "push it there, or commit another one.",
    ),
    (
        r"Object does not exist on the server",
        False,
        "Whoever committed these files has not uploaded them: git lfs push --all origin",
    ),
    (
        r"Host key verification failed",
        False,
        "The host is not in ~/.ssh/known_hosts: connect to it once by hand, or add its key with ssh-keyscan.",
    ),
    (
        r"Authentication failed|could not read (Username|Password)|terminal prompts disabled|unable to read askpass"
        r"|credential fill errors|Authentication required|Authorization error|Permission denied"
        r"|HTTP Basic: Access denied|returned error: 40[13]|Access denied",
        False,
        "The login was refused or missing. For http(s): set MLPROJ_GIT_TOKEN to a token that may read the repository, "
        "give `token`, or configure a Git credential helper. For ssh: load a key that may read it into the agent.",
    ),
    (
        r"dubious ownership",
        False,
        "The repository belongs to another user. If you trust it: git config --global --add safe.directory PATH",
    ),
    (
        r"certificate|SSL|TLS",
        False,
        "If the server's certificate is signed by a company's own authority, name that in GIT_SSL_CAINFO or in "
        "git's setting http.sslCAInfo.",
    ),
    (
        r"Could not resolve|Name or service not known|name resolution|unable to look up",
        True,
        "Check the host's name in the URI, and this machine's DNS and proxy settings (https_proxy, http.proxy).",
    ),
    (
        r"timed out|Connection refused|No route to host|Network is unreachable|Failed to connect|unable to connect"
        r"|hung up|early EOF|reset by peer|RPC failed|returned error: (429|5\d\d)|Connection closed|closed connection"
        r"|unexpected disconnect|Empty reply",
        True,
        "Check that this machine reaches the host (network, proxy, firewall), and try again.",
    ),
    (
        r"not found|does not exist|does not appear to be a git repository|not exported",
        False,
        "Check the URI. Hosts also answer so when the login may not see the repository: then set MLPROJ_GIT_TOKEN, "
        "or configure a Git credential helper.",
    ),
    (r"No space left|Disk quota", True, "Free some space, or move the caches with MLPROJ_CACHE_DIR."),
)

_NOISE = re.compile(
    r"Please make sure you have the correct access|and the repository exists|^hint:|^warning:|^remote: *$|^\s*$"
    r"|a second time, aborting"
)


def failed(answer: Answer, doing: str, secrets: Sequence[str | None] = ()) -> SourceError:
    """The error for a git command that failed: what was being done, git's last words, a remedy."""
    lines = [line.strip() for line in answer.stderr.splitlines() if not _NOISE.search(line)]
    words = "; ".join(lines[-3:]) or f"git ended with status {answer.returncode} and said nothing"
    words = re.sub(r"(?<=://)[^/\s@']*@", "", words)
    for secret in secrets:
        if secret:
            words = words.replace(secret, "***")
    retryable, remedy = next(
        ((retryable, text) for pattern, retryable, text in _REMEDIES if re.search(pattern, words)), (False, "")
    )
    message = f"{doing} failed. Git says: {words}" + (f". {remedy}" if remedy else "")
    return SourceError(message, reason=Reason(ReasonCode.SOURCE, message, retryable=retryable))
