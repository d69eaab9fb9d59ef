"""Where a run is computed: a cluster made for it, one that is there, or serverless compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlproj_core.backends.databricks.fields import CLUSTER, ENVIRONMENT, LIBRARY, misfits
from mlproj_core.spec.problem import shown

__all__ = ["FORMS", "Cluster", "Compute", "ExistingCluster", "Serverless", "read_compute"]

ENVIRONMENT_KEY: Final = "default"
"""How the one environment of a serverless run is called, where the caller does not say."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is made for the run, and ended with it.

    Attributes:
        spec: its specification, by the API's names; a pool or a policy is named in it.
        libraries: what is installed on it, by the API's names.
    """

    spec: Mapping[str, Any]
    libraries: tuple[Mapping[str, Any], ...] = ()

    def of_task(
        self,
        python_libraries: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """What of the task says where it runs.

        Args:
            python_libraries: further packages, as requirements.
            tags: tags of the cluster; those of the specification prevail.
            variables: environment variables of the cluster; they prevail.
        """
        spec = dict(self.spec)
        for name, pairs in (
            ("custom_tags", {**(tags or {}), **(spec.get("custom_tags") or {})}),
            ("spark_env_vars", {**(spec.get("spark_env_vars") or {}), **(variables or {})}),
        ):
            if pairs:
                spec[name] = pairs
        return {"new_cluster": spec, **_libraries(self.libraries, python_libraries)}

    def of_run(self, python_libraries: Sequence[str] = ()) -> dict[str, Any]:
        """What of the run says so: nothing."""
        return {}


@dataclass(frozen=True)
class ExistingCluster:
    """A cluster that is there; it is started if it is not running.

    Attributes:
        id: its id.
        libraries: what is installed on it, and stays.
    """

    id: str
    libraries: tuple[Mapping[str, Any], ...] = ()

    def of_task(
        self,
        python_libraries: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """As `Cluster.of_task`; its tags and variables are not the run's to set."""
        return {"existing_cluster_id": self.id, **_libraries(self.libraries, python_libraries)}

    def of_run(self, python_libraries: Sequence[str] = ()) -> dict[str, Any]:
        """What of the run says so: nothing."""
        return {}


@dataclass(frozen=True)
class Serverless:
    """Serverless compute.

    Attributes:
        key: the name of its environment.
        spec: that environment, by the API's names.
    """

    key: str = ENVIRONMENT_KEY
    spec: Mapping[str, Any] = field(default_factory=dict)

    def of_task(
        self,
        python_libraries: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """As `Cluster.of_task`: it has neither tags nor variables, and its packages are the run's."""
        return {"environment_key": self.key}

    def of_run(self, python_libraries: Sequence[str] = ()) -> dict[str, Any]:
        """What of the run says so: the environment.

        Args:
            python_libraries: further packages, as requirements.
        """
        spec = dict(self.spec)
        packages = [*spec.get("dependencies", ()), *python_libraries]
        if packages:
            spec["dependencies"] = packages
        return {"environments": [{"environment_key": self.key, "spec": spec}]}


Compute = Cluster | ExistingCluster | Serverless

FORMS: Final = (
    "cluster_spec",
    "new_cluster",
    "existing_cluster_id",
    "job_cluster",
    "job_clusters",
    "job_cluster_key",
    "serverless",
    "environment_key",
    "environments",
    "libraries",
    *CLUSTER,
    *ENVIRONMENT,
)
"""The settings that say where a run is computed."""

_SERVERLESS: Final = ("serverless", "environment_key", "environments", *ENVIRONMENT)
_JOB_CLUSTER: Final = ("job_cluster", "job_clusters", "job_cluster_key")


def read_compute(given: Mapping[str, Any], problems: list[str]) -> Compute | None:
    """Where a run is computed, by those settings of a caller that say so; None if there are none, or wrong ones.

    Args:
        given: settings out of `FORMS`.
        problems: is added what is wrong, each as a sentence without a full stop.
    """
    before = len(problems)
    compute = _Reader(dict(given), problems).read()
    return compute if len(problems) == before else None


class _Reader:
    def __init__(self, given: dict[str, Any], problems: list[str]) -> None:
        self.given, self.problems = given, problems

    def read(self) -> Compute | None:
        """The one form that is given."""
        if not self._only_one():
            return None
        given = self.given
        if "cluster_spec" in given:
            return self._cluster_spec()
        if "new_cluster" in given:
            return self._cluster(given["new_cluster"], "new_cluster")
        if "existing_cluster_id" in given:
            return self._existing()
        if given.keys() & set(_JOB_CLUSTER):
            return self._job_cluster()
        if given.keys() & set(_SERVERLESS):
            return self._serverless()
        bare = {name: value for name, value in given.items() if name in CLUSTER}
        if bare:
            return self._cluster(bare, "the cluster")
        if given:
            self.problems.append("'libraries' are installed on a cluster, and none is given")
        return None

    def _only_one(self) -> bool:
        groups: dict[str, list[str]] = {
            "a cluster specification ({})": [name for name in self.given if name in CLUSTER],
            "serverless compute ({})": [name for name in self.given if name in _SERVERLESS],
            "a job cluster ({})": [name for name in self.given if name in _JOB_CLUSTER],
            **{name: [name] for name in ("cluster_spec", "new_cluster", "existing_cluster_id") if name in self.given},
        }
        found = [
            text.format(", ".join(map(repr, names))) if "{}" in text else repr(text)
            for text, names in groups.items()
            if names
        ]
        if len(found) > 1:
            self.problems.append(f"{' and '.join(found)} are two places to run at; leave one out")
        return len(found) <= 1

    def _cluster_spec(self) -> Compute | None:
        value = self.given["cluster_spec"]
        if not isinstance(value, Mapping):
            self.problems.append(f"'cluster_spec' must be a mapping; got {shown(value)}")
            return None
        if "new_cluster" not in value:
            return self._cluster(value, "cluster_spec")
        self.problems += misfits(value, {"new_cluster": CLUSTER, "libraries": [LIBRARY]}, "cluster_spec")
        self.given.setdefault("libraries", value.get("libraries") or ())
        return self._cluster(value["new_cluster"], "cluster_spec.new_cluster", checked=True)

    def _cluster(self, spec: Any, at: str, *, checked: bool = False) -> Cluster:
        if not checked:
            self.problems += misfits(spec, CLUSTER, at)
        if isinstance(spec, Mapping):
            self.problems += _contradictions(spec, at)
        return Cluster(spec, self._libraries())

    def _existing(self) -> ExistingCluster:
        value = self.given["existing_cluster_id"]
        if not isinstance(value, str) or not value.strip():
            self.problems.append(
                f"'existing_cluster_id' must be a cluster's id, such as '0123-456789-abcdefgh'; got {shown(value)}"
            )
        return ExistingCluster(value, self._libraries())

    def _job_cluster(self) -> Cluster | None:
        """A submitted run has no job clusters of its own, and the one task makes a cluster of that specification."""
        shape = {"job_cluster_key": str, "new_cluster": CLUSTER}
        one, many, key = (self.given.get(name) for name in _JOB_CLUSTER)
        if isinstance(one, str) and key is None:  # its key
            one, key = None, one
        if one is not None and many is None:
            clusters, at = [one], "job_cluster"
        elif isinstance(many, (list, tuple)) and one is None:
            clusters, at = list(many), "job_clusters"
        else:
            self.problems.append(
                "a job cluster is given as 'job_cluster': {'new_cluster': {…}}, or as 'job_clusters': "
                "[{'job_cluster_key': NAME, 'new_cluster': {…}}] with the 'job_cluster_key' of one of them; a run that "
                "is submitted cannot use the cluster of a job that is defined elsewhere"
            )
            return None
        before = len(self.problems)
        for index, cluster in enumerate(clusters):
            where = at if one is not None else f"{at}[{index}]"
            self.problems += misfits(cluster, shape, where)
            if isinstance(cluster, Mapping) and "new_cluster" not in cluster:
                self.problems.append(f"{where} must have a 'new_cluster'")
        if len(self.problems) > before:
            return None
        wanted = [one for one in clusters if key is None or len(clusters) == 1 or one.get("job_cluster_key") == key]
        if len(wanted) != 1 or (key is not None and wanted[0].get("job_cluster_key", key) != key):
            names = ", ".join(repr(one.get("job_cluster_key")) for one in clusters)
            self.problems.append(
                f"'job_cluster_key' must be that of one of the job clusters ({names}); got {shown(key)}"
            )
            return None
        return self._cluster(wanted[0]["new_cluster"], f"{at}.new_cluster", checked=True)

    def _serverless(self) -> Serverless | None:
        given = self.given
        flat = {name: value for name, value in given.items() if name in ENVIRONMENT}
        key, wanted, many = (given.get(name) for name in ("environment_key", "serverless", "environments"))
        if given.get("libraries"):
            self.problems.append("'libraries' are installed on a cluster; serverless compute takes 'dependencies'")
        if wanted is False:
            self.problems.append("'serverless' can only be true, or an environment; leave it out for a cluster")
        if key is not None and not (isinstance(key, str) and key.strip()):
            self.problems.append(f"'environment_key' must be text; got {shown(key)}")
        if sum([bool(flat), isinstance(wanted, Mapping), many is not None]) > 1:
            self.problems.append("the serverless environment is described twice; leave one description out")
            return None
        if many is not None:
            self.problems += misfits(many, [{"environment_key": str, "spec": ENVIRONMENT}], "environments")
            entries = [one for one in many if isinstance(one, Mapping)] if isinstance(many, (list, tuple)) else []
            found = [one for one in entries if key is None or one.get("environment_key") == key]
            if len(found) != 1:
                names = ", ".join(repr(one.get("environment_key")) for one in entries)
                self.problems.append(
                    f"'environment_key' must be that of one of the environments ({names}); got {shown(key)}"
                )
                return None
            key, spec = found[0].get("environment_key") or key, found[0].get("spec") or {}
        elif wanted is not None and not isinstance(wanted, bool):
            self.problems += misfits(wanted, ENVIRONMENT, "serverless")
            spec = wanted
        else:
            for name, value in flat.items():
                self.problems += misfits(value, ENVIRONMENT[name], f"'{name}'")
            spec = flat
        if isinstance(spec, Mapping) and "client" in spec and "environment_version" in spec:
            self.problems.append("'client' is the old name of 'environment_version'; leave one out")
        elif isinstance(spec, Mapping) and not spec.keys() & {"client", "environment_version", "base_environment"}:
            self.problems.append(
                "serverless compute needs the version of its environment: 'environment_version': \"4\" (or 'client')"
            )
        return Serverless(key or ENVIRONMENT_KEY, spec)

    def _libraries(self) -> tuple[Mapping[str, Any], ...]:
        value = self.given.get("libraries") or ()
        self.problems += misfits(value, [LIBRARY], "libraries")
        if not isinstance(value, (list, tuple)):
            return ()
        for index, one in enumerate(value):
            if isinstance(one, Mapping) and len(one) != 1:
                self.problems.append(f"libraries[{index}] must have one of {', '.join(LIBRARY)}; got {shown(one)}")
        return tuple(value)


def _contradictions(spec: Mapping[str, Any], at: str) -> Iterator[str]:
    """What cannot be, or is missing, of a cluster's specification."""
    if not spec.get("spark_version") and not spec.get("policy_id"):
        yield f"{at} needs a 'spark_version', such as '16.4.x-cpu-ml-scala2.13' (or a 'policy_id' that sets it)"
    if "num_workers" in spec and "autoscale" in spec:
        yield f"{at} has both 'num_workers' and 'autoscale'; leave one out"
    if not spec.keys() & {"num_workers", "autoscale", "is_single_node", "policy_id"}:
        yield f"{at} needs its size: 'num_workers', 'autoscale', or 'is_single_node': true"
    if "node_type_id" in spec and "instance_pool_id" in spec:
        yield f"{at} has both 'node_type_id' and 'instance_pool_id', whose nodes have a type; leave one out"
    named = ("node_type_id", "instance_pool_id", "policy_id", "worker_node_type_flexibility", "kind", "is_single_node")
    if not any(spec.get(name) for name in named):
        yield f"{at} needs a 'node_type_id', an 'instance_pool_id', or a 'policy_id' that sets one"


def _libraries(given: Sequence[Mapping[str, Any]], packages: Sequence[str]) -> dict[str, Any]:
    libraries = [*map(dict, given), *({"pypi": {"package": package}} for package in packages)]
    return {"libraries": libraries} if libraries else {}
