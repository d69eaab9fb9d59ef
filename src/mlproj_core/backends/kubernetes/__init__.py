"""The Kubernetes backend: every attempt is a Job."""
