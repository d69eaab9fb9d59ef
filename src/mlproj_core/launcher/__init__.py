"""What runs a project where nothing of mlproj is installed: one file, read as text and sent there."""
