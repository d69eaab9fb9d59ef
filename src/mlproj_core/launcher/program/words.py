"""What a launcher says, to people and of its own failures, without credentials."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


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


class Passing(Exception):
    """Something that may be over at the next try; the seconds that a server asks to wait, or None."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


BUILD_IMAGE = (
    "A pod without a way to a package index needs one (PIP_INDEX_URL, UV_DEFAULT_INDEX, HTTPS_PROXY), or an image "
    "that has the environment already (`mlproj build-image`)."
)

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


def say(line: str) -> None:
    """A line of progress of the launcher's own."""
    print(f"[mlproj] {redact(line)}", flush=True)


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


def bare(uri: str) -> str:
    """A URI fit for messages: a query may hold a signature."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if uri.startswith(("http:", "https:")) else uri
