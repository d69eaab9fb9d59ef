"""The caller's side of a container: where its paths start, and the variables that they may name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Host"]

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@dataclass(frozen=True)
class Host:
    """Where the paths in a project's and a caller's arguments lie.

    Attributes:
        directory: where relative paths start. MLflow runs `docker` in the project's directory, so it is that one.
        environ: the caller's environment.
    """

    directory: Path
    environ: Mapping[str, str] = field(repr=False)

    def file(self, text: str) -> Path:
        """A file of this host."""
        return Path(self.directory, self.path(text))

    def path(self, text: str) -> str:
        """A path as the shell reads it through which MLflow starts `docker`: `~`, `$NAME`, `${NAME}` and `$(pwd)`.

        What starts with a dot is made absolute; what else is relative stays so, since it may name a volume.

        Raises:
            ValueError: it names a variable that is not set, or needs more of a shell than that.
        """
        text = text.replace("$(pwd)", "$PWD").replace("`pwd`", "$PWD")
        if text == "~" or text.startswith("~/"):
            text = f"$HOME{text[1:]}"
        if "$" in _VARIABLE.sub("", text) or "`" in text:
            raise ValueError("is text for a shell, and none reads it: write the path itself, or $NAME for a variable")
        variables = {**self.environ, "PWD": str(self.directory)}
        for match in _VARIABLE.finditer(text):
            if (name := match[1] or match[2]) not in variables:
                raise ValueError(f"names the variable {name}, which is not set")
        text = _VARIABLE.sub(lambda match: variables[match[1] or match[2]], text)
        return os.path.normpath(self.directory / text) if text.startswith(".") else text
