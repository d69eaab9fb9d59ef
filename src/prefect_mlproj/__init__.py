"""The Prefect adapter of mlproj."""
