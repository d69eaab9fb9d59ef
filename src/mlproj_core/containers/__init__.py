"""What a project needs to run in a container, whoever runs it."""

from mlproj_core.containers.container import CODE, Container, wanted_container

__all__ = ["CODE", "Container", "wanted_container"]
