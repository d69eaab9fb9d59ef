"""The settings of pip, and in uv's terms."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import sys

from mlproj_core.launcher.program.programs import content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


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
                elif name == "timeout":
                    value = value.partition(".")[0] or "1"  # which uv wants whole
                environ[variable] = " ".join(value.split())
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
