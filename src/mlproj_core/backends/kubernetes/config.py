"""What a caller sets for the Kubernetes backend: `backend_config`, by MLflow's names and by ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlproj_core.backends.kubernetes.names import is_label_key, is_label_value, is_name, is_quantity
from mlproj_core.backends.kubernetes.schema import Misfit, misfits
from mlproj_core.errors import UserError
from mlproj_core.spec.document import kind
from mlproj_core.spec.problem import closest, shown

__all__ = ["CODE_WAYS", "NON_ROOT", "KubernetesConfig"]

CODE_WAYS = ("auto", "image", "git", "secret", "build")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
NON_ROOT = 1000
"""The user that containers run as: any but root will do, and many images have this one."""


@dataclass(frozen=True)
class KubernetesConfig:
    """The settings of the Kubernetes backend. None, or nothing in it: not set.

    Attributes:
        context: name of a context in the kubeconfig.
        kubeconfig: path of the kubeconfig.
        namespace: where the Job is created.
        template_path: path of a YAML file with a Job.
        template: such a Job itself.
        repository_uri: repository that images are pushed to, without a tag.
        image: image for a project without docker_env.
        image_pull_secrets: names of Secrets with logins for registries.
        image_pull_policy: one of `PULL_POLICIES`.
        service_account: the pod's.
        resources: `requests` and `limits` of the project's container.
        env_from: entries of the container's `envFrom`.
        ttl: seconds after its end until Kubernetes deletes the Job; "never": nobody but you deletes it.
        tracking_uri: the tracking server as seen from inside the cluster.
        code: how the code gets in, one of `CODE_WAYS`.
        cache_volume: the volume, without a name, that keeps environments.
        labels: further labels of Job and pod.
        annotations: further annotations of Job and pod.
        node_selector: labels that the node must have.
        tolerations: the pod's.
        run_as_user: number of the user that the containers run as; "image": the image's own, even if that is root.
        grace: seconds between TERM and KILL when the pod is ended.
        git_image: image with git, for `code: git`.
        unpack_image: image with sh and tar, for `code: secret` where the project's image lacks them.
    """

    context: str | None = None
    kubeconfig: str | None = None
    namespace: str | None = None
    template_path: str | None = None
    template: Mapping[str, Any] | None = None
    repository_uri: str | None = None
    image: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: str | None = None
    service_account: str | None = None
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    env_from: tuple[Mapping[str, Any], ...] = ()
    ttl: int | Literal["never"] | None = None
    tracking_uri: str | None = None
    code: str = "auto"
    cache_volume: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    run_as_user: int | Literal["image"] = NON_ROOT
    grace: int | None = None
    git_image: str | None = None
    unpack_image: str | None = None

    @classmethod
    def read(cls, backend_config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> KubernetesConfig:
        """The settings that a caller gave. Hyphens and underscores in their names are one; a null sets nothing.

        Args:
            backend_config: as given to `run`.
            environ: where `KUBE_MLFLOW_TRACKING_URI` is looked up, as MLflow does; this process's by default.

        Raises:
            UserError: all that is wrong with them: an unknown name, one given twice, a value that cannot be.
        """
        problems: list[str] = []
        given: dict[str, str] = {}
        values: dict[str, Any] = {}
        for name, value in backend_config.items():
            setting = str(name).replace("_", "-")
            if setting == "detach":  # a setting of other backends, which adapters and commands pass on
                if value is not True and value is not None:
                    problems.append("'detach' can only be true: a Job outlives whoever asked for it")
            elif setting not in SETTINGS:
                problems.append(_unknown(str(name)))
            elif setting in given:
                problems.append(f"{given[setting]!r} and {name!r} are the same setting; leave one out")
            elif value is not None:
                given[setting] = str(name)
                attribute, reader = SETTINGS[setting]
                try:
                    values[attribute] = reader(value)
                except ValueError as error:
                    problems.append(f"{name!r} {error}")
        if values.get("template") is not None and values.get("template_path") is not None:
            both = f"{given['job-template']!r} and {given['kube-job-template-path']!r}"
            problems.append(f"{both} are two templates; give one of them")
        if values.get("code") == "build" and "repository_uri" not in values and "repository-uri" not in given:
            problems.append("'code': \"build\" pushes an image: say where to, by 'repository-uri'")
        if problems:
            raise UserError(
                "\n  ".join(["backend_config for Kubernetes:", *problems])
                if problems[1:]
                else f"backend_config for Kubernetes: {problems[0]}"
            )
        inside = (os.environ if environ is None else environ).get("KUBE_MLFLOW_TRACKING_URI")
        values.setdefault("tracking_uri", inside or None)
        return cls(**values)


def _unknown(name: str) -> str:
    meant = closest(name, SETTINGS)
    return f"there is no setting {name!r}. " + (
        f"Did you mean {meant!r}?"
        if meant
        else f"The settings are {', '.join(SETTINGS)}. Everything else of a Job can "
        "be said in a template, by 'job-template' or 'kube-job-template-path'."
    )


# Readers of values: each returns what is kept, or raises ValueError with what follows the setting's name.


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be text; got {shown(value)}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not is_name(value):
        raise ValueError(f"must be a name as Kubernetes takes it (a-z, 0-9, '-', '.'); got {shown(value)}")
    return value


def _namespace(value: Any) -> str:
    if not isinstance(value, str) or not is_name(value, dots=False):
        raise ValueError(f"must be a namespace's name (a-z, 0-9, '-', up to 63 characters); got {shown(value)}")
    return value


def _image(value: Any) -> str:
    text = _text(value)
    if any(character.isspace() for character in text) or "://" in text:
        raise ValueError(
            f"must be the name of an image, such as registry.example.com/team/image:tag; got {shown(value)}"
        )
    return text


def _repository(value: Any) -> str:
    text = _image(value).rstrip("/")
    if "@" in text or ":" in text.rpartition("/")[2]:
        raise ValueError(f"must be a repository without tag or digest, which mlproj adds; got {shown(value)}")
    if text != text.lower():
        raise ValueError(f"must be in lower case, as registries want it; got {shown(value)}")
    return text


def _one_of(words: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            meant = closest(value, words) if isinstance(value, str) else None
            hint = f". Did you mean {meant!r}?" if meant else ""
            raise ValueError(f"must be one of {', '.join(words)}; got {shown(value)}{hint}")
        return str(value)

    return read


def _pull_secrets(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    names = [item.get("name") if isinstance(item, dict) and len(item) == 1 else item for item in items]
    if not all(isinstance(name, str) and is_name(name) for name in names):
        raise ValueError(f"must be names of Secrets, such as ['registry-login']; got {shown(value)}")
    return tuple(map(str, names))


def _seconds(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"must be a whole number of seconds, 0 or more; got {shown(value)}")
    return value


def _ttl(value: Any) -> int | Literal["never"]:
    if value == "never":
        return "never"
    try:
        return _seconds(value)
    except ValueError as error:
        raise ValueError(f'{error}. "never" keeps the Job') from None


def _user(value: Any) -> int | Literal["image"]:
    if value == "image":
        return "image"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ValueError(
            f'must be the number of a user, 1 or more, or "image" for the image\'s own user; got {shown(value)}'
        )
    return value


def _resources(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(
            "must be a mapping, such as {'requests': {'cpu': 1}, 'limits': {'memory': '4Gi'}}, or "
            f"{{'cpu': 1, 'memory': '4Gi'}} for both; got {shown(value)}"
        )
    full = value if value.keys() <= {"requests", "limits"} else {"requests": value, "limits": value}
    result: dict[str, dict[str, Any]] = {}
    for part, amounts in full.items():
        if not isinstance(amounts, dict):
            raise ValueError(f"{part} must be a mapping of amounts, such as {{'memory': '4Gi'}}; got {shown(amounts)}")
        for name, amount in amounts.items():
            if not isinstance(name, str) or not is_label_key(name) or not is_quantity(amount):
                raise ValueError(
                    f"must have amounts by name, such as 'cpu': 0.5 or '500m', 'memory': '4Gi', 'nvidia.com/gpu': 1; "
                    f"got {shown(name)}: {shown(amount)}"
                )
        result[part] = {name: str(amount) for name, amount in amounts.items()}
    return result


def _env_from(value: Any) -> tuple[dict[str, Any], ...]:
    entries: list[Any] = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, str):
            source, slash, name = item.partition("/")
            field_of = {"secret": "secretRef", "configmap": "configMapRef"}.get(source.lower())
            if field_of is None or not slash or not is_name(name):
                raise ValueError(f"must name sources such as 'secret/NAME' or 'configmap/NAME'; got {shown(item)}")
            entries.append({field_of: {"name": name}})
        else:
            entries.append(item)
    return tuple(_fitting(entries, "list[V1EnvFromSource]"))


def _tolerations(value: Any) -> tuple[dict[str, Any], ...]:
    return tuple(_fitting(list(value) if isinstance(value, tuple) else value, "list[V1Toleration]"))


def _volume(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"persistentVolumeClaim": {"claimName": _name(value)}}
    volume: dict[str, Any] = dict(_fitting(value, "V1Volume"))
    volume.pop("name", None)
    if len(volume) != 1:
        raise ValueError(
            "must be the name of a PersistentVolumeClaim, or one volume, such as {'hostPath': {'path': '/var/cache'}}; "
            f"got {shown(value)}"
        )
    return volume


def _template(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a Job as a mapping; a file is named by 'kube-job-template-path'; got {kind(value)}")
    return value


def _labels(value: Any) -> dict[str, str]:
    labels = _pairs(value)
    for name, text in labels.items():
        if not is_label_value(text):
            raise ValueError(
                f"has {shown(text)} under {name!r}, which cannot be a label's value (up to 63 of A-Z, a-z, 0-9, '-', "
                "'_' and '.', letters or digits at both ends); an annotation can have it"
            )
    return labels


def _pairs(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping of names to texts; got {shown(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not is_label_key(name):
            raise ValueError(f"has the name {shown(name)}, which must be like 'team' or 'example.com/team'")
        if name.partition("/")[0] == "mlproj":
            raise ValueError(f"has the name {name!r}; what begins with 'mlproj/' is mlproj's own")
        if not isinstance(text, str):
            raise ValueError(f"must have text under {name!r}: quote it; got {shown(text)}")
    return dict(value)


def _fitting(value: Any, model: str) -> Any:
    found: list[Misfit] = list(misfits(value, model))
    if found:
        raise ValueError("does not fit: " + "; ".join(str(one).removeprefix(": ") for one in found))
    return value


SETTINGS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "kube-context": ("context", _text),
    "kube-job-template-path": ("template_path", _text),
    "repository-uri": ("repository_uri", _repository),
    "kubeconfig": ("kubeconfig", _text),
    "namespace": ("namespace", _namespace),
    "job-template": ("template", _template),
    "image": ("image", _image),
    "image-pull-secrets": ("image_pull_secrets", _pull_secrets),
    "image-pull-policy": ("image_pull_policy", _one_of(PULL_POLICIES)),
    "service-account": ("service_account", _name),
    "resources": ("resources", _resources),
    "env-from": ("env_from", _env_from),
    "ttl-seconds-after-finished": ("ttl", _ttl),
    "tracking-uri": ("tracking_uri", _text),
    "code": ("code", _one_of(CODE_WAYS)),
    "cache-volume": ("cache_volume", _volume),
    "labels": ("labels", _labels),
    "annotations": ("annotations", _pairs),
    "node-selector": ("node_selector", _labels),
    "tolerations": ("tolerations", _tolerations),
    "run-as-user": ("run_as_user", _user),
    "grace": ("grace", _seconds),
    "git-image": ("git_image", _image),
    "unpack-image": ("unpack_image", _image),
}
"""The settings by name: the attribute of `KubernetesConfig`, and what reads the value."""
