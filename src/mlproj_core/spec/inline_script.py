"""A script that says what it needs in a comment of its own (PEP 723).

The format: https://packaging.python.org/en/latest/specifications/inline-script-metadata/. MLflow does not look at it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlproj_core.spec.document import UnreadableDocument, kind
from mlproj_core.spec.problem import Problem, shown
from mlproj_core.spec.toml import line_of, parse_toml

__all__ = ["InlineScriptSpec", "read_inline_script", "script_block"]

_OPENING = re.compile(r"^# /// script$", re.MULTILINE)
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
"""As in the specification."""


@dataclass(frozen=True)
class InlineScriptSpec:
    """The environment that a script asks for in its inline metadata.

    Attributes:
        path: the script.
        script: its path relative to the project's directory, which is also its name as an entry point.
        python: `requires-python`; None for the current Python.
        dependencies: requirement lines.
        tool_uv: the keys of its table `tool.uv`.
        locked: whether there is a lock file beside it (`uv lock --script`).
    """

    path: Path
    script: str
    python: str | None = None
    dependencies: tuple[str, ...] = ()
    tool_uv: tuple[str, ...] = ()
    locked: bool = False

    @property
    def for_uv_only(self) -> bool:
        """Whether no other installer can do what it asks for."""
        return self.locked or bool(self.tool_uv)


def script_block(text: str, file: str) -> tuple[str, int]:
    """The TOML of a script's inline metadata, and the number of lines above it; ("", 0) if it has none.

    Raises:
        UnreadableDocument: there are several blocks, or one has no end.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    openings = [text.count("\n", 0, match.start()) + 1 for match in _OPENING.finditer(text)]
    blocks = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if len(blocks) > 1:
        line = text.count("\n", 0, blocks[1].start()) + 1
        remedy = "keep one block `# /// script`"
        raise UnreadableDocument(Problem("there is a second block of inline metadata", remedy, file, line))
    if not blocks:
        if openings:
            remedy = "each line of it begins with '#' and a space, and the last one is '# ///'"
            message = "the block of inline metadata that begins here has no end"
            raise UnreadableDocument(Problem(message, remedy, file, openings[0]))
        return "", 0
    lines = blocks[0]["content"].splitlines()
    return "\n".join(line[2:] for line in lines) + "\n", text.count("\n", 0, blocks[0].start()) + 1


def read_inline_script(path: Path, script: str, file: str) -> tuple[InlineScriptSpec | None, list[Problem]]:
    """Read a script's inline metadata.

    Args:
        path: the script.
        script: its path relative to the project's directory.
        file: how messages name it.

    Returns:
        What it asks for, None if it has no such metadata; and every problem in it, all of them errors.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        return None, [Problem(f"it cannot be read: {error.strerror}", "", file)]
    if b"# /// script" not in raw:
        return None, []
    try:
        text, above = script_block(raw.decode("utf-8-sig"), file)
        if not above:
            return None, []
        content = parse_toml(text, file, above, left=2)
    except UnicodeDecodeError:
        return None, [Problem("the file is not text in UTF-8, as inline metadata must be", "save it as UTF-8", file)]
    except UnreadableDocument as error:
        return None, [error.problem]
    problems = _checked(content, text, file, above)
    if problems:
        return None, problems
    tool = content.get("tool", {})
    uv = tool.get("uv", {}) if isinstance(tool, dict) else {}
    return (
        InlineScriptSpec(
            path=path,
            script=script,
            python=content.get("requires-python"),
            dependencies=tuple(content.get("dependencies", ())),
            tool_uv=tuple(uv) if isinstance(uv, dict) else (),
            locked=path.with_name(f"{path.name}.lock").is_file(),
        ),
        [],
    )


def _checked(content: dict[str, Any], text: str, file: str, above: int) -> list[Problem]:
    problems = []
    python = content.get("requires-python")
    if python is not None and not isinstance(python, str):
        message, remedy = f"requires-python must be text, found {kind(python)}", 'write requires-python = ">=3.10"'
        problems.append(Problem(message, remedy, file, line_of(text, "requires-python", above)))
    dependencies = content.get("dependencies", [])
    if not (isinstance(dependencies, list) and all(isinstance(one, str) for one in dependencies)):
        message = f"dependencies must be a list of text, found {shown(dependencies)}"
        remedy = 'write dependencies = ["numpy"]'
        problems.append(Problem(message, remedy, file, line_of(text, "dependencies", above)))
    return problems
