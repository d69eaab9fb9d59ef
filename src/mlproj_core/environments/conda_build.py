"""The making of one conda environment: its packages, its variables, the part of pip, the file that activates it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mlproj_core.environments.builder import Builder, is_passing
from mlproj_core.environments.conda_activation import write_activation, write_variables
from mlproj_core.environments.conda_cache import in_use
from mlproj_core.environments.conda_channels import Channels, explicit_packages
from mlproj_core.environments.conda_lock_file import read_conda_lock
from mlproj_core.environments.conda_plan import Plan
from mlproj_core.environments.conda_program import CondaProgram, find_program, missing, rattler_installed
from mlproj_core.environments.conda_settings import CondaSettings
from mlproj_core.environments.redaction import redact
from mlproj_core.environments.requirements import read_requirements
from mlproj_core.errors import EnvironmentBuildError, UserError
from mlproj_core.spec.conda_file import ExplicitPackage, selected
from mlproj_core.status import Reason, ReasonCode

__all__ = ["Build"]

_REFUSED_ACCESS: Final = re.compile(r"\b(401|403)\b")
_NAME: Final = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)")
_IN_ENVIRONMENT: Final = '. "$0"; exec "$@"'


class Build:
    """The making of one environment in its place. The caller holds the lock, and removes what a failure leaves."""

    def __init__(self, plan: Plan, lock: int, report: Callable[[str], None]) -> None:
        self.plan = plan
        self.lock = lock
        self.report = report
        self.origin = plan.recipe.origin(plan.directory)

    def run(self) -> None:
        """Make it, and mark it complete.

        Raises:
            UserError: as for `CondaManager.ensure`.
            EnvironmentBuildError: as for `CondaManager.ensure`.
        """
        plan, slot, began = self.plan, self.plan.slot, time.monotonic()
        for note in (*plan.settings.notes, *(plan.pip.notes if plan.pip else ())):
            self.report(note)
        explicit, channels, requirements = plan.explicit, plan.channels, plan.requirements
        if plan.lock is not None:
            locked = read_conda_lock(plan.lock, self.origin, plan.platform)
            explicit, channels = explicit_packages(locked.conda, plan.settings, plan.folder, os.environ)
            requirements = locked.pip
        read = read_requirements(requirements, plan.folder, os.environ, self.origin)
        secrets = tuple({*plan.secrets, *channels.secrets(), *read.secrets})
        self.report(f"building conda environment {slot.key[:12]} of {self.origin} for {plan.platform}")
        if rattler_installed():
            with in_use() as (cache, lock):
                self.install(channels, explicit, secrets, cache, lock)
        elif program := find_program(os.environ):
            self.create(program, explicit, secrets)
        else:
            raise EnvironmentBuildError(f"No conda environment can be made: {missing()}.")
        write_variables(slot.prefix, dict(plan.recipe.variables))
        activation = write_activation(slot.prefix)
        if requirements:
            self.pip(requirements, read.packages, activation, secrets)
            write_activation(slot.prefix)
        python = _python(slot.prefix)
        slot.mark_complete(
            {
                "manager": "conda",
                "python": python,
                "interpreter": str(slot.prefix / "bin" / "python") if python else "",
                "purpose": plan.recipe.path or str(plan.directory),
                "editable": [str(path) for path in read.editable],
            }
        )
        self.report(f"environment {slot.key[:12]} is ready after {time.monotonic() - began:.1f} s")

    # -- by py-rattler

    def install(
        self,
        channels: Channels,
        explicit: tuple[ExplicitPackage, ...] | None,
        secrets: tuple[str, ...],
        cache: Path,
        lock: int,
    ) -> None:
        """Solve and install by py-rattler, with what `conda_cache.in_use` yields."""
        from mlproj_core.environments.conda_installer import Request

        settings = self.plan.settings
        verify = settings.settings.get("ssl_verify")
        request = Request(
            prefix=str(self.plan.slot.prefix),
            cache=str(cache),
            platform=self.plan.platform,
            channels=[(channel.name if channel.group else None, list(channel.urls)) for channel in channels.channels],
            specs=list(zip(channels.specs, self.plan.wheres, strict=True)),
            constraints=list(settings.pins()),
            priority=settings.channel_priority(),
            explicit=None if explicit is None else [(one.url, one.md5, one.sha256) for one in explicit],
            accesses=[(access.url, list(access.addresses), access.login) for access in channels.accesses],
            verify=verify is None or str(verify.value).lower() not in ("false", "no", "0", "off"),
            newest=settings.newest(),
            offline=settings.switch("offline", False),
            retries=_number(settings, "remote_max_retries", 3),
            add_pip=settings.switch("add_pip_as_python_dependency", True),
        )
        answer = json.loads(self.installer(request.to_json(), secrets, lock))
        if error := answer.get("error"):
            raise self.error(error["kind"], redact(error["message"], secrets))

    def installer(self, request: str, secrets: tuple[str, ...], lock: int) -> str:
        """What the installer answers; it inherits the lock on its cache."""
        import sys

        from mlproj_core.environments.program import Failure, run_program

        # With the path of mlproj itself, since this process may have found it by other means than its site-packages.
        code = (
            "import sys; sys.path.append(sys.argv.pop(1)); from runpy import run_module; "
            "run_module('mlproj_core.environments.conda_installer', run_name='__main__', alter_sys=True)"
        )
        try:
            answer = run_program(
                [sys.executable, "-c", code, str(Path(__file__).parents[2])],
                environment=_network(self.plan.settings, os.environ),
                directory=self.plan.folder,
                secrets=secrets,
                report=self.report,
                given=request,
                keep_open=(self.lock, lock),
            )
        except Failure as failure:
            raise self.error("install", "\n".join(failure.lines)) from None
        return answer[-1]

    # -- by the program of a conda installation

    def create(
        self, program: CondaProgram, explicit: tuple[ExplicitPackage, ...] | None, secrets: tuple[str, ...]
    ) -> None:
        """Have a program of conda's make it, of a file that says what is wanted on this platform."""
        import tempfile

        from mlproj_core.environments.conda_program import environment_file, explicit_file
        from mlproj_core.environments.program import Failure, run_program

        if self.plan.recipe.holds_credentials():
            raise UserError(
                f"{self.origin} holds the password or token of a channel, which would have to be written down for "
                f"{program.path}. Put it into ~/.netrc or ~/.condarc, or install py-rattler: "
                "pip install 'mlproj[conda]'."
            )
        self.report(f"py-rattler is not there: {program.path} (found by {program.origin}) makes it")
        with tempfile.TemporaryDirectory(prefix="mlproj-") as folder:
            if explicit is not None:
                file = Path(folder, "explicit.txt")
                file.write_text(explicit_file([(one.url, one.md5, one.sha256) for one in explicit]), encoding="utf-8")
            else:
                file = Path(folder, "environment.yml")
                content: dict[str, Any] = {"name": "mlproj", "dependencies": self.listed()}
                if self.plan.recipe.channels:
                    content["channels"] = list(self.plan.recipe.channels)
                file.write_text(environment_file(content), encoding="utf-8")
            try:
                run_program(
                    program.create(self.plan.slot.prefix, file, explicit=explicit is not None),
                    environment=program.environment(os.environ),
                    directory=self.plan.folder,
                    secrets=secrets,
                    report=self.report,
                    keep_open=(self.lock,),
                    answers=False,
                )
            except Failure as failure:
                raise self.error("install", "\n".join(failure.lines), program.name) from None
        if not (self.plan.slot.prefix / "conda-meta").is_dir():
            raise self.error(
                "install", f"it ended well, but left no environment in {self.plan.slot.prefix}", program.name
            )

    def listed(self) -> list[str]:
        """The specifications of packages as they are written: conda finds its channels itself."""
        recipe, platform = self.plan.recipe, self.plan.platform
        written = [package.text for package in recipe.packages if selected(package.selector, platform)]
        return [*written, "pip"] if self.plan.requirements and not recipe.lists_pip else written

    # -- the part of pip

    def pip(
        self, requirements: tuple[str, ...], local: tuple[str, ...], activation: Path, secrets: tuple[str, ...]
    ) -> None:
        """Install requirement lines by uv, in the activated environment as conda does."""
        from mlproj_core.environments.uv_config import configured_at
        from mlproj_core.environments.uv_manager import refreshed
        from mlproj_core.environments.uv_program import find_uv

        settings, prefix = self.plan.pip, self.plan.slot.prefix
        assert settings is not None  # noqa: S101 - there are requirements
        if not _python(prefix):
            raise UserError(f"{self.origin} lists packages for pip, but no python among those of conda. Add it there.")
        locked = self.plan.lock is not None
        options = [*settings.arguments, *refreshed(local)]
        if locked:
            options += ["--no-deps", *(["--require-hashes"] if all("--hash=" in one for one in requirements) else [])]
        else:
            # As `pip install -U` by conda: the newest of what is listed, also where conda has brought one.
            names = [match[1] for one in requirements if (match := _NAME.match(one))]
            options += [option for name in dict.fromkeys(names) for option in ("--upgrade-package", name)]
        command = [
            *("bash", "-c", _IN_ENVIRONMENT, str(activation)),
            *(find_uv(os.environ), "pip", "install", "--python", str(prefix / "bin" / "python")),
            *("--break-system-packages", *options, "-r", "-"),
            *("--color", "never", "--project", str(configured_at(settings.config))),
        ]
        Builder(self.plan.folder, secrets, self.lock, self.report).run(
            f"install the pip part of {self.origin}",
            command,
            settings.environment,
            given="\n".join(requirements) + "\n",
        )

    def error(self, kind: str, words: str, program: str = "py-rattler") -> UserError | EnvironmentBuildError:
        """The error for what an installer says."""
        text = "\n".join(f"  {line}" for line in words.splitlines() if line.strip())
        if kind == "specification":
            return UserError(words)
        if kind == "solve":
            named = ", ".join(channel.name for channel in self.plan.channels.channels) or "none"
            message = (
                f"conda's packages of {self.origin} cannot be installed together. The solver says:\n{text}\n"
                f"Channels, the one that prevails first: {named} (channel priority "
                f"{self.plan.settings.channel_priority()}); platform: {self.plan.platform}."
            )
        else:
            message = f"{program} could not make the environment of {self.origin}:\n{text}"
            if _REFUSED_ACCESS.search(text):
                message += (
                    "\nFor a channel that wants credentials, put them into the channel's URL in ~/.condarc, into "
                    "~/.netrc or into the file that RATTLER_AUTH_FILE names."
                )
        if self.plan.recipe.pip_only:
            message += (
                "\nThe file asks conda for nothing but Python and pip: it can be run without conda, with env_manager "
                "'uv' (`mlproj run --env-manager uv`)."
            )
        return _failure(message, retryable=kind == "install" and is_passing(text))


def _failure(message: str, *, retryable: bool) -> EnvironmentBuildError:
    return EnvironmentBuildError(message, reason=Reason(ReasonCode.ENVIRONMENT, message, retryable=retryable))


def _number(settings: CondaSettings, name: str, default: int) -> int:
    text = settings.text(name, str(default))
    if not text.isdigit():
        raise UserError(f"conda's setting {name} ({settings.settings[name].origin}) must be a number; got {text!r}.")
    return int(text)


def _network(settings: CondaSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the installer: the certificates and proxies that conda would use."""
    variables = dict(environ)
    verify = settings.settings.get("ssl_verify")
    bundle = str(verify.value) if verify is not None else ""
    if bundle.lower() in ("", "true", "false", "yes", "no", "1", "0", "on", "off", "truststore"):
        bundle = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or ""
    elif not Path(bundle).expanduser().exists():
        origin = verify.origin if verify else ""
        raise UserError(f"conda's setting ssl_verify ({origin}) names {bundle}, which does not exist.")
    if bundle:
        path = Path(bundle).expanduser()
        variables["SSL_CERT_DIR" if path.is_dir() else "SSL_CERT_FILE"] = str(path)
    for scheme, proxy in settings.mapping("proxy_servers").items():
        name = "ALL_PROXY" if scheme == "all" else f"{str(scheme).upper()}_PROXY"
        if "://" in str(scheme):
            raise UserError(
                f"conda's setting proxy_servers ({settings.settings['proxy_servers'].origin}) names a proxy for "
                f"{scheme} alone, which py-rattler cannot keep. Name it for http or https, and leave hosts out by "
                "NO_PROXY."
            )
        variables |= {name: str(proxy), name.lower(): str(proxy)}
    return variables


def _python(prefix: Path) -> str:
    """The version of the Python in an environment, as its packages say; empty without one."""
    for path in (prefix / "conda-meta").glob("python-*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("name") == "python":
            return str(record.get("version", ""))
    return ""
