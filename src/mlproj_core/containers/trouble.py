"""What a registry's or an engine's words of refusal mean, and whether a retry can help."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mlproj_core.errors import ImageError
from mlproj_core.status import Reason, ReasonCode

__all__ = ["image_error"]


@dataclass(frozen=True)
class _Meaning:
    """What some words mean.

    Attributes:
        words: a pattern for them.
        meaning: what they mean, for people.
        remedy: what to do.
        retryable: whether a retry can help.
    """

    words: str
    meaning: str
    remedy: str
    retryable: bool = False


_MEANINGS: Final = (
    _Meaning(
        r"toomanyrequests|too many requests|rate.?limit",
        "the registry has had too many requests",
        "Wait, or log in: docker_auth, or docker login.",
        retryable=True,
    ),
    _Meaning(
        r"no space left on device|disk quota",
        "the engine's disk is full",
        "Free some space: docker system prune.",
        retryable=True,
    ),
    _Meaning(
        r"x509:|certificate|server gave HTTP response to HTTPS client",
        "the engine does not trust the registry",
        "Give the engine its certificate (/etc/docker/certs.d), or name it in insecure-registries of its daemon.json.",
    ),
    _Meaning(
        r"no matching manifest for|no match for platform|does not match the (specified|detected) platform",
        "the image is not there for this platform",
        "Name one that it has, as in platform=linux/amd64, or build it for this one.",
    ),
    _Meaning(
        r"invalid reference format|repository name must be lowercase|invalid tag",
        "that is no image's name",
        "Write it as for `docker pull`: lower case, [REGISTRY/]NAME[:TAG][@DIGEST].",
    ),
    _Meaning(
        r"pull access denied",
        "there is no such image, or it may not be read without a login",
        "Check its name, or log in: docker_auth with the registry's name, or docker login.",
    ),
    _Meaning(
        r"manifest unknown|name unknown|manifest for \S+ not found|no such image|not found|does not exist",
        "there is no such image",
        "Check its name and its tag.",
    ),
    _Meaning(
        r"unauthorized|denied|no basic auth credentials|authorization failed|authentication required|forbidden"
        r"|incorrect username or password|\b40[13]\b",
        "the registry refused",
        "Check name and password, and what the account may do: docker_auth with the registry's name, or docker login.",
    ),
    _Meaning(
        r"dial tcp|connection refused|no such host|timeout|deadline exceeded|\bEOF\b|connection reset|broken pipe"
        r"|server misbehaving|temporary failure|unexpected (HTTP )?status|internal server error|bad gateway"
        r"|service unavailable|\b50[0-4]\b|unreachable|request canceled",
        "the registry is out of reach, or failed",
        "Try again later; is its name right?",
        retryable=True,
    ),
)
"""In the order in which they are looked for: what engines say of one trouble often holds the words of another."""

_UNKNOWN: Final = _Meaning("", "", "", retryable=True)


def image_error(doing: str, said: str, *, status: int | None = None, output: tuple[str, ...] = ()) -> ImageError:
    """The error for an image that could not be had.

    Args:
        doing: what was done, as the subject of "failed".
        said: the engine's own words, free of secrets.
        status: the engine's HTTP status, if it answered with one.
        output: the last lines of output, for the reason.
    """
    said = " ".join(said.split())
    found = next((one for one in _MEANINGS if re.search(one.words, said, re.IGNORECASE)), None)
    if found is None and status is not None and 400 <= status < 500:
        found = _Meaning("", "the engine refused", "", retryable=False)
    meaning = found or _UNKNOWN
    message = " ".join(
        part
        for part in (f"{doing} failed{': ' + meaning.meaning if meaning.meaning else ''} ({said}).", meaning.remedy)
        if part
    )
    return ImageError(message, reason=Reason(ReasonCode.IMAGE, message, retryable=meaning.retryable, output=output))
