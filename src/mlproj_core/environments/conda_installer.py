"""Making a conda environment by py-rattler, in a process of its own that can be ended at any moment.

It reads a request from its standard input, since that may hold passwords, tells of its progress on standard error, and
answers on standard output by one JSON object: `{"packages": N}` or `{"error": {"kind", "message"}}`, where the kind is
"specification" (a user's mistake), "solve", "locked" or "install".
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from rattler import Channel, Client, MatchSpec, MultiSource, RepoDataRecord, Subdir

__all__ = ["Refused", "Request", "main"]


@dataclass(frozen=True)
class Request:
    """What is to be installed, and how it is reached.

    Attributes:
        prefix: the environment's directory.
        cache: the directory of the cache that all environments share.
        platform: conda's name of the platform.
        channels: name of each group of them, or None, and addresses; the one that prevails first.
        specs: specifications of packages, and where each is written.
        constraints: specifications that hold if a package is installed at all.
        priority: "strict", "flexible" or "disabled".
        explicit: address, md5 and sha256 of each package of a list that leaves nothing to solve.
        accesses: address, what is asked instead of it, and user and password, where needed.
        newest: how new a package may be: "until", in seconds since the epoch, or "age", in seconds; None for any.
        verify: whether certificates of servers are checked.
        offline: whether only what is in the cache may be used.
        retries: how often a request is repeated.
        add_pip: whether Python is taken to need pip.
    """

    prefix: str
    cache: str
    platform: str
    channels: list[tuple[str | None, list[str]]]
    specs: list[tuple[str, str]]
    constraints: list[str]
    priority: str
    explicit: list[tuple[str, str | None, str | None]] | None
    accesses: list[tuple[str, list[str], tuple[str, str] | None]]
    newest: tuple[str, float] | None = None
    verify: bool = True
    offline: bool = False
    retries: int = 3
    add_pip: bool = True

    def to_json(self) -> str:
        """This request as text."""
        return json.dumps(asdict(self))


class Refused(Exception):
    """The environment cannot be made.

    Attributes:
        kind: "specification", "solve", "locked" or "install".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main() -> None:
    """Serve the request on standard input."""
    request = Request(**json.load(sys.stdin))
    try:
        answer: dict[str, Any] = {"packages": asyncio.run(_install(request))}
    except Refused as refused:
        answer = {"error": {"kind": refused.kind, "message": str(refused).strip()}}
    print(json.dumps(answer), flush=True)  # noqa: T201 - the caller reads this
    # py-rattler's threads may outlive its work, and do not survive the end of the interpreter: they crash in it.
    os._exit(0)


async def _install(request: Request) -> int:
    """Solve and install; the number of packages."""
    from rattler import PackageCache, Subdir, install
    from rattler.exceptions import InstallerError, IoError, LinkError, TransactionError

    platform = Subdir(request.platform)
    client = _client(request)
    specs = [_specification(text, where) for text, where in request.specs]
    began = time.monotonic()
    if request.explicit is None:
        records = await _solved(request, specs, platform, client)
        _say(f"solved for {len(records)} packages in {time.monotonic() - began:.1f} s")
    else:
        records = await _listed(request, client)
    began = time.monotonic()
    try:
        await install(
            records,
            request.prefix,
            platform=platform,
            # conda runs the scripts by which packages finish their own installation, and packages rely on it.
            execute_link_scripts=True,
            show_progress=False,
            client=client,
            package_cache=PackageCache(Path(request.cache, "pkgs")),
        )
    except (InstallerError, IoError, LinkError, TransactionError, OSError) as error:
        raise Refused("install", str(error)) from None
    _say(f"installed {len(records)} packages in {time.monotonic() - began:.1f} s")
    return len(records)


async def _solved(request: Request, specs: list[MatchSpec], platform: Subdir, client: Client) -> list[RepoDataRecord]:
    """The packages that satisfy what is asked for."""
    from rattler import (
        ChannelPriority,
        Gateway,
        MatchSpec,
        SourceConfig,
        Subdir,
        VirtualPackage,
        VirtualPackageOverrides,
        solve,
    )
    from rattler.exceptions import DetectVirtualPackageError, FetchRepoDataError, GatewayError, SolverError

    config = SourceConfig(cache_action="force-cache-only" if request.offline else "cache-or-fetch")
    gateway = Gateway(cache_dir=Path(request.cache, "repodata"), default_config=config, client=client)
    try:
        virtual = VirtualPackage.detect(VirtualPackageOverrides.from_env())
    except DetectVirtualPackageError as error:
        raise Refused("specification", f"a variable CONDA_OVERRIDE_* cannot be kept: {error}") from None
    wanted = list(specs)
    if request.priority == "strict":
        # py-rattler looks at no package that a specification rules out, and so would not see that the first channel
        # has others of its name: to conda, these alone rule out every later channel.
        wanted += [MatchSpec(spec.name.normalized) for spec in specs if spec.channel is None]
    try:
        return await solve(
            _sources(request),
            wanted,
            gateway=gateway,
            platforms=[platform, Subdir("noarch")],
            virtual_packages=virtual,
            channel_priority=ChannelPriority[request.priority.capitalize()],
            constraints=[_specification(text, "conda's setting pinned_packages") for text in request.constraints],
            exclude_newer=_newest(request),
            timestamp_policy="allow-missing",  # conda takes packages that do not say when they were made
            # Only what is configured: a channel must not bring in another one by itself.
            channel_relations="disabled",
            add_pip_as_python_dependency=request.add_pip,
        )
    except SolverError as error:
        raise Refused("solve", str(error)) from None
    except (GatewayError, FetchRepoDataError, OSError) as error:
        raise Refused("install", str(error)) from None


def _newest(request: Request) -> datetime | timedelta | None:
    if request.newest is None:
        return None
    kind, seconds = request.newest
    return timedelta(seconds=seconds) if kind == "age" else datetime.fromtimestamp(seconds, timezone.utc)


def _sources(request: Request) -> list[Channel | MultiSource]:
    from rattler import Channel, MultiSource

    return [
        Channel(urls[0]) if name is None else MultiSource(name, [Channel(url) for url in urls])
        for name, urls in request.channels
    ]


def _specification(text: str, where: str) -> MatchSpec:
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    try:
        return MatchSpec(text)
    except InvalidMatchSpecError as error:
        raise Refused("specification", f"{where}: {text!r} is no specification of a conda package: {error}") from None


async def _listed(request: Request, client: Client) -> list[RepoDataRecord]:
    """The packages of a list, each with what it says of itself."""
    listed = request.explicit or []
    _say(f"reading what {len(listed)} packages say of themselves")
    limit = asyncio.Semaphore(16)

    async def one(url: str, md5: str | None, sha256: str | None) -> RepoDataRecord:
        async with limit:
            return await _record(url, md5, sha256, client)

    return await asyncio.gather(*(one(*package) for package in listed))


async def _record(url: str, md5: str | None, sha256: str | None, client: Client) -> RepoDataRecord:
    from rattler import PackageRecord, RepoDataRecord
    from rattler.package_streaming import PackageArchive

    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            from urllib.request import url2pathname

            archive = await PackageArchive.from_path(url2pathname(parts.path))
        else:
            archive = await PackageArchive.from_url(client, url)
        index = await archive.read_file("info/index.json")
    except Exception as error:  # of the many kinds that Rust raises here none is a common one
        raise Refused("install", f"{url} cannot be read: {error}") from None
    if index is None:
        raise Refused("locked", f"{url} is no conda package: it has no info/index.json")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(index)
        file.flush()
        package = PackageRecord.from_index_json(Path(file.name), sha256=sha256, md5=md5)
    channel = url.rpartition("/")[0].rpartition("/")[0]
    return RepoDataRecord(package, url.rpartition("/")[2], url, f"{channel}/")


def _client(request: Request) -> Client:
    """A client of HTTP that knows tokens, mirrors, users and passwords."""
    from rattler import Client, Config
    from rattler.networking import (
        AddHeadersMiddleware,
        AuthenticationMiddleware,
        GCSMiddleware,
        MirrorMiddleware,
        OciMiddleware,
        RetryMiddleware,
        S3Middleware,
    )

    mirrors = {url: addresses for url, addresses, _ in request.accesses if addresses}
    logins = {url: login for url, _, login in request.accesses if login}
    if not request.verify:
        config = Config.from_toml(f"tls-no-verify = true\n{_logins_file(logins)}[mirrors]\n" + _toml(mirrors))
        return Client.from_config(config, max_retries=request.retries)
    headers = {
        (urlsplit(url).hostname, urlsplit(url).path): "Basic " + b64encode(":".join(login).encode()).decode()
        for url, login in logins.items()
    }

    def authorization(host: str, path: str) -> dict[str, str] | None:
        for (channel_host, channel_path), value in headers.items():
            if host == channel_host and (path == channel_path or path.startswith(f"{channel_path}/")):
                return {"Authorization": value}
        return None

    middlewares: list[Any] = [RetryMiddleware(request.retries)]
    if mirrors:
        middlewares.append(MirrorMiddleware(mirrors))
    if headers:
        middlewares.append(AddHeadersMiddleware(authorization))
    # The user's own: RATTLER_AUTH_FILE, ~/.rattler/credentials.json, the keyring, ~/.netrc.
    middlewares += [AuthenticationMiddleware(), OciMiddleware(), GCSMiddleware(), S3Middleware()]
    return Client(middlewares)


def _logins_file(logins: Mapping[str, tuple[str, str]]) -> str:
    """The setting for a file of credentials that is nowhere but in memory."""
    if not logins:
        return ""
    own = os.environ.get("RATTLER_AUTH_FILE")
    entries = json.loads(Path(own).read_text(encoding="utf-8")) if own else {}
    for url, (user, password) in logins.items():
        entries[urlsplit(url).hostname] = {"BasicHTTP": {"username": user, "password": password}}
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    os.write(descriptor, json.dumps(entries).encode())
    return f'authentication-override-file = "/proc/self/fd/{descriptor}"\n'


def _toml(mirrors: Mapping[str, list[str]]) -> str:
    return "".join(f"{json.dumps(url)} = {json.dumps(addresses)}\n" for url, addresses in mirrors.items())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the caller reads this


if __name__ == "__main__":
    main()
