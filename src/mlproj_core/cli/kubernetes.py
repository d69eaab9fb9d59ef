"""The commands `mlproj kubernetes …`: what a cluster must be told before projects run there."""

from __future__ import annotations

import click

from mlproj_core.cli.lazy import LazyGroup

__all__ = ["kubernetes", "role"]


@click.group(
    cls=LazyGroup,
    package="mlproj_core.cli",
    summaries={"role": ("kubernetes:role", "Print the permissions that runs on Kubernetes need.")},
)
def kubernetes() -> None:
    """Prepare a Kubernetes cluster."""


@click.command("role")
@click.option("-n", "--namespace", default="default", show_default=True, help="Where the runs are to be.")
@click.option(
    "--service-account",
    default="mlproj-submitter",
    show_default=True,
    metavar="[NAMESPACE:]NAME",
    help="Who submits and watches them; of the same namespace if none is named.",
)
def role(namespace: str, service_account: str) -> None:
    """Print the permissions that runs on Kubernetes need, as YAML for `kubectl apply -f -`."""
    from mlproj_core.backends.kubernetes.role import role

    click.echo(role(namespace, service_account), nl=False)
