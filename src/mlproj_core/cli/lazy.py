"""A group of commands that imports a command's module only when that command is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """Its own help needs none of its commands: it knows their summaries.

    Attributes:
        package: the package whose modules hold the commands.
        summaries: by a command's name: "module:attribute" below the package, and one line for the help.
    """

    def __init__(self, *args: Any, package: str, summaries: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        kwargs.setdefault("invoke_without_command", True)
        super().__init__(*args, **kwargs)
        self.package = package
        self.summaries = summaries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in the order in which they were given."""
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, its module imported now; None if there is none of that name."""
        if cmd_name not in self.summaries:
            return None
        from importlib import import_module

        module, _, attribute = self.summaries[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"{self.package}.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.summaries.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, with a did-you-mean."""
        name = args[0]
        if name not in self.summaries and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, self.summaries, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(self.summaries)}."
            ctx.fail(f"There is no command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for; without one, show the help."""
        result = super().invoke(ctx)
        if ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())
        return result
