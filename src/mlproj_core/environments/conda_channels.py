"""Where conda's channels are: names, addresses, groups and mirrors turned into URLs, credentials kept apart."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from mlproj_core.environments.conda_settings import CondaSettings, expand_variables
from mlproj_core.environments.redaction import credentials_in, without_credentials
from mlproj_core.errors import UserError
from mlproj_core.spec.conda_file import PLATFORMS, ExplicitPackage

__all__ = [
    "Access",
    "Channel",
    "Channels",
    "conda_channels",
    "conda_secrets",
    "explicit_packages",
    "without_conda_credentials",
]

_ALIAS: Final = "https://conda.anaconda.org"
_DEFAULTS: Final = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_CUSTOM: Final = {"pkgs/pro": "https://repo.anaconda.com"}
_TOKEN: Final = re.compile(r"(?<=://)([^\s]*?)/t/([^/\s]+)(?=/|$)")
_NAMED: Final = re.compile(r"^(?P<channel>[^\s\[]+?)(?:/(?P<subdir>[a-z0-9-]+))?::")
_BRACKETED: Final = re.compile(r"\bchannel\s*=\s*(['\"]?)([^'\",\]\s]+)\1")


def without_conda_credentials(text: str) -> str:
    """The text with user, password and `/t/TOKEN` removed from every URL in it."""
    return _TOKEN.sub(r"\1", without_credentials(text))


def conda_secrets(texts: Iterable[str]) -> tuple[str, ...]:
    """The passwords and tokens in the URLs of these texts."""
    texts = list(texts)
    tokens = {match[1] for text in texts for match in _TOKEN.findall(text)}
    return (*credentials_in(texts), *(token for token in tokens if len(token) > 3))


@dataclass(frozen=True)
class Access:
    """How one address is reached.

    Attributes:
        url: the address, free of credentials, without a slash at its end.
        addresses: where it is asked for instead: itself with a token, or mirrors. They may hold secrets.
        login: user and password; None for neither.
    """

    url: str
    addresses: tuple[str, ...] = ()
    login: tuple[str, str] | None = None


@dataclass(frozen=True)
class Channel:
    """A channel, or a group of them with one priority such as `defaults`.

    Attributes:
        name: as it is written, free of credentials.
        urls: where it is, free of credentials.
        group: whether it is a group.
    """

    name: str
    urls: tuple[str, ...]
    group: bool = False


@dataclass(frozen=True)
class Channels:
    """The channels of an environment, the one that prevails first.

    Attributes:
        channels: the channels.
        accesses: how their addresses are reached, where that needs saying.
        specs: the specifications of packages, with the addresses of channels in place of their names.
    """

    channels: tuple[Channel, ...]
    accesses: tuple[Access, ...]
    specs: tuple[str, ...]

    def secrets(self) -> tuple[str, ...]:
        """What is to be masked in what a program prints."""
        found = conda_secrets(address for access in self.accesses for address in access.addresses)
        passwords = [access.login[1] for access in self.accesses if access.login and len(access.login[1]) > 3]
        return tuple({*found, *passwords, *(quote(one, safe="") for one in passwords)})


def conda_channels(
    listed: Iterable[str], specs: Iterable[str], settings: CondaSettings, directory: Path, environ: Mapping[str, str]
) -> Channels:
    """The channels to look for packages in.

    Those of the file come first and those of the configuration then, unless the file says `nodefaults`: conda's rule.
    `defaults` stands in where neither names one; conda always adds it at the end, but asks everybody to agree to its
    terms first.

    Args:
        listed: the channels of the environment file.
        specs: specifications of packages, which may name further channels.
        settings: conda's settings.
        directory: what a relative path is relative to.
        environ: variables for `$NAME` in a channel.

    Raises:
        UserError: a channel is forbidden by the configuration.
    """
    resolution = _Resolution(settings, directory)
    named = [expand_variables(one, environ) for one in listed]
    wanted = [one for one in named if one != "nodefaults"]
    if "nodefaults" not in named:
        wanted += [str(one) for one in settings.items("channels")]
    if not wanted and "nodefaults" not in named:
        wanted = ["defaults"]
    channels = [resolution.channel(one) for one in wanted]
    rewritten = []
    for spec in specs:
        text, extra = resolution.spec(spec)
        rewritten.append(text)
        channels += extra
    unique: dict[tuple[str, ...], Channel] = {}
    for channel in channels:
        unique.setdefault(channel.urls, channel)
    resolution.permit(unique.values())
    return Channels(tuple(unique.values()), tuple(resolution.accesses.values()), tuple(rewritten))


def explicit_packages(
    listed: Iterable[ExplicitPackage], settings: CondaSettings, directory: Path, environ: Mapping[str, str]
) -> tuple[tuple[ExplicitPackage, ...], Channels]:
    """Packages with addresses free of credentials, and how these are reached.

    Args:
        listed: packages by their addresses, with `$NAME` in them filled in.
        settings: conda's settings.
        directory: what a relative path is relative to.
        environ: variables for `$NAME` in an address.

    Raises:
        UserError: the channel of one is forbidden by the configuration.
    """
    resolution = _Resolution(settings, directory)
    for name in resolution.mirrors:
        resolution.url(name)
    found, channels = [], []
    for package in listed:
        address = expand_variables(package.url, environ)
        if "://" not in address:
            address = Path(os.path.normpath(directory / Path(address).expanduser())).as_uri()
        head, _, name = address.rpartition("/")
        platform = head.rpartition("/")[2]
        channel = resolution.channel(head)
        channels.append(channel)
        place = f"{channel.urls[0]}/{platform}" if platform in (*PLATFORMS, "noarch") else channel.urls[0]
        found.append(replace(package, url=f"{place}/{name}"))
    resolution.permit(channels)
    return tuple(found), Channels((), tuple(resolution.accesses.values()), ())


class _Resolution:
    """One reading of channels by conda's settings."""

    def __init__(self, settings: CondaSettings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.alias = settings.text("channel_alias", _ALIAS)
        self.groups: dict[str, Any] = dict(settings.mapping("custom_multichannels"))
        self.groups.setdefault("defaults", settings.items("default_channels") or _DEFAULTS)
        # What a group holds can be named by itself: `pkgs/main` is where `defaults` says.
        members = [urlsplit(str(one)) for group in self.groups.values() for one in group if "://" in str(one)]
        own = {url.path.strip("/"): f"{url.scheme}://{url.netloc}" for url in members}
        self.custom: dict[str, str] = {**own, **_CUSTOM, **settings.mapping("custom_channels")}
        self.accesses: dict[str, Access] = {}
        self.mirrors = {str(name): value for name, value in settings.mapping("mirrored_channels").items()}

    def channel(self, text: str) -> Channel:
        text = text.strip()
        if text in self.groups:
            urls = [self.url(str(one)) for one in self.groups[text]]
            return Channel(text, tuple(dict.fromkeys(urls)), group=True)
        return Channel(without_conda_credentials(text), (self.url(text),))

    def url(self, text: str) -> str:
        """The address of a channel, free of credentials; how it is reached is noted."""
        address = self.address(text)
        clean = without_conda_credentials(address)
        mirrors = self.mirrors.get(text) or self.mirrors.get(clean)
        if mirrors:
            found = [mirrors] if isinstance(mirrors, str) else mirrors
            self.accesses.setdefault(clean, Access(clean, tuple(self.address(str(one)) for one in found)))
        elif address != clean:
            parts = urlsplit(address)
            login = (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username else None
            bare = without_credentials(address)
            self.accesses.setdefault(clean, Access(clean, (bare,) if bare != clean else (), login))
        return clean

    def address(self, text: str) -> str:
        """The address of a channel as it is to be asked for."""
        if "://" in text:
            address = text
        elif text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
            address = Path(os.path.normpath(self.directory / Path(text).expanduser())).as_uri()
        else:
            address = self.named(text)
        address = address.rstrip("/")
        head, _, last = address.rpartition("/")
        return head if last in PLATFORMS or last == "noarch" else address

    def named(self, name: str) -> str:
        parts = name.strip("/").split("/")
        for length in range(len(parts), 0, -1):
            location = self.custom.get("/".join(parts[:length]))
            if location is not None:
                return f"{self.address(str(location)) if '://' not in location else location.rstrip('/')}/{name}"
        return f"{self.alias.rstrip('/')}/{name}"

    def spec(self, text: str) -> tuple[str, list[Channel]]:
        """A specification with the address of its channel for the name, and that channel."""
        if match := _NAMED.match(text):
            subdir = match["subdir"]
            whole = match["channel"] if subdir in (*PLATFORMS, "noarch", None) else f"{match['channel']}/{subdir}"
            channel = self.channel(whole)
            shown = channel.name if channel.group else channel.urls[0]
            tail = f"/{subdir}" if subdir in (*PLATFORMS, "noarch") else ""
            return f"{shown}{tail}::{text[match.end() :]}", [channel]
        if match := _BRACKETED.search(text):
            channel = self.channel(match[2])
            shown = channel.name if channel.group else channel.urls[0]
            return f'{text[: match.start()]}channel="{shown}"{text[match.end() :]}', [channel]
        return text, []

    def permit(self, channels: Iterable[Channel]) -> None:
        """Hold to the channels that an administrator allows or denies."""
        for name in ("allowlist_channels", "denylist_channels"):
            if not self.settings.items(name):
                continue
            ruled = {url for one in self.settings.items(name) for url in self.channel(str(one)).urls}
            for channel in channels:
                if any((url in ruled) == (name == "denylist_channels") for url in channel.urls):
                    origin = self.settings.settings[name].origin
                    raise UserError(
                        f"The channel {channel.name} may not be used: conda's setting {name} ({origin}) forbids it."
                    )
