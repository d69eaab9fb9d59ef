"""The world of a project that runs in containers of a real engine: its starts are counted through a mounted volume."""

import json
from contextlib import suppress

import docker
from docker_world import SHELL
from local_world import LocalWorld


class ContainerWorld(LocalWorld):
    """As a local world, with a docker_env.

    Args:
        directory: an empty one.
        engine: a real one.
    """

    def __init__(self, directory, engine):
        self.image, self.docker_env = SHELL, ""
        self.engine = engine
        super().__init__(directory)
        (directory / "seen").mkdir()

    @property
    def starts_file(self):
        return self.directory / "seen" / "starts"

    @starts_file.setter
    def starts_file(self, value):
        pass

    def project_runs(self, command, image=None, **docker_env):
        """What the project does from now on, after it has left a mark in the volume /seen."""
        (self.project / "main.sh").write_text(f"echo $$ >> /seen/starts\n{command}\n")
        self.project_is("bash main.sh", image, **docker_env)

    def project_is(self, command, image=None, *, environment=(), volumes=()):
        """A project whose entry point is this command."""
        lines = [
            "name: steps",
            "docker_env:",
            f"  image: {image or self.image}",
            "  volumes:",
            f"    - {self.directory}/seen:/seen",
            *(f"    - {volume}" for volume in volumes),
            f"  environment: {list(environment)}",
            "entry_points:",
            "  main:",
            f"    command: {json.dumps(command)}",
        ]
        (self.project / "MLproject").write_text("\n".join(lines) + "\n")

    def containers(self, running=False):
        """What the engine has of the runs of this world."""
        found = self.engine.containers()
        return [each for each in found if not running or each["State"] == "running"]

    def inspect(self, handle):
        with self.engine.client() as client:
            return client.inspect_container(handle.name)

    def survivors(self):
        return [*super().survivors(), *(each["Names"][0] for each in self.containers(running=True))]

    def forget(self, handle):
        super().forget(handle)
        with self.engine.client() as client, suppress(docker.errors.NotFound):
            client.remove_container(handle.name, force=True, v=True)
