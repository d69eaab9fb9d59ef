"""What runs the containers of a pod: the interface of a kubelet to it, and one that follows a script.

A runtime has `ensure_image`, `create`, `remove_pod` and `stop`; what it creates has `id`, `image`, `image_id`, `log`,
`start`, `wait` and `stop`. Only a container that was started is waited for and stopped.
"""

import fnmatch
import re
import threading
import time
import uuid
from dataclasses import dataclass, field

from kubernetes_configuration import environment

REFERENCE = re.compile(
    r"(?:[a-zA-Z0-9][-a-zA-Z0-9.]*(?::[0-9]+)?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


class ImageProblem(Exception):
    """An image that cannot be had; `reason` is ErrImagePull, InvalidImageName or ErrImageNeverPull."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


class StartProblem(Exception):
    """A container that was made and could not be started."""


@dataclass
class Ended:
    """How a container ended. Times are seconds of the epoch."""

    exit_code: int
    started: float
    finished: float
    oom: bool = False
    message: str = ""


def check_name(image):
    """Raises: ImageProblem: a name that is no reference of an image."""
    if not REFERENCE.fullmatch(image):
        name = image.rpartition(":")[0] or image
        why = f"invalid reference format: repository name (library/{name}) must be lowercase"
        message = f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": {why}'
        raise ImageProblem("InvalidImageName", message)


def full_image_name(image):
    """With the registry and the tag that it goes without."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not re.search(r"[.:]|^localhost$", first):
        image = f"docker.io/{image}"
    return image if re.search(r"@|:[\w.-]+$", image) else f"{image}:latest"


@dataclass
class Script:
    """The life of a container that does not really run.

    Args:
        output: (seconds after the line before, text) each.
        exit_code: None lives until it is stopped, or ended by `ScriptedRuntime.end`.
        after: seconds from the last output to the end.
        oom: whether the kernel killed it for its memory.
        message: what it left in its termination message.
        on_term: its exit code when it is asked to end; None ignores that.
        image_problem: a sentence with which the pull fails.
        start_problem: a sentence with which the start fails.
    """

    output: list = field(default_factory=list)
    exit_code: int | None = 0
    after: float = 0.0
    oom: bool = False
    message: str = ""
    on_term: int | None = 143
    image_problem: str | None = None
    start_problem: str | None = None


class ScriptedRuntime:
    """Containers that follow scripts."""

    def __init__(self):
        self._scripts = []
        self.containers = {}
        """(job's or pod's name, container's name) to the newest container there, with its `environment`."""
        self.store = None

    def script(self, script, job="*", container="*"):
        """Which script a container follows, by patterns of its Job's (or pod's) name and its own; the last one wins."""
        self._scripts.append((job, container, script))

    def end(self, job, exit_code=0, container="main"):
        """End a container that lives."""
        self.containers[job, container].finish(exit_code)

    def say(self, job, text, container="main"):
        """Let a container that lives write something."""
        self.containers[job, container].log.write(text.encode())

    def _script(self, pod, container):
        for job, name, script in reversed(self._scripts):
            if fnmatch.fnmatch(_job(pod), job) and fnmatch.fnmatch(container["name"], name):
                return script
        return Script()

    # -- the interface

    def ensure_image(self, pod, container):
        """Returns: whether it had to be pulled. Raises: ImageProblem."""
        check_name(container["image"])
        if problem := self._script(pod, container).image_problem:
            raise ImageProblem("ErrImagePull", problem)
        return False

    def create(self, pod, container, log):
        """Raises: ConfigProblem, MountProblem."""
        made = _ScriptedContainer(self._script(pod, container), log, container["image"])
        made.environment = environment(self.store, pod, container)
        self.containers[_job(pod), container["name"]] = made
        return made

    def remove_pod(self, pod):
        """Nothing is left of it."""

    def stop(self):
        for container in self.containers.values():
            container.finish(137)


def _job(pod):
    return pod["metadata"].get("labels", {}).get("job-name", pod["metadata"]["name"])


class _ScriptedContainer:
    def __init__(self, script, log, image):
        self._script, self.log = script, log
        self.id = uuid.uuid4().hex * 2
        self.image, self.image_id = full_image_name(image), "sha256:" + "b3" * 32
        self._code = None
        self._changed = threading.Condition()

    def start(self):
        """Raises: StartProblem."""
        if self._script.start_problem:
            raise StartProblem(self._script.start_problem)
        self._started = time.time()

    def wait(self):
        """Follow the script to its end."""
        script = self._script
        for seconds, text in script.output:
            if self._is_finished(seconds):
                break
            self.log.write(text.encode())
        if script.exit_code is None:
            self._is_finished(None)
        else:
            self._is_finished(script.after)
        with self._changed:
            killed, code = self._code is not None, self._code
        if not killed:
            code = 137 if script.oom else script.exit_code
        return Ended(code, self._started, time.time(), script.oom and not killed, script.message)

    def _is_finished(self, seconds):
        with self._changed:
            return self._changed.wait_for(lambda: self._code is not None, seconds)

    def finish(self, code):
        with self._changed:
            if self._code is None:
                self._code = code
            self._changed.notify_all()

    def stop(self, grace):
        if self._script.on_term is not None and grace > 0:
            self.finish(self._script.on_term)
        elif not self._is_finished(grace):
            self.finish(137)
