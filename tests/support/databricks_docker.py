"""Clusters that really run what is submitted: each task in a clean container with a bare Python, on a Docker engine.

The workspace's files lie at /Volumes, /Workspace and /dbfs there, as on a cluster. The container shares the host's
network, since the engine of the tests has no other.
"""

import contextlib
import json
import shutil
import subprocess
import threading
from pathlib import Path

import docker
from databricks_libraries import NotInstalled, install
from databricks_refusals import Refusal
from databricks_run import CANCELLED, SUCCESS, Ending, workload_failed
from databricks_scripted import invalid_cluster
from docker_world import PYTHON

DRIVER = Path(__file__).with_name("databricks_driver")
LABEL = "mlproj-test/databricks-run"
HOME = "/databricks/driver"
"""Where a driver works."""


class DockerRuntime:
    """Runs tasks on an engine.

    Args:
        engine: an `Engine` with the image.
        directory: of the host, for what drivers tell.
        image: has a `python3`.
        binds: what else of the host the containers have, as `PATH:PATH`.

    Attributes:
        has_dbfs: whether clusters have DBFS at /dbfs; serverless compute never has.
    """

    workspace = None

    def __init__(self, engine, directory, image=PYTHON, binds=()):
        self.engine, self.directory, self.image, self.binds = engine, Path(directory), image, list(binds)
        self.has_dbfs = True
        with engine.client() as client:
            self._version = client.api_version

    def run(self, job):
        """Returns: the task's `Ending`."""
        directory = self.directory / str(job.task.run_id)
        directory.mkdir(parents=True)
        token = self.workspace.access.new_token(job.run.user, "dkea")
        try:
            self._prepare(job, directory, token)
            arguments = [self._file(job, directory), *(job.python.get("parameters") or ())]
            with self._client() as client:
                return self._work(client, job, directory, arguments)
        except Refusal as refusal:
            return invalid_cluster(refusal.message)
        except NotInstalled as error:
            said = f"Library installation failed: {error}"
            return Ending("FAILED", "LIBRARY_INSTALLATION_ERROR", "CLIENT_ERROR", said, "INTERNAL_ERROR")
        except _NoCheckout as error:
            said = f"Failed to checkout Git repository: {error}"
            return Ending("FAILED", "REPOSITORY_CHECKOUT_FAILED", "CLIENT_ERROR", said, "INTERNAL_ERROR")
        finally:
            del self.workspace.access.tokens[token]

    def _prepare(self, job, directory, token):
        """What the driver has beside the workspace's files."""
        standard = ("USER_ISOLATION", "DATA_SECURITY_MODE_STANDARD")
        shared = (job.task.submission.get("new_cluster") or {}).get("data_security_mode") in standard
        context = {"host": self.workspace.host, "token": token, "shared": shared}
        (directory / "context.json").write_text(json.dumps(context))
        (directory / "end.json").touch()
        (directory / "libraries").mkdir()
        install(job, directory / "libraries", self._on_host)

    def stop(self):
        """Remove what is left."""
        with self._client() as client:
            for container in client.containers(all=True, filters={"label": LABEL}):
                with contextlib.suppress(docker.errors.APIError):
                    client.remove_container(container["Id"], force=True, v=True)

    def running(self):
        """The ids of the task runs whose containers run."""
        with self._client() as client:
            return [int(each["Labels"][LABEL]) for each in client.containers(filters={"label": LABEL})]

    # -- inside

    @contextlib.contextmanager
    def _client(self):
        client = docker.APIClient(base_url=self.engine.host, version=self._version, timeout=600)
        try:
            yield client
        finally:
            client.close()

    def _on_host(self, path):
        """Where a file of the workspace lies."""
        path = path.removeprefix("dbfs:").removeprefix("file:")
        for root, part in (("/Volumes/", self.workspace.volumes), ("/Workspace/", self.workspace.objects)):
            if path.startswith(root):
                return part.directory / path.removeprefix(root)
        return self.workspace.dbfs.directory / path.removeprefix("/dbfs").strip("/")

    def _file(self, job, directory):
        """Where the driver finds the task's file."""
        file = job.python["python_file"]
        if job.python.get("source") == "GIT" or (job.python.get("source") is None and job.run.body.get("git_source")):
            return f"{self._check_out(job)}/{file}"
        if file.startswith("dbfs:"):
            path = file.removeprefix("dbfs:")
            if path.startswith("/Volumes/"):
                return path
            if not self.has_dbfs and self._on_host(file).is_file():  # which a driver reads by a client of its own
                shutil.copyfile(self._on_host(file), directory / "main.py")
                return "/databricks/main.py"
            return f"/dbfs{path}"
        file = file.removeprefix("file:")
        return file if file.startswith(("/Workspace/", "/Volumes/", "/dbfs/")) else f"/Workspace{file}"

    def _check_out(self, job):
        """The repository at what was asked for. Returns: where the driver finds it."""
        source = job.run.body["git_source"]
        what = source.get("git_commit") or source.get("git_tag") or source["git_branch"]
        place = f"Repos/.internal/{job.task.run_id:x}_commits/{what.replace('/', '_')}"
        target = self.workspace.objects.directory / place
        target.parent.mkdir(parents=True)
        for command in (
            ["git", "clone", "--quiet", "--no-checkout", source["git_url"], str(target)],
            ["git", "-C", str(target), "-c", "advice.detachedHead=false", "checkout", "--quiet", what, "--"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                raise _NoCheckout(done.stderr.strip())
        shutil.rmtree(target / ".git")
        return f"/Workspace/{place}"

    def _variables(self, job):
        """Raises: Refusal, if one names a secret that is not there."""
        serverless = bool(job.task.submission.get("environment_key"))
        own = {
            "DATABRICKS_RUNTIME_VERSION": "client.4.9" if serverless else "16.4",
            "PYTHONPATH": "/databricks/libraries:/databricks/spark/python",  # what a task starts inherits it
            "PYTHONUNBUFFERED": "1",
            "HOME": "/root",
            "SPARK_HOME": "/databricks/spark",
            **({"IS_SERVERLESS": "TRUE"} if serverless else {"DB_CLUSTER_ID": job.task.cluster_id}),
        }
        return {**own, **{name: self.workspace.secrets.resolve(text) for name, text in job.variables.items()}}

    def _work(self, client, job, directory, arguments):
        workspace = self.workspace
        binds = [
            f"{workspace.volumes.directory}:/Volumes", f"{workspace.objects.directory}:/Workspace",
            f"{DRIVER}:/databricks/python-stand-in:ro", f"{directory}/libraries:/databricks/libraries:ro",
            f"{directory}/context.json:/databricks/context.json:ro", f"{directory}/end.json:/databricks/end.json",
            *self.binds,
            *([f"{directory}/main.py:/databricks/main.py:ro"] if (directory / "main.py").exists() else []),
        ]  # fmt: skip
        if self.has_dbfs and not job.task.submission.get("environment_key"):
            binds.append(f"{workspace.dbfs.directory}:/dbfs")
        container = client.create_container(
            self.image,
            command=["python3", "-B", "/databricks/python-stand-in/driver.py", *arguments],
            environment=self._variables(job),
            working_dir=HOME,
            labels={LABEL: str(job.task.run_id)},
            host_config=client.create_host_config(binds=binds, network_mode="host", init=False),
        )["Id"]
        try:
            client.start(container)
            reader = threading.Thread(target=self._read, args=(container, job), name=f"driver-{job.task.run_id}")
            reader.start()
            stopper = threading.Thread(target=self._stop_when_asked, args=(container, job), name=f"stop-{container}")
            ended = job.ended = threading.Event()
            stopper.start()
            try:
                code = client.wait(container, timeout=None)["StatusCode"]
            finally:
                ended.set()
                stopper.join()
                reader.join()
        finally:
            client.remove_container(container, force=True, v=True)
        return CANCELLED if job.stopping.is_set() else _ending(job, code, (directory / "end.json").read_text())

    def _read(self, container, job):
        """Keep what it prints."""
        with self._client() as client:
            for piece in client.logs(container, stream=True, follow=True):
                job.write(piece)

    def _stop_when_asked(self, container, job):
        """A cluster that is ended leaves nobody the time to say anything."""
        while not job.ended.is_set():
            if job.stopping.wait(0.05):
                with self._client() as client, contextlib.suppress(docker.errors.APIError):
                    client.kill(container)
                return


class _NoCheckout(Exception):
    """A repository could not be checked out."""


def _ending(job, code, told):
    """How a task ended, by what its driver told; one that told nothing was killed."""
    if not told:
        said = f"The spark driver has stopped unexpectedly and is restarting (exit status {code})."
        return Ending("FAILED", "DRIVER_ERROR", "INTERNAL_ERROR", said, "INTERNAL_ERROR")
    told = json.loads(told)
    if "unreadable" in told:
        said = f"Cannot read the python file {job.python['python_file']}. Please check driver logs for more details."
        return Ending("FAILED", "RESOURCE_NOT_FOUND", "CLIENT_ERROR", said, "INTERNAL_ERROR")
    return SUCCESS if not told else workload_failed(told["error"], told["trace"])
