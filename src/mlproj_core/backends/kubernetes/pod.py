"""The pod of an attempt: the template's, with the project's container and all that it needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlproj_core.backends.kubernetes.code import FILES, WORK, ArchiveCode, ImageCode, code_container, escaped
from mlproj_core.backends.kubernetes.parts import CACHE, RESULT, JobParts
from mlproj_core.backends.kubernetes.secret import CODE_KEY, LAUNCHER_KEY, PLAN_KEY
from mlproj_core.backends.kubernetes.security import IDENTITY, has_identity, secured
from mlproj_core.backends.kubernetes.template import CONTAINER
from mlproj_core.containers import CODE
from mlproj_core.errors import UserError

__all__ = ["LAUNCH", "pod_spec"]

LAUNCH = ("python3", "-I", f"{FILES}/{LAUNCHER_KEY}", f"{FILES}/{PLAN_KEY}")
TMP = "/tmp"  # noqa: S108 - a volume of the pod's own


@dataclass(frozen=True)
class _Volume:
    """A volume that mlproj adds, and where it is mounted."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = False

    @property
    def mount(self) -> dict[str, Any]:
        mount = {"name": self.name, "mountPath": self.path}
        return {**mount, "readOnly": True} if self.read_only else mount


def pod_spec(parts: JobParts) -> dict[str, Any]:
    """The pod's spec.

    Raises:
        UserError: the template's container cannot be the project's.
    """
    config = parts.config
    pod: dict[str, Any] = copy.deepcopy(dict(parts.template.pod))
    containers = pod.get("containers") or [{}]
    index = parts.template.index(parts.project_name)
    given = containers[index]
    taken = {one.get("mountPath", "").rstrip("/") for one in given.get("volumeMounts") or ()}
    if FILES in taken:
        raise UserError(f"{parts.template.source}: the volume at {FILES} is mlproj's own; mount yours elsewhere.")
    volumes = [one for one in _volumes(parts) if one.path not in taken]
    main = _main(given, pod, volumes, parts)
    containers[index] = main
    if (code := _code_container(main, pod, volumes, parts)) is not None:
        pod["initContainers"] = [*(pod.get("initContainers") or ()), code]
    pod["containers"] = containers
    pod["volumes"] = [*(pod.get("volumes") or ()), *({"name": one.name, **one.source} for one in volumes)]
    pod["restartPolicy"] = "Never"
    # Variables of every service in the namespace: one that is called mlflow would set MLFLOW_PORT.
    pod.setdefault("enableServiceLinks", False)
    if config.service_account is not None:
        pod["serviceAccountName"] = config.service_account
        pod.pop("serviceAccount", None)  # the old name of the same field
    elif "serviceAccountName" not in pod and "serviceAccount" not in pod:
        pod.setdefault("automountServiceAccountToken", False)
    if config.grace is not None:
        pod["terminationGracePeriodSeconds"] = config.grace
    if config.image_pull_secrets:
        known = {one.get("name"): one for one in pod.get("imagePullSecrets") or ()}
        pod["imagePullSecrets"] = list(
            {**known, **{name: {"name": name} for name in config.image_pull_secrets}}.values()
        )
    if config.node_selector:
        pod["nodeSelector"] = {**(pod.get("nodeSelector") or {}), **config.node_selector}
    if config.tolerations:
        pod["tolerations"] = [*(pod.get("tolerations") or ()), *map(dict, config.tolerations)]
    if parts.launcher and config.cache_volume is not None and has_identity(given, pod, config):
        # What is mounted there belongs to root at first.
        context = pod.setdefault("securityContext", {})
        if "fsGroup" not in context:
            context |= {"fsGroup": config.run_as_user, "fsGroupChangePolicy": "OnRootMismatch"}
    return pod


def _volumes(parts: JobParts) -> list[_Volume]:
    archive = isinstance(parts.code, ArchiveCode)
    volumes = [_Volume("mlproj-tmp", TMP, {"emptyDir": {}})]
    if not isinstance(parts.code, ImageCode):
        volumes.append(_Volume("mlproj-work", WORK, {"emptyDir": {}}))
    keys = [*([LAUNCHER_KEY, PLAN_KEY] if parts.launcher else ()), *([CODE_KEY] if archive else ())]
    if keys:
        # Only the files: variables are for the one container that has them.
        items = [{"key": key, "path": key} for key in keys]
        source = {"secret": {"secretName": parts.name, "defaultMode": 0o444, "items": items}}
        volumes.append(_Volume("mlproj-files", FILES, source, read_only=True))
    if parts.launcher and parts.config.cache_volume is not None:
        volumes.append(_Volume("mlproj-cache", CACHE, parts.config.cache_volume))
    return volumes


def _main(given: dict[str, Any], pod: Mapping[str, Any], volumes: list[_Volume], parts: JobParts) -> dict[str, Any]:
    """The project's container: what the template has of it, and what the run adds."""
    config = parts.config
    container = {**given, "name": given.get("name", CONTAINER), "image": parts.image, **_command(given, parts)}
    if config.image_pull_policy is not None:
        container["imagePullPolicy"] = config.image_pull_policy
    if (directory := _working_dir(given, parts)) is not None:
        container["workingDir"] = directory
    container["env"] = _env(given, has_identity(given, pod, config), parts)
    if config.env_from:
        container["envFrom"] = [*(given.get("envFrom") or ()), *map(dict, config.env_from)]
    if config.resources:
        theirs = given.get("resources") or {}
        ours = {part: {**(theirs.get(part) or {}), **amounts} for part, amounts in config.resources.items()}
        container["resources"] = {**theirs, **ours}
    mounted = volumes if parts.launcher else [one for one in volumes if one.path != FILES]
    container["volumeMounts"] = [*(given.get("volumeMounts") or ()), *(one.mount for one in mounted)]
    # Of the stock image it is known that the launcher writes on volumes only.
    stock = parts.launcher and config.image is None and "image" not in given
    container["securityContext"] = secured(given, pod, config, read_only=stock)
    return container


def _command(given: Mapping[str, Any], parts: JobParts) -> dict[str, Any]:
    """A template's command is a wrapper: it is given what else would run, after its own arguments."""
    words = list(map(escaped, (*(parts.entrypoint or ()), *(LAUNCH if parts.argv is None else parts.argv))))
    if given.get("command"):
        return {"args": [*(given.get("args") or ()), *words]}
    if given.get("args"):
        raise UserError(
            f"{parts.template.source}: the project's container has args, and no command that they are for. mlproj "
            "gives the project's command as arguments: write a wrapper as 'command', or remove 'args'."
        )
    if parts.argv is None:
        return {"command": words}
    if parts.entrypoint:
        own = len(parts.entrypoint)
        return {"command": words[:own], "args": words[own:]}
    return {"args": words}


def _working_dir(given: Mapping[str, Any], parts: JobParts) -> str | None:
    if parts.working_dir is not None:
        return parts.working_dir
    if "workingDir" in given:
        return str(given["workingDir"])
    if isinstance(parts.code, ImageCode):
        return None
    # The launcher finds the code by itself. Were it named before it is there, the runtime would make it, as root.
    return WORK if parts.launcher else CODE


def _env(given: Mapping[str, Any], as_stranger: bool, parts: JobParts) -> list[dict[str, Any]]:
    """The container's variables: the run's own first, so that the template's can refer to them."""
    secrets = dict.fromkeys(parts.secrets)
    visible = {"MLPROJ_RESULT": RESULT, **parts.variables}
    theirs = [one for one in given.get("env") or () if one["name"] not in visible and one["name"] not in secrets]
    if as_stranger:  # a user whom the image may not know: without a home, and without a name
        known = {*visible, *secrets, *(one["name"] for one in theirs)}
        visible |= {name: text for name, text in _STRANGER.items() if name not in known}
    return [
        *({"name": name, "value": escaped(text)} for name, text in visible.items() if name not in secrets),
        *({"name": name, "valueFrom": {"secretKeyRef": {"name": parts.name, "key": name}}} for name in secrets),
        *theirs,
    ]


_STRANGER = {"HOME": TMP, "USER": "mlproj", "LOGNAME": "mlproj"}


def _code_container(
    main: Mapping[str, Any], pod: Mapping[str, Any], volumes: list[_Volume], parts: JobParts
) -> dict[str, Any] | None:
    if parts.launcher and isinstance(parts.code, ArchiveCode):
        return None  # the launcher unpacks it
    container = code_container(parts.code, secret=parts.name, image=parts.image, config=parts.config)
    if container is None:
        return None
    if parts.config.image_pull_policy is not None:
        container["imagePullPolicy"] = parts.config.image_pull_policy
    # It runs before the other and not beside it, so this adds nothing to what the pod asks for.
    amounts = main.get("resources") or {}
    container["resources"] = {
        part: {name: amount for name, amount in (amounts.get(part) or {}).items() if name in ("cpu", "memory")}
        for part in ("requests", "limits")
        if part in amounts
    }
    mounts = [one for one in main["volumeMounts"] if one["mountPath"].rstrip("/") in (WORK, TMP)]
    if isinstance(parts.code, ArchiveCode):
        mounts += [one.mount for one in volumes if one.path == FILES]
    container["volumeMounts"] = mounts
    # It writes for the other, and so as the same user; it needs none of the other's privileges.
    user = {
        "securityContext": {name: main["securityContext"][name] for name in IDENTITY if name in main["securityContext"]}
    }
    container["securityContext"] = secured(user, pod, parts.config)
    return container
