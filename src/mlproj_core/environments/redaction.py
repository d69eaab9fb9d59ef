"""Taking credentials out of text before it is shown, stored or hashed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["credentials_in", "redact", "without_credentials"]

_USERINFO: Final = re.compile(r"(?<=://)([^/?#\s'\"<>]*)@")
_MASK: Final = "***"


def without_credentials(text: str) -> str:
    """The text with `user:password@` removed from every URL in it: two users of one index share an identity."""
    return _USERINFO.sub("", text)


def credentials_in(texts: Iterable[str]) -> tuple[str, ...]:
    """The passwords and tokens in the URLs of these texts, as written and percent-decoded, longest first."""
    found: set[str] = set()
    for userinfo in [match for text in texts if "@" in text for match in _USERINFO.findall(text)]:
        from urllib.parse import unquote

        user, _, password = userinfo.partition(":")
        # A lone user name is a token more often than not, save for the `git` of ssh URLs.
        secret = password or ("" if user == "git" else user)
        found.update(part for part in (secret, unquote(secret), userinfo) if len(part) > 3)
    return tuple(sorted(found, key=len, reverse=True))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with the credentials of URLs, and the given secrets wherever they stand, masked."""
    text = _USERINFO.sub(f"{_MASK}@", text)
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return text
