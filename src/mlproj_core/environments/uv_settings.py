"""pip's settings in uv's own terms.

uv reads neither pip.conf nor `PIP_*` (https://docs.astral.sh/uv/pip/compatibility/), so that a company's private
index would be lost without a word. What the user has told uv itself always prevails, setting by setting.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproj_core.environments.pip_options import CHOOSING, HARMLESS, REFUSED, SWITCHES, TRANSLATED
from mlproj_core.environments.pip_settings import PipSetting, PipSettings, read_pip_settings
from mlproj_core.environments.plan import InstallerSettings, compiler_identity
from mlproj_core.environments.redaction import credentials_in
from mlproj_core.environments.requirements import scan_file
from mlproj_core.environments.uv_config import UvConfig, identity_of_variables, read_uv_config
from mlproj_core.errors import UserError

__all__ = ["UvSettings", "uv_settings"]

_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_FILES: Final = ("UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE")


@dataclass(frozen=True)
class UvSettings(InstallerSettings):
    """How uv is to be run on this host for a project.

    Attributes:
        config: the configuration files that uv will read.
    """

    config: UvConfig


def uv_settings(
    environ: Mapping[str, str],
    directory: Path,
    *,
    extra_indexes: bool = False,
    choosing: bool = True,
    own: Mapping[str, str] | None = None,
) -> UvSettings:
    """Uv's settings for a project: the user's own for uv, and pip's translated.

    Args:
        environ: the environment variables that count.
        directory: the project directory; relative paths in pip's settings are relative to it, as for MLflow.
        extra_indexes: whether the project's requirement lines name further package indexes.
        choosing: whether uv is to choose and build packages as pip would. If not, as where a lock file has chosen,
            pip's settings say no more than where packages are, whom to trust and how to reach them.
        own: text of further `tool.uv` tables that uv will read, by the file that holds them.

    Raises:
        UserError: a setting of pip changes what is installed and has no equal in uv, or is malformed.
    """
    pip = read_pip_settings(environ)
    translation = _Translation(pip, environ, directory, own or {})
    translation.run(extra_indexes=extra_indexes, choosing=choosing)
    environment = {
        name: value
        for name, value in {**environ, **translation.variables}.items()
        if name not in translation.unset and not _misleads(name)
    }
    identity = [*identity_of_variables(environment), *translation.arguments, *translation.config.identity()]
    for name in _FILES:
        for file in environment.get(name, "").split():
            identity += scan_file(file, directory, environ, f"The variable {name} (or pip's setting of that name)")
    identity += compiler_identity(environment)
    secrets = list(credentials_in([one.value for one in pip.settings]))
    secrets += credentials_in(value for name, value in environment.items() if "://" in value)
    secrets += [
        value
        for name, value in environment.items()
        if name.startswith("UV_") and name.endswith(("PASSWORD", "TOKEN")) and len(value) > 3
    ]
    return UvSettings(
        environment,
        tuple(translation.arguments),
        tuple(identity),
        tuple(translation.notes),
        tuple(sorted(set(secrets), key=len, reverse=True)),
        translation.config,
    )


def _misleads(name: str) -> bool:
    """Whether a variable would make uv work on another environment, project or interpreter than it is told."""
    return (
        name in ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
        or name in ("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_ENV_FILE")
        or name in ("UV_NO_PROJECT", "UV_ISOLATED", "UV_FROZEN", "UV_LOCKED", "UV_NO_SYNC")
        or name.startswith(("UV_PROJECT", "UV_VENV_"))
    )


class _Translation:
    """One reading of pip's settings into uv's."""

    def __init__(self, pip: PipSettings, environ: Mapping[str, str], directory: Path, own: Mapping[str, str]) -> None:
        self.pip = pip
        self.environ = environ
        self.directory = directory
        read = read_uv_config(environ, directory)
        self.config = UvConfig(read.project, {**own, **read.texts})
        self.variables: dict[str, str] = {}
        self.unset: set[str] = set()
        self.arguments: list[str] = []
        self.notes: list[str] = []

    def run(self, *, extra_indexes: bool, choosing: bool) -> None:
        if choosing:
            self.refuse()
        else:
            self.leave_aside()
        self.indexes(extra_indexes)
        self.trust()
        self.network()
        if choosing:
            self.selection()
            self.building()

    # -- the user's own word to uv

    def own(self, variables: tuple[str, ...], keys: tuple[str, ...] = ()) -> str | None:
        """Where the user has told uv itself about a matter; None when nowhere."""
        for name in variables:
            if self.environ.get(name):
                return f"the variable {name}"
        return self.config.sets(*keys) if keys else None

    def wanted(self, name: str, variables: tuple[str, ...], keys: tuple[str, ...] = ()) -> PipSetting | None:
        """Pip's setting of this name, unless the user has told uv itself otherwise."""
        setting = self.pip.get(name)
        if setting is not None and (where := self.own(variables, keys)):
            self.notes.append(f"pip's {name} ({setting.origin}) is left aside: {where} tells uv itself")
            return None
        return setting

    # -- what cannot be had

    def refuse(self) -> None:
        for setting in self.pip.settings:
            reason = REFUSED.get(setting.name)
            if reason and (setting.name not in SWITCHES or setting.is_true()):
                raise UserError(
                    f"pip's setting {setting.name} ({setting.origin}) changes what is installed and cannot be kept "
                    f"under uv: {reason}. Remove it, or leave pip's configuration files out with "
                    f"PIP_CONFIG_FILE={os.devnull} and set what is needed as UV_* variables."
                )
        unknown = [
            one
            for one in self.pip.settings
            if one.name not in REFUSED and one.name not in TRANSLATED and one.name not in HARMLESS
        ]
        self.notes += [
            f"pip's {one.name} ({one.origin}) is no option that mlproj knows; uv is not told" for one in unknown
        ]

    def leave_aside(self) -> None:
        """Say which settings of pip have no say where it is not pip's way to choose packages."""
        self.notes += [
            f"pip's {one.name} ({one.origin}) is left aside: `uv sync` goes by the lock file and by [tool.uv]"
            for one in self.pip.settings
            if one.name in CHOOSING or (one.name in REFUSED and (one.name not in SWITCHES or one.is_true()))
        ]

    # -- where packages come from

    def indexes(self, extra_indexes: bool) -> None:
        default = self.wanted("index-url", ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), ("index-url", "default"))
        if default is not None:
            self.variables["UV_DEFAULT_INDEX"] = self.address(default.value)
        extra = self.wanted("extra-index-url", ("UV_INDEX", "UV_EXTRA_INDEX_URL"), ("index", "extra-index-url"))
        if extra is not None:
            found = [self.address(one) for one in extra.words() if self.exists(one, extra)]
            if found:
                self.variables["UV_INDEX"] = " ".join(found)
                extra_indexes = True
        links = self.wanted("find-links", ("UV_FIND_LINKS",), ("find-links",))
        if links is not None:
            found = [self.address(one).replace(",", "%2C") for one in links.words() if self.exists(one, links)]
            if found:
                self.variables["UV_FIND_LINKS"] = ",".join(found)
        no_index = self.wanted("no-index", ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL"), ("no-index", "index"))
        if no_index is not None and no_index.is_true():
            self.arguments.append("--no-index")
        chosen = self.own(
            ("UV_INDEX_STRATEGY", "UV_INDEX", "UV_EXTRA_INDEX_URL"), ("index-strategy", "index", "extra-index-url")
        )
        if extra_indexes and not chosen:
            # pip takes the best version that any of its indexes has, and who wrote these settings counted on it.
            self.variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"

    def exists(self, location: str, setting: PipSetting) -> bool:
        """Whether a location is there, if it is a local one; pip passes over those that are not, uv may stop."""
        path = _local_path(location, self.directory)
        if path is None or path.exists():
            return True
        self.notes.append(f"pip's {setting.name} ({setting.origin}) names {path}, which does not exist: passed over")
        return False

    def address(self, location: str) -> str:
        """A location as a URL, so that it means the same wherever uv runs."""
        path = _local_path(location, self.directory)
        return location if path is None or location.startswith("file:") else path.as_uri()

    # -- whom to trust

    def trust(self) -> None:
        hosts = self.wanted("trusted-host", ("UV_INSECURE_HOST",), ("allow-insecure-host", "trusted-host"))
        if hosts is not None:
            self.variables["UV_INSECURE_HOST"] = " ".join(hosts.words())
        certificates = self.pip.get("cert")
        if certificates is not None:
            path = self.file(certificates)
            # pip's own setting is about packages, SSL_CERT_FILE about programs of any kind.
            self.unset |= {"SSL_CERT_FILE", "SSL_CERT_DIR"}
            variable = "SSL_CERT_DIR" if path.is_dir() else "SSL_CERT_FILE"
            self.unset.discard(variable)
            self.variables[variable] = str(path)
        elif not self.environ.get("SSL_CERT_FILE"):
            for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # pip honours them, uv does not
                if (bundle := self.environ.get(variable)) and Path(bundle).exists():
                    self.variables["SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"] = bundle
                    break
        client = self.wanted("client-cert", ("SSL_CLIENT_CERT",))
        if client is not None:
            self.variables["SSL_CLIENT_CERT"] = str(self.file(client))
        features = {word for one in self.pip.all("use-feature") for word in one.words()}
        if "truststore" in features and not self.own(
            ("UV_SYSTEM_CERTS", "UV_NATIVE_TLS"), ("system-certs", "native-tls")
        ):
            # The first name is today's, the second that of uv before 0.9.
            self.variables |= {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
        keyring = self.wanted("keyring-provider", ("UV_KEYRING_PROVIDER",), ("keyring-provider",))
        if keyring is not None:
            self.keyring(keyring)

    def keyring(self, setting: PipSetting) -> None:
        if setting.value == "import":
            raise UserError(
                f"pip's setting keyring-provider=import ({setting.origin}) cannot be kept: uv can only run the program "
                "`keyring`. Put it on PATH and set keyring-provider=subprocess, or UV_KEYRING_PROVIDER."
            )
        if setting.value in ("disabled", "subprocess"):
            self.variables["UV_KEYRING_PROVIDER"] = setting.value

    def file(self, setting: PipSetting) -> Path:
        path = self.directory / Path(setting.value).expanduser()
        if not path.exists():
            raise UserError(f"pip's setting {setting.name} ({setting.origin}) names {path}, which does not exist.")
        return path

    # -- how to reach it

    def network(self) -> None:
        proxy = self.pip.get("proxy")
        ignored = self.pip.get("no-proxy-env")
        if proxy is not None or (ignored is not None and ignored.is_true()):
            for name in _PROXIES:
                self.unset |= {name, name.lower()}
        if proxy is not None:
            for name in _PROXIES:
                self.variables |= {name: proxy.value, name.lower(): proxy.value}
                self.unset -= {name, name.lower()}
        own = ("UV_HTTP_TIMEOUT", "UV_REQUEST_TIMEOUT", "HTTP_TIMEOUT")
        timeout = self.wanted("timeout", own)
        if timeout is not None:
            self.variables["UV_HTTP_TIMEOUT"] = str(max(1, math.ceil(self.number(timeout))))
        retries = self.wanted("retries", ("UV_HTTP_RETRIES",))
        if retries is not None:
            self.variables["UV_HTTP_RETRIES"] = str(int(self.number(retries)))

    def number(self, setting: PipSetting) -> float:
        try:
            return float(setting.value)
        except ValueError:
            raise UserError(
                f"pip's setting {setting.name} ({setting.origin}) must be a number; got {setting.value!r}."
            ) from None

    # -- what to choose

    def selection(self) -> None:
        for name, variable in (("constraint", "UV_CONSTRAINT"), ("build-constraint", "UV_BUILD_CONSTRAINT")):
            setting = self.wanted(name, (variable,), (f"{name}-dependencies",))
            if setting is not None:
                self.variables[variable] = " ".join(setting.words())
        pre = self.wanted("pre", ("UV_PRERELEASE",), ("prerelease",))
        if pre is not None and pre.is_true():
            self.variables["UV_PRERELEASE"] = "allow"
        newest = self.wanted("uploaded-prior-to", ("UV_EXCLUDE_NEWER",), ("exclude-newer",))
        if newest is not None:
            self.variables["UV_EXCLUDE_NEWER"] = newest.value
        hashes = self.wanted("require-hashes", ("UV_REQUIRE_HASHES",), ("require-hashes",))
        if hashes is not None and hashes.is_true():
            self.variables["UV_REQUIRE_HASHES"] = "true"
        for name, option in (("no-deps", "--no-deps"), ("upgrade", "--upgrade")):
            switch = self.wanted(name, (), (name,))
            if switch is not None and switch.is_true():
                self.arguments.append(option)

    # -- how to build

    def building(self) -> None:
        sources, wheels = self.formats()
        if (":all:" in sources and wheels) or (":all:" in wheels and sources):
            both = " and ".join(f"{one.name} ({one.origin})" for one in self.pip.all("no-binary", "only-binary"))
            raise UserError(f"pip's settings {both} cannot be kept together under uv: name the packages one by one.")
        for option, names in (("--no-binary", sources), ("--only-binary", wheels)):
            for name in names:
                self.arguments += [option, name]
        isolation = self.wanted("no-build-isolation", ("UV_NO_BUILD_ISOLATION",), ("no-build-isolation",))
        # pip stores the value in `build_isolation`, so that only "no" and "0" switch isolation off.
        if isolation is not None and not isolation.is_true():
            self.variables["UV_NO_BUILD_ISOLATION"] = "true"
        for setting in self.pip.all("config-settings"):
            self.arguments += ["--config-setting", setting.value]

    def formats(self) -> tuple[list[str], list[str]]:
        """Packages to build from source, and those to take as wheels, added up as pip adds them up."""
        found: dict[str, list[str]] = {"no-binary": [], "only-binary": []}
        where = self.own(("UV_NO_BINARY", "UV_NO_BINARY_PACKAGE", "UV_NO_BUILD", "UV_NO_BUILD_PACKAGE"),
                         ("no-binary", "only-binary", "no-build", "no-binary-package", "no-build-package"))  # fmt: skip
        settings = list(self.pip.all("no-binary", "only-binary"))
        if where and settings:
            self.notes.append(f"pip's no-binary and only-binary are left aside: {where} tells uv itself")
            return [], []
        for setting in settings:
            target = found[setting.name]
            other = found["only-binary" if setting.name == "no-binary" else "no-binary"]
            for name in (part.strip() for part in setting.value.split(",")):
                if name == ":all:":
                    target[:], other[:] = [name], []
                elif name == ":none:":
                    target.clear()
                elif name and target != [":all:"]:
                    target.append(name)
                    other[:] = [one for one in other if one != name]
        return found["no-binary"], found["only-binary"]


def _local_path(location: str, directory: Path) -> Path | None:
    """The path that a location stands for; None when it is a remote address."""
    if location.startswith("file:"):
        from urllib.parse import unquote, urlsplit

        return Path(unquote(urlsplit(location).path))
    if "://" in location:
        return None
    return Path(os.path.normpath(directory / Path(location).expanduser()))
