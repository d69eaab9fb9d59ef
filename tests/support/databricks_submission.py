"""What runs/submit takes: the API's own fields, and its documented limits.

https://docs.databricks.com/api/workspace/jobs/submit
"""

import json
import re

from databricks_refusals import Refusal, invalid, malformed, no_such_cluster
from databricks_schema import check_submission

TOKEN = 64
"""Characters of an idempotency token."""
NAME = 4096
"""Bytes of a run's name."""
PARAMETERS = 10_000
"""Bytes of a task's parameters, written as JSON."""
TASKS = 100
KEY = re.compile(r"[\w-]{1,100}")

NO_COMPUTE = "One of job_cluster_key, new_cluster, or existing_cluster_id must be specified."
"""The service's own words."""


def check(body, clusters):
    """Raises: Refusal, if the workspace does not take this submission.

    Args:
        clusters: ids of the all-purpose clusters that are there.
    """
    check_submission(body)
    if len(body.get("idempotency_token") or "") > TOKEN:
        raise invalid(f"The idempotency token must have at most {TOKEN} characters.")
    if len((body.get("run_name") or "").encode()) > NAME:
        raise invalid(f"The run name must have at most {NAME} bytes in UTF-8.")
    if (body.get("timeout_seconds") or 0) < 0:
        raise invalid("timeout_seconds must not be negative.")
    tasks = body.get("tasks") or []
    if not tasks:
        raise invalid("At least one task must be specified.")
    keys = [task["task_key"] for task in tasks]
    if len(tasks) > TASKS or len(set(keys)) < len(keys) or not all(KEY.fullmatch(key) for key in keys):
        raise invalid(f"There may be {TASKS} tasks, each with a key of its own of letters, digits, _ and -.")
    if len(tasks) > 1:
        raise Refusal(501, "NOT_IMPLEMENTED", "This stand-in runs one task only.")
    _check_git_source(body.get("git_source"))
    for access in body.get("access_control_list") or ():
        if sum(access.get(name) is not None for name in ("user_name", "group_name", "service_principal_name")) != 1:
            raise invalid("Each access control has exactly one of user_name, group_name and service_principal_name.")
    environments = {each["environment_key"]: each.get("spec") for each in body.get("environments") or ()}
    for task in tasks:
        _check_compute(task, environments, clusters)
        _check_python(task.get("spark_python_task"), body.get("git_source"))


def _check_git_source(source):
    if source is not None and sum(source.get(f"git_{kind}") is not None for kind in ("branch", "tag", "commit")) != 1:
        raise invalid("Exactly one of git_branch, git_tag and git_commit must be specified.")


def _check_compute(task, environments, clusters):
    named = [name for name in ("new_cluster", "existing_cluster_id", "environment_key") if task.get(name) is not None]
    if not named:
        raise invalid(NO_COMPUTE)
    if len(named) > 1:
        raise invalid(f"Only one of {' and '.join(named)} can be specified.")
    if named == ["environment_key"]:
        if task["environment_key"] not in environments:
            raise invalid(f"The environment_key {task['environment_key']} is not in environments.")
        if task.get("libraries"):
            raise invalid(
                "Libraries field is not supported for serverless task, please specify libraries in environment."
            )
        spec = environments[task["environment_key"]] or {}
        named = [name for name in ("environment_version", "client", "base_environment") if spec.get(name) is not None]
        if len(named) != 1:
            raise invalid("Either environment_version (or client) or base_environment must be provided.")
    elif named == ["existing_cluster_id"]:
        if task["existing_cluster_id"] not in clusters:
            raise no_such_cluster(task["existing_cluster_id"])
    else:
        _check_cluster(task["new_cluster"])


def _check_cluster(cluster):
    where = "settings.cluster_spec.new_cluster"
    if cluster.get("policy_id"):
        return  # what lacks is the policy's to fill in
    if not cluster.get("spark_version"):
        raise invalid(f"Missing required field: {where}.spark_version")
    if not cluster.get("node_type_id") and not cluster.get("instance_pool_id") and not cluster.get("is_single_node"):
        raise invalid(f"Missing required field: {where}.node_type_id")
    if cluster.get("num_workers") is None and cluster.get("autoscale") is None and not cluster.get("is_single_node"):
        raise invalid(f"Missing required field: {where}.size")


def _check_python(task, git_source):
    if task is None:
        raise Refusal(501, "NOT_IMPLEMENTED", "This stand-in runs tasks of the kind spark_python_task only.")
    size = len(json.dumps(task.get("parameters") or [], separators=(",", ":")).encode())
    if size > PARAMETERS:
        raise invalid(f"The parameters have {size} bytes as JSON, which is more than {PARAMETERS}.")
    source, file = task.get("source"), task["python_file"]
    # The API takes the repository's file if there is one, unless the task says otherwise.
    from_git = source == "GIT" or (source is None and git_source is not None)
    if from_git and git_source is None:
        raise invalid("The task's source is GIT, and the run has no git_source.")
    if from_git and file.startswith("/"):
        raise invalid("The python_file of a repository must be relative.")
    if not from_git and not (file.startswith("/") or re.match(r"[a-z0-9]+:", file)):
        raise invalid(f"The python_file {file} must be an absolute path or a URI.")
    if re.match(r"(?!dbfs:|file:)[a-z0-9]+:", file):
        raise malformed(f"this stand-in has no storage for {file}")
