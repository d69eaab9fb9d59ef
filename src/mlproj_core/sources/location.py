"""A project's URI taken apart: what kind of place it names, and what of it is secret.

The rules are MLflow's (`mlflow.projects.utils`): a URI that ends in `.zip` is an archive, one that names an existing
directory is local, everything else is Git; the first `#` starts a subdirectory. Tar archives, and pip's forms `git+…`,
`#subdirectory=…` and `#sha256=…`, are read as well.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlproj_core.errors import UserError

__all__ = ["Credentials", "Location", "bare_url", "login", "redact", "usual_user"]

_SUPPORTED = (
    "A project's URI is a local directory, file://…, an archive (.zip, .tar.gz, .tar.bz2, .tar.xz or .tar, as a path, "
    "file://…, https://… or http://…), or a Git repository: https://…, http://…, ssh://…, git://…, git@host:path, a "
    "bare repository's path, or one of these with git+ before it; each may end in #subdirectory."
)
_ARCHIVE = re.compile(r".+\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
_OTHER_ARCHIVE = re.compile(r".+\.(whl|egg|conda|rar|7z|tar\.(Z|lz|lz4|lzo|br)|jar)$", re.IGNORECASE)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_SCP = re.compile(r"(?:(?P<user>[^@/:\s]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^@/:\s\[\]-][^@/:\s\[\]]*):(?P<path>.+)")
_TOKEN = re.compile(r"(gh[a-z]_|github_pat_|glpat-|gl[a-z]+-)")
"""How the tokens of the widespread hosts begin: one that stands in a user's place is a secret all the same."""
_SECRET_PARAMETER = re.compile(
    r"(?<=[?&])([^=&#]*(?:sig|token|secret|passw|key|credential|auth)[^=&#]*=)[^&#]+", re.IGNORECASE
)
"""A parameter in a URL's query that lets whoever knows it in, as in the signed addresses of object stores."""
_NO_HOSTS = frozenset({"dbfs", "runs", "models", "mlflow-artifacts"})
"""Prefixes of MLflow's artifact URIs, which would else read as the host of `host:path`."""


@dataclass(frozen=True)
class Credentials:
    """A login for a repository. Its text shows nothing of it.

    Attributes:
        username: None when only a password or token is known.
        password: None when only a user is known, whose password Git's helpers may know.
    """

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Location:
    """A project's URI, taken apart.

    Attributes:
        uri: the URI as given, without credentials.
        url: what git is to be given: a URL without credentials, or an absolute path. Of an archive, its address.
        path: the local directory or archive it names, absolute; None for what is remote.
        forced_git: whether `git+` asks for Git where a local directory would run in place.
        subdirectory: path below the root, without `.` and `..`; empty for the root itself.
        revision: the version written as `@revision` in pip's form; None without one.
        credentials: the login written in the URL.
        has_fragment: whether the URI as given has a `#`.
        is_archive: whether it names an archive.
        sha256: the digest that the archive must have, in lower case; None for any.
    """

    uri: str
    url: str = field(repr=False)
    path: Path | None = None
    forced_git: bool = False
    subdirectory: str = ""
    revision: str | None = None
    credentials: Credentials = Credentials()
    has_fragment: bool = False
    is_archive: bool = False
    sha256: str | None = None

    @classmethod
    def parse(cls, uri: str) -> Location:
        """The location that the URI names.

        Raises:
            UserError: it is of no supported kind, or its subdirectory would leave the project's root.
        """
        shown = redact(uri)
        text = uri.strip("'\"")
        if not text or "\0" in text or "\n" in text:
            raise UserError(f"Not a project's URI: {shown!r}. {_SUPPORTED}")
        text, marker, fragment = text.partition("#")
        location = cls(uri=shown, url="", has_fragment=bool(marker))
        if not text.startswith("git+") and (path := _local_path(text, shown)) is not None:
            if path.is_dir():
                subdirectory = _subdirectory(fragment, shown)
                return replace(location, url=str(path), path=path, subdirectory=subdirectory)
            if path.is_file() and _ARCHIVE.match(path.name):
                return _archive_location(replace(location, url=str(path), path=path), fragment)
            raise UserError(_refusal(path, shown))
        if (archive := _remote_archive(location, text, fragment)) is not None:
            return archive
        return _git_location(location, text, fragment)


def login(location: Location, token: str | None) -> Credentials:
    """The login for a location: the token given, else the URI's own, else the variable MLPROJ_GIT_TOKEN.

    Raises:
        UserError: the token has more than one line.
    """
    own = location.credentials
    token = (token or "").strip()
    if not token and own.password is None:
        token = os.environ.get("MLPROJ_GIT_TOKEN", "").strip()
    if not token:
        return own
    if "\n" in token or "\r" in token:
        raise UserError("The token for Git has more than one line. Give the token alone.")
    return Credentials(own.username, token)


def redact(uri: str) -> str:
    """The URI without the credentials in it: fit for a log, a tag or an error.

    The user of an ssh URL stays, since it names an account (`git`) and not a person's secret.
    """
    quote = uri[: len(uri) - len(uri.lstrip("'\""))]
    found = _URL.match(uri[len(quote) :])
    if found is None:
        return uri
    scheme, authority, rest = found["scheme"], found["authority"], found["rest"]
    user, at, host = authority.rpartition("@")
    if not at and re.search(r":.*\D", authority.rpartition("]")[2]) and "@" in rest:
        # A password with an unencoded `/`, `?` or `#` ends the authority early: what follows is still secret.
        host, rest = "", rest.rpartition("@")[2]
    if at and "ssh" in scheme.lower() and not _TOKEN.match(user):
        host = f"{user.partition(':')[0]}@{host}"
    return f"{quote}{scheme}://{host}" + _SECRET_PARAMETER.sub(r"\1***", rest)


def usual_user(host: str) -> str:
    """The user's name that goes with a bare token; most hosts take any, some want their own."""
    if "bitbucket" in host:
        return "x-token-auth"
    return "oauth2" if "gitlab" in host else "x-access-token"


def bare_url(url: str) -> str:
    """A repository's URL as MLflow tags it: without user and password, also for ssh."""
    found = _URL.match(url)
    if found is None:
        return url
    redacted = _URL.match(redact(url))
    assert redacted is not None  # noqa: S101 -- redacting keeps the scheme
    return f"{found['scheme']}://{redacted['authority'].rpartition('@')[2]}{redacted['rest']}"


def _local_path(text: str, shown: str) -> Path | None:
    """The absolute path that the text names; None when it names nothing local."""
    if text.startswith("file://"):
        from urllib.parse import unquote

        authority, slash, rest = text[len("file://") :].partition("/")
        if authority not in ("", "localhost") or not slash:
            raise UserError(
                f"{shown}: a file:// URI names an absolute path on this host, as in file:///srv/project; "
                f"{authority!r} stands where a host's name would."
            )
        literal = Path("/" + rest)
        # MLflow takes the path as written; RFC 8089 percent-encodes it.
        path = literal if literal.exists() else Path("/" + unquote(rest))
        return Path(os.path.normpath(path))
    try:
        path = Path(text)
        # Not resolved: MLflow's tags show a path as it was given.
        return Path(os.path.normpath(path.absolute())) if path.exists() else None
    except ValueError:
        return None


def _refusal(path: Path, shown: str) -> str:
    is_archive = _ARCHIVE.match(path.name)
    if not path.exists():
        return f"{shown}: there is no {'archive' if is_archive else 'directory'} {path}."
    if _OTHER_ARCHIVE.match(path.name):
        return _other_archive(path.name, shown)
    return f"{shown} is {'no' if is_archive else 'a'} file. Give the project's directory: {path.parent}"


def _other_archive(name: str, shown: str) -> str:
    if name.lower().endswith((".whl", ".egg", ".conda")):
        return (
            f"{shown} is a built package, which does not hold the project's own files. Give its source distribution "
            "(.tar.gz), its repository, or a directory."
        )
    return f"{shown}: archives of this kind are not supported. Make it a .tar.gz or a .zip. {_SUPPORTED}"


def _remote_archive(location: Location, text: str, fragment: str) -> Location | None:
    """The location of an archive on a web server; None when the text names none."""
    url = _URL.match(text)
    if url is None or url["scheme"].lower() not in ("http", "https"):
        return None
    place = url["rest"].partition("?")[0]
    if _OTHER_ARCHIVE.match(place):
        raise UserError(_other_archive(place, location.uri))
    # MLflow looks at the end of the URL, also where that is the query's.
    if not _ARCHIVE.match(place) and not _ARCHIVE.match(url["rest"]):
        return None
    address, credentials = _without_credentials(url, location.uri)
    return _archive_location(replace(location, url=address, credentials=credentials), fragment)


def _archive_location(location: Location, fragment: str) -> Location:
    """The location of an archive, with what its fragment says: a subdirectory, or pip's `name=value&…`."""
    settings = _settings(fragment)
    for name in settings:
        if name not in ("subdirectory", "egg", "sha256"):
            raise UserError(
                f"{location.uri}: {name}= is not supported behind the # of an archive. Known are subdirectory= and "
                "sha256=, with & between them."
            )
    digest = settings.get("sha256")
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UserError(f"{location.uri}: sha256= wants the 64 hexadecimal digits that sha256sum prints.")
    return replace(
        location,
        is_archive=True,
        subdirectory=_subdirectory(settings.get("subdirectory", "") if settings else fragment, location.uri),
        sha256=digest.lower() if digest is not None else None,
    )


def _settings(fragment: str) -> dict[str, str]:
    """What a fragment in pip's form says; empty when it is a subdirectory in MLflow's."""
    if not re.match(r"(subdirectory|egg|sha\d+|md5)=", fragment):
        return {}
    return dict(part.partition("=")[::2] for part in fragment.split("&"))


def _git_location(location: Location, text: str, fragment: str) -> Location:
    shown = location.uri
    forced = text.startswith("git+")
    text = text.removeprefix("git+")
    if text.startswith("-") or re.match(r"[A-Za-z0-9+.-]+::", text):
        raise UserError(
            f"{shown}: a transport that runs a program, or a name that starts with a dash, is refused. {_SUPPORTED}"
        )
    settings = _settings(fragment)
    if any(re.match(r"sha\d+$|md5$", name) for name in settings):
        raise UserError(f"{shown}: a digest is for archives. In a Git repository, a commit given as version is one.")
    subdirectory = _subdirectory(settings.get("subdirectory", "") if settings else fragment, shown)
    revision = None
    if forced and (at := re.search(r"(?<=[^/:@])@([^@:]+)$", _path_part(text))):
        revision, text = at[1], text[: -len(at[0])]
    location = replace(location, subdirectory=subdirectory, revision=revision, forced_git=forced)
    if forced and (text.startswith("file://") or text.startswith("/")):
        path = _local_path(text, shown)
        if path is None or not path.is_dir():
            raise UserError(f"{shown}: there is no directory {path or text}.")
        return replace(location, url=str(path), path=path)
    url = _URL.match(text)
    if url is None:
        scp = _SCP.fullmatch(text)
        if scp is None or scp["host"].lower() in _NO_HOSTS:
            hint = f" Did you mean https://{text}?" if re.match(r"[\w-]+(\.[\w-]+)+/", text) else ""
            raise UserError(
                f"{shown}: no such directory or archive, and not a Git repository's URL.{hint} {_SUPPORTED}"
            )
        return replace(location, url=text)
    if url["scheme"].lower() not in ("https", "http", "ssh", "git", "git+ssh", "ssh+git"):
        raise UserError(f"{shown}: {url['scheme']}:// is not supported. {_SUPPORTED}")
    url_text, credentials = _without_credentials(url, shown)
    return replace(location, url=url_text, credentials=credentials)


def _path_part(text: str) -> str:
    """What follows the host, since only there an `@` can start a revision."""
    if url := _URL.match(text):
        return str(url["rest"])
    scp = _SCP.fullmatch(text)
    return scp["path"] if scp else ""


def _without_credentials(url: re.Match[str], shown: str) -> tuple[str, Credentials]:
    from urllib.parse import unquote

    scheme, authority, rest = url["scheme"].lower(), url["authority"], url["rest"]
    login, at, host = authority.rpartition("@")
    name, colon, port = host.rpartition(":")
    if not host or host.startswith("-") or (colon and not name.startswith("[") and not port.isdigit()):
        raise UserError(
            f"{shown}: no host's name can be read from this URL. In a user or password, the characters "
            "/ ? # @ : must be percent-encoded."
        )
    user, colon, password = login.partition(":")
    if "ssh" in scheme:
        if colon:
            raise UserError(f"{shown}: ssh takes no password from a URL. Use a key, or an ssh agent.")
        if user.startswith("-"):
            raise UserError(f"{shown}: a user's name cannot start with a dash.")
        return f"{scheme}://{authority}{rest}", Credentials()
    bare = f"{scheme}://{host}{rest}"
    if not at:
        return bare, Credentials()
    if not colon and _TOKEN.match(user):
        return bare, Credentials(password=unquote(user))
    if not user and colon:
        return bare, Credentials(password=unquote(password))
    return bare, Credentials(unquote(user), unquote(password) if colon else None)


def _subdirectory(fragment: str, shown: str) -> str:
    """The fragment as a relative path that stays below its root."""
    parts = [part for part in fragment.split("/") if part not in ("", ".")]
    if fragment.startswith("/") or ".." in parts or ".git" in (part.lower() for part in parts):
        raise UserError(
            f"{shown}: the subdirectory {fragment!r} would leave the project's root. "
            "Give a path below it, without .. and without a leading slash."
        )
    return "/".join(parts)
