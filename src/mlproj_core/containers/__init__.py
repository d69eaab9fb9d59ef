"""What a project needs to run in a container, whoever runs it."""
