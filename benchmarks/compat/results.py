"""What a run left: the runs of its experiment on the tracking server, and the files of the project's directory."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSED_OVER = re.compile(r"(^|/)(__pycache__|[^/]*\.egg-info|build|\.ipynb_checkpoints|mlruns|mlartifacts)(/|$)")
"""Directories whose content is a by-product: of Python, of setuptools, of a store in the working directory."""

TAGS = ("mlflow.source.type", "mlflow.project.entryPoint", "mlflow.project.backend")
"""The tags by which MLflow tells a project's run from others."""

IDS = re.compile(r"\b[0-9a-f]{32}\b|(?<=MLFLOW_EXPERIMENT_ID )\d+")
TIMES = re.compile(r"\b\d{4}-\d\d-\d\d[ T/_-]\d\d[:-]\d\d[:-]\d\d([.,]\d+)?")

VALUES = "the metrics' values"
"""The difference that says nothing of the programs: a training without a fixed seed may make it."""


def get(server: str, call: str, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None) -> Any:
    address = f"{server}/api/2.0/mlflow/{call}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def artifacts(server: str, run_id: str, path: str = "") -> list[str]:
    """The names of a run's artifacts, with those in directories."""
    listed = get(server, "artifacts/list", {"run_id": run_id, **({"path": path} if path else {})})
    names: list[str] = []
    for file in listed.get("files", []):
        names += artifacts(server, run_id, file["path"]) if file.get("is_dir") else [file["path"]]
    return sorted(names)


def pairs(items: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {item["key"]: item["value"] for item in items or []}


@dataclass(frozen=True)
class Left:
    """What one run left, in a form that two runs can be compared by.

    Attributes:
        runs: the MLflow runs, each as its status, parameters, metrics, artifacts and tags, in an order of their own.
        files: by name, the text of each file that the run made or changed (`<binary>` if it is none).
    """

    runs: list[dict[str, Any]]
    files: dict[str, str]

    def differences(self, other: Left) -> list[str]:
        """In what the two differ; nothing if they left the same."""
        found = []
        for what in ("status", "parameters", "metrics", "artifacts", "tags"):
            mine, theirs = ([run[what] for run in left.runs] for left in (self, other))
            if what == "metrics" and mine != theirs:
                mine, theirs = ([sorted(metrics) for metrics in side] for side in (mine, theirs))
                found += [] if mine != theirs else [VALUES]
            if mine != theirs:
                found.append(what if len(mine) == len(theirs) else f"{len(mine)} runs against {len(theirs)}")
        found += [f"file {name}" for name in sorted(set(self.files) ^ set(other.files))]
        found += [
            f"the text of {name}"
            for name in sorted(set(self.files) & set(other.files))
            if self.files[name] != other.files[name]
        ]
        return list(dict.fromkeys(found))


def runs_of(server: str, experiment: str) -> list[dict[str, Any]]:
    """The runs of an experiment, compared by what they hold: ids, times and names are left out."""
    try:
        found = get(server, "experiments/get-by-name", {"experiment_name": experiment})["experiment"]
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise
    listed = get(server, "runs/search", body={"experiment_ids": [found["experiment_id"]], "max_results": 1000})
    runs = []
    for run in listed.get("runs", []):
        tags = pairs(run["data"].get("tags"))
        runs.append(
            {
                "status": run["info"]["status"],
                "parameters": pairs(run["data"].get("params")),
                "metrics": pairs(run["data"].get("metrics")),
                "artifacts": [
                    name for name in artifacts(server, run["info"]["run_id"]) if not name.startswith("logs/")
                ],
                "tags": {
                    **{name: tags.get(name) for name in TAGS},
                    **{name: value for name, value in tags.items() if not name.startswith(("mlflow.", "mlproj."))},
                    "has a parent": "mlflow.parentRunId" in tags,
                },
            }
        )
    return sorted(runs, key=lambda run: json.dumps({**run, "metrics": sorted(run["metrics"])}, sort_keys=True))


def files_of(directory: Path) -> dict[str, str]:
    """The files below a directory with their texts, in which ids and times are blotted out."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            relative = str(path.relative_to(directory))
            if PASSED_OVER.search(relative):
                continue
            try:
                text = path.read_bytes()[:1_000_000].decode()
            except UnicodeDecodeError:
                text = "<binary>"
            if name.endswith(".ipynb"):  # whose metadata hold how long each cell took
                text = json.dumps([[cell["source"], cell.get("outputs")] for cell in json.loads(text)["cells"]])
            found[TIMES.sub("<time>", relative)] = TIMES.sub("<time>", IDS.sub("<id>", text))
    return found
