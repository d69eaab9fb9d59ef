"""The commands `mlproj databricks …`: what runs leave in a workspace."""

from __future__ import annotations

import click

from mlproj_core.cli.lazy import LazyGroup
from mlproj_core.cli.options import duration

__all__ = ["clean", "databricks"]


@click.group(
    cls=LazyGroup,
    package="mlproj_core.cli",
    summaries={"clean": ("databricks:clean", "Remove the code that runs no longer use.")},
)
def databricks() -> None:
    """Look after a Databricks workspace."""


@click.command("clean")
@click.option("--older-than", type=duration, default="30d", show_default=True, metavar="TIME",
              help="What no run has used for so long: 7d, 2w; three days at least.")  # fmt: skip
@click.option("--root", "roots", multiple=True, metavar="DIRECTORY",
              help="Where the code is, as 'root' of backend_config; may be repeated.  [default: your own]")  # fmt: skip
@click.option("--profile", help="A profile of ~/.databrickscfg.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as JSON.")
def clean(older_than: float, roots: tuple[str, ...], profile: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove the code, and the files beside it, that runs on Databricks no longer use."""
    from mlproj_core.backends.databricks.code import clean, default_roots
    from mlproj_core.backends.databricks.config import DatabricksConfig
    from mlproj_core.backends.databricks.connect import Workspaces
    from mlproj_core.cli.printing import print_json, size, table

    config = DatabricksConfig.read({"profile": profile, "root": list(roots) or None})
    workspace = Workspaces().configured(config.profile)
    removed = list(clean(workspace, config.root or default_roots(workspace), older_than, dry_run=dry_run))
    if as_json:
        print_json({"dry_run": dry_run, "removed": [{"path": one.path, "bytes": one.size} for one in removed]})
    else:
        table(["WOULD GO" if dry_run else "REMOVED", "SIZE"], [[one.path, size(one.size or 0)] for one in removed])
