"""What a cluster installs before a task begins: the task's `libraries`, or the `dependencies` of its environment."""

import subprocess
import sys

from uv import find_uv_bin


class NotInstalled(Exception):
    """A library could not be installed."""


def install(job, directory, at):
    """Install them into a directory.

    Args:
        job: a `Job`.
        directory: of the host; it is made if there is something to install.
        at: gives the path on the host of one that clusters have.

    Returns: whether there was something.
    Raises: NotInstalled.
    """
    wanted, options = _wanted(job, at)
    if not wanted:
        return False
    # The image's Python is the one that runs the tests.
    command = [find_uv_bin(), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(directory)]
    done = subprocess.run(
        [*command, *options, *wanted], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise NotInstalled(done.stderr.strip())
    return True


def _wanted(job, at):
    """Requirements, and options of the installer."""
    wanted, options = [], []
    for library in job.task.submission.get("libraries") or ():
        kind, value = next(iter(library.items()))
        if kind == "pypi":
            wanted.append(value["package"])
            options += ["--extra-index-url", value["repo"]] if value.get("repo") else []
        elif kind in ("whl", "requirements"):
            wanted += ["--requirement"] * (kind == "requirements") + [str(at(value))]
        else:
            raise NotInstalled(f"this stand-in installs no libraries of the kind {kind}")
    key = job.task.submission.get("environment_key")
    for environment in job.run.body.get("environments") or ():
        if environment["environment_key"] == key:
            for line in (environment.get("spec") or {}).get("dependencies") or ():
                words = line.split() if line.startswith("-") else [line]
                wanted += [str(at(word)) if word.startswith(("/Workspace/", "/Volumes/")) else word for word in words]
    return wanted, options
