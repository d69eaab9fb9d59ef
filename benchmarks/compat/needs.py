"""What a project needs beyond Python packages, told from its files, and whether this machine has it."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from corpus import Case

DOWNLOADS = {
    "MNIST(": "ossci-datasets.s3.amazonaws.com",
    "fetch_california_housing(": "ndownloader.figshare.com",
    "fetch_openml(": "api.openml.org",
    "from_pretrained(": "huggingface.co",
    "load_dataset(": "huggingface.co",
}
"""Calls that fetch data without an address in the project, and the host that they ask."""

SERVICES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
"""Packages that are clients of a paid service, and the variable that holds its key."""

GPU = re.compile(r"^(rapids|cudf|cuml|cudatoolkit|cupy)", re.IGNORECASE)


@dataclass(frozen=True)
class Need:
    """Something that a project needs, and why it cannot run here if that is missing."""

    text: str
    missing: str | None = None


@functools.cache
def reachable(url: str) -> bool:
    """Whether anything answers at the host of an address."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError as answer:
        return answer.code not in (403, 407, 502, 503, 504)  # a proxy that refuses answers so
    except OSError:
        return False
    return True


def environment(case: Case) -> tuple[str, list[str], list[str]]:
    """The kind of the project's environment, its conda packages and its pip requirements."""
    file = next((path for path in case.project.glob("[Mm][Ll][Pp]roject")), None)
    project = (yaml.safe_load(file.read_text()) if file else None) or {}
    if "docker_env" in project:
        return "docker", [], []
    path = project.get("conda_env") or project.get("python_env")
    if path is None:
        path = next((name for name in ("python_env.yaml", "conda.yaml") if (case.project / name).exists()), None)
    if path is None:
        return "none", [], []
    told = yaml.safe_load((case.project / path).read_text()) or {}
    dependencies = told.get("dependencies") or []
    if "conda_env" in project or path == "conda.yaml":
        conda = [item for item in dependencies if isinstance(item, str)]
        return "conda", conda, [line for item in dependencies if isinstance(item, dict) for line in item["pip"]]
    return "python", [], dependencies


def programs_texts(case: Case) -> Iterator[str]:
    """The texts that stand in the code of the entry point's scripts: their own and what they import beside them."""
    file = next((path for path in case.project.glob("[Mm][Ll][Pp]roject")), None)
    project = (yaml.safe_load(file.read_text()) if file else None) or {}
    entry_point = (project.get("entry_points") or {}).get(case.entry_point) or {"command": case.entry_point}
    for told in (entry_point.get("parameters") or {}).values():
        yield str(told.get("default", "")) if isinstance(told, dict) else ""
    steps = [other["command"] for other in (project.get("entry_points") or {}).values() if "command" in other]
    waiting = re.findall(r"[\w./-]+\.py\b", entry_point["command"])
    seen = set()
    while waiting:
        name = waiting.pop()
        script = case.project / name
        if name in seen or not script.is_file():
            continue
        seen.add(name)
        code = script.read_text()
        tree = ast.parse(code)
        yield from texts_of(tree)
        yield ast.unparse(tree)  # without comments
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            waiting += [f"{module.replace('.', '/')}.py" for module in modules]
        if re.search(r"mlflow\.(projects\.)?run\(", code):  # its steps are the project's other entry points
            waiting += [name for command in steps for name in re.findall(r"[\w./-]+\.py\b", command)]


def texts_of(tree: ast.AST) -> Iterator[str]:
    """The string constants of a module, its docstrings left out."""
    documented = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
            yield node.value


def needs(case: Case) -> list[Need]:
    """All that a project needs, from its environment file and the code of its scripts."""
    kind, conda, requirements = environment(case)
    found = []
    if kind == "docker":
        have = shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True).returncode
        found.append(Need("docker", None if have else "no Docker daemon"))
    if kind == "conda":
        others = [item for item in conda if not re.match(r"(python|pip)\b", item)]
        listed = ", ".join(others) if len(others) < 6 else f"{len(others)} of them"
        found.append(Need(f"conda packages: {listed}" if others else "conda.yaml, pip packages only"))
        if any(map(GPU.match, conda)):
            found.append(Need("GPU", None if shutil.which("nvidia-smi") else "no GPU"))
    if kind == "python":
        found.append(Need("python_env"))
    packages = {re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0].lower() for line in requirements}
    for package in sorted(packages & set(SERVICES)):
        variable = SERVICES[package]
        found.append(Need(f"a key for {package}", None if os.environ.get(variable) else f"no {variable}"))
    if "pyspark" in packages:
        found.append(Need("Java", None if shutil.which("java") else "no Java"))
    if case.entry_point.endswith(".R"):
        found.append(Need("R", None if shutil.which("Rscript") else "no R"))
    hosts = set()
    for text in programs_texts(case):
        hosts.update(re.findall(r"^https?://([\w.-]+)", text))
        hosts.update(host for call, host in DOWNLOADS.items() if call in text)
    for host in sorted(hosts - {"localhost", "127.0.0.1"}):
        found.append(Need(f"data from {host}", None if reachable(f"https://{host}/") else f"{host} cannot be reached"))
    return found
