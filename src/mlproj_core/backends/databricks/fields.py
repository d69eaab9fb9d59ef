"""The fields of what goes to the Jobs API, and whether a value has them.

They stand here and are not the SDK's dataclasses, so that an older SDK refuses nothing that the service takes, and a
configuration is checked without the seconds of importing it. A test compares them with the newest SDK.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlproj_core.spec.problem import closest, shown

__all__ = ["ACCESS", "CLUSTER", "EMAIL", "ENVIRONMENT", "LIBRARY", "QUIET", "WEBHOOKS", "misfits"]

Shape = Any
"""`str`, `int`, `float` or `bool`; a set of the words that a text may be; a dict of the fields of an object, or
`{str: shape}` for a mapping of any names; a list with the shape of its items."""

_TEXTS: Final[Shape] = [str]
_PAIRS: Final[Shape] = {str: str}
_AT: Final[Shape] = {"destination": str}
_S3: Final[Shape] = {
    **_AT,
    "canned_acl": str,
    "enable_encryption": bool,
    "encryption_type": str,
    "endpoint": str,
    "kms_key": str,
    "region": str,
}
_NODE_TYPES: Final[Shape] = {"alternate_node_type_ids": _TEXTS, "aws_context_id": str}

CLUSTER: Final[Mapping[str, Shape]] = {
    "apply_policy_default_values": bool,
    "autoscale": {"max_workers": int, "min_workers": int},
    "autotermination_minutes": int,
    "aws_attributes": {
        "availability": str,
        "ebs_volume_count": int,
        "ebs_volume_iops": int,
        "ebs_volume_size": int,
        "ebs_volume_throughput": int,
        "ebs_volume_type": str,
        "first_on_demand": int,
        "instance_profile_arn": str,
        "spot_bid_price_percent": int,
        "zone_id": str,
    },
    "azure_attributes": {
        "availability": str,
        "capacity_reservation_group": str,
        "first_on_demand": int,
        "log_analytics_info": {"log_analytics_primary_key": str, "log_analytics_workspace_id": str},
        "spot_bid_max_price": float,
    },
    "cluster_log_conf": {"dbfs": _AT, "s3": _S3, "volumes": _AT},
    "cluster_name": str,
    "custom_tags": _PAIRS,
    "data_security_mode": str,
    "dependency_mode": str,
    "docker_image": {"basic_auth": {"password": str, "username": str}, "url": str},
    "driver_instance_pool_id": str,
    "driver_node_type_flexibility": _NODE_TYPES,
    "driver_node_type_id": str,
    "enable_elastic_disk": bool,
    "enable_local_disk_encryption": bool,
    "gcp_attributes": {
        "availability": str,
        "boot_disk_size": int,
        "confidential_compute_type": str,
        "first_on_demand": int,
        "google_service_account": str,
        "local_ssd_count": int,
        "use_preemptible_executors": bool,
        "zone_id": str,
    },
    "init_scripts": [
        {"abfss": _AT, "dbfs": _AT, "file": _AT, "gcs": _AT, "s3": _S3, "volumes": _AT, "workspace": _AT},
    ],
    "instance_pool_id": str,
    "is_single_node": bool,
    "kind": str,
    "node_type_id": str,
    "num_workers": int,
    "policy_id": str,
    "remote_disk_throughput": int,
    "runtime_engine": str,
    "single_user_name": str,
    "spark_conf": _PAIRS,
    "spark_env_vars": _PAIRS,
    "spark_version": str,
    "ssh_public_keys": _TEXTS,
    "total_initial_remote_disk_size": int,
    "use_ml_runtime": bool,
    "worker_node_type_flexibility": _NODE_TYPES,
    "workload_type": {"clients": {"jobs": bool, "notebooks": bool}},
}
"""Of a cluster that is made for the run: `ClusterSpec` of the SDK."""

LIBRARY: Final[Mapping[str, Shape]] = {
    "cran": {"package": str, "repo": str},
    "egg": str,
    "jar": str,
    "maven": {"coordinates": str, "exclusions": _TEXTS, "repo": str},
    "pypi": {"package": str, "repo": str},
    "requirements": str,
    "whl": str,
}
"""Of what a cluster installs before the task runs: `Library`, which has one of them."""

ENVIRONMENT: Final[Mapping[str, Shape]] = {
    "base_environment": str,
    "client": str,
    "dependencies": _TEXTS,
    "environment_version": str,
    "java_dependencies": _TEXTS,
}
"""Of the environment of serverless compute: `compute.Environment`."""

_EVENTS: Final = ("on_duration_warning_threshold_exceeded", "on_failure", "on_start", "on_success")
_STREAMS: Final = ("on_streaming_backlog_exceeded",)

EMAIL: Final[Mapping[str, Shape]] = {
    **dict.fromkeys((*_EVENTS, *_STREAMS), _TEXTS),
    "no_alert_for_skipped_runs": bool,
}
"""`JobEmailNotifications`."""

WEBHOOKS: Final[Mapping[str, Shape]] = {event: [{"id": str}] for event in (*_EVENTS, *_STREAMS)}
"""`WebhookNotifications`."""

QUIET: Final[Mapping[str, Shape]] = {"no_alert_for_canceled_runs": bool, "no_alert_for_skipped_runs": bool}
"""`JobNotificationSettings`."""

ACCESS: Final[Mapping[str, Shape]] = {
    "group_name": str,
    "permission_level": {"CAN_MANAGE", "CAN_MANAGE_RUN", "CAN_VIEW", "IS_OWNER"},
    "service_principal_name": str,
    "user_name": str,
}
"""`JobAccessControlRequest`."""

_WORDS: Final = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def misfits(value: Any, shape: Shape, at: str) -> Iterator[str]:
    """What of a value does not have a shape, each as a sentence without a full stop.

    Args:
        value: the value, as JSON has it.
        shape: see `Shape`.
        at: how messages name the value: `new_cluster.autoscale`.
    """
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            yield f"{at} must be a mapping; got {shown(value)}"
            return
        for name, inner in value.items():
            if str in shape:
                yield from misfits(inner, shape[str], f"{at}[{str(name)!r}]")
            elif name not in shape:
                yield unknown(str(name), shape, at)
            else:
                yield from misfits(inner, shape[name], f"{at}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, (list, tuple)):
            yield f"{at} must be a list; got {shown(value)}"
            return
        for index, inner in enumerate(value):
            yield from misfits(inner, shape[0], f"{at}[{index}]")
    elif isinstance(shape, set):
        if value not in shape:
            yield f"{at} must be one of {', '.join(sorted(shape))}; got {shown(value)}"
    elif not _is(value, shape):
        hint = ": quote it" if shape is str and isinstance(value, (int, float, bool)) else ""
        yield f"{at} must be {_WORDS[shape]}{hint}; got {shown(value)}"


def unknown(name: str, known: Mapping[Any, Any], at: str) -> str:
    """Of a field that there is none of."""
    meant = closest(name, known)
    return f"{at} has no field {name!r}. " + (f"Did you mean {meant!r}?" if meant else f"It has {', '.join(known)}")


def _is(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    return isinstance(value, int) or (kind is float and isinstance(value, float))
