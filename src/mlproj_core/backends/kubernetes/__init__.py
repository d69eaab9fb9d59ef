"""The Kubernetes backend: every attempt is a Job."""

from mlproj_core.backends.kubernetes.backend import KubernetesBackend

__all__ = ["KubernetesBackend"]
