"""Containers of pods that really run, on a Docker engine.

All of a pod's containers share the host's network, since the engine of the tests has no other. Volumes are directories
on the host.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import threading
from datetime import datetime, timezone
from pathlib import Path

import docker
from kubernetes_configuration import ConfigProblem, MountProblem, content, environment, expand, volume_files
from kubernetes_logs import nanoseconds
from kubernetes_runtime import Ended, ImageProblem, StartProblem, check_name, full_image_name
from kubernetes_schema import SECRETS, quantity

MESSAGE = 4096
"""Bytes of a termination message."""
FALLBACK_BYTES, FALLBACK_LINES = 2048, 80
"""Of the log, where it stands in for the termination message."""


class DockerRuntime:
    """Runs containers on an engine.

    Args:
        engine: an `Engine`.
        directory: for volumes and termination messages.
        token: the bearer token that pods find in their service account's directory.
    """

    def __init__(self, engine, directory, token="token"):
        self.engine, self.directory = engine, Path(directory)
        self.token, self.authority, self.server = token, b"", None
        self.store = None
        with self.engine.client() as client:
            self._version = client.api_version

    def client(self):
        """A client of one thread's own, to be closed."""
        return docker.APIClient(base_url=self.engine.host, version=self._version, timeout=600)

    # -- the interface

    def ensure_image(self, pod, container):
        """Returns: whether it had to be pulled. Raises: ImageProblem."""
        image, policy = container["image"], container["imagePullPolicy"]
        check_name(image)
        with self.client() as client:
            return self._pull_if_needed(client, pod, image, policy)

    def _pull_if_needed(self, client, pod, image, policy):
        there = self._is_there(client, image)
        if there and policy != "Always":
            return False
        if policy == "Never":
            message = f'Container image "{image}" is not present with pull policy of Never'
            raise ImageProblem("ErrImageNeverPull", message)
        try:
            for line in client.pull(image, stream=True, decode=True, auth_config=self._login(pod, image)):
                if "error" in line:
                    raise ImageProblem("ErrImagePull", _pull_problem(image, line["error"]))
        except docker.errors.APIError as error:
            raise ImageProblem("ErrImagePull", _pull_problem(image, error.explanation)) from None
        return True

    def _is_there(self, client, image):
        with contextlib.suppress(docker.errors.ImageNotFound):
            client.inspect_image(image)
            return True
        return False

    def _login(self, pod, image):
        """Of the pod's imagePullSecrets."""
        registry = full_image_name(image).partition("/")[0]
        for reference in pod["spec"].get("imagePullSecrets", ()):
            secret = self.store.find(SECRETS, pod["metadata"]["namespace"], reference["name"])
            if secret:
                logins = json.loads(content(secret)[".dockerconfigjson"])["auths"]
                for host, login in logins.items():
                    if re.sub(r"^https?://|/v\d/?$|/$", "", host) == registry:
                        name, _, password = base64.b64decode(login.get("auth", "")).decode().partition(":")
                        return {"username": login.get("username", name), "password": login.get("password", password)}
        return None

    def create(self, pod, container, log):
        """Raises: ConfigProblem, MountProblem."""
        with self.client() as client:
            image = client.inspect_image(container["image"])
            identity, message = self._create(client, pod, container, image)
        return _DockerContainer(self, identity, container, image["Id"], log, message)

    def _create(self, client, pod, container, image):
        variables = environment(self.store, pod, container, self._own_variables(pod))
        context = {**pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}
        _check_user(pod, container, context, image)
        message = self._pod_directory(pod) / f"message-{container['name']}"
        message.write_bytes(b"")
        message.chmod(0o666)
        binds = [f"{message}:{container['terminationMessagePath']}", *self._binds(pod, container)]
        limits = container["resources"].get("limits", {})
        options = {"binds": binds, "network_mode": "host", "cap_add": context.get("capabilities", {}).get("add")}
        options["cap_drop"] = context.get("capabilities", {}).get("drop")
        options["read_only"] = context.get("readOnlyRootFilesystem", False)
        options["privileged"] = context.get("privileged", False)
        groups = [*context.get("supplementalGroups", ()), context.get("fsGroup")]
        options["group_add"] = [str(group) for group in groups if group is not None]
        if context.get("allowPrivilegeEscalation") is False:
            options["security_opt"] = ["no-new-privileges"]
        if "memory" in limits:
            options["mem_limit"] = options["memswap_limit"] = int(quantity(limits["memory"]))
        if "cpu" in limits:
            options["cpu_period"], options["cpu_quota"] = 100_000, max(1000, int(quantity(limits["cpu"]) * 100_000))
        made = client.create_container(
            container["image"],
            entrypoint=[expand(word, variables) for word in container.get("command", ())] or None,
            command=[expand(word, variables) for word in container.get("args", ())] or None,
            environment=variables,
            working_dir=container.get("workingDir"),
            user=_user(context),
            labels={"io.kubernetes.pod.uid": pod["metadata"]["uid"], "io.kubernetes.pod.name": pod["metadata"]["name"]},
            host_config=client.create_host_config(**options),
        )
        return made["Id"], message

    def remove_pod(self, pod):
        """Take its containers and its volumes away."""
        label = f"io.kubernetes.pod.uid={pod['metadata']['uid']}"
        with self.client() as client:
            for container in client.containers(all=True, filters={"label": label}):
                with contextlib.suppress(docker.errors.APIError):
                    client.remove_container(container["Id"], force=True, v=True)
        shutil.rmtree(self._pod_directory(pod), ignore_errors=True)

    def stop(self):
        """End every container of a pod."""
        with self.client() as client:
            for container in client.containers(filters={"label": "io.kubernetes.pod.uid"}):
                with contextlib.suppress(docker.errors.APIError):
                    client.kill(container["Id"])

    # -- files

    def _own_variables(self, pod):
        own = {"HOSTNAME": pod["metadata"]["name"]}
        if self.server:
            host, port = self.server.server_address
            own |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
        return own

    def _pod_directory(self, pod):
        directory = self.directory / "pods" / pod["metadata"]["uid"]
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def claim_directory(self, name):
        """Where the files of a persistentVolumeClaim are."""
        directory = self.directory / "claims" / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _binds(self, pod, container):
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        binds = []
        for mount in container.get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            source, read_only = self._volume(pod, volume)
            if mount.get("subPath"):
                source = source / mount["subPath"]
                if not source.exists():
                    source.mkdir(parents=True)
                source = source.resolve()
            mode = "ro" if mount.get("readOnly") or read_only else "rw"
            binds.append(f"{source}:{mount['mountPath']}:{mode}")
        return binds

    def _volume(self, pod, volume):
        """A volume's directory, made if it is not there yet, and whether it can only be read."""
        group = pod["spec"].get("securityContext", {}).get("fsGroup")
        if "hostPath" in volume:
            return _host_path(volume["hostPath"]), False
        if "persistentVolumeClaim" in volume:
            directory = self.claim_directory(volume["persistentVolumeClaim"]["claimName"])
            _give(directory, group)
            return directory, volume["persistentVolumeClaim"].get("readOnly", False)
        directory = self._pod_directory(pod) / "volumes" / volume["name"]
        own = {"token": self.token.encode(), "ca.crt": self.authority}
        files = volume_files(self.store, pod, volume, own)
        if directory.exists():
            return directory, files is not None
        directory.mkdir(parents=True)
        if files is None:
            directory.chmod(0o777)
            _give(directory, group)
            return directory, False
        _write_files(directory, files, group)
        return directory, True


def _write_files(directory, files, group):
    """As the kubelet writes them: names are links into a directory that it can exchange as a whole."""
    moment = datetime.now(timezone.utc)
    version = directory / f"..{moment:%Y_%m_%d_%H_%M_%S}.{moment.microsecond * 1000:09d}"
    version.mkdir()
    (directory / "..data").symlink_to(version.name)
    for name, (data, mode) in files.items():
        file = version / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(mode | (0o040 if group is not None else 0))
        if group is not None:
            os.chown(file, 0, group)
        first = name.partition("/")[0]
        if not (directory / first).is_symlink():
            (directory / first).symlink_to(f"..data/{first}")


def _give(directory, group):
    """As the kubelet gives a volume to an fsGroup."""
    if group is not None:
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, -1, group, follow_symlinks=False)
        directory.chmod(0o2775)


def _host_path(given):
    path = Path(given["path"])
    kind = given.get("type", "")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif (kind == "Directory" and not path.is_dir()) or (kind == "File" and not path.is_file()):
        raise MountProblem(f"hostPath type check failed: {path} is not a {kind.lower()}")
    elif not path.exists():
        path.mkdir(parents=True)
    return path


def _user(context):
    if context.get("runAsUser") is None:
        return None
    return f"{context['runAsUser']}:{context.get('runAsGroup', 0)}"


def _check_user(pod, container, context, image):
    if not context.get("runAsNonRoot"):
        return
    name = pod["metadata"]["name"]
    where = f'(pod: "{name}_{pod["metadata"]["namespace"]}({pod["metadata"]["uid"]})", container: {container["name"]})'
    user = context.get("runAsUser")
    if user == 0:
        raise ConfigProblem(f"container's runAsUser breaks non-root policy {where}")
    of_image = (image["Config"].get("User") or "").partition(":")[0]
    if user is None and of_image in ("", "0", "root"):
        raise ConfigProblem(f"container has runAsNonRoot and image will run as root {where}")
    if user is None and not of_image.isdigit():
        why = f"image has non-numeric user ({of_image}), cannot verify user is non-root"
        raise ConfigProblem(f"container has runAsNonRoot and {why} {where}")


def _pull_problem(image, why):
    full = full_image_name(image)
    return f'failed to pull and unpack image "{full}": failed to resolve reference "{full}": {why}'


class _DockerContainer:
    """One container on the engine."""

    def __init__(self, runtime, identity, container, image_id, log, message):
        self._runtime, self.id, self._container = runtime, identity, container
        self.image, self.image_id = full_image_name(container["image"]), image_id
        self.log, self._message = log, message
        self._reader = None

    def start(self):
        """Raises: StartProblem."""
        try:
            with self._runtime.client() as client:
                client.start(self.id)
        except docker.errors.APIError as error:
            why = error.explanation.rpartition("OCI runtime create failed: ")[2]
            raise StartProblem(
                f"failed to create containerd task: failed to create shim task: OCI runtime create failed: {why}"
            ) from None
        self._reader = threading.Thread(target=self._read, name=f"log-{self._container['name']}")
        self._reader.start()

    def _read(self):
        """Keep what it writes, with the engine's times."""
        with self._runtime.client() as client:
            for piece in client.logs(self.id, stream=True, follow=True, timestamps=True):
                when, _, text = piece.partition(b" ")
                self.log.write(text, nanoseconds(when.decode()))

    def wait(self):
        """Wait for its end."""
        with self._runtime.client() as client:
            client.wait(self.id, timeout=None)
            state = client.inspect_container(self.id)["State"]
        self._reader.join()
        code, oom = state["ExitCode"], state["OOMKilled"]
        message = self._message.read_bytes()[:MESSAGE]
        fallback = self._container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        if not message and fallback and code != 0:
            lines = self.log.content().splitlines(keepends=True)[-FALLBACK_LINES:]
            message = b"".join(lines)[-FALLBACK_BYTES:]
        return Ended(code, _seconds(state["StartedAt"]), _seconds(state["FinishedAt"]), oom and code != 0,
                     message.decode(errors="replace"))  # fmt: skip

    def stop(self, grace):
        with self._runtime.client() as client, contextlib.suppress(docker.errors.APIError):
            if grace:
                client.stop(self.id, timeout=grace)
            else:
                client.kill(self.id)


def _seconds(text):
    moment = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return moment.timestamp()
